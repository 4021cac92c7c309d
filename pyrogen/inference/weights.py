"""Weights of rows: how much each counts in training."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrogen.errors import DeviceError, NonFiniteError, SettingsError, ShapeError
from pyrogen.models.contracts import Trainable


def beside(data: Tensor, weights: Tensor | None) -> Tensor:
    """Rows with their weights as one more column, so that a batch of rows has its weights with it; 1 if there are none.

    Weights are divided by their mean: only how they compare counts, and the learning rate means what it did.

    Raises:
        ShapeError: not one weight for each row, or rows that are not flat.
        DeviceError: rows and weights are on different devices.
        NonFiniteError: a weight is NaN or infinite.
        SettingsError: a weight is negative, or all are 0.
    """
    if weights is None:
        return torch.cat([data, torch.ones_like(data[:, :1])], 1)
    if not isinstance(weights, Tensor) or weights.shape != data.shape[:1] or data.dim() != 2:
        got = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise ShapeError(
            got=f"weights of shape {got} for rows of shape {tuple(data.shape)}",
            need=f"({len(data)},), one for each flat row",
            fix="weights=torch.ones(len(x))",
        )
    if weights.device != data.device:
        raise DeviceError(
            got=f"weights on {weights.device}, rows on {data.device}",
            need="one device",
            fix=f"weights.to({str(data.device)!r})",
        )
    w = weights.to(data.dtype)
    if not bool(w.isfinite().all()):
        raise NonFiniteError(got=f"{int((~w.isfinite()).sum())} bad weights", need="finite ones", fix="weights=None")
    if bool((w < 0).any()) or not bool((w > 0).any()):
        raise SettingsError(
            got=f"weights from {float(w.min()):g} to {float(w.max()):g}",
            need="weights of 0 or more, and not all 0",
            fix="how often each row was seen",
        )
    return torch.cat([data, (w / w.mean()).unsqueeze(1)], 1)


def check_weighable(model: Any) -> None:
    """Refuse weights for programs whose rows are not in one plate.

    Raises:
        SettingsError: the model is not one with a plate "rows" alone.
    """
    if not isinstance(model, Trainable) or model.plate_nesting != 1:
        raise SettingsError(
            got=f"weights for {type(model).__name__}",
            need="a model with one plate, over the rows, such as RBM or VAE",
            fix="poutine.scale(scale=weights) inside the plate of your own programs",
        )


class Weighed(Messenger):
    """Scales what the sites of the rows contribute, each row by its weight, (N,); global sites are left alone."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if any(frame.vectorized and frame.dim == -1 for frame in msg["cond_indep_stack"]):
            msg["scale"] = msg["scale"] * self.weight
