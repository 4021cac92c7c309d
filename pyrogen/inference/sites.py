"""What there is in a Pyro trace: latent and observed sites, parameters."""

from __future__ import annotations

from pyro import poutine
from torch import Tensor

from pyrogen.inference.layout import Site


def latent_sites(trace: poutine.Trace) -> dict[str, Site]:
    """Sample sites that are neither observed nor a plate's subsample, in order."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not poutine.util.site_is_subsample(site)
    }


def observed_sites(trace: poutine.Trace) -> dict[str, Site]:
    """Sample sites with data, without the records that pyro.deterministic makes."""
    sites: list[tuple[str, Site]] = [(n, s) for n, s in trace.nodes.items() if s["type"] == "sample"]
    return {n: s for n, s in sites if s["is_observed"] and not (s["infer"] or {}).get("_deterministic")}


def parameter_leaves(trace: poutine.Trace) -> dict[str, Tensor]:
    """The unconstrained tensors behind the trace's parameters, those that an optimiser steps."""
    sites: list[tuple[str, Site]] = [(n, s) for n, s in trace.nodes.items() if s["type"] == "param"]
    values = {n: s["value"] for n, s in sites}
    leaves = {n: v.unconstrained() if hasattr(v, "unconstrained") else v for n, v in values.items()}
    return {name: leaf for name, leaf in leaves.items() if leaf.is_leaf}
