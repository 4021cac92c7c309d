"""Explicit generative models for Pyro, with the inference they need and numbers that can be trusted."""

__version__ = "0.1.0"
