"""The inverse of v + c tanh(v), which planar and Sylvester flows need."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 10  # with the two last ones 12; from these starts 10 reach the rounding of float64 for c up to 1e4


def tanh_root(c: Tensor, r: Tensor) -> Tensor:
    """v with v + c tanh(v) = r, for c > -1.

    The map is odd, so take r >= 0. There it is concave for c >= 0 and convex for c < 0, so Newton's method goes to the
    root from one side without overshooting when it starts at

        max(r - c, r / (1 + c)) for c >= 0,      min(r - c, r / (1 + c)) for c < 0,

    which bound the root because tanh(v) <= min(v, 1). The number of steps is fixed, so nothing waits for the device.
    The steps are not differentiated, but for the last two, taken with c and r: after one Newton step from the root the
    first derivatives are those of the implicit function theorem, after two the second and third are right too.

    Shape: c and r broadcast.
    """
    c, r = torch.broadcast_tensors(c, r)
    with torch.no_grad():
        size, c0 = r.abs(), c.clone()
        a, b = size - c0, size / (1 + c0)
        v = torch.where(c0 >= 0, torch.maximum(a, b), torch.minimum(a, b))
        for _ in range(STEPS):
            v = _newton(v, c0, size)
        v = v * r.sign()
    return _newton(_newton(v, c, r), c, r)


def _newton(v: Tensor, c: Tensor, r: Tensor) -> Tensor:
    t = torch.tanh(v)
    # 1 - tanh^2 as a product keeps its digits where tanh is near 1 in size
    return v - (v + c * t - r) / (1 + c * (1 - t) * (1 + t))
