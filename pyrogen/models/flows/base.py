"""A flow as a model of rows: exact density, exact draws, and a guide with nothing to do."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.distributions import FlowDistribution, NormalizingFlow
from pyrogen.distributions.transforms import ActNorm, Flow, Layer, Within
from pyrogen.errors import ShapeError
from pyrogen.models.density import Density


class FlowModel(Density):
    """Real rows that a flow makes Gaussian.

        model   x ~ p(x) = Normal(T(x); 0, I) |det dT/dx|,      one site "x"
        guide   nothing, so that the ELBO is log p(x) and training is maximum likelihood

    Rows must be continuous: on values that repeat, such as grey levels, the density has no upper limit; take
    `DequantizedFlow` for those.

    With a layer that takes a context it is the conditional density p(x | c) of rows (x, c).

    Shape: rows are (N, D), or (N, D + C).

    Args:
        layer: T, from rows to noise, of width D.

    Raises:
        ShapeError: the layer takes every width.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(width_of(layer), "real", layer.context)
        self.flow = NormalizingFlow(layer.inv)

    def dist(self, context: Tensor | None = None) -> FlowDistribution:
        return self.flow(context)

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Let each ActNorm start from what the rows are when they come to it."""
        start_at(self.flow.layer.inv, *self.parts(train))


def width_of(layer: Layer) -> int:
    """D of a layer.

    Raises:
        ShapeError: the layer takes every width.
    """
    if layer.width is None:
        raise ShapeError(got=f"{type(layer).__name__}, a layer of any width", need="one width", fix="Flow([...])")
    return layer.width


@torch.no_grad()
def start_at(layer: Layer, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Start the ActNorms of a flow at the rows that reach them; gives what comes out."""
    if isinstance(layer, Flow):
        for part in layer.layers:
            x = start_at(part, x, context)  # pyright: ignore[reportArgumentType]
        return x
    if isinstance(layer, Within):
        start_at(layer.layer, layer.enter(x), context)
    if isinstance(layer, ActNorm):
        layer.start_at(x)
    return layer(x, context if layer.context else None)
