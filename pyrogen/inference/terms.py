"""One run of guide and model, and the terms that every bound is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.replay_messenger import ReplayMessenger
from torch import Tensor

from pyrogen.distributions import closed_form_kl, kl_per_dimension
from pyrogen.errors import ModelError
from pyrogen.inference.agreement import check_auxiliary, check_plates, check_sites
from pyrogen.inference.layout import PARTICLES, Layout, Site, subsampling
from pyrogen.inference.sites import latent_sites, observed_sites
from pyrogen.inference.stopping import RandomState, Redraw, held, pass_through

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
    is_auxiliary: bool = False  # a site that only the guide has


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
    thinned: bool = False  # a plate inside the rows is subsampled: log p(x | z) of a row is an estimate
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
    noise = RandomState() if stop_guide else None
    if particles > 1:
        nesting = plate_nesting(model, guide, *args) if nesting is None else nesting
        model, guide = in_particles(model, particles, nesting), in_particles(guide, particles, nesting)
    guide_trace = poutine.trace(guide).get_trace(*args)
    entering = pass_through(guide_trace) if stop_guide else {}
    model_trace = replayed(model, guide_trace, *args)
    if noise is not None:
        with noise.again(), held(guide_trace), Redraw(guide_trace):
            guide_trace = poutine.trace(guide).get_trace(*args)
            # now: a distribution such as a flow's uses its parameters when it is asked for a density
            for site in latent_sites(guide_trace).values():
                site[HELD] = log_prob(site)
    return collect(model_trace, guide_trace, entering)


def plate_nesting(model: Program, guide: Program, *args: Any) -> int:
    """The depth of the plates in both programs, found by running them once without gradients."""
    with torch.no_grad(), poutine.block(), torch.random.fork_rng():
        guide_trace = poutine.trace(guide).get_trace(*args)
        model_trace = replayed(model, guide_trace, *args)
    sites: list[Site] = [*guide_trace.nodes.values(), *model_trace.nodes.values()]
    dims = [frame.dim for s in sites if s["type"] == "sample" for frame in s["cond_indep_stack"] if frame.vectorized]
    return -min(dims, default=0)


def replayed(model: Program, guide_trace: poutine.Trace, *args: Any) -> poutine.Trace:
    """The model's trace at the guide's draws."""
    return poutine.trace(_Replay(guide_trace)(model)).get_trace(*args)


def in_particles(program: Program, particles: int, nesting: int) -> Program:
    def vectorized(*args: Any) -> Any:
        with pyro.plate(PARTICLES, particles, dim=-1 - nesting):
            return program(*args)

    return vectorized


class _Replay(ReplayMessenger):
    """poutine.replay, which gives the guide's rows to the model's plates too, also when they are another number."""

    def _pyro_sample(self, msg: Any) -> None:
        super()._pyro_sample(msg)
        if msg["done"] and poutine.util.site_is_subsample(msg):
            need = msg["fn"].size
            got = self.trace.nodes[msg["name"]]["fn"].size  # pyright: ignore[reportOptionalMemberAccess]
            if need != got:
                raise ModelError(
                    got=f"plate {msg['name']!r} of {got} rows in the guide",
                    need=f"{need}, as in the model",
                    fix="a guide that follows the data it is called with (an AutoGuide with local latents keeps "
                    "the number of rows of its first call)",
                )


def collect(model_trace: poutine.Trace, guide_trace: poutine.Trace, entering: dict[str, Tensor] | None = None) -> Terms:
    """Sort the log-probabilities of two traces into rows.

    Raises:
        ModelError: the guide's sites are not the model's, or rows cannot be told.
    """
    check_sites(model_trace, guide_trace)
    observed, latents = observed_sites(model_trace), latent_sites(guide_trace)
    order = [name for name in model_trace.nodes if name in latents]
    layout = Layout.of(list(observed.values()), [model_trace.nodes[name] for name in order])
    likelihood = weighted = torch.zeros(())
    for site in observed.values():
        density = log_prob(site)
        likelihood = likelihood + layout.reduce(density, site)
        # inside the sum, because a scale may be a tensor in the shape of the plates
        weighted = weighted + layout.reduce(_program_scale(site) * density, site)
    terms = {
        name: _latent(layout, model_trace.nodes[name], site, exact=_parents_first(name, order, list(latents)))
        if name in order
        else _auxiliary(layout, site)
        for name, site in latents.items()
    }
    check_auxiliary(terms)
    in_rows = [*observed.values(), *(s for n, s in latents.items() if not terms[n].is_global)]
    thinned = any(layout.inner_scale(site) != 1 for site in in_rows)
    return Terms(likelihood, weighted, terms, layout.full_size, layout, thinned, entering or {})


def _latent(layout: Layout, p_site: Site, q_site: Site, exact: bool) -> Latent:
    check_plates(layout, p_site, q_site)
    kl = None
    if exact and p_site["mask"] is None and q_site["mask"] is None:
        kl = _closed_form(layout, p_site, q_site)
    return Latent(
        log_p=layout.reduce(log_prob(p_site), p_site),
        log_q=layout.reduce(log_prob(q_site), q_site),
        scale=_one_scale(layout, p_site, q_site),
        is_global=layout.is_global(p_site),
        reparameterized=bool(getattr(q_site["fn"], "has_rsample", False)),
        event_dim=q_site["fn"].event_dim,
        kl=kl,
    )


def _auxiliary(layout: Layout, q_site: Site) -> Latent:
    """A site that only the guide has, such as an AutoGuide's unconstrained value: a part of log q."""
    log_q = layout.reduce(log_prob(q_site), q_site)
    return Latent(
        log_p=torch.zeros_like(log_q),
        log_q=log_q,
        scale=_row_scale(layout, q_site),
        is_global=layout.is_global(q_site),
        reparameterized=bool(getattr(q_site["fn"], "has_rsample", False)),
        event_dim=q_site["fn"].event_dim,
        is_auxiliary=True,
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


HELD = "log_prob with the parameters held"


def log_prob(site: Site) -> Tensor:
    """Of a site's value; zero where it is masked, and unscaled."""
    if HELD in site:
        return site[HELD]
    return scale_and_mask(site["fn"].log_prob(site["value"]), 1.0, site["mask"])


def _program_scale(site: Site) -> float | Tensor:
    """The site's scale without the part that its plates' subsampling put there."""
    scale = site["scale"] / subsampling(site["cond_indep_stack"])
    if isinstance(scale, float) and abs(scale - 1) < 1e-9:
        return 1.0
    return scale


def _row_scale(layout: Layout, site: Site) -> float | Tensor:
    """The site's own scale: a number, or (K, N) if rows have their own."""
    scale = _program_scale(site)
    return layout.per_row(scale, site) if isinstance(scale, Tensor) and scale.numel() > 1 else scale


def _one_scale(layout: Layout, p_site: Site, q_site: Site) -> float | Tensor:
    """poutine.scale on either side, or the same on both, means the same: a weight on the site's KL."""
    p_scale, q_scale = _row_scale(layout, p_site), _row_scale(layout, q_site)
    if isinstance(q_scale, float) and q_scale == 1.0:
        return p_scale
    if isinstance(p_scale, float) and p_scale == 1.0:
        return q_scale
    p_value, q_value = (torch.as_tensor(scale).double().cpu() for scale in (p_scale, q_scale))
    if not torch.allclose(p_value, q_value):
        raise ModelError(
            got=f"site {p_site['name']!r} scaled by {p_scale} in the model and {q_scale} in the guide",
            need="one weight for its KL term",
            fix="poutine.scale on one side only, or the same on both",
        )
    return p_scale
