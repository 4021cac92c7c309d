"""Training of a machine that tells classes: by p(y | x), or by a mixture with p(x, y)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyrogen.errors import ModelError, SettingsError
from pyrogen.inference.likelihood import MaximumLikelihood
from pyrogen.inference.objectives import Value
from pyrogen.models.energy import ClassRBM


@dataclass(frozen=True)
class Conditional(MaximumLikelihood):
    """log p(y | x) + generative log p(x, y) of a ClassRBM, the first exactly, the second by its particles.

    The history has the mean of log p(y | x), exact, in nats per row.

    Source: Larochelle and Bengio 2008, the discriminative and the hybrid RBM.

    Args:
        generative: weight of log p(x, y); 0 is the discriminative machine.
    """

    generative: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.generative >= 0:
            raise SettingsError(
                got=f"generative = {self.generative}", need="a weight, 0 or more", fix="generative=0.01"
            )

    def __call__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        step: int = 0,
        nesting: int | None = None,
    ) -> Value:
        energy, rows = _classes(model), args[0]
        bound = _log_class(energy, rows).mean()
        loss = -bound
        if self.generative:
            both = replace(self, penalty=None)._value(energy, rows, None)
            loss = loss + self.generative * both.loss
        return self.penalised(Value(loss, bound.detach()), energy.machine(), rows)

    @torch.no_grad()
    def score(self, programs: Any, x: Tensor, seed: int) -> Tensor:
        machine = _classes(programs.model)
        return torch.cat([_log_class(machine, part).double() for part in x.split(1000)]).mean()

    def describe(self, model: Any) -> str:
        return "log p(y | x), exact"

    def comparable(self, model: Any) -> bool:
        return True


def _log_class(machine: ClassRBM, rows: Tensor) -> Tensor:
    x, y = machine.split(rows)
    return machine.log_class(x).gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _classes(model: Any) -> ClassRBM:
    machine = getattr(model, "__self__", model)
    if not isinstance(machine, ClassRBM):
        raise ModelError(got=f"Conditional and {type(machine).__name__}", need="a ClassRBM", fix="MaximumLikelihood()")
    return machine
