"""Units of several states, written one-hot."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.distributions import constraints
from torch.nn.functional import one_hot

from pyrogen.distributions.boltzmann.units import Possible, Units, digits_of, power_of
from pyrogen.errors import DtypeError, SettingsError, ShapeError, SupportError


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
        return power_of(self.n_states, self.n)

    @property
    def constraint(self) -> constraints.Constraint:
        return Possible(self)

    def wrong(self, x: Tensor) -> Tensor:
        each = self._apart(x)
        bad = ((each != 0) & (each != 1)).any(-1) | (each.sum(-1) != 1)
        return bad.unsqueeze(-1).expand(each.shape).flatten(-2)

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
        return one_hot(digits_of(numbers, self.n, self.n_states), self.n_states).to(like.dtype).flatten(-2)

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
