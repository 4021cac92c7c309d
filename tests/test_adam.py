"""The short way to the fused kernel."""

from __future__ import annotations

import copy

import pytest
import torch

from pyrogen.inference.adam import FusedAdam


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_torchs_fused_adam_to_the_bit(dtype):
    source = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, dtype=dtype, generator=source) for shape in ((3, 4), (5,), ())]
    ours, theirs = ([t.clone().requires_grad_() for t in start] for _ in range(2))
    short, long = FusedAdam(ours, 0.1), torch.optim.Adam(theirs, 0.1, fused=True)
    schedules = [torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step) for o in (short, long)]
    for step in range(12):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            # a parameter without a gradient for a while, and at first
            gradient = None if i == 1 and step in (0, 1, 7) else torch.randn(a.shape, dtype=dtype, generator=source)
            a.grad, b.grad = gradient, None if gradient is None else gradient.clone()
        for optimizer, schedule in zip((short, long), schedules, strict=True):
            optimizer.step()
            schedule.step()
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        if step == 5:
            short.load_state_dict(copy.deepcopy(long.state_dict()))
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(short.state[a][key], long.state[b][key]) for key in ("step", "exp_avg", "exp_avg_sq"))


def test_two_dtypes_and_two_groups_take_the_long_way():
    mixed = [torch.ones(2, requires_grad=True), torch.ones(2, dtype=torch.float64, requires_grad=True)]
    adam = FusedAdam(mixed, 0.1)
    adam.add_param_group({"params": [torch.ones(2, requires_grad=True)]})
    for _ in range(3):
        for group in adam.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        adam.step()
    for group in adam.param_groups:
        for p in group["params"]:
            torch.testing.assert_close(p.detach(), torch.full_like(p, 0.7))


def test_found_inf_holds_everything_as_in_torch():
    start = torch.randn(5, generator=torch.Generator().manual_seed(0))
    found = torch.zeros(())
    ours, theirs = (start.clone().requires_grad_() for _ in range(2))
    short, long = FusedAdam([ours], 0.1), torch.optim.Adam([theirs], 0.1, fused=True)
    short.found_inf = long.found_inf = found
    for wrong in (0.0, 0.0, 1.0, 0.0):
        found.fill_(wrong)
        before = ours.detach().clone()
        ours.grad, theirs.grad = (torch.full_like(start, float("nan") if wrong else 0.3) for _ in range(2))
        short.step()
        long.step()
        assert torch.equal(ours, theirs) and torch.equal(ours, before) == bool(wrong)
    for key in ("step", "exp_avg", "exp_avg_sq"):
        assert torch.equal(short.state[ours][key], long.state[theirs][key])
    assert short.state[ours]["step"] == 3


def test_hooks_run_once_a_step_whatever_was_made_before():
    torch.optim.Adam([torch.zeros(1)])  # from here on, torch's own step runs hooks by itself
    weight = torch.ones(2, requires_grad=True)
    adam, steps = FusedAdam([weight], 0.1), []
    adam.register_step_post_hook(lambda *_: steps.append("after"))
    adam.register_step_pre_hook(lambda *_: steps.append("before"))
    for _ in range(3):
        weight.grad = torch.ones(2)
        adam.step()
    assert steps == ["before", "after"] * 3
