"""From posterior draws to the groups of ArviZ's schema."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pyrogen.diagnostics.draws import Draws
from pyrogen.diagnostics.particles import Particles, run, warn_caller
from pyrogen.diagnostics.programs import Program, Site, evaluating
from pyrogen.diagnostics.request import Request

Groups = dict[str, dict[str, Tensor]]


def groups_of(draws: Draws, request: Request) -> tuple[Groups, dict[str, list[str]]]:
    """The groups, and the names of each variable's dimensions after chain and draw."""
    builder = _Builder(draws, request)
    if draws.model is None:
        if draws.no_model:
            builder.leave_out(draws.no_model)
        return builder.bare(), draws.dims
    with evaluating(draws.model.fn):
        return builder.build(draws.model), builder.dims


@dataclass
class _Builder:
    draws: Draws
    request: Request
    dims: dict[str, list[str]] = field(default_factory=dict)

    def bare(self) -> Groups:
        """Without a model: the draws, and what the sampler said."""
        groups: Groups = {"posterior": dict(self.draws.values)}
        return groups | ({"sample_stats": self.draws.stats} if self.draws.stats else {})

    def build(self, model: Program) -> Groups:
        self.dims = {name: site.dims for name, site in model.sites.items() if site.kind != "factor"}
        observed, predicted = model.of("observed"), self.predicted(model)
        groups = self.bare()
        groups["posterior"] = {name: model.sites[name].unpadded(x, 2) for name, x in self.draws.values.items()}
        if observed:
            groups["observed_data"] = {name: site.unpadded(site.value, 0) for name, site in observed.items()}
        reason = self.incomplete(model)
        if reason:
            self.leave_out(reason)
        else:
            particles = self.score(model, groups)
            if self.request.posterior_predictive and (observed or predicted):
                groups["posterior_predictive"] = self.predict(model, [*predicted, *observed], particles.together)
        if not observed:
            self.leave_out("the model observes no site (pyro.factor is not data)", predictive=not predicted)
        return groups | (self.prior(model) if self.request.prior else {})

    def incomplete(self, model: Program) -> str:
        """Why the draws do not say enough to run the model on them; empty if they do."""
        for name, site in model.of("latent").items():
            independent = self.draws.log_q is not None
            if name not in self.draws.values and (site.is_enumerated or not independent):
                how = "it was summed out" if site.is_enumerated else "summed out, or not saved"
                return f"site {name!r} of the model has no draws ({how}; pyro.infer.infer_discrete can draw it)"
        return ""

    def predicted(self, model: Program) -> dict[str, Site]:
        """Unobserved sites that the guide leaves to the model."""
        return {name: site for name, site in model.of("latent").items() if name not in self.draws.values}

    def score(self, model: Program, groups: Groups) -> Particles:
        """Run the model on the draws; fill log_likelihood, sample_stats and the deterministic sites."""
        observed, computed = model.of("observed"), model.of("deterministic")
        scored = [*self.draws.values, *model.of("observed", "factor")]
        particles = self.run(model, values=computed, scores=scored)
        for name, site in computed.items():
            groups["posterior"][name] = site.unpadded(self.fold(particles.values[name]), 2)
        if self.request.log_likelihood and observed:
            groups["log_likelihood"] = {
                name: site.unpadded(self.fold(particles.log_prob[name]), 2, event=False)
                for name, site in observed.items()
            }
        by_row = [model.sites[name].per_plate(particles.log_prob[name], self.draws.rows) for name in scored]
        groups["sample_stats"] = self.draws.stats | self.densities(self.fold(sum(by_row, torch.zeros(()))))
        return particles

    def densities(self, log_p: Tensor) -> dict[str, Tensor]:
        """lp of a Markov chain; log p, log q and their difference by row of independent draws."""
        log_q = self.draws.log_q
        if log_q is None:
            return {"lp": log_p}
        stats = {"log_p": log_p.flatten(2).sum(2) if log_p.dim() > 2 else log_p}
        stats["log_q"] = log_q.flatten(2).sum(2) if log_q.dim() > 2 else log_q
        if self.draws.rows:
            stats["log_weight"] = log_p - log_q
            self.dims["log_weight"] = list(self.draws.rows)
        return stats

    def predict(self, model: Program, names: list[str], together: bool) -> dict[str, Tensor]:
        values = self.run(model, values=names, fresh=True, together=together).values
        return {name: model.sites[name].unpadded(self.fold(x), 2) for name, x in values.items()}

    def prior(self, model: Program) -> Groups:
        """Draws of all latent sites from the model alone, and of the data given them."""
        latent, observed = model.of("latent", "deterministic"), model.of("observed")
        values = run(
            model,
            self.request.prior,
            values=[*latent, *observed],
            fresh=True,
            chunk=self.request.chunk,
            together=self.request.vectorize,
        ).values
        tidy = {name: model.sites[name].unpadded(x[None], 2) for name, x in values.items()}
        groups = {"prior": {name: tidy[name] for name in latent}}
        return groups | ({"prior_predictive": {name: tidy[name] for name in observed}} if observed else {})

    def run(self, model: Program, together: bool = True, **wanted) -> Particles:
        chains, draws = self.draws.shape
        flat = {name: x.reshape(chains * draws, *x.shape[2:]) for name, x in self.draws.values.items()}
        together = together and self.request.vectorize
        return run(model, chains * draws, draws=flat, chunk=self.request.chunk, together=together, **wanted)

    def fold(self, x: Tensor) -> Tensor:
        """(chains * draws, ...) to (chains, draws, ...)."""
        return x.reshape(*self.draws.shape, *x.shape[1:])

    def leave_out(self, reason: str, predictive: bool = True) -> None:
        """Warn, if what cannot be made was asked for."""
        groups = ["log_likelihood"] * self.request.log_likelihood
        groups += ["posterior_predictive"] * (self.request.posterior_predictive and predictive)
        if groups:
            warn_caller(
                f"to_arviz leaves out {' and '.join(groups)}: {reason}. "
                f"{', '.join(f'{name}=False' for name in groups)} says that they are not needed."
            )
