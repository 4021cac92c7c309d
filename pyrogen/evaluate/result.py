"""A log-likelihood as it is reported: with its kind, its errors, and for an undirected model with log Z."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from pyrogen.evaluate.partition import Bracket, Kind, LogZ

Method = Literal["exact", "iwae", "elbo", "csl", "ais", "reverse", "bracket", "raise"]
Undirected = Literal["exact", "ais", "reverse", "bracket", "raise"]


@dataclass(frozen=True)
class LogLikelihood:
    """log p(x) of rows, in nats.

    stderr is the standard error of `mean` as an estimate for the population the rows are from;
    mc_stderr that of `mean` under new Monte-Carlo noise on the same rows. It is itself estimated from the
    particles, and too small where few of them carry the weight: look at `ess`.
    """

    rows: Tensor = field(repr=False)  # (N,)
    mean: float
    stderr: float
    mc_stderr: float
    kind: Kind
    method: Method
    n: int
    particles: int
    seed: int
    ess: Tensor | None = field(default=None, repr=False)  # (N,), effective number of the particles
    log_z: LogZ | Bracket | None = None  # of an undirected model; its error is in mc_stderr, and the same in every row

    @property
    def bracket(self) -> tuple[float, float]:
        """The mean by the reverse of annealing and by annealing; of another method, the mean twice."""
        width = self.log_z.width if isinstance(self.log_z, Bracket) else 0.0
        return (self.mean - width, self.mean)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % for the mean over the population, both errors combined (for a bound: of the bound; of both ends)."""
        half = 1.96 * math.hypot(self.stderr, self.mc_stderr)
        return (min(self.bracket) - half, max(self.bracket) + half)

    def summary(self) -> dict[str, Any]:
        """What a result file records."""
        low, high = self.interval
        out: dict[str, Any] = {
            "kind": self.kind,
            "method": self.method,
            "mean": self.mean,
            "stderr": self.stderr,
            "mc_stderr": self.mc_stderr,
            "interval": [low, high],
            "n": self.n,
            "particles": self.particles,
            "seed": self.seed,
            "unit": "nats per row",
        }
        if self.ess is not None:
            out |= {"ess_median": float(self.ess.median()), "ess_min": float(self.ess.min())}
        if self.log_z is not None:
            out["log_z"] = self.log_z.summary()
        if isinstance(self.log_z, Bracket):
            out["bracket"] = list(self.bracket)
        return out

    def __str__(self) -> str:
        if isinstance(self.log_z, Bracket):
            low, high = sorted(self.bracket)
            return (
                f"log p(x) in [{low:.2f}, {high:.2f}] +- {self.stderr:.2f} nats per row (reverse AIS and AIS, "
                f"{self.n} rows, Monte-Carlo error {self.mc_stderr:.3f})\n{self.log_z}"
            )
        sign = {"exact": "=", "lower bound": ">=", "upper bound": "<=", "estimate": "~"}[self.kind]
        how = self.kind if self.kind == self.method else f"{self.kind}, {self.method}"
        return (
            f"log p(x) {sign} {self.mean:.2f} +- {self.stderr:.2f} nats per row "
            f"({how}, {self.n} rows, Monte-Carlo error {self.mc_stderr:.3f})"
        )


def stderr_of(rows: Tensor) -> float:
    """Of the mean of the rows."""
    return float(rows.std() / math.sqrt(len(rows))) if len(rows) > 1 else math.nan
