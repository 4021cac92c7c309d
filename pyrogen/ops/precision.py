"""Products in fewer bits, where that was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch

Precision = Literal["float32", "tf32", "bfloat16"]


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """Inside, with "tf32", a GPU multiplies float32 matrices with 10 bits of mantissa; elsewhere nothing changes."""
    before = torch.get_float32_matmul_precision()
    convolutions = torch.backends.cudnn.allow_tf32
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        torch.backends.cudnn.allow_tf32 = convolutions


def networks_in(precision: str, device: str) -> AbstractContextManager[object]:
    """With "bfloat16", networks run under autocast; densities stay in the precision of the rows."""
    return torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext()
