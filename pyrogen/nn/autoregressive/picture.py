"""What networks of pictures share: the order of the pixels, and how features become parameters."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from pyrogen.errors import SettingsError, ShapeError
from pyrogen.nn.autoregressive.network import Network, Stepper
from pyrogen.nn.autoregressive.orders import check_count


class PictureNetwork(Network):
    """Parameters of p(x_d | x_<d) for pictures: row by row, in a row from the left, in a pixel channel by channel.

        s_ij  = features of the pixels before (i, j), by a subclass
        t_ijc = B_c relu(s_ij) + sum_(c' < c) U_cc' x_ijc'
        f_ijc = A_c relu(t_ijc) + b_ijc

    A subclass shifts its input and has kernels that end at the pixel, so that there is nothing to mask; the
    channels inside a pixel meet in U alone. A constant one comes with the picture, by which a network tells the
    border from black. At first A = 0 and f = b.

    Shape: a row is a picture (C, H, W), flattened; variable d = (c H + i) W + j.

    Args:
        shape: (C, H, W).
        features: width of s.
        hidden: width of t, for each channel.

    Raises:
        ShapeError: a shape that is none.
    """

    def __init__(
        self, shape: Sequence[int], features: int, hidden: int, *, inputs: int = 1, outputs: int = 1, context: int = 0
    ) -> None:
        c, h, w = self.shape = check_shape(shape)
        super().__init__(c * h * w, inputs, outputs, context, torch.arange(c * h * w).reshape(c, -1).T.flatten())
        check_count("features", features, 1)
        check_count("hidden", hidden, 1)
        self.hidden = hidden
        self.mix = nn.Conv2d(features, c * hidden, 1)
        self.out = nn.Conv2d(c * hidden, c * outputs, 1, groups=c, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.width, outputs))
        nn.init.zeros_(self.out.weight)
        self.inside = None
        if c > 1:
            bound = 1 / math.sqrt(c * inputs)
            self.inside = nn.Parameter(torch.empty(c * hidden, c * inputs).uniform_(-bound, bound))
        written = torch.arange(c).repeat_interleave(hidden)
        read = torch.arange(c).repeat_interleave(inputs)
        self.before: Tensor
        self.register_buffer("before", written[:, None] > read, persistent=False)

    @property
    def seen(self) -> int:
        """Channels of what `features` reads: all inputs of a pixel, and the one."""
        return self.shape[0] * self.inputs + 1

    @abstractmethod
    def features(self, x: Tensor, context: Tensor | None) -> Tensor:
        """s, (N, S, H, W), from (N, C E + 1, H, W); s at a pixel sees the pixels before it."""

    def forward(self, encoded: Tensor, context: Tensor | None = None, which: int | Tensor = 0) -> Tensor:
        c, h, w = self.shape
        x = encoded.reshape(-1, c, h, w, self.inputs).permute(0, 1, 4, 2, 3).flatten(1, 2)
        s = self.features(torch.cat([x, torch.ones_like(x[:, :1])], 1), context)
        t = self.mix(s.relu())
        if self.inside is not None:
            t = t + conv2d(x, (self.inside * self.before)[..., None, None])
        f = self.out(t.relu()).unflatten(1, (c, self.outputs)).movedim(2, -1)
        return f.reshape(*encoded.shape[:-1], self.width, self.outputs) + self.bias

    @torch.no_grad()
    def start_at(self, parameters: Tensor) -> None:
        self.bias.copy_(parameters)

    def extra_repr(self) -> str:
        return f"shape={self.shape}, {super().extra_repr()}"


class PictureStepper(Stepper):
    """Goes through a picture; what a row, a column and a pixel settle is computed once.

    A subclass has `begin_row`, `features_at` and `settle`, called in this order: the first for each row, the
    others for each pixel.
    """

    @torch.no_grad()
    def __init__(self, network: PictureNetwork, n: int) -> None:
        self.network, self.n, self.k = network, n, 0
        self.order = network.orders[0].tolist()
        c, _, _ = network.shape
        self.mix_weight = network.mix.weight.flatten(1).T
        # (C, hidden, F)
        self.out_weight = network.out.weight.flatten(1).reshape(c, network.outputs, -1).transpose(1, 2)
        self.inside = None if network.inside is None else (network.inside * network.before).T
        self.pixel = network.bias.new_zeros(n, network.seen)
        self.pixel[:, -1] = 1
        self._arrive()

    @abstractmethod
    def begin_row(self, i: int) -> None:
        """Prepare what a whole row has in common; row i - 1 is settled."""

    @abstractmethod
    def features_at(self, j: int) -> Tensor:
        """s at column j of the row, (n, S)."""

    @abstractmethod
    def settle(self, j: int, pixel: Tensor) -> None:
        """The pixel at column j, (n, C E + 1), with the one; to be copied."""

    def _arrive(self) -> None:
        c, _, w = self.network.shape
        i, j = divmod(self.k // c, w)
        if j == 0:
            self.begin_row(i)
        bias = self.network.mix.bias
        self.t = torch.addmm(bias, self.features_at(j).relu(), self.mix_weight)  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def parameters(self) -> Tensor:
        network, c = self.network, self.k % self.network.shape[0]
        part = slice(c * network.hidden, (c + 1) * network.hidden)
        t = self.t[:, part]
        if self.inside is not None and c:
            known = c * network.inputs
            t = torch.addmm(t, self.pixel[:, :known], self.inside[:known, part])
        return torch.addmm(network.bias[self.order[self.k]], t.relu(), self.out_weight[c])

    @torch.no_grad()
    def push(self, encoded: Tensor) -> None:
        channels, _, w = self.network.shape
        place, c = divmod(self.k, channels)
        start = c * self.network.inputs
        self.pixel[:, start : start + self.network.inputs] = encoded
        self.k += 1
        if c == channels - 1:
            self.settle(place % w, self.pixel)
            if self.k < len(self.order):
                self._arrive()


def check_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """The shape of a picture.

    Raises:
        ShapeError: not three positive whole numbers.
    """
    right = isinstance(shape, Sequence) and len(shape) == 3
    if not right or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape):
        raise ShapeError(
            got=f"a picture of shape {shape!r}", need="three positive whole numbers (C, H, W)", fix="(1, 28, 28)"
        )
    c, h, w = shape
    return c, h, w


def check_kernel(name: str, kernel: int, least: int = 1) -> int:
    """The reach of a kernel to one side.

    Raises:
        SettingsError: not an odd number, `least` or more.
    """
    if not isinstance(kernel, int) or isinstance(kernel, bool) or kernel < least or kernel % 2 == 0:
        raise SettingsError(got=f"{name} = {kernel!r}", need=f"an odd number, {least} or more", fix=f"{max(3, least)}")
    return kernel // 2


def check_part(name: str, part: float) -> None:
    """Refuse a number outside [0, 1).

    Raises:
        SettingsError
    """
    if not isinstance(part, int | float) or isinstance(part, bool) or not 0 <= part < 1:
        raise SettingsError(got=f"{name} = {part!r}", need="a number from 0 to below 1", fix="0.0")
