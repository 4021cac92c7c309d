"""The flow of small pictures: 1x1 convolutions, convolutional couplings, several scales."""

from __future__ import annotations

from typing import Any

from pyrogen.distributions.transforms import (
    ActNorm,
    AtEachPlace,
    ConvCoupling,
    Flow,
    Layer,
    LULinear,
    OnPart,
    Permutation,
    squeeze,
)
from pyrogen.errors import SettingsError

DEFAULTS: dict[str, Any] = {"levels": 2, "steps": 4, "channels": 32}


def glow(shape: tuple[int, int, int], levels: int = 2, steps: int = 4, channels: int = 32) -> Flow:
    """From pictures to noise, as rows: at each level a squeeze, steps, and half of the channels are done.

        step    ActNorm of channels, 1x1 convolution P L U, coupling of channels by a convolutional network

    Source: Kingma and Dhariwal 2018, arXiv:1807.03039; the noise of a level that is done is standard normal.

    Args:
        shape: (C, H, W); H and W have a factor of 2 for each level.
        levels, steps: how many, and steps in each level.
        channels: of the couplings' networks.

    Raises:
        SettingsError: no level or step, or sides that have not so many factors of 2.
    """
    c, h, w = shape
    if levels < 1 or steps < 1 or h % 2**levels or w % 2**levels:
        raise SettingsError(
            got=f"levels={levels}, steps={steps} for pictures of {h} x {w}",
            need="one of both, and sides that are multiples of 2^levels",
            fix="levels=2, steps=4 for 8 x 8",
        )
    inner = (4 * c, h // 2, w // 2)
    parts: list[Layer] = [squeeze(shape)]
    for _ in range(steps):
        parts += [AtEachPlace(layer, inner) for layer in (ActNorm(4 * c), Permutation.random(4 * c), LULinear(4 * c))]
        parts.append(ConvCoupling(inner, channels))
    if levels > 1:
        parts.append(OnPart(glow((2 * c, h // 2, w // 2), levels - 1, steps, channels), c * h * w))
    return Flow(parts)


__all__ = ["DEFAULTS", "glow"]
