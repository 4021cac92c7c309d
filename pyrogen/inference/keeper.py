"""Keeps a run: what it is of, when to save it, and what a signal does."""

from __future__ import annotations

import hashlib
import inspect
import re
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from pyrogen.errors import DataError, Interrupted, NonFiniteError
from pyrogen.inference.blame import check_finite
from pyrogen.inference.programs import Programs
from pyrogen.inference.run_folder import RunFolder
from pyrogen.inference.training import Training

T = TypeVar("T")

_PLAIN = (int, float, str, bool, bytes, tuple, type(None))
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Keeper:
    """Saves a training into its folder; without a folder it only looks whether the training is well.

    Inside `with`, SIGINT and SIGTERM let the step end, save, and raise `Interrupted`; a second SIGINT raises
    KeyboardInterrupt at once. Only the main thread may take signals, and one that is ignored stays so.

    Of several processes, the first one has the folder, and all stop after the same step: about once a second, and
    after each epoch, they ask each other whether one of them was signalled. As often, with a folder or without, it is
    looked at what the guard found, which is to wait for the device.
    """

    def __init__(self, training: Training, run: RunFolder | None, seconds: float) -> None:
        self.training, self.run, self.seconds = training, run, seconds
        self.ranks = training.ranks
        self.kept = self.ranks.told(run is not None)
        self.caught = 0
        self.ask_at, self.asked = 0, (training.step, time.monotonic())
        self.saved, self.saved_at = (-1, 0, 0), time.monotonic()
        self.before: dict[signal.Signals, Any] = {}

    def begin(self, identity: dict[str, Any]) -> None:
        """Go on where the run was, or begin.

        Raises:
            DataError: no checkpoint is good, or they do not fit.
            OutputError: the folder cannot be written.
        """
        if not self.kept:
            return
        own = sum(t.numel() * t.element_size() for t in self.training.state().tensors.values())
        most = 64 * own + (1 << 26)  # no optimiser keeps more than that
        state = self.ranks.told(self._at_first(lambda run: run.begin(identity, most)))
        if state is not None:
            try:
                self.training.restore(state)
            except DataError as error:
                where = self.run.checkpoints.path / str(self.run.last) if self.run else "the checkpoint"
                raise DataError(got=f"in {where} {error.got}", need=error.need, fix=error.fix) from error
            self.saved = self._place()
        self._at_first(lambda run: run.start(self.training.history))

    def __enter__(self) -> Self:
        self.asked = self.training.step, time.monotonic()
        if self.kept and threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in SIGNALS}
            self.before = {n: h for n, h in handlers.items() if h not in (None, signal.SIG_IGN)}
            for number in self.before:
                signal.signal(number, self._catch)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def after_step(self) -> None:
        """Save and stop, if a signal came; about once a second, look whether the bounds are finite.

        Raises:
            Interrupted: one came.
            NonFiniteError: one is not.
        """
        if self.caught and self.ranks.world == 1:
            self._save_and_stop(due=False)
        if self.training.step >= self.ask_at:
            check_finite(self.training)
            if self.kept:
                self._save_and_stop(due=False)
            self._ask_again()

    def after_epoch(self) -> None:
        """Log the epoch; save, if it is time to."""
        if not self.kept:
            return
        self._at_first(lambda run: run.log(self.training.history))
        self._save_and_stop(due=time.monotonic() - self.saved_at >= self.seconds)

    def end(self) -> None:
        """Save what the loop left, before the best weights take the place of the last."""
        if self.kept:
            self._save_and_stop(due=True)

    def explained(self, error: NonFiniteError) -> NonFiniteError:
        """The error, with the last good checkpoint if there is one."""
        if self.run is None or self.run.last is None:
            return error
        where = self.run.checkpoints.path / self.run.last
        return NonFiniteError(got=error.got, need=error.need, fix=f"{error.fix}; the last good checkpoint is {where}")

    def _save_and_stop(self, due: bool) -> None:
        """Save if it is due or a signal came, and stop then: in all processes, if the first thinks so or one got it."""
        caught, due_there = self.ranks.largest(self.caught, int(due and self.ranks.rank == 0))
        if caught or due_there:
            self._save()
        if caught:
            self.caught = caught
            self._stop()

    def _ask_again(self) -> None:
        """Settle on the step after which all look and ask each other next: about a second from now."""
        now, step = time.monotonic(), self.training.step
        taken = (now - self.asked[1]) / max(step - self.asked[0], 1)
        self.asked = step, now
        (steps,) = self.ranks.largest(max(1, min(1000, int(1 / max(taken, 1e-6)))) if self.ranks.rank == 0 else 0)
        self.ask_at = step + steps

    def _at_first(self, do: Callable[[RunFolder], T]) -> T | None:
        run = self.run
        return self.ranks.at_first(lambda: do(run) if run is not None else None)

    def _save(self) -> None:
        if self.saved == self._place():
            return
        training = self.training
        check_finite(training, weights=True)
        state = training.state()
        self._at_first(lambda run: run.save(state))
        self.saved, self.saved_at = self._place(), time.monotonic()

    def _place(self) -> tuple[int, int, int]:
        return self.training.epoch, self.training.step, self.training.position

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.caught = number

    def _stop(self) -> None:
        folder = str(self.run.path) if self.run else ""
        raise Interrupted(
            got=f"{signal.Signals(self.caught).name} after step {self.training.step}",
            need="nothing, for the run is saved",
            fix=f"fit(..., folder={folder!r}, resume=True) to go on",
            signal=int(self.caught),
        )


