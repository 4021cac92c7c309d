"""Is the folder of a run what it was when it was written?"""

from __future__ import annotations

from pathlib import Path

from pyrogen.cli.folder import ALL, read_result
from pyrogen.cli.saved import Saved
from pyrogen.errors import DataError, DeviceError
from pyrogen.inference.checkpoint import read_weights
from pyrogen.inference.run_folder import CHECKPOINTS, check_training


def check(folder: Path) -> dict[str, str | None]:
    """What is wrong with each part of a run; None where nothing is. Nothing is changed.

    A run that still trains, or was interrupted, has checkpoints and no result yet. Pictures and other files
    that a result lists are only looked for: what is in them is not checked.

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
        found |= _result(folder, checkpoints)
    return found


def _result(folder: Path, unfinished: bool) -> dict[str, str | None]:
    try:
        result = read_result(folder)
    except DataError as error:
        return {"result.json": str(error)}
    if unfinished and result.get("weights_sha256") is None:
        return {"result.json": None}  # it was interrupted between the two
    listed = result.get("files")
    names = [name for name in ALL if name in listed] if isinstance(listed, list) and not unfinished else []
    lost = {name: "is missing" for name in names if not (folder / name).is_file()}
    if "kernel" in result:  # the check of a kernel has no weights
        return {"result.json": None} | lost
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
    return lost | found
