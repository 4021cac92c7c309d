"""The recurrent network of PixelRNN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, pad

from pyrogen.errors import SettingsError
from pyrogen.nn.autoregressive.lstm import DiagonalBiLSTM, PixelLayer, RowLSTM
from pyrogen.nn.autoregressive.network import Stepper
from pyrogen.nn.autoregressive.orders import check_count
from pyrogen.nn.autoregressive.picture import PictureNetwork, PictureStepper, check_kernel, check_part

KINDS = ("row", "diagonal")


class CausalConv(nn.Module):
    """y_ij from the p rows above, p pixels to both sides, and the p pixels on the left: a k x k window without
    its centre and what comes after it, k = 2 p + 1.
    """

    def __init__(self, width_in: int, width: int, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.above = nn.Conv2d(width_in, width, (reach, 2 * reach + 1))
        self.left = nn.Conv2d(width_in, width, (1, reach), bias=False)

    def forward(self, x: Tensor) -> Tensor:
        p = self.reach
        return self.above(pad(x, (p, p, p, -1))) + self.left(pad(x, (p, -1)))


class RecurrentPixels(PictureNetwork):
    """PixelRNN: residual LSTM layers that carry the pixels before from row to row and along them.

        y = conv(x),   y += T_l h_l,  h_l = LSTM_l(y)  for each layer l,      s = y, of 2 U channels

    "diagonal": every pixel sees all before it. "row": a triangle above it, and of its own row `first_kernel` // 2
    pixels and more with each layer; faster, as a row is one step.

    Source: van den Oord et al. 2016 (Pixel Recurrent Neural Networks), arXiv:1601.06759.

    Shape: as in PictureNetwork.

    Args:
        kind: "row" or "diagonal".
        units: U.
        layers: how many LSTMs.
        kernel: of the Row LSTM, odd.
        first_kernel: side of the window of the first convolution, odd, 3 or more.
        dropout: part of the states of a layer that is left out in training.

    Raises:
        SettingsError: another kind.
    """

    def __init__(
        self,
        shape: Sequence[int],
        kind: str = "diagonal",
        units: int = 16,
        layers: int = 2,
        kernel: int = 3,
        first_kernel: int = 7,
        dropout: float = 0.0,
        *,
        inputs: int = 1,
        outputs: int = 1,
        context: int = 0,
    ) -> None:
        check_count("units", units, 1)
        super().__init__(shape, 2 * units, 2 * units, inputs=inputs, outputs=outputs, context=context)
        check_count("layers", layers, 1)
        check_part("dropout", dropout)
        reach, first = check_kernel("kernel", kernel), check_kernel("first_kernel", first_kernel, 3)
        if kind not in KINDS:
            raise SettingsError(got=f"kind {kind!r}", need=f"one of {KINDS}", fix="'diagonal'")
        self.first = CausalConv(self.seen, 2 * units, first)
        self.layers = nn.ModuleList(
            RowLSTM(2 * units, units, reach, context)
            if kind == "row"
            else DiagonalBiLSTM(2 * units, units, context, 0 if k else self.seen)
            for k in range(layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.up = nn.ModuleList(nn.Conv2d(units, 2 * units, 1) for _ in range(layers))

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        y = self.first(x)
        for layer, up in zip(self.layers, self.up, strict=True):
            y = y + up(self.dropout(layer(y, x, context)))
        return y

    def stepper(self, n: int, context: Tensor | None = None, which: int = 0) -> Stepper:
        return RecurrentStepper(self, n, context)


class RecurrentStepper(PictureStepper):
    """Every state once: the LSTMs' of a pixel when it is reached, the right ones' of a row when it is full."""

    @torch.no_grad()
    def __init__(self, network: RecurrentPixels, n: int, context: Tensor | None) -> None:
        _, _, w = network.shape
        self.first, p = network.first, network.first.reach
        self.walks = [cast(PixelLayer, layer).walk(n, w, context) for layer in network.layers]
        self.ups = [cast(nn.Conv2d, up) for up in network.up]
        self.rows = network.bias.new_zeros(n, network.seen, p, w)
        self.now = network.bias.new_zeros(w, n, network.seen)
        self.left = network.bias.new_zeros(n, (w + p) * network.seen)
        self.left_weight = network.first.left.weight.permute(0, 3, 1, 2).flatten(1).T
        super().__init__(network, n)

    def begin_row(self, i: int) -> None:
        if i:
            self.rows = torch.cat([self.rows[:, :, 1:], self.now.permute(1, 2, 0).unsqueeze(2)], 2)
            for walk in self.walks:
                walk.end_row(self.now)
        p = self.first.reach
        above = conv2d(pad(self.rows, (p, p)), self.first.above.weight, self.first.above.bias)
        self.above = above.squeeze(2).permute(2, 0, 1)
        for walk in self.walks:
            walk.begin_row()

    def features_at(self, j: int) -> Tensor:
        size = self.now.shape[-1]
        y = torch.addmm(self.above[j], self.left[:, j * size : (j + self.first.reach) * size], self.left_weight)
        for walk, up in zip(self.walks, self.ups, strict=True):
            y = y + linear(walk.at(j, y), up.weight.flatten(1), up.bias)
        return y

    def settle(self, j: int, pixel: Tensor) -> None:
        self.now[j] = pixel
        start = (j + self.first.reach) * pixel.shape[1]
        self.left[:, start : start + pixel.shape[1]] = pixel
