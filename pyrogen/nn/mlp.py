"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import nn

from pyrogen.errors import SettingsError


class MLP(nn.Sequential):
    """Linear layers with an activation between them and none after the last.

        h_0 = x,   h_i = a(W_i h_(i-1) + b_i),   out = W_n h_(n-1) + b_n

    Shape: (batch, sizes[0]) to (batch, sizes[-1]).

    Args:
        sizes: the widths, input and output included; `MLP(64, 128, 16)` has one hidden layer.
        activation: makes the module between two layers.

    Raises:
        SettingsError: fewer than two sizes, or one that is not positive.
    """

    def __init__(self, *sizes: int, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise SettingsError(
                got=f"MLP sizes {sizes}",
                need="at least an input and an output width, all positive",
                fix="MLP(64, 128, 16) for 64 inputs, 128 hidden units and 16 outputs",
            )
        layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
        for width_in, width_out in pairwise(sizes[1:]):
            layers += [activation(), nn.Linear(width_in, width_out)]
        super().__init__(*layers)
