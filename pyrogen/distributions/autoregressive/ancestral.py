"""Ancestral sampling: one variable after the other, some of them perhaps held at what was observed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.distributions.autoregressive.conditionals import Conditional
from pyrogen.nn.autoregressive import Stepper


class Walk(NamedTuple):
    x: Tensor  # (n, D)
    log_weight: Tensor  # (n,), sum over the held variables of log p(x_d | those before d)


@torch.no_grad()
def ancestral(
    stepper: Stepper, conditional: Conditional, uniforms: Tensor, held: Tensor | None = None, x: Tensor | None = None
) -> Walk:
    """Draw each variable given those before it in the stepper's order.

    Where `held`, a variable has the value that x gives it instead. Such rows are not draws of the conditional
    distribution: variables that come before a held one do not know of it. `log_weight` repairs that, since
    p(x) = (law of the draws) exp(log_weight).

    Shape: uniforms in [0, 1), held (bool) and x are (n, D).
    """
    n, width = uniforms.shape
    order = torch.tensor(stepper.order, device=uniforms.device)
    first = stepper.parameters()
    noise = conditional.noise(uniforms, first.dtype).T[order].contiguous().unbind(0)
    log_weight = first.new_zeros(n)
    drawn = []
    for k in range(width):
        parameters = stepper.parameters() if k else first
        value = conditional.draw(parameters, noise[k])
        if held is not None and x is not None:
            here, given = held[:, stepper.order[k]], x[:, stepper.order[k]]
            value = torch.where(here, given, value)
            log_weight = log_weight + torch.where(here, conditional.log_prob(parameters, value), 0)
        stepper.push(conditional.encode(value.unsqueeze(-1)))
        drawn.append(value)
    out = first.new_empty(width, n)
    out[order] = torch.stack(drawn)
    return Walk(out.T.contiguous(), log_weight)
