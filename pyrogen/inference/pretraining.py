"""Greedy layer-wise pre-training of deep models: one pair of layers at a time, each on draws of the one below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pyrogen.errors import SettingsError
from pyrogen.inference.fit import Fit, fit


class Deep(Protocol):
    """A model that is made of parts: a `DBM` or a `DBN`."""

    @property
    def n_parts(self) -> int: ...
    def part(self, level: int) -> Any: ...
    def adopt(self, parts: Sequence[Any]) -> None: ...


def greedy(
    model: Deep,
    data: Tensor,
    *,
    seed: int = 0,
    folder: str | Path | None = None,
    resume: bool = False,
    **settings: Any,
) -> list[Fit]:
    """Train the parts of a deep model from the bottom up, and let the model take over their weights.

    Part k is an RBM of layers k and k + 1 and is trained on draws of layer k given the rows: in a `DBN` a plain one, in
    a `DBM` with the layer doubled whose other neighbour is missing.

    Args:
        data: the rows, (N, D).
        seed: of the parts' first weights, of the draws, and of all that `fit` draws.
        folder: where to keep the runs, one in `part-0`, one in `part-1` and so on.
        resume: go on with them.
        settings: of `fit`, the same for every part; no validation rows.

    Returns:
        What `fit` returns, part by part.

    Raises:
        SettingsError, OutputError, Interrupted: as `fit`.
    """
    if settings.get("validation") is not None:
        raise SettingsError(
            got="validation rows of greedy training",
            need="none: each part has other rows",
            fix="fit(model, data, validation=...) afterwards",
        )
    fits: list[Fit] = []
    parts: list[Any] = []
    rows = data
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for level in range(model.n_parts):
            part = model.part(level).to(data)
            part.prepare(rows)
            place = None if folder is None else Path(folder) / f"part-{level}"
            fits.append(fit(part, rows, seed=seed, folder=place, resume=resume and place is not None, **settings))
            rows = part.up(rows.to(part.W.device))
            parts.append(part)
    model.adopt(parts)
    return fits
