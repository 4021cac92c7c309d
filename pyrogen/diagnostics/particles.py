"""Run a Pyro program many times: all particles at once where it vectorises, one by one where not.

Together, the program runs once inside a plate "particles" left of all its own plates, so that a site of
batch shape b is drawn with shape (n, 1, ..., 1, *b). Whether a program really means the same there can be
seen only by trying: the first and the last particle are run again alone, and must agree.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.distributions import Unit
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrogen.diagnostics.programs import Program, Site
from pyrogen.errors import ModelError, NotNormalizedError

CHUNK = 2**23
"""Numbers in the sites of all particles that run at once: 32 MiB of float32, and what the networks make of it."""


class Particles(NamedTuple):
    values: dict[str, Tensor]  # (n, *batch, *event), on the CPU
    log_prob: dict[str, Tensor]  # (n, *batch), nats, with the site's mask and without its scale, on the CPU
    together: bool  # False when the program had to run one particle at a time


def run(
    program: Program,
    n: int,
    *,
    draws: Mapping[str, Tensor] | None = None,
    values: Iterable[str] = (),
    scores: Iterable[str] = (),
    fresh: bool = False,
    chunk: int | None = None,
    together: bool = True,
) -> Particles:
    """Run n particles without gradients.

    Args:
        draws: values to put at latent sites, (n, *batch, *event) each; the other sites are sampled.
        values, scores: the sites whose values and log-probabilities are wanted.
        fresh: draw the observed sites anew.
        chunk: particles that run at once; by default as many as keep `CHUNK` numbers.
        together: vectorise, and fall back with a warning if that fails; False never tries.
    """
    chunk = chunk or max(1, CHUNK // max(1, program.numbers))
    job = _Job(program, dict(draws or {}), tuple(values), tuple(scores), fresh)
    with torch.no_grad(), poutine.block(), pyro.validation_enabled(False):
        if together:
            try:
                return job.together(n, chunk)
            except NotNormalizedError:
                raise  # no draw has a density, however they run
            except Exception as error:
                _warn_one_by_one(program, n, error)
        return job.one_by_one(n)


class _Job(NamedTuple):
    program: Program
    draws: dict[str, Tensor]
    values: tuple[str, ...]
    scores: tuple[str, ...]
    fresh: bool

    def together(self, n: int, chunk: int) -> Particles:
        parts = []
        for start in range(0, n, chunk):
            size = min(chunk, n - start)
            draws = {name: x[start : start + size] for name, x in self.draws.items()}
            part = self.collect(self.trace(draws, size), size)
            if self.scores and size > 1 and (start == 0 or start + size == n):
                self.check(part, draws, size)
            parts.append(part)
        return _join(parts, together=True)

    def one_by_one(self, n: int) -> Particles:
        parts = []
        for i in range(n):
            draws = {name: x[i] for name, x in self.draws.items()}
            parts.append(self.collect(self.trace(draws, None), None))
        return _join(parts, together=False)

    def trace(self, draws: dict[str, Tensor], size: int | None) -> poutine.Trace:
        """One trace, of `size` particles in a plate or, when None, of one without a plate."""
        program, sites, nesting = self.program, self.program.sites, self.program.nesting
        fn = _Redraw()(program.fn) if self.fresh else program.fn

        def alone() -> Any:
            return fn(*program.args, **program.kwargs)

        def particles() -> Any:
            with pyro.plate("particles", size, dim=-1 - nesting):
                return alone()

        data = {
            name: (x if size is None else _spread(x, sites[name], nesting)).to(sites[name].value.device)
            for name, x in draws.items()
        }
        return poutine.trace(poutine.condition(alone if size is None else particles, data=data)).get_trace()

    def collect(self, trace: poutine.Trace, size: int | None) -> Particles:
        sites = self.program.sites
        missing = [name for name in (*self.values, *self.scores) if name not in trace.nodes]
        if missing:
            raise ModelError(
                got=f"a run without site {missing[0]!r}",
                need="the same sites in every run, to stack them",
                fix="a model whose control flow does not depend on its draws",
            )
        values = {name: _value(sites[name], trace.nodes[name], size or 1).cpu() for name in self.values}
        nesting = self.program.nesting
        scores = {name: _score(sites[name], trace.nodes[name], size, nesting).cpu() for name in self.scores}
        return Particles(values, scores, size is not None)

    def check(self, part: Particles, draws: dict[str, Tensor], size: int) -> None:
        """Run the first and the last particle alone, at the same draws, and compare their scores."""
        # Delta sites are computed again: their density is an exact comparison, which rounding would break
        known = draws | {n: x for n, x in part.values.items() if self.program.sites[n].kind == "latent"}
        known = {name: x for name, x in known.items() if not self.program.sites[name].is_delta}
        for i in (0, size - 1):
            alone = self.collect(self.trace({name: x[i] for name, x in known.items()}, None), None)
            for name, expected in alone.log_prob.items():
                got = part.log_prob[name][i]
                if not torch.allclose(got, expected[0], rtol=1e-3, atol=1e-3, equal_nan=True):
                    raise ModelError(
                        got=f"log p({name}) = {got.sum():.6g} for particle {i} among {size} at once",
                        need=f"{expected.sum():.6g}, its value alone",
                        fix="plates around independent rows, and indexing from the right (w[..., 0])",
                    )


class _Redraw(Messenger):
    """Samples observed sites anew. poutine.uncondition would also redraw pyro.deterministic, whose Delta
    grows a second copy of the plates, and pyro.factor, which has no value."""

    def _pyro_sample(self, msg: Any) -> None:
        infer = msg["infer"] or {}
        if msg["is_observed"] and not infer.get("_deterministic") and not isinstance(msg["fn"], Unit):
            msg["is_observed"], msg["value"], msg["done"] = False, None, False


def _spread(x: Tensor, site: Site, nesting: int) -> Tensor:
    """(n, *shape) to (n, 1, ..., 1, *shape), as the particle plate has it."""
    return x.reshape(x.shape[0], *[1] * (nesting - len(site.batch)), *site.shape)


def _value(site: Site, node: Any, n: int) -> Tensor:
    value, shape = node["value"], (n, *site.shape)
    if value.numel() == math.prod(shape):
        return value.reshape(shape)
    if value.numel() == math.prod(site.shape):  # the same for all particles
        return value.reshape(site.shape).expand(shape)
    raise _not_stackable(site, value.shape, shape)


def _score(site: Site, node: Any, size: int | None, nesting: int) -> Tensor:
    log_prob = torch.as_tensor(scale_and_mask(node["fn"].log_prob(node["value"]), mask=node["mask"]))
    padding = [] if size is None else [size, *[1] * (nesting - len(site.batch))]
    try:
        log_prob = log_prob.broadcast_to([*padding, *site.batch])
    except RuntimeError:
        raise _not_stackable(site, log_prob.shape, [*padding, *site.batch]) from None
    return log_prob.reshape(size or 1, *site.batch)


def _not_stackable(site: Site, got: Iterable[int], need: Iterable[int]) -> ModelError:
    return ModelError(
        got=f"shape {tuple(got)} at site {site.name!r} under a plate of particles",
        need=f"{tuple(need)}",
        fix="plates around independent rows, .to_event(1) for the rest, and indexing from the right (w[..., 0])",
    )


def _join(parts: list[Particles], together: bool) -> Particles:
    return Particles(
        {name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values},
        {name: torch.cat([part.log_prob[name] for part in parts]) for name in parts[0].log_prob},
        together,
    )


def _warn_one_by_one(program: Program, n: int, error: Exception) -> None:
    name = getattr(program.fn, "__qualname__", type(program.fn).__name__)
    warn_caller(
        f"{name} does not vectorise over draws, so its {n} draws run one by one: {type(error).__name__}: {error}. "
        "vectorize=False runs them one by one without trying."
    )


def warn_caller(message: str) -> None:
    """Warn at the line outside this package that called it."""
    frame, level, last = inspect.currentframe(), 0, 0
    while frame is not None:
        frame, level = frame.f_back, level + 1
        if frame is not None and frame.f_globals.get("__package__") == __package__:
            last = level
    warnings.warn(message, stacklevel=last + 2)
