"""The smallest instance of every model: one line here, and the contract tests run on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pyrogen.distributions.transforms import CylinderSpline, Flow, Rotation
from pyrogen.models import (
    PPCA,
    VAE,
    BernoulliPixels,
    CategoricalPixels,
    DiscretizedLogisticPixels,
    GaussianPixels,
    Model,
    SphereFlow,
    StandardNormal,
    TorusFlow,
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
    "sphere-flow": lambda: SphereFlow(Flow([Rotation(3, 1.0), CylinderSpline(4, (5,)), Rotation(3, 1.0)])),
    "sphere-flow-exponential": lambda: SphereFlow.build(4, (1, 1, 4), "sphere", kind="exponential", layers=2, bumps=2),
    "torus-flow": lambda: TorusFlow.build(3, (1, 1, 3), "torus", layers=2, bins=4, hidden=[5]),
}


def small(name: str) -> Model:
    """A fresh instance with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ZOO[name]()


def all_of(kind: type) -> list[str]:
    """The names of the models that keep a contract."""
    return [name for name in ZOO if isinstance(small(name), kind)]
