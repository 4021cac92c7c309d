"""The buffers of draws."""

from __future__ import annotations

import pytest
import torch

from pyrogen.errors import SettingsError
from pyrogen.inference.store import Store


def test_draws_are_kept_in_the_dtype_asked_for_and_side_by_side():
    store = Store(2, dtypes={"v": torch.bool})
    for draw in range(2):
        store.put(draw, {"v": torch.tensor([[0.0, 1.0], [1.0, draw]]), "e": torch.tensor([1.5, draw])})
    assert store.buffers["v"].dtype == torch.bool and store.buffers["v"].shape == (2, 2, 2)
    assert store.buffers["v"][1].tolist() == [[True, False], [True, True]]
    assert store.buffers["e"].tolist() == [[1.5, 1.5], [0.0, 1.0]]


def test_what_is_counted_is_summed_over_the_draws_left_out():
    store = Store(2, summed=["trips"])
    for draw in range(2):
        for n in (1.0, 2.0):
            store.skip({"trips": torch.tensor([n]), "energy": torch.tensor([9.0])})
        store.put(draw, {"trips": torch.tensor([4.0 + draw]), "energy": torch.tensor([3.0])})
    assert store.buffers["trips"].tolist() == [[7.0, 8.0]] and store.buffers["energy"].tolist() == [[3.0, 3.0]]


def test_more_than_the_memory_holds_is_refused_with_its_size(monkeypatch):
    def full(*args, **kwargs):
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(SettingsError, match=r"0\.8 GB of draws of 'v'.*thinning"):
        Store(10**6, dtypes={"v": torch.bool}).put(0, {"v": torch.zeros(8, 100)})
