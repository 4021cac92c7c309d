"""The logistic distribution, with draws that are finite whatever the uniform source returns."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid


class Logistic(TorchDistribution):
    """A bell with exponential tails; its distribution function is the sigmoid.

        z = (x - loc) / scale
        log p(x) = log sigmoid(z) + log sigmoid(-z) - log scale
        cdf(x)   = sigmoid(z)
        icdf(u)  = loc + scale log(u / (1 - u))

    Draws are icdf(u) with u uniform, so they carry gradients to loc and scale. A uniform source is free
    to return exactly 0 (torch's does so in float32 once in 2^24 draws, and icdf(0) = -inf); here a 0
    becomes the middle of the cell that it stands for, and 1 the largest number below it. Draws are
    finite: within 17.4 scales of loc in float32, 37.5 in float64.

    Shape: loc and scale broadcast to the batch shape; events are scalars.
    Source: Johnson, Kotz and Balakrishnan 1995, Continuous Univariate Distributions 2, chapter 23.

    Args:
        loc: the mean, median and mode.
        scale: positive; the standard deviation is scale * pi / sqrt(3).
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, loc: Tensor | float, scale: Tensor | float, *, validate_args: bool | None = None) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Logistic:
        new: Any = self._get_checked_instance(Logistic, _instance)
        batch_shape = torch.Size(batch_shape)
        new.loc = self.loc.expand(batch_shape)
        new.scale = self.scale.expand(batch_shape)
        super(Logistic, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def mode(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (math.pi**2 / 3)

    def entropy(self) -> Tensor:
        """log scale + 2, in nats."""
        return self.scale.log() + 2

    def rsample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.loc + self.scale * standard_logistic(shape, self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        z = (value - self.loc) / self.scale
        return logsigmoid(z) + logsigmoid(-z) - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.sigmoid((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile of a probability; -inf at 0 and inf at 1, as the support demands."""
        return self.loc + self.scale * torch.logit(value)


def standard_logistic(shape: torch.Size, like: Tensor) -> Tensor:
    """Finite draws log(u / (1 - u)) of a standard logistic, with the dtype and device of `like`."""
    u = torch.rand(shape, dtype=like.dtype, device=like.device)
    # torch.rand returns multiples of eps / 2, so eps / 4 is the middle of the cell that 0 stands for
    # and 1 - eps / 2 is the largest number below 1.
    eps = torch.finfo(like.dtype).eps
    return torch.logit(u.clamp(eps / 4, 1 - eps / 2))
