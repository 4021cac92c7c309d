"""A small convolutional encoder and its mirror image, for pictures given as flat rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyrogen.errors import SettingsError


class ConvEncoder(nn.Module):
    """Strided 5x5 convolutions that halve the picture, then a hidden layer.

    Shape: (batch, C*H*W) to (batch, outputs). Each of `channels` halves height and width, rounding up.

    Args:
        shape: (C, H, W) of the picture in a row.
        channels: the widths of the convolutions, first to last.
        hidden: the width of the fully connected layer before the output.
        outputs: the width of the output.
    """

    def __init__(
        self,
        shape: Sequence[int],
        outputs: int,
        channels: Sequence[int] = (16, 32),
        hidden: int = 256,
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        sizes = _halvings(shape, channels)
        widths = [shape[0], *channels]
        convolutions = [
            layer
            for c_in, c_out in zip(widths, channels, strict=False)
            for layer in (nn.Conv2d(c_in, c_out, 5, stride=2, padding=2), activation())
        ]
        flat = channels[-1] * math.prod(sizes[-1])
        self.layers = nn.Sequential(
            nn.Unflatten(1, tuple(shape)),
            *convolutions,
            nn.Flatten(),
            nn.Linear(flat, hidden),
            activation(),
            nn.Linear(hidden, outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class ConvDecoder(nn.Module):
    """The mirror image: two fully connected layers, then transposed 5x5 convolutions that double.

    Shape: (batch, inputs) to (batch, C*H*W*features), the features of a pixel next to each other.

    Args:
        shape: (C, H, W) of the picture.
        features: outputs per pixel (1 for a Bernoulli logit).
        channels: as given to the encoder, smallest picture last; used in reverse.
    """

    def __init__(
        self,
        inputs: int,
        shape: Sequence[int],
        features: int = 1,
        channels: Sequence[int] = (16, 32),
        hidden: int = 256,
        activation: Callable[[], nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        sizes = _halvings(shape, channels)
        self.shape, self.features = tuple(shape), features
        bottom = (channels[-1], *sizes[-1])
        widths = [*reversed(channels), shape[0] * features]
        layers: list[nn.Module] = [
            nn.Linear(inputs, hidden),
            activation(),
            nn.Linear(hidden, math.prod(bottom)),
            activation(),
            nn.Unflatten(1, bottom),
        ]
        for i, target in enumerate(reversed(sizes[:-1])):
            source = sizes[len(sizes) - 1 - i]
            # output_padding picks the even size when halving rounded up from it
            padding = (target[0] - 2 * source[0] + 1, target[1] - 2 * source[1] + 1)
            layers += [nn.ConvTranspose2d(widths[i], widths[i + 1], 5, 2, 2, padding), activation()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, z: Tensor) -> Tensor:
        channels, height, width = self.shape
        out = self.layers(z).reshape(-1, channels, self.features, height, width)
        return out.permute(0, 1, 3, 4, 2).flatten(1)


def _halvings(shape: Sequence[int], channels: Sequence[int]) -> list[tuple[int, int]]:
    """Height and width before each convolution and after the last."""
    if len(shape) != 3 or min(shape) < 1 or len(channels) < 1 or min(channels) < 1:
        raise SettingsError(
            got=f"picture shape {tuple(shape)} and channels {tuple(channels)}",
            need="a shape (C, H, W) and at least one positive number of channels",
            fix="ConvEncoder((1, 28, 28), outputs=64, channels=(16, 32))",
        )
    sizes = [(shape[1], shape[2])]
    for _ in channels:
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes
