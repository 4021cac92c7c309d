"""A flow as a model of rows: exact density, exact draws, and a guide with nothing to do."""

from __future__ import annotations

import pyro
import torch
from torch import Tensor

from pyrogen.distributions import FlowDistribution, NormalizingFlow
from pyrogen.distributions.transforms import ActNorm, Flow, Layer
from pyrogen.errors import ShapeError
from pyrogen.models.contracts import Explicit, Pair


class FlowModel(Pair, Explicit):
    """Real rows that a flow makes Gaussian.

        model   x ~ p(x) = Normal(T(x); 0, I) |det dT/dx|,      one site "x"
        guide   nothing, so that the ELBO is log p(x) and training is maximum likelihood

    Rows must be continuous: on values that repeat, such as grey levels, the density has no upper limit; take
    `DequantizedFlow` for those.

    Shape: x is (N, D).

    Args:
        layer: T, from rows to noise, of width D.

    Raises:
        ShapeError: the layer takes every width, or a context.
    """

    def __init__(self, layer: Layer) -> None:
        if layer.width is None or layer.context:
            raise ShapeError(
                got=f"a layer of width {layer.width} and context {layer.context}",
                need="a width, and no context",
                fix="Flow([...]) with a layer that has a width, and FlowDistribution for conditional densities",
            )
        super().__init__(layer.width, "real")
        self.flow = NormalizingFlow(layer.inv)

    def dist(self) -> FlowDistribution:
        """p(x), for use in any Pyro program."""
        return self.flow()

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            return pyro.sample("x", self.dist(), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> None:
        with self.rows(x, size):
            pass

    def log_prob(self, x: Tensor) -> Tensor:
        return self.dist().log_prob(x)

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        return self.dist().sample((n,))

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Let each ActNorm start from what the rows are when they come to it."""
        start_at(self.flow.layer.inv, train)


@torch.no_grad()
def start_at(layer: Layer, x: Tensor) -> Tensor:
    """Start the ActNorms of a flow at the rows that reach them; gives what comes out."""
    if isinstance(layer, Flow):
        for part in layer.layers:
            x = start_at(part, x)  # pyright: ignore[reportArgumentType]
        return x
    if isinstance(layer, ActNorm):
        layer.start_at(x)
    return layer(x)
