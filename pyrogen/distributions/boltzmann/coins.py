"""Coins: draws of 0 and 1, which are most of what a sweep of Gibbs sampling does beside its products."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

_MANY = 2**15
"""Entries from which packed bits are faster than a uniform number each."""


def coins(p: Tensor, generator: Generator | None = None) -> Tensor:
    """1 with probability p, else 0, entry by entry.

    On a CPU torch.bernoulli takes four times as long as comparing uniforms with p, and the uniforms of `packed` half as
    long as torch's. Both are multiples of 2^-24 in float32, so the probability is p rounded up to one.
    """
    if p.device.type != "cpu":
        return torch.bernoulli(p, generator=generator)
    if p.dtype in (torch.bfloat16, torch.float16):
        return coins(p.float(), generator).to(p.dtype)  # their uniforms are too coarse to be small
    if p.numel() < _MANY or p.dtype != torch.float32:
        return torch.rand(p.shape, dtype=p.dtype, generator=generator, device=p.device).lt_(p)
    words = torch.empty(-(-p.numel() // 4), dtype=torch.int64, device=p.device).random_(
        -(2**63), None, generator=generator
    )
    low = int(torch.randint(256, (), generator=generator, device=p.device))
    return packed(words, low, p.numel()).view(p.shape).lt_(p)


def packed(words: Tensor, low: int, n: int) -> Tensor:
    """n uniforms in float32, (n,), from the four 16-bit parts of each int64, above 8 low bits that all of them share.

        u = (r + low / 256) / 2^16,    r in 0 .. 2^16 - 1

    Each is uniform on the multiples of 2^-24, as torch.rand's are. Given the low bits the uniforms are independent, and
    P(u < p) differs from p by less than 2^-16, so that the covariance of two coins is at most 2^-34. The variance of a
    count of m coins of one small p is m p + m^2 2^-34 at most, and not m p: for p far below m 2^-34 they come together.
    """
    parts = words.view(torch.int16)[:n].to(torch.float32)
    # in one pass, and exact: every number on the way is a multiple of 2^-24 below 1
    return torch.add(parts.new_tensor(0.5 + low * 2.0**-24), parts, alpha=2.0**-16, out=parts)
