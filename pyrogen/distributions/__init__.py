"""Distributions that Pyro lacks or has with a flaw, and KL divergences in closed form.

Importing this package registers two pairs with `torch.distributions.kl_divergence`, see `kl`.
"""

from pyrogen.distributions.autoregressive import (
    Autoregressive,
    BinaryConditional,
    LevelConditional,
    LogisticMixtureConditional,
    NormalConditional,
    sample_given,
    sites,
)
from pyrogen.distributions.bernoulli_mixture import BernoulliMixture
from pyrogen.distributions.discretized import DiscretizedLogistic
from pyrogen.distributions.flow import FlowDistribution, NormalizingFlow
from pyrogen.distributions.kl import closed_form_kl, kl_per_dimension
from pyrogen.distributions.levels import LevelCategorical, Levels
from pyrogen.distributions.logistic import Logistic

__all__ = [
    "Autoregressive",
    "BernoulliMixture",
    "BinaryConditional",
    "DiscretizedLogistic",
    "FlowDistribution",
    "LevelCategorical",
    "LevelConditional",
    "Levels",
    "Logistic",
    "LogisticMixtureConditional",
    "NormalConditional",
    "NormalizingFlow",
    "closed_form_kl",
    "kl_per_dimension",
    "sample_given",
    "sites",
]
