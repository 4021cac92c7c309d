"""The smallest instance of every model: one line here, and the contract tests run on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pyrogen.distributions.transforms import IAF, ActNorm, AffineCoupling, Flow, SplineCoupling, Sylvester
from pyrogen.models import (
    MAF,
    NICE,
    NSF,
    PPCA,
    VAE,
    BernoulliPixels,
    CategoricalPixels,
    DequantizedFlow,
    DiscretizedLogisticPixels,
    FlowVAE,
    GaussianPixels,
    Model,
    PlanarVAE,
    RealNVP,
    StandardNormal,
    TwoLayerVAE,
    VampPrior,
)
from pyrogen.nn import MLP, ConvDecoder, ConvEncoder

SMALL = {"latent": 2, "hidden": [5]}

ZOO: dict[str, Callable[[], Model]] = {
    "vae": lambda: VAE(MLP(4, 5, 4), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2)),
    "vae-vamp": lambda: VAE(MLP(4, 5, 4), MLP(2, 5, 4), BernoulliPixels(4), VampPrior(2, torch.rand(3, 4))),
    "vae-gaussian": lambda: VAE(nn.Linear(4, 4), nn.Linear(2, 4), GaussianPixels(4), StandardNormal(2)),
    "vae-logistic": lambda: VAE(MLP(4, 5, 4), MLP(2, 5, 8), DiscretizedLogisticPixels(4), StandardNormal(2)),
    "vae-categorical": lambda: VAE(MLP(4, 5, 4), MLP(2, 5, 12), CategoricalPixels(4, bins=3), StandardNormal(2)),
    "vae-conv": lambda: VAE(
        ConvEncoder((1, 4, 4), 4, (2,), 5),
        ConvDecoder(2, (1, 4, 4), 1, (2,), 5),
        BernoulliPixels(16),
        StandardNormal(2),
    ),
    "vae-two-layer": lambda: TwoLayerVAE.build(
        4, (1, 2, 2), "binary", **SMALL, bridge=5, prior="vamp", pseudo_inputs=3
    ),
    "ppca": lambda: PPCA(4, 2),
    "vae-planar": lambda: PlanarVAE.build(4, (1, 2, 2), "binary", **SMALL, flows=2, context=3),
    "vae-iaf": lambda: FlowVAE(
        MLP(4, 5, 7), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2), IAF(2, (5,), context=3)
    ),
    "vae-sylvester": lambda: FlowVAE(
        MLP(4, 5, 7),
        MLP(2, 5, 4),
        BernoulliPixels(4),
        StandardNormal(2),
        Flow([Sylvester(2, context=3), SplineCoupling(2, (5,), context=3)]),
    ),
    "nice": lambda: NICE(4, layers=2, hidden=(5,)),
    "realnvp": lambda: RealNVP(4, layers=2, hidden=(5,)),
    "maf": lambda: MAF(4, layers=2, hidden=(5,)),
    "nsf": lambda: NSF(4, layers=2, hidden=(5,), bins=4),
    "dequantized-flow": lambda: DequantizedFlow(Flow([ActNorm(4), AffineCoupling(4, (5,))]), levels=3),
}


def small(name: str) -> Model:
    """A fresh instance with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ZOO[name]()


def all_of(kind: type) -> list[str]:
    """The names of the models that keep a contract."""
    return [name for name in ZOO if isinstance(small(name), kind)]
