"""log p(x) = -F(x) - log Z of rows under an undirected model, with what is known of log Z."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Machine, can_enumerate, check_values, log_partition, raised, three_piece
from pyrogen.errors import SettingsError
from pyrogen.evaluate.partition import (
    LISTED,
    Bracket,
    Kind,
    LogZ,
    Schedule,
    base_of,
    bracket,
    ladder_of,
    log_z,
    machine_of,
    rows_of,
)
from pyrogen.evaluate.result import LogLikelihood, Undirected, stderr_of
from pyrogen.models.contracts import Energy
from pyrogen.models.energy import DBM

_ANNEALING = [name for name in signature(log_z).parameters if name not in ("model", "method", "seed")]


def usual_method(model: Any) -> Undirected:
    """exact where a layer can be listed in seconds, else the bracket."""
    return "exact" if can_enumerate(machine_of(model), LISTED) else "bracket"


@torch.no_grad()
def undirected_log_likelihood(
    model: Any, x: Tensor, method: Undirected, seed: int, chunk: int, annealing: Mapping[str, Any]
) -> LogLikelihood:
    """See `log_likelihood`; annealing are the settings of `log_z`."""
    check_undirected(model, method)
    # `starts` is where the reverse begins, which RAISE begins at the rows
    known = [name for name in _ANNEALING if method != "raise" or not name.startswith("start")]
    if unknown := [name for name in annealing if name not in known]:
        raise SettingsError(got=f"{unknown[0]!r} for method {method!r}", need=f"one of {known}", fix="steps=14_500")
    if isinstance(model, Machine):
        check_values(model.visible, x)
    x = x.to(machine_of(model).b)
    settings = {"data": x, "seed": seed, **annealing}
    if method == "raise":
        return _raised(model, x, **settings)
    if method == "exact":
        found: LogZ | Bracket = log_z(model, "exact")
    elif method == "bracket":
        found = bracket(model, **settings)
    else:
        found = log_z(model, method, **settings)
    value, error, chains = ends_of(found)
    rows = -torch.cat([model.free_energy(part).double() for part in x.split(chunk)]).cpu() - value
    is_bound = isinstance(model, Energy) and model.free_energy_is_bound
    return LogLikelihood(
        rows=rows,
        mean=float(rows.mean()),
        stderr=stderr_of(rows),
        mc_stderr=error,
        kind=_kind(found, is_bound),
        method=method,
        n=len(rows),
        particles=chains,
        seed=seed,
        log_z=found,
    )


def check_undirected(model: Any, method: str, steps: int | None = None) -> None:
    """Refuse, before a long training too, a method that a machine of this size or kind has not.

    Args:
        steps: of the usual ladder.

    Raises:
        SettingsError: the sum over all states of machines that are too large, RAISE of a deep machine, whose rows are
            a part of its visible side only, or too few steps.
    """
    if method == "exact" and not can_enumerate(machine_of(model)):
        log_partition(machine_of(model))  # refuses in words
    if method == "raise" and isinstance(model, DBM):
        raise SettingsError(
            got="method 'raise' for a DBM", need="a machine of the rows and one hidden layer", fix="method='bracket'"
        )
    if steps is not None:
        three_piece(steps)


def ends_of(found: LogZ | Bracket) -> tuple[float, float, int]:
    """The lower log Z, the larger error of the two, and the chains."""
    if isinstance(found, Bracket):
        return found.below.value, max(found.below.stderr, found.above.stderr), found.below.settings["chains"]
    return found.value, found.stderr, found.settings.get("chains", 0)


def _kind(found: LogZ | Bracket, is_bound: bool) -> Kind:
    """Of log p(x): log Z turns round, and -F(x) may itself be a lower bound."""
    turned: dict[Kind, Kind] = {"lower bound": "upper bound", "upper bound": "lower bound"}
    kind = "estimate" if isinstance(found, Bracket) else turned.get(found.kind, found.kind)
    if is_bound:
        return "lower bound" if kind in ("exact", "lower bound") else "estimate"
    return kind


def _raised(
    model: Any,
    x: Tensor,
    data: Tensor,
    seed: int,
    base: Tensor | None = None,
    chains: int = 10,
    steps: int = 1_000,
    schedule: Schedule | Sequence[float] = "three-piece",
    sweeps: int = 1,
) -> LogLikelihood:
    """RAISE: the law of where annealing ends has a likelihood that is not too high in expectation."""
    machine = machine_of(model)
    generator = torch.Generator(machine.b.device).manual_seed(seed)
    if base is None:
        base = base_of(machine, rows_of(model, machine, data, seed), generator)
    ladder = ladder_of(machine, base, schedule, steps, generator)
    log_w = raised(machine, base, ladder, x, chains, generator, sweeps=sweeps).T.cpu()
    share = log_w.softmax(0)
    error = (chains * share).var(0) / chains if chains > 1 else torch.full_like(share[0], math.nan)
    rows = log_w.logsumexp(0) - math.log(chains)
    return LogLikelihood(
        rows=rows,
        mean=float(rows.mean()),
        stderr=stderr_of(rows),
        mc_stderr=float(error.sum().sqrt()) / len(rows),
        kind="lower bound",
        method="raise",
        n=len(rows),
        particles=chains,
        seed=seed,
        ess=1 / share.square().sum(0),
    )
