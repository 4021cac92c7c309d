"""One run of guide and model, and the terms that every bound is made of."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrogen.distributions import closed_form_kl, kl_per_dimension
from pyrogen.errors import ModelError
from pyrogen.inference.layout import Layout, Site

Program = Callable[..., Any]


@dataclass
class Latent:
    """What one latent site contributes, per particle and row: (K, N), or (K, 1) for a global site."""

    log_p: Tensor
    log_q: Tensor
    scale: float | Tensor  # poutine.scale, whichever program carried it
    is_global: bool
    reparameterized: bool
    event_dim: int
    kl: Tensor | None = None  # KL(q || p) in closed form, (K, N, D) or (K, N, 1)


@dataclass
class Terms:
    """log p(x, z) - log q(z | x), taken apart. K particles, N rows of a data set of `size` rows.

        log_w[k, n] = log p(x_n | z_kn) + sum over local sites of (log p(z_kn) - log q(z_kn))

    Rows come from the plates that all observed sites share. Subsampling scales are not inside: a bound
    is formed per row first and scaled by size / N afterwards, so that it stays a bound.
    """

    log_likelihood: Tensor  # (K, N), as the model has it
    weighted_likelihood: Tensor  # (K, N), with any poutine.scale of the observed sites: for training
    latents: dict[str, Latent]
    size: int
    layout: Layout
    entering: dict[str, Tensor] = field(default_factory=dict)  # z as the model saw it, for gradient hooks

    @property
    def particles(self) -> int:
        return self.log_likelihood.shape[0]

    @property
    def n_rows(self) -> int:
        return self.log_likelihood.shape[1]

    @property
    def scale(self) -> float:
        """How many rows of the data set each row of the minibatch stands for."""
        return self.size / self.n_rows

    @property
    def local_latents(self) -> list[Latent]:
        return [site for site in self.latents.values() if not site.is_global]

    @property
    def global_latents(self) -> list[Latent]:
        return [site for site in self.latents.values() if site.is_global]

    @property
    def log_w(self) -> Tensor:
        """(K, N); without the global sites' terms."""
        return self.log_likelihood + sum((s.log_p - s.log_q for s in self.local_latents), torch.zeros(()))

    @property
    def log_p(self) -> Tensor:
        return self.log_likelihood + sum((s.log_p for s in self.local_latents), torch.zeros(()))

    @property
    def log_q(self) -> Tensor:
        return sum((s.log_q for s in self.local_latents), torch.zeros_like(self.log_likelihood))

    @property
    def global_log_w(self) -> Tensor:
        """(K,), the global sites' log p - log q."""
        return sum((s.log_p - s.log_q for s in self.global_latents), self.log_likelihood.new_zeros(1, 1)).squeeze(-1)


def run(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int = 1,
    nesting: int | None = None,
    stop_guide: bool = False,
) -> Terms:
    """Run the guide, replay the model against it, and sort the log-probabilities into rows.

    Args:
        model, guide: Pyro programs, called with *args.
        particles: K; more than one are drawn in one pass, in a plate left of all others.
        nesting: the plates' depth; traced once when None.
        stop_guide: log q is then evaluated with the guide's parameters held constant, so that
            gradients reach them only along the path through z (Roeder et al. 2017).

    Raises:
        ModelError: latent sites of guide and model differ, the guide sampled other shapes than the
            model expects, or rows cannot be told.
    """
    if particles > 1:
        nesting = plate_nesting(model, guide, *args) if nesting is None else nesting
        model, guide = _in_particles(model, particles, nesting), _in_particles(guide, particles, nesting)
    guide_trace = poutine.trace(guide).get_trace(*args)
    entering = _pass_through(guide_trace) if stop_guide else {}
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
    if stop_guide:
        with _held(guide_trace):
            guide_trace = poutine.trace(poutine.replay(guide, trace=guide_trace)).get_trace(*args)
    _check_sites(model_trace, guide_trace)
    return _collect(model_trace, guide_trace, entering)


