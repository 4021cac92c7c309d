"""Draws and reconstructions of a trained model, and the pictures that a run leaves of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyrogen.data import Dataset
from pyrogen.diagnostics import (
    annealing_weights,
    chain_movie,
    curves,
    filters,
    gibbs_frames,
    image_grid,
    latent_map,
    reconstructions,
)
from pyrogen.errors import PyrogenError
from pyrogen.evaluate import Bracket, LogZ
from pyrogen.inference import Fit
from pyrogen.inference.sites import latent_sites
from pyrogen.models import Energy, Model, Pair
from pyrogen.ops import evenly

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAP_ROWS = 5000
"""More points than this hide each other."""
FRAMES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
"""Sweeps after which a chain is shown."""


def png(figure: Figure) -> bytes:
    """The figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def has_codes(model: Model) -> bool:
    """Whether the guide draws something: that of a model with a tractable density has nothing to draw."""
    if not isinstance(model, Pair):
        return False
    blank = next(model.parameters()).new_zeros(2, model.width)
    with torch.no_grad(), torch.random.fork_rng(), pyro.validation_enabled(False):
        return bool(latent_sites(poutine.trace(model.guide).get_trace(blank)))


@torch.no_grad()
def draw(model: Model, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """n draws x of the model, (n, D), and what each is a draw around: E[x | z], or x itself without a z."""
    device = next(model.parameters()).device
    drawn, means = [], []
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        for part in torch.zeros(n, model.width, device=device).split(500):
            if hasattr(model, "fantasies"):
                x, mean = model.fantasies(len(part))  # type: ignore[operator]
                drawn.append(x)
                means.append(mean)
            elif isinstance(model, Pair) and has_codes(model):
                site = _observed(poutine.uncondition(model.model), part)
                drawn.append(site["value"])
                means.append(site["fn"].mean)
            else:
                drawn.append(model.sample(len(part)))  # type: ignore[operator]
                means.append(drawn[-1])
    return torch.cat(drawn).cpu(), torch.cat(means).cpu()


def drawn_title(model: Model) -> str:
    """What `draw` gives for the picture."""
    if isinstance(model, Energy):
        return "samples: E[x | h], h from the model"
    return "samples: E[x | z], z from the prior" if has_codes(model) else "samples"


@torch.no_grad()
def reconstruct(model: Pair, x: Tensor, seed: int) -> Tensor:
    """E[x | z] at one draw z of the guide for each row of x, (N, D)."""
    x = x.to(next(model.parameters()).device)
    with torch.random.fork_rng(), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        if isinstance(model, Energy):
            return model.visible_given(model.hidden_given(model.filled(x)).sample()).mean[:, : model.width].cpu()
        codes = poutine.trace(model.guide).get_trace(x)
        return _observed(poutine.replay(model.model, trace=codes), x)["fn"].mean.cpu()


def pictures(trained: Fit, data: Dataset, split: str, seed: int) -> Iterator[tuple[str, Figure | str]]:
    """The pictures of a run by file name, or the reason why there is none."""
    model: Model = trained.model
    of_it = {"title": f"{type(model).__name__} on {data.name}", "mark_best": trained.objective.comparable(model)}
    yield "curves.png", _or_reason(curves, trained.history, **of_it)
    x = data[split]
    some, mapped = x[evenly(len(x), 30)], evenly(len(x), MAP_ROWS)
    no_picture = "" if data.shape[0] in (1, 3) and min(data.shape[1:]) > 1 else f"{data.name} has no pictures"
    yield (
        "samples.png",
        no_picture or _or_reason(lambda: image_grid(draw(model, 100, seed)[1], data.shape, title=drawn_title(model))),
    )
    if not has_codes(model):
        no_picture = no_picture or f"{type(model).__name__} has no codes"
    yield (
        "reconstructions.png",
        no_picture
        or _or_reason(
            lambda: reconstructions(some, reconstruct(model, some, seed), data.shape)  # type: ignore[arg-type]
        ),
    )
    if isinstance(model, Energy):
        yield "filters.png", no_picture or _or_reason(_filters, model, data)
        yield "chains.png", no_picture or _or_reason(_chains, model, data, some, seed)
    labels = data.labels[split][mapped] if split in data.labels else None
    yield "latent-map.png", _or_reason(_map, model, x[mapped], labels)


def annealing(log_z: LogZ | Bracket) -> Figure:
    """The weights of annealing, and beside them those of its reverse."""
    from matplotlib.figure import Figure as Blank

    ends = [log_z.below, log_z.above] if isinstance(log_z, Bracket) else [log_z]
    figure = Blank(figsize=(6.0 * len(ends), 3.5), layout="constrained")
    for ax, end in zip(figure.subplots(1, len(ends), squeeze=False)[0], ends, strict=True):
        annealing_weights(end, ax=ax)
    return figure


@torch.no_grad()
def _filters(model: Any, data: Dataset) -> Figure:
    W = model.W if isinstance(model.W, Tensor) else model.W[0]
    return filters(W[: data.width], data.shape, title="columns of W, the longest first")


@torch.no_grad()
def _chains(model: Any, data: Dataset, x: Tensor, seed: int) -> Figure:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        frames = gibbs_frames(model.machine().detached(), model.filled(x[:8].to(model.machine().b)), FRAMES)
    return chain_movie(frames[..., : data.width], data.shape, times=FRAMES, title="Gibbs chains from rows: E[x | h]")


@torch.no_grad()
def _map(model: Any, x: Tensor, labels: Tensor | None) -> Figure | str:
    if not hasattr(model, "encode"):
        return f"{type(model).__name__} has no encoder"
    device = next(model.parameters()).device
    mean = torch.cat([model.encode(part.to(device)).mean.cpu() for part in x.split(500)])
    if mean.shape[1] < 2:
        return "a code of one dimension has no plane"
    return latent_map(mean, labels, title="means of q(z | x)")


def _or_reason(make: Any, *args: Any, **settings: Any) -> Figure | str:
    try:
        return make(*args, **settings)
    except (PyrogenError, NotImplementedError) as error:
        return str(error) or "a mean that has no formula"  # torch's NotImplementedError says nothing


def _observed(program: Any, x: Tensor) -> dict[str, Any]:
    """The site "x" of one run of the program on the rows x."""
    return poutine.trace(program).get_trace(x).nodes["x"]
