"""Coins: draws of 0 and 1, which are most of what a sweep of Gibbs sampling does beside its products."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


def coins(p: Tensor, generator: Generator | None = None) -> Tensor:
    """1 with probability p, else 0, entry by entry.

    On a CPU torch.bernoulli takes two to four times as long as this comparison. Uniforms are multiples of 2^-24 in
    float32 there, so the probability is p rounded up to one.
    """
    if p.device.type != "cpu":
        return torch.bernoulli(p, generator=generator)
    return torch.rand(p.shape, dtype=p.dtype, generator=generator).lt_(p)
