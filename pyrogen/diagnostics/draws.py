"""Posterior draws and what made them: the one form that everything convertible is brought to.

`draws_of` is a single-dispatch function, so that a new kind of result becomes convertible by registering
a function that returns `Draws`:

    @draws_of.register(MyResult)
    def _(result, request):
        return Draws({"w": result.w}, survey(result.model, request.args, request.kwargs))
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import singledispatch
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from pyro.infer import MCMC
from torch import Tensor, nn

from pyrogen.diagnostics.particles import run
from pyrogen.diagnostics.programs import Program, Site, evaluating, survey
from pyrogen.diagnostics.request import Request
from pyrogen.errors import ModelError, NonFiniteError, PyrogenError, SettingsError, ShapeError

Fn = Callable[..., Any]


@dataclass
class Draws:
    """Draws of a posterior.

    Args:
        values: (chains, draws, *batch, *event) per latent site.
        model: the Pyro model that the draws belong to, or None, with the reason in `no_model` where one is missed.
        log_q: their log density, (chains, draws, *rows), when they are independent draws of a guide.
        rows: the plates that log_q keeps apart, because every site lies in all of them.
        stats: more per-draw numbers, (chains, draws, ...).
        dims: names of the dimensions after chain and draw, where no model names them.
    """

    values: dict[str, Tensor]
    model: Program | None
    no_model: str = ""
    log_q: Tensor | None = None
    rows: tuple[str, ...] = ()
    stats: dict[str, Tensor] = field(default_factory=dict)
    dims: dict[str, list[str]] = field(default_factory=dict)
    attrs: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(chains, draws)."""
        first = next(iter(self.values.values()))
        return first.shape[0], first.shape[1]


@singledispatch
def draws_of(obj: Any, request: Request) -> Draws:
    """Draws of whatever was fitted: a fit, a pair or an SVI object, or a guide with its model."""
    if hasattr(obj, "model") and hasattr(obj, "guide") and hasattr(obj, "history"):
        return from_fit(obj, request)
    if callable(getattr(obj, "model", None)) and callable(getattr(obj, "guide", None)):
        return from_guide(request.model or obj.model, request.guide or obj.guide, request)
    if callable(obj) and request.guide is not None:
        return from_guide(request.model or obj, request.guide, request)
    # not obj.model: an AutoGuide's own copy of the model puts initial values where it should sample
    if callable(obj) and request.model is not None:
        return from_guide(request.model, obj, request)
    raise SettingsError(
        got=f"{type(obj).__name__}" + (" without its model" if callable(obj) else ""),
        need="a pyro.infer.MCMC, a fit, a guide with its model, or a dict of groups",
        fix="to_arviz(guide, model=model, data=(x,)) or to_arviz({'posterior': {...}})",
    )


def from_fit(fit: Any, request: Request) -> Draws:
    """Draws from the guide of a `pyrogen.inference.Fit`, with its seed and settings as attributes."""
    model = request.model or _program(fit.model, "model")
    guide = request.guide or _program(fit.model if fit.guide is None else fit.guide, "guide")
    draws = from_guide(model, guide, replace(request, args=_beside(fit.model, request.args)))
    draws.attrs |= {
        "inference_library": "pyrogen",
        "inference_library_version": version_of("pyrogen"),
        "algorithm": str(fit.settings.get("objective", "SVI")),
        "settings": json.dumps(fit.settings, default=str),
    }
    if fit.seed is not None:
        draws.attrs["seed"] = int(fit.seed)
    return draws


def _program(obj: Any, role: str) -> Fn:
    """`obj.model` or `obj.guide` where that is a method, as a Pair has it; else obj is the program itself."""
    method = getattr(obj, role, None)
    return method if callable(method) and getattr(method, "__self__", None) is obj else obj


