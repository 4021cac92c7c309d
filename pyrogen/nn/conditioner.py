"""A multilayer perceptron of an input and a context, which starts as zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyrogen.errors import SettingsError


class Conditioner(nn.Module):
    """The parameters of a layer of a flow as a function of x and a context c.

        h_1 = a(W_1 x + C c + b_1),   h_l = a(W_l h_(l-1) + b_l),   out = V h_L + b,   V = 0 and b = 0 at the start

    The context enters by a sum, so its product is taken once however many particles x has.

    Shape: x is (..., inputs), c is (..., context), out is (..., outputs).

    Args:
        hidden: widths of the hidden layers, at least one.
        activation: makes the module between two layers.

    Raises:
        SettingsError: no inputs, outputs or hidden layer.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        *,
        context: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if not hidden or min(inputs, outputs, *hidden) < 1:
            raise SettingsError(
                got=f"{inputs} inputs, hidden={tuple(hidden)}, {outputs} outputs",
                need="at least one of each",
                fix="hidden=(64, 64)",
            )
        last = nn.Linear(hidden[-1], outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.first = nn.Linear(inputs, hidden[0])
        self.context = nn.Linear(context, hidden[0], bias=False) if context else None
        between = [layer for a, b in pairwise(hidden) for layer in (nn.Linear(a, b), activation())]
        self.rest = nn.Sequential(activation(), *between, last)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.first(x)
        return self.rest(h if self.context is None else h + self.context(context))
