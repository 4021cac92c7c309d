"""Anything that was fitted, as ArviZ data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from pyrogen.diagnostics.containers import container
from pyrogen.diagnostics.draws import draws_of
from pyrogen.diagnostics.groups import groups_of
from pyrogen.diagnostics.request import Request
from pyrogen.errors import SettingsError


def to_arviz(
    obj: Any,
    *,
    model: Callable[..., Any] | None = None,
    guide: Callable[..., Any] | None = None,
    data: Any = None,
    num_samples: int = 1000,
    log_likelihood: bool = True,
    posterior_predictive: bool = True,
    prior: int = 0,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    vectorize: bool = True,
    chunk: int | None = None,
    max_gb: float = 4.0,
) -> Any:
    """Convert to ArviZ: an InferenceData with ArviZ 0.x, a DataTree with ArviZ 1.x.

        to_arviz(mcmc)                                    a finished pyro.infer.MCMC, any kernel
        to_arviz(fit, data=(x,))                          what pyrogen.inference.fit returned
        to_arviz(guide, model=model, data=(x,))           functions or modules, after pyro.infer.SVI
        to_arviz({"posterior": {"w": w}})                 arrays or tensors, (chain, draw, ...)

    Groups: posterior (with the model's pyro.deterministic sites), sample_stats, log_likelihood (pointwise,
    by plate, without scales), posterior_predictive, observed_data and, if asked, prior and
    prior_predictive. Dimensions are named after the plates. Draws of a guide are independent: one chain
    whose attribute `draws` says "independent", to which R-hat does not apply; how good they are is said by

        khat(idata.sample_stats.log_p.values - idata.sample_stats.log_q.values, dim=1)

    or, where every site lies in one plate, row by row by `khat(idata.sample_stats.log_weight.values, dim=1)`.
    sample_stats of MCMC holds lp = log p(x, z) and, where the kernel reports them, the divergences.

    A model or guide that does not vectorise over draws is run draw by draw, and a group that cannot be
    made is left out; either way a warning gives the reason. Modules are run in eval mode.

    Args:
        model: the model, for a guide; or another model for the draws of obj.
        guide: the guide, if obj is the model; or another guide than the fit's.
        data: the arguments of model and guide: a tuple, a dict of keyword arguments, or one tensor. MCMC
            remembers its own.
        num_samples: how many draws a guide gives.
        prior: how many draws of the prior and of its predictions to add.
        coords: labels, {dimension: labels}; a dimension of a plate has the plate's name.
        dims: {site: names of all its dimensions after chain and draw}, to replace the default ones.
        attrs: more attributes.
        seed: of the draws that are made here; the global generator is then left as it was.
        vectorize: try to run all draws at once.
        chunk: draws that run at once; limits memory.
        max_gb: refuse to build larger results.

    Raises:
        SettingsError: obj cannot be converted, or the result would be larger than max_gb.
        ModelError, ShapeError: guide and model do not fit together, or a plate is subsampled.
    """
    if isinstance(obj, Mapping):
        return container(_nested(obj), coords=coords, dims=dims, attrs=attrs)
    args, kwargs = _arguments(data)
    request = Request(
        model, guide, args, kwargs, num_samples, log_likelihood, posterior_predictive, prior, vectorize, chunk, max_gb
    )
    with _seeded(seed):
        draws = draws_of(obj, request)
        groups, names = groups_of(draws, request)
    if seed is not None:
        draws.attrs = {"seed": seed} | draws.attrs | {"draws_seed": seed}
    return container(groups, coords=coords, dims=names | dict(dims or {}), attrs=draws.attrs | dict(attrs or {}))


def _nested(groups: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    for group, variables in groups.items():
        if not isinstance(variables, Mapping):
            raise SettingsError(
                got=f"{type(variables).__name__} under {group!r}",
                need="a dict of groups, each a dict of variables",
                fix=f"{{'posterior': {{{group!r}: ...}}}}",
            )
    return groups


def _arguments(data: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if data is None:
        return (), {}
    if isinstance(data, Mapping):
        return (), dict(data)
    return tuple(data) if isinstance(data, (tuple, list)) else (data,), {}


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices, enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield
