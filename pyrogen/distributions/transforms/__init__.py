"""Layers of flows: one-to-one maps with their inverses and log-determinants, in Pyro's `TransformModule` protocol."""

from pyrogen.distributions.transforms.base import Conditioned, Inverse, Layer
from pyrogen.distributions.transforms.compose import Flow

__all__ = ["Conditioned", "Flow", "Inverse", "Layer"]
