"""Units of real values: Gaussian with a learned scale, and ReLU, a normal cut off at 0."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn
from torch.distributions import constraints

from pyrogen.distributions.boltzmann.truncated import (
    half_normal_cumulant,
    half_normal_mean,
    half_normal_sample,
)
from pyrogen.distributions.boltzmann.units import Units


class Gaussian(Units):
    """x real with base measure exp(-x^2 / 2 s^2): x | a ~ Normal(s^2 a, s^2), and log s is learned.

    cumulant  s^2 a^2 / 2 + log s + log(2 pi) / 2
    """

    support = "real"
    bounded = False

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.log_scale = nn.Parameter(torch.zeros(n))

    def base(self, x: Tensor) -> Tensor:
        return -0.5 * (x / self.log_scale.exp()).square().sum(-1)

    def cumulant(self, a: Tensor) -> Tensor:
        per_unit = 0.5 * (a * self.log_scale.exp()).square() + self.log_scale + 0.5 * math.log(2 * math.pi)
        return per_unit.sum(-1)

    def mean(self, a: Tensor) -> Tensor:
        return (2 * self.log_scale).exp() * a

    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        noise = torch.randn(a.shape, dtype=a.dtype, device=a.device, generator=generator)
        return self.mean(a) + self.log_scale.exp() * noise

    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        return mean * (-2 * self.log_scale.detach()).exp()


class ReLU(Units):
    """x >= 0 with base measure exp(-x^2 / 2): Normal(a, 1) cut off at 0.

    cumulant  a^2 / 2 + log(2 pi) / 2 + log Phi(a)
    """

    support = "nonnegative"
    bounded = False

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.nonnegative

    def wrong(self, x: Tensor) -> Tensor:
        return super().wrong(x) | (x < 0)

    def base(self, x: Tensor) -> Tensor:
        return -0.5 * x.square().sum(-1)

    def cumulant(self, a: Tensor) -> Tensor:
        return half_normal_cumulant(a).sum(-1)

    def mean(self, a: Tensor) -> Tensor:
        return half_normal_mean(a)

    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        return half_normal_sample(a, generator)

    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        low, high = torch.full_like(mean, -1e3), mean.clone()
        for _ in range(60):  # the mean grows with the input, and is above it
            middle = (low + high) / 2
            above = half_normal_mean(middle) > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2
