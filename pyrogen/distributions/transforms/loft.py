"""The LOFT layer: logarithmic far tails."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import SettingsError


class LOFT(Layer):
    """The identity up to a threshold, and logarithmic beyond it, entry by entry.

        y = sign(x) (log(1 + max(|x| - tau, 0)) + min(|x|, tau)),     log dy/dx = -log(1 + max(|x| - tau, 0))

    As the last layer of a flow it keeps rare huge draws, which make the gradients of variational inference fail in
    many dimensions, at a size that the float can hold. Its inverse grows exponentially.

    Source: Andrade 2024, arXiv:2402.16408, section 4.

    Args:
        width: D, or None for any.
        threshold: tau, positive.

    Raises:
        SettingsError: a threshold that is not positive.
    """

    def __init__(self, width: int | None = None, threshold: float = 100.0) -> None:
        super().__init__(width)
        if not threshold > 0:
            raise SettingsError(got=f"threshold={threshold}", need="a positive number", fix="threshold=100.0")
        self.threshold = threshold

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        inside = x.clamp(-self.threshold, self.threshold)
        log_over = torch.log1p((x - inside).abs())
        return inside + x.sign() * log_over, -log_over.sum(-1)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        inside = y.clamp(-self.threshold, self.threshold)
        over = (y - inside).abs()
        return inside + y.sign() * torch.expm1(over), over.sum(-1)
