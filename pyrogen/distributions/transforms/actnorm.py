"""Activation normalisation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer


class ActNorm(Layer):
    """y = (x + b) e^s, per column; log |det| = sum_d s_d.

    It is a plain affine map whose start can be set from data, by `start_at`, before training and not at the first
    call: the batch that it was started on then has mean 0 and variance 1, and no later batch changes anything. A column
    that is constant keeps its scale.

    Source: Kingma and Dhariwal 2018, arXiv:1807.03039, section 3.1.

    Args:
        width: D.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.bias = nn.Parameter(torch.zeros(width))
        self.log_scale = nn.Parameter(torch.zeros(width))

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Let rows x, (N, D), come out with mean 0 and variance 1 in each column."""
        self.check(x, None)
        rows = x.reshape(-1, x.shape[-1])
        spread = rows.std(0, correction=0)
        self.bias.copy_(-rows.mean(0))
        self.log_scale.copy_(-torch.where(spread > 0, spread, torch.ones_like(spread)).log())

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        return (x + self.bias) * self.log_scale.exp(), self.log_scale.sum().expand(x.shape[:-1])

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        return y * (-self.log_scale).exp() - self.bias, -self.log_scale.sum().expand(y.shape[:-1])
