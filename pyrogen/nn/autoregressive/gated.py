"""The gated convolutional network of PixelCNN, in two stacks and without a blind spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from pyrogen.nn.autoregressive.network import Stepper, there
from pyrogen.nn.autoregressive.orders import check_count
from pyrogen.nn.autoregressive.picture import PictureNetwork, PictureStepper, check_kernel, check_part


class GatedLayer(nn.Module):
    """One layer of both stacks: v looks at the rows above, h at the pixels on the left and at v.

        a = V * v + V_c c                        V is (p + 1, 2 p + 1), the row itself its last
        b = H * h + L a + H_c c                  H is (1, p + 1), the pixel itself its last
        v' = g(a),   h' = [h +] R g(b),   s += S g(b),          g(a_1, a_2) = tanh(a_1) sigmoid(a_2)

    Their inputs are shifted by a row and by a pixel, so that "itself" is what was before.

    Args:
        width_in, width: channels of v and h before, and after.
        reach: p.
        context: width of c, 0 for none.
        dropout: part of g(b) that is left out in training.
        last: whether only s is wanted of it.
    """

    def __init__(self, width_in: int, width: int, reach: int, context: int, dropout: float, last: bool) -> None:
        super().__init__()
        self.reach, self.residual = reach, width_in == width
        self.v = nn.Conv2d(width_in, 2 * width, (reach + 1, 2 * reach + 1))
        self.h = nn.Conv2d(width_in, 2 * width, (1, reach + 1))
        self.link = nn.Conv2d(2 * width, 2 * width, 1, bias=False)
        self.skip = nn.Conv2d(width, width, 1)
        self.result = None if last else nn.Conv2d(width, width, 1)
        self.context = nn.Linear(context, 4 * width, bias=False) if context else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, v: Tensor, h: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        p = self.reach
        a = self.v(pad(v, (p, p, p, 0)))
        b = self.h(pad(h, (p, 0, 0, 0)))
        if self.context is not None:
            to_a, to_b = self.context(there(context))[..., None, None].chunk(2, 1)
            a, b = a + to_a, b + to_b
        g = self.dropout(gate(b + self.link(a)))
        if self.result is None:
            return v, h, self.skip(g)
        out = self.result(g)
        return gate(a), out + h if self.residual else out, self.skip(g)


class GatedPixels(PictureNetwork):
    """The gated PixelCNN.

    v sees all pixels of the rows above within its reach, h those on the left and, through v, these: together
    a full rectangle and no blind spot. Each layer looks `kernel` // 2 further.

    Source: van den Oord et al. 2016 (Conditional Image Generation with PixelCNN Decoders), arXiv:1606.05328.
    Shifting the input instead of masking kernels is as in PixelCNN++, arXiv:1701.05517.

    Shape: as in PictureNetwork.

    Args:
        channels: width of both stacks.
        layers: how many, without the first.
        kernel, first_kernel: side of the window of a layer, odd; its lower half and right part are not there.
        dropout: part of what a layer gives that is left out in training.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: int = 32,
        layers: int = 6,
        kernel: int = 3,
        first_kernel: int = 7,
        dropout: float = 0.0,
        *,
        inputs: int = 1,
        outputs: int = 1,
        context: int = 0,
    ) -> None:
        super().__init__(shape, channels, channels, inputs=inputs, outputs=outputs, context=context)
        check_count("layers", layers, 0)
        check_part("dropout", dropout)
        reach, first = check_kernel("kernel", kernel), check_kernel("first_kernel", first_kernel)
        widths, reaches = [self.seen] + [channels] * layers, [first] + [reach] * layers
        self.layers = nn.ModuleList(
            GatedLayer(width, channels, p, context, dropout, last=k == layers)
            for k, (width, p) in enumerate(zip(widths, reaches, strict=True))
        )

    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        v, h = pad(x, (0, 0, 1, -1)), pad(x, (1, -1))
        total = torch.zeros((), dtype=x.dtype, device=x.device)
        for layer in self.layers:
            v, h, s = layer(v, h, context)
            total = total + s
        return total

    def stepper(self, n: int, context: Tensor | None = None, which: int = 0) -> Stepper:
        return GatedStepper(self, n, context)


