"""Boltzmann machines over two layers: units of five kinds, energies, exact log Z."""

from pyrogen.distributions.boltzmann.annealing import (
    annealed,
    annealed_back,
    base_log_z,
    raised,
)
from pyrogen.distributions.boltzmann.bits import Bernoulli, Spin
from pyrogen.distributions.boltzmann.categorical import Categorical
from pyrogen.distributions.boltzmann.continuous import Gaussian, ReLU
from pyrogen.distributions.boltzmann.distribution import Layer, RBMDistribution
from pyrogen.distributions.boltzmann.exact import can_enumerate, log_partition
from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.distributions.boltzmann.particles import (
    Contrastive,
    Exact,
    FastPersistent,
    Moving,
    Negative,
    Particles,
    Persistent,
    Tempered,
    moments,
)
from pyrogen.distributions.boltzmann.schedules import check_ladder, linear, three_piece
from pyrogen.distributions.boltzmann.sequential import adaptive, sequential
from pyrogen.distributions.boltzmann.stack import Stack, stacked
from pyrogen.distributions.boltzmann.starts import exact_draws, long_draws, tempered_draws
from pyrogen.distributions.boltzmann.trajectory import annealed_along, annealed_back_along
from pyrogen.distributions.boltzmann.units import Units, check_values

__all__ = [
    "Bernoulli",
    "Categorical",
    "Contrastive",
    "Exact",
    "FastPersistent",
    "Gaussian",
    "Layer",
    "Machine",
    "Moving",
    "Negative",
    "Particles",
    "Persistent",
    "RBMDistribution",
    "ReLU",
    "Spin",
    "Stack",
    "Tempered",
    "Units",
    "adaptive",
    "annealed",
    "annealed_along",
    "annealed_back",
    "annealed_back_along",
    "base_log_z",
    "can_enumerate",
    "check_ladder",
    "check_values",
    "exact_draws",
    "linear",
    "log_partition",
    "long_draws",
    "moments",
    "raised",
    "sequential",
    "stacked",
    "tempered_draws",
    "three_piece",
]
