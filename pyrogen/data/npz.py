"""Arrays from an .npz file that somebody else may have written: nothing is unpickled, nothing is believed."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pyrogen.errors import DataError

_DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, NotImplementedError, RuntimeError, OSError)


@dataclass(frozen=True)
class Published:
    """What a file of data has to hold, whoever packed it and however.

    Args:
        name: of the file.
        arrays: the shape of each array; its entries are bytes, whatever integer type stores them.
        sha256: of the bytes of all arrays, in the order given, each as uint8 in C order.
    """

    name: str
    arrays: dict[str, tuple[int, ...]]
    sha256: str

    def digest(self, arrays: dict[str, np.ndarray]) -> str:
        """sha256 of uint8 arrays, to be compared with the published one."""
        digest = hashlib.sha256()
        for key in self.arrays:
            digest.update(np.ascontiguousarray(arrays[key]).data)
        return digest.hexdigest()


def read(path: Path, published: Published, remedy: str = "installing pyrogen again") -> dict[str, np.ndarray]:
    """The arrays of the file at `path`, uint8 in C order, once they are known to be the published ones.

    Args:
        remedy: what to try when they are not.

    Raises:
        DataError: if the file is not an .npz, lacks an array, holds one of another shape or type, or other contents.
    """
    try:
        _check_headers(path, published, remedy)
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: np.ascontiguousarray(file[key], dtype=np.uint8) for key in published.arrays}
    except DataError:
        raise
    except _DAMAGED as error:
        raise DataError(got=f"{path}, which cannot be read: {error}", need="a whole .npz file", fix=remedy) from error
    digest = published.digest(arrays)
    if digest != published.sha256:
        raise DataError(got=f"{path} with contents of sha256 {digest}", need=f"{published.sha256}", fix=remedy)
    return arrays


def _check_headers(path: Path, published: Published, remedy: str) -> None:
    """Compares type and shape before any memory is reserved for what the header claims."""
    with zipfile.ZipFile(path) as members:
        there = {name.removesuffix(".npy") for name in members.namelist()}
        for key, shape in published.arrays.items():
            if key not in there:
                raise DataError(
                    got=f"{path} without {key!r}, holding {', '.join(sorted(there)) or 'nothing'}",
                    need=f"the arrays {', '.join(published.arrays)}",
                    fix=remedy,
                )
            with members.open(f"{key}.npy") as member:
                found, dtype = _header(member)
            if found != shape or dtype.kind not in "biu":
                raise DataError(
                    got=f"{path} whose {key!r} is {dtype} of shape {found}",
                    need=f"integers of shape {shape}",
                    fix=remedy,
                )


def _header(member) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(member)
    return shape, dtype
