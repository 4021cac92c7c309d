"""Numbers too small to be worth their time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SHARE = 2**15
"""Entries of a sum that torch gives to a thread."""


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Inside, a float below the smallest normal one (1e-38 in float32) is zero, in this thread of the CPU.

    So it is in the threads that torch starts here, and from then on; those that it started before go on as they were.

    Processors take many times longer for such numbers, and training makes them: Adam's average of the
    gradients of a unit that has died shrinks by a tenth per step until it is one, and stays there.
    A processor that cannot flush them goes on as before.
    """
    before = _flushing()
    torch.set_flush_denormal(True)
    torch.zeros(_SHARE * torch.get_num_threads()).add_(1)  # the first that is large, if none was, starts the threads
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def _flushing() -> bool:
    return bool(torch.full((), 1e-38, dtype=torch.float32) * 0.01 == 0)
