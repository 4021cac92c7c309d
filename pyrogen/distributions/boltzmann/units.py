"""What a unit of a Boltzmann machine may be: its base measure, cumulant, mean and draws, given its input.

    p(x | a) = exp( base(x) + x a - cumulant(a) ),    cumulant(a) = log sum_x exp( base(x) + x a )

is one exponential family for all of them, and a the bias plus what the other side sends. So a machine over any two
layers has the energy -base(v) - base(h) - v b - h c - v W h, and every formula is written once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn
from torch.distributions import constraints

from pyrogen.errors import SettingsError, ShapeError, SupportError


class Units(nn.Module, ABC):
    """A layer of n independent units, given their inputs.

    Shape: x and the inputs are (..., width); `base` and `cumulant` sum over the units, to (...).

    Args:
        n: how many units.

    Raises:
        SettingsError: fewer than one.
    """

    support: str
    """What an entry may be; one of the words that `pyrogen.ops.checks.check_rows` knows."""
    bounded = True
    """Whether every machine with these units is normalised, whatever is on the other side."""

    def __init__(self, n: int) -> None:
        super().__init__()
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise SettingsError(got=f"{type(self).__name__}({n!r})", need="at least one unit", fix="n=16")
        self.n = n

    @property
    def width(self) -> int:
        """Entries of x: n, or n times the states of a unit that is written one-hot."""
        return self.n

    @property
    def count(self) -> float:
        """How many joint states there are; inf for continuous units, and beyond 1e308."""
        return math.inf

    @property
    def constraint(self) -> constraints.Constraint:
        """Of one entry, as torch says it."""
        return constraints.real

    def wrong(self, x: Tensor) -> Tensor:
        """Where x, (..., width), is not what these units can be, bool (..., width)."""
        return ~x.isfinite()

    def parts(self, x: Tensor) -> list[tuple[Units, Tensor]]:
        """The layers that this one is made of, each with its entries of x."""
        return [(self, x)]

    def base(self, x: Tensor) -> Tensor:
        """log of the base measure, (...); 0 for units that take each of their states alike."""
        return x.new_zeros(x.shape[:-1])

    @abstractmethod
    def cumulant(self, a: Tensor) -> Tensor:
        """log sum_x exp(base(x) + x a), summed over the units, (...)."""

    @abstractmethod
    def mean(self, a: Tensor) -> Tensor:
        """E[x | a], the gradient of the cumulant, (..., width)."""

    @abstractmethod
    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        """x given its inputs, (..., width)."""

    @abstractmethod
    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        """The input at which the mean is that of `rows` rows, pulled to the middle by half a row, (width,)."""

    def states(self, start: int, stop: int, like: Tensor) -> Tensor:
        """The joint states number start to stop - 1, (stop - start, width), with the dtype and device of `like`.

        Raises:
            SettingsError: the units are continuous.
        """
        return self.states_at(torch.arange(start, stop, device=like.device), like)

    def states_at(self, numbers: Tensor, like: Tensor) -> Tensor:
        """The joint states of these numbers, (m,) to (m, width)."""
        raise SettingsError(
            got=f"the states of {type(self).__name__} units", need="units that can be counted", fix="Bernoulli units"
        )

    def extra_repr(self) -> str:
        return str(self.n)


class Possible(constraints.Constraint):
    """Of rows whose entries are not all of one kind, or not free of each other: what the units can be."""

    def __init__(self, units: Units) -> None:
        super().__init__()
        self.units, self.is_discrete = units, math.isfinite(units.count) or units.bounded

    def check(self, value: Tensor) -> Tensor:
        return ~self.units.wrong(value)


def check_values(units: Units, x: Tensor, name: str = "x", *, at_once: int = 10_000) -> None:
    """Refuse rows, (N, width), that the units cannot be; `at_once` of them are looked at, without a copy of all.

    Raises:
        ShapeError: not rows, or entries of another number.
        SupportError: a value that no unit there can have.
    """
    if x.dim() != 2 or x.shape[1] != units.width:
        raise ShapeError(got=f"{name} of shape {tuple(x.shape)}", need=f"(N, {units.width})", fix="x.flatten(1)")
    for rows in x.split(at_once):
        for layer, part in units.parts(rows):
            bad = layer.wrong(part)
            if bad.any():
                raise SupportError(
                    got=f"{part[bad][0].item():.6g} in {name} ({int(bad.sum())} such entries), which {layer} cannot be",
                    need=f"{layer.support} values",
                    fix="rows of the data that the machine is a model of",
                )


def digits_of(numbers: Tensor, n: int, radix: int) -> Tensor:
    """Numbers in a positional system, the first digit the highest, (m,) to (m, n)."""
    powers = torch.tensor([radix**k for k in reversed(range(n))], device=numbers.device)
    return numbers[:, None] // powers % radix


def power_of(radix: int, n: int) -> float:
    """radix^n, or inf where a float has no room for it."""
    return float(radix) ** n if n * math.log2(radix) < 1023 else math.inf
