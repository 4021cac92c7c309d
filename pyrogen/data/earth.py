"""Where on the globe volcanoes erupted, the ground quaked, rivers flooded and forests burned.

Sources: NOAA (volcanoes, earthquakes), the Dartmouth Flood Observatory, NASA FIRMS; the four tables on which Mathieu
and Nickel 2020 (arXiv:2006.10605) and later densities on the sphere are compared, as kept at
https://github.com/oxcsml/riemannian-score-sde. No licence is stated there, so the tables are no part of this package.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

from pyrogen.data.dataset import Dataset
from pyrogen.data.fetch import VARIABLE, download, whole_file
from pyrogen.errors import DataError, SettingsError
from pyrogen.ops.angles import unit_vectors

URL = "https://raw.githubusercontent.com/oxcsml/riemannian-score-sde/main/data/{file}.csv"
EVENTS = {
    "volcano": ("volerup", 827, "cb6218041a98f8a9261972c8a3f3c68cbbce2450d517226bea4a74ca8aac4b18"),
    "earthquake": ("quakes_all", 6120, "eeec426b7900a184544a6445ebbc5371351a835470b0f6a532707c0ccf9de753"),
    "flood": ("flood", 4875, "61bb4e77ae904e00d536ea332df7c3b641cfc210f851c324fc9572fb46aded07"),
    "fire": ("fire", 12809, "895193381b16595e089c5e5ac822cf6889ccecac71f9deda5ea140d202457a62"),
}
"""The file at the source, how many rows, and the sha256 of the (N, 2) latitudes and longitudes as float64."""


def earth(events: str = "volcano", split: int = 0, root: str | Path | None = None) -> Dataset:
    """Unit vectors (cos lat cos lon, cos lat sin lon, sin lat), 80 % for training, 10 % valid, 10 % test.

    The proportions are those of the published comparisons, whose permutations are not published: compare means over
    several splits. Places recur: 84 % of the volcanoes' rows and 17 % of the earthquakes' have an equal one, and
    then a density has no upper limit, and a number says how narrow a model dares to be.

    Args:
        events: "volcano" (827 rows), "earthquake" (6120), "flood" (4875) or "fire" (12809).
        split: seeds the permutation, `numpy.random.default_rng(split)`.
        root: the folder with `earth/<events>.csv`; see `pyrogen.data.load`.

    Raises:
        SettingsError: other events, or a split that is no whole number of 0 or more.
        DataError: if the file is missing, cannot be downloaded, or is damaged.
    """
    if events not in EVENTS:
        raise SettingsError(got=f"events={events!r}", need=f"one of {', '.join(EVENTS)}", fix="events='volcano'")
    if not isinstance(split, int) or isinstance(split, bool) or split < 0:
        raise SettingsError(got=f"split={split!r}", need="a whole number, 0 or more", fix="split=0")
    places = _find(events, root)
    n = len(places)
    order = np.random.default_rng(split).permutation(n)
    latitude, longitude = torch.from_numpy(places[order]).unbind(1)
    x = unit_vectors(latitude, longitude).float()
    ends = {"train": slice(0, int(0.8 * n)), "valid": slice(int(0.8 * n), int(0.9 * n)), "test": slice(int(0.9 * n), n)}
    return Dataset(
        name="earth",
        splits={name: x[part] for name, part in ends.items()},
        shape=(1, 1, 3),
        support="sphere",
        sha256=EVENTS[events][2],
    )


def _find(events: str, root: str | Path | None) -> np.ndarray:
    """Latitudes and longitudes in degrees, (N, 2), from `root`, PYROGEN_DATA or ~/.cache/pyrogen, as `fetch.find`."""
    chosen = root or os.environ.get(VARIABLE)
    folder = Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "pyrogen"
    path = folder / "earth" / f"{events}.csv"
    if not path.is_file():
        if chosen:
            raise DataError(
                got=f"no file {path}, where {'root' if root else VARIABLE} points",
                need=f"a folder that holds earth/{path.name}",
                fix=f"copying it there, or leaving out root and {VARIABLE} to download it to ~/.cache/pyrogen",
            )
        url = URL.format(file=EVENTS[events][0])
        content = download(url, path)
        _parsed(content, events, url)
        with whole_file(path) as file:
            file.write(content)
    return _parsed(path.read_bytes(), events, str(path))


def _parsed(content: bytes, events: str, source: str) -> np.ndarray:
    """The rows of numbers; comments and headings are skipped.

    Raises:
        DataError: they are not the ones published.
    """
    _, rows, sha256 = EVENTS[events]
    lines = (line for line in content.decode("ascii", "replace").splitlines() if line[:1] in set("-0123456789"))
    try:
        places = np.array([[float(number) for number in line.split(",")] for line in lines]).reshape(-1, 2)
    except ValueError:
        places = np.empty((0, 2))
    digest = hashlib.sha256(np.ascontiguousarray(places, dtype="<f8").tobytes()).hexdigest()
    if digest != sha256:
        raise DataError(
            got=f"{len(places)} rows in {source} with contents of sha256 {digest}",
            need=f"{rows} rows of latitude and longitude with {sha256}",
            fix="another copy of it, or deleting it and leaving out root to download it",
        )
    return places


__all__ = ["earth"]
