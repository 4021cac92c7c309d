"""The part of a recipe that trains: layer by layer where it says so, then the whole model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pyrogen.cli.build import objective, optimizer, schedule
from pyrogen.cli.recipe import Recipe
from pyrogen.data import Dataset
from pyrogen.inference import Fit, fit, greedy
from pyrogen.inference.compiling import Compile
from pyrogen.inference.run_folder import RunFolder
from pyrogen.models import Model
from pyrogen.ops.precision import Precision


def train(
    recipe: Recipe, model: Model, data: Dataset, device: torch.device, folder: RunFolder | None, progress: bool
) -> Fit:
    table = recipe.fit
    return fit(
        model,
        data["train"],
        objective=objective(recipe),
        epochs=table.epochs,
        validation=data.splits.get("valid"),
        patience=table.patience,
        folder=folder,
        **_shared(recipe, len(data["train"]), table.epochs, device, progress),
    )


def pretrain(
    recipe: Recipe,
    model: Any,
    rows: Tensor,
    device: torch.device,
    folder: Path,
    progress: bool,
    say: Callable[[str], None],
) -> None:
    """Train the layers of a deep model pair by pair, each in a folder of its own, and go on where that was left."""
    epochs = cast(int, recipe.fit.greedy)
    settings = _shared(recipe, len(rows), epochs, device, progress)
    fits = greedy(model, rows, epochs=epochs, folder=folder, resume=True, **settings)
    say(f"pre-trained {len(fits)} pairs of layers, {sum(found.seconds for found in fits):.0f} s")


def _shared(recipe: Recipe, rows: int, epochs: int, device: torch.device, progress: bool) -> dict[str, Any]:
    """What `fit` is told of the whole model and of each of its parts."""
    table = recipe.fit
    return {
        "batch_size": table.batch_size,
        "learning_rate": table.learning_rate,
        "schedule": schedule(recipe, rows, epochs),
        "optimizer": optimizer(recipe),
        "clip": table.clip,
        "average": table.average,
        "seed": recipe.seed,
        "device": device,
        "compile": cast(Compile, table.compile),
        "precision": cast(Precision, table.precision),
        "progress": progress,
    }
