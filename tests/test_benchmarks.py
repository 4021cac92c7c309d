"""The benchmarks run: ours and the hand-written contestants, at a size that takes no time, do the same work."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark_of(monkeypatch):
    """The module of a benchmark with other sizes."""

    def load(name, **sizes):
        monkeypatch.syspath_prepend(str(FOLDER))
        module = importlib.import_module(name)
        for size, value in sizes.items():
            monkeypatch.setattr(module, size, value)
        return module

    before = set(sys.modules)
    yield load
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]  # so that no other test finds these by their bare names


def test_contestants_of_svi_take_the_same_bound(benchmark_of):
    svi = benchmark_of("svi", WIDTH=20, LATENT=2, ROWS=64)
    x = svi.synthetic(torch)
    epochs = {"ours": svi.ours(x, 8, 16, "eager")[0], "hand": svi.hand_written(x, 8, 16)[0]}
    epochs["pyro"] = svi.pyro_svi(x, 8, 16)[0]
    bounds = {name: epoch() for name, epoch in epochs.items()}
    # an untrained network says about log 2 a pixel, and codes cost a nat or so
    assert all(abs(bound + 20 * math.log(2)) < 4 for bound in bounds.values()), bounds


@pytest.mark.parametrize("task", ["cd-1", "pcd-1", "pcd-10"])
def test_contestants_of_boltzmann_take_the_same_steps(task, benchmark_of):
    boltzmann = benchmark_of("boltzmann", ROWS=200, WIDTH=30, HIDDEN=10, BATCH=50)
    given = boltzmann.training_task(*boltzmann.TASKS[task])
    runs = boltzmann.our_epochs(given) | {"hand": boltzmann.TRAINERS["hand_written"](given)}
    weights = {name: runs[name]() for name in ("ours", "hand")}
    runs["ours-scored"]()
    runs["ours-default"]()
    boltzmann.products_alone(given)()
    for one, other in zip(weights["ours"][:2], weights["hand"][:2], strict=True):
        # one epoch at a rate of 0.05: the moves are alike up to the noise of 50 chains
        assert (one - other).abs().max() < 0.05
    assert (weights["ours"][1]).abs().mean() > 0.02


def test_contestants_of_annealing_come_to_the_same_log_z(benchmark_of):
    boltzmann = benchmark_of("boltzmann", WIDTH=30, HIDDEN=10, CHAINS=50, TEMPERATURES=20)
    given = boltzmann.annealing_task()
    boltzmann.products_alone(given)()
    assert boltzmann.our_log_z(given)() == pytest.approx(boltzmann.ANNEALERS["hand_written"](given)(), abs=0.2)


def test_contestants_of_autoregressive_models_step_and_draw(benchmark_of):
    autoregressive = benchmark_of("autoregressive", WIDTH=16, ROWS=4, BATCH=4, STEPS=1)
    from pyrogen.models import MADE, NADE

    x = (torch.rand(4, 16, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    for model in (MADE(16, (8,)), NADE(16, 8)):
        naive, cached = autoregressive.sampling(model, 16)
        naive()
        assert cached().shape == (4, 16)
        autoregressive.our_steps(model, x, "eager")()
    autoregressive.made_by_hand(x, (8,))()
    autoregressive.nade_by_hand(x, 8)()


def test_ratios_are_taken_within_rounds(benchmark_of):
    paired, clock = benchmark_of("paired"), iter(range(10**6))
    costs = {"ours": 1, "theirs": 4}

    def run(name):
        return lambda: [next(clock) for _ in range(costs[name])]

    taken = paired.in_turns({name: run(name) for name in costs}, rounds=3, clock=lambda: next(clock))
    assert taken["ours"]["ratio"] == 1 and taken["theirs"]["ratio"] == pytest.approx(2 / 5)
