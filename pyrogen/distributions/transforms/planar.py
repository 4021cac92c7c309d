"""The planar flow."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import SupportError
from pyrogen.ops.planar import MARGIN, SHIFT, TINY
from pyrogen.ops.tanh_root import tanh_root


class Planar(Layer):
    """Moves points along u by how far they are from the plane w.x + b = 0.

        y = x + u' tanh(w.x + b),       log |det| = log |1 + w.u' (1 - tanh(w.x + b)^2)|

    It is one-to-one where w.u' > -1. So u is moved along w until it is: u' = u + (m(w.u) - w.u) w / |w|^2 with a
    softplus m(a) > -1 + MARGIN and m(0) = 0, so that u = 0 is the identity, and w = 0 too.

    The inverse solves v + w.u' tanh(v) = w.y + b for v = w.x + b; then x = y - u' tanh(v).

    With a context the parameters are its linear function, which starts as a constant.

    Source: Rezende and Mohamed 2015, arXiv:1505.05770, equations 10 to 12 and appendix A.1.

    Args:
        width: D.
        context: C.
        scale: of the start of u, which makes the layer nearly the identity.
    """

    def __init__(self, width: int, context: int = 0, scale: float = 1e-2) -> None:
        super().__init__(width, context)
        start = torch.cat([scale * torch.randn(width), torch.randn(width) / math.sqrt(width), torch.zeros(1)])
        self.raw = nn.Parameter(start)
        self.amortizer = _zero_linear(context, 2 * width + 1) if context else None

    @classmethod
    def of(cls, u: Tensor, w: Tensor, b: Tensor | float = 0.0) -> Self:
        """The layer with u' = u, (D,), w, (D,), and b.

        Raises:
            SupportError: w.u <= -1 + MARGIN, where the map folds over or nearly so.
        """
        a = (u * w).sum()
        if not a > -1 + MARGIN:
            raise SupportError(
                got=f"w.u = {float(a):.6g}",
                need=f"more than -1, by a margin of {MARGIN}, for a one-to-one map",
                fix="u + (a - w.u) w / |w|^2, which makes it a",
            )
        layer = cls(u.shape[-1]).to(u)
        free = _m_inverse(a)
        with torch.no_grad():
            u = u + (free - a) * w / (w * w).sum().clamp(min=TINY)
            layer.raw.copy_(torch.cat([u, w, torch.as_tensor(b).to(u).reshape(1)]))
        return layer

    def parameters_at(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u', w, b and w.u', the last two with one entry on the right."""
        raw = self.raw if self.amortizer is None else self.raw + self.amortizer(context)
        u, w, b = raw.split([self.width, self.width, 1], -1)  # pyright: ignore[reportArgumentType]
        a = (u * w).sum(-1, keepdim=True)
        c = softplus(a + SHIFT) - (1 - MARGIN)
        return u + (c - a) * w / (w * w).sum(-1, keepdim=True).clamp(min=TINY), w, b, c

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        u, w, b, c = self.parameters_at(context)
        t = torch.tanh((x * w).sum(-1, keepdim=True) + b)
        return x + u * t, torch.log1p(c * (1 - t) * (1 + t)).squeeze(-1)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        u, w, b, c = self.parameters_at(context)
        t = torch.tanh(tanh_root(c, (y * w).sum(-1, keepdim=True) + b))
        return y - u * t, -torch.log1p(c * (1 - t) * (1 + t)).squeeze(-1)


def _m_inverse(c: Tensor) -> Tensor:
    """a with m(a) = c."""
    return torch.log(torch.expm1(c + (1 - MARGIN))) - SHIFT


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that adds nothing before it is trained."""
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer
