"""Events on the globe: the published rows, splits, and what a damaged or missing file gets."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from pyrogen.data import earth as module
from pyrogen.data import load
from pyrogen.errors import DataError, SettingsError
from pyrogen.ops import check_rows
from pyrogen.ops.angles import latitude_longitude

FOLDER = Path(os.environ.get("PYROGEN_DATA") or "nowhere")
needs_tables = pytest.mark.skipif(not (FOLDER / "earth").is_dir(), reason="no earth folder in PYROGEN_DATA")


@needs_tables
@pytest.mark.parametrize(("events", "n"), [("volcano", 827), ("earthquake", 6120), ("flood", 4875), ("fire", 12809)])
def test_tables_are_the_published_ones_in_three_splits(events, n):
    data = load("earth", events=events)
    sizes = [len(x) for x in data.splits.values()]
    assert sum(sizes) == n and abs(sizes[0] - 0.8 * n) < 1 and abs(sizes[1] - 0.1 * n) <= 1
    for x in data.splits.values():
        check_rows(x, width=3, support="sphere")


@needs_tables
def test_first_row_of_the_table_is_where_it_should_be():
    lines = (FOLDER / "earth" / "volcano.csv").read_text().splitlines()
    latitude, longitude = map(float, lines[2].split(","))
    rows = torch.cat([*load("earth", events="volcano").splits.values()]).double()
    found = torch.stack(latitude_longitude(rows), 1)
    assert (found - torch.tensor([latitude, longitude])).abs().sum(1).min() < 1e-4


@needs_tables
def test_a_split_is_another_permutation_of_the_same_rows():
    first, again, other = (torch.cat([*load("earth", split=s).splits.values()]) for s in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)

    def in_order(x):
        return x[x[:, 0].argsort()].sort(0).values

    assert torch.equal(in_order(first), in_order(other))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(SettingsError, match=r"events='tornado'.*volcano, earthquake, flood, fire"):
        load("earth", events="tornado")
    for split in (-1, 0.5, True, "0"):
        with pytest.raises(SettingsError, match="split="):
            load("earth", split=split)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no file .*earth/flood\.csv, where root points; need a folder"):
        load("earth", root=tmp_path, events="flood")


@needs_tables
@pytest.mark.parametrize(
    "damage", [lambda c: c[:-3], lambda c: c + b"\n1,2", lambda c: b"<html>", lambda c: c + b"\n1,x"]
)
def test_a_damaged_table_is_refused(tmp_path, damage):
    (tmp_path / "earth").mkdir()
    path = tmp_path / "earth" / "volcano.csv"
    path.write_bytes(damage((FOLDER / "earth" / "volcano.csv").read_bytes()))
    with pytest.raises(DataError, match=r"volcano\.csv with contents of sha256 .*need 827 rows"):
        load("earth", root=tmp_path)


@needs_tables
def test_without_a_folder_it_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    pages = {"https": (FOLDER / "earth" / "volcano.csv").read_bytes()}
    asked = []
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYROGEN_DATA")
    monkeypatch.setattr(module, "download", lambda url, path: asked.append(url) or pages["https"])
    a, b = load("earth"), load("earth")
    assert torch.equal(a["test"], b["test"]) and len(asked) == 1 and asked[0].endswith("volerup.csv")
    shutil.rmtree(tmp_path / ".cache")
    pages["https"] = b"<html>log in first</html>"
    with pytest.raises(DataError, match=r"0 rows in https.*volerup\.csv"):
        load("earth")
    assert not (tmp_path / ".cache").exists()