class GatedStepper(PictureStepper):
    """v for a whole row at a time, from the rows that a layer still sees; h from the pixels on the left.

    Every product of the forward pass is made once, so that a picture costs one pass.
    """

    @torch.no_grad()
    def __init__(self, network: GatedPixels, n: int, context: Tensor | None) -> None:
        self.layers = [cast(GatedLayer, layer) for layer in network.layers]
        _, _, w = network.shape
        like = network.bias
        width = self.layers[0].skip.in_channels
        self.above = like.new_zeros(n, network.seen, 1, w)
        self.rows = [like.new_zeros(n, layer.v.in_channels, layer.reach + 1, w) for layer in self.layers]
        # columns side by side, so that the window of a pixel is a slice; the first `reach` columns are the border
        self.left = [like.new_zeros(n, (w + layer.reach + 1) * layer.h.in_channels) for layer in self.layers]
        self.gates = like.new_empty(n, len(self.layers) * width)
        self.h_weights = [layer.h.weight.permute(0, 3, 1, 2).flatten(1).T for layer in self.layers]
        self.skip_weight = torch.cat([layer.skip.weight.flatten(1).T for layer in self.layers])
        self.skip_bias = torch.stack([cast(Tensor, layer.skip.bias) for layer in self.layers]).sum(0)
        self.contexts = [
            (0.0, cast(Tensor, layer.h.bias))
            if layer.context is None
            else _split(layer.context(there(context)), cast(Tensor, layer.h.bias))
            for layer in self.layers
        ]
        super().__init__(network, n)

    def begin_row(self, i: int) -> None:
        self.links = []
        v = self.above
        for k, (layer, (to_a, to_b)) in enumerate(zip(self.layers, self.contexts, strict=True)):
            p = layer.reach
            self.rows[k] = torch.cat([self.rows[k][:, :, 1:], v], 2)
            a = conv2d(pad(self.rows[k], (p, p)), layer.v.weight, layer.v.bias) + to_a
            self.links.append(layer.link(a).squeeze(2).permute(2, 0, 1) + to_b)
            v = gate(a)
        # settle fills it in place, and the rows above keep a copy
        self.above = torch.zeros_like(self.above)

    def features_at(self, j: int) -> Tensor:
        for k, layer in enumerate(self.layers):
            size = layer.h.in_channels
            end = (j + layer.reach + 1) * size
            window = self.left[k][:, j * size : end]
            a, b = torch.addmm(self.links[k][j], window, self.h_weights[k]).chunk(2, 1)
            g = torch.mul(a.tanh(), b.sigmoid())
            width = g.shape[1]
            self.gates[:, k * width : (k + 1) * width] = g
            if layer.result is not None:
                out = torch.addmm(cast(Tensor, layer.result.bias), g, layer.result.weight.flatten(1).T)
                after = (j + self.layers[k + 1].reach) * width
                self.left[k + 1][:, after : after + width] = out + window[:, -size:] if layer.residual else out
        return torch.addmm(self.skip_bias, self.gates, self.skip_weight)

    def settle(self, j: int, pixel: Tensor) -> None:
        self.above[:, :, 0, j] = pixel
        start = (j + 1 + self.layers[0].reach) * pixel.shape[1]
        self.left[0][:, start : start + pixel.shape[1]] = pixel


def gate(y: Tensor) -> Tensor:
    a, b = y.chunk(2, 1)
    return a.tanh() * b.sigmoid()


def _split(context: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    to_a, to_b = context.chunk(2, 1)
    return to_a[..., None, None], to_b + bias
