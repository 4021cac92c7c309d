"""log Z of a machine by listing the states of its smaller layer."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

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
    small, count = _listed(machine, most)
    parts = []
    for start in range(0, count, chunk):
        stop = min(start + chunk, count)
        if torch.is_grad_enabled():
            # recomputed going backward: the states of all chunks at once do not fit into memory
            part = checkpoint(_log_sum, small, start, stop, use_reentrant=False, preserve_rng_state=False)
        else:
            part = _log_sum(small, start, stop)
        parts.append(part)
    return torch.stack(parts).logsumexp(0)  # pyright: ignore[reportArgumentType]


def _listed(machine: Machine, most: float) -> tuple[Machine, int]:
    """The machine with the layer to list on its visible side, and how many states that has."""
    small = machine if machine.visible.count <= machine.hidden.count else machine.turned()
    count = small.visible.count
    if not count <= most:
        cost = 2e-9 * count * small.visible.width * small.hidden.width
        raise SettingsError(
            got=f"layers of {machine.visible.count:.3g} and {machine.hidden.count:.3g} joint states"
            + (f", {cost:.1e} GFLOP to list" if count < 1e300 else ""),
            need=f"one of at most {most:.3g}",
            fix="annealed importance sampling, or a smaller layer",
        )
    return small, int(count)


def _log_f(small: Machine, start: int, stop: int) -> Tensor:
    return -small.free_energy(small.visible.states(start, stop, small.W)).double()


def _log_sum(small: Machine, start: int, stop: int) -> Tensor:
    return _log_f(small, start, stop).logsumexp(0)
