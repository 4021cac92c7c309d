"""A flow from the uniform law of a curved space as a model of rows: exact density, exact draws, an empty guide."""

from __future__ import annotations

from abc import abstractmethod

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrogen.distributions import FlowDistribution
from pyrogen.distributions.transforms import Layer
from pyrogen.models.density import Density
from pyrogen.models.flows.base import width_of


class ManifoldFlow(Density):
    """Rows that a flow makes uniform.

        model   x ~ p(x) = |det dT/dx| / volume,      one site "x"
        guide   nothing, so that the ELBO is log p(x) and training is maximum likelihood

    Densities are with respect to the space's own volume, so the uniform law has -log volume nats in any coordinates.
    Rows must be continuous: where they repeat, a density has no upper limit.

    Args:
        layer: T, from rows to the uniform law, of a known width; with a context, the density is p(x | c).
        support: what a row is, "sphere" or "torus".

    Raises:
        ShapeError: the layer takes every width.
    """

    def __init__(self, layer: Layer, support: str) -> None:
        super().__init__(width_of(layer), support, layer.context)
        self.layer = layer

    @abstractmethod
    def base(self) -> TorchDistribution:
        """The uniform law, with the dtype and device of the model."""

    def dist(self, context: Tensor | None = None) -> FlowDistribution:
        return FlowDistribution(self.base(), self.layer.inv, context)
