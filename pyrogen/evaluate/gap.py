"""What the mean field of a deep Boltzmann machine gives away: log p(x) less its bound, in which log Z has no part."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import can_enumerate
from pyrogen.errors import ModelError
from pyrogen.evaluate.partition import LISTED, log_z
from pyrogen.evaluate.result import stderr_of
from pyrogen.models.energy import DBM


@dataclass(frozen=True)
class Gap:
    """Nats that a bound gives away: `stderr` as of a `LogLikelihood`, over the rows; `mc_stderr` over new chains."""

    rows: Tensor = field(repr=False)  # (N,)
    mean: float
    stderr: float
    mc_stderr: float
    kind: Literal["exact", "lower bound"]


@torch.no_grad()
def mean_field_gap(model: DBM, x: Tensor, *, steps: int = 1_000, chains: int = 100, seed: int = 0) -> Gap:
    """KL(q(h | x) || p(h | x)) of rows, in nats, where q is the mean field.

        gap(x) = log Z(x) - sum_i E_q[-E_i] - entropy(q),     Z(x) of the hidden layers where x is held

    Z(x) is exact where one of their sides can be listed. Else it is annealed, row by row, from the mean field of the
    row: then log Z(x), and the gap, are lower bounds in expectation. A few hundred rows are enough to see how far the
    bound of all of them is off.

    Shape: x is (N, D).

    Args:
        steps, chains: of the annealing of a row.
        seed: of row n's chains it is seed + n; the global random state is left as it was.

    Raises:
        ModelError: the model has no mean field.
        SettingsError: as `log_z`.
        ShapeError, SupportError: no rows, or rows that the model is not of.
    """
    if not isinstance(model, DBM):
        raise ModelError(got=type(model).__name__, need="a DBM", fix="log_likelihood(model, x), which has no such gap")
    model.check(x)
    x = x.to(model.mu)
    bound, eta = -model.free_energy(x).double(), model.mean_field(x).eta
    truth, errors, exact = [], [], True
    for n, row in enumerate(x):
        held, rest = model.clamped(row)
        if exact := can_enumerate(held, LISTED):
            found = log_z(held, "exact")
        else:
            found = log_z(held, "ais", base=eta[n], steps=steps, chains=chains, seed=seed + n)
        truth.append(rest.double() + found.value)
        errors.append(found.stderr)
    rows = (torch.stack(truth) - bound).cpu()
    error = math.hypot(*errors) / len(rows)
    return Gap(rows, float(rows.mean()), stderr_of(rows), error, "exact" if exact else "lower bound")
