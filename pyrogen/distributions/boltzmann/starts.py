"""Draws of a machine to start the reverse of annealing from: exact ones, long chains, tempered chains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann.annealing import Path
from pyrogen.distributions.boltzmann.exact import can_enumerate, log_partition
from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.errors import SettingsError


@torch.no_grad()
def exact_draws(
    machine: Machine, n: int, generator: Generator | None = None, *, most: float = 2**22, chunk: int = 2**14
) -> Tensor:
    """n independent rows of p(v), (n, V): a state of the smaller layer by its probability, then the other given it.

    Raises:
        SettingsError: both layers have more states than `most`.
        NonFiniteError: weights are NaN or infinite.
    """
    machine.check()
    if not can_enumerate(machine, most):
        log_partition(machine, most=most)  # refuses in words
    left = machine.visible.count <= machine.hidden.count
    small = machine if left else machine.turned()
    count = int(small.visible.count)
    log_f = torch.cat(
        [
            -small.free_energy(small.visible.states(start, min(start + chunk, count), machine.W)).double()
            for start in range(0, count, chunk)
        ]
    )
    levels = log_f.softmax(0).cumsum(0)
    u = torch.rand(n, dtype=torch.float64, device=levels.device, generator=generator) * levels[-1]
    states = small.visible.states_at(torch.searchsorted(levels, u).clamp(max=count - 1), machine.W)
    return states if left else machine.down(states, generator)


@torch.no_grad()
def tempered_draws(
    machine: Machine,
    base: Tensor,
    betas: Sequence[float],
    n: int,
    sweeps: int,
    generator: Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """n parallel tempering chains after `sweeps` sweeps from the base: v at beta = 1, and how often rungs swapped.

    Rungs times chains are one batch. Neighbours k and k + 1 exchange their v with probability
    min(1, f_k(v_k+1) f_k+1(v_k) / (f_k(v_k) f_k+1(v_k+1))), in turn the even and the odd pairs.

    Returns:
        v, (n, V), and the rate of accepted exchanges between neighbours, (rungs - 1,).

    Raises:
        SettingsError: a ladder that does not increase from 0 to 1, or no sweep.
    """
    path = Path(machine, base, betas, max(sweeps, 0))
    machine = path.machine
    rungs = torch.tensor(path.betas, dtype=machine.b.dtype, device=machine.b.device)[:, None]
    tempered = machine.tempered(rungs, path.a)
    v = machine.visible.sample(path.a.expand(len(rungs), n, -1), generator)
    accepted = torch.zeros(len(rungs) - 1, device=v.device)
    for t in range(sweeps):
        v = tempered.sweep(v, 1, generator)
        v, took = _exchange(machine, path.a, rungs, v, t % 2, generator)
        accepted[t % 2 :: 2] += took
    tried = torch.tensor([(sweeps + 1 - k % 2) // 2 for k in range(len(rungs) - 1)], device=v.device)
    return v[-1], accepted / tried.clamp(min=1)


def _exchange(
    machine: Machine, base: Tensor, rungs: Tensor, v: Tensor, first: int, generator: Generator | None
) -> tuple[Tensor, Tensor]:
    """Exchange rungs first and first + 1, first + 2 and first + 3, ...; rungs is (R, 1), v is (R, n, V)."""
    pairs = (len(rungs) - first) // 2
    if not pairs:
        return v, v.new_zeros(0)
    low, high = (v[first + k : first + 2 * pairs : 2] for k in (0, 1))
    at_low, at_high = (machine.tempered(rungs[first + k : first + 2 * pairs : 2], base) for k in (0, 1))
    stay = at_low.free_energy(low) + at_high.free_energy(high)
    swap = at_low.free_energy(high) + at_high.free_energy(low)
    u = torch.rand(stay.shape, dtype=stay.dtype, device=stay.device, generator=generator)
    take = u.log() < stay - swap
    out = v.clone()
    out[first : first + 2 * pairs : 2] = torch.where(take[..., None], high, low)
    out[first + 1 : first + 2 * pairs : 2] = torch.where(take[..., None], low, high)
    return out, take.float().mean(-1)


def long_draws(machine: Machine, rows: Tensor, n: int, sweeps: int, generator: Generator | None = None) -> Tensor:
    """n Gibbs chains after `sweeps` sweeps from rows, (N, V), each of them used about as often, (n, V).

    Raises:
        SettingsError: no sweep.
        NonFiniteError: weights are NaN or infinite.
    """
    machine.check()
    if sweeps < 1:
        raise SettingsError(got=f"{sweeps} sweeps", need="at least one", fix="sweeps=1000")
    order = torch.randperm(len(rows), device=rows.device, generator=generator)
    chosen = order[torch.arange(n, device=rows.device) % len(rows)]
    return machine.sweep(rows[chosen].to(machine.b.dtype), sweeps, generator)
