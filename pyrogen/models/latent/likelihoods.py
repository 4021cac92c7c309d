"""How a decoder's outputs become a distribution of pixels: p(x | z) = prod_d p(x_d | f(z)_d)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrogen.distributions import DiscretizedLogistic, LevelCategorical


class Likelihood(nn.Module, ABC):
    """Maps the decoder's outputs to a distribution over rows.

    Shape: (..., width * features) to batch (...), event (width,).

    Args:
        width: D, the number of pixels.
    """

    support: str
    features: int = 1

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def extra_repr(self) -> str:
        return f"{self.width}, support={self.support!r}"

    @abstractmethod
    def forward(self, outputs: Tensor) -> dist.TorchDistribution: ...


class BernoulliPixels(Likelihood):
    """x_d ~ Bernoulli(sigmoid(f_d)), x_d in {0, 1}."""

    support = "binary"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=outputs).to_event(1)


class GaussianPixels(Likelihood):
    """x_d ~ Normal(f_d, s), with one scale s for all pixels, learned: s = softplus(r) + 1e-4."""

    support = "real"

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__(width)
        self.raw_scale = nn.Parameter(torch.tensor(math.log(math.expm1(scale))))

    @property
    def scale(self) -> Tensor:
        return softplus(self.raw_scale) + 1e-4

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return dist.Normal(outputs, self.scale).to_event(1)


class DiscretizedLogisticPixels(Likelihood):
    """x_d on the grid 0, 1/(bins-1), ..., 1 with the masses of a logistic around f_d.

    The decoder gives location (f_d, plus 1/2 so that zero is mid-grey) and log scale per pixel:
    s_d = softplus(r_d) / 4 + 1e-3.
    """

    features = 2

    def __init__(self, width: int, bins: int = 256) -> None:
        super().__init__(width)
        self.bins, self.support = bins, f"grey{bins}"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        loc, raw = outputs.unflatten(-1, (self.width, 2)).unbind(-1)
        return DiscretizedLogistic(loc + 0.5, softplus(raw) / 4 + 1e-3, bins=self.bins).to_event(1)


class CategoricalPixels(Likelihood):
    """x_d on the grid 0, 1/(bins-1), ..., 1 with free probabilities softmax(f_d)."""

    def __init__(self, width: int, bins: int = 256) -> None:
        super().__init__(width)
        self.bins = self.features = bins
        self.support = f"grey{bins}"

    def forward(self, outputs: Tensor) -> dist.TorchDistribution:
        return LevelCategorical(logits=outputs.unflatten(-1, (self.width, self.bins))).to_event(1)


LIKELIHOODS: dict[str, type[Likelihood]] = {
    "bernoulli": BernoulliPixels,
    "gaussian": GaussianPixels,
    "discretized-logistic": DiscretizedLogisticPixels,
    "categorical": CategoricalPixels,
}
