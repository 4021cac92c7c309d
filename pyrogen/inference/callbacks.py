"""Who is told how a training goes: any object with one of three methods. TensorBoard is one of them."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyrogen.errors import ExtraError, SettingsError

if TYPE_CHECKING:
    from pyrogen.inference.fit import Fit
    from pyrogen.inference.training import Training

_METHODS = ("on_start", "on_epoch", "on_end")


class Callback:
    """What `fit` calls; each does nothing here. An object with some of these methods is one too.

    They are told, not asked: what they return is not looked at, and one that raises is reported by a warning and
    not called again. Of several processes, only the first one calls.
    """

    def on_start(self, training: Training) -> None:
        """Before the first step; `training.epoch` says how many were done by a run that goes on."""

    def on_epoch(self, epoch: int, numbers: dict[str, float]) -> None:
        """After each epoch, the first is 1: `train` and `valid` in nats per row, `step`, `seconds`."""

    def on_end(self, result: Fit) -> None:
        """After the last epoch; not when the training was interrupted or failed."""


class Callbacks:
    """The callbacks of one fit, of which none can harm it.

    Raises:
        SettingsError: one has none of the methods.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        try:
            self.active = list(callbacks)
        except TypeError as error:
            raise SettingsError(
                got=f"callbacks = {callbacks!r}", need="a list of them", fix=f"callbacks=[{callbacks!r}]"
            ) from error
        for callback in self.active:
            if not any(callable(getattr(callback, name, None)) for name in _METHODS):
                raise SettingsError(
                    got=f"a callback of type {type(callback).__name__} with none of the methods",
                    need=", ".join(_METHODS),
                    fix=_nearest(callback),
                )

    def start(self, training: Training) -> None:
        self._tell("on_start", training)

    def epoch(self, history: dict[str, list[float]]) -> None:
        """Tell the last epoch's numbers."""
        numbers = {name: values[-1] for name, values in history.items() if name != "epoch"}
        self._tell("on_epoch", int(history["epoch"][-1]), numbers)

    def end(self, result: Fit) -> None:
        self._tell("on_end", result)

    def _tell(self, method: str, *args: Any) -> None:
        for callback in list(self.active):
            try:
                call = getattr(callback, method, None)
                if call is not None:
                    # each gets a dictionary of its own
                    call(*(dict(arg) if isinstance(arg, dict) else arg for arg in args))
            except Exception as error:  # whatever it is, the run is worth more
                self.active.remove(callback)
                what = f"{type(callback).__name__}.{method} raised {type(error).__name__}: {error}"
                _warn(f"{what}; it is not called again, the training goes on")


class TensorBoard(Callback):
    """Writes the bounds of each epoch for TensorBoard, with the rows per second.

    Args:
        folder: where `tensorboard --logdir` looks.

    Raises:
        ExtraError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ExtraError(
                got=f"TensorBoard without its package: {error}",
                need="the extra tensorboard",
                fix="pip install 'pyrogen[tensorboard]'",
            ) from error
        self.make, self.folder = SummaryWriter, folder
        self.writer: Any = None
        self.rows, self.seconds = 0, 0.0

    def on_start(self, training: Training) -> None:
        # not before: the files are there once the training is; what a killed run wrote past its checkpoint is hidden
        purge = training.epoch + 1 if training.epoch else None
        self.writer = self.make(str(self.folder), purge_step=purge)
        self.rows, self.seconds = training.size, training.seconds

    def on_epoch(self, epoch: int, numbers: dict[str, float]) -> None:
        for name in ("train", "valid"):
            if name in numbers and math.isfinite(numbers[name]):
                self.writer.add_scalar(f"bound/{name}", numbers[name], epoch)
        taken, self.seconds = numbers["seconds"] - self.seconds, numbers["seconds"]
        self.writer.add_scalar("rows per second", self.rows / max(taken, 1e-9), epoch)
        self.writer.flush()

    def on_end(self, result: Fit) -> None:
        self.writer.close()


def _nearest(callback: Any) -> str:
    for name in dir(callback):
        if near := get_close_matches(name, _METHODS, n=1):
            return f"{near[0]} instead of {name}"
    return "a subclass of Callback"


def _warn(text: str) -> None:
    try:
        warnings.warn(text, stacklevel=5)
    except Warning:  # where warnings are errors, this one would end what it is to save
        print(f"warning: {text}", file=sys.stderr)
