"""The Sylvester flow."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.distributions.transforms.householder import reflect
from pyrogen.errors import SettingsError
from pyrogen.ops.tanh_root import tanh_root

MARGIN = 1e-3


class Sylvester(Layer):
    """A planar flow with M planes at once.

        y = x + Q R tanh(S Q^T x + b),      log |det| = sum_i log(1 + r_ii s_ii (1 - tanh^2(S Q^T x + b)_i))

    Q is (D, M) with orthonormal columns, the first M columns of a product of reflections; R and S are (M, M) upper
    triangular, their diagonals in (-1, 1), so that r_ii s_ii > -1 and the map is one-to-one. R starts at zero: the
    identity.

    The inverse: z = Q^T x solves z + R tanh(S z + b) = Q^T y, from the last entry to the first, each entry the root of
    an increasing function. Then x = y - Q R tanh(S z + b).

    With a context, R, S, b and the reflections are what is stored plus its linear function.

    Source: van den Berg et al. 2018, arXiv:1803.05649, equations 5 to 13, the Householder variant.

    Args:
        width: D.
        planes: M, at most D.
        reflections: in Q.
        context: C.

    Raises:
        SettingsError: not 1 <= M <= D, or no reflections.
    """

    above: Tensor

    def __init__(self, width: int, planes: int | None = None, reflections: int = 4, context: int = 0) -> None:
        super().__init__(width, context)
        planes = min(width, 8) if planes is None else planes
        if not 1 <= planes <= width or reflections < 1:
            raise SettingsError(
                got=f"planes={planes} and reflections={reflections} for width {width}",
                need=f"1 to {width} planes and at least one reflection",
                fix=f"planes={min(width, 8)}",
            )
        self.planes, self.reflections = planes, reflections
        sizes = [planes * planes, planes * planes, planes, reflections * width]
        spread = 0.5 * torch.randn(sizes[1]) / planes**0.5
        self.raw = nn.Parameter(torch.cat([torch.zeros(sizes[0]), spread, torch.zeros(planes), torch.randn(sizes[3])]))
        self.sizes = sizes
        self.amortizer = nn.Linear(context, sum(sizes), bias=False) if context else None
        if self.amortizer is not None:
            nn.init.zeros_(self.amortizer.weight)
        self.register_buffer("above", torch.triu(torch.ones(planes, planes), diagonal=1))

    def parameters_at(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """R and S, (..., M, M), b, (..., M), and Q^T, (..., M, D)."""
        raw = self.raw if self.amortizer is None else self.raw + self.amortizer(context)
        r, s, b, v = raw.split(self.sizes, -1)
        r, s = (self._triangular(part.unflatten(-1, (self.planes, self.planes))) for part in (r, s))
        v = v.unflatten(-1, (1, self.reflections, -1))
        unit = torch.eye(self.planes, v.shape[-1], dtype=raw.dtype, device=raw.device)
        return r, s, b, reflect(unit, v)

    def _triangular(self, raw: Tensor) -> Tensor:
        # the margin keeps 1 + r_ii s_ii above zero where tanh rounds to 1
        diagonal = torch.tanh(raw.diagonal(dim1=-2, dim2=-1)) * (1 - MARGIN)
        return raw * self.above + torch.diag_embed(diagonal)

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        r, s, b, q = self.parameters_at(context)
        t = torch.tanh(_times(s, _times(q, x)) + b)
        return x + _times(q.mT, _times(r, t)), _log_det(r, s, t)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        r, s, b, q = self.parameters_at(context)
        goal = _times(q, y)
        z: list[Tensor] = []  # entries i + 1 to M
        t: list[Tensor] = []
        for i in reversed(range(self.planes)):
            known_s, known_r = goal.new_zeros(()), goal.new_zeros(())
            for j, (z_j, t_j) in enumerate(zip(z, t, strict=True), start=i + 1):
                known_s, known_r = known_s + s[..., i, j] * z_j, known_r + r[..., i, j] * t_j
            # z_i + r_ii tanh(v) = g with v = s_ii z_i + a:   v + r_ii s_ii tanh(v) = s_ii g + a
            g, a = goal[..., i] - known_r, known_s + b[..., i]
            t_i = torch.tanh(tanh_root(r[..., i, i] * s[..., i, i], s[..., i, i] * g + a))
            z.insert(0, g - r[..., i, i] * t_i)
            t.insert(0, t_i)
        at = torch.stack(t, -1)
        return y - _times(q.mT, _times(r, at)), -_log_det(r, s, at)


def _times(a: Tensor, x: Tensor) -> Tensor:
    """a x for a matrix, (..., m, n), and vectors, (..., n)."""
    return x @ a.mT if a.dim() == 2 else (a @ x.unsqueeze(-1)).squeeze(-1)


def _log_det(r: Tensor, s: Tensor, t: Tensor) -> Tensor:
    c = (r.diagonal(dim1=-2, dim2=-1)) * (s.diagonal(dim1=-2, dim2=-1))
    return torch.log1p(c * (1 - t) * (1 + t)).sum(-1)
