"""Densities of the plane that are hard for a guide, as Pyro programs, and their log Z by quadrature.

    z ~ Uniform(-4, 4)^2, weighed by exp(-U(z)),      Z = 1/64 integral over the box of exp(-U)

U1 to U4 are the energies of Rezende and Mohamed 2015, arXiv:1505.05770, table 1. All but the first are flat along
z_1, so that on the whole plane they have no Z: hence the box. "moons" are two arcs, one in the other's opening.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

BOX = 4.0


def _bump(a: Tensor) -> Tensor:
    return -0.5 * a.square()


def _wave(z: Tensor) -> tuple[Tensor, Tensor]:
    return z[..., 0], z[..., 1] - torch.sin(0.5 * math.pi * z[..., 0])


def ring(z: Tensor) -> Tensor:
    """U1: a ring of radius 2 with two modes."""
    sides = torch.logaddexp(_bump((z[..., 0] - 2) / 0.6), _bump((z[..., 0] + 2) / 0.6))
    return 0.5 * ((z.norm(dim=-1) - 2) / 0.4) ** 2 - sides


def wave(z: Tensor) -> Tensor:
    """U2: a wave."""
    return -_bump(_wave(z)[1] / 0.4)


def split_wave(z: Tensor) -> Tensor:
    """U3: a wave with a second arm in the middle."""
    a, b = _wave(z)
    return -torch.logaddexp(_bump(b / 0.35), _bump((b + 3 * _bump((a - 1) / 0.6).exp()) / 0.35))


def forked_wave(z: Tensor) -> Tensor:
    """U4: a wave that forks."""
    a, b = _wave(z)
    return -torch.logaddexp(_bump(b / 0.4), _bump((b + 3 * torch.sigmoid((a - 1) / 0.3)) / 0.35))


def moons(z: Tensor) -> Tensor:
    """Two half rings of radius 2, around (-1, -0.5), open below, and around (1, 0.5), open above."""

    def arc(z: Tensor) -> Tensor:
        x, y = z[..., 0] + 1, z[..., 1] + 0.5
        return _bump((torch.sqrt(x * x + y * y + 1e-12) - 2) / 0.2) + torch.nn.functional.logsigmoid(5 * y)

    return -torch.logaddexp(arc(z), arc(-z))


TARGETS: dict[str, Callable[[Tensor], Tensor]] = {
    "U1": ring,
    "U2": wave,
    "U3": split_wave,
    "U4": forked_wave,
    "moons": moons,
}


def program(energy: Callable[[Tensor], Tensor]) -> Callable[[Tensor], None]:
    """The target as a Pyro program of one row that says nothing."""

    def model(row: Tensor) -> None:
        edge = row.new_full((2,), BOX)
        z = pyro.sample("z", dist.Uniform(-edge, edge).to_event(1))
        with pyro.plate("rows", len(row)):
            pyro.factor("energy", -energy(z))

    return model


def log_z(energy: Callable[[Tensor], Tensor], nodes: int = 4000) -> tuple[float, Tensor]:
    """log Z, and the mean of z, (2,), by the midpoint rule on nodes^2 cells."""
    line = (torch.arange(nodes, dtype=torch.float64) + 0.5) * (2 * BOX / nodes) - BOX
    rows, means = [], []
    for x in line.split(250):
        z = torch.stack(torch.meshgrid(x, line, indexing="ij"), -1)
        p = torch.exp(-energy(z))
        rows.append(p.sum())
        means.append((p[..., None] * z).sum((0, 1)))
    total = torch.stack(rows).sum()
    return float((total / nodes**2).log()), torch.stack(means).sum(0) / total
