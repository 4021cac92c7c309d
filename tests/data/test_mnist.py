import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from pyrogen.data import load, mnist
from pyrogen.data.npz import Published
from pyrogen.errors import DataError
from pyrogen.ops import check_rows

FOLDER = os.environ.get("PYROGEN_DATA")
HERE = {name: bool(FOLDER) and Path(FOLDER or "", name).is_file() for name in ("binarized_mnist.npz", "mnist_t10k.npz")}
needs_binarized = pytest.mark.skipif(not HERE["binarized_mnist.npz"], reason="no binarized_mnist.npz in PYROGEN_DATA")
needs_grey = pytest.mark.skipif(not HERE["mnist_t10k.npz"], reason="no mnist_t10k.npz in PYROGEN_DATA")


@needs_binarized
def test_binarized_mnist_is_the_published_one():
    data = load("binarized-mnist")
    assert repr(data) == ("Dataset('binarized-mnist': train 50000, valid 10000, test 10000; shape (1, 28, 28), binary)")
    for x in data.splits.values():
        check_rows(x, width=784, support="binary")
    raw = b"".join(x.byte().numpy().tobytes() for x in data.splits.values())
    assert data.sha256 == hashlib.sha256(raw).hexdigest()


@needs_grey
def test_mnist_has_grey_pixels_classes_and_three_splits():
    data = load("mnist")
    assert repr(data) == "Dataset('mnist': train 8000, valid 1000, test 1000; shape (1, 28, 28), grey256)"
    for split, x in data.splits.items():
        check_rows(x, width=784, support="grey256")
        assert (x.min(), x.max()) == (0, 1)
        assert data.labels[split].unique().tolist() == list(range(10))
    rows = {bytes((row * 255).round().byte().numpy()) for x in data.splits.values() for row in x}
    assert len(rows) == 10000  # no two of the published digits are equal, so none is in two splits


@needs_grey
def test_a_grey_picture_looks_like_its_label():
    data = load("mnist")
    nearest = torch.cdist(data["test"], data["train"]).argmin(dim=1)
    assert (data.labels["train"][nearest] == data.labels["test"]).float().mean() > 0.9


def published(arrays: dict[str, np.ndarray]) -> Published:
    raw = b"".join(a.tobytes() for a in arrays.values())
    shapes = {key: a.shape for key, a in arrays.items()}
    return Published(name="small.npz", arrays=shapes, sha256=hashlib.sha256(raw).hexdigest())


@pytest.fixture
def sources(tmp_path, monkeypatch) -> dict[str, bytes]:
    """What the sources answer, by the last part of their address; the cache is empty."""
    pages: dict[str, bytes] = {}
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYROGEN_DATA", raising=False)
    monkeypatch.setattr(mnist, "download", lambda url, path: pages[url.rsplit("/", 1)[-1]])
    return pages


@pytest.fixture
def bits(monkeypatch, sources) -> dict[str, np.ndarray]:
    """Small splits as the published binarized MNIST, and as text at their sources."""
    draw = np.random.default_rng(1).integers
    arrays = {key: draw(0, 2, size=(n, 784), dtype=np.uint8) for key, n in (("train", 5), ("valid", 2), ("test", 3))}
    monkeypatch.setattr(mnist, "BINARIZED", published(arrays))
    for key, a in arrays.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in a)
        sources[f"binarized_mnist_{key}.amat"] = text.encode()
    return arrays


@pytest.fixture
def grey(monkeypatch, sources) -> dict[str, np.ndarray]:
    """Small pictures as the published grey test digits, and as gzipped idx files at their sources."""
    draw = np.random.default_rng(1).integers
    arrays = {"images": draw(0, 256, (6, 28, 28), dtype=np.uint8), "labels": draw(0, 10, 6, dtype=np.uint8)}
    monkeypatch.setattr(mnist, "GREY", published(arrays))
    # written out from the description of the format, not from the reader
    head = {"images": b"\0\0\x08\x03" + b"\0\0\0\x06\0\0\0\x1c\0\0\0\x1c", "labels": b"\0\0\x08\x01\0\0\0\x06"}
    sources["t10k-images-idx3-ubyte.gz"] = gzip.compress(head["images"] + arrays["images"].tobytes(), mtime=0)
    sources["t10k-labels-idx1-ubyte.gz"] = gzip.compress(head["labels"] + arrays["labels"].tobytes(), mtime=0)
    return arrays


def test_the_text_at_the_source_becomes_the_published_bits(bits):
    data = load("binarized-mnist")
    for split, a in bits.items():
        assert torch.equal(data[split], torch.from_numpy(a).float())


def test_the_idx_files_at_the_source_become_the_published_pictures(grey):
    arrays = mnist.find(mnist.GREY, mnist._download_grey, None)
    for key, a in grey.items():
        np.testing.assert_array_equal(arrays[key], a)


@pytest.mark.parametrize("page", [b"<html>log in first</html>", b"", b"0 1 2\n", b"0 1\n" * 783])
def test_a_source_that_answers_something_else_is_named(bits, sources, tmp_path, page):
    sources["binarized_mnist_valid.amat"] = page
    with pytest.raises(DataError, match=r"binarized_mnist_valid\.amat; need 2 lines of 784 digits 0 or 1; try "):
        load("binarized-mnist")
    assert list((tmp_path / ".cache" / "pyrogen").iterdir()) == []


@pytest.mark.parametrize(
    ("page", "need"),
    [
        (b"<html>log in first</html>", "a gzip archive"),
        (b"", "bytes of shape"),
        (gzip.compress(b"", mtime=0), "bytes of shape"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x07" + bytes(6), mtime=0), "bytes of shape"),
        (gzip.compress(b"\0\0\x08\x01\0\0\0\x06" + bytes(1 << 20), mtime=0), "bytes of shape"),
    ],
)
def test_an_idx_file_of_another_size_is_refused(grey, sources, page, need):
    sources["t10k-labels-idx1-ubyte.gz"] = page
    with pytest.raises(DataError, match=rf"t10k-labels-idx1-ubyte\.gz; need {need}"):
        load("mnist")
