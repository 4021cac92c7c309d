"""28x28 handwritten digits: the static binarization that the literature compares on, and grey ones with classes.

Sources: LeCun, Bottou, Bengio and Haffner 1998 (MNIST); Salakhutdinov and Murray 2008 (the binarization), in the files
of Larochelle and Murray 2011, http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch

from pyrogen.data.dataset import Dataset
from pyrogen.data.fetch import download, find
from pyrogen.data.npz import Published
from pyrogen.errors import DataError

BINARIZED = Published(
    name="binarized_mnist.npz",
    arrays={"train": (50000, 784), "valid": (10000, 784), "test": (10000, 784)},
    sha256="07ad6da6ba6894a550cb68ae290ff3deb006a01f6b6ce1b3123edec502f1fce8",
)
GREY = Published(
    name="mnist_t10k.npz",
    arrays={"images": (10000, 28, 28), "labels": (10000,)},
    sha256="c3f9adf9c66efb572b1f9326c3a511b45910c7173b97be66ceceeeeaef6b802b",
)
BINARIZED_URL = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/binarized_mnist_{key}.amat"
GREY_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-{key}-idx{ndim}-ubyte.gz"


def binarized_mnist(root: str | Path | None = None) -> Dataset:
    """Static binarized MNIST: 50000 training, 10000 validation and 10000 test rows, each bit drawn once and for all.

    Args:
        root: the folder with `binarized_mnist.npz`; see `pyrogen.data.load`.

    Raises:
        DataError: if the file is missing, cannot be downloaded, or is damaged.
    """
    arrays = find(BINARIZED, _download_binarized, root)
    return Dataset(
        name="binarized-mnist",
        splits={split: torch.from_numpy(x).float() for split, x in arrays.items()},
        shape=(1, 28, 28),
        support="binary",
        sha256=BINARIZED.sha256,
    )


def mnist(root: str | Path | None = None) -> Dataset:
    """Grey MNIST with classes 0 to 9: x = k/255, k in 0..255, the 10000 digits of the published *test* set.

    They are permuted by `numpy.random.default_rng(0)`, then split into `train` (8000), `valid` (1000) and `test`
    (1000): in the order of the file the second half was written by other people, and is harder. For latent spaces and
    grey pixels; likelihoods are not comparable with those published for models of the 60000 training digits.

    Args:
        root: the folder with `mnist_t10k.npz`; see `pyrogen.data.load`.

    Raises:
        DataError: if the file is missing, cannot be downloaded, or is damaged.
    """
    arrays = find(GREY, _download_grey, root)
    order = np.random.default_rng(0).permutation(10000)
    x = torch.from_numpy(arrays["images"].reshape(10000, 784)[order]).float() / 255
    y = torch.from_numpy(arrays["labels"][order]).long()
    rows = {"train": slice(0, 8000), "valid": slice(8000, 9000), "test": slice(9000, 10000)}
    return Dataset(
        name="mnist",
        splits={split: x[part] for split, part in rows.items()},
        labels={split: y[part] for split, part in rows.items()},
        shape=(1, 28, 28),
        support="grey256",
        sha256=GREY.sha256,
    )


def _download_binarized(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for key, shape in BINARIZED.arrays.items():
        url = BINARIZED_URL.format(key=key)
        arrays[key] = _from_amat(download(url, path), shape, url)
    return arrays


def _download_grey(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for key, shape in GREY.arrays.items():
        url = GREY_URL.format(key=key, ndim=len(shape))
        arrays[key] = _from_idx(download(url, path), shape, url)
    return arrays


def _from_amat(text: bytes, shape: tuple[int, ...], url: str) -> np.ndarray:
    """Rows of 0 and 1 in text, with blanks between them."""
    digits = np.frombuffer(text.translate(None, b" \t\r\n"), dtype=np.uint8) - ord("0")
    if digits.size != np.prod(shape) or digits.max(initial=0) > 1:
        raise _unexpected(url, f"{shape[0]} lines of {shape[1]} digits 0 or 1")
    return digits.reshape(shape)


def _from_idx(packed: bytes, shape: tuple[int, ...], url: str) -> np.ndarray:
    """Unsigned bytes in gzip: a magic number with the count of dimensions, the dimensions, the bytes."""
    header = b"".join(n.to_bytes(4, "big") for n in (0x800 + len(shape), *shape))
    size = len(header) + int(np.prod(shape))
    try:
        # at most one byte more than needed, whatever the archive would grow to
        content = zlib.decompressobj(wbits=31).decompress(packed, size + 1)
    except zlib.error as error:
        raise _unexpected(url, "a gzip archive") from error
    if len(content) != size or not content.startswith(header):
        raise _unexpected(url, f"bytes of shape {shape} in the idx format")
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(shape)


def _unexpected(url: str, need: str) -> DataError:
    return DataError(
        got=f"something else from {url}",
        need=need,
        fix="again, in case a proxy answered; or copying the file from elsewhere, as root or PYROGEN_DATA",
    )
