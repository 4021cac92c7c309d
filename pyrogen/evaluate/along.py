"""log Z by annealing along the machines of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann import Machine, annealed_along, base_log_z, linear
from pyrogen.errors import SettingsError
from pyrogen.evaluate.partition import LogZ, mean_weight


@torch.no_grad()
def log_z_along(
    machines: Sequence[Machine],
    *,
    data: Tensor,
    steps: int = 100,
    chains: int = 100,
    sweeps: int = 1,
    seed: int = 0,
) -> LogZ:
    """log Z of the last of some machines: up to the first by temperatures, then from machine to machine.

    The first should be near independent units, as a training starts, and neighbours near each other: then no chain has
    to cross a transition that temperatures would make it cross.

    Args:
        machines: from `pyrogen.inference.Trajectory`.
        data: rows of the machines' visible layer, (N, V): the base takes their rates.
        steps: temperatures up to the first machine.
        sweeps: at each temperature and each machine.
        seed: of all draws; the global random state is left as it was.

    Raises:
        SettingsError: no machine, chain, sweep or temperature.
        ShapeError: machines over different layers.
        NonFiniteError: weights are NaN or infinite.
    """
    if not machines:
        raise SettingsError(got="no machines", need="those of a training", fix="fit(..., callbacks=[Trajectory()])")
    first = machines[0]
    base = first.visible.bias_of(data.to(first.b).mean(0), len(data))
    generator = Generator(first.b.device).manual_seed(seed)
    log_w, _ = annealed_along(machines, base, linear(steps), chains, generator, sweeps=sweeps)
    mean, stderr, ess = mean_weight(log_w)
    settings: dict[str, Any] = {
        "chains": chains,
        "steps": steps,
        "sweeps": sweeps,
        "seed": seed,
        "machines": len(machines),
    }
    settings |= {"machines": len(machines), "schedule": "linear, then the training"}
    return LogZ(float(base_log_z(first, base)) + mean, "lower bound", "ais", stderr, ess, log_w.cpu(), settings)