def plate_nesting(model: Program, guide: Program, *args: Any) -> int:
    """The depth of the plates in both programs, found by running them once without gradients."""
    with torch.no_grad(), poutine.block(), torch.random.fork_rng():
        guide_trace = poutine.trace(guide).get_trace(*args)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
    sites: list[Site] = [*guide_trace.nodes.values(), *model_trace.nodes.values()]
    dims = [frame.dim for s in sites if s["type"] == "sample" for frame in s["cond_indep_stack"] if frame.vectorized]
    return -min(dims, default=0)


def latent_sites(trace: poutine.Trace) -> dict[str, Site]:
    """Sample sites that are neither observed nor a plate's subsample, in order."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site["is_observed"] and not poutine.util.site_is_subsample(site)
    }


def observed_sites(trace: poutine.Trace) -> dict[str, Site]:
    return {n: s for n, s in trace.nodes.items() if s["type"] == "sample" and s["is_observed"]}


def parameter_leaves(trace: poutine.Trace) -> dict[str, Tensor]:
    """The unconstrained tensors behind the trace's parameters, those that an optimiser steps."""
    sites: list[tuple[str, Site]] = [(n, s) for n, s in trace.nodes.items() if s["type"] == "param"]
    values = {n: s["value"] for n, s in sites}
    leaves = {n: v.unconstrained() if hasattr(v, "unconstrained") else v for n, v in values.items()}
    return {name: leaf for name, leaf in leaves.items() if leaf.is_leaf}


def _in_particles(program: Program, particles: int, nesting: int) -> Program:
    def vectorized(*args: Any) -> Any:
        with pyro.plate("particles", particles, dim=-1 - nesting):
            return program(*args)

    return vectorized


def _pass_through(trace: poutine.Trace) -> dict[str, Tensor]:
    """Give the replays z through an identity of its own, where a hook sees only what the model sends back."""
    entering = {}
    for name, site in latent_sites(trace).items():
        if site["value"].requires_grad:
            site["value"] = entering[name] = site["value"].view_as(site["value"])
    return entering


@contextmanager
def _held(trace: poutine.Trace) -> Iterator[None]:
    """Treat the parameters that the trace used as constants."""
    leaves = [leaf for leaf in parameter_leaves(trace).values() if leaf.requires_grad]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not registered in the param store")
            for leaf in leaves:
                leaf.requires_grad_(False)
            yield
    finally:
        for leaf in leaves:
            leaf.requires_grad_(True)


def _collect(model_trace: poutine.Trace, guide_trace: poutine.Trace, entering: dict[str, Tensor]) -> Terms:
    observed, latents = observed_sites(model_trace), latent_sites(guide_trace)
    order = [name for name in model_trace.nodes if name in latents]
    layout = Layout.of(list(observed.values()), [model_trace.nodes[name] for name in order])
    likelihood = weighted = torch.zeros(())
    for site in observed.values():
        log_prob = layout.reduce(_log_prob(site), site)
        likelihood = likelihood + log_prob
        weighted = weighted + _program_scale(site) * log_prob
    terms = {
        name: _latent(layout, model_trace.nodes[name], site, exact=_parents_first(name, order, list(latents)))
        if name in order
        else _auxiliary(layout, site)
        for name, site in latents.items()
    }
    return Terms(likelihood, weighted, terms, layout.full_size, layout, entering)


def _latent(layout: Layout, p_site: Site, q_site: Site, exact: bool) -> Latent:
    kl = None
    if exact and p_site["mask"] is None and q_site["mask"] is None:
        kl = _closed_form(layout, p_site, q_site)
    return Latent(
        log_p=layout.reduce(_log_prob(p_site), p_site),
        log_q=layout.reduce(_log_prob(q_site), q_site),
        scale=_one_scale(p_site, q_site),
        is_global=layout.is_global(p_site),
        reparameterized=bool(getattr(q_site["fn"], "has_rsample", False)),
        event_dim=q_site["fn"].event_dim,
        kl=kl,
    )


