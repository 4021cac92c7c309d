"""Checks of what comes in: once per data set, in words, and also under `python -O`."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from pyrogen.errors import DeviceError, DtypeError, SettingsError, ShapeError, SupportError

_NEED = {
    "binary": "every entry 0 or 1",
    "spin": "every entry -1 or 1",
    "unit": "every entry in [0, 1]",
    "nonnegative": "every entry 0 or more",
    "real": "finite entries",
    "torus": "every entry in [-pi, pi)",
    "sphere": "every row a unit vector",
}
_CHUNK = 2**21
"""Entries that are checked at a time."""


def check_rows(x: Tensor, *, width: int, support: str, name: str = "x") -> None:
    """Raises unless x is rows that a model over `width` variables can score.

        binary    x_d in {0, 1}
        spin      x_d in {-1, 1}
        unit      x_d in [0, 1]
        grey256   x_d in {0, 1/255, ..., 1}, up to the rounding of float32; any number of levels above 1
        one-hot-3 side by side, groups of three entries of which one is 1 and the others are 0; or of more than three
        nonnegative  x_d >= 0
        real      x_d finite
        torus     x_d in [-pi, pi), angles in radians
        sphere    |x| = 1, up to the rounding of the dtype

    Shape: x is (N, width) with N >= 1, float32 or float64.

    Args:
        name: what the caller calls x; the message says it.

    Raises:
        DtypeError: if x is not a tensor, or neither float32 nor float64.
        ShapeError: if x is not (N, width), or has no rows.
        SupportError: if an entry is NaN, infinite or outside the support; says how many, and where the first one is.
        SettingsError: if the support is none of these.
    """
    levels, group = levels_of(support), group_of(support)
    if support not in _NEED and levels is None and group is None:
        raise SettingsError(got=f"support {support!r}", need=f"one of {(*_NEED, 'grey256', 'one-hot-3')}", fix="'real'")
    _check_dtype(x, name)
    _check_shape(x, width, name)
    try:
        # in parts, so that little is computed beside rows that are mapped from a file
        for part in x.split(max(_CHUNK // width, 1)):
            _check_entries(part, support, levels, group, name)
    except SupportError:
        _check_entries(x, support, levels, group, name)  # says how many of all
        raise


def _check_entries(x: Tensor, support: str, levels: int | None, group: int | None, name: str) -> None:
    _refuse(
        ~x.isfinite(),
        x,
        need=f"finite entries in {name}",
        fix="x[x.isfinite().all(-1)], or filling the gaps",
        name=name,
    )
    if group is not None:
        _check_one_hot(x, group, name)
    elif support == "sphere":
        _check_lengths(x, name)
    elif support != "real":
        need = _NEED[support] if levels is None else f"every entry k/{levels - 1} with k in 0..{levels - 1}"
        outside = _outside(x, support, levels)
        _refuse(outside, x, need=f"{need} in {name}", fix=_rescaling(x, support, levels, name), name=name)


def levels_of(support: str) -> int | None:
    """256 for "grey256": how many values a grey entry can have; None for other supports."""
    found = re.fullmatch(r"grey(\d+)", support)
    return int(found[1]) if found and int(found[1]) > 1 else None


def group_of(support: str) -> int | None:
    """3 for "one-hot-3": how many entries a one-hot group has; None for other supports."""
    found = re.fullmatch(r"one-hot-(\d+)", support)
    return int(found[1]) if found and int(found[1]) > 1 else None


def resolve_device(device: str | torch.device) -> torch.device:
    """The device meant, with its index, where "auto" is the GPU if there is one and else the CPU.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", or a torch.device.

    Raises:
        DeviceError: if it is not there, or not a device.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "auto":
        device = "cuda" if there else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(got=f"device {device!r}", need="'auto', 'cpu', 'cuda' or 'cuda:1'", fix="'auto'") from error
    if found.type == "cpu":
        return torch.device("cpu")
    if found.type != "cuda":
        raise DeviceError(got=f"device {str(found)!r}", need="'auto', 'cpu', 'cuda' or 'cuda:1'", fix="'auto'")
    if not there:
        raise DeviceError(
            got=f"device {str(found)!r}",
            need="a CUDA device that torch can use, and here is none",
            fix="'cpu' or 'auto', or a torch built for CUDA",
        )
    index = torch.cuda.current_device() if found.index is None else found.index
    if index >= there:
        raise DeviceError(
            got=f"device {str(found)!r}", need=f"an index below {there}, the CUDA devices here", fix="'cuda:0'"
        )
    return torch.device("cuda", index)


