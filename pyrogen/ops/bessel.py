"""Ratios of modified Bessel functions, as the directions of the sphere need them: of any order, at any argument.

    M(k) = E exp(k x_1) over the uniform law of unit vectors x in R^n = Gamma(m + 1) (2/k)^m I_m(k),   m = n/2 - 1
    A(k) = d log M / dk = I_{m+1}(k) / I_m(k)

All is computed in float64 from r_j = I_{j+1} / I_j. The recurrence 1/r_{j-1} = 2j/k + r_j is exact in both
directions: upwards from the closed form at m = 0 or 1/2 it is stable for k > m^2, downwards from Amos's bound for less.

Source: Amos 1974, Mathematics of Computation 28, 239-251; Mardia and Jupp 2000, Directional Statistics, appendix 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyrogen.errors import SettingsError


def log_mean_exp_cosine(k: Tensor, n: int) -> Tensor:
    """log E exp(k (x_1 - 1)) over uniform unit vectors x in R^n: log M(k) - k, at most 0.

    Its derivative is -(1 - A(k)), and has as many digits.

    Shape: k is (...), at least 0; n is 2 or more.

    Raises:
        SettingsError: n below 2.
    """
    if n < 2:
        raise SettingsError(got=f"{n} dimensions", need="2 or more", fix="the circle, n = 2")
    return _LogMean.apply(k, n)  # pyright: ignore[reportReturnType]


def one_less_mean_cosine(k: Tensor, n: int) -> Tensor:
    """1 - A(k), where A(k) = E x_1 under the density exp(k x_1) / M(k); from 1 at k = 0 to (n - 1) / 2k for large k.

    Shape: k is (...), at least 0.
    """
    return _OneLessMean.apply(k, n)  # pyright: ignore[reportReturnType]


class _LogMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, n: int) -> Tensor:
        ctx.save_for_backward(k)
        ctx.n = n
        return _value(k.double(), n).to(k.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (k,) = ctx.saved_tensors
        return -grad * one_less_mean_cosine(k, ctx.n), None


class _OneLessMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, n: int) -> Tensor:
        wide = k.double()
        ratio = _ratios(wide, n)[-1]
        ctx.save_for_backward(k, ratio)
        ctx.n = n
        return _one_less(wide, ratio, n).to(k.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A' = 1 - A^2 - (n - 1) A / k, with A / k finite at 0; its series where these cancel."""
        k, ratio = ctx.saved_tensors
        wide, n = k.double(), ctx.n
        near = 1 - (wide * ratio).square() - (n - 1) * ratio
        inverse = 1 / wide.clamp(min=1.0)
        far = (n - 1) / 2 * inverse.square() * (1 - (n - 3) / 2 * inverse * (1 + 1.5 * inverse))
        variance = torch.where(wide > _far(n), far, near)
        return -grad * variance.to(k.dtype), None


def _value(k: Tensor, n: int) -> Tensor:
    """log M(k) - k: the closed form for n = 2 or 3, then log M_{j+1} - log M_j = log(2 (j + 1) r_j / k) up to n."""
    log_mean = torch.special.i0e(k).log() if n % 2 == 0 else _log_sinh(k)
    j = 0.0 if n % 2 == 0 else 0.5
    for ratio in _ratios(k, n)[:-1]:
        log_mean = log_mean + (2 * (j + 1) * ratio).log()
        j += 1
    return log_mean


def _log_sinh(k: Tensor) -> Tensor:
    """log(sinh(k) / k) - k."""
    safe = k.clamp(min=1e-4)
    return torch.where(k < 1e-4, k * k / 6 - k, (-torch.expm1(-2 * safe) / (2 * safe)).log())


def _ratios(k: Tensor, n: int) -> list[Tensor]:
    """r_j / k for j from 0 or 1/2 to n/2 - 1; at k = 0 they are 1 / (2j + 2)."""
    first = 0.0 if n % 2 == 0 else 0.5
    orders = [first + i for i in range((n - 1) // 2 if n % 2 else n // 2)]
    switch = max(60.0, 2.0 * orders[-1] ** 2)
    below, above = _downwards(k.clamp(max=switch), orders, switch), _upwards(k.clamp(min=switch), orders)
    return [torch.where(k < switch, low, high) for low, high in zip(below, above, strict=True)]


def _downwards(k: Tensor, orders: list[float], largest: float) -> list[Tensor]:
    """The error of the start shrinks by r_j^2 at each step, in all by exp(-(top^2 - m^2) / k)."""
    extra = math.ceil(math.sqrt(orders[-1] ** 2 + 40 * largest) - orders[-1])
    top = orders[-1] + extra
    square = k.square()
    ratio = 1 / (top + 0.5 + ((top + 1.5) ** 2 + square).sqrt())
    found = []
    for i in range(extra + len(orders) - 1, -1, -1):
        j = orders[0] + i
        # here ratio is that of order j
        if i < len(orders):
            found.append(ratio)
        ratio = 1 / (2 * j + square * ratio)
    return found[::-1]


def _upwards(k: Tensor, orders: list[float]) -> list[Tensor]:
    r = torch.special.i1e(k) / torch.special.i0e(k) if orders[0] == 0 else 1 / torch.tanh(k) - 1 / k
    found = [r / k]
    for j in orders[1:]:
        r = 1 / r - 2 * j / k
        found.append(r / k)
    return found


def _one_less(k: Tensor, ratio: Tensor, n: int) -> Tensor:
    """1 - k r: by its series where the difference has fewer digits."""
    inverse = 1 / k.clamp(min=1.0)
    far = (n - 1) / 2 * inverse * (1 - (n - 3) / 4 * inverse * (1 + inverse))
    return torch.where(k > _far(n), far, 1 - k * ratio)


def _far(n: int) -> float:
    """From here on the series in 1 / k has more digits than the difference."""
    return max(1e4, 100.0 * n * n)
