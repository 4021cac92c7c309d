"""The 8x8 handwritten digits that ship with the package.

The 1797 pictures of the test set of the Optical Recognition of Handwritten Digits data, each entry the number of ink
pixels, 0 to 16, in a 4x4 block of the scan.

Source: Alpaydin and Kaynak 1998, UCI Machine Learning Repository, doi:10.24432/C50P49, licence CC BY 4.0.
`digits.npz` was made from scikit-learn's copy of it, `load_digits()`: its `data` as uint8 pictures `images`
(1797, 8, 8) and its `target` as uint8 `labels` (1797,), in the order of the file, with `numpy.savez_compressed`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pyrogen.data.dataset import Dataset
from pyrogen.data.npz import Published, read
from pyrogen.errors import SettingsError

FILE = Published(
    name="digits.npz",
    arrays={"images": (1797, 8, 8), "labels": (1797,)},
    sha256="87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826",
)


def digits(binarize: bool = True) -> Dataset:
    """8x8 digits with classes 0 to 9: 1200 training, 200 validation and 397 test rows.

        binarize        x_d = 1 if k_d > 7.5, else 0        support binary
        not binarize    x_d = k_d / 16                      support grey17

    The rows are permuted by `numpy.random.default_rng(0)`; published comparisons train on the first 1400, which here
    are `train` (1200) and `valid` (200), and test on the remaining 397.

    Args:
        binarize: bits, or grey values.

    Raises:
        SettingsError: if binarize is neither True nor False.
        DataError: if the installed file is damaged.
    """
    if not isinstance(binarize, bool):
        raise SettingsError(got=f"binarize={binarize!r}", need="True or False", fix="binarize=True")
    arrays = read(Path(__file__).with_name(FILE.name), FILE)
    order = np.random.default_rng(0).permutation(1797)
    ink = torch.from_numpy(arrays["images"].reshape(1797, 64)[order])
    y = torch.from_numpy(arrays["labels"][order]).long()
    x = (ink > 7.5).float() if binarize else ink / 16
    rows = {"train": slice(0, 1200), "valid": slice(1200, 1400), "test": slice(1400, 1797)}
    return Dataset(
        name="digits",
        splits={split: x[part] for split, part in rows.items()},
        labels={split: y[part] for split, part in rows.items()},
        shape=(1, 8, 8),
        support="binary" if binarize else "grey17",
        sha256=FILE.sha256,
    )
