"""Models with latent codes, each a Pyro model and its guide."""

from pyrogen.models.latent.flow_vae import FlowVAE, PlanarVAE
from pyrogen.models.latent.likelihoods import (
    BernoulliPixels,
    CategoricalPixels,
    DiscretizedLogisticPixels,
    GaussianPixels,
    Likelihood,
)
from pyrogen.models.latent.ppca import PPCA
from pyrogen.models.latent.priors import Prior, StandardNormal, VampPrior
from pyrogen.models.latent.two_layer import TwoLayerVAE
from pyrogen.models.latent.vae import VAE

__all__ = [
    "PPCA",
    "VAE",
    "BernoulliPixels",
    "CategoricalPixels",
    "DiscretizedLogisticPixels",
    "FlowVAE",
    "GaussianPixels",
    "Likelihood",
    "PlanarVAE",
    "Prior",
    "StandardNormal",
    "TwoLayerVAE",
    "VampPrior",
]
