"""One-to-one maps of the circle whose parameters come from a network: for couplings and autoregressive layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.distributions.transforms.families import Family
from pyrogen.errors import SettingsError
from pyrogen.ops.angles import wrap
from pyrogen.ops.spline import MIN_BIN, rational_quadratic


class CircularSpline(Family):
    """A rational-quadratic spline of the angle from -pi to pi with one slope at both ends, then a turn.

        y = wrap(spline(x) + m)

    So it is a map of the circle, once continuously differentiable also at the cut. Angles outside [-pi, pi) are
    taken for the directions that they are.

    Source: Rezende et al. 2020, arXiv:2002.02428, section 2.1.2.

    Args:
        bins: K; 3K + 1 parameters per angle.
    """

    def __init__(self, bins: int = 8) -> None:
        if not 2 <= bins < 1 / MIN_BIN:
            raise SettingsError(got=f"bins={bins}", need=f"2 to {1 / MIN_BIN:.0f} bins", fix="bins=8")
        self.bins, self.size = bins, 3 * bins + 1

    def owners(self, n: int) -> Tensor:
        entries = torch.arange(n)
        return torch.cat([entries.repeat_interleave(k) for k in (2 * self.bins, self.bins, 1)])

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        bins, slopes, turn = self._parts(raw)
        y, log_slope = rational_quadratic(wrap(x), bins, slopes, math.pi, circular=True)
        return wrap(y + turn), log_slope

    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        bins, slopes, turn = self._parts(raw)
        x, log_slope = rational_quadratic(wrap(y - turn), bins, slopes, math.pi, inverse=True, circular=True)
        return wrap(x), log_slope

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        n = raw.shape[-1] // self.size
        bins, slopes, turn = raw.split([2 * n * self.bins, n * self.bins, n], -1)
        return bins.unflatten(-1, (n, 2, self.bins)), slopes.unflatten(-1, (n, self.bins)), turn


class CircularMobius(Family):
    """The mean of K Mobius maps of the circle, each moving mass away from its own direction, then a turn.

        y     = wrap(x + 1/K sum_k 2 atan(r_k sin(x - a_k) / (1 - r_k cos(x - a_k))) + m)
        dy/dx = 1/K sum_k (1 - r_k^2) / (1 - 2 r_k cos(x - a_k) + r_k^2),       w_k = r_k (cos a_k, sin a_k)

    Each term is the angle of h_w(e^ix) of `Mobius`, the branch of it that moves no angle by pi or more, so the mean is
    one-to-one too. The network gives unbounded v_k and w_k = 0.99 v_k / (1 + |v_k|): |w_k| < 1 always. The inverse
    is found by bisection, with the derivatives of the implicit function.

    Source: Rezende et al. 2020, arXiv:2002.02428, section 2.1.1, without its shift to h_w(0) = 0.

    Args:
        centres: K; 2K + 1 parameters per angle.
    """

    def __init__(self, centres: int = 3) -> None:
        if centres < 1:
            raise SettingsError(got=f"centres={centres}", need="1 or more", fix="centres=3")
        self.centres, self.size = centres, 2 * centres + 1

    def owners(self, n: int) -> Tensor:
        entries = torch.arange(n)
        return torch.cat([entries.repeat_interleave(k) for k in (2 * self.centres, 1)])

    def forward(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        w, turn = self._parts(raw)
        x = wrap(x)
        move, slope = _mean_move(x, w)
        return wrap(x + move + turn), slope.log()

    def inverse(self, y: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        w, turn = self._parts(raw)
        y = wrap(y - turn)
        with torch.no_grad():
            start = y.expand(torch.broadcast_shapes(y.shape, w.shape[:-2]))
            low, high = start - math.pi, start + math.pi
            # each step gains a bit, and x has fewer bits than the significand
            for _ in range(54 if y.dtype == torch.float64 else 26):
                middle = (low + high) / 2
                above = middle + _mean_move(middle, w)[0] > y
                low, high = torch.where(above, low, middle), torch.where(above, middle, high)
            near = (low + high) / 2
        move, slope = _mean_move(near, w)
        # Newton's last step, whose derivative is that of the inverse
        x = near - (near + move - y) / slope.detach()
        return wrap(x), -_mean_move(x, w)[1].log()

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """w, (..., n, K, 2), and the turn, (..., n)."""
        n = raw.shape[-1] // self.size
        v, turn = raw.split([2 * n * self.centres, n], -1)
        v = v.unflatten(-1, (n, self.centres, 2))
        # the root of a square that is never 0 has a derivative everywhere
        length = (v.square().sum(-1, keepdim=True) + 1e-12).sqrt()
        return 0.99 * v / (1 + length), turn


def _mean_move(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """How far the mean map turns x, and its slope there; x is (...), w is (..., K, 2)."""
    x = x.unsqueeze(-1)
    cos, sin = x.cos(), x.sin()
    along = w[..., 0] * cos + w[..., 1] * sin
    across = w[..., 0] * sin - w[..., 1] * cos
    square = w.square().sum(-1)
    move = 2 * torch.atan2(across, 1 - along)
    return move.mean(-1), ((1 - square) / (1 - 2 * along + square)).mean(-1)
