"""The radial flow."""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrogen.distributions.transforms.base import Layer
from pyrogen.distributions.transforms.planar import _zero_linear
from pyrogen.errors import SupportError

MARGIN = 1e-3


class Radial(Layer):
    """Moves points away from a centre or towards it.

        y = x + k (x - x0),   k = b / (a + r),   r = |x - x0|,   a > 0,   b > -a
        log |det| = (D - 1) log(1 + k) + log(1 + k - b r / (a + r)^2)

    The inverse is in closed form: |y - x0| = r + b r / (a + r) is quadratic in r.

    Parameters are free numbers with a = softplus, and b / a > -1 + MARGIN a softplus that is zero at zero: the start
    is nearly the identity. With a context they are its linear function.

    Source: Rezende and Mohamed 2015, arXiv:1505.05770, equations 14 and 15 and appendix A.2.

    Args:
        width: D.
        context: C.
        scale: of the start of b / a.
    """

    def __init__(self, width: int, context: int = 0, scale: float = 1e-2) -> None:
        super().__init__(width, context)
        self.raw = nn.Parameter(torch.cat([torch.randn(width), torch.full((1,), 0.5), scale * torch.randn(1)]))
        self.amortizer = _zero_linear(context, width + 2) if context else None

    @classmethod
    def of(cls, x0: Tensor, a: float, b: float) -> Self:
        """The layer with these numbers; x0 is (D,).

        Raises:
            SupportError: a <= 0, or b / a <= -1 + MARGIN, where the map stops being one-to-one.
        """
        if not (a > 0 and b / a > -1 + MARGIN):
            raise SupportError(got=f"a = {a:.6g} and b = {b:.6g}", need="a > 0 and b > -a", fix="b = 0, the identity")
        layer = cls(x0.shape[-1]).to(x0)
        raw_a = math.log(math.expm1(a)) if a < 30 else a
        raw_b = math.log(math.expm1(b / a + (1 - MARGIN))) if b / a < 30 else b / a + 1 - MARGIN
        with torch.no_grad():
            layer.raw.copy_(torch.cat([x0, x0.new_tensor([raw_a, raw_b - _SHIFT])]))
        return layer

    def parameters_at(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """x0, a and b; a and b with one entry on the right."""
        raw = self.raw if self.amortizer is None else self.raw + self.amortizer(context)
        x0, raw_a, raw_b = raw.split([self.width, 1, 1], -1)  # pyright: ignore[reportArgumentType]
        a = softplus(raw_a)
        return x0, a, a * (softplus(raw_b + _SHIFT) - (1 - MARGIN))

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        x0, a, b = self.parameters_at(context)
        d = x - x0
        r = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
        return x + b / (a + r) * d, self._log_det(r, a, b)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        x0, a, b = self.parameters_at(context)
        d = y - x0
        far = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
        # r^2 + (a + b - far) r - a far = 0; of the two forms of its positive root the one that does not cancel
        p = a + b - far
        s = torch.sqrt(p * p + 4 * a * far)
        r = torch.where(p > 0, 2 * a * far / (p.clamp(min=0) + s), 0.5 * (s - p))
        return x0 + d / (1 + b / (a + r)), -self._log_det(r, a, b)

    def _log_det(self, r: Tensor, a: Tensor, b: Tensor) -> Tensor:
        # 1 + k - b r / (a + r)^2 = 1 + a b / (a + r)^2
        across = torch.log1p(b / (a + r))
        along = torch.log1p(a * b / (a + r).square())
        return ((self.width - 1) * across + along).squeeze(-1)  # pyright: ignore[reportOptionalOperand]


_SHIFT = math.log(math.expm1(1 - MARGIN))
