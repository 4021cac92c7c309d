"""Have the chains mixed, and what are their draws worth: split R-hat and effective sample size by coordinate.

Unlike Pyro's: by ranks, so that heavy tails do no harm; a constant coordinate is NaN and leaves the others alone; any
number of chains, and memory for a few coordinates at a time.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner 2021, arXiv:1903.08008; Geyer 1992 for the sum of
autocorrelations.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyrogen.errors import ShapeError

_AT_ONCE = 2**24
"""Numbers that are worked on at once, in float64."""


def rhat(x: Tensor, *, rank: bool = True) -> Tensor:
    """sqrt(var+ / W) of the halves of the chains: near 1 once they have forgotten where they started.

    Shape: x is (chains, draws, ...), of any dtype; the result is (...), float64. NaN where x is constant.

    Args:
        rank: of normal scores of the ranks, the larger of that and of |x - median|; False of x as it is, which for
            variables with two values is the same.

    Raises:
        ShapeError: fewer than 4 draws.
    """

    def of(part: Tensor) -> Tensor:
        if not rank:
            return _rhat(part)
        folded = (part - _median(part)).abs()
        return torch.fmax(_rhat(_scores(part)), _rhat(_scores(folded)))

    return _by_coordinate(x, of)


def ess(x: Tensor, *, rank: bool = True) -> Tensor:
    """How many independent draws would give means with the same error; the bulk's, where by ranks.

        chains draws / tau,     tau = 1 + 2 sum_t rho_t

    Shape: x is (chains, draws, ...), of any dtype; the result is (...), float64. NaN where x is constant.

    Raises:
        ShapeError: fewer than 4 draws.
    """
    return _by_coordinate(x, lambda part: _ess(_scores(part) if rank else part))


def _by_coordinate(x: Tensor, of: Callable[[Tensor], Tensor]) -> Tensor:
    """of((2 chains, draws / 2, n)) for a few of the coordinates at a time."""
    if x.dim() < 2 or x.shape[1] < 4:
        raise ShapeError(got=f"draws of shape {tuple(x.shape)}", need="(chains, draws, ...), 4 draws", fix="more draws")
    half, flat = x.shape[1] // 2, x.reshape(*x.shape[:2], -1)
    n = max(1, _AT_ONCE // (4 * half * x.shape[0]))
    parts = []
    for part in flat.split(n, -1):
        split = torch.cat([part[:, :half], part[:, -half:]]).double()
        constant = split.amin((0, 1)) == split.amax((0, 1))
        parts.append(torch.where(constant, math.nan, of(split)))
    return torch.cat(parts).reshape(x.shape[2:])


def _median(x: Tensor) -> Tensor:
    """Of all chains; the mean of the two in the middle, of which torch's median takes the lower one."""
    ordered = x.flatten(0, 1).sort(0).values
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def _scores(x: Tensor) -> Tensor:
    """Normal quantiles of the ranks, ties sharing their mean rank, column by column."""
    columns = []
    for column in x.flatten(0, 1).unbind(-1):
        _, inverse, counts = column.unique(return_inverse=True, return_counts=True)
        rank = counts.cumsum(0) - (counts.double() - 1) / 2
        columns.append(torch.special.ndtri((rank - 0.375) / (len(column) + 0.25))[inverse])
    return torch.stack(columns, -1).unflatten(0, x.shape[:2])


def _rhat(x: Tensor) -> Tensor:
    return (_pooled_variance(x) / x.var(1).mean(0)).sqrt()


def _pooled_variance(x: Tensor) -> Tensor:
    """var+: within the chains, and between their means."""
    draws = x.shape[1]
    return x.var(1).mean(0) * (draws - 1) / draws + x.mean(1).var(0)


def _ess(x: Tensor) -> Tensor:
    chains, draws = x.shape[:2]
    covariance = _autocovariance(x).mean(0)  # (draws, n)
    rho = 1 - (x.var(1).mean(0) - covariance) / _pooled_variance(x)
    rho[0] = 1
    pairs = rho[: draws - draws % 2].unflatten(0, (-1, 2))
    if draws > 4:  # the last lags are too noisy to use
        pairs = pairs[: (draws - 3) // 2 + 1]
    sums = pairs.sum(1)
    # Geyer: while the sums of pairs are positive, and never rising; of the pair that ends it, the even half
    positive = (sums > 0).cumprod(0).bool()
    positive[-1] = False
    last = positive.sum(0, keepdim=True)
    monotone = torch.where(positive, sums, 0).cummin(0).values
    even = pairs[:, 0].gather(0, last).squeeze(0).clamp(min=0)
    tau = -1 + 2 * torch.where(positive, monotone, 0).sum(0) + even
    total = chains * draws
    return total / tau.clamp(min=1 / math.log10(total))


def _autocovariance(x: Tensor) -> Tensor:
    """Over the draws of each chain, with 1 / draws at every lag."""
    draws = x.shape[1]
    size = 2 ** math.ceil(math.log2(2 * draws))
    spectrum = torch.fft.rfft(x - x.mean(1, keepdim=True), n=size, dim=1)
    return torch.fft.irfft(spectrum.abs().square(), n=size, dim=1)[:, :draws] / draws
