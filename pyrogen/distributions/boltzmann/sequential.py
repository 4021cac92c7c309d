"""Annealing with resampling, and the ladder along which each step loses the same share of the effective sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann.annealing import Path, check_chains
from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.distributions.boltzmann.schedules import linear
from pyrogen.errors import SettingsError

_EVEN = 0.1
# of each step is taken from equal steps: where the pilot saw no spread, it may only have missed it


@torch.no_grad()
def adaptive(
    machine: Machine,
    base: Tensor,
    steps: int,
    *,
    pilot: int = 200,
    chains: int = 100,
    generator: Generator | None = None,
) -> list[float]:
    """The ladder of `steps` steps with about one conditional effective sample size, found by a pilot run.

        d/dbeta log f_beta(v) = U = v (b - a) + x mean_h(beta x),      1 / ESS_k = 1 + (beta_k - beta_k-1)^2 Var_beta U

    So steps are equal in the thermodynamic length, the integral of sqrt(Var_beta U). Weights along this ladder
    are unbiased when their chains are others than the pilot's.

    Args:
        pilot: temperatures of the pilot run.
        chains: of the pilot run, at least two.

    Raises:
        SettingsError: fewer than one step, a pilot of none, or fewer than two chains.
    """
    if chains < 2 or pilot < 1:
        raise SettingsError(got=f"a pilot of {chains} chains, {pilot} steps", need="at least 2 and 1", fix="chains=100")
    even = torch.tensor(linear(steps), dtype=torch.float64)
    path = Path(machine, base, linear(pilot))
    v, x = path.start(chains, generator)
    spread = [_spread(path, v, x, 0.0)]
    for beta in path.betas[1:]:
        v, x = path.move(x, beta, generator)
        spread.append(_spread(path, v, x, beta))
    betas = torch.tensor(path.betas, dtype=torch.float64)
    speed = torch.stack(spread).cpu()
    pieces = betas.diff() * (speed[1:] + speed[:-1]) / 2
    share = pieces / pieces.sum() if pieces.sum() > 0 else betas.diff()
    share = (1 - _EVEN) * share + _EVEN * betas.diff()
    length = torch.cat([betas[:1], share.cumsum(0) / share.sum()])
    right = torch.searchsorted(length, even).clamp(1, len(betas) - 1)
    part = (even - length[right - 1]) / (length[right] - length[right - 1])
    out = (betas[right - 1] + part * (betas[right] - betas[right - 1])).tolist()
    return [0.0, *out[1:-1], 1.0]


@torch.no_grad()
def sequential(
    machine: Machine,
    base: Tensor,
    betas: Sequence[float],
    chains: int = 100,
    populations: int = 10,
    generator: Generator | None = None,
    *,
    sweeps: int = 1,
    below: float = 0.5,
    every: int = 10,
) -> tuple[Tensor, Tensor]:
    """Sequential Monte Carlo: annealing in populations, each resampled when its effective size falls.

    A population's log w is the sum of the logs of its mean weights between resamplings; E[w] = Z / Z_0. Populations
    never mix, so that the spread of their weights is an honest error.

    Returns:
        log w, (populations,) in float64, and v, (populations, chains, V), of equal weight after a last resampling.

    Args:
        chains: in each population.
        below: resample when the effective sample size is below this share of the chains.
        every: temperatures between two looks at it.

    Raises:
        SettingsError: no chain or population, or a ladder that does not increase from 0 to 1.
    """
    check_chains(chains)
    check_chains(populations)
    path = Path(machine, base, betas, sweeps)
    v, x = path.start(populations * chains, generator)
    log_w = torch.zeros(populations, chains, dtype=torch.float64, device=v.device)
    total = log_w.new_zeros(populations)
    for k, (low, high) in enumerate(pairwise(path.betas), 1):
        log_w = log_w + path.change(v, x, low, high).view_as(log_w)
        if k % every == 0 or high == 1:
            poor = _ess(log_w) < below * chains if high < 1 else torch.ones_like(total, dtype=torch.bool)
            chosen = torch.where(poor[:, None], _systematic(log_w, generator), torch.arange(chains, device=v.device))
            flat = (chosen + chains * torch.arange(populations, device=v.device)[:, None]).flatten()
            v, x = v[flat], x[flat]
            total = total + torch.where(poor, log_w.logsumexp(1) - math.log(chains), 0.0)
            log_w = torch.where(poor[:, None], 0.0, log_w)
        v, x = path.move(x, high, generator)
    return total, v.view(populations, chains, -1)


def _spread(path: Path, v: Tensor, x: Tensor, beta: float) -> Tensor:
    """sqrt(Var U) over the chains, ()."""
    machine = path.machine
    slope = v @ (machine.b - path.a) + (x * machine.hidden.mean(beta * x)).sum(-1)
    return slope.double().std()


def _ess(log_w: Tensor) -> Tensor:
    return (2 * log_w.logsumexp(-1) - (2 * log_w).logsumexp(-1)).exp()


def _systematic(log_w: Tensor, generator: Generator | None) -> Tensor:
    """Indices of the chains that go on, in each population, (populations, chains): one uniform each."""
    populations, chains = log_w.shape
    u = torch.rand(populations, 1, dtype=log_w.dtype, device=log_w.device, generator=generator)
    points = (torch.arange(chains, device=log_w.device) + u) / chains
    return torch.searchsorted(log_w.softmax(-1).cumsum(-1), points).clamp(max=chains - 1)
