"""The chains of a machine's kernel as draws for ArviZ."""

from __future__ import annotations

import json

import torch
from torch import Tensor

from pyrogen.diagnostics.draws import Draws, draws_of, from_mcmc, version_of
from pyrogen.diagnostics.request import Request
from pyrogen.errors import SettingsError
from pyrogen.inference.mcmc import MCMC


@draws_of.register
def from_chains(mcmc: MCMC, request: Request) -> Draws:
    """v and h as the chains kept them, their energy and magnetisation, and what the kernel told of every step.

    Energy and magnetisation are functions of a draw, so they are in the posterior: R-hat and the effective sample size
    say something about them, and nothing about a pixel that is always 0. There is no data and no likelihood, so that
    a machine has no other groups.
    """
    if not mcmc.ours:
        return from_mcmc(mcmc, request)
    values = {name: _numbers(x) for name, x in mcmc.get_samples(group_by_chain=True, compact=True).items()}
    sizes = sum(x.numel() * x.element_size() for x in values.values()) / 1e9
    if sizes > request.max_gb:
        raise SettingsError(
            got=f"a result of {sizes:.1f} GB", need=f"at most {request.max_gb:g} GB", fix="thinning, or a larger max_gb"
        )
    derived = {name: mcmc.stats[name] for name in ("energy", "magnetisation")}
    dims = {name: [side] for name, side in (("v", "visible"), ("h", "hidden")) if name in values}
    stats = {name: x for name, x in mcmc.stats.items() if name != "magnetisation"}
    # as Stan names it, up to log Z
    stats["lp"] = -mcmc.stats["energy"]
    attrs = {
        "inference_library": "pyrogen",
        "inference_library_version": version_of("pyrogen"),
        "algorithm": type(mcmc.kernel).__name__,
        "draws": "Markov chains",
        "settings": json.dumps(mcmc.settings()),
    }
    if isinstance(mcmc.seed, int):
        attrs["seed"] = mcmc.seed
    return Draws(values | derived, model=None, stats=stats, dims=dims | {"accepted": ["pair"]}, attrs=attrs)


def _numbers(x: Tensor) -> Tensor:
    """Bits as small integers, with which ArviZ can compute and netCDF can be written."""
    return x.to(torch.int8) if x.dtype == torch.bool else x
