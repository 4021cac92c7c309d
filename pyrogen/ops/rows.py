"""Which rows to look at when not all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def evenly(n_rows: int, n: int) -> Tensor:
    """At most n row numbers spread over 0..n_rows-1, ascending: files are often sorted by class.

    Shape: (min(n, n_rows),), int64.
    """
    n = min(n, n_rows)
    return torch.arange(n) * n_rows // max(n, 1)
