"""Guides made from a model."""

from pyrogen.inference.guides.flow import FlowGuide

__all__ = ["FlowGuide"]
