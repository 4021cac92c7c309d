"""Units of two states: Bernoulli, 0 or 1, and spins, -1 or 1."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import constraints
from torch.nn.functional import softplus

from pyrogen.distributions.boltzmann.coins import coins
from pyrogen.distributions.boltzmann.units import Units, digits_of, power_of


class Bernoulli(Units):
    """x in {0, 1}: cumulant softplus(a), mean sigmoid(a)."""

    support = "binary"

    @property
    def count(self) -> float:
        return power_of(2, self.n)

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.boolean

    def wrong(self, x: Tensor) -> Tensor:
        return (x != 0) & (x != 1)

    def cumulant(self, a: Tensor) -> Tensor:
        # torch's threshold of 20 is off by 2e-9 there, which float64 sees
        return softplus(a, threshold=40).sum(-1)

    def mean(self, a: Tensor) -> Tensor:
        return a.sigmoid()

    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        return coins(a.sigmoid(), generator)

    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        return ((rows * mean + 0.5) / (rows + 1)).logit()

    def states_at(self, numbers: Tensor, like: Tensor) -> Tensor:
        return digits_of(numbers, self.n, 2).to(like.dtype)


class _Spins(constraints.Constraint):
    """-1 or 1."""

    is_discrete = True

    def check(self, value: Tensor) -> Tensor:
        return value.abs() == 1


class Spin(Units):
    """x in {-1, 1}: cumulant log 2 cosh(a), mean tanh(a)."""

    support = "spin"

    @property
    def constraint(self) -> constraints.Constraint:
        return _Spins()

    def wrong(self, x: Tensor) -> Tensor:
        return (x != -1) & (x != 1)

    @property
    def count(self) -> float:
        return power_of(2, self.n)

    def cumulant(self, a: Tensor) -> Tensor:
        return (softplus(2 * a, threshold=40) - a).sum(-1)

    def mean(self, a: Tensor) -> Tensor:
        return a.tanh()

    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        return coins((2 * a).sigmoid(), generator).mul_(2).sub_(1)

    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        return torch.atanh(rows * mean / (rows + 1))

    def states_at(self, numbers: Tensor, like: Tensor) -> Tensor:
        return 2 * digits_of(numbers, self.n, 2).to(like.dtype) - 1
