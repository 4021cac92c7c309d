"""Monotone rational-quadratic splines, without masks and without a wait for the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad, softplus

MIN_BIN, MIN_SLOPE = 1e-3, 1e-3


def rational_quadratic(
    x: Tensor,
    bins: Tensor,
    slopes: Tensor,
    bound: float,
    *,
    inverse: bool = False,
    circular: bool = False,
) -> tuple[Tensor, Tensor]:
    """A one-to-one map of [-bound, bound] that is rational-quadratic between K + 1 knots, and x itself outside.

        y = y_k + h (m t^2 + s_k t (1 - t)) / (m + (s_k + s_(k+1) - 2 m) t (1 - t)),   t = (x - x_k) / w,   m = h / w

    in the bin k of x, w wide and h high, with slopes s at its ends. Widths and heights are shares of the interval, of
    at least MIN_BIN each; slopes are at least MIN_SLOPE, and all zeros make the identity. The slope at both bounds is
    exactly 1, as outside; in a circular spline both have one slope of their own, the first.

    What is outside is clipped before the bin is found and put back after, so that there is one path for all
    entries, with finite gradients.

    Shape: x is (...), bins (..., 2, K), slopes (..., K - 1), or (..., K) in a circular spline; gives y and
    log dy/dx, both (...); with `inverse`, x and log dx/dy for a y.
    Source: Durkan et al. 2019, arXiv:1906.04032, equations 4 to 8; Gregory and Delbourgo 1982.
    """
    ends = _knots(bins, bound)
    s = softplus(slopes + math.log(math.expm1(1 - MIN_SLOPE))) + MIN_SLOPE
    s = torch.cat([s, s[..., :1]], -1) if circular else pad(s, (1, 1), value=1.0)
    inside = x.clamp(-bound, bound)
    table = torch.cat([ends, s.unsqueeze(-2)], -2)
    (x0, x1), (y0, y1), (s0, s1) = _at_bin(table, ends[..., 1 if inverse else 0, 1:-1].detach(), inside.detach())
    w, h = x1 - x0, y1 - y0
    m = h / w
    bend = torch.sub(s0 + s1, m, alpha=2)
    t = _root(inside - y0, h, m, s0, bend) if inverse else (inside - x0) / w
    r = 1 - t
    q, tt = t * r, t * t
    low = torch.addcmul(m, bend, q)
    # all terms positive: the same polynomial in powers of t would cancel, and its logarithm be NaN
    rise = torch.addcmul(torch.addcmul(s1 * tt, s0, r * r), m, q, value=2)
    log_slope = torch.add(torch.log(rise), torch.log(m / low), alpha=2)
    out = torch.addcmul(x0, t, w) if inverse else y0 + h * torch.addcmul(m * tt, s0, q) / low
    return out + (x - inside), -log_slope if inverse else log_slope


def _knots(bins: Tensor, bound: float) -> Tensor:
    """(..., 2, K) logits to (..., 2, K + 1) places from -bound to bound, the ends exact."""
    k = bins.shape[-1]
    least = 2 * bound * MIN_BIN
    # torch's softmax of a few entries takes several times as long as its parts
    sums = torch.exp(bins - bins.detach().amax(-1, keepdim=True)).cumsum(-1)
    shares = sums[..., :-1] / sums[..., -1:]
    lowest = torch.linspace(least - bound, (k - 1) * least - bound, k - 1, dtype=bins.dtype, device=bins.device)
    inner = torch.add(lowest, shares, alpha=2 * bound - k * least)
    return pad(pad(inner, (1, 0), value=-bound), (0, 1), value=bound)


def _at_bin(table: Tensor, keys: Tensor, x: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The values of a (..., 3, K + 1) table at both ends of the bin that x, (...), falls into by its inner knots."""
    i = (x.unsqueeze(-1) >= keys).sum(-1, keepdim=True)
    ends = torch.cat([i, i + 1], -1).unsqueeze(-2)
    ends = ends.expand(*ends.shape[:-2], 3, 2)
    if table.shape[:-2] != i.shape[:-1]:
        table = table.expand(*i.shape[:-1], *table.shape[-2:])
    found = torch.gather(table, -1, ends)
    return [row.unbind(-1) for row in found.unbind(-2)]  # pyright: ignore[reportReturnType]


def _root(u: Tensor, h: Tensor, m: Tensor, s0: Tensor, bend: Tensor) -> Tensor:
    """t in [0, 1] at which the spline is u above the start of its bin, by the form that does not cancel."""
    b = h * s0 - u * bend
    a = h * m - b
    c = -m * u
    # rounding alone can make it negative
    t = 2 * c / (-b - torch.sqrt((b * b - 4 * a * c).clamp(min=0)))
    return t.clamp(max=1)  # above it slopes may be negative
