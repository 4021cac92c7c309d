"""Pictures of a fit: grids of images, reconstructions, the latent map, the training curve.

Each function makes a figure of its own, without pyplot and so without a display or global state, or draws
into the Axes that it is given; it returns the figure: `curves(fit.history).savefig("curves.png")`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrogen.errors import ShapeError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's "muted" scheme and black: told apart with any kind of colour vision (personal.sron.nl/~pault)
PALETTE = (
    "#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#AA4499", "#44AA99", "#999933", "#882255", "#000000",
)  # fmt: skip
MARKERS = ("o", "^", "s", "D", "v")
TRAIN, VALID = "#332288", "#CC6677"


def image_grid(
    images: Tensor, shape: Sequence[int], *, columns: int | None = None, title: str = "", ax: Axes | None = None
) -> Figure:
    """Rows as pictures, in reading order.

    Args:
        images: (N, D) with entries in [0, 1].
        shape: (C, H, W) or (H, W) with C H W = D; C is 1 for grey or 3 for colour.
        columns: pictures per line; about the square root of N by default.
    """
    pictures = _pictures(images, shape)
    canvas = _tile(pictures, min(columns or math.ceil(math.sqrt(len(pictures))), len(pictures)))
    figure, ax = _show(canvas, pictures.shape[2], title, ax, margin=0.1)
    ax.set_axis_off()
    return figure


def reconstructions(
    x: Tensor, x_hat: Tensor, shape: Sequence[int], *, columns: int = 10, title: str = "", ax: Axes | None = None
) -> Figure:
    """Data above, what the model makes of its code below, in pairs of lines.

    Args:
        x, x_hat: (N, D) with entries in [0, 1].
        shape: (C, H, W) or (H, W).
        columns: pictures per line.
    """
    above, below = _pictures(x, shape), _pictures(x_hat, shape)
    if above.shape != below.shape:
        raise ShapeError(got=f"{len(x)} rows and {len(x_hat)} reconstructions", need="as many", fix="x_hat[: len(x)]")
    _, height, width, channels = above.shape
    columns = min(columns, len(above))
    starts = range(0, len(above), columns)
    # reading order of pairs of lines: data 0 to 9, model 0 to 9, data 10 to 19, ...; blank where data ends
    blank = np.ones((len(starts) * columns - len(above), height, width, channels))
    halves = [np.concatenate([half, blank]).reshape(len(starts), columns, *half.shape[1:]) for half in (above, below)]
    canvas = _tile(np.stack(halves, axis=1).reshape(-1, height, width, channels), columns)
    figure, ax = _show(canvas, width, title, ax, margin=0.8)
    step = height + _border(height)
    ax.set_yticks([step * i + height / 2 for i in range(2 * len(starts))], ["data", "model"] * len(starts))
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def latent_map(
    mean: Tensor, labels: Tensor | Sequence[Any] | None = None, *, title: str = "", ax: Axes | None = None
) -> Figure:
    """Codes in the plane: themselves if L = 2, else along the two directions in which they vary most.

    Args:
        mean: (N, L), the mean of q(z | x) for each row.
        labels: (N,) classes; up to fifty are told apart by colour and marker, and named at their median.
    """
    codes = torch.as_tensor(mean).detach().cpu().double()
    if codes.dim() != 2 or codes.shape[1] < 2:
        raise ShapeError(got=f"codes of shape {tuple(codes.shape)}", need="(N, L) with L of 2 or more", fix="mean")
    points, axes = _plane(codes)
    figure, ax = _axes(ax, width=6.0, height=5.0)
    size = min(36.0, max(5.0, 4e4 / len(points) / 3))
    if labels is None:
        ax.scatter(*points.T, s=size, c=PALETTE[0], alpha=0.6, linewidths=0)
    else:
        _classes(ax, points, _labels(labels, len(points)), size)
    ax.set(xlabel=axes[0], ylabel=axes[1], title=title)
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[["top", "right"]].set_visible(False)
    return figure


def curves(
    history: Mapping[str, Sequence[float | None]], *, title: str = "", mark_best: bool = True, ax: Axes | None = None
) -> Figure:
    """The bound on training and validation rows against the epoch; the best validation is marked.

    Args:
        history: `Fit.history`: lists under "epoch" (or "step"), "train" and "valid"; NaN or None where
            nothing was measured.
        mark_best: False where the scores are estimates, of which the best is the luckiest (`Objective.comparable`).
    """
    time = "epoch" if len(history.get("epoch", ())) else "step"
    figure, ax = _axes(ax, width=6.0, height=4.0)
    shown = []
    for key, name, colour in (("train", "training rows", TRAIN), ("valid", "validation rows", VALID)):
        x, y = _measured(history[time], history.get(key, ()))
        if len(y):
            ax.plot(x, y, color=colour, lw=1.5, label=name, marker="o" if len(y) < 3 else None)
            shown.append((x, y))
        if len(y) > 1 and key == "valid" and mark_best:
            best = int(np.argmax(y))
            ax.plot(x[best], y[best], "o", color=colour, label=f"best, {y[best]:.2f} at {time} {x[best]:g}")
    if not shown:
        raise ShapeError(got="a history without numbers", need="'train' or 'valid' against 'epoch'", fix="fit.history")
    _skip_the_first_rise(ax, shown)
    ax.set(xlabel=time, ylabel="bound (nats per row)", title=title)
    ax.locator_params(axis="x", integer=True)
    ax.grid(axis="y", color="0.9")
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower right")
    return figure


def _axes(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    if ax is not None:
        return ax.get_figure(root=True), ax  # type: ignore[return-value]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    return figure, figure.add_subplot()


def _pictures(images: Tensor, shape: Sequence[int]) -> np.ndarray:
    """(N, D) to (N, H, W, C)."""
    images = torch.as_tensor(images).detach().cpu().float()
    channels, height, width = shape if len(shape) == 3 else (1, *shape)
    if images.dim() != 2 or images.shape[1] != channels * height * width or channels not in (1, 3) or not len(images):
        raise ShapeError(
            got=f"images of shape {tuple(images.shape)} and pictures of {tuple(shape)}",
            need="(N, D) and (C, H, W) with C H W = D and C of 1 or 3",
            fix="shape=dataset.shape",
        )
    return images.reshape(-1, channels, height, width).permute(0, 2, 3, 1).clamp(0, 1).numpy()


def _border(height: int) -> int:
    return max(1, height // 16)


def _tile(pictures: np.ndarray, columns: int) -> np.ndarray:
    """(N, H, W, C) to one picture, with white lines between."""
    n, height, width, channels = pictures.shape
    lines, border = math.ceil(n / columns), _border(height)
    canvas = np.ones((lines * (height + border) - border, columns * (width + border) - border, channels))
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + border), (i % columns) * (width + border)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def _show(canvas: np.ndarray, width: int, title: str, ax: Axes | None, margin: float) -> tuple[Figure, Axes]:
    """The canvas on axes of its proportions, a picture in it 0.6 inch wide, within a page; margin in inches."""
    wide, tall = 0.6 * canvas.shape[1] / width, 0.6 * canvas.shape[0] / width
    fit = min(1.0, 10 / max(wide, tall)) * max(1.0, 2 / max(wide, tall))
    figure, ax = _axes(ax, width=fit * wide + margin, height=fit * tall + (0.4 if title else 0.1))
    grey = canvas.shape[-1] == 1
    ax.imshow(canvas[..., 0] if grey else canvas, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_title(title)
    return figure, ax


def _plane(codes: Tensor) -> tuple[np.ndarray, tuple[str, str]]:
    """(N, L) to (N, 2), and what the two axes are."""
    if codes.shape[1] == 2:
        return codes.numpy(), ("$z_1$", "$z_2$")
    centred = codes - codes.mean(0)
    _, scale, directions = torch.linalg.svd(centred, full_matrices=False)
    share = scale.square() / scale.square().sum().clamp(min=1e-300)
    names = [f"principal direction {i + 1} of z ({share[i]:.0%} of its variance)" for i in (0, 1)]
    return (centred @ directions[:2].T).numpy(), (names[0], names[1])


def _labels(labels: Tensor | Sequence[Any], n: int) -> np.ndarray:
    found = np.asarray(labels.detach().cpu() if isinstance(labels, Tensor) else labels)
    if found.shape != (n,):
        raise ShapeError(got=f"labels of shape {found.shape}", need=f"({n},), one per row", fix="labels[:n]")
    return found


def _classes(ax: Axes, points: np.ndarray, labels: np.ndarray, size: float) -> None:
    from matplotlib.patheffects import withStroke

    for i, label in enumerate(np.unique(labels)):
        of_class = points[labels == label]
        colour, marker = PALETTE[i % len(PALETTE)], MARKERS[(i + i // len(PALETTE)) % len(MARKERS)]
        ax.scatter(*of_class.T, s=size, c=colour, marker=marker, alpha=0.7, linewidths=0, label=str(label))
        halo = [withStroke(linewidth=4, foreground="white")]
        x, y = np.median(of_class, axis=0)
        ax.text(x, y, str(label), ha="center", va="center", weight="bold", size=13, path_effects=halo, zorder=3)
    legend = ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=math.sqrt(36 / size))
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1.0)


def _measured(time: Sequence[Any], values: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    pairs = [(t, v) for t, v in zip(time, values, strict=False) if v is not None and math.isfinite(v)]
    return np.array([t for t, _ in pairs]), np.array([v for _, v in pairs])


def _skip_the_first_rise(ax: Axes, shown: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Let the first tenth of the epochs run out of the picture, where they would flatten all the rest."""
    start, end = min(x[0] for x, _ in shown), max(x[-1] for x, _ in shown)
    late = np.concatenate([y[x >= start + 0.1 * (end - start)] for x, y in shown])
    everything = np.concatenate([y for _, y in shown])
    low, high = late.min(), everything.max()
    if high > low and high - everything.min() > 3 * (high - low):
        ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
