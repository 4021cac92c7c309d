"""A finished run, opened again: its recipe, its model with the weights, its data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrogen.cli.build import build_model, load_data
from pyrogen.cli.folder import read_result
from pyrogen.cli.recipe import Recipe
from pyrogen.data import Dataset
from pyrogen.errors import DataError, RecipeError
from pyrogen.inference.checkpoint import load_weights
from pyrogen.models import Model
from pyrogen.ops import resolve_device


@dataclass(frozen=True)
class Saved:
    """What the folder of a run holds.

    Raises (in `open`):
        DataError: result.json or the weights are missing, changed, or not from a run.
        DeviceError: the device is not there.
    """

    folder: Path
    result: dict[str, Any]
    recipe: Recipe
    model: Model

    @classmethod
    def open(cls, folder: str | Path, device: str = "auto") -> Saved:
        target = resolve_device(device)
        folder = Path(folder)
        result, file = read_result(folder), folder / "result.json"
        if "kernel" in result:
            raise DataError(
                got=f"{folder}, where a kernel was checked",
                need="the run of a model",
                fix="pyrogen run models/rbm/digits.toml",
            )
        try:
            shape = tuple(int(n) for n in result["data_shape"])
            support, sha256 = str(result["data_support"]), result["weights_sha256"]
            recipe = Recipe.of(result["settings"], str(file))
            model = build_model(recipe, math.prod(shape), shape, support, str(file))
        except (KeyError, TypeError, ValueError, IndexError, RecipeError) as error:
            raise DataError(
                got=f"{file}, which was changed or is from another version: {error}",
                need="the result of a run of this version",
                fix="running its recipe.toml again",
            ) from error
        if not isinstance(sha256, str):
            raise DataError(got=f"{file} of a run that ended early", need="a whole run", fix="running it again")
        load_weights(model, folder / "model.safetensors", sha256=sha256)
        return cls(folder, result, recipe, model.to(target).eval())

    def data(self) -> Dataset:
        """The data of the run.

        Raises:
            DataError: it cannot be loaded, or is no longer what the run had.
        """
        data = load_data(self.recipe, str(self.folder / "recipe.toml"))
        if data.sha256 != self.result.get("data_sha256"):
            raise DataError(
                got=f"{data.name} with sha256 {data.sha256}",
                need=f"{self.result.get('data_sha256')}, that of the run",
                fix="the version of pyrogen or the file that the run had",
            )
        return data
