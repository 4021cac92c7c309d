"""The folder of a training run: what it was made of, how it went, its checkpoints.

    config.json     the model, the data, the settings; a run goes on only with the same
    metrics.jsonl   a line per epoch
    checkpoints/    the last two, see `Checkpoints`
    .lock           held while a process trains here

One process at a time is in it; the system frees the lock of a process, whatever that died of.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch

from pyrogen import __version__
from pyrogen.errors import DataError, OutputError
from pyrogen.inference.checkpoint import unwritable, write_whole
from pyrogen.inference.checkpoints import SCHEMA, Checkpoints, write_all
from pyrogen.inference.state import State
from pyrogen.inference.strict import DamagedError, read_file, read_json

if TYPE_CHECKING:
    from filelock import FileLock

CONFIG, METRICS, CHECKPOINTS, LOCK = "config.json", "metrics.jsonl", "checkpoints", ".lock"


class RunFolder:
    """A folder that one process trains in, from `with` to the end of it.

    Args:
        resume: go on from the last good checkpoint, if there is one.
        overwrite: remove what an earlier training left.
        of: what must be the same for a run to go on, besides what `fit` knows of, as JSON has it.

    Raises (on entering):
        OutputError: another process is in it, it holds a run and neither `resume` nor `overwrite` was asked for, or it
            cannot be written.
    """

    def __init__(
        self, path: str | Path, *, resume: bool = False, overwrite: bool = False, of: Mapping[str, Any] | None = None
    ) -> None:
        self.path, self.resume, self.overwrite = Path(path), resume, overwrite
        self.checkpoints = Checkpoints(self.path / CHECKPOINTS)
        self.last: str | None = None  # the newest good checkpoint
        self.identity: dict[str, Any] = {}
        self.of = {} if of is None else {"of": dict(of)}
        self._made = False
        self._held: FileLock | None = None

    def __enter__(self) -> Self:
        try:
            self._made = not self.path.exists()
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._lock()
        try:
            self._claim()
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unlock()

    @property
    def held(self) -> bool:
        """Whether this process is in the folder."""
        return self._held is not None

    def begin(self, identity: Mapping[str, Any], most: int) -> State | None:
        """The state to go on from, or None for a run that begins.

        Args:
            identity: what must be the same for a run to go on.
            most: bytes of tensors that a checkpoint may have.

        Raises:
            DataError: no checkpoint is good, or they are those of another model, data or settings.
            OutputError: a run was kept here since the folder was opened, and `resume` is False.
        """
        if self.checkpoints.names() and not self.resume:
            raise OutputError(
                got=f"{self.path}, where a run has been kept since it was opened",
                need="a folder for each run",
                fix="another RunFolder, or RunFolder(..., resume=True) to go on",
            )
        self.identity = json.loads(json.dumps({**identity, **self.of}))  # as it comes out of a file
        for name, (tensors, meta) in self.checkpoints.last_good(most):
            self._compare(name, meta.get("identity"))
            if not isinstance(meta.get("training"), dict):
                raise self._refusal(f"{self.checkpoints.path / name} without a state of a training")
            self.last = name
            return State(tensors, meta["training"])
        if self.checkpoints.names():
            raise self._refusal(f"{self.checkpoints.path}, where no checkpoint is good")
        return None

    def start(self, history: dict[str, list[float]]) -> None:
        """Write the configuration, and of the metrics the epochs in the history.

        Raises:
            OutputError: they cannot be written.
        """
        versions = {"pyrogen": __version__, "torch": torch.__version__, "threads": torch.get_num_threads()}
        config = {"schema": SCHEMA, "identity": self.identity, "versions": versions}
        write_whole(self.path / CONFIG, (json.dumps(config, indent=2, allow_nan=False) + "\n").encode())
        lines = [_line(history, i) for i in range(len(history["epoch"]))]
        write_whole(self.path / METRICS, "".join(lines).encode())

    def log(self, history: dict[str, list[float]]) -> None:
        """Append the last epoch to the metrics.

        Raises:
            OutputError: the line cannot be written.
        """
        try:
            descriptor = os.open(self.path / METRICS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                write_all(descriptor, _line(history, -1).encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise unwritable(self.path / METRICS, error) from error

    def save(self, state: State) -> None:
        """Add a checkpoint.

        Raises:
            OutputError: it cannot be written; the ones before are as they were.
        """
        meta = {"identity": self.identity, "training": state.meta}
        self.last = self.checkpoints.write(State(state.tensors, meta))

    def _compare(self, name: str, found: Any) -> None:
        if not isinstance(found, dict):
            raise self._refusal(f"{self.checkpoints.path / name}, which does not say what it is of")
        different = [k for k in {**self.identity, **found} if self.identity.get(k, ()) != found.get(k, ())]
        if different:
            had = ", ".join(f"{key} = {_short(found.get(key))}" for key in different[:3])
            now = ", ".join(f"{key} = {_short(self.identity.get(key))}" for key in different[:3])
            raise DataError(
                got=f"{self.path}, whose run has {had}",
                need=f"{now} to go on",
                fix=f"what {self.path / CONFIG} says, or another folder",
            )

    def _refusal(self, got: str) -> DataError:
        return DataError(
            got=got,
            need="a good checkpoint to go on from",
            fix=f"a copy of {self.path} from before, or removing {self.checkpoints.path} to begin again",
        )

    def _claim(self) -> None:
        there = [name for name in (CONFIG, METRICS, CHECKPOINTS) if os.path.lexists(self.path / name)]
        if self.overwrite:
            self.clear()
        elif there and not self.resume:
            raise OutputError(
                got=f"{self.path}, which holds a run: {', '.join(there)}",
                need="a folder without one",
                fix="resume=True to go on with it, or another folder",
            )

    def clear(self) -> None:
        """Remove the configuration, the metrics and the checkpoints.

        Raises:
            OutputError: one of them cannot be removed.
        """
        self.checkpoints.clear()
        for name in (METRICS, CONFIG):
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(self.path / name, error) from error

    def _lock(self) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(str(self.path / LOCK))
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(
                got=f"{self.path}, where another process is training",
                need="one process at a time in a folder",
                fix="waiting for it, or another folder",
            ) from error
        except OSError as error:
            raise unwritable(self.path, error) from error
        self._held = lock

    def _unlock(self) -> None:
        if self._held is None:
            return
        with suppress(OSError):
            (self.path / LOCK).unlink(missing_ok=True)  # while it is held: then nobody else's is removed
        self._held.release()
        self._held = None
        if self._made:
            with suppress(OSError):  # it is not empty
                self.path.rmdir()


def is_begun(path: Path) -> bool:
    """Whether the configuration of a training of ours is in a folder."""
    return _wrong(lambda: _check_config(path / CONFIG)) is None


def check_training(path: Path) -> dict[str, str | None]:
    """What is wrong with each part of the training that a folder holds; None where nothing is.

    Raises:
        DataError: the folder cannot be read.
    """
    found: dict[str, str | None] = {}
    checkpoints = Checkpoints(path / CHECKPOINTS)
    for name in checkpoints.names():
        wrong = _wrong(lambda name=name: checkpoints.read(name))
        if wrong is None or name in checkpoints.names():  # a run that goes on may have removed it by now
            found[f"{CHECKPOINTS}/{name}"] = wrong
    for name, check in {CONFIG: _check_config, METRICS: _check_metrics}.items():
        if os.path.lexists(path / name) or found:
            found[name] = _wrong(lambda name=name, check=check: check(path / name))
    return found


def _wrong(check: Any) -> str | None:
    try:
        check()
    except DamagedError as error:
        return str(error)
    return None


def _check_config(file: Path) -> None:
    content = read_json(read_file(file, 1 << 28), file.name)
    if not isinstance(content.get("identity"), dict) or content.get("schema") != SCHEMA:
        raise DamagedError(f"{file.name} is not that of a run of this version")


def _check_metrics(file: Path) -> None:
    """Line n is epoch n; a last line without its end is what a killed process leaves, and `resume` mends it."""
    *lines, _ = read_file(file, 1 << 30).split(b"\n")
    for n, line in enumerate(lines, 1):
        if read_json(line, f"line {n} of {file.name}").get("epoch") != n:
            raise DamagedError(f"line {n} of {file.name} is not epoch {n}")


def _line(history: dict[str, list[float]], i: int) -> str:
    row = {name: values[i] if math.isfinite(values[i]) else None for name, values in history.items()}
    return json.dumps(row, allow_nan=False) + "\n"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
