"""Boltzmann machines over two layers: units of five kinds, energies, exact log Z."""

from pyrogen.distributions.boltzmann.exact import can_enumerate, log_partition, sample_exact
from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.distributions.boltzmann.units import (
    Bernoulli,
    Categorical,
    Gaussian,
    ReLU,
    Spin,
    Stack,
    Units,
    stacked,
)

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Machine",
    "ReLU",
    "Spin",
    "Stack",
    "Units",
    "can_enumerate",
    "log_partition",
    "sample_exact",
    "stacked",
]
