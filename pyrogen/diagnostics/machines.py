"""Pictures of Boltzmann machines: filters, chains frame by frame, the weights of annealing, the ladder of tempering.

As in `plots`, each makes a figure of its own or draws into the Axes that it is given, and returns the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pyrogen.diagnostics.plots import PALETTE, TRAIN, VALID, _axes, _border, _pictures, _show, _tile
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.evaluate.partition import LogZ

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def filters(
    W: Tensor, shape: Sequence[int], *, most: int = 100, columns: int = 10, title: str = "", ax: Axes | None = None
) -> Figure:
    """What each hidden unit looks for: columns of W, the longest first, each on its own scale with 0 in grey.

    Args:
        W: (V, H); in a deep machine only the rows of the visible layer.
        shape: (C, H, W) or (H, W) of a picture, with C of 1 or 3.
        most: hidden units shown.

    Raises:
        ShapeError: W is no matrix with a row for each entry of a picture.
    """
    if W.dim() != 2:
        raise ShapeError(got=f"W of shape {tuple(W.shape)}", need="(V, H)", fix="machine.W[:D]")
    W = W.detach().cpu().float()
    order = W.norm(dim=0).argsort(descending=True)[:most]
    shown = W[:, order].T
    pictures = _pictures(0.5 + 0.5 * shown / shown.abs().amax(1, keepdim=True).clamp(min=1e-30), shape)
    figure, ax = _show(_tile(pictures, min(columns, len(pictures))), pictures.shape[2], title, ax, margin=0.1)
    ax.set_axis_off()
    return figure


def chain_movie(
    frames: Tensor,
    shape: Sequence[int],
    *,
    times: Sequence[int] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Chains as strips, a line each, time to the right: whether they move, and where they stick.

    Args:
        frames: (chains, T, D) with entries in [0, 1].
        shape: (C, H, W) or (H, W).
        times: sweeps before each frame, T of them.

    Raises:
        ShapeError: frames that are no chains of pictures, or not one time for each.
    """
    if frames.dim() != 3 or (times is not None and len(times) != frames.shape[1]):
        raise ShapeError(
            got=f"frames of shape {tuple(frames.shape)} and {len(times) if times is not None else 'no'} times",
            need="(chains, T, D) and T times",
            fix="mcmc.get_samples(group_by_chain=True)['v'][:8]",
        )
    pictures = _pictures(frames.flatten(0, 1), shape)
    _, height, width, _ = pictures.shape
    figure, ax = _show(_tile(pictures, frames.shape[1]), width, title, ax, margin=0.5)
    steps = width + _border(height), height + _border(height)
    times = list(times) if times is not None else list(range(frames.shape[1]))
    ax.set_xticks([steps[0] * i + width / 2 for i in range(len(times))], [str(t) for t in times], fontsize=8)
    ax.set_yticks([])
    ax.set_xlabel("sweeps")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def annealing_weights(found: LogZ, *, title: str = "", ax: Axes | None = None) -> Figure:
    """The weights of the chains of annealing, as nats above the log of their mean; a few far right carry it all.

    Raises:
        SettingsError: log Z was not annealed.
    """
    if found.log_weights is None:
        raise SettingsError(got=f"log Z by {found.method}", need="one by annealing", fix="log_z(model, 'ais')")
    log_w = found.log_weights.double()
    excess = (log_w - log_w.logsumexp(0) + math.log(len(log_w))).numpy()
    figure, ax = _axes(ax, width=6.0, height=3.5)
    ax.hist(excess, bins=min(40, max(10, len(excess) // 5)), color=TRAIN)
    ax.axvline(0, color=VALID, lw=1.5, label="the mean weight")
    name = "reverse AIS" if found.method == "reverse" else "AIS"
    ax.set(xlabel="log weight above the log of the mean (nats)", ylabel="chains")
    ax.set_title(title or f"{name}: effective number of chains {found.ess:.1f} of {len(excess)}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure


def tempering_ladder(report: Mapping[str, Any], *, title: str = "", ax: Axes | None = None) -> Figure:
    """How often neighbours on the ladder swap, over where they are; the round trips of replicas are in the title.

    Args:
        report: `MCMC.diagnostics()` of a run of `ParallelTempering`: betas, swap_rates, round_trips_per_draw.

    Raises:
        SettingsError: the report is not that of tempering.
    """
    missing = [key for key in ("betas", "swap_rates", "round_trips_per_draw") if key not in report]
    if missing:
        raise SettingsError(
            got=f"a report without {missing}", need="one of tempering", fix="MCMC(ParallelTempering(machine), ...)"
        )
    betas, rates = np.asarray(report["betas"], dtype=float), np.asarray(report["swap_rates"], dtype=float)
    figure, ax = _axes(ax, width=6.0, height=3.5)
    ax.bar((betas[1:] + betas[:-1]) / 2, rates, width=np.diff(betas), color=PALETTE[1], edgecolor="white")
    ax.plot(betas, np.zeros_like(betas), "|", color=PALETTE[0], ms=14, clip_on=False)
    ax.set(xlabel=r"inverse temperature $\beta$ (ticks: the ladder)", ylabel="accepted swaps", xlim=(0, 1), ylim=(0, 1))
    trips = f"{float(report['round_trips_per_draw']):.3g} round trips per draw of a chain"
    ax.set_title(title or trips)
    ax.spines[["top", "right"]].set_visible(False)
    return figure


@torch.no_grad()
def gibbs_frames(machine: Any, v: Tensor, times: Sequence[int]) -> Tensor:
    """E[v | h] of block Gibbs chains from rows v, (chains, V), after so many sweeps each, (chains, T, V).

    Raises:
        SettingsError: times that are negative or do not increase.
    """
    if list(times) != sorted(set(times)) or (len(times) and times[0] < 0):
        raise SettingsError(got=f"times {list(times)}", need="increasing, from 0", fix="[0, 1, 2, 5, 10]")
    frames, done = [], 0
    for time in times:
        v = machine.sweep(v, time - done)
        done = time
        frames.append(machine.visible.mean(machine.visible_input(machine.up(v))) if time else v)
    return torch.stack(frames, 1)