def _auxiliary(layout: Layout, q_site: Site) -> Latent:
    """A site that only the guide has, such as an AutoGuide's unconstrained value: a part of log q."""
    log_q = layout.reduce(_log_prob(q_site), q_site)
    return Latent(
        log_p=torch.zeros_like(log_q),
        log_q=log_q,
        scale=_program_scale(q_site),
        is_global=layout.is_global(q_site),
        reparameterized=bool(getattr(q_site["fn"], "has_rsample", False)),
        event_dim=q_site["fn"].event_dim,
    )


def _closed_form(layout: Layout, p_site: Site, q_site: Site) -> Tensor | None:
    """KL(q || p) as (K, N, D), per entry of the event where it factorises; None without a formula."""
    per_dimension = kl_per_dimension(q_site["fn"], p_site["fn"])
    if per_dimension is not None:
        return layout.reduce(per_dimension, q_site, trailing=1)
    kl = closed_form_kl(q_site["fn"], p_site["fn"])
    return None if kl is None else layout.reduce(kl, q_site).unsqueeze(-1)


def _parents_first(name: str, model_order: list[str], guide_order: list[str]) -> bool:
    """Whether the guide draws every possible parent of a site before it: only then is the closed-form KL,
    taken at the parents' draws, the conditional expectation of log q - log p."""
    before = set(guide_order[: guide_order.index(name)])
    return set(model_order[: model_order.index(name)]) <= before


def _log_prob(site: Site) -> Tensor:
    return scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])


def _program_scale(site: Site) -> float | Tensor:
    """The site's scale without the part that its plates' subsampling put there."""
    subsampling = math.prod(
        (frame.full_size or frame.size) / frame.size for frame in site["cond_indep_stack"] if frame.size
    )
    scale = site["scale"] / subsampling
    if isinstance(scale, float) and abs(scale - 1) < 1e-9:
        return 1.0
    return scale


def _one_scale(p_site: Site, q_site: Site) -> float | Tensor:
    """poutine.scale on either side, or the same on both, means the same: a weight on the site's KL."""
    p_scale, q_scale = _program_scale(p_site), _program_scale(q_site)
    if isinstance(q_scale, float) and q_scale == 1.0:
        return p_scale
    if isinstance(p_scale, float) and p_scale == 1.0:
        return q_scale
    if not torch.allclose(torch.as_tensor(p_scale), torch.as_tensor(q_scale)):
        raise ModelError(
            got=f"site {p_site['name']!r} scaled by {p_scale} in the model and {q_scale} in the guide",
            need="one weight for its KL term",
            fix="poutine.scale on one side only, or the same on both",
        )
    return p_scale


def _check_sites(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    in_model, in_guide = set(latent_sites(model_trace)), set(latent_sites(guide_trace))
    in_guide -= {name for name in in_guide - in_model if guide_trace.nodes[name]["infer"].get("is_auxiliary")}
    if in_model != in_guide:
        raise ModelError(
            got=f"latent sites {sorted(in_model)} in the model and {sorted(in_guide)} in the guide",
            need="the same sites in both",
            fix="a pyro.sample in the guide for each of the model's latents, under the same name",
        )
    for name in in_guide:
        p: Site = model_trace.nodes[name]
        q: Site = guide_trace.nodes[name]
        expected, got = p["fn"].shape(), tuple(q["value"].shape)
        if tuple(expected) != got and torch.broadcast_shapes(expected, got) != torch.Size(got):
            raise ModelError(
                got=f"site {name!r} of shape {got} from the guide",
                need=f"{tuple(expected)}, as in the model",
                fix="a guide whose plates follow the data it is called with (some AutoGuides keep the first batch size)",
            )


__all__ = ["Latent", "Terms", "latent_sites", "observed_sites", "plate_nesting", "run"]
