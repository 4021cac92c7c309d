"""Where particles and rows are among the batch dimensions of a Pyro trace."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrogen.errors import ModelError

PARTICLES = "_pyrogen_particles"  # a name that no model has for a plate of its own

# a node of Pyro's trace: a TypedDict without required keys, which tells a type checker nothing
Site = Any


@dataclass(frozen=True)
class Layout:
    """The particle plate and the plates of rows, by dimension (negative, counted from the right).

    Rows are the plates that every observed site is in, less those that a local latent is outside of:
    a plate that only some local latents share cannot tell rows apart and is summed over. So a latent is
    in all of the plates of rows, local, or in none of them, global.
    """

    particle_dim: int | None
    particles: int
    row_plates: tuple[str, ...]
    row_dims: tuple[int, ...]
    row_sizes: tuple[int, ...]
    full_size: int

    @classmethod
    def of(cls, observed: list[Site], latents: list[Site]) -> Layout:
        """Read the layout off the model's sites.

        Raises:
            ModelError: nothing is observed.
        """
        if not observed:
            raise ModelError(
                got="a model that observes nothing", need="a site with obs=", fix="pyro.sample('x', ..., obs=x)"
            )
        rows = set.intersection(*(_plates(site) for site in observed))
        particle = next((f for f in rows if f.name == PARTICLES), None)
        rows.discard(particle)
        for site in latents:
            shared = _plates(site) & rows
            rows = shared or rows
        frames = sorted(rows, key=lambda f: f.dim)
        return cls(
            particle_dim=particle.dim if particle else None,
            particles=particle.size if particle else 1,
            row_plates=tuple(f.name for f in frames),
            row_dims=tuple(f.dim for f in frames),
            row_sizes=tuple(f.size for f in frames),
            full_size=math.prod(f.full_size or f.size for f in frames),
        )

    @property
    def n_rows(self) -> int:
        return math.prod(self.row_sizes)

    def is_global(self, site: Site) -> bool:
        """Whether the site is outside the plates of rows."""
        return bool(self.row_dims) and not self.rows_of(site)

    def rows_of(self, site: Site) -> dict[int, int]:
        """The plates of rows that the site is in: dimension to size."""
        rows = set(zip(self.row_plates, self.row_dims, strict=True))
        return {f.dim: f.size for f in _plates(site) if (f.name, f.dim) in rows}

    def kept(self, site: Site) -> set[int | None]:
        """The site's dimensions that are particles or rows; elsewhere another plate may have a row's dimension."""
        return {self.particle_dim, *self.rows_of(site)}

    def reduce(self, t: Tensor, site: Site, trailing: int = 0) -> Tensor:
        """Sum t over the site's plates that are neither particles nor rows.

        Shape: t is (*batch, *rest) with `trailing` dimensions in rest; gives (K, N, *rest), with 1
        for N at a global site. Subsampling of the summed plates is scaled for.

        Raises:
            ModelError: a batch dimension is in no plate, so that it is unknown what it counts.
        """
        plates = _plates(site)
        depth = max([-f.dim for f in plates] + [t.dim() - trailing])
        _check_plates(site, t.shape[: t.dim() - trailing], plates)
        batch = [1] * depth
        for frame in plates:
            batch[frame.dim] = frame.size
        rest = t.shape[t.dim() - trailing :]
        t = t.expand(torch.broadcast_shapes(t.shape[: t.dim() - trailing], tuple(batch)) + rest)
        kept = self.kept(site)
        summed = [depth + dim for dim in range(-depth, 0) if dim not in kept]
        t = t.sum(summed) if summed else t
        inner = self.inner_scale(site)
        n_rows = 1 if self.is_global(site) else self.n_rows
        return (t if inner == 1 else inner * t).reshape(self.particles, n_rows, *rest)

    def inner_scale(self, site: Site) -> float:
        """How many entries each one stands for in the site's plates that are summed: 1 unless they are subsampled."""
        inner = [f for f in site["cond_indep_stack"] if not f.vectorized or f.dim not in self.kept(site)]
        return math.prod((f.full_size or f.size) / f.size for f in inner)

    def per_row(self, t: Tensor, site: Site) -> Tensor:
        """(K, N) of a t that is the same for all of a row's entries, for example a weight of rows.

        Raises:
            ModelError: t varies within a row.
        """
        for dim in range(-t.dim(), 0):
            if t.shape[dim] > 1 and dim not in self.kept(site):
                raise ModelError(
                    got=f"a scale of shape {tuple(t.shape)} that varies within the rows of site {site['name']!r}",
                    need="one weight per row",
                    fix="a number, or a tensor with one entry per row",
                )
        return self.reduce(t, site) / self.reduce(torch.ones_like(t), site)

    def spread(self, w: Tensor, value: Tensor, event_dim: int, is_global: bool = False) -> Tensor:
        """The reverse: put (K, N) weights where they broadcast against a site's value."""
        dims = {} if is_global else dict(zip(self.row_dims, self.row_sizes, strict=True))
        w = w if is_global else w.expand(self.particles, self.n_rows)  # (K, 1) when everything has one weight
        if self.particle_dim is not None:
            dims[self.particle_dim] = self.particles
        depth = max((-dim for dim in dims), default=0)
        shape = [dims.get(dim, 1) for dim in range(-depth, 0)]
        return w.reshape(*shape, *[1] * event_dim).expand_as(value)


def _check_plates(site: Site, batch: torch.Size, plates: set[Any]) -> None:
    sizes = {f.dim: f.size for f in plates}
    for dim in range(-len(batch), 0):
        if batch[dim] > 1 and dim not in sizes:
            raise ModelError(
                got=f"site {site['name']!r} with batch shape {tuple(batch)}, whose dimension {dim} is in no plate",
                need="a plate for every batch dimension",
                fix=".to_event(1) on the distribution, or a pyro.plate around the site",
            )
        if batch[dim] > 1 and batch[dim] != sizes[dim]:
            raise ModelError(
                got=f"site {site['name']!r} with {batch[dim]} values in a plate of {sizes[dim]}",
                need="as many values as rows",
                fix="the same rows in the data, the model's plate and the guide's",
            )


def _plates(site: Site) -> set[Any]:
    return {frame for frame in site["cond_indep_stack"] if frame.vectorized}


def subsampling(frames: Any) -> float:
    """How many entries each one stands for in these plates."""
    return math.prod((f.full_size or f.size) / f.size for f in frames if f.size)
