"""Train a Pyro model and guide: one readable loop."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyrogen.errors import NonFiniteError, SettingsError
from pyrogen.inference.callbacks import Callbacks
from pyrogen.inference.compiling import Compile, choose
from pyrogen.inference.keeper import Keeper, code_of, identity_of
from pyrogen.inference.likelihood import MaximumLikelihood
from pyrogen.inference.objectives import ELBO, Objective
from pyrogen.inference.parallel import Ranks
from pyrogen.inference.placing import place
from pyrogen.inference.programs import Programs
from pyrogen.inference.progress import Progress
from pyrogen.inference.run_folder import RunFolder
from pyrogen.inference.schedules import Schedule
from pyrogen.inference.settings import check_folder, check_like, check_numbers, check_ways
from pyrogen.inference.settings import check_shares as _check_shares
from pyrogen.inference.training import Optimizer, Training
from pyrogen.inference.weights import beside, check_weighable
from pyrogen.models.contracts import Energy
from pyrogen.ops import denormals_flushed, resolve_device
from pyrogen.ops.precision import Precision, products_in


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
    weights: Tensor | None = None,
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
    compile: Compile = "eager",
    precision: Precision = "float32",
    progress: bool = True,
    folder: str | Path | RunFolder | None = None,
    resume: bool = False,
    checkpoint_seconds: float = 60.0,
    callbacks: Iterable[Any] = (),
) -> Fit:
    """Maximise a bound on log p(x) over minibatches of rows.

    Inside `processes`, or wherever torch's process group is, each of its processes calls this with the same model, all
    the rows and the same settings; they share each batch and end with the same weights.

    Args:
        model: a Pair, or any Pyro model called with the rows; then `guide` is its guide.
        data: the rows, (N, D). They stay on the device; if they take more than half of what is free on a GPU, they stay
            where they are, and each batch is moved. They may be mapped from a file that is larger than the memory,
            `torch.from_file(...)` or `torch.from_numpy(numpy.memmap(...))`: only a batch is read at a time.
        weights: how much each row counts, (N,), 0 or more: whole numbers are repeated rows. They are divided by their
            mean. For models with one plate, over the rows, with ELBO() or MaximumLikelihood(); in the history and in
            validation each row counts once.
        objective: the bound, ELBO() unless given; for an Energy model MaximumLikelihood().
        epochs: passes over the data; the last batch of a pass may be smaller.
        learning_rate: of Adam, times `schedule(step)` when there is one.
        optimizer: makes another torch optimiser from the parameters; learning_rate is then unused.
        clip: largest global norm of the gradient.
        average: decay per step of an exponential average of the weights, which is what validation
            scores and what the model holds afterwards; None for the weights themselves.
        validation: rows whose bound is taken after each epoch, with the same noise each time; the
            model ends with the weights of the best epoch (its buffers, such as BatchNorm's, are those of the last);
            with those of the last if the objective calls its scores not `comparable`.
        patience: stop after this many epochs without a better validation bound.
        seed: of the order of the rows and of all noise; the global random state is left as it was.
        device: "auto" takes a GPU when there is one.
        compile: how the gradient is computed. "graph" runs guide, model, bound and backward as one graph, traced
            once: equal to "eager" to the bit and faster, but what the programs do in Python, beside computing
            with torch, happens no more. "inductor" compiles the graph: the same noise, other roundings;
            "cudagraph" replays it on a GPU. "auto" measures and takes the fastest, or, when a run goes on, the one
            that it was in. What cannot be done falls back and says why; `settings` of the result say what was used
            under "compile", and why under "compile_reason".
        precision: "tf32" for faster products on a GPU, or "bfloat16" for networks under autocast; parameters, densities
            and bounds stay in the precision of the rows.
        progress: a progress bar on stderr, when that is a terminal.
        folder: where to keep the run: its settings, a line per epoch, checkpoints. Then SIGINT and SIGTERM let the
            step end and save; a second SIGINT stops at once. A `RunFolder` that is open has its own `resume`.
        resume: go on from the last good checkpoint in the folder, to the bit on a CPU; begin if there is none.
            More epochs, another patience and another device are possible; other rows, settings, modules (by their repr)
            and functions (by their code and the numbers they close over) are refused.
        checkpoint_seconds: least time between two checkpoints; there is always one at the end.
        callbacks: objects with some of the methods of `Callback`, told before, after each epoch, and after.

    Raises:
        ShapeError, DtypeError, SupportError: data or validation are not what the model is for.
        SettingsError, DeviceError: an argument that cannot be.
        ModelError: guide and model do not fit together.
        NonFiniteError: the bound or the weights are NaN or infinite; with the step, the site or the weights where that
            was first, and the last good checkpoint. With Adam and other fused optimisers, the model holds the weights
            from before that step.
        OutputError: the folder holds a run and `resume` is False, is in use, or cannot be written.
        DataError: no checkpoint is good, or they are of another model, data or settings.
        Interrupted: a signal came; the run is saved.
        ProcessError: another process of the group is gone.
    """
    settings = {k: _plain(v) for k, v in locals().items() if k not in _NOT_SETTINGS}
    if objective is None:
        objective = MaximumLikelihood() if guide is None and isinstance(model, Energy) else ELBO()
    if not isinstance(objective, Objective):
        raise SettingsError(got=f"objective = {objective!r}", need="an Objective", fix="objective=ELBO()")
    check_numbers(epochs, batch_size, learning_rate, clip, average, patience, seed)
    check_ways(schedule, optimizer, compile, precision)
    check_folder(folder, resume, checkpoint_seconds)
    if patience is not None and validation is None:
        raise SettingsError(got="patience without validation rows", need="both", fix="validation=x_valid")
    programs = Programs.of(model, guide)
    programs.precision = precision
    programs.check(data)
    if validation is not None:
        programs.check(validation)
        check_like(validation, data)
    if weights is not None:
        check_weighable(model)
        data, programs.weighted = beside(data, weights), True
        validation = validation if validation is None else beside(validation, None)
    settings["weights"] = "given" if programs.weighted else None
    target, ranks, told = resolve_device(device), Ranks.here(), Callbacks(callbacks)
    settings |= {"objective": repr(objective), "device": str(target), "processes": ranks.world}
    fixed = {name: settings[name] for name in _FIXED}
    if ranks.world > 1:
        _check_shares(ranks, len(data), batch_size)
        ranks.agree(identity_of(programs, data, validation, fixed) | {"epochs": epochs, "patience": patience})
    with ExitStack() as stack:
        run = folder if isinstance(folder, RunFolder) else None
        if isinstance(folder, str | Path):
            run = ranks.at_first(lambda: stack.enter_context(RunFolder(folder, resume=resume)))
        stack.enter_context(torch.random.fork_rng())
        stack.enter_context(denormals_flushed())
        stack.enter_context(products_in(precision))
        torch.manual_seed(seed)
        programs.to(target)
        rows, scored = place(data, validation, target)
        settings["rows"] = "on the device" if rows.resident else "on the host"
        training = Training(
            programs,
            rows,
            scored,
            objective,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            optimizer=optimizer,
            clip=clip,
            average=average,
            seed=seed,
            ranks=ranks,
        )
        ranks.sow(seed)
        keeper = Keeper(training, run, checkpoint_seconds)
        keeper.begin(identity_of(programs, data, validation, fixed) if run else {})
        choice = choose(training, compile, epochs * math.ceil(training.size / batch_size) - training.step)
        training.lowered, training.mode = choice.lowered, choice.mode
        settings |= {"compile": choice.mode, "compile_reason": choice.reason}
        settings["history"] = objective.describe(programs.model)
        if ranks.rank:
            progress, told = False, Callbacks(())
        outcome = _loop(training, epochs, patience, progress, keeper, told)
    training.finish()
    programs.train(False)
    result = Fit(model, programs.guide, training.history, settings, seed, training.seconds, outcome, objective)
    told.end(result)
    return result


_NOT_SETTINGS = (
    "model",
    "guide",
    "data",
    "weights",
    "validation",
    "folder",
    "resume",
    "checkpoint_seconds",
    "callbacks",
)
_STEP = ("objective", "batch_size", "learning_rate", "schedule", "optimizer", "clip", "average", "precision")
_FIXED = (*_STEP, "seed", "processes")
"""The settings that a run goes on with or not at all."""


def _loop(
    training: Training, epochs: int, patience: int | None, progress: bool, keeper: Keeper, told: Callbacks
) -> str:
    """Train until the last epoch, or until validation does not get better; give the outcome in words."""
    try:
        with Progress(epochs, training.size, shown=progress) as bar, pyro.validation_enabled(False), keeper:
            _epochs(training, epochs, patience, bar, keeper, told)
    except NonFiniteError as error:
        raise keeper.explained(error) from error
    if _exhausted(training, patience):
        return f"stopped early: no better validation bound in {patience} epochs"
    return "finished"


def _epochs(
    training: Training, epochs: int, patience: int | None, bar: Progress, keeper: Keeper, told: Callbacks
) -> None:
    start = time.perf_counter() - training.seconds
    bar.advance(training.epoch * training.size + training.position)
    told.start(training)
    while training.epoch < epochs and not _exhausted(training, patience):
        training.programs.train(True)
        for x in training.batches():
            done = training.position
            training.update(x)
            training.seconds = time.perf_counter() - start
            keeper.after_step()
            bar.advance(training.position - done)
        training.close_epoch()
        bar.report(training.history)
        told.epoch(training.history)
        keeper.after_epoch()
    keeper.end()


def _exhausted(training: Training, patience: int | None) -> bool:
    return patience is not None and training.epoch - training.best_epoch >= patience


def _plain(value: Any) -> Any:
    if inspect.isfunction(value):
        return code_of(value)
    return value if isinstance(value, (int, float, str, bool, type(None))) else repr(value)
