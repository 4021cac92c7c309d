"""Whether programs mean the same for many particles at once as for one alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine

from pyrogen.errors import ModelError, PyrogenError
from pyrogen.inference.sites import latent_sites
from pyrogen.inference.terms import Terms, collect, in_particles, replayed


def check_particles(model: Callable[..., Any], guide: Callable[..., Any], *args: Any, nesting: int) -> None:
    """Draw two particles together, run each again alone, and compare the log-weights.

    Particles add a dimension on the left. A program that counts dimensions from the left, `z[:, 0]`, or reduces
    over all of them, `z.sum()`, mixes them up, and its bound is wrong without any error.

    Raises:
        ModelError: the programs fail with two particles, or give each another weight than alone.
    """
    fix = "z[..., 0] for z[:, 0], z.sum(-1) for z.sum(); or particles=1"
    with torch.no_grad(), torch.random.fork_rng():
        alone = poutine.trace(guide).get_trace(*args)
        try:
            together = poutine.trace(in_particles(guide, 2, nesting)).get_trace(*args)
            pair = collect(replayed(in_particles(model, 2, nesting), together, *args), together)
        except PyrogenError:
            raise
        except Exception as error:
            raise ModelError(
                got=f"programs that fail with two particles: {type(error).__name__}: {str(error).splitlines()[0]}",
                need="programs that take another dimension on the left",
                fix=fix,
            ) from error
        for k in range(2):
            _give(alone, together, k, nesting)
            again = poutine.trace(poutine.replay(guide, trace=alone)).get_trace(*args)
            _compare(collect(replayed(model, again, *args), again), pair, k, fix)


def _give(alone: poutine.Trace, together: poutine.Trace, k: int, nesting: int) -> None:
    """Put particle k's draws into the trace of one particle."""
    for name, site in latent_sites(together).items():
        value = site["value"].select(-1 - nesting - site["fn"].event_dim, k)
        one: Any = alone.nodes[name]
        one["value"] = value.reshape(one["value"].shape)


def _compare(one: Terms, pair: Terms, k: int, fix: str) -> None:
    mine, theirs = one.log_w[0] + one.global_log_w[0], pair.log_w[k] + pair.global_log_w.expand(2)[k]
    if not torch.allclose(mine, theirs, rtol=1e-3, atol=1e-2, equal_nan=True):
        worst = int((mine - theirs).abs().argmax())
        raise ModelError(
            got=f"a log weight of {float(theirs[worst]):.6g} for a particle among two, {float(mine[worst]):.6g} alone",
            need="programs that keep particles, the dimension on the left, apart",
            fix=fix,
        )
