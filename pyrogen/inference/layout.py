"""Where particles and rows are among the batch dimensions of a Pyro trace."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyrogen.errors import ModelError

PARTICLES = "particles"

# a node of Pyro's trace: a TypedDict without required keys, which tells a type checker nothing
Site = Any


@dataclass(frozen=True)
class Layout:
    """The particle plate and the plates of rows, by dimension (negative, counted from the right).

    Rows are the plates that every observed site is in. A latent in all of them is local, in none of
    them global; a plate that only some local latents share cannot tell rows apart and is summed over.
    """

    particle_dim: int | None
    particles: int
    row_dims: tuple[int, ...]
    row_sizes: tuple[int, ...]
    full_size: int

    @classmethod
    def of(cls, observed: list[Site], latents: list[Site]) -> Layout:
        """Read the layout off the model's sites.

        Raises:
            ModelError: nothing is observed, or a latent shares no plate of rows with another one.
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
        for site in latents:
            if 0 < len(_plates(site) & rows) < len(rows):
                raise ModelError(
                    got=f"site {site['name']!r} in only some of the plates {sorted(f.name for f in rows)}",
                    need="plates of rows that all local latents share",
                    fix="one plate over the data around every local latent and the observed sites",
                )
        frames = sorted(rows, key=lambda f: f.dim)
        return cls(
            particle_dim=particle.dim if particle else None,
            particles=particle.size if particle else 1,
            row_dims=tuple(f.dim for f in frames),
            row_sizes=tuple(f.size for f in frames),
            full_size=math.prod(f.full_size or f.size for f in frames),
        )

    @property
    def n_rows(self) -> int:
        return math.prod(self.row_sizes)

    def is_global(self, site: Site) -> bool:
        """Whether the site is outside the plates of rows."""
        return bool(self.row_dims) and not any(f.dim in self.row_dims for f in _plates(site))

    def reduce(self, t: Tensor, site: Site, trailing: int = 0) -> Tensor:
        """Sum t over the site's plates that are neither particles nor rows.

        Shape: t is (*batch, *rest) with `trailing` dimensions in rest; gives (K, N, *rest), with 1
        for N at a global site. Subsampling of the summed plates is scaled for.
        """
        plates = _plates(site)
        depth = max([-f.dim for f in plates] + [t.dim() - trailing])
        batch = [1] * depth
        for frame in plates:
            batch[frame.dim] = frame.size
        rest = t.shape[t.dim() - trailing :]
        t = t.expand(torch.broadcast_shapes(t.shape[: t.dim() - trailing], tuple(batch)) + rest)
        kept = {self.particle_dim, *self.row_dims}
        summed = [depth + dim for dim in range(-depth, 0) if dim not in kept]
        t = t.sum(summed) if summed else t
        inner = math.prod((f.full_size or f.size) / f.size for f in _inner(site, kept))
        n_rows = 1 if self.is_global(site) else self.n_rows
        return (t if inner == 1 else inner * t).reshape(self.particles, n_rows, *rest)

    def spread(self, w: Tensor, value: Tensor, event_dim: int, is_global: bool = False) -> Tensor:
        """The reverse: put (K, N) weights where they broadcast against a site's value."""
        dims = {} if is_global else dict(zip(self.row_dims, self.row_sizes, strict=True))
        if self.particle_dim is not None:
            dims[self.particle_dim] = self.particles
        depth = max((-dim for dim in dims), default=0)
        shape = [dims.get(dim, 1) for dim in range(-depth, 0)]
        return w.reshape(*shape, *[1] * event_dim).expand_as(value)


def _plates(site: Site) -> set[Any]:
    return {frame for frame in site["cond_indep_stack"] if frame.vectorized}


def _inner(site: Site, kept: Iterable[int | None]) -> list[Any]:
    return [f for f in site["cond_indep_stack"] if not f.vectorized or f.dim not in kept]
