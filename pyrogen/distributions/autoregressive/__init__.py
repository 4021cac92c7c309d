"""Tractable joints: p(x) = prod_d p(x_d | x_<d), with exact densities, exact draws and conditionals."""

from pyrogen.distributions.autoregressive.ancestral import Walk, ancestral
from pyrogen.distributions.autoregressive.anyorder import AnyOrder
from pyrogen.distributions.autoregressive.conditionals import (
    BinaryConditional,
    Conditional,
    LevelConditional,
    NormalConditional,
)
from pyrogen.distributions.autoregressive.given import Given, draw_given
from pyrogen.distributions.autoregressive.joint import Autoregressive
from pyrogen.distributions.autoregressive.mixture import LogisticMixtureConditional
from pyrogen.distributions.autoregressive.sites import sites

__all__ = [
    "AnyOrder",
    "Autoregressive",
    "BinaryConditional",
    "Conditional",
    "Given",
    "LevelConditional",
    "LogisticMixtureConditional",
    "NormalConditional",
    "Walk",
    "ancestral",
    "draw_given",
    "sites",
]
