"""Bounds on log p(x), each a few lines on the terms of one run of guide and model.

A call returns a loss to differentiate and the bound itself, always the true one in nats per row:
whatever weighs or clips the KL in the loss does not touch the number that is reported.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from torch import Tensor

from pyrogen.errors import ModelError, SettingsError
from pyrogen.inference.schedules import Schedule, at, check_schedule
from pyrogen.inference.score_function import refuse_score, score_term, vimco_term
from pyrogen.inference.terms import Latent, Terms, run
from pyrogen.inference.weights import Weighed

if TYPE_CHECKING:
    from pyrogen.inference.training import Training


class Value(NamedTuple):
    loss: Tensor  # (), its gradient is minus the estimated gradient of the (weighted) bound per row
    bound: Tensor  # (), nats per row, detached


class Objective(ABC):
    """A bound: K particles, a way to take the gradient, a value."""

    particles: int
    stops_guide: bool = False
    runs_programs: ClassVar[bool] = True
    """Whether it is made of the terms of guide and model; else it knows the model in another way."""
    unlowered: ClassVar[str] = ""
    """Why its gradient cannot be traced into a graph, if it cannot."""

    def __call__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        step: int = 0,
        nesting: int | None = None,
    ) -> Value:
        """Run both programs and form the bound.

        Args:
            step: where the schedules are.
            nesting: depth of the programs' plates; traced when None and more than one particle is asked for.
        """
        terms = run(model, guide, *args, particles=self.particles, nesting=nesting, stop_guide=self.stops_guide)
        if self.stops_guide:
            refuse_score(terms, type(self).__name__)
        return self.value(terms, step)

    @abstractmethod
    def value(self, terms: Terms, step: int) -> Value: ...

    def weighted(
        self, weight: Tensor, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **how: Any
    ) -> Value:
        """The same, where each row of the batch counts `weight` times, (N,), in the loss; the bound is of each once.

        Raises:
            SettingsError: a weight of a row is no factor in this objective.
        """
        raise SettingsError(
            got=f"weights of rows and {type(self).__name__}",
            need="an objective that is a sum over the rows",
            fix="ELBO() or MaximumLikelihood()",
        )

    def score(self, programs: Any, x: Tensor, seed: int) -> Tensor | None:
        """What the history says of rows after an epoch, nats per row; None for the mean of the bounds of batches."""
        return None

    def describe(self, model: Any) -> str:
        """What the numbers of the history are."""
        return "a bound on log p(x)"

    def comparable(self, model: Any) -> bool:
        """Whether the scores of two epochs say which is better; not if each has an error of its own."""
        return True

    def after_epoch(self, training: Training) -> None:
        """Told in all processes after each epoch, when buffers are the same in all, and before anything is scored."""
        return None


@dataclass(frozen=True)
class ELBO(Objective):
    """E_q[log p(x | z)] - KL(q(z | x) || p(z)), with the KL in closed form where there is one.

    loss = -1/N sum_n [ 1/K sum_k log p(x_n | z_kn) - beta KL_n ], global sites divided by the size of the data.
    Sites without a reparameterisation use the score function, with the mean of the other particles as
    baseline when K > 1.

    Args:
        particles: K.
        beta: weight of the KL in the loss, a number or a schedule such as Warmup(1000).
        free_bits: the KL of each latent dimension, averaged over the batch, counts in the loss for at least
            this many nats (Kingma et al. 2016, arXiv:1606.04934, appendix C.8).
        gradient: "auto", or "stl" for the path derivative alone, whose variance is zero at q = p(z | x)
            (Roeder et al. 2017, arXiv:1703.09194).
    """

    particles: int = 1
    beta: float | Schedule = 1.0
    free_bits: float = 0.0
    gradient: Literal["auto", "stl"] = "auto"

    def __post_init__(self) -> None:
        _check_particles(self.particles)
        _check_beta(self.beta)
        if not _is_number(self.free_bits) or not 0 <= self.free_bits < math.inf:
            raise SettingsError(got=f"free_bits = {self.free_bits!r}", need="nats, 0 or more", fix="free_bits=0.1")
        _check_choice("ELBO", self.gradient, ("auto", "stl"))

    @property
    def stops_guide(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.gradient == "stl"

    def weighted(
        self, weight: Tensor, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **how: Any
    ) -> Value:
        return self(Weighed(weight)(model), guide, *args, **how)

    def value(self, terms: Terms, step: int) -> Value:
        kls = {name: self._kl(name, site) for name, site in terms.latents.items()}
        beta = at(self.beta, step)
        weighted_kl = {name: beta * terms.latents[name].scale * kl.sum(-1) for name, kl in kls.items()}
        local, overall = _split(terms, terms.weighted_likelihood, weighted_kl)
        loss = -(local.mean() + overall.mean() / terms.size) - score_term(terms, local, overall)
        if self.free_bits:
            loss = loss + sum(beta * self._shortfall(terms, terms.latents[name], kl) for name, kl in kls.items())
        true_local, true_overall = _split(terms, terms.log_likelihood, {n: kl.sum(-1) for n, kl in kls.items()})
        return Value(loss, (true_local.mean() + true_overall.mean() / terms.size).detach())

    def _shortfall(self, terms: Terms, site: Latent, kl: Tensor) -> Tensor | float:
        """What the dimensions' average KLs lack to free_bits: added to the loss, it takes their gradient away."""
        average = kl.mean((0, 1))
        lack = site.scale * (average.clamp(min=self.free_bits) - average).sum()
        return lack / terms.size if site.is_global else lack

    def _kl(self, name: str, site: Latent) -> Tensor:
        """(K, N, D), in closed form or as the sampled log q - log p."""
        if self.free_bits and (site.is_auxiliary or isinstance(site.scale, Tensor)):
            raise ModelError(
                got=f"free bits and site {name!r}, " + ("auxiliary" if site.is_auxiliary else "with weighted rows"),
                need="one KL per latent site, with one weight",
                fix="free_bits=0",
            )
        if self.free_bits and not site.reparameterized and site.kl is None:
            raise ModelError(
                got="free bits on a site without closed-form KL and without reparameterisation",
                need="either of the two",
                fix="free_bits=0",
            )
        if site.kl is not None and not self.stops_guide:
            return site.kl
        return (site.log_q - site.log_p).unsqueeze(-1)


