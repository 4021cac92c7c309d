"""A flow from the uniform law of a curved space as a model of rows: exact density, exact draws, an empty guide."""

from __future__ import annotations

from abc import abstractmethod

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrogen.distributions import FlowDistribution
from pyrogen.distributions.transforms import Layer
from pyrogen.errors import ShapeError
from pyrogen.models.contracts import Explicit, Pair


class ManifoldFlow(Pair, Explicit):
    """Rows that a flow makes uniform.

        model   x ~ p(x) = |det dT/dx| / volume,      one site "x"
        guide   nothing, so that the ELBO is log p(x) and training is maximum likelihood

    Densities are with respect to the space's own volume, so the uniform law has -log volume nats in any coordinates.
    Rows must be continuous: where they repeat, a density has no upper limit.

    Args:
        layer: T, from rows to the uniform law, of a known width and without a context.
        support: what a row is, "sphere" or "torus".

    Raises:
        ShapeError: the layer takes every width, or a context.
    """

    def __init__(self, layer: Layer, support: str) -> None:
        if layer.width is None or layer.context:
            raise ShapeError(
                got=f"a layer of width {layer.width} and context {layer.context}",
                need="a width, and no context",
                fix="FlowDistribution for conditional densities",
            )
        super().__init__(layer.width, support)
        self.layer = layer

    @abstractmethod
    def base(self) -> TorchDistribution:
        """The uniform law, with the dtype and device of the model."""

    def dist(self) -> FlowDistribution:
        """p(x), for use in any Pyro program."""
        return FlowDistribution(self.base(), self.layer.inv)

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