def _check_dtype(x: Tensor, name: str) -> None:
    if not isinstance(x, Tensor):
        raise DtypeError(
            got=f"{name} of type {type(x).__name__}",
            need="a torch.Tensor",
            fix=f"torch.as_tensor({name}, dtype=torch.float32)",
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise DtypeError(got=f"{name} of dtype {x.dtype}", need="torch.float32 or torch.float64", fix=f"{name}.float()")


def _check_shape(x: Tensor, width: int, name: str) -> None:
    got = f"{name} of shape {tuple(x.shape)}"
    need = f"(N, {width}) with N >= 1"
    if x.ndim >= 1 and x.shape[0] == 0:
        raise ShapeError(got=f"{got}, without rows", need=need, fix="another split, or a wider selection")
    if x.ndim == 1 and x.shape[0] == width:
        raise ShapeError(got=got, need=need, fix=f"{name}.unsqueeze(0) for a single row")
    if x.ndim > 2 and x[0].numel() == width:
        raise ShapeError(got=got, need=need, fix=f"{name}.flatten(1)")
    if x.ndim != 2 or x.shape[1] != width:
        raise ShapeError(got=got, need=need, fix=f"a model of this width, or rows of {width} entries")


def _check_lengths(x: Tensor, name: str) -> None:
    length = torch.linalg.norm(x, dim=-1)
    # as Pyro's constraint of the sphere: ten roundings of the dtype, and more for longer vectors
    off = (length - 1).abs() >= 10 * torch.finfo(x.dtype).eps * x.shape[-1] ** 0.5
    if off.any():
        row = int(off.byte().argmax())
        raise SupportError(
            got=f"length {length[row].item():.6g} of row {row} of {name} ({int(off.sum())} such of {len(x)} rows)",
            need=f"{_NEED['sphere']} in {name}",
            fix=f"torch.nn.functional.normalize({name}, dim=-1), or pyrogen.ops.angles.unit_vectors for degrees",
        )


def _outside(x: Tensor, support: str, levels: int | None) -> Tensor:
    if support == "binary":
        return (x != 0) & (x != 1)
    if support == "spin":
        return x.abs() != 1
    if support == "nonnegative":
        return x < 0
    if support == "torus":
        return (x < -math.pi) | (x >= math.pi)
    outside = (x < 0) | (x > 1)
    if levels is not None:
        k = x * (levels - 1)
        # 255 * float32(k / 255) is within 2e-5 of k; 1e-3 leaves room for values that were scaled another way
        outside |= (k - k.round()).abs() > 1e-3
    return outside


def _rescaling(x: Tensor, support: str, levels: int | None, name: str) -> str:
    if support == "torus":
        return f"pyrogen.ops.angles.wrap({name}), of radians"
    low, high = x.min(), x.max()
    if support == "spin":
        return f"2 * {name} - 1" if bool(((x == 0) | (x == 1)).all()) else f"{name}.sign(), or a model of real values"
    if support == "nonnegative":
        return f"{name}.clamp(min=0), or a model of real values"
    if low >= 0 and 1 < high <= 255:
        return f"dividing {name} by the largest possible value, such as {(levels or 256) - 1}"
    if low < 0 or high > 1:
        return f"{name}.clamp(0, 1), or a model of real values"
    if support == "binary":
        return f"({name} > 0.5).float(), or a model of grey values"
    if levels is None:
        return f"{name}.clamp(0, 1)"
    return f"({name} * {levels - 1}).round() / {levels - 1}"


def _check_one_hot(x: Tensor, group: int, name: str) -> None:
    if x.shape[1] % group:
        raise ShapeError(
            got=f"{name} of {x.shape[1]} columns", need=f"whole groups of {group}", fix="one group for each variable"
        )
    codes = f"torch.nn.functional.one_hot({name}.long(), {group}).flatten(1).float() of codes 0..{group - 1}"
    _refuse((x != 0) & (x != 1), x, need=f"every entry 0 or 1 in {name}", fix=codes, name=name)
    several = x.unflatten(1, (-1, group)).sum(-1) != 1
    bad = torch.zeros_like(x, dtype=torch.bool)
    bad[:, ::group] = several
    need = f"one entry of 1 in each group of {group} columns of {name}, the group that starts there too"
    _refuse(bad, x, need=need, fix=codes, name=name)


def _refuse(bad: Tensor, x: Tensor, *, need: str, fix: str, name: str) -> None:
    if not bad.any():
        return
    # argmax: the first of the largest, without the index list that nonzero() makes
    row, column = divmod(int(bad.flatten().byte().argmax()), x.shape[1])
    first = f"{x[row, column].item():.6g} at row {row}, column {column} of {name}"
    raise SupportError(got=f"{first} ({int(bad.sum())} such of {x.numel()} entries)", need=need, fix=fix)
