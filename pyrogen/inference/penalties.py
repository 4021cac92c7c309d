"""Pieces that hold a model back: sparse hidden units, weights that are short, or few. Decay is torch's (AdamW)."""

from __future__ import annotations

import math
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


def lasso(
    cost: float, optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer]
) -> Callable[[Iterable[Tensor]], torch.optim.Optimizer]:
    """An optimiser for `fit(optimizer=...)` that pays `cost` nats per row for each unit of the weights in matrices.

        step, then   w <- w - clamp(w, -e, e),   e = cost * learning rate

    With SGD that is proximal gradient ascent of the bound - cost * sum |w|, the maximum a posteriori under Laplace
    priors of scale 1 / (cost * rows); weights that the data do not ask for are exactly zero. With Adam the cost of a
    weight is in units of its gradient's root mean square. Vectors, such as biases, are free.

    Source: Daubechies, Defrise and De Mol 2004, arXiv:math/0307152; Langford, Li and Zhang 2009, for stochastic steps.

    Raises:
        SettingsError: a cost that is not positive.
    """
    if not 0 < cost < math.inf:
        raise SettingsError(got=f"cost = {cost}", need="a positive number of nats", fix="cost=0.001")

    def make(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        made.register_step_post_hook(shrink)
        return made

    @torch.no_grad()
    def shrink(made: torch.optim.Optimizer, args: Any, settings: Any) -> None:
        found = getattr(made, "found_inf", None)  # 1 where the step did nothing
        for group in made.param_groups:
            most = cost * group["lr"] if found is None else cost * group["lr"] * (1 - found)
            for parameter in group["params"]:
                if parameter.dim() == 2:
                    parameter.sub_(parameter.clamp(-most, most))

    return make
