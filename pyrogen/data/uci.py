"""Binary data sets of the UCI repository, in the splits on which NADE, MADE and their successors are compared.

Sources: Larochelle and Murray 2011 (dna, nips-0-12); Lowd and Davis 2010 (nltcs); the splits as text in
https://github.com/UCLA-StarAI/Density-Estimation-Datasets.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from pyrogen.data.dataset import Dataset
from pyrogen.data.fetch import download, find
from pyrogen.data.npz import Published
from pyrogen.errors import DataError

DNA = Published(
    name="uci/dna.npz",
    arrays={"train": (1600, 180), "valid": (400, 180), "test": (1186, 180)},
    sha256="a2b03c1b36a4044734815a5cffa5f140a3c6a2be96aa5aa4e1bfbfaaa670c1aa",
)
NIPS = Published(
    name="uci/nips.npz",
    arrays={"train": (400, 500), "valid": (100, 500), "test": (1240, 500)},
    sha256="21d5556732ab50d51830c7c6bae988d0f7ba42dd586ec9df38915c5b955f6f1f",
)
NLTCS = Published(
    name="uci/nltcs.npz",
    arrays={"train": (16181, 16), "valid": (2157, 16), "test": (3236, 16)},
    sha256="22a8a5af3744486e3f2f559b26ef5c67815292aa81a04f2000b325b2d45b5064",
)
URL = "https://raw.githubusercontent.com/UCLA-StarAI/Density-Estimation-Datasets/master/datasets/{name}/{name}.{split}.data"


def dna(root: str | Path | None = None) -> Dataset:
    """Splice junctions of DNA: 60 places of 3 bits each, 1600 / 400 / 1186 rows of 180.

    Args:
        root: the folder with `uci/dna.npz`; see `pyrogen.data.load`.

    Raises:
        DataError: if the file is missing, cannot be downloaded, or is damaged.
    """
    return _bits("dna", DNA, root)


def nips(root: str | Path | None = None) -> Dataset:
    """Which of 500 words a paper of the NIPS volumes 0 to 12 has: 400 / 100 / 1240 rows.

    Args:
        root: the folder with `uci/nips.npz`; see `pyrogen.data.load`.

    Raises:
        DataError: if the file is missing, cannot be downloaded, or is damaged.
    """
    return _bits("nips", NIPS, root)


def nltcs(root: str | Path | None = None) -> Dataset:
    """Sixteen disabilities in a survey of long-term care: 16181 / 2157 / 3236 rows; all 65536 states can be listed.

    Args:
        root: the folder with `uci/nltcs.npz`; see `pyrogen.data.load`.

    Raises:
        DataError: if the file is missing, cannot be downloaded, or is damaged.
    """
    return _bits("nltcs", NLTCS, root)


def _bits(name: str, published: Published, root: str | Path | None) -> Dataset:
    arrays = find(published, partial(_download, name, published), root)
    return Dataset(
        name=name,
        splits={split: torch.from_numpy(x).float() for split, x in arrays.items()},
        shape=(1, 1, published.arrays["train"][1]),
        support="binary",
        sha256=published.sha256,
    )


def _download(name: str, published: Published, path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    for split, shape in published.arrays.items():
        url = URL.format(name=name, split=split)
        arrays[split] = _from_commas(download(url, path), shape, url)
    return arrays


def _from_commas(text: bytes, shape: tuple[int, ...], url: str) -> np.ndarray:
    """Rows of 0 and 1 in text, with commas or blanks between them."""
    digits = np.frombuffer(text.translate(None, b", \t\r\n"), dtype=np.uint8) - ord("0")
    if digits.size != np.prod(shape) or digits.max(initial=0) > 1:
        raise DataError(
            got=f"something else from {url}",
            need=f"{shape[0]} lines of {shape[1]} digits 0 or 1",
            fix="again, in case a proxy answered; or copying the file from elsewhere, as root or PYROGEN_DATA",
        )
    return digits.reshape(shape)
