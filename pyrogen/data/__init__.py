"""Data sets by name: arrays in, tensors out, checked by sha256. Nothing is fetched at import."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path

from pyrogen.data import digits as _digits
from pyrogen.data import earth as _earth
from pyrogen.data import mnist as _mnist
from pyrogen.data import torus as _torus
from pyrogen.data import uci as _uci
from pyrogen.data import warped_mixture as _warped_mixture
from pyrogen.data.dataset import Dataset
from pyrogen.errors import DataError, SettingsError

__all__ = ["Dataset", "load", "names"]

_LOADERS: dict[str, Callable[..., Dataset]] = {
    "digits": _digits.digits,
    "mnist": _mnist.mnist,
    "binarized-mnist": _mnist.binarized_mnist,
    "dna": _uci.dna,
    "nips": _uci.nips,
    "nltcs": _uci.nltcs,
    "warped-mixture": _warped_mixture.warped_mixture,
    "earth": _earth.earth,
    "torus": _torus.torus,
}


def names() -> list[str]:
    """The data sets that `load` knows."""
    return list(_LOADERS)


def load(name: str, root: str | Path | None = None, **options: object) -> Dataset:
    """The data set of that name: rows by split, labels where it has them.

    Its file is looked for in the folder `root`; without one, in the folder that the variable PYROGEN_DATA names;
    without either, in ~/.cache/pyrogen, where it is downloaded if it is missing. `digits` is part of the package,
    and `warped-mixture` is made from a seed.

    Args:
        name: one of `names()`.
        root: the folder with the file.
        options: what the data set's own function takes, such as `binarize` for digits.

    Raises:
        DataError: if there is no such data set, or its file is missing, damaged or not what was published.
        SettingsError: if the data set has no such option.
    """
    if name not in _LOADERS:
        raise DataError(
            got=f"data set {name!r}", need=f"one of {', '.join(names())}", fix=repr(_nearest(name, names()))
        )
    loader = _LOADERS[name]
    known = list(inspect.signature(loader).parameters)
    if "root" in known:
        known.remove("root")
        options["root"] = root
    for option in options.keys() - {"root", *known}:
        raise SettingsError(
            got=f"option {option!r} of data set {name!r}",
            need=f"one of {', '.join(known)}" if known else "no options",
            fix=repr(_nearest(option, known)) if known else "without it",
        )
    return loader(**options)


def _nearest(word: str, known: list[str]) -> str:
    return difflib.get_close_matches(str(word).lower().replace("_", "-"), known, n=1, cutoff=0)[0]
