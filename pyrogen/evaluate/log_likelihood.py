"""Held-out log-likelihood: exact where there is a formula, else a bound or an estimate, and which of them it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import pyro
import torch
from torch import Tensor, nn

from pyrogen.distributions.boltzmann import Machine, can_enumerate
from pyrogen.errors import ModelError, SettingsError
from pyrogen.evaluate.csl import csl
from pyrogen.evaluate.partition import LISTED, bracket, log_z
from pyrogen.evaluate.result import LogLikelihood, Method, Undirected, stderr_of
from pyrogen.evaluate.undirected import ends_of, undirected_log_likelihood, usual_method
from pyrogen.inference.programs import Programs
from pyrogen.inference.terms import run
from pyrogen.inference.vectorizing import check_particles
from pyrogen.models.contracts import Chain, Energy, Explicit, Model
from pyrogen.models.energy import DBM, DBN


@torch.no_grad()
def log_likelihood(
    model: Any,
    x: Tensor,
    *,
    guide: Any | None = None,
    method: Method | None = None,
    particles: int = 500,
    seed: int = 0,
    chunk: int = 10_000,
    **annealing: Any,
) -> LogLikelihood:
    """log p(x) per row under a trained model.

        exact   log p(x_n), of an Explicit model, of a Chain of few bits, or of an Energy whose log Z can be summed
        iwae    log 1/K sum_k p(x_n, z_k) / q(z_k | x_n),  z_k ~ q: a lower bound in expectation, tight as K grows
        elbo    1/K sum_k log p(x_n, z_k) / q(z_k | x_n): the looser bound that training maximises
        csl     log 1/K sum_k P(x_n | x~_k), x~_k from the chains of a Chain: conservative, see `evaluate.csl`

    Of an Energy model, log p(x_n) = -F(x_n) - log Z, with log Z by

        ais      annealing: an upper bound of log p(x) in expectation, which can be far too high with a small error
        reverse  annealing down from draws of the model: a lower bound if they are exact
        bracket  both; the mean is that of AIS, and the interval reaches from the one end to the other
        raise    log p_ann(x_n), p_ann the law of where annealing ends: a lower bound of it in expectation

    Args:
        model: a Pair, or a Pyro model whose latents are all local to the rows, with its `guide`; or an Energy model.
        x: rows, (N, D).
        method: by default iwae; of a Chain csl, of an Energy model exact where a layer can be listed, else bracket.
        particles: K.
        seed: of the particles and chains; the global random state is left as it was.
        chunk: rows times particles in memory at a time.
        annealing: settings of `log_z`: data (the rows x unless given), base, steps, schedule, chains, sweeps, starts.

    Raises:
        SettingsError: an unknown method, particles below 1, or a method that this model has not.
        ModelError: the model has global latents, so that rows have no likelihood of their own.
    """
    undirected = isinstance(model, Energy | Machine)
    if method is None:
        method = usual_method(model) if undirected else "csl" if isinstance(model, Chain) else "iwae"
    if method not in get_args(Method):
        known = "'exact', 'iwae', 'elbo', 'csl', 'ais', 'reverse', 'bracket' or 'raise'"
        raise SettingsError(got=f"method {method!r}", need=known, fix="method='iwae'")
    if particles < 1 or chunk < 1:
        raise SettingsError(got=f"particles={particles}, chunk={chunk}", need="both at least 1", fix="particles=500")
    if undirected and method in get_args(Undirected):
        if isinstance(model, Model):
            model.check(x)
        return undirected_log_likelihood(model, x, method, seed, chunk, annealing)  # type: ignore[arg-type]
    if method not in ("exact", "iwae", "elbo", "csl"):
        raise SettingsError(
            got=f"method {method!r} for {type(model).__name__}",
            need="an undirected model, with a machine()",
            fix="method='iwae'",
        )
    if annealing and not isinstance(model, DBM | DBN):
        raise SettingsError(
            got=f"{sorted(annealing)} for method {method!r}", need="no settings of annealing", fix="method='bracket'"
        )
    if method == "exact":
        return _exact(model, x, chunk)
    if isinstance(model, Chain) != (method == "csl"):
        raise SettingsError(
            got=f"method={method!r} for {type(model).__name__}",
            need="'csl' for a Chain, whose training bounds nothing, and for a Chain alone",
            fix="method='csl'" if isinstance(model, Chain) else "method='iwae'",
        )
    if isinstance(model, Chain):
        return csl(model, x, particles=particles, seed=seed, chunk=chunk)
    if isinstance(model, DBM | DBN) and model.log_z is None:
        return _normalized(model, x, seed, annealing, guide=guide, method=method, particles=particles, chunk=chunk)
    programs = Programs.of(model, guide)
    programs.check(x)
    x = x.to(_device(programs.modules, x))
    with programs.evaluating(), pyro.validation_enabled(False), torch.random.fork_rng():
        torch.manual_seed(seed)
        rows_at_once = max(1, chunk // particles)
        nesting = programs.nesting(x[:rows_at_once], x.shape[0])
        first = x[: max(2, rows_at_once)] if len(x) > 1 else x.repeat(2, *[1] * (x.dim() - 1))
        _check(programs, first, particles, nesting)
        log_w = [_log_w(programs, batch, particles, nesting, chunk) for batch in x.split(rows_at_once)]
        parts = [_per_row(w, method) for w in log_w]
    rows, errors, ess = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    n = rows.shape[0]
    return LogLikelihood(
        rows=rows,
        mean=float(rows.mean()),
        stderr=stderr_of(rows),
        mc_stderr=float(errors.pow(2).sum().sqrt()) / n,
        kind="lower bound",
        method=method,
        n=n,
        particles=particles,
        seed=seed,
        ess=ess,
    )


def _normalized(model: DBM | DBN, x: Tensor, seed: int, annealing: dict[str, Any], **settings: Any) -> LogLikelihood:
    """Of a Pyro program with a log Z inside: exact where that can be listed, else the bracket of annealing."""
    model.check(x)
    annealing = {"data": x.to(_device([model], x)), "seed": seed, **annealing}
    exact = can_enumerate(model.machine(), LISTED)
    found = log_z(model, "exact") if exact else bracket(model, **annealing)
    value, error, _ = ends_of(found)
    with model.normalized(value):
        rows = log_likelihood(model, x, seed=seed, **settings)
    kind = rows.kind if exact else "estimate"
    return replace(rows, kind=kind, mc_stderr=math.hypot(rows.mc_stderr, error), log_z=found)


def _exact(model: Any, x: Tensor, chunk: int) -> LogLikelihood:
    if not isinstance(model, Explicit | Chain):
        raise SettingsError(
            got=f"method='exact' for {type(model).__name__}", need="a model with an exact log_prob", fix="method='iwae'"
        )
    model.check(x)
    x = x.to(_device([model], x))
    rows = torch.cat([model.log_prob(batch) for batch in x.split(chunk)]).double().cpu()
    return LogLikelihood(rows, float(rows.mean()), stderr_of(rows), 0.0, "exact", "exact", rows.shape[0], 0, 0)


def _log_w(programs: Programs, x: Tensor, particles: int, nesting: int, chunk: int) -> Tensor:
    """(K, N) log-weights in float64, in as many passes as `chunk` allows."""
    at_once = min(particles, max(1, chunk // x.shape[0]))
    out = []
    for start in range(0, particles, at_once):
        k = min(at_once, particles - start)
        terms = run(programs.model, programs.guide, *programs.args(x, x.shape[0]), particles=k, nesting=nesting)
        out.append(terms.log_w.double())
    return torch.cat(out)


def _check(programs: Programs, x: Tensor, particles: int, nesting: int) -> None:
    """On two rows at least: one looks local whatever the program does."""
    args = programs.args(x, x.shape[0])
    with torch.random.fork_rng():  # the number does not depend on what was checked before
        terms = run(programs.model, programs.guide, *args)
    if terms.global_latents or terms.n_rows != x.shape[0] or terms.thinned:
        inside = ", with a subsampled plate inside" if terms.thinned else ""
        raise ModelError(
            got=f"{len(terms.global_latents)} global latents and {terms.n_rows} rows for {x.shape[0]} data{inside}",
            need="latents that are all local to a plate over the rows, and all entries of a row",
            fix="the ELBO objective, which bounds the evidence of the whole data set",
        )
    if particles > 1:
        check_particles(programs.model, programs.guide, *args, nesting=nesting)


def _per_row(log_w: Tensor, method: Method) -> tuple[Tensor, Tensor, Tensor]:
    """The bound of each row, its Monte-Carlo standard error and effective sample size."""
    k = log_w.shape[0]
    w = log_w.softmax(0)
    ess = 1 / w.pow(2).sum(0)
    if method == "elbo":
        spread = log_w.std(0) if k > 1 else torch.full_like(ess, math.nan)
        return log_w.mean(0), spread / math.sqrt(k), ess
    # delta method: the relative standard error of the mean weight, var(w) / mean(w)^2 / K
    relative = (k * w).var(0) / k if k > 1 else torch.full_like(ess, math.nan)
    return log_w.logsumexp(0) - math.log(k), relative.sqrt(), ess


def _device(modules: list[nn.Module], x: Tensor) -> torch.device:
    for module in modules:
        for parameter in module.parameters():
            return parameter.device
    return x.device
