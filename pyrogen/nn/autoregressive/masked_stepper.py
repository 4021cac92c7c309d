"""Sampling from a masked perceptron for the price of one pass."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from pyrogen.nn.autoregressive.made import MaskedLinear, MaskedMLP
from pyrogen.nn.autoregressive.network import Stepper, there

IN_PLACE = {"relu": torch.relu_, "elu": functional.elu_, "tanh": torch.tanh_, "sigmoid": torch.sigmoid_}


class MaskedStepper(Stepper):
    """Computes every hidden unit once, when the last variable that it sees is known: one pass in all.

    Units are sorted by degree, so that those of one degree are a slice, and rows are columns, so that a slice is
    contiguous. What is known when a block of variables begins is multiplied for the whole block at once. Inside it,
    each variable is added to the sums of the whole block as soon as it is known, and so are the units that it
    settles; to sums that do not see it, the mask adds zero.

    For few rows nearly all of the time goes into calls of torch, views too: the slices of a block are cut together.
    """

    block = 64

    @torch.no_grad()
    def __init__(self, network: MaskedMLP, n: int, context: Tensor | None, which: int) -> None:
        order, self.width = network.orders[which], network.width
        self.order, self.k = order.tolist(), 0
        self.activation: Callable[[Tensor], Tensor] = IN_PLACE[network.activation_name]
        self.outputs = network.outputs
        places = torch.arange(self.width, device=order.device)
        # of each layer, inputs first and outputs last: its units sorted, the number of variables that each sees,
        # and cuts[k], how many units come before those of the k-th variable
        units, sees = [_each(order, network.inputs)], [places.add(1).repeat_interleave(network.inputs)]
        for i in range(len(network.hidden)):
            degree, unit = network.get_buffer(f"degrees{i}")[which].sort(stable=True)
            units, sees = [*units, unit], [*sees, degree]
        units, sees = [*units, _each(order, self.outputs)], [*sees, places.repeat_interleave(self.outputs)]
        counts = [torch.bincount(degree, minlength=self.width + 1).cumsum(0).tolist() for degree in sees]
        self.cuts = [*counts[:-1], [k * self.outputs for k in range(self.width + 1)]]
        self.sees, self.layers = sees, []
        modules = [*(cast(MaskedLinear, layer) for layer in network.layers), network.out]
        for i, layer in enumerate(modules):
            bias = layer.bias if layer.mask_weight is None else layer.masked(network.masks(which)[i])[1]
            bias = bias[:, None]
            if layer.context_weight is not None:
                bias = bias + layer.context_weight @ there(context).T
            self.layers.append((_picked(layer.weight, units[i + 1], units[i]), bias[units[i + 1]]))
        self.direct = None if network.direct is None else _picked(network.direct, units[-1], units[0])
        self.states = [network.out.weight.new_empty(len(unit), n) for unit in units]
        for i, (weight, bias) in enumerate(self.layers[:-1]):
            below, some = self.cuts[i][0], self.cuts[i + 1][0]  # units that see no variable, where there is but one
            self.states[i + 1][:some] = bias[:some] + weight[:some, :below] @ self.states[i][:below]
            self.activation(self.states[i + 1][:some])
        self._begin()

    def _begin(self) -> None:
        """Multiply all that is known for the next variables and the units that they settle; cut what is to come."""
        self.first, self.end, self.pushed = self.k, min(self.k + self.block, self.width), []
        # of each layer: sums of the block, columns by which each variable adds to them, and what it settles of them
        self.sums: list[tuple[Tensor, list[Any], list[Any]]] = []
        for i, (weight, bias) in enumerate(self.layers):
            rows, last = slice(self.cuts[i + 1][self.first], self.cuts[i + 1][self.end]), i + 1 == len(self.layers)
            total = self.states[i + 1][rows]
            total.copy_(bias[rows])
            columns = self._add(total, weight[rows], self.sees[i + 1][rows], i)
            self.sums.append((total, columns, [] if last else self._cut(total, i + 1, 0)))
        self.total, self.direct_columns = self.sums[-1][0], None
        if self.direct is not None:
            self.direct_columns = self._add(self.total, self.direct[rows], self.sees[-1][rows], 0)
        self.ready = self.total.T.split(self.outputs, 1)

    def _add(self, total: Tensor, weight: Tensor, sees: Tensor, i: int) -> list[Any]:
        """Add what is known of layer i to sums that see so many variables; give what each of the block will add."""
        known, then = self.cuts[i][self.first], self.cuts[i][self.end]
        total.addmm_(weight[:, :known], self.states[i][:known])
        mask = sees[:, None] >= self.sees[i][known:then]
        return self._cut(weight[:, known:then] * mask, i, 1)

    def _cut(self, x: Tensor, i: int, dim: int) -> list[Any]:
        """Slices of x, the block of layer i: those of each variable, None where it has none."""
        sizes = [b - a for a, b in pairwise(self.cuts[i][self.first : self.end + 1])]
        parts = iter(x.split([size for size in sizes if size], dim) if any(sizes) else ())
        return [next(parts) if size else None for size in sizes]

    def parameters(self) -> Tensor:
        return self.ready[self.k - self.first]

    def push(self, encoded: Tensor) -> None:
        here = self.k - self.first
        self.pushed.append(encoded)
        self.k += 1
        if self.k == self.width:
            return
        if self.k == self.end:
            self.states[0][self.cuts[0][self.first] : self.cuts[0][self.end]] = torch.cat(self.pushed, 1).T
        values: Any = encoded.T
        if self.direct_columns is not None:
            self.total.addmm_(self.direct_columns[here], values)
        for total, columns, settled in self.sums:
            if values is not None:
                total.addmm_(columns[here], values)
            if settled:
                values = settled[here]
                if values is not None:
                    self.activation(values)
        if self.k == self.end:
            self._begin()


def _picked(weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """weight[rows][:, columns], without the copies where the units are in order already."""
    for dim, index in enumerate((rows, columns)):
        if not torch.equal(index, torch.arange(len(index), device=index.device)):
            weight = weight.index_select(dim, index)
    return weight


def _each(order: Tensor, times: int) -> Tensor:
    return (order[:, None] * times + torch.arange(times, device=order.device)).flatten()
