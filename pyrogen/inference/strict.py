"""Files from elsewhere, read with suspicion: JSON without ambiguity, safetensors whose header is checked first.

Nothing here runs code from a file, follows a link, or reads more than was declared.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from torch import Tensor

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "C64": 8, "BOOL": 1}
_BYTES |= {"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1}
_HEADER = 1 << 24  # bytes; a header of this size has a hundred thousand tensors


class DamagedError(ValueError):
    """A file is not what it was when it was written, or was never right; says in words what is wrong."""


def read_file(path: Path, most: int, size: int | None = None) -> bytes:
    """The content of a plain file of at most `most` bytes, and of exactly `size` if that is given.

    Raises:
        DamagedError: it is missing, a link, a pipe or a folder, or of another size.
    """
    # nofollow: a link could lead to a device; nonblock: a pipe would wait for a writer for ever
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise DamagedError(f"{path.name} is not a plain file")
            if about.st_size > most:
                raise DamagedError(f"{path.name} has {about.st_size:,} bytes, more than the {most:,} that it may have")
            if size is not None and about.st_size != size:
                raise DamagedError(f"{path.name} has {about.st_size:,} bytes instead of {size:,}")
            return file.read(about.st_size)
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error.strerror or error}") from error
    except MemoryError as error:
        raise DamagedError(f"{path.name} is larger than the memory of this machine") from error


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def read_json(content: bytes, name: str) -> dict[str, Any]:
    """A JSON object in which no key comes twice and every number is finite.

    Raises:
        DamagedError: it is something else.
    """
    try:
        found = json.loads(
            content.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{name} is not JSON as it should be: {error}") from error
    if not isinstance(found, dict):
        raise DamagedError(f"{name} is not a JSON object")
    return found


def read_tensors(content: bytes, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file whose header declares what the file holds, no more and no less.

    Raises:
        DamagedError: it is something else.
    """
    check_header(content, name)
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedError(f"{name} is no safetensors file: {error}") from error


def check_header(content: bytes, name: str) -> None:
    """The header of a safetensors file declares tensors of known dtypes that fill the file without a gap.

    Raises:
        DamagedError: it does not.
    """
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(len(content) - 8, _HEADER):
        raise DamagedError(f"{name} declares a header that is longer than it")
    places = []
    for tensor, entry in read_json(content[8 : 8 + length], f"the header of {name}").items():
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise DamagedError(f"{name} declares {tensor!r} without a dtype, a shape and a place")
        shape, place = entry["shape"], entry["data_offsets"]
        known = isinstance(entry["dtype"], str) and entry["dtype"] in _BYTES
        if not known or not _counts(shape) or not _counts(place) or len(place) != 2:
            raise DamagedError(f"{name} declares {tensor!r} with a dtype, a shape or a place that cannot be")
        if place[1] - place[0] != math.prod(shape) * _BYTES[entry["dtype"]]:
            raise DamagedError(
                f"{name} declares {tensor!r} of {place[1] - place[0]:,} bytes, which is not its shape's size"
            )
        places.append(place)
    end = 0
    for start, stop in sorted(places):
        if start != end:
            raise DamagedError(f"{name} has tensors with gaps between them or on each other")
        end = stop
    if end != len(content) - 8 - length:
        raise DamagedError(f"{name} declares {end:,} bytes of tensors and has {len(content) - 8 - length:,}")


def _counts(value: Any) -> bool:
    return isinstance(value, list) and len(value) < 64 and all(type(n) is int and 0 <= n < 2**62 for n in value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key comes twice")
    return found


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large")
    return value
