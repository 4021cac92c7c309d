"""The stereographic projection from the north pole (0, ..., 0, 1) between S^d and R^d."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def project(x: Tensor) -> Tensor:
    """u = x_{1..d} / (1 - x_{d+1}); the pole itself has no image, and gives a far point.

    Shape: (..., d + 1) to (..., d).
    """
    flat, height = x[..., :-1], x[..., -1:]
    # above the equator 1 - x_{d+1} has lost its digits, and |flat|^2 / (1 + x_{d+1}) is the same
    square = flat.square().sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    gap = torch.where(height > 0, square / (1 + height.clamp(min=0)), 1 - height.clamp(max=0))
    return flat / gap


def unproject(u: Tensor) -> Tensor:
    """x = (2u, |u|^2 - 1) / (|u|^2 + 1), on the sphere to rounding wherever |u|^2 is finite.

    Shape: (..., d) to (..., d + 1).
    """
    square = u.square().sum(-1, keepdim=True)
    return torch.cat([2 * u / (square + 1), 1 - 2 / (square + 1)], -1)


def log_scale(u: Tensor) -> Tensor:
    """log(2 / (1 + |u|^2)): lengths at u times this are lengths on the sphere, in every direction.

    Shape: (..., d) to (...).
    """
    return math.log(2) - torch.log1p(u.square().sum(-1))
