"""Angles on the circle [-pi, pi), and the globe's latitude and longitude."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pyrogen.errors import ShapeError, SupportError


def wrap(angle: Tensor) -> Tensor:
    """The same direction as an angle in [-pi, pi): a - 2 pi floor((a + pi) / 2 pi).

    Angles that are already there come back to the bit, and the derivative is 1 everywhere.

    Shape: (...) to (...), radians.
    """
    fixed = angle.detach()
    turns = torch.floor((fixed + math.pi) / (2 * math.pi))
    turns = torch.where((fixed >= -math.pi) & (fixed < math.pi), 0.0, turns)
    inside = angle - 2 * math.pi * turns
    # rounding may leave pi itself, which is -pi, or a last digit below -pi
    inside = torch.where(inside >= math.pi, inside - 2 * math.pi, inside)
    return torch.where(inside < -math.pi, inside + (-math.pi - inside).detach(), inside)


def unit_vectors(latitude: Tensor, longitude: Tensor) -> Tensor:
    """Points of the globe in degrees as unit vectors.

        x = (cos lat cos lon, cos lat sin lon, sin lat)

    Shape: (...) and (...) to (..., 3).

    Raises:
        SupportError: a latitude outside [-90, 90], or an entry that is not finite.
    """
    bad = ~((latitude.abs() <= 90) & longitude.isfinite())
    if bad.any():
        first = int(bad.flatten().byte().argmax())
        raise SupportError(
            got=f"latitude {latitude.flatten()[first]:.6g}, longitude {longitude.flatten()[first]:.6g}",
            need="degrees, latitudes within -90 and 90",
            fix="swapping the two, if longitude came first",
        )
    lat, lon = torch.deg2rad(latitude), torch.deg2rad(longitude)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], -1)


def latitude_longitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """Unit vectors as degrees: latitude in [-90, 90] and longitude in [-180, 180]; the inverse of `unit_vectors`.

    Shape: (..., 3) to (...) and (...).

    Raises:
        ShapeError: x has not three columns.
    """
    if x.shape[-1:] != (3,):
        raise ShapeError(got=f"x of shape {tuple(x.shape)}", need="(..., 3)", fix="points on the globe")
    flat = torch.hypot(x[..., 0], x[..., 1])
    return torch.rad2deg(torch.atan2(x[..., 2], flat)), torch.rad2deg(torch.atan2(x[..., 1], x[..., 0]))
