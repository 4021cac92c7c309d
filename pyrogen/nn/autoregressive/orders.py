"""In which order an autoregressive network takes the variables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyrogen.errors import SettingsError, ShapeError


def check_orders(orders: Tensor, width: int) -> Tensor:
    """The orders as (M, D) int64.

    Raises:
        ShapeError: not (D,) or (M, D).
        SettingsError: one that is not a permutation of 0..D-1.
    """
    orders = torch.as_tensor(orders)
    orders = orders[None] if orders.dim() == 1 else orders
    if orders.dim() != 2 or orders.shape[1] != width or orders.shape[0] < 1:
        raise ShapeError(
            got=f"an order of shape {tuple(orders.shape)}",
            need=f"({width},), or (M, {width}) for several",
            fix=f"torch.randperm({width})",
        )
    wrong = (orders.sort(1).values != torch.arange(width, device=orders.device)).any(1)
    if orders.is_floating_point() or bool(wrong.any()):
        first = orders[int(wrong.byte().argmax())].tolist()
        shown = f"{first[:10]}..." if len(first) > 10 else f"{first}"
        raise SettingsError(
            got=f"an order that is not a permutation: {shown}",
            need=f"each of 0..{width - 1} once, as integers",
            fix=f"torch.arange({width}), or torch.randperm({width})",
        )
    return orders.long()


def make_orders(order: str | Tensor | Sequence[int], width: int, n: int = 1, seed: int = 0) -> Tensor:
    """n orders, (n, D): "natural" for 0, 1, ..., "random" for permutations drawn with the seed, or a given one.

    Raises:
        SettingsError: another word, or an order that is none.
    """
    check_count("the number of orders", n, 1)
    if isinstance(order, str):
        if order == "natural":
            return torch.arange(width).repeat(n, 1)
        if order == "random":
            source = torch.Generator().manual_seed(seed)
            return torch.stack([torch.randperm(width, generator=source) for _ in range(n)])
        need = "'natural', 'random', 'raster' in recipes of a MADE, or permutations such as raster_orders(shape)"
        raise SettingsError(got=f"order {order!r}", need=need, fix="'natural'")
    orders = check_orders(torch.as_tensor(order), width)
    if orders.shape[0] not in (1, n):
        raise SettingsError(got=f"{orders.shape[0]} orders for {n}", need="one, or as many", fix="a single order")
    return orders.repeat(n, 1) if orders.shape[0] == 1 else orders


def raster_orders(shape: Sequence[int], n: int = 8) -> Tensor:
    """The first n of the eight raster scans of a picture, (n, C H W): each starts in a corner, along rows or columns.

    They come in pairs, a scan and the same backwards: along the rows from the first pixel, along the columns from it,
    then both from the end of the first row. The channels of a pixel come one after the other.

    Shape: a row is a picture (C, H, W), flattened; variable d = (c H + i) W + j.

    Raises:
        ShapeError: a shape that is none.
        SettingsError: fewer than one scan, or more than eight.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise ShapeError(got=f"a picture of shape {tuple(shape)}", need="(C, H, W)", fix="(1, 28, 28)")
    check_count("the number of scans", n, 1)
    if n > 8:
        raise SettingsError(got=f"{n} raster scans", need="eight at most", fix="n_orders = 8")
    picture = torch.arange(shape[0] * shape[1] * shape[2]).reshape(*shape).movedim(0, -1)  # (H, W, C)
    scans = [p.flatten(0, 1) for q in (picture, picture.flip(1)) for p in (q, q.transpose(0, 1))]
    return torch.stack([way.flatten() for scan in scans for way in (scan, scan.flip(0))])[:n]


def check_count(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingsError(got=f"{name} = {value!r}", need=f"a whole number, {least} or more", fix=f"{max(least, 1)}")
