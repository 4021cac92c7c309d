"""What a unit of a Boltzmann machine may be: its base measure, cumulant, mean and draws, given its input.

    p(x | a) = exp( base(x) + x a - cumulant(a) ),    cumulant(a) = log sum_x exp( base(x) + x a )

is one exponential family for all of them, and a the bias plus what the other side sends. So a machine over any two
layers has the energy -base(v) - base(h) - v b - h c - v W h, and every formula is written once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.distributions import constraints
from torch.nn.functional import one_hot, softplus

from pyrogen.distributions.boltzmann.truncated import (
    half_normal_cumulant,
    half_normal_mean,
    half_normal_sample,
)
from pyrogen.errors import DtypeError, SettingsError, ShapeError, SupportError


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


class Bernoulli(Units):
    """x in {0, 1}: cumulant softplus(a), mean sigmoid(a)."""

    support = "binary"

    @property
    def count(self) -> float:
        return _power(2, self.n)

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.boolean

    def cumulant(self, a: Tensor) -> Tensor:
        # torch's threshold of 20 is off by 2e-9 there, which float64 sees
        return softplus(a, threshold=40).sum(-1)

    def mean(self, a: Tensor) -> Tensor:
        return a.sigmoid()

    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        return _coins(a.sigmoid(), generator)

    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        return ((rows * mean + 0.5) / (rows + 1)).logit()

    def states_at(self, numbers: Tensor, like: Tensor) -> Tensor:
        return _digits(numbers, self.n, 2).to(like.dtype)


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

    @property
    def count(self) -> float:
        return _power(2, self.n)

    def cumulant(self, a: Tensor) -> Tensor:
        return (softplus(2 * a, threshold=40) - a).sum(-1)

    def mean(self, a: Tensor) -> Tensor:
        return a.tanh()

    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        return _coins((2 * a).sigmoid(), generator).mul_(2).sub_(1)

    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        return torch.atanh(rows * mean / (rows + 1))

    def states_at(self, numbers: Tensor, like: Tensor) -> Tensor:
        return 2 * _digits(numbers, self.n, 2).to(like.dtype) - 1


class Categorical(Units):
    """One of `states` values, written one-hot: cumulant logsumexp(a), mean softmax(a) over a unit's own entries.

    Shape: x and the inputs are (..., n * states), a unit's entries side by side.
    """

    def __init__(self, n: int, states: int) -> None:
        super().__init__(n)
        if not isinstance(states, int) or isinstance(states, bool) or states < 2:
            raise SettingsError(got=f"states = {states!r}", need="at least 2", fix="states=3")
        self.n_states, self.support = states, f"one-hot-{states}"

    @property
    def width(self) -> int:
        return self.n * self.n_states

    @property
    def count(self) -> float:
        return _power(self.n_states, self.n)

    @property
    def constraint(self) -> constraints.Constraint:
        return constraints.boolean

    def cumulant(self, a: Tensor) -> Tensor:
        return self._apart(a).logsumexp(-1).sum(-1)

    def mean(self, a: Tensor) -> Tensor:
        return self._apart(a).softmax(-1).flatten(-2)

    def sample(self, a: Tensor, generator: Generator | None = None) -> Tensor:
        noise = torch.empty_like(a).exponential_(generator=generator).log()
        chosen = self._apart(a - noise).argmax(-1)  # the Gumbel-max trick
        return one_hot(chosen, self.n_states).to(a.dtype).flatten(-2)

    def bias_of(self, mean: Tensor, rows: int) -> Tensor:
        rates = self._apart((rows * mean + 0.5) / (rows + 0.5 * self.n_states)).log()
        return (rates - rates.mean(-1, keepdim=True)).flatten(-2)

    def states_at(self, numbers: Tensor, like: Tensor) -> Tensor:
        return one_hot(_digits(numbers, self.n, self.n_states), self.n_states).to(like.dtype).flatten(-2)

    def encode(self, codes: Tensor) -> Tensor:
        """Whole numbers 0 to states - 1, (..., n), written one-hot, (..., width), in torch's default dtype.

        Raises:
            DtypeError: the codes are not whole numbers.
            ShapeError: there are not n of them in the last dimension.
            SupportError: a code is out of range.
        """
        if codes.is_floating_point() or codes.is_complex():
            raise DtypeError(got=f"codes of {codes.dtype}", need="whole numbers", fix="codes.long()")
        if codes.dim() == 0 or codes.shape[-1] != self.n:
            raise ShapeError(
                got=f"codes of shape {tuple(codes.shape)}", need=f"(..., {self.n})", fix="a layer of as many"
            )
        bad = (codes < 0) | (codes >= self.n_states)
        if bool(bad.any()):
            row, column = divmod(int(bad.flatten().byte().argmax()), self.n)
            raise SupportError(
                got=f"code {int(codes[bad][0])} at row {row}, column {column} ({int(bad.sum())} such)",
                need=f"codes in 0..{self.n_states - 1}",
                fix=f"Categorical({self.n}, {int(codes.max()) + 1}), or codes that start at 0",
            )
        return one_hot(codes.long(), self.n_states).to(torch.get_default_dtype()).flatten(-2)

    def decode(self, x: Tensor) -> Tensor:
        """The codes of one-hot rows, (..., width) to (..., n)."""
        return self._apart(x).argmax(-1)

    def _apart(self, a: Tensor) -> Tensor:
        return a.unflatten(-1, (self.n, self.n_states))

    def extra_repr(self) -> str:
        return f"{self.n}, {self.n_states}"


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


def _coins(p: Tensor, generator: Generator | None) -> Tensor:
    """1 with probability p, else 0, entry by entry.

    On a CPU torch.bernoulli is three to nine times slower, and draws are half of a Gibbs sweep. Uniforms are multiples
    of 2^-24 in float32 there, so the probability is p rounded up to one.
    """
    if p.device.type != "cpu":
        return torch.bernoulli(p, generator=generator)
    return torch.rand(p.shape, dtype=p.dtype, generator=generator).lt_(p)


def _digits(numbers: Tensor, n: int, radix: int) -> Tensor:
    """Numbers in a positional system, the first digit the highest, (m,) to (m, n)."""
    powers = torch.tensor([radix**k for k in reversed(range(n))], device=numbers.device)
    return numbers[:, None] // powers % radix


def _power(radix: int, n: int) -> float:
    """radix^n, or inf where a float has no room for it."""
    return float(radix) ** n if n * math.log2(radix) < 1023 else math.inf


def _total(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum(0)
