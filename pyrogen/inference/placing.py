"""Where the rows of a training are: on its device, or on the host when they are too many for that."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROOM = 0.5  # of the free memory, what rows may take; the rest is for networks, their gradients and moments


class Rows:
    """Rows that give batches on a device.

    Args:
        rows: (N, ...); may be mapped from a file.
        device: where batches go.
        resident: all rows are on the device, or else each batch is moved there when its turn comes, through pinned
            memory, so that the host can gather the next one meanwhile.
    """

    def __init__(self, rows: Tensor, device: torch.device, resident: bool = True) -> None:
        self.rows, self.device, self.resident = rows.to(device) if resident else rows, device, resident

    @property
    def shape(self) -> torch.Size:
        return self.rows.shape

    @property
    def home(self) -> torch.device:
        """Where the rows are, and row numbers should be."""
        return self.rows.device

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        # on a CPU index_select takes a third of the time of indexing
        picked = self.rows[which] if isinstance(which, slice) else self.rows.index_select(0, which)
        if self.resident:
            return picked
        if self.device.type == "cuda" and self.home.type == "cpu":
            picked = picked.pin_memory()
        return picked.to(self.device, non_blocking=True)

    def split(self, size: int) -> Iterator[Tensor]:
        """The rows in order, `size` at a time."""
        return (self[start : start + size] for start in range(0, len(self), size))


def fits(needed: int, free: int) -> bool:
    """Whether rows of so many bytes may all be on a device with so many free ones."""
    return needed <= ROOM * free


def place(rows: Tensor, validation: Tensor | None, device: torch.device) -> tuple[Rows, Rows | None]:
    """Both on the device if there is room for both; else on the host, where they stay."""
    both = [rows] if validation is None else [rows, validation]
    needed = sum(t.numel() * t.element_size() for t in both if t.device != device)
    resident = device.type != "cuda" or fits(needed, torch.cuda.mem_get_info(device)[0])
    placed = [Rows(t, device, resident or t.device == device) for t in both]
    return placed[0], placed[1] if validation is not None else None
