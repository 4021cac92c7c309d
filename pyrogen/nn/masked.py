"""A multilayer perceptron whose output d sees only the inputs before d, for any leading dimensions and a context."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from pyrogen.errors import SettingsError


class MaskedLinear(nn.Linear):
    """y = (W * M) x + b, where M is a buffer of zeros and ones, (out, in)."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.to(self.weight.dtype))

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight * self.mask, self.bias)


class MaskedMLP(nn.Module):
    """Maps x to outputs, each owned by a variable d of x and seeing only the variables before d in the order.

        h_1 = a((W_1 * M_1) x + C c + b_1),   h_l = a((W_l * M_l) h_(l-1) + b_l),   out = (V * M) h_L + b

    Hidden units have degrees, spread evenly: a unit of degree m sees the first m variables, and the outputs of the
    variable at place k (from 0) see units of degree k or less. All of them see the context c: with one there are
    units of degree 0, so that the first variable depends on it as freely as the others.

    The last layer starts at zero, so that the outputs are zero whatever x is.

    Shape: x is (..., D), c is (..., C), out is (..., len(owners)).
    Source: Germain et al. 2015, arXiv:1502.03509, section 4.

    Args:
        width: D.
        hidden: widths of the hidden layers, at least one.
        owners: for each output the variable that it belongs to, (outputs,).
        order: the variables, first to last; natural unless given.
        context: C.

    Raises:
        SettingsError: no hidden layer, or an order that is no permutation.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int],
        owners: Tensor,
        *,
        order: Sequence[int] | None = None,
        context: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        if not hidden or min(hidden) < 1:
            raise SettingsError(got=f"hidden={tuple(hidden)}", need="at least one layer", fix="hidden=(64, 64)")
        order = range(width) if order is None else [int(i) for i in order]
        if sorted(order) != list(range(width)):
            raise SettingsError(
                got=f"order {list(order)}", need=f"a permutation of 0..{width - 1}", fix=f"range({width})"
            )
        places = torch.empty(width, dtype=torch.long)
        places[torch.tensor(list(order))] = torch.arange(width)
        before = places + 1  # the input at place k is seen by units of degree k + 1 and more
        layers: list[nn.Module] = []
        for size in hidden:
            degrees = _degrees(size, width, least=0 if context or width == 1 else 1)
            layers += [MaskedLinear(degrees[:, None] >= before), activation()]
            before = degrees
        last = MaskedLinear(places[owners][:, None] >= before)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.first, self.rest = layers[0], nn.Sequential(*layers[1:], last)
        self.context = nn.Linear(context, hidden[0], bias=False) if context else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.rest(self._first(x, context))

    def some(self, outputs: Tensor, x: Tensor, context: Tensor | None = None) -> Tensor:
        """The outputs at the places `outputs`, (n,), alone: (..., n)."""
        *layers, last = self.rest.children()
        h = self._first(x, context)
        for layer in layers:
            h = layer(h)
        return linear(h, (last.weight * last.mask)[outputs], last.bias[outputs])  # pyright: ignore

    def _first(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = self.first(x)
        return h if self.context is None else h + self.context(context)


def _degrees(size: int, width: int, least: int) -> Tensor:
    """From `least` to D - 1, evenly."""
    return least + torch.arange(size) * max(width - least, 1) // size
