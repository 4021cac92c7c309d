"""log Z of a machine by listing the states of its smaller layer."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.errors import SettingsError

MOST_STATES = 2**25
"""The layer that is listed has at most so many joint states: minutes on a CPU for a layer of 784 on the other side."""


def can_enumerate(machine: Machine, most: float = MOST_STATES) -> bool:
    """Whether a layer is small enough for `log_partition`."""
    return min(machine.visible.count, machine.hidden.count) <= most


def log_partition(machine: Machine, *, most: float = MOST_STATES, chunk: int = 2**14) -> Tensor:
    """log Z = log sum_h exp(-F(h)) over all states of the smaller layer, (); differentiable, summed in float64.

    Args:
        most: states that are listed without a word.
        chunk: states at a time.

    Raises:
        SettingsError: both layers have more states than `most`, or are continuous; says what it would cost.
    """
    small = machine if machine.visible.count <= machine.hidden.count else machine.turned()
    count, other = small.visible.count, small.hidden.width
    if not can_enumerate(machine, most):
        cost = f", {2e-9 * count * small.visible.width * other:.1e} GFLOP to list" if count < 1e300 else ""
        raise SettingsError(
            got=f"layers of {machine.visible.count:.3g} and {machine.hidden.count:.3g} joint states{cost}",
            need=f"one of at most {most:.3g}",
            fix="annealed importance sampling, or a smaller layer",
        )
    parts = []
    for start in range(0, int(count), chunk):
        states = small.visible.states(start, min(start + chunk, int(count)), machine.W)
        parts.append((-small.free_energy(states)).double().logsumexp(0))
    return torch.stack(parts).logsumexp(0)
