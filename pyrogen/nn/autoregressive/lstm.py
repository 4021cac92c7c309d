"""The LSTM layers of PixelRNN, each with the walk that computes the same pixel by pixel."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, linear, pad

from pyrogen.nn.autoregressive.network import there


class PixelLayer(nn.Module, ABC):
    """Maps features y (N, S, H, W), each of the pixels before its own, to states h (N, U, H, W) with more of these."""

    @abstractmethod
    def forward(self, y: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        """y and what the picture itself is, (N, C E + 1, H, W)."""

    @abstractmethod
    def walk(self, n: int, columns: int, context: Tensor | None) -> LayerWalk:
        """The same for n pictures, pixel by pixel."""


class LayerWalk(ABC):
    """begin_row, then for each column `at`, then end_row, and so on."""

    @abstractmethod
    def begin_row(self) -> None:
        """What the row above settles."""

    @abstractmethod
    def at(self, j: int, y: Tensor) -> Tensor:
        """h at column j, (n, U), from y there, (n, S)."""

    @abstractmethod
    def end_row(self, x: Tensor) -> None:
        """All pixels of the row are known, (W, n, C E + 1)."""


class RowLSTM(PixelLayer):
    """An LSTM from row to row, with convolutions along the row.

        h_i, c_i = lstm(K * y_i + S * h_(i-1) + V c, c_(i-1))

    K sees the pixel and p on its left, S one row above p on both sides: the reach is a triangle that widens by p
    columns with each row.

    Source: van den Oord et al. 2016 (Pixel Recurrent Neural Networks), arXiv:1601.06759, section 3.1.

    Args:
        width_in, units: S and U.
        reach: p.
        context: width of the context, 0 for none.
    """

    def __init__(self, width_in: int, units: int, reach: int, context: int) -> None:
        super().__init__()
        self.units, self.reach = units, reach
        self.from_input = nn.Conv2d(width_in, 4 * units, (1, reach + 1))
        self.from_above = nn.Conv1d(units, 4 * units, 2 * reach + 1, padding=reach, bias=False)
        self.context = nn.Linear(context, 4 * units, bias=False) if context else None

    def forward(self, y: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        z = self.from_input(pad(y, (self.reach, 0)))
        if self.context is not None:
            z = z + self.context(there(context))[..., None, None]
        h = c = z.new_zeros(z.shape[0], self.units, z.shape[-1])
        states = []
        for row in z.unbind(2):
            h, c = cell(row + self.from_above(h), c, 1)
            states.append(h)
        return torch.stack(states, 2)

    def walk(self, n: int, columns: int, context: Tensor | None) -> LayerWalk:
        return RowWalk(self, n, columns, context)


class RowWalk(LayerWalk):
    def __init__(self, layer: RowLSTM, n: int, columns: int, context: Tensor | None) -> None:
        self.layer, self.size = layer, layer.from_input.in_channels
        weight = layer.from_input.weight
        self.weight = weight.permute(0, 3, 1, 2).flatten(1).T
        bias = cast(Tensor, layer.from_input.bias)
        self.bias = bias if layer.context is None else bias + layer.context(there(context))
        self.left = weight.new_zeros(n, (columns + layer.reach) * self.size)
        self.h, self.c = weight.new_zeros(2, columns, n, layer.units).unbind()

    def begin_row(self) -> None:
        layer = self.layer
        above = conv1d(self.h.permute(1, 2, 0), layer.from_above.weight, padding=layer.reach)
        self.above = above.permute(2, 0, 1) + self.bias

    def at(self, j: int, y: Tensor) -> Tensor:
        reach = self.layer.reach
        self.left[:, (j + reach) * self.size : (j + reach + 1) * self.size] = y
        window = self.left[:, j * self.size : (j + reach + 1) * self.size]
        h, c = cell(torch.addmm(self.above[j], window, self.weight), self.c[j], 1)
        self.h[j], self.c[j] = h, c
        return h

    def end_row(self, x: Tensor) -> None:
        pass


class DiagonalBiLSTM(PixelLayer):
    """Two LSTMs along the diagonals, from the left and from the right; together they see all pixels before.

        left    h_ij, c_ij = lstm(K y_ij + S [h_(i-1)j, h_i(j-1)] + V c, c_i(j-1))
        right   the same with j + 1 instead of j - 1 and weights of its own; one row down:  h_ij + h^right_(i-1)j

    As the right one comes a row later, it may see the pixel itself beside y, which sees the pixels before it
    alone. The first layer uses that. Otherwise (i, j) would not see the last pixel of the row above, unless the
    input convolution reaches it.

    Rows are skewed, row i moved by i to the right, so that a diagonal is a column and one step for both LSTMs.

    Source: van den Oord et al. 2016 (Pixel Recurrent Neural Networks), arXiv:1601.06759, section 3.2.

    Args:
        width_in, units: S and U.
        context: width of the context, 0 for none.
        pixel: channels of the pixel itself that the right one sees too; 0 for none.
    """

    def __init__(self, width_in: int, units: int, context: int, pixel: int) -> None:
        super().__init__()
        self.units, self.pixel = units, pixel
        self.from_left = nn.Linear(width_in, 4 * units)
        self.from_right = nn.Linear(width_in + pixel, 4 * units)
        bound = 1 / math.sqrt(2 * units)
        self.states = nn.Parameter(torch.empty(2, 2 * units, 4 * units).uniform_(-bound, bound))
        self.context = nn.Linear(context, 8 * units, bias=False) if context else None

    def forward(self, y: Tensor, x: Tensor, context: Tensor | None) -> Tensor:
        y, x = y.permute(0, 2, 3, 1), x.permute(0, 2, 3, 1)
        right = torch.cat([y, x], -1) if self.pixel else y
        z = torch.stack([self.from_left(y), self.from_right(right).flip(2)])  # (2, N, H, W, 4 U)
        if self.context is not None:
            shift = self.context(there(context)).unflatten(1, (2, -1)).movedim(1, 0)
            z = z + shift[:, :, None, None]
        left, right = self._diagonals(z)
        out = left + pad(right.flip(2), (0, 0, 0, 0, 1, -1))
        return out.permute(0, 3, 1, 2)

    def _diagonals(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """h of both, (N, H, W, U), from what their inputs give."""
        _, n, rows, columns, _ = z.shape
        h = c = z.new_zeros(2, n * rows, self.units)
        row, states = torch.arange(rows, device=z.device), []
        for t, gates in enumerate(skew(z).unbind(3)):
            above = pad(h.unflatten(1, (n, rows)), (0, 0, 1, -1)).flatten(1, 2)
            h, c = cell(torch.baddbmm(gates.flatten(1, 2), torch.cat([above, h], 2), self.states), c, 2)
            # left of the border there is no state
            inside = (row <= t).to(z.dtype).repeat(n).unsqueeze(1)
            h, c = h * inside, c * inside
            states.append(h.unflatten(1, (n, rows)))
        left, right = unskew(torch.stack(states, 3), columns).unbind()
        return left, right

    def walk(self, n: int, columns: int, context: Tensor | None) -> LayerWalk:
        return DiagonalWalk(self, n, columns, context)


class DiagonalWalk(LayerWalk):
    def __init__(self, layer: DiagonalBiLSTM, n: int, columns: int, context: Tensor | None) -> None:
        self.layer = layer
        weight = layer.from_left.weight
        left, right = layer.from_left.bias, layer.from_right.bias
        if layer.context is not None:
            to_left, to_right = layer.context(there(context)).chunk(2, 1)
            left, right = left + to_left, right + to_right
        self.left_bias, self.right_bias = left, right
        self.left_weight = weight.T
        # h and c of the row above, and of the right one the row that is now one row down
        self.h, self.down = weight.new_zeros(2, columns, n, layer.units).unbind()
        self.y = weight.new_zeros(columns, n, weight.shape[1])
        self.border = weight.new_zeros(n, layer.units)

    def begin_row(self) -> None:
        self.state, self.c = self.border, self.border
        # one product for the whole row, as the row above is known
        self.above = torch.matmul(self.h, self.layer.states[0, : self.layer.units]) + self.left_bias

    def at(self, j: int, y: Tensor) -> Tensor:
        self.y[j] = y
        gates = torch.addmm(self.above[j], y, self.left_weight)
        gates = torch.addmm(gates, self.state, self.layer.states[0, self.layer.units :])
        self.state, self.c = cell(gates, self.c, 1)
        self.h[j] = self.state
        return self.state + self.down[j]

    def end_row(self, x: Tensor) -> None:
        layer = self.layer
        y = torch.cat([self.y, x], 2) if layer.pixel else self.y
        gates = linear(y, layer.from_right.weight) + self.right_bias
        gates = gates + torch.matmul(self.down, layer.states[1, : layer.units])
        h = c = self.border
        for j in reversed(range(len(gates))):
            h, c = cell(torch.addmm(gates[j], h, layer.states[1, layer.units :]), c, 1)
            self.down[j] = h


def cell(gates: Tensor, c: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c');  gives h', c'."""
    o, f, i, g = gates.chunk(4, dim)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def skew(z: Tensor) -> Tensor:
    """(..., H, W, K) to (..., H, W + H - 1, K): row i moved by i to the right, zeros beside it."""
    rows, columns, _ = z.shape[-3:]
    flat = pad(z, (0, 0, 0, rows)).flatten(-3, -2)
    return flat[..., : rows * (columns + rows - 1), :].unflatten(-2, (rows, columns + rows - 1))


def unskew(z: Tensor, columns: int) -> Tensor:
    """The inverse of `skew` for pictures of so many columns."""
    rows, wide, _ = z.shape[-3:]
    return pad(z.flatten(-3, -2), (0, 0, 0, rows)).unflatten(-2, (rows, wide + 1))[..., :columns, :]
