"""Weights in a file: safetensors, written whole or not at all, checked by sha256, and never code."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from pyrogen.errors import DataError, ModelError, OutputError


def save_weights(module: nn.Module, path: str | Path) -> str:
    """Write the parameters and buffers of a module; gives the sha256 of the file.

    A tensor that has several names, as tied weights do, is stored once, under the first of them.

    Raises:
        OutputError: the file cannot be written.
        ModelError: the module's state holds something that is not a tensor.
    """
    from safetensors.torch import save

    stored = {names[0]: tensor.detach().cpu().contiguous().clone() for names, tensor in _tensors(module)}
    content = save(stored, metadata={"format": "pt"})
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def load_weights(module: nn.Module, path: str | Path, *, sha256: str | None = None) -> None:
    """Copy the tensors of a file into a module of the same structure: all of them or none.

    Args:
        sha256: what `save_weights` gave; safetensors has no checksum of its own.

    Raises:
        DataError: the file is missing or damaged, or its tensors are not those of the module.
    """
    path = Path(path)
    stored = read_weights(path, sha256=sha256)
    groups = list(_tensors(module))
    by_name = {name: tensor for names, tensor in groups for name in names}
    missing = [names[0] for names, _ in groups if not any(name in stored for name in names)]
    unexpected = [name for name in stored if name not in by_name]
    if missing or unexpected:
        raise DataError(
            got=f"{path} without {_some(missing)} and with {_some(unexpected)} that the module does not have",
            need=f"the tensors of this {type(module).__name__}",
            fix="a module built with the settings that the file was saved with",
        )
    for name, tensor in stored.items():
        expected = by_name[name]
        if tensor.shape != expected.shape or tensor.dtype != expected.dtype:
            raise DataError(
                got=f"{path} whose {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}",
                need=f"{expected.dtype} of shape {tuple(expected.shape)}",
                fix="a module built with the settings that the file was saved with",
            )
    with torch.no_grad():
        for name, tensor in stored.items():
            by_name[name].copy_(tensor)
    derive(module)


def derive(module: nn.Module) -> None:
    """Let those modules inside that keep what follows from their buffers, and have a method `derive`, make it again."""
    for part in module.modules():
        if callable(again := getattr(part, "derive", None)):
            again()


def write_whole(path: str | Path, content: bytes) -> None:
    """Replace the file at `path` by `content`; after a crash or a full disk it is still the old one.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        # one name, so that what a killed process left is overwritten; "x", so that nothing else is
        temporary.unlink(missing_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # renamed already, or never made
            temporary.unlink()


def unwritable(path: Path, error: OSError) -> OutputError:
    """What to raise when writing failed; a full disk has a remedy of its own."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return OutputError(
        got=f"{path}, which cannot be written: {error.strerror or error}",
        need="free space there" if full else "a folder that can be written",
        fix="again with space freed" if full else "another folder",
    )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where folders can be opened at all."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):  # some network disks know no such thing
            raise
    finally:
        os.close(descriptor)


def _tensors(module: nn.Module) -> list[tuple[list[str], Tensor]]:
    """The distinct tensors of a module's state, each with all its names."""
    found: dict[object, tuple[list[str], Tensor]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ModelError(
                got=f"{name!r} of type {type(tensor).__name__} in the state of {type(module).__name__}",
                need="tensors only, since a file of weights holds nothing else",
                fix="a buffer, or an argument of the module",
            )
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else name
        found.setdefault(where, ([], tensor))[0].append(name)
    return list(found.values())


def read_weights(path: Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        DataError: it is missing, was changed, or is no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            got=f"{path}, which cannot be read: {error.strerror or error}",
            need="a file of weights",
            fix="the folder of a finished run",
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and digest != sha256:
        raise DataError(
            got=f"{path} with sha256 {digest}", need=sha256, fix="another copy of it, since this one was changed"
        )
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:
        raise DataError(
            got=f"{path}, which is no safetensors file: {error}", need="a whole file of weights", fix="another copy"
        ) from error


def _some(names: list[str]) -> str:
    """A few of the names, and how many there are."""
    if not names:
        return "nothing"
    shown = ", ".join(repr(name) for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more tensors"


__all__ = ["load_weights", "read_weights", "save_weights", "sync_folder", "unwritable", "write_whole"]
