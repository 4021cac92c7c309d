"""Filling gaps: draws of the unknown entries of a row given the known ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann import Machine
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.inference.kernels import BlockGibbs, HasMachine, Kernel
from pyrogen.inference.kernels.kernel import whole
from pyrogen.inference.mcmc import MCMC
from pyrogen.ops.convergence import ess, rhat

_AT_ONCE = 2**24
"""Entries of h whose conditional means are computed at once."""


@dataclass(frozen=True)
class Filled:
    """Rows with their gaps filled, many times over."""

    draws: Tensor  # (rows, chains, draws, V), bits as bool; known entries as they were
    mean: Tensor  # (rows, V), mean of E[v | h] over the draws of h, which has less noise than the mean of v
    r_hat: Tensor  # (rows,), of the energy between the chains of a row; NaN for fewer than 4 draws
    n_eff: Tensor  # (rows,), of the energy, all chains of a row
    mcmc: MCMC  # the run, chains of a row side by side; `to_arviz` takes it


def sample_given(
    source: Machine | HasMachine | Kernel,
    x: Tensor,
    observed: Tensor,
    *,
    draws: int = 100,
    chains: int = 4,
    warmup_steps: int = 200,
    thinning: int = 1,
    seed: int | Generator | None = None,
    progress: bool = False,
) -> Filled:
    """Draw v from p(v | the entries of x that are observed), for each row.

        sample_given(rbm, x, observed)                                   block Gibbs
        sample_given(ParallelTempering(rbm, rungs=12), x, observed)      where one chain would not cross between modes

    All chains of all rows are one batch.

    Shape: x is (rows, V) or (V,), and what is not observed may be anything; observed is bool, alike or (V,).

    Args:
        source: a machine, a model that has one, or a kernel that is not clamped.
        draws: of each chain.
        chains: of each row, each from a start of its own.

    Raises:
        ShapeError, DtypeError, SupportError, DeviceError: of x or observed.
        SettingsError: a number out of range, or a kernel that is clamped already.
    """
    kernel = source if isinstance(source, Kernel) else BlockGibbs(source)
    whole("draws", draws, 1)
    whole("chains", chains, 1)
    if kernel.clamp.visible is not None or kernel.clamp.hidden is not None:
        raise SettingsError(
            got="a kernel that is clamped already", need="one that is free", fix=f"{type(kernel).__name__}(machine)"
        )
    x = x.unsqueeze(0) if x.dim() == 1 else x
    if x.dim() != 2 or (observed.dim() == 2 and observed.shape != x.shape):
        raise ShapeError(
            got=f"x of shape {tuple(x.shape)} and observed of shape {tuple(observed.shape)}",
            need="(rows, V) and (rows, V), or (V,) for all rows",
            fix="x.flatten(1) and observed.flatten(1)",
        )
    rows = x.shape[0]
    if observed.dim() == 2:
        observed = observed.repeat_interleave(chains, 0)
    held = kernel.clamped({"v": (observed, x.repeat_interleave(chains, 0))})
    mcmc = MCMC(
        held, draws, warmup_steps, num_chains=rows * chains, thinning=thinning, seed=seed, disable_progbar=not progress
    )
    mcmc.run()
    stored = mcmc.get_samples(group_by_chain=True, compact=True)
    energy = mcmc.stats["energy"].unflatten(0, (rows, chains)).permute(1, 2, 0)
    unknown = torch.full((rows,), math.nan, dtype=torch.float64)
    return Filled(
        draws=stored["v"].unflatten(0, (rows, chains)),
        mean=_mean(held, stored["h"]).unflatten(0, (rows, chains)).mean(1),
        r_hat=rhat(energy) if draws >= 4 else unknown,
        n_eff=ess(energy) if draws >= 4 else unknown,
        mcmc=mcmc,
    )


@torch.no_grad()
def _mean(kernel: Kernel, h: Tensor) -> Tensor:
    """The mean over the draws of E[v | h], known entries as they are, (chains, V)."""
    machine, total = kernel.machine, 0.0
    for part in h.split(max(1, _AT_ONCE // h[:, 0].numel()), 1):
        total = total + machine.visible.mean(machine.visible_input(part.to(machine.W))).sum(1)
    return kernel.clamp.v(torch.as_tensor(total) / h.shape[1])
