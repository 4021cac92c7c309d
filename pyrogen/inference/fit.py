"""Train a Pyro model and guide: one readable loop."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrogen.errors import SettingsError
from pyrogen.inference.objectives import ELBO, Objective
from pyrogen.inference.programs import Programs
from pyrogen.inference.progress import Progress
from pyrogen.inference.schedules import Schedule
from pyrogen.inference.training import Optimizer, Training
from pyrogen.ops.checks import resolve_device


@dataclass
class Fit:
    """A trained model and how it got there. `history` has a row per epoch, bounds in nats per data row."""

    model: Any
    guide: Any
    history: dict[str, list[float]]
    settings: dict[str, Any]
    seed: int
    seconds: float
    outcome: str = "finished"
    objective: Objective = field(default_factory=ELBO, repr=False)


def fit(
    model: Any,
    data: Tensor,
    *,
    guide: Any | None = None,
    objective: Objective | None = None,
    epochs: int = 50,
    batch_size: int = 100,
    learning_rate: float = 1e-3,
    schedule: Schedule | None = None,
    optimizer: Optimizer | None = None,
    clip: float | None = None,
    average: float | None = None,
    validation: Tensor | None = None,
    patience: int | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> Fit:
    """Maximise a bound on log p(x) over minibatches of rows.

    Args:
        model: a Pair, or any Pyro model called with the rows; then `guide` is its guide.
        data: the rows, (N, D); they stay on the device.
        objective: the bound, ELBO() unless given.
        epochs: passes over the data; the last batch of a pass may be smaller.
        learning_rate: of Adam, times `schedule(step)` when there is one.
        optimizer: makes another torch optimiser from the parameters; learning_rate is then unused.
        clip: largest global norm of the gradient.
        average: decay per step of an exponential average of the weights, which is what validation
            scores and what the model holds afterwards; None for the weights themselves.
        validation: rows whose bound is taken after each epoch, with the same noise each time; the
            model ends with the weights of the best epoch.
        patience: stop after this many epochs without a better validation bound.
        seed: of the order of the rows and of all noise; the global random state is left as it was.
        device: "auto" takes a GPU when there is one.
        progress: a progress bar on stderr, when that is a terminal.

    Raises:
        ShapeError, DtypeError, SupportError: data or validation are not what the model is for.
        SettingsError, DeviceError: an argument that cannot be.
        ModelError: guide and model do not fit together.
        NonFiniteError: the bound is NaN or infinite, with the epoch where it was.
    """
    settings = {k: _plain(v) for k, v in locals().items() if k not in ("model", "guide", "data", "validation")}
    objective = objective or ELBO()
    _check_settings(epochs, batch_size, learning_rate, clip, average, patience, validation)
    programs = Programs.of(model, guide)
    programs.check(data)
    if validation is not None:
        programs.check(validation)
    target = resolve_device(device)
    settings |= {"objective": repr(objective), "device": str(target)}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        programs.to(target)
        training = Training(
            programs,
            data.to(target),
            None if validation is None else validation.to(target),
            objective,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            optimizer=optimizer,
            clip=clip,
            average=average,
            seed=seed,
        )
        outcome = _loop(training, epochs, patience, progress)
    training.finish()
    programs.train(False)
    return Fit(model, programs.guide, training.history, settings, seed, training.seconds, outcome, objective)


def _loop(training: Training, epochs: int, patience: int | None, progress: bool) -> str:
    """Train until the last epoch, or until validation does not get better; give the outcome in words."""
    start = time.perf_counter()
    with Progress(epochs, training.size, shown=progress) as bar, pyro.validation_enabled(False):
        while training.epoch < epochs:
            training.programs.train(True)
            for x in training.batches():
                training.update(x)
                bar.advance(len(x))
            training.seconds = time.perf_counter() - start
            training.close_epoch()
            bar.report(training.history)
            if patience is not None and training.epoch - training.best_epoch >= patience:
                return f"stopped early: no better validation bound in {patience} epochs"
    return "finished"


def _check_settings(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    clip: float | None,
    average: float | None,
    patience: int | None,
    validation: Tensor | None,
) -> None:
    for name, value in {"epochs": epochs, "batch_size": batch_size, "patience": patience}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise SettingsError(got=f"{name} = {value!r}", need="a positive whole number", fix=f"{name}=10")
    for name, value in {"learning_rate": learning_rate, "clip": clip}.items():
        if value is not None and not 0 < value < math.inf:
            raise SettingsError(got=f"{name} = {value!r}", need="a positive number", fix=f"{name}=0.001")
    if average is not None and not 0 < average < 1:
        raise SettingsError(got=f"average = {average!r}", need="a decay between 0 and 1", fix="average=0.999")
    if patience is not None and validation is None:
        raise SettingsError(got="patience without validation rows", need="both", fix="validation=x_valid")


def _plain(value: Any) -> Any:
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)
