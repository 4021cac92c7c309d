"""Where angles and directions live: `circular`, `torus` and `sphere`, and how guides reach them from R^d.

    circular   an angle in [-pi, pi); both ends are one direction
    torus      a vector of such angles
    sphere     a unit vector of R^(d+1), Pyro's own constraint

Importing this module registers with `biject_to`: circular and torus by the sigmoid, which leaves out the direction pi,
and sphere by the stereographic projection, which leaves out one pole. So Pyro's `AutoNormal` and NUTS take such sites.
A posterior that sits at the cut or at the pole is split or stretched by these maps: a flow on the circle or sphere is
better there.

Source: Rezende et al. 2020, arXiv:2002.02428, section 2; Gemici, Rezende and Mohamed 2016, arXiv:1611.02304.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import constraints
from pyro.distributions.constraints import sphere
from torch import Tensor
from torch.distributions import biject_to, transform_to
from torch.distributions.transforms import Transform
from torch.nn.functional import softplus

from pyrogen.ops.stereographic import log_scale, project, unproject


class _Circular(constraints.Constraint):
    """Angles in [-pi, pi), pi being the one of the dtype at hand."""

    event_dim = 0

    def check(self, value: Tensor) -> Tensor:
        return (value >= -math.pi) & (value < math.pi)

    def __repr__(self) -> str:
        return "Circular"


circular = _Circular()
torus = constraints.independent(circular, 1)


class StereographicTransform(Transform):
    """R^d to the sphere S^d without its north pole, for densities with respect to the sphere's area.

        x = (2u, |u|^2 - 1) / (|u|^2 + 1),      log |dx/du| = d log(2 / (1 + |u|^2))

    Shape: u is (..., d), x is (..., d + 1).
    Source: Gemici, Rezende and Mohamed 2016, arXiv:1611.02304, section 3.
    """

    domain = constraints.real_vector
    codomain = sphere
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StereographicTransform)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return unproject(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return project(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.shape[-1] * log_scale(x)

    def forward_shape(self, shape: Any) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Any) -> torch.Size:
        return torch.Size((*shape[:-1], shape[-1] - 1))


class _ToCircle(Transform):
    """R to (-pi, pi) by the sigmoid, kept off its ends, which rounding would reach."""

    domain = constraints.real
    codomain = circular
    bijective = True

    def __init__(self) -> None:
        super().__init__(cache_size=0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ToCircle)

    __hash__ = Transform.__hash__

    def _call(self, x: Tensor) -> Tensor:
        return math.pi * torch.tanh(x / 2).clamp(-1 + torch.finfo(x.dtype).eps, 1 - torch.finfo(x.dtype).eps)

    def _inverse(self, y: Tensor) -> Tensor:
        return 2 * torch.atanh(y / math.pi)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return math.log(2 * math.pi) - softplus(x) - softplus(-x)


@biject_to.register(_Circular)
@transform_to.register(_Circular)
def _(constraint: Any) -> Transform:
    return _ToCircle()


@biject_to.register(type(sphere))
def _(constraint: Any) -> Transform:
    return StereographicTransform()


__all__ = ["StereographicTransform", "circular", "sphere", "torus"]
