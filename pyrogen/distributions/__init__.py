"""Distributions that Pyro lacks or has with a flaw, and KL divergences in closed form.

Importing this package registers pairs with `torch.distributions.kl_divergence`, see `kl` and the directional
distributions, and the circle and the sphere with `biject_to`, see `constraints`.
"""

from pyrogen.distributions.autoregressive import (
    Autoregressive,
    BinaryConditional,
    LevelConditional,
    LogisticMixtureConditional,
    NormalConditional,
    draw_given,
    sites,
)
from pyrogen.distributions.bernoulli_mixture import BernoulliMixture
from pyrogen.distributions.constraints import StereographicTransform, circular, sphere, torus
from pyrogen.distributions.discretized import DiscretizedLogistic
from pyrogen.distributions.flow import FlowDistribution, NormalizingFlow
from pyrogen.distributions.kl import closed_form_kl, kl_per_dimension
from pyrogen.distributions.levels import LevelCategorical, Levels
from pyrogen.distributions.logistic import Logistic
from pyrogen.distributions.power_spherical import PowerSpherical
from pyrogen.distributions.sphere_kernels import SphereKernels
from pyrogen.distributions.sphere_uniform import SphereUniform
from pyrogen.distributions.von_mises import VonMises
from pyrogen.distributions.von_mises_fisher import VonMisesFisher

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
    "PowerSpherical",
    "SphereKernels",
    "SphereUniform",
    "StereographicTransform",
    "VonMises",
    "VonMisesFisher",
    "circular",
    "closed_form_kl",
    "draw_given",
    "kl_per_dimension",
    "sites",
    "sphere",
    "torus",
]
