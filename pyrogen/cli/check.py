"""Is the folder of a run what it was when it was written?"""

from __future__ import annotations

import tomllib
from pathlib import Path

from pyrogen.cli.folder import ALL, read_result
from pyrogen.cli.saved import Saved
from pyrogen.errors import DataError, DeviceError
from pyrogen.inference.checkpoint import read_weights
from pyrogen.inference.run_folder import CHECKPOINTS, check_training
from pyrogen.inference.strict import read_json


def check(folder: Path) -> dict[str, str | None]:
    """What is wrong with each part of a run; None where nothing is. Nothing is changed.

    A run that still trains, or was interrupted, has checkpoints and no result yet. Pictures and other files that a
    result lists are whole; that nothing in them was changed is checked of the weights and the checkpoints alone.

    Raises:
        DataError: the folder holds no run.
    """
    found = check_training(folder)
    checkpoints = any(name.startswith(CHECKPOINTS) for name in found)
    if (folder / "result.json").exists() or not checkpoints:
        if not found and not (folder / "result.json").exists():
            raise DataError(
                got=f"{folder}, where no run is", need="the folder of a run", fix="what `pyrogen run` or `fit` wrote"
            )
        judged = _result(folder, checkpoints)
        found = judged | {name: wrong for name, wrong in found.items() if wrong or name not in judged}
    return found


def _result(folder: Path, unfinished: bool) -> dict[str, str | None]:
    pipes = [name for name in ("result.json", "model.safetensors") if (folder / name).is_fifo()]
    if pipes:
        return dict.fromkeys(pipes, "is a pipe")
    try:
        result = read_result(folder)
    except DataError as error:
        return {"result.json": str(error)}
    if unfinished and result.get("weights_sha256") is None:
        return {"result.json": None}  # it was interrupted between the two
    listed = result.get("files")
    if not isinstance(listed, list):
        return {"result.json": f"its list of files is {listed!r:.50}"}
    names = [] if unfinished else [name for name in ALL if name in listed or (folder / name).exists()]
    others = {name: _unreadable(folder / name) for name in names if name not in ("result.json", "model.safetensors")}
    if "kernel" in result:  # the check of a kernel has no weights
        return {"result.json": None} | others
    found: dict[str, str | None] = {"result.json": None, "model.safetensors": None}
    try:
        # first by itself: a model is built from result.json, and which of the two is wrong should be told
        read_weights(folder / "model.safetensors", sha256=result.get("weights_sha256"))
    except DataError as error:
        found["model.safetensors"] = str(error)
    else:
        try:
            Saved.open(folder, "cpu")
        except (DataError, DeviceError) as error:
            found["result.json"] = str(error)
    return found | others


def _unreadable(path: Path) -> str | None:
    """Why a file is not whole."""
    if not path.is_file():  # a pipe would be waited for
        return "is missing"
    if not path.stat().st_size:
        return "is empty"
    try:
        if path.suffix == ".png":
            from matplotlib.image import imread  # which takes a while, and is for those who check

            imread(path)
        elif path.suffix == ".nc":
            import h5py

            h5py.File(path, "r").close()  # it knows how long it should be
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text("utf-8"))
        else:
            content = path.read_bytes()
            for document in content.splitlines() if path.suffix == ".jsonl" else [content]:
                read_json(document, path.name)
    # SyntaxError is how a picture says that it is none; the last two, what a bomb does
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"cannot be read to its end: {error or type(error).__name__}"
    return None
