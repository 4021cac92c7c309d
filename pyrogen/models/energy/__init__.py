"""Undirected models: an energy, and the particles that its gradient needs."""

from pyrogen.models.energy.class_rbm import ClassRBM
from pyrogen.models.energy.dbm import DBM
from pyrogen.models.energy.dbn import DBN
from pyrogen.models.energy.doubled import Doubled
from pyrogen.models.energy.rbm import RBM

__all__ = ["DBM", "DBN", "RBM", "ClassRBM", "Doubled"]
