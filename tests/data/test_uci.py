import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrogen.data import load, uci
from pyrogen.data.npz import Published
from pyrogen.errors import DataError
from pyrogen.ops import check_rows

FOLDER = Path(os.environ.get("PYROGEN_DATA") or "nowhere")
SIZES = {"dna": (1600, 400, 1186, 180), "nips": (400, 100, 1240, 500), "nltcs": (16181, 2157, 3236, 16)}


@pytest.mark.parametrize("name", SIZES)
def test_the_splits_are_the_published_ones(name):
    if not (FOLDER / "uci" / f"{name}.npz").is_file():
        pytest.skip(f"no uci/{name}.npz in PYROGEN_DATA")
    data = load(name)
    train, valid, test, width = SIZES[name]
    assert repr(data) == f"Dataset('{name}': train {train}, valid {valid}, test {test}; shape (1, 1, {width}), binary)"
    for x in data.splits.values():
        check_rows(x, width=width, support="binary")
    raw = b"".join(x.byte().numpy().tobytes() for x in data.splits.values())
    assert data.sha256 == hashlib.sha256(raw).hexdigest()


@pytest.fixture
def pages(tmp_path, monkeypatch) -> dict[str, bytes]:
    """Small splits as the published dna, and as text at their source; the cache is empty."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYROGEN_DATA", raising=False)
    bits = {"train": np.eye(3, 4, dtype=np.uint8), "valid": np.ones((1, 4), np.uint8), "test": np.eye(2, 4, dtype="u1")}
    digest = hashlib.sha256(b"".join(a.tobytes() for a in bits.values())).hexdigest()
    monkeypatch.setattr(uci, "DNA", Published("uci/dna.npz", {key: a.shape for key, a in bits.items()}, digest))
    answers = {f"dna.{key}.data": b"\n".join(b",".join(b"%d" % v for v in row) for row in a) for key, a in bits.items()}
    monkeypatch.setattr(uci, "download", lambda url, path: answers[url.rsplit("/", 1)[-1]])
    return answers


def test_the_text_at_the_source_becomes_the_published_bits_and_is_kept(pages):
    first = load("dna")
    assert torch.equal(first["train"], torch.eye(3, 4))
    pages.clear()
    assert torch.equal(load("dna")["test"], first["test"])


@pytest.mark.parametrize("page", [b"<html>", b"", b"0,1,2,1", b"0,1,0"])
def test_a_source_that_answers_something_else_is_named(pages, page):
    pages["dna.valid.data"] = page
    with pytest.raises(DataError, match=r"dna\.valid\.data; need 1 lines of 4 digits 0 or 1; try "):
        load("dna")
