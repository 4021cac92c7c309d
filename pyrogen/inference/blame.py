"""Where NaN or infinity came from: the step, and the site or the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from pyro import poutine
from torch import Tensor

from pyrogen.errors import NonFiniteError
from pyrogen.inference.layout import Site
from pyrogen.inference.sites import latent_sites
from pyrogen.inference.terms import in_particles, log_prob, replayed
from pyrogen.ops.precision import networks_in

if TYPE_CHECKING:
    from pyrogen.inference.training import Training


def check_finite(training: Training, weights: bool = False) -> None:
    """Look whether a step went wrong. Waits for the device; of several processes, all look after the same step.

    Args:
        weights: look at the weights too, which the last step may have spoilt under a finite bound.

    Raises:
        NonFiniteError: with the step, and the site or the weights where NaN or infinity was first.
    """
    step = training.guard.first_bad(training.step)
    if step is not None:
        raise _refusal(_origin(training, step))
    if weights and (bad := _bad_weights(training)):
        raise _refusal(_written(training, bad, training.step))


def _origin(training: Training, step: int) -> str:
    """What made the bound of a step bad, the first one that is."""
    what = f"a bound that is NaN or infinite at step {step}"
    if not training.guard.holds:  # the weights are those after it, and tell nothing about it
        return what
    if bad := _bad_weights(training):
        return f"{_written(training, bad, step - 1)}, and {what}"
    told = training.ranks.gather(_blame(training, step))
    for rank, found in enumerate(told):
        if found:
            return f"{what}: {found}{f', in process {rank}' if len(told) > 1 else ''}"
    return f"{what}, and a finite one when that step is run again without compiling"


def _written(training: Training, bad: list[str], step: int) -> str:
    """Which step bad weights are from, given that the bound of `step` was finite.

    If with the weights as they are its bound is not, then they were others when it was taken, and it wrote them.
    """
    bound = _bound(training, step)
    spoilt = any(training.ranks.gather(bound is not None and not math.isfinite(bound)))
    names = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    when = f"by step {step}, whose bound was finite" if spoilt else f"by step {step} or one before it"
    return f"NaN or infinity put into the weights {names} {when}"


def _refusal(got: str) -> NonFiniteError:
    fix = "a smaller learning_rate, clip=1.0, or data on a smaller scale"
    return NonFiniteError(got=got, need="finite values", fix=fix)


def _bad_weights(training: Training) -> list[str]:
    named = training.named
    with torch.no_grad():
        bad = torch.stack([~parameter.isfinite().all() for parameter in named.values()]).tolist()
    return [name for name, wrong in zip(named, bad, strict=True) if wrong]


def _bound(training: Training, step: int) -> float | None:
    """The bound of a step's rows in its noise, with the weights as they are; None if there are no such rows."""
    x = training.rows_of(step)
    if x is None or not len(x):
        return None
    with training.guard.again(step):
        value = training.programs.evaluate(training.objective, x, training.size, step - 1, training.nesting)
    return float(value.bound)


def _blame(training: Training, step: int) -> str | None:
    """What is the first to be NaN or infinite when a step is run again: a site, or else the bound."""
    x = training.rows_of(step)
    if x is None or not len(x):
        return None
    with training.guard.again(step), networks_in(training.programs.precision, x.device.type):
        for where, name, site in _sites(training, x):
            found = {"values": site["value"], "log p" if where == "model" else "log q": log_prob(site)}
            for what, value in found.items():
                if bad := _count(value):
                    return f"first in the {where}'s site {name!r}, {bad} of whose {value.numel()} {what} are bad"
    bound = _bound(training, step)
    if bound is None or math.isfinite(bound):
        return None
    return "first in a KL or a sum, for each site's log-density is finite"


def _sites(training: Training, x: Tensor) -> Iterator[tuple[str, str, Site]]:
    """The sites of guide and model in the order in which they run."""
    programs, particles = training.programs, training.objective.particles
    args, (model, guide) = programs.args(x, training.size), (programs.model, programs.guide)
    if particles > 1:
        model, guide = (in_particles(program, particles, training.nesting) for program in (model, guide))
    guide_trace = poutine.trace(guide).get_trace(*args)
    yield from (("guide", name, site) for name, site in latent_sites(guide_trace).items())
    model_trace = replayed(model, guide_trace, *args)
    for name, site in model_trace.nodes.items():
        if site["type"] == "sample" and not poutine.util.site_is_subsample(site):
            yield "model", name, site


def _count(value: object) -> int:
    """How many entries are NaN or infinite."""
    return int((~value.isfinite()).sum()) if isinstance(value, Tensor) and value.is_floating_point() else 0
