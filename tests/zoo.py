"""The smallest instance of every model: one line here, and the contract tests run on it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Exact, Gaussian, Persistent, Spin
from pyrogen.models import (
    DBM,
    DBN,
    PPCA,
    RBM,
    VAE,
    BernoulliPixels,
    CategoricalPixels,
    ClassRBM,
    DiscretizedLogisticPixels,
    GaussianPixels,
    Model,
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
    "rbm": lambda: RBM(Bernoulli(4), Bernoulli(3), particles=Persistent(1, 20), scale=0.3),
    "rbm-spin-gaussian": lambda: RBM(Spin(4), Gaussian(2), particles=Exact(), scale=0.3),
    "rbm-gaussian": lambda: RBM(Gaussian(4), Bernoulli(3), particles=Persistent(1, 20), scale=0.3),
    "class-rbm": lambda: ClassRBM(Bernoulli(3), 2, Bernoulli(3), particles=Persistent(1, 20), scale=0.3),
    "rbm-one-hot": lambda: RBM(Categorical(2, 3), Spin(2), particles=Persistent(1, 20), scale=0.3),
    "dbm": lambda: DBM([Bernoulli(4), Bernoulli(3), Bernoulli(2)], particles=Persistent(1, 20), scale=0.3),
    "dbm-mixed": lambda: DBM([Gaussian(4), Spin(2), Categorical(1, 3), Bernoulli(2)], particles=Exact(), scale=0.3),
    "dbn": lambda: DBN([Bernoulli(4), Bernoulli(3), Bernoulli(2)], particles=Persistent(1, 20), scale=0.3),
}


def small(name: str) -> Model:
    """A fresh instance with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return ZOO[name]()


def all_of(kind: type) -> list[str]:
    """The names of the models that keep a contract."""
    return [name for name in ZOO if isinstance(small(name), kind)]