def _beside(model: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments on the device that the model was trained on."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if parameter is None:
        return args
    return tuple(x.to(parameter.device) if isinstance(x, Tensor) else x for x in args)


def from_guide(model: Fn, guide: Fn, request: Request) -> Draws:
    """num_samples independent draws of the guide, as one chain."""
    with evaluating(model, guide):
        q = survey(guide, request.args, request.kwargs)
        given = {name: site.value for name, site in q.of("latent").items() if not site.is_auxiliary}
        p = _model_beside(q, model, request, given)
        shared = [name for name in given if name in p.of("latent")]
        request.afford(p, request.num_samples)
        scored = list(q.of("latent", "factor"))
        particles = run(
            q,
            request.num_samples,
            values=q.of("latent"),
            scores=scored,
            chunk=request.chunk,
            together=request.vectorize,
        )
    for name in shared:
        if not torch.isfinite(particles.values[name]).all():
            raise NonFiniteError(
                got=f"NaN or infinite draws of site {name!r} from the guide",
                need="finite draws",
                fix="looking at the guide's parameters: the fit diverged",
            )
    in_model = [p.sites[name] for name in (*shared, *p.of("observed", "factor"))]
    rows = common_plates([q.sites[name] for name in scored] + in_model)
    log_q = sum((q.sites[name].per_plate(particles.log_prob[name], rows) for name in scored), torch.zeros(()))
    return Draws(
        values={name: particles.values[name][None] for name in shared},
        model=p,
        log_q=log_q[None] if scored else None,
        rows=rows,
        attrs=_pyro_attrs("SVI") | {"guide": _name(guide), "draws": "independent"},
    )


@draws_of.register
def from_mcmc(mcmc: MCMC, request: Request) -> Draws:
    """The chains of a Pyro MCMC run, with any kernel."""
    try:
        values = {name: x.detach() for name, x in mcmc.get_samples(group_by_chain=True).items()}
    except AttributeError:  # select_samples of None
        values = {}
    if not values:
        raise SettingsError(got="an MCMC object without draws", need="a finished run", fix="mcmc.run(...) first")
    kernel = type(mcmc.kernel).__name__
    draws = Draws(values, model=None, attrs=_pyro_attrs(kernel) | {"draws": "Markov chains"})
    draws.stats |= _diverging(mcmc, draws.shape)
    model = request.model or getattr(mcmc.kernel, "model", None)
    if model is None:
        draws.no_model = f"{kernel} has no Pyro model (give it as model=)"
        return draws
    args, kwargs = request.args, request.kwargs
    if not args and not kwargs:  # not public, and the only place where Pyro keeps them
        args, kwargs = getattr(mcmc, "_args", None) or (), getattr(mcmc, "_kwargs", None) or {}
    try:
        with evaluating(model):
            program = survey(model, args, kwargs, {name: x[0, 0] for name, x in values.items()})
    except PyrogenError:
        raise
    except (ValueError, RuntimeError) as error:
        draws.no_model = f"the model does not run on the draws ({error})"
        return draws
    unknown = [
        name for name, x in values.items() if name not in program.sites or program.sites[name].shape != x.shape[2:]
    ]
    if unknown:
        draws.no_model = f"the model has no site {unknown[0]!r} of shape {tuple(values[unknown[0]].shape[2:])}"
    else:
        request.afford(program, math.prod(draws.shape))
        draws.model = program
    return draws


def _diverging(mcmc: MCMC, shape: tuple[int, int]) -> dict[str, Tensor]:
    """Where transitions diverged, if the kernel says. `mcmc.diagnostics()` says it too, but computes the
    effective sample size first and so fails on discrete states and on fewer than four draws."""
    by_chain = getattr(mcmc, "_diagnostics", None) or []
    if not by_chain or any("divergences" not in (one or {}) for one in by_chain):
        return {}
    diverging = torch.zeros(shape, dtype=torch.bool)
    for chain, one in enumerate(by_chain):
        diverging[chain, list(one["divergences"])] = True
    return {"diverging": diverging}


def common_plates(sites: list[Site]) -> tuple[str, ...]:
    """The plates that hold every one of the sites, outermost first."""
    if not sites:
        return ()
    return tuple(name for name in sites[0].plates.values() if all(name in s.plates.values() for s in sites))


def _model_beside(guide: Program, model: Fn, request: Request, given: dict[str, Tensor]) -> Program:
    """The model, surveyed at the guide's values; refused if they share no site or differ in shapes."""
    try:
        found = survey(model, request.args, request.kwargs, given)
    except (ValueError, RuntimeError):
        _check_shapes(survey(model, request.args, request.kwargs), guide)  # says it better, if that is the cause
        raise
    _check_shapes(found, guide)
    return found


def _check_shapes(model: Program, guide: Program) -> None:
    shared = [name for name in guide.of("latent") if name in model.of("latent")]
    for name in shared:
        p, q = model.sites[name].shape, guide.sites[name].shape
        if p != q:
            raise ShapeError(
                got=f"site {name!r} of shape {tuple(q)} from the guide",
                need=f"{tuple(p)}, as in the model",
                fix="the same plates and event dimensions in both",
            )
    if not shared:
        raise ModelError(
            got=f"a guide with sites {list(guide.sites)} and a model with latent sites {list(model.of('latent'))}",
            need="a latent site in both",
            fix="the same names in guide and model",
        )


def _pyro_attrs(algorithm: str) -> dict[str, Any]:
    return {
        "inference_library": "pyro",
        "inference_library_version": version_of("pyro-ppl"),
        "algorithm": algorithm,
    }


def _name(fn: Any) -> str:
    return getattr(fn, "__qualname__", type(fn).__name__)


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
