"""Holding entries: what a clamp keeps, and what bad ones are told."""

from __future__ import annotations

import math

import pytest
import torch

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Gaussian, ReLU, Spin, Stack
from pyrogen.errors import DeviceError, DtypeError, SettingsError, ShapeError, SupportError
from pyrogen.inference import BlockGibbs, ParallelTempering
from pyrogen.inference.kernels.clamp import read_clamp
from tests.machines import machine

YES, NO = True, False


def mask(*entries):
    return torch.tensor(entries)


def test_held_entries_stay_in_every_chain_and_the_others_move():
    m, held = machine(4, 2, scale=0.3), mask(YES, NO, NO, YES)
    value = torch.tensor([[1.0, math.nan, math.nan, 0.0], [0.0, math.nan, math.nan, 0.0], [1.0, 9.0, 9.0, 1.0]])
    for kernel in (
        BlockGibbs(m, clamp={"x": (held, value)}),
        ParallelTempering(m, rungs=3, clamp={"v": (held, value)}),
    ):
        state, seen = kernel.init(3), []
        for _ in range(30):
            state, _ = kernel.step(state)
            seen.append(state.v)
        v = torch.stack(seen)
        wanted = value[:, held].double()
        wanted = wanted if v.dim() == 3 else wanted[:, None].expand(3, 3, 2)
        assert torch.equal(v[..., held], wanted.expand(30, *wanted.shape))
        assert bool((v[..., ~held].std(0) > 0).all()) and bool(v.isfinite().all())


def test_a_mask_of_each_chain_holds_other_entries_in_each():
    m = machine(3, 2, scale=0.3)
    each, value = mask([YES, NO, NO], [NO, NO, YES]), torch.tensor([1.0, 0.0, 0.0])
    kernel = BlockGibbs(m, clamp={"v": (each, value)})
    state, ones = kernel.init(2), torch.zeros(2, 3)
    for _ in range(50):
        state, _ = kernel.step(state)
        ones += state.v
    assert ones[0, 0] == 50 and ones[1, 2] == 0 and 0 < ones[0, 2] < 50 and 0 < ones[1, 0] < 50
    assert kernel.settings()["clamped"] == {"v": 1}
    with pytest.raises(ShapeError, match="for 2 chains"):
        kernel.init(3)


def test_a_clamp_does_not_change_the_kernel_that_it_is_put_on():
    kernel = BlockGibbs(machine(3, 2))
    other = kernel.clamped({"v": (mask(YES, YES, YES), torch.ones(3))})
    assert kernel.clamp.visible is None and other.clamp.visible is not None


@pytest.mark.parametrize(
    ("units", "x", "bad"),
    [
        (Bernoulli(3), [0.0, 1.0, 0.5], [NO, NO, YES]),
        (Spin(3), [0.0, 1.0, -1.0], [YES, NO, NO]),
        (Categorical(2, 3), [0.0, 1.0, 0.0, 1.0, 1.0, 0.0], [NO, NO, NO, YES, YES, YES]),
        (Gaussian(3), [-3.5, math.inf, math.nan], [NO, YES, YES]),
        (ReLU(3), [-3.5, 0.0, 2.0], [YES, NO, NO]),
        (Stack([Bernoulli(1), Spin(1)]), [0.0, 0.0], [NO, YES]),
    ],
)
def test_each_kind_of_units_knows_its_values(units, x, bad):
    assert units.wrong(torch.tensor(x)).tolist() == bad


def category_in_part():
    return read_clamp(machine(Categorical(2, 3), 2), {"v": (mask(YES, YES, NO, NO, NO, NO), torch.zeros(6))})


def category_in_part_of_a_stack():
    m = machine(Stack([Bernoulli(1), Categorical(1, 2)]), 2)
    return read_clamp(m, {"v": (mask(YES, YES, NO), torch.ones(3))})


ON = mask(YES, YES, NO)


@pytest.mark.parametrize(
    ("clamp", "error", "words"),
    [
        ({"z": (ON, torch.ones(3))}, SettingsError, "'z'"),
        ({"v": (ON, torch.ones(3)), "x": (ON, torch.ones(3))}, SettingsError, "each once"),
        ({"v": torch.ones(3)}, SettingsError, r"\(mask, value\)"),
        ({"v": (ON,)}, SettingsError, "tuple"),
        ({"v": (ON.float(), torch.ones(3))}, DtypeError, r"mask.bool\(\)"),
        ({"v": (ON[:2], torch.ones(3))}, ShapeError, r"mask of shape \(2,\)"),
        ({"v": (ON, torch.ones(5, 1, 3))}, ShapeError, r"flatten\(1\)"),
        ({"h": (ON, torch.ones(3))}, ShapeError, r"\(2,\) or \(chains, 2\)"),
        ({"v": (ON.expand(4, 3), torch.ones(5, 3))}, ShapeError, "4 rows and a value of 5"),
        ({"v": (ON, torch.full((3,), 0.25))}, SupportError, "0.25 .*2 such"),
        ({"v": (ON, torch.tensor([1.0, math.nan, 1.0]))}, SupportError, "nan"),
        ({"v": (ON.to("meta"), torch.ones(3))}, DeviceError, "meta"),
    ],
)
def test_bad_clamps_are_said_in_words(clamp, error, words):
    with pytest.raises(error, match=words):
        read_clamp(machine(3, 2), clamp)


@pytest.mark.parametrize("call", [category_in_part, category_in_part_of_a_stack])
def test_a_category_is_held_as_a_whole(call):
    with pytest.raises(SettingsError, match="in part"):
        call()
