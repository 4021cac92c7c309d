"""Maps of the globe and of the torus: true, empirical and learned densities side by side, on one scale of colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrogen.diagnostics.plots import VALID
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.ops.angles import latitude_longitude, unit_vectors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Panel = Callable[[Tensor], Tensor] | Tensor
"""A log-density of rows, or rows, of which the map is a histogram."""


def globe_maps(
    panels: Mapping[str, Panel],
    *,
    points: Tensor | None = None,
    nodes: int = 180,
    bins: int = 24,
    log: bool = False,
    title: str = "",
) -> Figure:
    """Densities on the sphere S^2 in Mollweide's projection, which keeps areas; north is up.

    A log-density is drawn at (2 nodes, nodes) places; rows are counted in 2 bins times bins cells of equal area. All
    share one scale, in units of the uniform density 1 / 4 pi, cut at the value that 99.5 % of the area stay below.

        globe_maps({"data": x, "flow": flow.log_prob}, points=x)

    Args:
        panels: by title, from left to right.
        points: rows (N, 3), drawn as dots over each density that is a function.
        log: colours by log10 of the density.

    Raises:
        ShapeError: rows that have not three columns.
        SettingsError: nothing to draw.
    """
    latitude, longitude = np.linspace(-90, 90, nodes + 1), np.linspace(-180, 180, 2 * nodes + 1)
    lat, lon = torch.broadcast_tensors(
        torch.from_numpy(_middle(latitude))[:, None], torch.from_numpy(_middle(longitude))
    )
    x, area = unit_vectors(lat, lon).reshape(-1, 3), torch.deg2rad(lat).cos().numpy()
    dots = None if points is None else _degrees(points)
    figure, axes = _row(panels, "mollweide", title)
    values = [
        _counted(panel, lat.numpy(), lon.numpy(), bins)
        if isinstance(panel, Tensor)
        else 4 * math.pi * _evaluated(panel, x).reshape(area.shape)
        for panel in panels.values()
    ]
    limits = _limits(values, area, log)
    for ax, name, value in zip(axes, panels, values, strict=True):
        mesh = ax.pcolormesh(np.deg2rad(longitude), np.deg2rad(latitude), _shown(value, log), rasterized=True, **limits)
        if dots is not None and not isinstance(panels[name], Tensor):
            size = min(6.0, max(0.3, 4000 / dots.shape[1]))
            ax.scatter(*np.deg2rad(dots[::-1]), s=size, c=VALID, linewidths=0, alpha=0.6)
        ax.set_title(name)
        ax.set_xticks([])
        ax.set_yticks([])
    figure.colorbar(mesh, ax=axes, shrink=0.7, label=_unit(log))
    return figure


def torus_maps(
    panels: Mapping[str, Panel], *, nodes: int = 120, bins: int = 40, log: bool = False, title: str = ""
) -> Figure:
    """Densities of two angles as squares whose opposite sides are one; as `globe_maps`, in units of 1 / (2 pi)^2.

    Raises:
        ShapeError: rows that have not two columns.
        SettingsError: nothing to draw.
    """
    edges = np.linspace(-math.pi, math.pi, nodes + 1)
    line = torch.from_numpy(_middle(edges))
    x = torch.cartesian_prod(line, line)

    def drawn(panel: Panel) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(panel, Tensor):
            return edges, _evaluated(panel, x).reshape(nodes, nodes) * 4 * math.pi**2
        if panel.dim() != 2 or panel.shape[1] != 2:
            raise ShapeError(got=f"rows of shape {tuple(panel.shape)}", need="(N, 2)", fix="x[:, :2]")
        cells = np.linspace(-math.pi, math.pi, bins + 1)
        counts = np.histogram2d(*panel.detach().cpu().double().numpy().T, bins=(cells, cells))[0]
        return cells, counts / counts.mean()

    figure, axes = _row(panels, None, title)
    found = [drawn(panel) for panel in panels.values()]
    top = max(float(np.quantile(value, 0.995)) for _, value in found)
    for ax, name, (edge, value) in zip(axes, panels, found, strict=True):
        mesh = ax.pcolormesh(edge, edge, _shown(value, log).T, rasterized=True, **_scale(top, log))
        ax.set(title=name, xlabel="$x_1$ (radians)", aspect="equal")
    axes[0].set_ylabel("$x_2$ (radians)")
    figure.colorbar(mesh, ax=axes, shrink=0.8, label=_unit(log))
    return figure


def _row(panels: Mapping[str, Panel], projection: str | None, title: str) -> tuple[Figure, list[Any]]:
    if not panels:
        raise SettingsError(got="no panels", need="one at least", fix="{'flow': flow.log_prob}")
    from matplotlib.figure import Figure

    width = 4.2 if projection else 3.4
    figure = Figure(figsize=(width * len(panels) + 0.8, 3.2), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False, subplot_kw={"projection": projection} if projection else None)
    if title:
        figure.suptitle(title)
    return figure, list(axes[0])


@torch.no_grad()
def _evaluated(log_density: Callable[[Tensor], Tensor], x: Tensor) -> np.ndarray:
    """exp of the log-density at the rows, with the dtype and device that a model has."""
    owner = getattr(log_density, "__self__", None)
    like = next(owner.parameters(), x) if isinstance(owner, torch.nn.Module) else x
    rows = [log_density(part.to(like)).double().cpu() for part in x.split(20_000)]
    return torch.cat(rows).exp().numpy()


def _degrees(x: Tensor) -> np.ndarray:
    """(N, 3) to latitudes and longitudes, (2, N)."""
    if x.dim() != 2:
        raise ShapeError(got=f"rows of shape {tuple(x.shape)}", need="(N, 3)", fix="x.reshape(-1, 3)")
    return torch.stack(latitude_longitude(x.detach().cpu().double())).numpy()


def _middle(edges: np.ndarray) -> np.ndarray:
    return (edges[1:] + edges[:-1]) / 2


def _counted(x: Tensor, lat: np.ndarray, lon: np.ndarray, bins: int) -> np.ndarray:
    """How many rows are in the cell of each place, over the mean of all cells; cells of equal area."""
    heights, lines = np.rad2deg(np.arcsin(np.linspace(-1, 1, bins + 1))), np.linspace(-180, 180, 2 * bins + 1)
    counts = np.histogram2d(*_degrees(x), bins=(heights, lines))[0]
    i, j = (np.searchsorted(edges[1:-1], at) for edges, at in ((heights, lat), (lines, lon)))
    return counts[i, j] / counts.mean()


def _limits(values: list[np.ndarray], area: np.ndarray, log: bool) -> dict[str, Any]:
    """One scale for all, up to the largest of what 99.5 % of each map's area stay below."""
    tops = []
    for value in values:
        order = value.ravel().argsort()
        below = area.ravel()[order].cumsum() / area.sum()
        tops.append(value.ravel()[order][min(int(np.searchsorted(below, 0.995)), value.size - 1)])
    return _scale(float(max(tops)), log)


def _scale(top: float, log: bool) -> dict[str, Any]:
    return {"vmin": -3.0, "vmax": max(math.log10(top or 1.0), -2.0)} if log else {"vmin": 0.0, "vmax": top or 1.0}


def _shown(value: np.ndarray, log: bool) -> np.ndarray:
    return np.log10(np.maximum(value, 1e-12)) if log else value


def _unit(log: bool) -> str:
    return "log10 density / uniform" if log else "density / uniform"


__all__ = ["globe_maps", "torus_maps"]
