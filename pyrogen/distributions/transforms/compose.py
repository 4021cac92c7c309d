"""Layers one after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import ShapeError


class Flow(Layer):
    """T = T_K o ... o T_1, the first layer applied first; log-determinants add up in one pass.

    The context goes to those layers that take one.

    Args:
        layers: at least one.

    Raises:
        ShapeError: no layers; or their widths or contexts differ.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        parts = list(layers)
        if not parts:
            raise ShapeError(got="a flow without layers", need="at least one", fix="Flow([Permutation(range(2))])")
        width = _agreed("widths", {part.width for part in parts if part.width is not None})
        super().__init__(width or None, _agreed("contexts", {part.context for part in parts if part.context}))
        self.layers = nn.ModuleList(parts)
        self.domain, self.codomain = parts[0].domain, parts[-1].codomain

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        return self._pass(iter(self.layers), x, context, inverse=False)  # pyright: ignore[reportArgumentType]

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        return self._pass(reversed(self.layers), y, context, inverse=True)  # pyright: ignore[reportArgumentType]

    def _pass(self, layers: Iterator[Layer], x: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        total: Tensor | float = 0.0
        for layer in layers:
            given = context if layer.context else None
            x, log_det = (layer.inverse_and_log_det if inverse else layer.forward_and_log_det)(x, given)
            total = log_det if isinstance(total, float) else total + log_det
        return x, total  # pyright: ignore[reportReturnType]


def _agreed(what: str, values: set[int]) -> int:
    if len(values) > 1:
        raise ShapeError(got=f"layers of {what} {sorted(values)}", need="one", fix="the same for all layers")
    return next(iter(values), 0)
