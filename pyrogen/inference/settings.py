"""Settings that cannot be are refused in words before any work."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

from torch import Tensor

from pyrogen.errors import SettingsError, ShapeError
from pyrogen.inference.compiling import Compile
from pyrogen.inference.parallel import Ranks
from pyrogen.inference.run_folder import RunFolder
from pyrogen.inference.schedules import check_schedule
from pyrogen.ops.precision import Precision


def check_folder(folder: Any, resume: bool, checkpoint_seconds: float) -> None:
    if not isinstance(folder, str | Path | RunFolder | None):
        raise SettingsError(got=f"folder = {folder!r}", need="a path", fix='folder="runs/first"')
    if resume and folder is None:
        raise SettingsError(got="resume without a folder", need="both", fix='folder="runs/first"')
    if isinstance(folder, RunFolder) and not folder.held:
        raise SettingsError(got="a RunFolder that is not open", need="one inside `with`", fix="its path")
    if not isinstance(checkpoint_seconds, int | float) or not checkpoint_seconds >= 0:
        raise SettingsError(got=f"checkpoint_seconds = {checkpoint_seconds!r}", need="a time", fix="60.0")


def check_numbers(
    epochs: int,
    batch_size: int,
    learning_rate: float,
    clip: float | None,
    average: float | None,
    patience: int | None,
    seed: int,
) -> None:
    counts = {"epochs": epochs, "batch_size": batch_size, "patience": patience}
    for name, value in counts.items():
        if not (value is None and name == "patience") and not _is_count(value):
            raise SettingsError(got=f"{name} = {value!r}", need="a positive whole number", fix=f"{name}=10")
    sizes = {"learning_rate": learning_rate, "clip": clip}
    for name, value in sizes.items():
        if not (value is None and name == "clip") and not _is_positive(value):
            raise SettingsError(got=f"{name} = {value!r}", need="a positive number", fix=f"{name}=0.001")
    if average is not None and not (_is_number(average) and 0 < average < 1):
        raise SettingsError(got=f"average = {average!r}", need="a decay between 0 and 1", fix="average=0.999")
    if not (_is_whole(seed) and 0 <= seed < 2**63):
        raise SettingsError(got=f"seed = {seed!r}", need="a whole number from 0 to 2**63 - 1", fix="seed=0")


def check_ways(schedule: Any, optimizer: Any, compile: Any, precision: Any) -> None:
    if schedule is not None:
        check_schedule("schedule", schedule)
    if optimizer is not None and not callable(optimizer):
        raise SettingsError(
            got=f"optimizer = {optimizer!r}",
            need="a function from parameters to a torch optimiser",
            fix="optimizer=lambda parameters: torch.optim.SGD(parameters, 0.1)",
        )
    for name, value, known in (("compile", compile, Compile), ("precision", precision, Precision)):
        if value not in get_args(known):
            fix = f"{name}={get_args(known)[0]!r}"
            raise SettingsError(got=f"{name} = {value!r}", need=f"one of {get_args(known)}", fix=fix)


def check_like(validation: Tensor, data: Tensor) -> None:
    if validation.shape[1:] != data.shape[1:] or validation.dtype != data.dtype:
        raise ShapeError(
            got=f"validation rows of {validation.dtype} and shape {tuple(validation.shape)}",
            need=f"{data.dtype} and {('N', *data.shape[1:])}, as the data",
            fix="a split of the same data set",
        )


def check_shares(ranks: Ranks, rows: int, batch_size: int) -> None:
    least = min(rows, batch_size)
    if least < ranks.world:
        raise SettingsError(
            got=f"batches of {least} rows for {ranks.world} processes",
            need="a row for each",
            fix=f"batch_size={100 * ranks.world}, or fewer processes",
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 0 < value < math.inf
