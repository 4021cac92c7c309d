"""The folder of a run: claimed before any work, written file by file, and never robbed of what is not its own."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyrogen.errors import DataError, OutputError, SettingsError
from pyrogen.inference.run_folder import CHECKPOINTS, CONFIG, LOCK, METRICS, is_begun
from pyrogen.inference.strict import read_json

FILES = {
    "result.json": "the number with its error, settings, versions, checksums",
    "recipe.toml": "repeats this run",
    "model.safetensors": "the weights",
    "history.json": "the bound after each epoch",
    "metrics.jsonl": "the same, written as it came",
    "config.json": "what the training was of",
    "curves.png": "the training curve",
    "samples.png": "samples from the model",
    "reconstructions.png": "test rows and what the model makes of their codes",
    "latent-map.png": "the codes of test rows in the plane",
    "posterior.nc": "posterior draws for test rows, for ArviZ",
}
OF_MACHINES = {
    "filters.png": "what the hidden units look for",
    "chains.png": "Gibbs chains from test rows",
    "annealing.png": "the weights of the chains that log Z is from",
    "ladder.png": "how often neighbours on the ladder of parallel tempering swap",
}
"""What a Boltzmann machine leaves besides."""
ALL = FILES | OF_MACHINES
"""All that a run may write, in the order of its report; while it trains, there are `checkpoints` too."""

PRETRAINING = "pretraining"
"""Where the layers of a deep model are trained first, until all is done."""


class Folder:
    """An output folder that can be written and holds nothing that would be lost.

    It must be empty or not exist; at most its last parent may be missing too. With `overwrite` it may hold
    the files of an earlier run, which `clear` removes, and files of others, which stay; with `resume` a run to
    go on with.

    Raises:
        OutputError: it is not so.
        SettingsError: `overwrite` and `resume` together.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
        if overwrite and resume:
            raise SettingsError(got="--overwrite and --resume", need="one of the two", fix="--resume to go on")
        self.path = Path(path)
        self.made: list[Path] = []
        # what training writes is its own to remove, as it begins
        self.earlier = [name for name in self._inspect(overwrite, resume) if name not in (CONFIG, METRICS)]
        self._make()

    def clear(self) -> None:
        """Remove the files of the earlier run, which the one to come replaces."""
        for name in self.earlier:
            try:
                (self.path / name).unlink(missing_ok=True)
            except OSError as error:
                raise _refusal(self.path / name, error.strerror or str(error)) from error
        self.earlier = []

    def forget_pretraining(self) -> None:
        """Remove the layers that an earlier run trained, so that they are trained again."""
        if is_begun(self.path / PRETRAINING / "part-0"):
            shutil.rmtree(self.path / PRETRAINING, ignore_errors=True)

    def give_up(self) -> None:
        """Remove the folder again, if it was made here and is empty."""
        for path in self.made:
            with suppress(OSError):
                path.rmdir()

    def _inspect(self, overwrite: bool, resume: bool) -> list[str]:
        """The files of an earlier run that are in the way, once it is clear that all may be replaced."""
        try:
            there = sorted(entry.name for entry in self.path.iterdir() if entry.name != LOCK)
        except FileNotFoundError:
            return []
        except NotADirectoryError as error:
            raise OutputError(got=f"{self.path}, which is a file", need="a folder", fix="another --out") from error
        except OSError as error:
            raise _refusal(self.path, error.strerror or str(error)) from error
        ours = files_of(self.path) if "result.json" in there else []
        if begun := is_begun(self.path) or is_begun(self.path / PRETRAINING / "part-0"):
            ours = [*ours, CONFIG, METRICS]
        if there and not overwrite and not (resume and ours):
            raise OutputError(
                got=f"{self.path}, which exists and holds {_some(there)}",
                need="a new or an empty folder",
                fix=("--resume to go on with its run, " if begun and {CHECKPOINTS, PRETRAINING} & {*there} else "")
                + "another --out, or --overwrite to replace an earlier run",
            )
        for name in there:
            if name in ALL and (name not in ours or (self.path / name).is_dir()):
                raise OutputError(
                    got=f"{self.path / name}, which is not from an earlier run",
                    need="a folder where nothing of others has to be overwritten",
                    fix="another --out, or moving that file away",
                )
        return [name for name in ours if name in there]

    def _make(self) -> None:
        try:
            for path in (self.path.parent, self.path):
                if not path.is_dir():
                    path.mkdir()
                    self.made.insert(0, path)
            probe = self.path / ".writable.part"
            probe.touch()
            probe.unlink()
        except OSError as error:
            self.give_up()
            if isinstance(error, FileNotFoundError) and not self.path.parent.parent.is_dir():
                raise OutputError(
                    got=f"{self.path}, whose parent's parent {self.path.parent.parent} does not exist",
                    need="a folder to make it in",
                    fix=f"mkdir -p {self.path.parent}",
                ) from error
            raise _refusal(self.path, error.strerror or str(error)) from error


def files_of(path: Path) -> list[str]:
    """The files that the run in a folder wrote, as its result.json says; nothing if that is from elsewhere."""
    try:
        names = read_result(path).get("files", [])
    except DataError:
        return []
    return [name for name in ALL if name in names] if isinstance(names, list) else []


def read_result(path: str | Path) -> dict[str, Any]:
    """The content of result.json in the folder of a run.

    Raises:
        DataError: there is none, or it is not from pyrogen.
    """
    file = Path(path) / "result.json"
    try:
        result = read_json(file.read_bytes(), file.name)
    except OSError as error:
        raise DataError(
            got=f"{file}, which cannot be read: {error.strerror or error}",
            need="the folder of a run",
            fix="what `pyrogen run` or `pyrogen fit` wrote",
        ) from error
    except ValueError as error:
        raise DataError(
            got=f"{file}, which is not JSON: {error}", need="an unchanged result", fix="a new run"
        ) from error
    versions = result.get("versions") if isinstance(result, dict) else None
    if not isinstance(versions, dict) or "pyrogen" not in versions:
        raise DataError(got=f"{file}, which is not from pyrogen", need="a result of pyrogen", fix="another folder")
    return result


def _refusal(path: Path, reason: str) -> OutputError:
    return OutputError(
        got=f"{path}, which cannot be written: {reason}", need="a folder that can be written", fix="another --out"
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
