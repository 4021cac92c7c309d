"""Layers side by side as one layer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.distributions import constraints

from pyrogen.distributions.boltzmann.bits import Bernoulli
from pyrogen.distributions.boltzmann.continuous import Gaussian
from pyrogen.distributions.boltzmann.units import Possible, Units


class Stack(Units):
    """Several layers as one: the entries side by side, each given its own input only."""

    def __init__(self, layers: Sequence[Units]) -> None:
        super().__init__(sum(layer.n for layer in layers))
        self.layers = nn.ModuleList(layers)
        supports = {layer.support for layer in layers}
        self.support = supports.pop() if len(supports) == 1 else "real"
        self.bounded = all(layer.bounded for layer in layers)

    @property
    def width(self) -> int:
        return sum(self._widths)

    @property
    def count(self) -> float:
        return math.prod(layer.count for layer in self._each)

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.real if all(isinstance(layer, Gaussian) for layer in self._each) else Possible(self)

    def wrong(self, x: Tensor) -> Tensor:
        return torch.cat([layer.wrong(part) for layer, part in self._split(x)], -1)

    def parts(self, x: Tensor) -> list[tuple[Units, Tensor]]:
        return [found for layer, part in self._split(x) for found in layer.parts(part)]

    def base(self, x: Tensor) -> Tensor:
        return _total([layer.base(part) for layer, part in self._split(x)])

    def cumulant(self, a: Tensor) -> Tensor:
        return _total([layer.cumulant(part) for layer, part in self._split(a)])

    def mean(self, a: Tensor) -> Tensor:
        return torch.cat([layer.mean(part) for layer, part in self._split(a)], -1)

    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        return torch.cat([layer.sample(part, generator) for layer, part in self._split(a)], -1)

    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        return torch.cat([layer.bias_of(part, rows) for layer, part in self._split(mean)], -1)

    def states_at(self, numbers: Tensor, like: Tensor) -> Tensor:
        parts = []
        for layer in reversed(self._each):
            parts.append(layer.states_at(numbers % int(layer.count), like))
            numbers = numbers // int(layer.count)
        return torch.cat(parts[::-1], -1)

    @property
    def _each(self) -> list[Units]:
        return list(self.layers)  # pyright: ignore[reportReturnType]

    @property
    def _widths(self) -> list[int]:
        return [layer.width for layer in self._each]

    def _split(self, x: Tensor) -> list[tuple[Units, Tensor]]:
        return list(zip(self._each, x.split(self._widths, -1), strict=True))


def stacked(layers: Sequence[Units]) -> Units:
    """Layers side by side as one; Bernoulli layers stay what they are, which is faster."""
    if len(layers) == 1:
        return layers[0]
    if all(type(layer) is Bernoulli for layer in layers):
        return Bernoulli(sum(layer.n for layer in layers))
    return Stack(layers)


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum(0)
