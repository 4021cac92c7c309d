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
from pyrogen.inference.adam import FusedAdam


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

        step, then   w <- w - clamp(w, -e, e),   e = cost * learning rate * s

    s is how far the optimiser goes for a gradient of 1: (1 - dampening) / (1 - momentum) with SGD, 1 / (sqrt(v) + eps)
    with Adam, where v is its mean square of the weight's gradient. That is proximal gradient ascent of the bound
    - cost * sum |w|, with Adam in Adam's own metric: the maximum a posteriori under Laplace priors of scale
    1 / (cost * rows). Weights that the data do not ask for are exactly zero. Vectors, such as biases, are free;
    weights that have no gradient in a step pay nothing for it.

    Source: Daubechies, Defrise and De Mol 2004, arXiv:math/0307152; Langford, Li and Zhang 2009, for stochastic steps;
    Duchi, Hazan and Singer 2011, section 5, for metrics that are diagonal.

    Raises:
        SettingsError: a cost that is not positive, or an optimiser other than SGD, Adam, AdamW, NAdam and `FusedAdam`,
            whose steps have another metric.
    """
    if not 0 < cost < math.inf:
        raise SettingsError(got=f"cost = {cost}", need="a positive number of nats", fix="cost=0.001")

    def make(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
        made = optimizer(parameters)
        if not isinstance(made, _METRICS):
            raise SettingsError(
                got=f"lasso with {type(made).__name__}",
                need=f"one of {', '.join(kind.__name__ for kind in _METRICS)}, whose metric is known",
                fix="lasso(cost, lambda p: torch.optim.SGD(p, 0.1))",
            )
        made.register_step_post_hook(shrink)
        return made

    @torch.no_grad()
    def shrink(made: torch.optim.Optimizer, args: Any, settings: Any) -> None:
        found = getattr(made, "found_inf", None)  # 1 where the step did nothing
        for group in made.param_groups:
            most = cost * group["lr"] if found is None else cost * group["lr"] * (1 - found)
            for parameter in group["params"]:
                if parameter.dim() == 2 and parameter.grad is not None:
                    e = most * _reach(group, made.state.get(parameter, {}))
                    parameter.sub_(parameter.clamp(-e, e))

    return make


_METRICS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, FusedAdam)


def _reach(group: dict[str, Any], state: dict[str, Any]) -> Tensor | float:
    """How far a step goes for a gradient of 1, in units of the learning rate; for each weight, if they differ in it."""
    v = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
    if v is None:
        return (1 - group["dampening"] * bool(group["momentum"])) / (1 - group["momentum"])
    # v started at 0, and Adam divides by what it has seen; nothing, if all steps so far were not taken
    seen = torch.as_tensor(1 - group["betas"][1] ** state["step"]).clamp(min=1e-30)
    return (v / seen).sqrt_().add_(group["eps"]).reciprocal_()
