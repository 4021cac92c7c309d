"""Layers of pictures, as rows of C x H x W entries: channels by place, couplings with convolutions, and parts."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.distributions.transforms.families import ShiftScale
from pyrogen.distributions.transforms.permutation import Permutation
from pyrogen.errors import SettingsError, ShapeError

Shape = tuple[int, int, int]


class Within(Layer):
    """A layer applied to something inside of a row; the rest stays as it is."""

    layer: Layer

    def __init__(self, layer: Layer, width: int) -> None:
        super().__init__(width, layer.context)
        self.layer = layer

    @abstractmethod
    def enter(self, x: Tensor) -> Tensor:
        """What of the rows the layer maps."""

    @abstractmethod
    def leave(self, inner: Tensor, x: Tensor) -> Tensor:
        """The rows x with what was mapped put back."""

    @abstractmethod
    def total(self, log_det: Tensor) -> Tensor:
        """The log-determinant of a row."""

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        inner, log_det = self.layer.forward_and_log_det(self.enter(x), context)
        return self.leave(inner, x), self.total(log_det)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        inner, log_det = self.layer.inverse_and_log_det(self.enter(y), context)
        return self.leave(inner, y), self.total(log_det)


class AtEachPlace(Within):
    """A layer of C entries applied to the channels at each place of a picture.

        log |det| = sum over places of the layer's

    With `LULinear` it is the invertible 1x1 convolution, with `ActNorm` the normalisation of channels.

    Source: Kingma and Dhariwal 2018, arXiv:1807.03039, sections 3.1 and 3.2.

    Args:
        layer: of width C, without context.
        shape: (C, H, W).

    Raises:
        ShapeError: the layer has another width, or a context.
    """

    def __init__(self, layer: Layer, shape: Shape) -> None:
        if layer.width not in (None, shape[0]) or layer.context:
            raise ShapeError(
                got=f"a layer of width {layer.width} and context {layer.context} for pictures of shape {shape}",
                need=f"width {shape[0]}, no context",
                fix="the number of channels",
            )
        super().__init__(layer, shape[0] * shape[1] * shape[2])
        self.channels = shape[0]

    def enter(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.channels, -1)).mT

    def leave(self, inner: Tensor, x: Tensor) -> Tensor:
        return inner.mT.flatten(-2)

    def total(self, log_det: Tensor) -> Tensor:
        return log_det.sum(-1)


class OnPart(Within):
    """A layer applied to the first entries of a row; the others are done, as in a multi-scale flow.

    Source: Dinh et al. 2016, arXiv:1605.08803, section 3.6.

    Args:
        layer: of a known width, at most that of the row.
        width: of the row.
    """

    def __init__(self, layer: Layer, width: int) -> None:
        if layer.width is None or layer.width > width:
            raise ShapeError(got=f"a layer of width {layer.width} on {width} entries", need="at most that", fix="less")
        super().__init__(layer, width)

    def enter(self, x: Tensor) -> Tensor:
        return x[..., : self.layer.width]

    def leave(self, inner: Tensor, x: Tensor) -> Tensor:
        return torch.cat([inner, x[..., self.layer.width :]], -1)

    def total(self, log_det: Tensor) -> Tensor:
        return log_det


class ConvCoupling(Layer):
    """The second half of a picture's channels, shifted and scaled by what a convolutional network sees in the first.

        y_b = x_b e^s(x_a) + m(x_a),      log |det| = sum s

    The network is conv 3x3, conv 1x1, conv 3x3 with ReLUs between; its last layer starts at zero, and so the map as
    the identity. s is soft-clipped to `clip`.

    Source: Kingma and Dhariwal 2018, arXiv:1807.03039, section 3.3 and appendix B.

    Args:
        shape: (C, H, W) with C of 2 at least.
        channels: of the hidden layers.
    """

    def __init__(self, shape: Shape, channels: int = 32, *, clip: float = 3.0) -> None:
        super().__init__(shape[0] * shape[1] * shape[2])
        if shape[0] < 2 or channels < 1:
            raise SettingsError(got=f"shape={shape}, channels={channels}", need="two channels", fix="squeeze before")
        self.shape, self.kept, self.family = shape, shape[0] // 2, ShiftScale(clip)
        last = nn.Conv2d(channels, 2 * (shape[0] - self.kept), 3, padding=1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # pyright: ignore[reportArgumentType]
        self.network = nn.Sequential(
            nn.Conv2d(self.kept, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), last
        )

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        a, b = self._halves(x)
        b, s = self.family.forward(b, self._raw(a))
        return torch.cat([a, b], -1), s.sum(-1)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        a, b = self._halves(y)
        b, s = self.family.inverse(b, self._raw(a))
        return torch.cat([a, b], -1), s.sum(-1)

    def _halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Channels come first in a row, so halves of the channels are parts of it."""
        end = self.kept * self.shape[1] * self.shape[2]
        return x[..., :end], x[..., end:]

    def _raw(self, a: Tensor) -> Tensor:
        pictures = a.reshape(-1, self.kept, *self.shape[1:])
        return self.network(pictures).reshape(*a.shape[:-1], -1)


def squeeze(shape: Shape) -> Permutation:
    """Squares of 2 x 2 places become one place of four times the channels: (C, H, W) to (4 C, H / 2, W / 2).

    Raises:
        ShapeError: an odd height or width.
    """
    c, h, w = shape
    if h % 2 or w % 2:
        raise ShapeError(got=f"pictures of {h} x {w}", need="even sides", fix="fewer levels")
    places = torch.arange(c * h * w).reshape(c, h // 2, 2, w // 2, 2)
    return Permutation(places.permute(0, 2, 4, 1, 3).flatten().tolist())


__all__ = ["AtEachPlace", "ConvCoupling", "OnPart", "Within", "squeeze"]
