"""What a guide does with its latent space: which units it uses, how much they say, what it can rebuild."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrogen.errors import ModelError, ShapeError
from pyrogen.evaluate.log_likelihood import _device
from pyrogen.inference.programs import Programs
from pyrogen.inference.sites import latent_sites
from pyrogen.inference.terms import run

ACTIVE = 0.01
"""A unit is active when the variance over rows of its posterior mean exceeds this (Burda et al. 2015, section 5.2)."""


@dataclass(frozen=True)
class SiteReport:
    """One latent site of L units, averages over the rows, in nats."""

    kl: float  # E[log q - log p]
    kl_per_dimension: list[float] | None  # None where the KL has no closed form per unit
    mean_variance: list[float]  # variance over rows of each unit's posterior mean
    mutual_information: float | None  # I_q(x; z); None below the first site, whose q(z | x) is not in closed form

    @property
    def active_units(self) -> int:
        return sum(v > ACTIVE for v in self.mean_variance)


@dataclass(frozen=True)
class LatentReport:
    """All latent sites of a guide, and E_q[log p(x | z)] in nats per row."""

    sites: dict[str, SiteReport]
    reconstruction: float
    n: int

    @property
    def collapsed(self) -> bool:
        """No site has an active unit: the decoder ignores its codes."""
        return all(site.active_units == 0 for site in self.sites.values())

    def summary(self) -> dict[str, Any]:
        return {
            "reconstruction": self.reconstruction,
            "n": self.n,
            "collapsed": self.collapsed,
            "sites": {
                name: {
                    "kl": s.kl,
                    "kl_per_dimension": s.kl_per_dimension,
                    "active_units": s.active_units,
                    "units": len(s.mean_variance),
                    "mutual_information": s.mutual_information,
                }
                for name, s in self.sites.items()
            },
        }


@torch.no_grad()
def latent_report(
    model: Any, x: Tensor, *, guide: Any | None = None, particles: int = 8, seed: int = 0
) -> LatentReport:
    """Measure the latent sites of a guide on rows x, (N, D) with N > 1.

        active units      #{l : Var_n E_q[z_l | x_n] > 0.01}
        mutual information  E_n E_q(z | x_n)[ log q(z | x_n) - log 1/N sum_m q(z | x_m) ]   (at most log N)

    Args:
        particles: draws per row; for the mutual information one of them.

    Raises:
        ShapeError: fewer than two rows.
        ModelError: a latent site is not one vector per row.
    """
    programs = Programs.of(model, guide)
    programs.check(x)
    if x.shape[0] < 2:
        raise ShapeError(got="one row", need="at least two, to see variation", fix="more rows")
    x = x.to(_device(programs.modules, x))
    args = programs.args(x, x.shape[0])
    with programs.evaluating(), pyro.validation_enabled(False), torch.random.fork_rng():
        torch.manual_seed(seed)
        terms = run(programs.model, programs.guide, *args, particles=particles, nesting=programs.nesting(x, x.shape[0]))
        draws = [latent_sites(pyro.poutine.trace(programs.guide).get_trace(*args)) for _ in range(particles)]
    if not draws[0]:
        raise ModelError(got="a guide without latent sites", need="one at least", fix="log_likelihood, for the number")
    sites = {}
    for position, (name, site) in enumerate(draws[0].items()):
        if site["infer"].get("is_auxiliary") or site["value"].dim() != 2 or site["value"].shape[0] != x.shape[0]:
            raise ModelError(
                got=f"site {name!r} of shape {tuple(site['value'].shape)}",
                need=f"one vector per row, ({x.shape[0]}, L), drawn by the guide itself",
                fix=".to_event(1) inside the plate of rows",
            )
        means = torch.stack([draw[name]["fn"].mean for draw in draws]).mean(0)
        latent = terms.latents[name]
        units = site["value"].shape[-1]
        per_dimension = latent.kl.mean((0, 1)) if latent.kl is not None and latent.kl.shape[-1] == units else None
        kl = latent.kl.sum(-1) if latent.kl is not None else latent.log_q - latent.log_p
        sites[name] = SiteReport(
            kl=float(kl.mean()),
            kl_per_dimension=None if per_dimension is None else per_dimension.tolist(),
            mean_variance=means.var(0).tolist(),
            mutual_information=_mutual_information(site["fn"], site["value"]) if position == 0 else None,
        )
    return LatentReport(sites, float(terms.log_likelihood.mean()), x.shape[0])


def _mutual_information(q: Any, z: Tensor) -> float:
    """From one draw per row, against the aggregate posterior of all rows."""
    n = z.shape[0]
    at_own = q.log_prob(z)
    # (rows of z in a chunk, 1, L) against a batch of N posteriors
    aggregate = torch.cat([q.log_prob(part.unsqueeze(1)).logsumexp(-1) for part in z.split(64)]) - math.log(n)
    return float((at_own - aggregate).mean())
