"""ArviZ's containers, one function for both generations: InferenceData up to 0.23, DataTree from 1.0."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from pyrogen.errors import SettingsError, ShapeError

PER_DRAW = (
    "posterior", "posterior_predictive", "predictions", "log_likelihood", "log_prior", "sample_stats", "prior",
    "prior_predictive", "sample_stats_prior", "unconstrained_posterior", "unconstrained_prior",
)  # fmt: skip
WITHOUT_DRAWS = ("observed_data", "constant_data", "predictions_constant_data")

Groups = Mapping[str, Mapping[str, Any]]


def container(
    groups: Groups,
    *,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> Any:
    """Groups of arrays as an InferenceData or a DataTree, whichever the installed ArviZ works with.

    Args:
        groups: {group: {variable: array}}; draws are (chain, draw, ...), data has no draws.
        coords: {dimension: labels}.
        dims: {variable: names of the dimensions after chain and draw}.
        attrs: written to the whole and to every group.
    """
    arrays = {group: {name: as_array(x) for name, x in variables.items()} for group, variables in groups.items()}
    coords, dims = dict(coords or {}), {name: list(names) for name, names in (dims or {}).items()}
    _check(arrays, coords, dims)
    attrs = {"created_at": datetime.datetime.now(datetime.UTC).isoformat()} | dict(attrs or {})
    with warnings.catch_warnings():
        # ArviZ 0.23 announces 1.0 at import, and takes thousands of parallel chains for a transposed array
        warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing a major refactor", category=FutureWarning)
        warnings.filterwarnings("ignore", message="More chains", category=UserWarning)
        if arviz_generation() >= 1:
            tree = import_module("arviz_base").from_dict(arrays, coords=coords, dims=dims, check_conventions=False)
        else:
            tree = _inference_data(arrays, coords, dims)
    tree.attrs.update(attrs)
    for group in arrays:
        tree[group].attrs.update(attrs)
    return tree


def arviz_generation() -> int:
    """0 for ArviZ up to 0.23, 1 for ArviZ 1.x or its arviz-base alone."""
    try:
        return min(1, int(version("arviz").partition(".")[0]))
    except PackageNotFoundError:
        import_module("arviz_base")
        return 1


def as_array(x: Any) -> np.ndarray:
    """A copy in NumPy: the container must not write into tensors that the caller still holds."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = (x.float() if x.dtype == torch.bfloat16 else x).numpy()
    return np.array(x)


def _inference_data(arrays: dict[str, dict[str, np.ndarray]], coords: dict[str, Any], dims: dict[str, Any]) -> Any:
    az = import_module("arviz")
    known = {"log_prior", "unconstrained_posterior", "unconstrained_prior"}  # to InferenceData, not to from_dict
    idata = az.from_dict(**{g: v for g, v in arrays.items() if g not in known}, coords=coords, dims=dims)
    for group in known & arrays.keys():
        idata.add_groups({group: arrays[group]}, coords=coords, dims=dims)
    return idata


def _check(arrays: dict[str, dict[str, np.ndarray]], coords: dict[str, Any], dims: dict[str, list[str]]) -> None:
    for group, variables in arrays.items():
        if group not in PER_DRAW + WITHOUT_DRAWS:
            raise SettingsError(
                got=f"group {group!r}", need=f"one of {sorted(PER_DRAW + WITHOUT_DRAWS)}", fix="'posterior'"
            )
        for name, x in variables.items():
            leading = 2 if group in PER_DRAW else 0
            if x.ndim < leading:
                raise ShapeError(
                    got=f"{group}[{name!r}] of shape {x.shape}",
                    need="(chain, draw, ...)",
                    fix="x[None] for the draws of one chain",
                )
            if group != "log_likelihood":
                _check_dims(f"{group}[{name!r}]", x.shape[leading:], dims.get(name, []), coords)


def _check_dims(variable: str, shape: tuple[int, ...], names: list[str], coords: dict[str, Any]) -> None:
    if names and len(names) != len(shape):
        raise ShapeError(
            got=f"dims {names} for {variable} of shape {shape} after chain and draw",
            need=f"{len(shape)} names",
            fix="one name per dimension",
        )
    for name, size in zip(names, shape, strict=False):
        if name in coords and len(coords[name]) != size:
            raise ShapeError(
                got=f"{len(coords[name])} coords for dimension {name!r}",
                need=f"{size}, its size in {variable}",
                fix=f"coords={{{name!r}: range({size})}}",
            )
