"""Annealing along the machines of a training instead of temperatures: no transition that temperatures would cross.

Source: Bereux et al. 2024, arXiv:2405.15376.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann.annealing import annealed, annealed_back, finite
from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.errors import SettingsError, ShapeError


@torch.no_grad()
def annealed_along(
    machines: Sequence[Machine],
    base: Tensor,
    betas: Sequence[float],
    chains: int = 100,
    generator: Generator | None = None,
    *,
    sweeps: int = 1,
) -> tuple[Tensor, Tensor]:
    """Up to the first machine by temperatures, then along the list, as its training went.

        log w += F_m-1(v) - F_m(v),   v ~ T_m(. | v)

    E[w] = Z_M / Z_0. A trajectory crosses no first-order transition where temperatures do. The energies are
    in the precision of the machines, which in float32 costs about 3e-5 sqrt(M) nats at 784 x 500.

    Raises:
        SettingsError: as `annealed`; or no machine.
        ShapeError: machines over different layers.
        NonFiniteError: as `annealed`.
    """
    _check_same(machines)
    log_w, v = annealed(machines[0], base, betas, chains, generator, sweeps=sweeps)
    for earlier, later in pairwise(machines):
        log_w += (earlier.free_energy(v) - later.free_energy(v)).double()
        v = later.sweep(v, sweeps, generator)
    return finite(log_w), v


@torch.no_grad()
def annealed_back_along(
    machines: Sequence[Machine],
    base: Tensor,
    betas: Sequence[float],
    v: Tensor,
    generator: Generator | None = None,
    *,
    sweeps: int = 1,
) -> Tensor:
    """The reverse of `annealed_along`, from exact draws v, (chains, V), of the last machine: E[w] = Z_0 / Z_M.

    Raises:
        SettingsError: as `annealed`; or no machine.
        ShapeError: machines over different layers.
        NonFiniteError: as `annealed`.
    """
    _check_same(machines)
    log_w = torch.zeros(len(v), dtype=torch.float64, device=v.device)
    for later, earlier in pairwise(reversed(machines)):
        v = later.sweep(v, sweeps, generator)
        log_w += (later.free_energy(v) - earlier.free_energy(v)).double()
    return finite(log_w + annealed_back(machines[0], base, betas, v, generator, sweeps=sweeps))


def _check_same(machines: Sequence[Machine]) -> None:
    if not machines:
        raise SettingsError(got="a path of no machines", need="at least one", fix="machines saved during training")
    shapes = {tuple(machine.W.shape) for machine in machines}
    if len(shapes) > 1:
        raise ShapeError(got=f"machines of shapes {sorted(shapes)}", need="one shape", fix="machines of one training")
