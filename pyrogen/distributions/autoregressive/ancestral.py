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
    noise = conditional.noise(uniforms, first.dtype).T[order].unsqueeze(-1).unbind(0)
    log_weight = first.new_zeros(n)
    drawn = []
    for k in range(width):
        parameters = stepper.parameters() if k else first
        value = conditional.draw(parameters, noise[k])
        if held is not None and x is not None:
            here, given = (t[:, stepper.order[k], None] for t in (held, x))
            value = torch.where(here, given, value)
            score = conditional.log_prob(parameters, value.squeeze(-1))
            log_weight = log_weight + torch.where(here.squeeze(-1), score, 0)
        stepper.push(conditional.encode(value))
        drawn.append(value)
    out = first.new_empty(n, width)
    out[:, order] = torch.cat(drawn, 1)
    return Walk(out, log_weight)
