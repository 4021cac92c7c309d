"""Undirected models: an energy, and the particles that its gradient needs."""

from pyrogen.models.energy.class_rbm import ClassRBM
from pyrogen.models.energy.rbm import RBM

__all__ = ["RBM", "ClassRBM"]
