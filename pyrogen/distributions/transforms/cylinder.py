"""Splines of height and longitude on the globe."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pyrogen.distributions.transforms.sphere import SphereLayer
from pyrogen.errors import SettingsError
from pyrogen.nn.conditioner import Conditioner
from pyrogen.ops.angles import wrap
from pyrogen.ops.spline import MIN_BIN, rational_quadratic


class CylinderSpline(SphereLayer):
    """A spline of the height, then a circular spline and a turn of the longitude, decided by the new height.

        x = (r cos a, r sin a, z),   z' = spline(z; c),   a' = spline(a; (1 - z'^2) g(z', c)) + m(z', c)
        log |det| = log dz'/dz + log da'/da

    Height and longitude keep areas (Archimedes), so the two slopes are all of the Jacobian. Towards a pole the
    spline of a tends to the identity, so that the map tends to a turn and the density has one value there. It starts
    as the identity, and its inverse costs as much.

    Shape: x, y are (..., 3).
    Source: Rezende et al. 2020, arXiv:2002.02428, section 2.3: its recursion from the sphere to the cylinder, with
    splines in both places.

    Args:
        bins: K of both splines.
        hidden: widths of the network's hidden layers.
        degree: the network sees Chebyshev's polynomials T_1(z') = z' to T_degree(z'); more of them for densities whose
            longitudes change quickly with the height.
        context: C.

    Raises:
        SettingsError: fewer than 2 bins, or more than there is room for; a degree below 1.
    """

    def __init__(self, bins: int = 16, hidden: Sequence[int] = (32, 32), *, degree: int = 1, context: int = 0) -> None:
        super().__init__(3, context)
        if not 2 <= bins < 1 / MIN_BIN or degree < 1:
            raise SettingsError(
                got=f"bins={bins} and degree={degree}",
                need=f"2 to {1 / MIN_BIN:.0f} bins, and a degree of 1 or more",
                fix="bins=16, degree=1",
            )
        self.bins, self.degree = bins, degree
        self.height = nn.Parameter(torch.zeros(3 * bins - 1))
        self.of_context = Conditioner(context, hidden, 3 * bins - 1, activation=nn.Tanh) if context else None
        self.network = Conditioner(degree, hidden, 3 * bins + 1, context=context, activation=nn.Tanh)

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.direction(x, context)
        z, log_rise = self._height(x[..., 2], context, inverse=False)
        longitude, near_pole = _longitude(x)
        bins, slopes, turn = self._around(z, context)
        moved, log_turn = rational_quadratic(longitude, bins, slopes, math.pi, circular=True)
        return _moved(x, z, moved - longitude + turn, log_rise, near_pole), log_rise + log_turn

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.direction(y, context)
        longitude, near_pole = _longitude(y)
        bins, slopes, turn = self._around(y[..., 2], context)
        turned = wrap(longitude - turn)
        moved, log_turn = rational_quadratic(turned, bins, slopes, math.pi, inverse=True, circular=True)
        z, log_rise = self._height(y[..., 2], context, inverse=True)
        return _moved(y, z, moved - turned - turn, log_rise, near_pole), log_rise + log_turn

    def _height(self, z: Tensor, context: Tensor | None, inverse: bool) -> tuple[Tensor, Tensor]:
        raw = self.height if self.of_context is None else self.height + self.of_context(context)
        bins, slopes = raw.split([2 * self.bins, self.bins - 1], -1)
        return rational_quadratic(z, bins.unflatten(-1, (2, self.bins)), slopes, 1.0, inverse=inverse)

    def _around(self, z: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The parameters of the longitude's spline at height z, and the turn."""
        raw = self.network(_chebyshev(z, self.degree), context)
        bins, slopes, turn = raw.split([2 * self.bins, self.bins, 1], -1)
        fade = (1 - z * z).clamp(min=0).unsqueeze(-1)
        return (fade * bins).unflatten(-1, (2, self.bins)), fade * slopes, turn.squeeze(-1)


def _chebyshev(z: Tensor, degree: int) -> Tensor:
    """T_k(z) = cos(k arccos z), k = 1 to degree: (...) to (..., degree)."""
    found = [torch.ones_like(z), z]
    for _ in range(degree - 1):
        found.append(2 * z * found[-1] - found[-2])
    return torch.stack(found[1:], -1)


def _longitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """The longitude, in [-pi, pi), and where a pole is so near that 1 - z^2 has lost half of its digits."""
    square = x[..., :2].square().sum(-1)
    near_pole = square < torch.finfo(x.dtype).eps ** 0.5
    at_pole = square == 0  # where atan2 has no derivative; any longitude will do
    east = torch.where(at_pole, 1.0, x[..., 0])
    return wrap(torch.atan2(torch.where(at_pole, 0.0, x[..., 1]), east)), near_pole


def _moved(x: Tensor, z: Tensor, turn: Tensor, log_rise: Tensor, near_pole: Tensor) -> Tensor:
    """x with height z, its horizontal part turned and scaled to fit: by sqrt((1 - z'^2) / (1 - z^2)).

    At a pole this is 0 / 0, and the square root of the height's slope in the limit.
    """
    square = torch.where(near_pole, 1.0, x[..., :2].square().sum(-1))
    room = torch.where(near_pole, 1.0, ((1 - z) * (1 + z)).clamp(min=torch.finfo(z.dtype).tiny))
    scale = torch.where(near_pole, (log_rise / 2).exp(), (room / square).sqrt())
    cos, sin = scale * turn.cos(), scale * turn.sin()
    flat = [cos * x[..., 0] - sin * x[..., 1], sin * x[..., 0] + cos * x[..., 1]]
    return normalize(torch.stack([*flat, z], -1), dim=-1)
