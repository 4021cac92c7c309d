"""A network that predicts every variable from any set of others, and so has an exact density in any order."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn

from pyrogen.errors import SettingsError
from pyrogen.nn.autoregressive.made import ACTIVATIONS
from pyrogen.nn.autoregressive.network import Network, Stepper
from pyrogen.nn.autoregressive.orders import check_count, check_orders

_AT_ONCE = 1 << 22
"""Entries of a hidden layer for rows and prefixes together."""


class OrderlessNetwork(Network):
    """A multilayer perceptron of the known values and of which are known.

        f(x, K) = MLP([x * K, K]),      K in {0, 1}^D;      under an order, f_d(x_<d) = f(x, the variables before d)_d

    `partial` is a plain pass for any K. Under an order the first layer is a running sum over the variables and
    the last is needed at one variable only, so all D prefixes cost D times the hidden layers alone.

    Source: Uria, Murray and Larochelle 2014 (a deep and tractable density estimator), arXiv:1310.1757.

    Args:
        orders: (M, D), those of the mixture that the model is.
        hidden: widths of the hidden layers, at least one.
    """

    def __init__(
        self,
        width: int,
        orders: Tensor,
        hidden: Sequence[int] = (500,),
        *,
        inputs: int = 1,
        outputs: int = 1,
        context: int = 0,
        activation: str = "relu",
    ) -> None:
        super().__init__(width, inputs, outputs, context, orders)
        for size in hidden:
            check_count("a hidden width", size, 1)
        if not hidden or activation not in ACTIVATIONS:
            raise SettingsError(
                got=f"hidden {tuple(hidden)}, activation {activation!r}",
                need=f"one hidden layer or more, and one of {sorted(ACTIVATIONS)}",
                fix="hidden=(500,), activation='relu'",
            )
        self.activation = ACTIVATIONS[activation]
        first, last = hidden[0], hidden[-1]
        self.values = nn.Linear(width * inputs, first)
        self.known = nn.Parameter(torch.empty(width, first).uniform_(-(width**-0.5), width**-0.5))
        self.context_weight = nn.Linear(context, first, bias=False) if context else None
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.out = nn.Linear(last, width * outputs)

    def partial(self, encoded: Tensor, known: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of all variables given the known ones: (N, D * E) and (N, D) of 0 and 1 to (N, D, F)."""
        n = encoded.shape[0]
        seen = encoded.view(n, self.width, self.inputs) * known.unsqueeze(-1)
        total = self.values(seen.flatten(1)) + known @ self.known
        if self.context_weight is not None:
            total = total + self.context_weight(context)
        return self.out(self.last(total)).view(n, self.width, self.outputs)

    def last(self, total: Tensor) -> Tensor:
        """The last hidden layer from what goes into the first."""
        h = self.activation(total)
        for layer in self.layers:
            h = self.activation(layer(h))
        return h

    def start(self, n: int, context: Tensor | None) -> Tensor:
        start = self.values.bias.expand(n, -1)
        return start if self.context_weight is None else start + self.context_weight(context)

    def by_place(self, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the values (D, E, H), of being known (D, H) and of the outputs (D, F, H'), in the order."""
        values = self.values.weight.T.view(self.width, self.inputs, -1)[order]
        return values, self.known[order], self.out.weight.view(self.width, self.outputs, -1)[order]

    def forward(self, encoded: Tensor, context: Tensor | None = None, which: int | Tensor = 0) -> Tensor:
        n = encoded.shape[0]
        order = self.orders[int(which)]
        x = encoded.view(n, self.width, self.inputs)[:, order]
        values, known, out = self.by_place(order)
        total = self.start(n, context)
        block = max(1, _AT_ONCE // max(1, n * total.shape[1]))
        found = []
        for s in range(0, self.width, block):
            e = min(s + block, self.width)
            added = torch.einsum("nke,keh->nkh", x[:, s:e], values[s:e]) + known[s:e]
            sums = added.cumsum(1)
            before = total.unsqueeze(1) + torch.cat([torch.zeros_like(sums[:, :1]), sums[:, :-1]], 1)
            found.append(torch.einsum("nkh,kfh->nkf", self.last(before), out[s:e]))
            total = total + sums[:, -1]
        parameters = torch.cat(found, 1)[:, order.argsort()]
        return parameters + self.out.bias.view(self.width, self.outputs)

    def stepper(self, n: int, context: Tensor | None = None, which: int = 0) -> Stepper:
        return OrderlessStepper(self, n, context, which)

    def reordered(self, orders: Tensor) -> Self:
        """The same weights under other orders, (M, D)."""
        new = copy.copy(self)
        new._buffers = {**self._buffers, "orders": check_orders(orders, self.width)}
        return new

    @torch.no_grad()
    def start_at(self, parameters: Tensor) -> None:
        self.out.bias.copy_(parameters.flatten())


class OrderlessStepper(Stepper):
    """Carries what goes into the first layer, and computes the outputs of one variable at a time."""

    @torch.no_grad()
    def __init__(self, network: OrderlessNetwork, n: int, context: Tensor | None, which: int) -> None:
        order = network.orders[which]
        self.network, self.order, self.k = network, order.tolist(), 0
        self.total = network.start(n, context).clone()
        self.values, self.known, out = network.by_place(order)
        self.out, self.bias = out.transpose(1, 2), network.out.bias.view(network.width, -1)[order]

    def parameters(self) -> Tensor:
        return torch.addmm(self.bias[self.k], self.network.last(self.total), self.out[self.k])

    def push(self, encoded: Tensor) -> None:
        self.total = torch.addmm(self.total, encoded, self.values[self.k]) + self.known[self.k]
        self.k += 1
