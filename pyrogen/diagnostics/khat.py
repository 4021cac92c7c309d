"""Pareto k-hat: how far importance weights can be trusted, and with them the guide that made them.

    P(w > t) ~ t^(-1/k) for large t: the weights have about 1/k finite moments.

Below the threshold min(1 - 1/log10(S), 0.7) importance sampling with S draws is reliable; above it the
draws miss regions where the target has mass, and no estimate made from them has a usable error bar.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.errors import NonFiniteError, SettingsError, ShapeError

LEAST = 25
"""Draws below which the tail would have fewer than five weights."""


def khat(log_w: Tensor, dim: int = 0) -> Tensor:
    """Pareto k-hat of S log importance weights along `dim`: (S, ...) to (...), in float64.

    The largest min(S/5, 3 sqrt(S)) weights are fitted by a generalised Pareto distribution; its shape is
    shrunk towards 1/2 by ten draws' worth of prior. The answer is that of `arviz.psislw` in ArviZ 0.23;
    1.x rounds the length of the tail down instead of up. Weights that are all equal, or whose largest
    value is shared by more draws than the tail holds, have no tail: k-hat is then -inf. It is inf where
    fewer than five weights rise above the others.

    For the spread over repeats, fold the draws: khat(log_w.reshape(10, S // 10), dim=1).

    Args:
        log_w: log p(x, z) - log q(z) at draws z of q, as a tensor or array; -inf is a weight of zero.

    Source: Zhang and Stephens 2009, Technometrics 51(3), for the fit; Vehtari et al. 2024, JMLR 25(72),
    arXiv:1507.02646, for the tail, the shrinkage and the threshold.

    Raises:
        SettingsError: fewer than 25 draws.
        NonFiniteError: NaN or +inf among log_w, or nothing but -inf.
    """
    log_w = torch.as_tensor(log_w).detach()
    if log_w.dim() == 0:
        raise ShapeError(got="a single number", need="log weights with a dimension of draws", fix="(S,) or (S, rows)")
    eps = torch.finfo(log_w.dtype).eps if log_w.is_floating_point() else 0.0
    rows = log_w.double().movedim(dim, -1)
    n_draws, shape = rows.shape[-1], rows.shape[:-1]
    rows = rows.reshape(-1, n_draws)
    _check(rows)
    top = rows.amax(-1, keepdim=True)
    finite = rows.abs().where(rows.isfinite(), 0.0)
    constant = (top - rows).amax(-1) <= 100 * eps * finite.amax(-1).clamp(min=1.0)
    n_tail = math.ceil(min(n_draws / 5, 3 * math.sqrt(n_draws)))
    largest = (rows - top).topk(n_tail + 1, dim=-1).values.flip(-1)  # ascending
    k = _of_tails(largest[:, 1:], largest[:, :1])
    return k.masked_fill(constant, -math.inf).reshape(shape)


def khat_threshold(n_draws: int) -> float:
    """The largest k-hat at which S draws still give reliable estimates: min(1 - 1/log10(S), 0.7)."""
    if n_draws < LEAST:
        raise _too_few(n_draws)
    return min(1 - 1 / math.log10(n_draws), 0.7)


def _of_tails(log_tail: Tensor, log_cut: Tensor) -> Tensor:
    """k-hat of log weights (rows, M), ascending, over the next smaller one, (rows, 1)."""
    log_cut = log_cut.clamp(min=math.log(torch.finfo(torch.float64).tiny))
    lengths = (log_tail > log_cut).sum(-1)  # shorter than M where weights tie or underflow
    excess = log_tail.exp() - log_cut.exp()
    k = torch.full(lengths.shape, math.inf, dtype=torch.float64, device=log_tail.device)
    k[lengths == 0] = -math.inf
    for length in lengths.unique().tolist():
        if length > 4:
            of_length = lengths == length
            k[of_length] = _fit(excess[of_length, -length:])
    return k


def _fit(x: Tensor) -> Tensor:
    """Shape of a generalised Pareto distribution, shrunk, from its ascending draws x, (rows, n).

    With b = -k / sigma the profile likelihood has one dimension; its mean under a weak prior is taken
    over a grid of m points (Zhang and Stephens, equations 3.1 to 3.4).
    """
    n = x.shape[-1]
    m = 30 + int(math.sqrt(n))
    grid = 1 - torch.sqrt(m / (torch.arange(1, m + 1, dtype=x.dtype, device=x.device) - 0.5))
    quartile = x[:, int(n / 4 + 0.5) - 1, None]
    b = grid / (3 * quartile) + 1 / x[:, -1:]
    k = torch.stack([torch.log1p(-b[:, j, None] * x).mean(-1) for j in range(m)], dim=-1)
    weights = (n * (torch.log(-b / k) - k - 1)).softmax(-1)
    weights = weights.where(weights >= 10 * torch.finfo(x.dtype).eps, 0.0)
    b_mean = (b * weights).sum(-1, keepdim=True) / weights.sum(-1, keepdim=True)
    k_mean = torch.log1p(-b_mean * x).mean(-1)
    return (n * k_mean + 10 * 0.5) / (n + 10)


def _check(rows: Tensor) -> None:
    if rows.shape[-1] < LEAST:
        raise _too_few(rows.shape[-1])
    bad = rows.isnan() | (rows == math.inf)
    if bad.any():
        row, draw = (int(i) for i in bad.nonzero()[0])
        raise NonFiniteError(
            got=f"{int(bad.sum())} log weights that are NaN or +inf, the first in row {row} at draw {draw}",
            need="log p - log q below infinity",
            fix="looking for NaN parameters, or for a guide of zero density at its own draws",
        )
    if (rows == -math.inf).all(-1).any():
        raise NonFiniteError(
            got="a row of log weights that are all -inf",
            need="some draw where the model has mass",
            fix="a guide whose support lies inside the model's",
        )


def _too_few(n_draws: int) -> SettingsError:
    return SettingsError(got=f"{n_draws} draws", need=f"at least {LEAST} for a tail", fix="1000 draws or more")
