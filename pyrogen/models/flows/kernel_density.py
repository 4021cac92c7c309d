"""Densities on the sphere by kernels around the training rows: what flows on the sphere have to beat."""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyrogen.distributions import SphereKernels
from pyrogen.errors import SettingsError
from pyrogen.models.contracts import refuse_unknown
from pyrogen.models.density import Density


class KernelDensity(Density):
    """Unit vectors near one of M points, the training rows, at distances of several sizes.

        p(x) = w_0 / area + sum_s w_s 1/M sum_i vMF(x; c_i, k_s),      k_s = 1 / r_s^2,   r_1 = 1 > ... > r_S = finest

    The radii r, in radians, are in a geometric row. Only the weights w are trained, and each row is then scored by the
    kernels around all others: so its likelihood is concave in w, and a row gains nothing by being a point itself.
    `log_prob` has all points.

    Where rows repeat, the finest radius decides what the density is worth: nothing else bounds it.

    Shape: x is (N, n), rows of length 1.
    Source: Hall, Watson and Cabrera 1987, doi:10.1093/biomet/74.4.751, for kernels of one width.

    Args:
        width: n.
        points: M; `prepare` takes so many of the training rows.
        finest: the smallest radius, radians.
        scales: S.
    """

    recipe = "kernel-density"
    points: Tensor
    concentrations: Tensor

    def __init__(self, width: int, points: int, finest: float = 0.01, scales: int = 8) -> None:
        if width < 2 or points < 2 or not 0 < finest < 1 or scales < 1:
            raise SettingsError(
                got=f"width={width}, points={points}, finest={finest}, scales={scales}",
                need="vectors of 2 entries, 2 points, a radius between 0 and 1, one scale",
                fix="finest=0.01, scales=8",
            )
        super().__init__(width, "sphere")
        self.weights = nn.Parameter(torch.zeros(scales + 1))
        radii = torch.logspace(0, math.log10(finest), scales) if scales > 1 else torch.tensor([finest])
        self.register_buffer("concentrations", torch.cat([torch.zeros(1), radii**-2]))
        self.register_buffer("points", normalize(torch.randn(points, width), dim=-1))

    def dist(self, context: Tensor | None = None) -> SphereKernels:
        return SphereKernels(self.points, self.concentrations, self.weights, validate_args=False)

    def observed(self, context: Tensor | None) -> SphereKernels:
        """In training each row by the kernels of the others."""
        return SphereKernels(
            self.points, self.concentrations, self.weights, left_out=self.training, validate_args=False
        )

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Take the points from the training rows, evenly."""
        if len(train) < len(self.points):
            raise SettingsError(
                got=f"{len(self.points)} points for {len(train)} rows",
                need="a row for each",
                fix=f"points={len(train)}",
            )
        self.points.copy_(train[torch.linspace(0, len(train) - 1, len(self.points), device=train.device).long()])

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        refuse_unknown(cls.recipe, settings, {"points": 1000, "finest": 0.01, "scales": 8})
        if support != "sphere":
            raise SettingsError(got=f"{cls.recipe} for {support} data", need="unit vectors", fix='name = "nsf"')
        return cls(width, **({"points": 1000} | settings))


__all__ = ["KernelDensity"]
