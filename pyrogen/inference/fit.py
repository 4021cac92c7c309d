"""Train a Pyro model and guide: one readable loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrogen.errors import NonFiniteError, SettingsError
from pyrogen.inference.objectives import ELBO, Objective
from pyrogen.inference.programs import Programs
from pyrogen.inference.progress import Progress
from pyrogen.inference.schedules import Schedule
from pyrogen.ops.checks import resolve_device

Optimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


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
        run = _Run(programs, data.to(target), validation, objective, batch_size, average, clip, seed, target)
        run.start(optimizer, learning_rate, schedule)
        run.loop(epochs, patience, progress)
    return Fit(model, programs.guide, run.history, settings, seed, run.seconds, run.outcome, objective)


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        programs: Programs,
        data: Tensor,
        validation: Tensor | None,
        objective: Objective,
        batch_size: int,
        average: float | None,
        clip: float | None,
        seed: int,
        device: torch.device,
    ) -> None:
        self.programs, self.data, self.objective = programs, data, objective
        self.validation = None if validation is None else validation.to(device)
        self.batch_size, self.average, self.clip, self.seed = batch_size, average, clip, seed
        self.order = torch.Generator().manual_seed(seed)
        self.history: dict[str, list[float]] = {"epoch": [], "step": [], "train": [], "seconds": []}
        if validation is not None:
            self.history["valid"] = []
        self.step, self.seconds, self.outcome = 0, 0.0, "finished"
        self.best: tuple[float, int, list[Tensor]] = (-math.inf, 0, [])

    def start(self, optimizer: Optimizer | None, learning_rate: float, schedule: Schedule | None) -> None:
        """Everything that can fail early: device, programs, parameters, optimiser."""
        self.programs.to(self.data.device)
        first = self.data[: self.batch_size]
        size = self.data.shape[0]
        # before nesting and rehearsal: a lazy guide makes its parameters in its first call
        self.parameters = list(self.programs.parameters(first, size).values())
        self.nesting = self.programs.nesting(first, size)
        self.programs.rehearse(first, size, self.objective, self.nesting)
        self.optimizer = (
            optimizer(self.parameters) if optimizer else torch.optim.Adam(self.parameters, learning_rate, fused=True)
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, schedule) if schedule else None
        self.averaged = [p.detach().clone() for p in self.parameters] if self.average else []

    def loop(self, epochs: int, patience: int | None, progress: bool) -> None:
        start = time.perf_counter()
        with Progress(epochs, self.data.shape[0], shown=progress) as bar:
            for epoch in range(1, epochs + 1):
                train = self.epoch(bar)
                self.seconds = time.perf_counter() - start
                self.record(epoch, train)
                bar.report(self.history)
                if patience is not None and epoch - self.best[1] >= patience:
                    self.outcome = f"stopped early: no better validation bound in {patience} epochs"
                    break
        self.finish()

    def epoch(self, bar: Progress) -> float:
        """One pass over the rows in a new order; gives the mean bound on the way."""
        self.programs.train(True)
        size = self.data.shape[0]
        total = torch.zeros((), device=self.data.device)
        with pyro.validation_enabled(False):
            for rows in torch.randperm(size, generator=self.order).to(self.data.device).split(self.batch_size):
                total += self.update(self.data[rows]) * len(rows)
                bar.advance(len(rows))
        mean = float(total) / size
        if not math.isfinite(mean):
            raise NonFiniteError(
                got=f"a bound of {mean} between steps {self.step - math.ceil(size / self.batch_size)} and {self.step}",
                need="finite values",
                fix="a smaller learning_rate, clip=1.0, or data on a smaller scale",
            )
        return mean

    def update(self, x: Tensor) -> Tensor:
        """One step on a minibatch; gives its bound."""
        args = self.programs.args(x, self.data.shape[0])
        value = self.objective(self.programs.model, self.programs.guide, *args, step=self.step, nesting=self.nesting)
        self.optimizer.zero_grad(set_to_none=True)
        value.loss.backward()
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.optimizer.step()
        if self.scheduler:
            self.scheduler.step()
        if self.average:
            # the decay grows from 0.1 as in Adam's bias correction, or the start would weigh for ever
            decay = min(self.average, (1 + self.step) / (10 + self.step))
            for averaged, parameter in zip(self.averaged, self.parameters, strict=True):
                averaged.lerp_(parameter.detach(), 1 - decay)
        self.step += 1
        return value.bound

    def record(self, epoch: int, train: float) -> None:
        for key, value in {"epoch": epoch, "step": self.step, "train": train, "seconds": self.seconds}.items():
            self.history[key].append(value)
        if self.validation is not None:
            if self.average:
                self.swap()
            score = self.score(self.validation)
            self.history["valid"].append(score)
            if score > self.best[0]:
                self.best = (score, epoch, [p.detach().clone() for p in self.parameters])
            if self.average:
                self.swap()

    @torch.no_grad()
    def score(self, x: Tensor) -> float:
        """The mean bound of rows, in the same noise at every call."""
        self.programs.train(False)
        total = torch.zeros((), device=x.device)
        with pyro.validation_enabled(False), torch.random.fork_rng():
            torch.manual_seed(self.seed)
            for batch in x.split(max(self.batch_size, 500)):
                args = self.programs.args(batch, x.shape[0])
                value = self.objective(
                    self.programs.model, self.programs.guide, *args, step=self.step, nesting=self.nesting
                )
                total += value.bound * len(batch)
        return float(total) / x.shape[0]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average."""
        for parameter, averaged in zip(self.parameters, self.averaged, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(averaged)
            averaged.copy_(kept)

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the best, or the averaged, weights in the model, in evaluation mode."""
        chosen = self.best[2] or self.averaged
        for parameter, value in zip(self.parameters, chosen, strict=False):
            parameter.copy_(value)
        self.programs.train(False)


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
