"""The unit sphere S^d in R^(d+1): its area, the exponential map, its tangent spaces."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize


def log_area(dim: int) -> float:
    """log of the area of S^dim: log 2 + (n/2) log pi - log Gamma(n/2), n = dim + 1; log 4 pi for the globe."""
    n = dim + 1
    return math.log(2) + n / 2 * math.log(math.pi) - math.lgamma(n / 2)


def tangent(x: Tensor, v: Tensor) -> Tensor:
    """The part of v that is tangent to the sphere at x: v - (v.x) x."""
    return v - (v * x).sum(-1, keepdim=True) * x


def exponential(x: Tensor, v: Tensor) -> Tensor:
    """Where the great circle that leaves x with velocity v is after unit time, on the sphere to rounding.

        exp_x(v) = cos|v| x + (sin|v| / |v|) v

    Shape: x and v are (..., d + 1), v tangent at x.
    """
    square = v.square().sum(-1, keepdim=True)
    return normalize((1 - square * one_less_cos(square)) * x + sinc(square) * v, dim=-1)


# The three below take t^2, because sqrt has no derivative at 0 and the functions do; near 0 they are their series, to
# the order that is exact in float64 at the switch.


def sinc(square: Tensor) -> Tensor:
    """sin(t) / t of t^2."""
    small, t = _root(square)
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42 * (1 - square / 72)))
    return torch.where(small, series, t.sin() / t)


def one_less_cos(square: Tensor) -> Tensor:
    """(1 - cos t) / t^2 of t^2."""
    small, t = _root(square)
    series = 0.5 - square / 24 * (1 - square / 30 * (1 - square / 56 * (1 - square / 90)))
    return torch.where(small, series, 2 * (t / 2).sin().square() / t.square())


def one_less_sinc(square: Tensor) -> Tensor:
    """(1 - sin(t) / t) / t^2 of t^2."""
    small, t = _root(square)
    series = 1 / 6 - square / 120 * (1 - square / 42 * (1 - square / 72 * (1 - square / 110)))
    return torch.where(small, series, (1 - t.sin() / t) / t.square())


def _root(square: Tensor) -> tuple[Tensor, Tensor]:
    small = square < 0.01
    # a constant where the series is used: the gradient of what `where` leaves out would be NaN there
    return small, torch.where(small, 1.0, square).sqrt()
