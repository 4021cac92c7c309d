"""Where a file of data is, and how it gets there: whole or not at all."""

from __future__ import annotations

import errno
import http.client
import os
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pyrogen.data.npz import Published, read
from pyrogen.errors import DataError

VARIABLE = "PYROGEN_DATA"
_CHUNK = 1 << 16
_LIMIT = 1 << 28  # bytes; the largest source has 78 million
_SECONDS = 30  # without a byte


def find(
    published: Published, download: Callable[[Path], dict[str, np.ndarray]], root: str | Path | None
) -> dict[str, np.ndarray]:
    """The published arrays, from the first of these places that is given.

        root            root/name                 must exist
        PYROGEN_DATA    $PYROGEN_DATA/name        must exist
        neither         ~/.cache/pyrogen/name     downloaded if it is missing

    Args:
        download: makes the arrays from their public sources; its argument is the file that they are for.

    Raises:
        DataError: if the file is missing, cannot be made, or does not hold what was published.
    """
    chosen = root or os.environ.get(VARIABLE)
    if chosen:
        path = Path(chosen).expanduser() / published.name
        if not path.is_file():
            raise DataError(
                got=f"no file {path}, where {'root' if root else VARIABLE} points",
                need=f"a folder that holds {published.name}",
                fix=f"copying it there, or leaving out root and {VARIABLE} to download it to ~/.cache/pyrogen",
            )
        return read(path, published, remedy=f"another copy of it, or leaving out root and {VARIABLE} to download it")
    path = Path.home() / ".cache" / "pyrogen" / published.name
    if not path.is_file():
        with whole_file(path) as file:
            arrays = download(path)
            digest = published.digest(arrays)
            if digest != published.sha256:
                raise DataError(
                    got=f"a download for {path} with contents of sha256 {digest}",
                    need=published.sha256,
                    fix=_by_hand(path, "again, in case it was damaged on the way"),
                )
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
    return read(path, published, remedy="deleting it, so that it is downloaded again")


def download(url: str, path: Path) -> bytes:
    """What is at `url`, with a progress bar on stderr.

    Args:
        path: the file that it is for; messages name it.

    Raises:
        DataError: if there is no answer, an error, or fewer bytes than announced.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "pyrogen"})
    received = bytearray()
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as reply:
            announced = int(reply.headers.get("Content-Length") or 0)
            with _progress(url.rsplit("/", 1)[-1], announced) as advance:
                while chunk := reply.read(_CHUNK):
                    received += chunk
                    advance(len(chunk))
                    if len(received) > _LIMIT:
                        raise ValueError(f"more than {_LIMIT} bytes")
            if announced and len(received) != announced:
                raise ValueError(f"the connection ended after {len(received)} of {announced} bytes")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # an answer too, and it holds the connection
        raise DataError(
            got=f"no {path}, and downloading {url} failed: {error}",
            need="that download or the file",
            fix=_by_hand(path, "again"),
        ) from error
    return bytes(received)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that gets the name `path` when all is written, and vanishes when anything fails.

    Raises:
        DataError: if the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except DataError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise DataError(
            got=f"{path}, which cannot be written: {error.strerror or error}",
            need="free space there" if full else "a folder that can be written",
            fix=_by_hand(path, "again with space freed" if full else "again with the rights to write there"),
        ) from error
    finally:
        with suppress(OSError):  # never made, or renamed already
            temporary.unlink()


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    # imported here: rich draws from Python's random numbers when imported, and importing pyrogen must not
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=total or None)
        yield lambda n: progress.advance(task, n)


def _by_hand(path: Path, first: str) -> str:
    return f"{first}, or copying {path.name} from elsewhere into a folder that root or {VARIABLE} names"
