"""The mean-field posterior of the layers of a deep Boltzmann machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Machine, Units


class Field(NamedTuple):
    """The mean-field posterior of rows, q(h | x) = product over the units."""

    s: Tensor  # (..., V), the rows beside the means of the even hidden layers
    eta: Tensor  # (..., V - D), the inputs of which these are the means
    a: Tensor  # (..., H), the inputs of the odd layers


def settled(
    machine: Machine, beside: Units, x: Tensor, means: Tensor, updates: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """s and eta of a `Field`, from the means given for the even hidden layers.

        a = c + s W,   eta = b + mean(a) W',   s = (x, mean(eta)),   until no mean moves by more than the tolerance

    Args:
        machine: the even layers against the odd ones.
        beside: the even layers that are hidden.
        updates: at most so many; whether the means stand is looked at every five of them.
    """
    d, odd = x.shape[-1], machine.hidden
    fixed, rows, eta = machine.c + x @ machine.W[:d], machine.W[d:], means
    for update in range(updates):
        before = means
        eta = machine.b[d:] + odd.mean(fixed + before @ rows) @ rows.T
        means = beside.mean(eta)
        if update % 5 == 4 and bool(((means - before).abs() < tolerance).all()):
            break
    return torch.cat([x, means], -1), eta


def bottom_up(
    x: Tensor, W: Sequence[Tensor], b: Sequence[Tensor], offsets: Sequence[Tensor], layers: Sequence[Units]
) -> Tensor:
    """Means of the even hidden layers when each layer's input from below counts twice, at the top once."""
    means = [x]
    for level, weights in enumerate(W):
        twice = 2 if level + 1 < len(W) else 1
        a = b[level + 1] + twice * (means[-1] - offsets[level]) @ weights
        means.append(layers[level + 1].mean(a))
    return torch.cat(means[2::2], -1)
