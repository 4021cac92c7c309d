"""The RBM that pre-trains a pair of layers of a deep Boltzmann machine, where one of them stands in for a third."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Machine, Units, stacked
from pyrogen.models.energy.rbm import RBM


class Doubled(RBM):
    """An RBM with copies of its layers under the same weights: with (2, 1), h has the input c + 2 v W, v still b + W h.

    The input from the copy stands in for that of the layer beyond, which is not there yet.

    Shape: rows x are (N, V), of a single copy.
    Source: Salakhutdinov and Hinton 2009, section 3.2.

    Args:
        copies: of the visible and of the hidden layer.
    """

    recipe = ""
    copies: tuple[int, int]

    def __init__(self, visible: Units, hidden: Units, *, copies: tuple[int, int], **settings: Any) -> None:
        # not by attribute: machine() is called before the module is set up
        object.__setattr__(self, "copies", copies)
        super().__init__(visible, hidden, **settings)

    def machine(self) -> Machine:
        n, m = self.copies
        b, c = self.b - m * (self.W @ self.lam), self.c - n * (self.mu @ self.W)
        sides = stacked([self.visible] * n), stacked([self.hidden] * m)
        return Machine(*sides, self.W.repeat(n, m), b.repeat(n), c.repeat(m))

    def extra_repr(self) -> str:
        return f"copies={self.copies}, {super().extra_repr()}"

    def filled(self, x: Tensor) -> Tensor:
        """The rows once for each copy."""
        return x.repeat(1, self.copies[0])

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        return super().model(self.filled(x), size)

    def guide(self, x: Tensor, size: int | None = None) -> Tensor:
        return super().guide(self.filled(x), size)

    def free_energy(self, v: Tensor) -> Tensor:
        """Of all copies of the rows together."""
        return super().free_energy(self.filled(v))

    @torch.no_grad()
    def follow(self, x: Tensor, a: Tensor, decay: float = 0.99) -> None:
        super().follow(x, a[:, : self.hidden.width], decay)

    @torch.no_grad()
    def recentre(self, *others: dict[str, Tensor]) -> None:
        if not self.centred:
            return
        by = self.copies[1] * (self.h_mean - self.lam)
        for weights in (dict(self.named_parameters()), *others):
            weights["b"].add_(weights["W"] @ by)
        self.lam.copy_(self.h_mean)

    @torch.no_grad()
    def up(self, x: Tensor) -> Tensor:
        """Draws of one copy of the hidden layer given the rows, (N, H): what the next pair is trained on."""
        return self.hidden.sample(self.machine().hidden_input(self.filled(x))[:, : self.hidden.width])


def composed(parts: Sequence[Doubled]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of the deep machine: those of the parts, in the middle halved, and means of the two biases."""
    last = len(parts) - 1
    machines = [part.machine() for part in parts]
    below = [machine.b[: part.visible.width] for machine, part in zip(machines, parts, strict=True)]
    above = [machine.c[: part.hidden.width] for machine, part in zip(machines, parts, strict=True)]
    middle = [(c + b) / 2 for c, b in zip(above, below[1:], strict=False)]
    W = [part.W if level in (0, last) else part.W / 2 for level, part in enumerate(parts)]
    return W, [below[0], *middle, above[-1]]
