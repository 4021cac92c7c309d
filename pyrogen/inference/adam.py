"""torch's fused Adam by a shorter way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class FusedAdam(torch.optim.Adam):
    """torch.optim.Adam(fused=True), equal to the bit, without its sorting of the parameters at every step.

    That sorting, by device and dtype, costs as much as the kernel does in a small network. A `found_inf` of 1, a tensor
    that somebody may set on the optimiser, makes a step do nothing, without waiting for the device.

    Source: Kingma and Ba 2015, arXiv:1412.6980.
    """

    def __init__(self, parameters: Iterable[Tensor], learning_rate: float) -> None:
        super().__init__(parameters, learning_rate, fused=True)
        self._one = torch.ones(())  # a tensor: a number would become one for each parameter

    def step(self, closure: Any = None) -> Any:
        group = self.param_groups[0]
        parameters: list[Tensor] = group["params"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        states = [self.state[p] for p in parameters] if len(self.state) == len(parameters) else []
        if closure is not None or not _is_plain(self.param_groups, gradients, states):
            return _unhooked(torch.optim.Adam.step)(self, closure)
        steps, found_inf = [state["step"] for state in states], getattr(self, "found_inf", None)
        with torch.no_grad():
            one = self._one if found_inf is None else torch.rsub(found_inf, 1)
            # a list: of one tensor for all, torch would take the value out, and so wait for it
            torch._foreach_add_(steps, [one] * len(steps))  # pyright: ignore[reportPrivateImportUsage]
            torch._fused_adam_(  # pyright: ignore[reportPrivateImportUsage]
                parameters,
                gradients,
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=group["maximize"],
                found_inf=found_inf,
            )


def _unhooked(step: Any) -> Any:
    """A class's `step` without the hooks that torch puts around it as its first object is made, and around ours too."""
    return step.__wrapped__ if getattr(step, "hooked", False) else step


def _is_plain(groups: list[dict[str, Any]], gradients: list[Tensor], states: list[Any]) -> bool:
    """Whether all parameters are of one kind, and each has a gradient and its moments."""
    return (
        len(groups) == 1
        and len(gradients) == len(states) > 0
        and not groups[0]["amsgrad"]
        and all("exp_avg" in state for state in states)
        and len({(g.device, g.dtype) for g in gradients}) == 1
    )
