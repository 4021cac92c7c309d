"""The table that `MCMC.summary` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from pyrogen.errors import SettingsError
from pyrogen.ops.convergence import ess, rhat

FEW = 20
"""Sites with more entries than this get one line instead of one per entry."""


def table(series: Mapping[str, Tensor], sites: Mapping[str, Tensor], prob: float = 0.9) -> str:
    """Lines of mean, standard deviation, median, an interval of mass `prob`, n_eff and r_hat.

    Shape: series are (chains, draws), sites are (chains, draws, ...).

    Raises:
        SettingsError: prob is not between 0 and 1.
        ShapeError: fewer than 4 draws.
    """
    if not 0 < prob < 1:
        raise SettingsError(got=f"prob={prob!r}", need="a number between 0 and 1", fix="prob=0.9")
    low, high = 50 * (1 - prob), 50 * (1 + prob)
    head = ("", "mean", "std", "median", f"{low:.1f}%", f"{high:.1f}%", "n_eff", "r_hat")
    rows = [row for name, x in (dict(series) | dict(sites)).items() for row in _rows(name, x, prob)]
    width = max([10, *(len(row[0]) for row in rows)])
    lines = [f"{head[0]:>{width}} " + " ".join(f"{word:>9}" for word in head[1:])]
    return "\n".join([*lines, *(f"{name:>{width}} " + text for name, text in rows)])


def _rows(name: str, x: Tensor, prob: float) -> Iterator[tuple[str, str]]:
    rank = x.is_floating_point()
    n_eff, r_hat = ess(x, rank=rank).flatten(), rhat(x, rank=rank).flatten()
    if len(n_eff) > FEW:
        moving = ~n_eff.isnan()
        worst = f"{len(n_eff)} entries, {int((~moving).sum())} of them constant"
        if moving.any():
            worst += f"; worst n_eff {n_eff[moving].min():.0f}, worst r_hat {r_hat[moving].max():.3f}"
        yield name, worst
        return
    shape = x.shape[2:]
    for i, column in enumerate(x.flatten(0, 1).flatten(1).double().unbind(-1) if shape else [x.flatten().double()]):
        at = [int(k) for k in torch.unravel_index(torch.tensor(i), shape)] if shape else []
        place = f"[{','.join(map(str, at))}]" if at else ""
        ordered = column.sort().values
        numbers = [column.mean(), column.std(), *(_quantile(ordered, q) for q in (0.5, (1 - prob) / 2, (1 + prob) / 2))]
        text = " ".join(f"{float(number):>9.2f}" for number in [*numbers, n_eff[i]])
        yield name + place, f"{text} {float(r_hat[i]):>9.3f}"


def _quantile(ordered: Tensor, q: float) -> Tensor:
    """Of sorted numbers; torch.quantile takes no more than 16 million of them."""
    at = q * (len(ordered) - 1)
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (at - below) * (ordered[above] - ordered[below])