@dataclass(frozen=True)
class IWAE(Objective):
    """The importance-weighted bound E[log 1/K sum_k p(x, z_k) / q(z_k | x)], formed per row.

    Sites without a reparameterisation use VIMCO's leave-one-out signals (Mnih and Rezende 2016,
    arXiv:1602.06725). A program with global sites gets one weight for the whole data set.

    Source: Burda et al. 2015, arXiv:1509.00519.

    Args:
        particles: K.
        beta: weight of log q - log p in the loss, a number or a schedule; the bound is reported at 1.
        gradient: "auto", or "dreg" for the doubly reparameterized one, unbiased, with a signal-to-noise
            ratio that does not fall with K (Tucker et al. 2018, arXiv:1810.04152).
    """

    particles: int = 5
    beta: float | Schedule = 1.0
    gradient: Literal["auto", "dreg"] = "auto"

    def __post_init__(self) -> None:
        _check_particles(self.particles)
        _check_beta(self.beta)
        _check_choice("IWAE", self.gradient, ("auto", "dreg"))

    @property
    def stops_guide(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.gradient == "dreg"

    def value(self, terms: Terms, step: int) -> Value:
        if terms.thinned:
            raise ModelError(
                got="an importance-weighted bound with a subsampled plate inside the rows",
                need="every entry of a row: a weight from some of them, scaled up, bounds nothing",
                fix="ELBO(), or subsampling of rows only",
            )
        beta = at(self.beta, step)
        kls = {name: site.log_q - site.log_p for name, site in terms.latents.items()}
        weighted = {name: beta * terms.latents[name].scale * kl for name, kl in kls.items()}
        log_w = _one_weight(terms, *_split(terms, terms.weighted_likelihood, weighted))
        per_row = log_w.shape[1] / terms.size * terms.scale if not terms.global_latents else 1 / terms.size
        rows = log_w.logsumexp(0) - math.log(self.particles)
        if self.stops_guide:
            w = log_w.softmax(0).detach()
            self._hook(terms, w)
            loss = -(w * log_w).sum(0).mean() * per_row
        else:
            loss = -(rows.mean() + vimco_term(terms, log_w.detach(), rows.detach())) * per_row
        true_log_w = _one_weight(terms, *_split(terms, terms.log_likelihood, kls))
        bound = (true_log_w.logsumexp(0) - math.log(self.particles)).mean() * per_row
        return Value(loss, bound.detach())

    def _hook(self, terms: Terms, w: Tensor) -> None:
        """Multiply what flows back through each z by its weight once more: w^2 on the path."""
        for name, z in terms.entering.items():
            site = terms.latents[name]
            factor = terms.layout.spread(w, z, site.event_dim, site.is_global)
            z.register_hook(factor.mul)


def _split(terms: Terms, likelihood: Tensor, kls: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """likelihood minus the local KLs, (K, N), and minus the global KLs, (K,)."""
    local, overall = likelihood, likelihood.new_zeros(terms.particles)
    for name, kl in kls.items():
        if terms.latents[name].is_global:
            overall = overall - kl.squeeze(1)
        else:
            local = local - kl
    return local, overall


def _one_weight(terms: Terms, local: Tensor, overall: Tensor) -> Tensor:
    """The log-weights to average: (K, N) per row, or (K, 1) for everything when sites are global."""
    if not terms.global_latents:
        return local
    if terms.scale != 1:
        raise ModelError(
            got=f"an importance weight on a minibatch of {terms.n_rows} of {terms.size} rows and global latents",
            need="all rows, since a weight of global latents does not split over rows",
            fix="ELBO() for minibatches, or the whole data set as one batch",
        )
    return (local.sum(1) + overall).unsqueeze(1)


def _check_particles(particles: Any) -> None:
    if not isinstance(particles, int) or isinstance(particles, bool) or particles < 1:
        raise SettingsError(got=f"particles = {particles!r}", need="a positive whole number", fix="particles=5")


def _check_beta(beta: Any) -> None:
    if callable(beta):
        check_schedule("beta", beta)
    elif not _is_number(beta) or not math.isfinite(beta):
        raise SettingsError(got=f"beta = {beta!r}", need="a number or a schedule", fix="beta=Warmup(1000)")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_choice(objective: str, gradient: str, known: tuple[str, ...]) -> None:
    if gradient not in known:
        raise SettingsError(
            got=f"{objective} with gradient = {gradient!r}", need=f"one of {known}", fix=f'gradient="{known[0]}"'
        )
