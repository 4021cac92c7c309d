"""The inverse temperatures of tempering, from the base at 0 to the target at 1, and how they are found."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.errors import SettingsError

_LEAST = 1e-3
"""Rejection that a pair counts with at least: the ladder stays strictly increasing where swaps never fail."""


class Ladder(NamedTuple):
    betas: Tensor  # (rungs,), from 0 to 1
    rejected: Tensor  # (rungs - 1,), sum of the rejection rates since the betas were set
    seen: int  # steps in that sum

    def with_rates(self, accepted: Tensor) -> Ladder:
        """After one more step, in which swaps had these probabilities, (chains, rungs - 1)."""
        return self._replace(rejected=self.rejected + (1 - accepted).mean(0), seen=self.seen + 1)

    def retuned(self) -> Ladder:
        """With betas at which each pair would reject alike.

            Lambda(beta_k) = sum_{i <= k} r_i,     beta_k' = Lambda^-1( k / (rungs - 1) Lambda(1) )

        where r_i is the mean rejection rate of pair i, and Lambda, the communication barrier, is linear in between.

        Source: Syed, Bouchard-Cote, Deligiannidis and Doucet 2022, arXiv:1905.02939.
        """
        if self.seen == 0:
            return self
        rates = (self.rejected / self.seen).clamp(min=_LEAST)
        barrier = torch.cat([rates.new_zeros(1), rates.cumsum(0)])
        wanted = torch.linspace(0, 1, len(barrier), dtype=barrier.dtype, device=barrier.device) * barrier[-1]
        pair = (torch.searchsorted(barrier, wanted) - 1).clamp(0, len(rates) - 1)
        part = (wanted - barrier[pair]) / rates[pair]
        betas = self.betas[pair] + part * (self.betas[pair + 1] - self.betas[pair])
        betas[0], betas[-1] = 0, 1
        return fresh(betas)


def fresh(betas: Tensor) -> Ladder:
    """A ladder about which nothing is known."""
    return Ladder(betas, betas.new_zeros(len(betas) - 1), 0)


def read_betas(rungs: int | None, betas: Tensor | None) -> Tensor:
    """The betas given, or `rungs` evenly spaced ones, in float64.

    Raises:
        SettingsError: fewer than two, not rising from 0 to 1, or both arguments.
    """
    if betas is None:
        rungs = 16 if rungs is None else rungs
        if not isinstance(rungs, int) or isinstance(rungs, bool) or rungs < 2:
            raise SettingsError(got=f"rungs={rungs!r}", need="a whole number, at least 2", fix="rungs=16")
        return torch.linspace(0, 1, rungs, dtype=torch.float64)
    betas = torch.as_tensor(betas, dtype=torch.float64)
    if rungs is not None and betas.shape != (rungs,):
        raise SettingsError(got=f"rungs={rungs} and {betas.numel()} betas", need="one of the two", fix="rungs=None")
    if betas.dim() != 1 or len(betas) < 2 or not bool((betas.diff() > 0).all()):
        raise SettingsError(
            got=f"betas = {betas.tolist()}", need="at least 2, strictly rising", fix="torch.linspace(0, 1, 16)"
        )
    if betas[0] != 0 or betas[-1] != 1:
        raise SettingsError(
            got=f"betas from {betas[0]:g} to {betas[-1]:g}",
            need="from 0, the base of independent units, to 1, the machine",
            fix="torch.linspace(0, 1, 16)",
        )
    return betas