def identity_of(
    programs: Programs, data: Tensor, validation: Tensor | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """What must be the same for a run to go on: the programs, the rows, the settings of a step."""
    found: dict[str, Any] = {name: _stable(value) for name, value in settings.items()}
    for name, program in {"model": programs.model, "guide": programs.guide}.items():
        owner = getattr(program, "__self__", program)
        text = code_of(owner) if inspect.isfunction(owner) else repr(owner)
        found[name] = _stable(text)
    found["data"] = digest(data)
    found["validation"] = None if validation is None else digest(validation)
    return found


def code_of(function: Any, inside: tuple[Any, ...] = ()) -> str:
    """The name of a function and a hash of its code, constants, defaults, and the numbers that it closes over.

    What functions and partial functions that it closes over close over in turn counts, too.
    """
    if isinstance(function, partial):
        named = (*enumerate(function.args), *function.keywords.items())
        given = [(name, _told(value, inside)) for name, value in named]
        return f"partial {_told(function.func, inside)} {_stable(repr(given))}"
    names = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    told = [(name, _told(_content(cell), (*inside, function))) for name, cell in names]
    closed = [pair for pair in told if pair[1] is not None]
    parts = (_code(function.__code__), closed, function.__defaults__)
    return f"{function.__qualname__} {hashlib.sha256(_stable(repr(parts)).encode()).hexdigest()[:16]}"


def _told(value: Any, inside: tuple[Any, ...]) -> Any:
    """What tells a value from others: itself if it is plain, code if it is a function; None for what cannot be told."""
    if isinstance(value, _PLAIN):
        return (value,)
    if (inspect.isfunction(value) or isinstance(value, partial)) and not any(value is one for one in inside):
        return code_of(value, inside)
    return value.__qualname__ if isinstance(value, type) else None


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that nothing was assigned to yet
        return _content


def _code(code: Any) -> tuple[Any, ...]:
    """Bytecode, names and constants, those of inner functions too; a set in an order that all processes share."""
    constants = [_code(c) if inspect.iscode(c) else c for c in code.co_consts]
    constants = [sorted(map(repr, c)) if isinstance(c, frozenset) else c for c in constants]
    return code.co_code, code.co_names, constants


def digest(rows: Tensor) -> str:
    """Shape, dtype and sha256 of a tensor."""
    content = rows.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return f"{tuple(rows.shape)} {rows.dtype} {hashlib.sha256(content).hexdigest()}"


def _stable(value: Any) -> Any:
    """The value without addresses, which differ from process to process."""
    return re.sub(r" at 0x[0-9a-f]+", "", value) if isinstance(value, str) else value
