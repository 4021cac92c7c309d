"""What result.json says of a run."""

from __future__ import annotations

import json
import math
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pyrogen import __version__
from pyrogen.cli.folder import ALL
from pyrogen.cli.recipe import Recipe
from pyrogen.data import Dataset
from pyrogen.inference import Fit
from pyrogen.inference.checkpoint import write_whole
from pyrogen.models import Model


def first_result(recipe: Recipe, data: Dataset, trained: Fit) -> dict[str, Any]:
    """What is known when training ends."""
    valid = trained.history.get("valid") if trained.objective.comparable(trained.model) else None
    used = {"mode": trained.settings["compile"], "reason": trained.settings["compile_reason"]}
    return {
        "model": recipe.model,
        "data": recipe.data,
        "split": recipe.evaluate.split,
        "seed": recipe.seed,
        "log_likelihood": None,
        "latent": None,
        "khat": None,
        "outcome": trained.outcome,
        "last": {name: values[-1] for name, values in trained.history.items()},
        "best_valid": max(valid) if valid else None,
        "parameters": parameters(trained.model),
        "seconds": trained.seconds,
        "fit_seconds": trained.seconds,
        "device": str(next(trained.model.parameters()).device),
        "threads": torch.get_num_threads(),
        "settings": recipe.tables(),
        **({"compiled": used} if recipe.fit.compile != "eager" else {}),
        "versions": versions(),
        "data_sha256": data.sha256,
        "data_shape": list(data.shape),
        "data_support": data.support,
        "weights_sha256": None,
        "files": list(ALL),  # until it is known which are made
    }


def write_json(path: Path, content: Any) -> None:
    """The content as JSON, in which a number that is not finite is null."""
    write_whole(path, (json.dumps(finite(content), indent=2, allow_nan=False) + "\n").encode())


def finite(content: Any) -> Any:
    """The content with None for NaN and infinity, which JSON does not know."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def versions() -> dict[str, str]:
    """Of what a result depends on."""
    out = {"pyrogen": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for name, package in (("pyro", "pyro-ppl"), ("numpy", "numpy"), ("arviz", "arviz")):
        try:
            out[name] = version(package)
        except PackageNotFoundError:
            out[name] = "unknown"
    return out
