"""Denormal numbers are flushed inside, and only there."""

from __future__ import annotations

import os
import subprocess
import sys

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


STARTED_INSIDE = """
import torch
from pyrogen.ops import denormals_flushed
torch.set_num_threads(2)
with denormals_flushed():
    pass
tiny = torch.full((2**20,), 1e-40)
with denormals_flushed():
    print(int((tiny * 1.0).count_nonzero()))
print(int((tiny[:10] * 1.0).count_nonzero()))
"""


def test_threads_that_start_inside_flush_too():
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor cannot flush denormal numbers")
    done = subprocess.run([sys.executable, "-c", STARTED_INSIDE], capture_output=True, text=True, env=os.environ)
    assert done.stdout.split() == ["0", "10"], done.stderr
