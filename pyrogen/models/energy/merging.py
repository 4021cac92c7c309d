"""Layers of a deep machine as the two sides of a bipartite one: the even ones against the odd ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Contrastive, Machine, Particles


class Turned(Particles):
    """The particles of a machine, for the machine with its sides exchanged; not a part of any model's state."""

    def __init__(self, particles: Particles) -> None:
        super().__init__()
        object.__setattr__(self, "own", particles)

    def log_z(self, machine: Machine, v: Tensor, weight: Tensor | None = None) -> Tensor:
        own: Particles = vars(self)["own"]
        turned = machine.turned()
        with torch.no_grad():
            rows = (
                turned.down(v.reshape(-1, v.shape[-1]))
                if isinstance(own, Contrastive)
                else v.new_zeros(1, len(turned.b))
            )
        log_z = own.log_z(turned, rows, weight)
        return log_z.reshape(v.shape[:-1]) if log_z.dim() else log_z


def merged(weights: Mapping[str, Tensor], n_layers: int) -> tuple[Tensor, Tensor, Tensor]:
    """W of even against odd layers, zero between layers that are not neighbours, and the two biases."""
    W, b = [weights[f"W.{k}"] for k in range(n_layers - 1)], [weights[f"b.{k}"] for k in range(n_layers)]

    def block(i: int, j: int) -> Tensor:
        if abs(i - j) != 1:
            return b[0].new_zeros(len(b[i]), len(b[j]))
        return W[i] if i < j else W[j].T

    rows = [torch.cat([block(i, j) for j in range(1, n_layers, 2)], 1) for i in range(0, n_layers, 2)]
    return torch.cat(rows), torch.cat(b[0::2]), torch.cat(b[1::2])


def apart(even: Tensor, odd: Tensor, layers: Any) -> list[Tensor]:
    """What belongs to each layer, of numbers for the even and for the odd units."""
    widths = [layer.width for layer in layers]
    parts: list[Tensor] = [even] * len(widths)
    parts[0::2], parts[1::2] = even.split(widths[0::2], -1), odd.split(widths[1::2], -1)
    return parts
