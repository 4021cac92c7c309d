"""Denormal numbers are flushed inside, and only there."""

from __future__ import annotations

import pytest
import torch

from pyrogen.ops import denormals_flushed


def tiny() -> bool:
    return bool(torch.full((), 1e-38) * 0.01 == 0)


def test_what_was_set_before_is_set_again():
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush denormal numbers")
    for before in (False, True):
        torch.set_flush_denormal(before)
        with pytest.raises(KeyError), denormals_flushed():
            assert tiny()
            raise KeyError
        assert tiny() == before
    torch.set_flush_denormal(False)
