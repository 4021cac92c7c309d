"""log Z by annealing and its reverse: errors that are calibrated, and a bracket that holds."""

from __future__ import annotations

import math

import pytest
import torch

from pyrogen.distributions.boltzmann import Bernoulli, Gaussian, Machine, base_log_z, linear
from pyrogen.errors import ModelError, NonFiniteError, SettingsError
from pyrogen.evaluate import LogZ, bracket, log_z
from pyrogen.evaluate.partition import mean_weight
from tests.oracles import bits
from tests.statistics import assert_mean, assert_standard_deviation
from tests.test_annealing import log_z as listed
from tests.test_annealing import tiny


def trap() -> tuple[Machine, torch.Tensor]:
    """One mode at all ones with nine tenths of the mass, the other at all zeros, where the base sits."""
    n = 30
    one = torch.ones(n, dtype=torch.float64)
    machine = Machine(Bernoulli(n), Bernoulli(1), 12 * one[:, None], -6 * one, torch.tensor([-6.0 * n + 2.2]).double())
    return machine, -3 * one


def test_the_error_of_annealing_is_calibrated():
    """300 runs of 100 chains: the z-scores have mean 0, up to the bias of order 1/M, and standard deviation 1."""
    machine, base = tiny(Bernoulli(5), Bernoulli(4), 1.0), torch.zeros(5, dtype=torch.float64)
    truth = listed(machine)
    runs = [log_z(machine, base=base, schedule=linear(50), seed=seed) for seed in range(300)]
    z = torch.tensor([(run.value - truth) / run.stderr for run in runs])
    assert_mean(z, 0.0, exact_to=0.1)
    assert_standard_deviation(z, 1.0, relative=0.05)
    inside = sum(run.interval[0] <= truth <= run.interval[1] for run in runs if run.interval)
    assert inside >= 290  # three standard errors: 0.8 expected outside; 11 or more once in 1e8


def test_the_error_of_the_reverse_is_calibrated():
    machine, base = tiny(Bernoulli(5), Bernoulli(4), 1.0), torch.zeros(5, dtype=torch.float64)
    truth = listed(machine)
    runs = [log_z(machine, "reverse", base=base, schedule=linear(50), seed=seed) for seed in range(300)]
    z = torch.tensor([(run.value - truth) / run.stderr for run in runs])
    assert_mean(z, 0.0, exact_to=0.1)
    assert_standard_deviation(z, 1.0, relative=0.05)
    assert {run.kind for run in runs} == {"upper bound"}


def test_annealing_is_below_and_its_reverse_above_in_expectation():
    """Few chains and three temperatures, where the bias is large; the mean of inverted weights is much further off."""
    machine, base = tiny(Bernoulli(5), Bernoulli(4), 1.3), torch.zeros(5, dtype=torch.float64)
    truth, settings = listed(machine), {"base": base, "schedule": [0.0, 0.4, 1.0], "chains": 2}
    pairs = [bracket(machine, seed=seed, **settings) for seed in range(400)]
    below, above = (torch.tensor([getattr(p, side).value for p in pairs]) for side in ("below", "above"))
    for side in (truth - below, above - truth):
        assert float(side.mean()) > 4.8 * float(side.std()) / math.sqrt(400)
    many = log_z(machine, "reverse", **{**settings, "chains": 20_000})
    assert many.log_weights is not None
    inverted = mean_weight(-many.log_weights)[0] + float(base_log_z(machine, base))
    assert abs(many.value - truth) < 0.02 < 0.3 < inverted - truth


def test_a_mode_that_chains_miss_shows_as_a_wide_bracket_not_as_an_error():
    machine, base = trap()
    found = bracket(machine, base=base, steps=100, chains=200, starts="exact")
    truth = listed(machine)
    assert found.below.stderr < 0.05 and found.below.value < truth - 1
    assert found.below.value < truth < found.above.value + 3 * found.above.stderr
    assert found.width > 1
    assert "[" in str(found) and "upper bound" in str(found)
    honest = bracket(tiny(Bernoulli(5), Bernoulli(4)), steps=200)
    assert abs(honest.width) < 0.1


def test_the_reverse_says_where_it_starts_from():
    machine = tiny(Bernoulli(5), Bernoulli(4), 0.7)
    settings = {"data": bits(5), "steps": 300, "chains": 400, "start_sweeps": 60}
    truth = listed(machine)
    for starts, kind, words in (
        ("exact", "upper bound", "exact draws"),
        ("long", "estimate", "chains of 60 sweeps from the data"),
        ("tempered", "estimate", "tempered chains of 60 sweeps"),
        (bits(5)[torch.multinomial((-machine.free_energy(bits(5))).softmax(0), 400, True)], "estimate", "given draws"),
    ):
        found = log_z(machine, "reverse", starts=starts, **settings)  # pyright: ignore[reportArgumentType]
        assert found.kind == kind and words in str(found)
        assert abs(found.value - truth) < 5 * found.stderr + 1e-9


@pytest.mark.parametrize("schedule", ["three-piece", "linear", "adaptive"])
def test_every_schedule_comes_to_the_same_log_z(schedule):
    machine = tiny(Bernoulli(6), Gaussian(3), 0.4)
    found = log_z(machine, data=bits(6), schedule=schedule, steps=500)
    assert abs(found.value - listed(machine)) < 5 * found.stderr
    assert found.settings["steps"] == 500 and found.settings["schedule"] == schedule


def test_the_same_seed_gives_the_same_number_and_leaves_the_global_state_alone():
    machine = tiny(Bernoulli(5), Bernoulli(4))
    before = torch.get_rng_state()
    one, two = (log_z(machine, steps=30, seed=5) for _ in range(2))
    assert one.value == two.value != log_z(machine, steps=30, seed=6).value
    assert torch.equal(before, torch.get_rng_state())


def test_no_interval_is_given_where_one_chain_carries_the_weight():
    found = LogZ(1.0, "lower bound", "ais", 0.9, 1.3, None, {"chains": 100})
    assert found.interval is None and "too few chains" in str(found)
    log_w = torch.tensor([-1000.0, -1010.0, -2000.0])
    mean, stderr, ess = mean_weight(log_w)
    assert mean == pytest.approx(-1000 - math.log(3), abs=1e-4) and stderr == pytest.approx(1.0, abs=1e-3)
    assert ess == pytest.approx(1.0, abs=1e-3)


def test_wrong_requests_are_refused_in_words():
    machine = tiny(Bernoulli(5), Bernoulli(4))
    with pytest.raises(SettingsError, match="'bridge'"):
        log_z(machine, "bridge")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match=r"bracket\(model\)"):
        log_z(machine, "bracket")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="'cosine'"):
        log_z(machine, schedule="cosine")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="'prior'"):
        log_z(machine, "reverse", steps=3, starts="prior")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="without data"):
        log_z(machine, "reverse", steps=3, starts="long")
    with pytest.raises(SettingsError, match="0 chains"):
        log_z(machine, chains=0)
    with pytest.raises(SettingsError, match="0 chains"):
        log_z(machine, "reverse", chains=0)
    with pytest.raises(SettingsError, match="GFLOP to list"):
        log_z(tiny(Bernoulli(40), Bernoulli(40)), "exact")
    with pytest.raises(ModelError, match="no machine"):
        log_z(torch.nn.Linear(3, 2))
    with pytest.raises(NonFiniteError, match="NaN"):
        log_z(Machine(machine.visible, machine.hidden, machine.W * math.nan, machine.b, machine.c))
