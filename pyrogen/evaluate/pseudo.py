"""The pseudo-likelihood of a machine: each visible unit given the others, which needs no log Z.

    PL(v) = sum_i log p(v_i | v_-i),    p(v_i | v_-i) = exp(-F(v)) / sum_s exp(-F(v with v_i = s))

A change of one unit by d moves c + v W by d W_i, so that a row costs V times H cumulants and one product.

Source: Besag 1975, The Statistician 24, 179-195.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Machine, Spin, check_values
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.evaluate.partition import machine_of


@torch.no_grad()
def pseudo_log_likelihood(
    model: Any, x: Tensor, *, one: bool = False, generator: Generator | None = None, at_once: int = 2**24
) -> Tensor:
    """PL of rows in nats, (N, V) to (N,), in float64.

    Args:
        model: a `Machine`, or has `machine()`, over Bernoulli, spin or categorical visible units.
        one: of each row one random unit only, times how many there are: right on average, at a V-th of the cost.
        at_once: numbers in memory.

    Raises:
        SettingsError: other visible units.
        ShapeError: rows of another width.
        SupportError: rows that the units cannot be.
    """
    machine = machine_of(model)
    units = machine.visible
    if not isinstance(units, Bernoulli | Spin | Categorical):
        raise SettingsError(
            got=f"the pseudo-likelihood of {units}", need="Bernoulli, spin or categorical units", fix="log_likelihood"
        )
    if x.dim() != 2 or x.shape[1] != units.width:
        raise ShapeError(got=f"x of shape {tuple(x.shape)}", need=f"(N, {units.width})", fix="x.flatten(1)")
    check_values(units, x)
    x = x.to(machine.b)
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    if one:
        i = torch.randint(units.n, (len(x),), device=x.device, generator=generator)
        return units.n * _unit(machine, x, machine.hidden_input(x), i)
    for rows in torch.arange(len(x), device=x.device).split(max(1, at_once // machine.hidden.width)):
        at = machine.hidden_input(x[rows])
        for i in range(units.n):
            total[rows] += _unit(machine, x[rows], at, torch.full_like(rows, i))
    return total


def _unit(machine: Machine, x: Tensor, at: Tensor, i: Tensor) -> Tensor:
    """log p(v_i | v_-i) for unit i[n] of row n, (N,); at is c + v W."""
    units, n = machine.visible, torch.arange(len(x), device=x.device)
    now = machine.hidden.cumulant(at.double())
    if isinstance(units, Categorical):
        entries = i[:, None] * units.n_states + torch.arange(units.n_states, device=x.device)
        chosen = entries[n, x[n[:, None], entries].argmax(1)]
        others = [(entries[:, q], chosen) for q in range(units.n_states)]
        shifts = [(machine.W[new] - machine.W[old], machine.b[new] - machine.b[old]) for new, old in others]
    else:
        step = (1 - 2 * x[n, i]) if isinstance(units, Bernoulli) else -2 * x[n, i]
        shifts = [(torch.zeros_like(at), torch.zeros_like(step)), (step[:, None] * machine.W[i], step * machine.b[i])]
    ratios = [db.double() + machine.hidden.cumulant((at + dx).double()) - now for dx, db in shifts]
    return -torch.stack(ratios).logsumexp(0)
