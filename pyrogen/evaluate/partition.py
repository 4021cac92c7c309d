"""log Z of an undirected model: exact, from below by annealing, from above by its reverse, and the two as a bracket."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann import (
    Machine,
    adaptive,
    annealed,
    annealed_back,
    base_log_z,
    can_enumerate,
    check_ladder,
    exact_draws,
    linear,
    log_partition,
    long_draws,
    tempered_draws,
    three_piece,
)
from pyrogen.errors import ModelError, SettingsError
from pyrogen.models.contracts import Energy, Model
from pyrogen.models.energy import DBN

Kind = Literal["exact", "lower bound", "upper bound", "estimate"]
Method = Literal["exact", "ais", "reverse"]
Schedule = Literal["three-piece", "linear", "adaptive"]
Starts = Literal["exact", "long", "tempered"]

FEWEST = 5.0
"""Below this effective number of chains the standard error is itself too small, and no interval is given."""
EXACT = "exact draws"
LISTED = 2**22
"""States of the smaller layer up to which exact answers are taken without asking: seconds on a CPU."""


@dataclass(frozen=True)
class LogZ:
    """log Z in nats, and how well it is known.

    By annealing it is a lower bound in expectation, by the reverse from exact draws an upper bound; from other draws
    an estimate. `stderr` is by the delta method, from the spread of the weights: modes that no chain saw are not in it.
    """

    value: float
    kind: Kind
    method: Method
    stderr: float = 0.0
    ess: float | None = None  # effective number of the chains, by the weights
    log_weights: Tensor | None = field(default=None, repr=False)  # (chains,): means Z / Z_0, or Z_0 / Z by the reverse
    settings: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def interval(self) -> tuple[float, float] | None:
        """Of three standard errors of the mean weight; None where hardly any chain carries it."""
        if self.kind == "exact":
            return (self.value, self.value)
        if self.ess is None or self.ess < FEWEST:
            return None
        up = math.log1p(3 * self.stderr)
        down = math.log1p(-3 * self.stderr) if 3 * self.stderr < 1 else -math.inf
        return (
            (self.value - up, self.value - down) if self.method == "reverse" else (self.value + down, self.value + up)
        )

    def summary(self) -> dict[str, Any]:
        """What a result file records."""
        out: dict[str, Any] = {"log_z": self.value, "kind": self.kind, "method": self.method}
        if self.kind != "exact":
            out |= {"stderr": self.stderr, "ess": self.ess, "interval": self.interval and list(self.interval)}
        return out | self.settings

    def __str__(self) -> str:
        if self.kind == "exact":
            return f"log Z = {self.value:.3f} (exact)"
        name = "reverse AIS" if self.method == "reverse" else "AIS"
        interval = self.interval
        error = f"({interval[0]:.3f}, {interval[1]:.3f})" if interval else "no interval, too few chains carry it"
        start = f", starts: {self.settings['starts']}" if "starts" in self.settings else ""
        chains = f"{self.settings.get('chains', '?')} chains, ESS {self.ess:.1f}"
        return f"log Z ~ {self.value:.3f} {error} ({name}, {self.kind}, {chains}{start})"


@dataclass(frozen=True)
class Bracket:
    """log Z from below and from above: what to report, for each alone can be far off with a small error."""

    below: LogZ
    above: LogZ

    @property
    def width(self) -> float:
        """Nats between the two; about 0 where annealing worked, and large where the chains do not mix."""
        return self.above.value - self.below.value

    def summary(self) -> dict[str, Any]:
        return {"width": self.width, "below": self.below.summary(), "above": self.above.summary()}

    def __str__(self) -> str:
        low, high = sorted((self.below.value, self.above.value))
        crossed = " (the ends have crossed, as far as their errors let them)" if self.width < 0 else ""
        ends = f"log Z in [{low:.3f}, {high:.3f}], {high - low:.3f} nats wide{crossed}"
        return f"{ends}\n  {self.below}\n  {self.above}"


@torch.no_grad()
def log_z(
    model: Any,
    method: Method = "ais",
    *,
    data: Tensor | None = None,
    base: Tensor | None = None,
    steps: int = 14_500,
    schedule: Schedule | Sequence[float] = "three-piece",
    chains: int = 100,
    sweeps: int = 1,
    starts: Starts | Tensor | None = None,
    start_sweeps: int = 1_000,
    seed: int = 0,
) -> LogZ:
    """log Z of a machine, or of a model that has one.

        exact    listing the states of the smaller layer
        ais      log Z_0 + log 1/M sum w, annealed up from the base
        reverse  log Z_0 - log 1/M sum w, annealed down to the base from draws of the model

    Args:
        model: a `Machine`, or has `machine()`.
        data: training rows, (N, D): the base takes their rates, and long chains start at them.
        base: the bias of the base, (V,), instead.
        steps: of the ladder.
        schedule: of the ladder, or the ladder itself.
        starts: of the reverse: exact draws (the default where a layer can be listed), `long` chains of `start_sweeps`
            sweeps from the data (the default where there is data), `tempered` chains, or draws, (chains, V).
        seed: of all draws; the global random state is left as it was.

    Raises:
        SettingsError: an unknown method, schedule or start, no chain, a ladder that does not go from 0 to 1, a layer
            too large to list.
        ModelError: the model has no machine.
        NonFiniteError: weights are NaN or infinite.
    """
    machine = machine_of(model)
    machine.check()
    if method == "exact":
        return LogZ(float(log_partition(machine)), "exact", "exact")
    if method not in ("ais", "reverse"):
        fix = "bracket(model)" if method == "bracket" else "method='ais'"
        raise SettingsError(got=f"method {method!r}", need="'exact', 'ais' or 'reverse'", fix=fix)
    if chains < 1:
        raise SettingsError(got=f"{chains} chains", need="at least one", fix="chains=100")
    generator = Generator(machine.b.device).manual_seed(seed + (method == "reverse"))
    rows = None if data is None else rows_of(model, machine, data, seed)
    base = base_of(machine, rows, generator) if base is None else base
    ladder = ladder_of(machine, base, schedule, steps, generator)
    settings: dict[str, Any] = {"chains": chains, "steps": len(ladder) - 1, "sweeps": sweeps, "seed": seed}
    settings["schedule"] = schedule if isinstance(schedule, str) else "given"
    log_z_0 = float(base_log_z(machine, base))
    if method == "ais":
        log_w, _ = annealed(machine, base, ladder, chains, generator, sweeps=sweeps)
        mean, stderr, ess = mean_weight(log_w)
        return LogZ(log_z_0 + mean, "lower bound", "ais", stderr, ess, log_w.cpu(), settings)
    v, settings["starts"] = _draws(machine, base, rows, starts, start_sweeps, chains, generator)
    log_w = annealed_back(machine, base, ladder, v, generator, sweeps=sweeps)
    mean, stderr, ess = mean_weight(log_w)
    kind: Kind = "upper bound" if settings["starts"] == EXACT else "estimate"
    return LogZ(log_z_0 - mean, kind, "reverse", stderr, ess, log_w.cpu(), settings | {"chains": len(v)})


def bracket(model: Any, **settings: Any) -> Bracket:
    """Annealing and its reverse, with the settings of `log_z` for both.

    Raises:
        SettingsError: as `log_z`.
        ModelError: as `log_z`.
        NonFiniteError: as `log_z`.
    """
    ais_only = {name: value for name, value in settings.items() if name not in ("starts", "start_sweeps")}
    return Bracket(log_z(model, "ais", **ais_only), log_z(model, "reverse", **settings))


def mean_weight(log_w: Tensor) -> tuple[float, float, float]:
    """log of the mean weight, its standard error by the delta method, and (sum w)^2 / sum w^2; log_w is (M,)."""
    r = (log_w.double() - log_w.max()).exp()
    stderr = float(r.std() / r.mean()) / math.sqrt(len(r)) if len(r) > 1 else math.nan
    return float(log_w.max()) + math.log(float(r.mean())), stderr, float(r.sum().square() / r.square().sum())


def machine_of(model: Any) -> Machine:
    """The machine that a model comes down to.

    Raises:
        ModelError: it has none.
    """
    found = model if isinstance(model, Machine) else getattr(model, "machine", None)
    found = found() if callable(found) else found
    if not isinstance(found, Machine):
        raise ModelError(
            got=f"{type(model).__name__}, which has no machine()",
            need="a Machine, or a model such as an RBM or a DBM",
            fix="log_likelihood(model, x, method='iwae') for a Pair",
        )
    return found.detached()


def rows_of(model: Any, machine: Machine, data: Tensor, seed: int) -> Tensor:
    """Rows of the machine's visible layer, which in a deep model is not the data's; a DBN draws them, by the seed."""
    if isinstance(model, Model):
        model.check(data)
    data = data.to(machine.b)
    if not isinstance(model, Energy | DBN):
        return data
    with torch.random.fork_rng(devices=[data.device] if data.is_cuda else []):
        torch.manual_seed(seed)
        return model.filled(data)


def base_of(machine: Machine, rows: Tensor | None, generator: Generator) -> Tensor:
    """The bias at which independent units have the rates of the rows; without rows, those of 100 short chains."""
    if rows is None:
        start = machine.visible.sample(torch.zeros_like(machine.b).expand(100, -1), generator)
        rows = machine.sweep(start, 100, generator)
    return machine.visible.bias_of(rows.mean(0), len(rows))


def ladder_of(
    machine: Machine, base: Tensor, schedule: Schedule | Sequence[float], steps: int, generator: Generator
) -> list[float]:
    """From its name or its numbers."""
    if not isinstance(schedule, str):
        return check_ladder(schedule)
    if schedule == "adaptive":
        return adaptive(machine, base, steps, pilot=max(50, min(steps // 10, 1_000)), generator=generator)
    if schedule not in ("three-piece", "linear"):
        known = "'three-piece', 'linear', 'adaptive' or numbers from 0 to 1"
        raise SettingsError(got=f"schedule {schedule!r}", need=known, fix="schedule='three-piece'")
    return linear(steps) if schedule == "linear" else three_piece(steps)


def _draws(
    machine: Machine,
    base: Tensor,
    rows: Tensor | None,
    starts: Starts | Tensor | None,
    sweeps: int,
    chains: int,
    generator: Generator,
) -> tuple[Tensor, str]:
    """Where the reverse starts, (chains, V), and in words what it is."""
    if isinstance(starts, Tensor):
        return starts, "given draws"
    if starts is None:
        starts = "exact" if can_enumerate(machine, LISTED) else "tempered" if rows is None else "long"
    if starts == "exact":
        return exact_draws(machine, chains, generator), EXACT
    if starts == "long":
        if rows is None:
            raise SettingsError(got="long chains without data", need="rows to start them at", fix="data=x")
        return long_draws(machine, rows, chains, sweeps, generator), f"chains of {sweeps} sweeps from the data"
    if starts != "tempered":
        raise SettingsError(
            got=f"starts {starts!r}", need="'exact', 'long', 'tempered' or draws", fix="starts='tempered'"
        )
    rungs = adaptive(machine, base, 50, generator=generator)
    v, rate = tempered_draws(machine, base, rungs, chains, sweeps, generator)
    return v, f"tempered chains of {sweeps} sweeps, 51 rungs, least exchange rate {float(rate.min()):.2f}"
