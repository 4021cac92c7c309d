"""A kernel against the truth: its means beside the exact ones, and what its draws are worth."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Machine, Units, log_partition
from pyrogen.errors import SettingsError
from pyrogen.inference import MCMC, Kernel
from pyrogen.ops.convergence import ess, rhat

FALSE_ALARM = 1e-6
"""Probability that a right kernel is called wrong."""
_RARE = 50
"""A mean is compared where so many effective draws are expected in each of a unit's states: else it is not normal."""


class Moments(NamedTuple):
    """E v, (V,), E h, (H,), and E E(v, h), ()."""

    v: Tensor
    h: Tensor
    energy: Tensor


def exact_moments(machine: Machine) -> Moments:
    """By listing the smaller layer: the gradients of log Z, in float64.

    Raises:
        SettingsError: a layer is continuous, or both are too large to list.
    """
    if not all(math.isfinite(units.count) for units in (machine.visible, machine.hidden)):
        raise SettingsError(got="a layer that cannot be listed", need="units with few values", fix="Bernoulli units")
    W, b, c = (x.detach().double().requires_grad_() for x in (machine.W, machine.b, machine.c))
    log_z = log_partition(Machine(machine.visible, machine.hidden, W, b, c))
    vh, v, h = torch.autograd.grad(log_z, (W, b, c))
    energy = -((W * vh).sum() + b @ v + c @ h)
    return Moments(v, h, energy.detach())


@dataclass(frozen=True)
class KernelCheck:
    """How far a kernel's means are from the exact ones, in their standard errors, and how fast it gets there."""

    largest_z: float  # of all means that were compared
    allowed_z: float  # what a right kernel exceeds once in a million times
    means: int  # how many were compared
    rare: int  # units that are so seldom in one of their states that their mean says nothing
    energy: float  # mean over draws and chains
    energy_exact: float
    r_hat: float  # of the energy
    n_eff: float  # of the energy, all chains
    n_eff_of_units: float  # the least of all units that were compared
    steps: int  # of each chain, without the warm-up
    chains: int
    seconds: float
    report: dict[str, Any]  # the kernel's own

    @property
    def passed(self) -> bool:
        return self.largest_z <= self.allowed_z

    def summary(self) -> dict[str, Any]:
        """All of it, and n_eff of the energy per 1000 steps of a chain."""
        return asdict(self) | {"passed": self.passed, "n_eff_per_1000_steps": 1000 * self.n_eff / self._all_steps}

    @property
    def _all_steps(self) -> int:
        return self.steps * self.chains

    def __str__(self) -> str:
        verdict = "agrees with" if self.passed else "differs from"
        return (
            f"{verdict} the exact means of {self.means} quantities: largest |z| {self.largest_z:.2f}, "
            f"allowed {self.allowed_z:.2f}; energy {self.energy:.3f}, exact {self.energy_exact:.3f}; "
            f"r_hat {self.r_hat:.4f}, n_eff {self.n_eff:.0f} of {self._all_steps} steps"
        )


def check_kernel(
    kernel: Kernel,
    *,
    draws: int = 200,
    chains: int = 1000,
    warmup_steps: int = 200,
    thinning: int = 1,
    seed: int = 0,
    quiet: bool = True,
) -> KernelCheck:
    """Run the kernel on its machine and compare E v, E h and the mean energy with the exact ones.

        z = (mean - exact) / sqrt(exact variance / n_eff)

    n_eff is each quantity's own. A z-score sees a wrong law and, by r_hat, chains that have not met; not a kernel whose
    chains all miss the same mode, unless that changes a mean.

    Raises:
        SettingsError: a machine that cannot be listed, fewer than 4 draws, so few that no mean says anything, or
            other numbers out of range.
    """
    exact = exact_moments(kernel.machine)
    if draws < 4:
        raise SettingsError(got=f"draws={draws}", need="at least 4", fix="draws=200")
    mcmc = MCMC(kernel, draws, warmup_steps, num_chains=chains, thinning=thinning, seed=seed, disable_progbar=quiet)
    start = time.perf_counter()
    mcmc.run()
    seconds = time.perf_counter() - start
    kept, energy = mcmc.get_samples(group_by_chain=True, compact=True), mcmc.stats["energy"].double()
    units = {"v": kernel.machine.visible, "h": kernel.machine.hidden}
    scores, worth = zip(*(_scores(kept[name], getattr(exact, name), units[name]) for name in units), strict=True)
    n_eff = ess(energy)
    z = torch.cat([*scores, ((energy.mean() - exact.energy) / (energy.std() / n_eff.sqrt()))[None]])
    compared, total = ~z.isnan(), z.numel()
    means = int(compared.sum())
    if not means:
        raise SettingsError(
            got=f"{draws} draws of {chains} chains, in which every unit is too seldom in one of its states",
            need=f"{_RARE} effective draws in each state of some unit",
            fix=f"draws={10 * draws}",
        )
    return KernelCheck(
        largest_z=float(z[compared].abs().max()),
        allowed_z=NormalDist().inv_cdf(1 - FALSE_ALARM / 2 / means),
        means=means,
        rare=total - means,
        energy=float(energy.mean()),
        energy_exact=float(exact.energy),
        r_hat=float(rhat(energy)),
        n_eff=float(n_eff),
        n_eff_of_units=min(torch.cat(worth)[compared[:-1]].tolist(), default=math.nan),
        steps=draws * thinning,
        chains=chains,
        seconds=seconds,
        report=kernel.report(mcmc.last_state, {name: x.double().mean((0, 1)) for name, x in mcmc.stats.items()}),
    )


def _scores(x: Tensor, exact: Tensor, units: Units) -> tuple[Tensor, Tensor]:
    """z of the mean of each entry, NaN where it says nothing, and its n_eff."""
    spin = ~units.wrong(-torch.ones_like(exact))  # of bits and categories no entry can be -1
    p, mean = torch.where(spin, (exact + 1) / 2, exact), x.double().mean((0, 1))
    n_eff = ess(x, rank=False)
    z = (torch.where(spin, (mean + 1) / 2, mean) - p) / (p * (1 - p) / n_eff).sqrt()
    return torch.where(torch.minimum(p, 1 - p) * n_eff > _RARE, z, math.nan), n_eff
