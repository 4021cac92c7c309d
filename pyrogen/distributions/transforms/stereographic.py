"""Flows of the plane carried to the sphere by the stereographic projection."""

from __future__ import annotations

from torch import Tensor

from pyrogen.distributions.transforms.base import Layer
from pyrogen.distributions.transforms.sphere import SphereLayer
from pyrogen.errors import ShapeError
from pyrogen.ops.stereographic import log_scale, project, unproject


class Stereographic(SphereLayer):
    """S^d to R^d, a flow there, and back.

        u = x_{1..d} / (1 - x_{d+1}),   s = T(u),   y = (2s, |s|^2 - 1) / (|s|^2 + 1)
        log |det| = log |det dT/du| + d log(2 / (1 + |s|^2)) - d log(2 / (1 + |u|^2))

    The north pole is the plane's infinity: where T does not tend to a rotation or scaling far out, the density is
    singular there, however smooth T is. A planar T, for one, is such.

    Source: Gemici, Rezende and Mohamed 2016, arXiv:1611.02304, sections 3 and 4.

    Args:
        layer: T, of width d; its context is the layer's.

    Raises:
        ShapeError: T has no width.
    """

    def __init__(self, layer: Layer) -> None:
        if not layer.width:
            raise ShapeError(
                got=f"{type(layer).__name__} without a width", need="a layer of width d", fix="Flow([...])"
            )
        super().__init__(layer.width + 1, layer.context)
        self.layer = layer

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u = project(self.direction(x, context))
        s, log_det = self.layer.forward_and_log_det(u, context)
        return unproject(s), log_det + u.shape[-1] * (log_scale(s) - log_scale(u))

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        s = project(self.direction(y, context))
        u, log_det = self.layer.inverse_and_log_det(s, context)
        return unproject(u), log_det + u.shape[-1] * (log_scale(u) - log_scale(s))
