"""A normal variable of variance 1 cut off at 0: cumulant, mean and draws, accurate in both tails.

    p(x | a) proportional to exp(a x - x^2 / 2),  x >= 0;     h(t) = sqrt(2 / pi) / erfcx(t / sqrt 2)

h is the hazard of the standard normal. Phi(a) underflows in float32 at a = -14; erfcx does not.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.special import erfcx, log_ndtr, ndtr, ndtri

_ROOT_2, _HALF_LOG_2_PI = math.sqrt(2), 0.5 * math.log(2 * math.pi)


def half_normal_cumulant(a: Tensor) -> Tensor:
    """log of the integral of exp(a x - x^2 / 2) over x >= 0, entry by entry; its gradient is `half_normal_mean`."""
    return _Cumulant.apply(a)  # pyright: ignore[reportReturnType]


def half_normal_mean(a: Tensor) -> Tensor:
    """a + h(-a), entry by entry."""
    far = a.clamp(max=-20.0)
    # below -20, a and h(-a) nearly cancel; the series is off by less than 1e-8 there
    series = (-1 / far) * (1 - 2 / far**2 + 10 / far**4 - 74 / far**6)
    return torch.where(a < -20, series, a + _hazard(-a))


@torch.no_grad()
def half_normal_sample(a: Tensor, generator: Generator | None = None) -> Tensor:
    """Draws by inversion, entry by entry.

    For a >= 0 from the normal's quantiles; for a < 0 by Newton's steps on log P(x > t) = log u, which start at the
    quantile of the exponential variable that x is in the tail.
    """
    u = torch.rand(a.shape, dtype=a.dtype, device=a.device, generator=generator)
    u = u.clamp(min=torch.finfo(a.dtype).tiny)
    right = a.clamp(min=0.0)
    near = right - ndtri(u * ndtr(right))
    left, log_u = -a.clamp(max=0.0), u.log()
    x = -log_u / (left + _hazard(left)).clamp(min=1.0)
    start = erfcx(left / _ROOT_2).log()
    for _ in range(6):
        log_tail = -x * left - 0.5 * x.square() + erfcx((x + left) / _ROOT_2).log() - start
        x = (x + (log_tail - log_u) / _hazard(x + left)).clamp(min=0.0)
    return torch.where(a >= 0, near, x).clamp(min=0.0)


class _Cumulant(torch.autograd.Function):
    """Its own backward: the mean, without the cancellation that differentiating the two branches would bring."""

    @staticmethod
    def forward(ctx, a: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(a)
        right, left = a.clamp(min=0.0), a.clamp(max=0.0)
        above = 0.5 * right.square() + _HALF_LOG_2_PI + log_ndtr(right)
        below = (math.sqrt(math.pi / 2) * erfcx(-left / _ROOT_2)).log()
        return torch.where(a > 0, above, below)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (a,) = ctx.saved_tensors
        return gradient * half_normal_mean(a)


def _hazard(t: Tensor) -> Tensor:
    return math.sqrt(2 / math.pi) / erfcx(t / _ROOT_2)
