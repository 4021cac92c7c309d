"""The entries of a row in another order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import SettingsError


class Permutation(Layer):
    """y_i = x_order(i); volumes stay as they are.

    The order is a buffer: it is saved with the weights and comes back with them.

    Args:
        order: a permutation of 0..D-1.

    Raises:
        SettingsError: it is none.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Sequence[int] | Tensor) -> None:
        places = torch.as_tensor(list(order) if not isinstance(order, Tensor) else order).long()
        super().__init__(places.numel())
        if places.dim() != 1 or not torch.equal(places.sort().values, torch.arange(len(places))):
            raise SettingsError(
                got=f"order {places.tolist()}", need="each of 0..D-1 once", fix=f"Permutation(range({places.numel()}))"
            )
        self.register_buffer("order", places)
        self.register_buffer("back", places.argsort())

    @classmethod
    def random(cls, width: int, generator: torch.Generator | None = None) -> Self:
        return cls(torch.randperm(width, generator=generator))

    @classmethod
    def reversal(cls, width: int) -> Self:
        return cls(range(width - 1, -1, -1))

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        return x.index_select(-1, self.order), x.new_zeros(x.shape[:-1])

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        return y.index_select(-1, self.back), y.new_zeros(y.shape[:-1])
