"""Rows by split, with what a model and a plot need to know about them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from pyrogen.errors import DataError, ShapeError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Named splits of one data set.

        data["train"]   (N, D) float32

    Shape: every split is (N, D) with D = C H W; its labels, where there are some, are (N,) int64.

    Args:
        name: what `load` calls it.
        splits: rows by the name of their split.
        shape: (C, H, W), how a row is a picture.
        support: what an entry can be; see `pyrogen.ops.check_rows`.
        sha256: of the bytes of the source arrays, before splitting and scaling.
        labels: classes by the name of their split; empty if the data set has none.

    Raises:
        ShapeError: if a split is not (N, C H W), or its labels are not one per row.
    """

    name: str
    splits: dict[str, Tensor]
    shape: tuple[int, int, int]
    support: str
    sha256: str
    labels: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for split, x in self.splits.items():
            if x.ndim != 2 or x.shape[1] != self.width:
                raise ShapeError(
                    got=f"split {split!r} of shape {tuple(x.shape)}",
                    need=f"(N, {self.width}), rows of pictures of shape {self.shape}",
                    fix="x.flatten(1)",
                )
        for split, y in self.labels.items():
            if y.shape != self[split].shape[:1]:
                raise ShapeError(
                    got=f"labels of {split!r} of shape {tuple(y.shape)}",
                    need=f"one per row, ({len(self[split])},)",
                    fix="the labels of the same split",
                )

    @property
    def width(self) -> int:
        """D, the number of entries in a row."""
        return math.prod(self.shape)

    def __getitem__(self, split: str) -> Tensor:
        if split not in self.splits:
            there = ", ".join(self.splits)
            raise DataError(
                got=f"split {split!r} of data set {self.name!r}",
                need=f"one of {there}",
                fix=repr(next(iter(self.splits), None)),
            )
        return self.splits[split]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(x)}" for split, x in self.splits.items())
        return f"Dataset({self.name!r}: {sizes}; shape {self.shape}, {self.support})"
