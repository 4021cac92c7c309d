"""Pieces that hold an undirected model back: sparse hidden units, weights of bounded norm. Decay is torch's (AdamW)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Machine
from pyrogen.errors import SettingsError


@dataclass(frozen=True)
class Sparsity:
    """cost * sum_j (mean over the rows of E[h_j | v] - target)^2, for `MaximumLikelihood(penalty=...)`.

    Source: Lee, Ekanadham and Ng 2008, "Sparse deep belief net model for visual area V2".
    """

    target: float = 0.1
    cost: float = 1.0

    def __call__(self, machine: Machine, v: Tensor, a: Tensor) -> Tensor:
        return self.cost * (machine.hidden.mean(a).mean(0) - self.target).square().sum()


def max_norm(
    limit: float, optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer]
) -> Callable[[Iterable[Tensor]], torch.optim.Optimizer]:
    """An optimiser for `fit(optimizer=...)` after whose steps no column of a matrix is longer than `limit`.

    A column of an RBM's W is what goes into one hidden unit.

    Raises:
        SettingsError: a limit that is not positive.
    """
    if not limit > 0:
        raise SettingsError(got=f"limit = {limit}", need="a positive length", fix="limit=3.0")

    def make(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        made.register_step_post_hook(shorten)
        return made

    @torch.no_grad()
    def shorten(made: torch.optim.Optimizer, args: Any, settings: Any) -> None:
        for group in made.param_groups:
            for parameter in group["params"]:
                if parameter.dim() == 2:
                    parameter.mul_((limit / parameter.norm(dim=0).clamp(min=1e-30)).clamp(max=1.0))

    return make
