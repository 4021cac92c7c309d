"""From a recipe to objects: the data, the model, the objective, the schedule; all that is cheap and can fail."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch

from pyrogen.cli.recipe import Recipe
from pyrogen.data import Dataset, load
from pyrogen.errors import DataError, PyrogenError, RecipeError, SettingsError, SupportError
from pyrogen.inference import ELBO, IWAE, Cosine, MaximumLikelihood, Objective, UpDown, Warmup
from pyrogen.inference.adam import FusedAdam
from pyrogen.inference.penalties import lasso
from pyrogen.inference.schedules import Schedule
from pyrogen.inference.training import Optimizer
from pyrogen.models import MODELS, Model


def load_data(recipe: Recipe, source: str) -> Dataset:
    """The data set, with the splits that the recipe needs.

    Raises:
        RecipeError: an option that the data set does not have, or patience without validation rows.
        DataError: its file, or one of its splits.
    """
    options = dict(recipe.options)
    root = options.pop("root", None)
    try:
        data = load(recipe.data, root=root, **options)
    except SettingsError as error:
        raise RecipeError(got=f"{error.got} in [data] of {source}", need=error.need, fix=error.fix) from error
    for split in ("train", recipe.evaluate.split):
        data[split]
    if recipe.fit.patience is not None and "valid" not in data.splits:
        raise RecipeError(
            got=f"patience in [fit] of {source}, and {data.name} has no split 'valid'",
            need="validation rows",
            fix="leaving out patience",
        )
    return data


def build_model(recipe: Recipe, width: int, shape: Sequence[int], support: str, source: str) -> Model:
    """The model for rows of this width, as fresh as the recipe's seed makes it.

    Raises:
        RecipeError: a setting that the model does not have, or a value that it cannot have.
    """
    channels, height, lines = shape
    try:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            return MODELS[recipe.model].build(width, (channels, height, lines), support, **recipe.settings)
    except PyrogenError as error:
        raise RecipeError(got=f"{error.got} in [model] of {source}", need=error.need, fix=error.fix) from error
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        # networks are built by torch, which has words of its own for a width of "8" or of -1
        raise RecipeError(
            got=f"settings {recipe.settings} in [model] of {source}, with which building fails: {error}",
            need=f"settings of the types and sizes that {recipe.model} takes",
            fix="looking at the first one that the message names",
        ) from error


def check_data(model: Model, data: Dataset, splits: Sequence[str]) -> None:
    """Refuse data that the model has no probability for, and say which split and what in a recipe may help."""
    for split in splits:
        try:
            model.check(data[split])
        except SupportError as error:
            fix = "binarize = true in [data]" if data.name == "digits" else "another likelihood in [model]"
            raise SupportError(
                got=f"{data.name}, split {split}: {error.got}",
                need=error.need,
                fix=f"{fix}, or a data set of such values",
            ) from error
        except PyrogenError as error:
            raise DataError(got=f"{data.name}, split {split}: {error.got}", need=error.need, fix=error.fix) from error


def objective(recipe: Recipe) -> Objective:
    """What [objective] says."""
    table = recipe.objective
    if table.name == "likelihood":
        return MaximumLikelihood()
    if table.name == "updown":
        return UpDown()
    settings: dict[str, Any] = {"particles": table.particles, "gradient": table.gradient}
    if table.warmup:
        settings["beta"] = Warmup(table.warmup)
    if table.name == "elbo":
        return ELBO(free_bits=table.free_bits, **settings)
    return IWAE(**settings)


def optimizer(recipe: Recipe) -> Optimizer | None:
    """Another optimiser than Adam, which is `fit`'s own."""
    table = recipe.fit
    if table.optimizer == "adam" and table.lasso is None:
        return None
    rate = table.learning_rate
    if table.optimizer == "adam":
        made: Optimizer = functools.partial(FusedAdam, learning_rate=rate)
    else:
        made = functools.partial(torch.optim.SGD, lr=rate)
    return made if table.lasso is None else lasso(table.lasso, made)


def schedule(recipe: Recipe, rows: int, epochs: int | None = None) -> Schedule | None:
    """The learning rate's course over all steps of so many epochs, those of [fit] unless given."""
    table = recipe.fit
    if table.schedule == "constant":
        return None
    return Cosine((epochs or table.epochs) * math.ceil(rows / table.batch_size), hold=table.hold)
