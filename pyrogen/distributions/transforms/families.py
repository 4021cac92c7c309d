"""One-to-one maps of the line whose parameters come from a network: what couplings and autoregressive layers apply."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyrogen.errors import SettingsError
from pyrogen.ops.spline import MIN_BIN, rational_quadratic


class Family(ABC):
    """Increasing maps of single entries. All parameters zero make the identity.

    Shape: x is (..., n), raw (..., n * size), y and the log-derivatives (..., n).
    """

    size: int
    """Parameters per entry."""

    def owners(self, n: int) -> Tensor:
        """For each of the n * size parameters, the entry that it is for."""
        return torch.arange(n).repeat(self.size)

    @abstractmethod
    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]: ...


class Shift(Family):
    """y = x + m."""

    size = 1

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return x + raw, x.new_zeros(torch.broadcast_shapes(x.shape, raw.shape))

    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return y - raw, y.new_zeros(torch.broadcast_shapes(y.shape, raw.shape))


class ShiftScale(Family):
    """y = x e^s + m,  s = clip * tanh(r): the logarithm of the scale is soft-clipped, and has gradients everywhere.

    Args:
        clip: the largest |s|.
    """

    size = 2

    def __init__(self, clip: float = 3.0) -> None:
        if not clip > 0:
            raise SettingsError(got=f"clip={clip}", need="a positive number", fix="clip=3.0")
        self.clip = clip

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self._parts(raw)
        return torch.addcmul(m, x, s.exp()), s

    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        m, s = self._parts(raw)
        s = -s
        return (y - m) * s.exp(), s

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """m and s."""
        m, r = raw.chunk(2, -1)
        # short runs of entries are not vectorised, and tanh takes ten times as long there
        return m, self.clip * torch.tanh(r.contiguous())


class Spline(Family):
    """A rational-quadratic spline on [-bound, bound], the identity outside.

    Args:
        bins: K.
        bound: where the tails begin.
    """

    def __init__(self, bins: int = 8, bound: float = 5.0) -> None:
        if not (2 <= bins < 1 / MIN_BIN and bound > 0):
            raise SettingsError(
                got=f"bins={bins} and bound={bound}",
                need=f"2 to {1 / MIN_BIN:.0f} bins and a positive bound",
                fix="bins=8, bound=5.0",
            )
        self.bins, self.bound, self.size = bins, bound, 3 * bins - 1

    def owners(self, n: int) -> Tensor:
        entries = torch.arange(n)
        return torch.cat([entries.repeat_interleave(2 * self.bins), entries.repeat_interleave(self.bins - 1)])

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic(x, *self._parts(raw), self.bound)

    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        return rational_quadratic(y, *self._parts(raw), self.bound, inverse=True)

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        n = raw.shape[-1] // self.size
        bins, slopes = raw.split([2 * n * self.bins, n * (self.bins - 1)], -1)
        return bins.unflatten(-1, (n, 2, self.bins)), slopes.unflatten(-1, (n, self.bins - 1))
