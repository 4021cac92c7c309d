"""The checkpoints of a run: each a folder of three files, written beside the last ones and then renamed.

    checkpoint-000007/
        tensors.safetensors   state.json   manifest.json: sha256 and size of the two

A reader finds a whole checkpoint or none, whatever the writer died of. The last two good ones are kept.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyrogen.errors import DataError, ModelError
from pyrogen.inference.checkpoint import sync_folder, unwritable
from pyrogen.inference.state import State
from pyrogen.inference.strict import DamagedError, check_header, read_file, read_json, read_tensors, sha256_of

SCHEMA = 1
KEPT = 2
_NAME = re.compile(r"checkpoint-(\d{6,12})")
FILES = _TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
_MOST = {_STATE: 1 << 28, _MANIFEST: 1 << 16}
_CHUNK = 1 << 22


class Checkpoints:
    """The folder of checkpoints of one run; one process at a time writes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.good: set[str] = set()  # written or read whole by this process

    def names(self) -> list[str]:
        """What looks like a checkpoint, oldest first; a link does not.

        Raises:
            DataError: the folder cannot be read.
        """
        try:
            with os.scandir(self.path) as entries:
                found = [e.name for e in entries if _NAME.fullmatch(e.name) and e.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(
                got=f"{self.path}, which cannot be read: {error.strerror or error}",
                need="the checkpoints of a run",
                fix="the folder of a run",
            ) from error
        return sorted(found, key=_number)

    def write(self, state: State) -> str:
        """Add a checkpoint and remove those that are no longer needed; gives its name.

        Raises:
            OutputError: it cannot be written; the ones before are as they were.
            ModelError: a tensor of a kind that a checkpoint cannot hold.
        """
        content = _content(state)
        part = self.path / ".writing"  # one name, so that what a killed process left is overwritten
        try:
            self.path.mkdir(exist_ok=True)
            names = self.names()
            name = f"checkpoint-{_number(names[-1]) + 1 if names else 1:06}"
            _remove(part)
            part.mkdir()
            for file, data in content.items():
                _write(part / file, data)
            sync_folder(part)
            os.replace(part, self.path / name)
            sync_folder(self.path)
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            with suppress(OSError):  # renamed already, or never made
                _remove(part)
        self.good.add(name)
        self._prune([*names, name])
        return name

    def read(self, name: str, most: int | None = None) -> State:
        """One checkpoint, whole.

        Args:
            most: bytes of tensors that it may have.

        Raises:
            DamagedError: a file is missing, changed, or not what it should be.
        """
        folder = self.path / name
        sizes = _manifest(read_file(folder / _MANIFEST, _MOST[_MANIFEST]))
        content = {}
        for file in (_STATE, _TENSORS):
            limit = _MOST.get(file, most if most is not None else sizes[file]["size"])
            content[file] = read_file(folder / file, limit, sizes[file]["size"])
            if sha256_of(content[file]) != sizes[file]["sha256"]:
                raise DamagedError(f"{file} was changed: its sha256 is not that of the manifest")
        meta = read_json(content[_STATE], _STATE)
        state = State(read_tensors(content[_TENSORS], _TENSORS), meta)
        self.good.add(name)
        return state

    def last_good(self, most: int | None = None) -> Iterator[tuple[str, State]]:
        """The good checkpoints, newest first, with a warning for each that is damaged."""
        for name in reversed(self.names()):
            try:
                state = self.read(name, most)
            except DamagedError as error:
                warnings.warn(f"{self.path / name} is damaged, falling back to the one before: {error}", stacklevel=2)
            else:
                yield name, state

    def clear(self) -> None:
        """Remove all of them.

        Raises:
            OutputError: one cannot be removed.
        """
        try:
            for name in self.names():
                self._discard(name)
            for name in (".writing", ".removing"):
                _remove(self.path / name)
            with suppress(FileNotFoundError):
                self.path.rmdir()
        except OSError as error:
            raise unwritable(self.path, error) from error

    def _prune(self, names: list[str]) -> None:
        """Remove what is older than the last two good ones, and the damaged ones among them."""
        kept = [name for name in names if name in self.good][-KEPT:]
        if len(kept) < KEPT:
            kept = names  # nobody has looked at the others yet
        for name in names:
            if name not in kept:
                with suppress(OSError):  # a leftover costs space, not the run
                    self._discard(name)

    def _discard(self, name: str) -> None:
        """Remove one, which is no checkpoint any more before its first file is gone."""
        gone = self.path / ".removing"
        _remove(gone)
        os.replace(self.path / name, gone)
        _remove(gone)


def _number(name: str) -> int:
    return int(name.rpartition("-")[2])


def _content(state: State) -> dict[str, bytes]:
    """The three files, the manifest last."""
    from safetensors import SafetensorError
    from safetensors.torch import save

    try:
        tensors = save(state.tensors)
        check_header(tensors, _TENSORS)  # what could not be read again is refused now
    except (SafetensorError, KeyError, ValueError) as error:
        raise ModelError(
            got=f"a tensor that a checkpoint cannot hold: {error}",
            need="dense tensors of the usual dtypes",
            fix="fit without a folder",
        ) from error
    content = {_TENSORS: tensors, _STATE: _json(state.meta)}
    about = {file: {"sha256": sha256_of(data), "size": len(data)} for file, data in content.items()}
    return content | {_MANIFEST: _json({"files": about, "schema": SCHEMA})}


def _manifest(content: bytes) -> dict[str, Any]:
    """Size and sha256 of each file."""
    found = read_json(content, _MANIFEST)
    if _json(found) != content:
        raise DamagedError(f"{_MANIFEST} is not as it was written")
    if type(found.get("schema")) is not int or found["schema"] != SCHEMA:
        raise DamagedError(f"{_MANIFEST} is of schema {found.get('schema')!r}, and this version reads {SCHEMA}")
    files = found.get("files")
    if found.keys() != {"files", "schema"} or not isinstance(files, dict) or files.keys() != {_TENSORS, _STATE}:
        raise DamagedError(f"{_MANIFEST} does not list {_TENSORS} and {_STATE}")
    for entry in files.values():
        right = isinstance(entry, dict) and entry.keys() == {"sha256", "size"}
        if not right or type(entry["size"]) is not int or not isinstance(entry["sha256"], str):
            raise DamagedError(f"{_MANIFEST} lacks a size or a sha256")
    return files


def _json(value: Any) -> bytes:
    return (json.dumps(value, sort_keys=True, allow_nan=False, indent=1) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    """A new file, on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it: on a nearly full disk the system writes a part and says so."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view[:_CHUNK]) :]


def _remove(folder: Path) -> None:
    """Remove a checkpoint: the files that belong in it, and the folder if nothing else is in it."""
    if folder.is_symlink():
        folder.unlink()
    if not folder.is_dir():
        return
    for file in FILES:
        (folder / file).unlink(missing_ok=True)
    folder.rmdir()
