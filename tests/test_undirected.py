"""The log-likelihood of undirected models: against listing, with the kind that is true of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pyrogen.cli.report import number
from pyrogen.distributions.boltzmann import Bernoulli
from pyrogen.errors import SettingsError
from pyrogen.evaluate import Bracket, log_likelihood
from pyrogen.models import RBM
from tests.oracles import bits
from tests.test_annealing import kernel, linear, log_z, tiny
from tests.test_partition import trap

MACHINE = tiny(Bernoulli(5), Bernoulli(4), 1.0)
X = bits(5)[[0, 3, 9, 17, 31]]


def exact_rows() -> torch.Tensor:
    return -MACHINE.free_energy(X) - log_z(MACHINE)


def test_a_small_machine_is_exact_without_asking():
    found = log_likelihood(MACHINE, X)
    assert found.kind == found.method == "exact" and found.mc_stderr == 0
    torch.testing.assert_close(found.rows, exact_rows())
    assert "(exact, 5 rows" in str(found)


@pytest.mark.parametrize(
    ("method", "kind"), [("ais", "upper bound"), ("reverse", "lower bound"), ("bracket", "estimate")]
)
def test_annealing_gives_the_rows_up_to_its_error(method, kind):
    found = log_likelihood(MACHINE, X, method=method, steps=200, chains=200)
    assert found.kind == kind
    off = found.rows - exact_rows()
    torch.testing.assert_close(off, off.mean().expand(5))
    assert abs(float(off.mean())) < 5 * found.mc_stderr < 0.3
    assert found.summary()["log_z"]


def test_the_interval_of_a_bracket_reaches_from_end_to_end():
    machine, base = trap()
    x = torch.ones(4, 30, dtype=torch.float64)
    x[0] = 0
    truth = float((-machine.free_energy(x)).mean() - log_z(machine))
    found = log_likelihood(machine, x, method="bracket", base=base, steps=100)
    low, high = found.bracket
    assert isinstance(found.log_z, Bracket) and found.mean == high
    assert low - 0.1 < truth < high - 1 and found.interval[0] < low < high < found.interval[1]
    assert "in [" in str(found) and "nats wide" in str(found)
    assert found.summary()["bracket"] == [low, high]


def test_ends_that_cross_by_their_noise_are_printed_in_order():
    machine, base = trap()
    found = log_likelihood(machine, torch.ones(4, 30, dtype=torch.float64), method="bracket", base=base, steps=100)
    assert isinstance(found.log_z, Bracket)
    ends = replace(found.log_z, above=replace(found.log_z.above, value=found.log_z.below.value - 1))
    crossed = replace(found, log_z=ends)
    low, high = found.mean, found.mean + 1
    assert f"[{low:.2f}, {high:.2f}]" in str(crossed) and "1.000 nats wide (the ends have crossed" in str(crossed)
    assert f"[{low:.3f}, {high:.3f}]" in number(crossed.summary())


def test_a_machine_that_cannot_be_listed_is_reported_as_a_bracket():
    found = log_likelihood(
        tiny(Bernoulli(30), Bernoulli(26), 0.1), torch.ones(3, 30), steps=20, start_sweeps=5, chains=20
    )
    assert found.method == "bracket" and "chains of 5 sweeps from the data" in str(found)


def test_raise_is_the_likelihood_of_where_annealing_ends():
    base, ladder = torch.zeros(5, dtype=torch.float64), linear(4)
    p_ann = (-MACHINE.tempered(0.0, base).free_energy(bits(5))).softmax(0)
    for beta in ladder[1:]:
        p_ann = p_ann @ kernel(MACHINE.tempered(beta, base), bits(5), bits(4))
    found = log_likelihood(MACHINE, X, method="raise", base=base, schedule=ladder, chains=20_000)
    expected = p_ann[[0, 3, 9, 17, 31]].log()
    assert found.kind == "lower bound"
    assert abs(float(found.rows.mean() - expected.mean())) < 5 * found.mc_stderr < 0.1


def test_wrong_requests_are_refused_in_words():
    with pytest.raises(SettingsError, match="'magic'"):
        log_likelihood(MACHINE, X, method="magic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SettingsError, match="undirected model"):
        log_likelihood(torch.nn.Linear(5, 1), X, method="ais")
    with pytest.raises(SettingsError, match="settings of annealing"):
        log_likelihood(torch.nn.Linear(5, 1), X, method="iwae", steps=3)


@pytest.mark.parametrize(
    ("method", "setting"), [("exact", "stepz"), ("bracket", "stepz"), ("raise", "starts"), ("raise", "start_sweeps")]
)
def test_settings_that_a_method_has_not_are_refused(method, setting):
    model = RBM(Bernoulli(5), Bernoulli(3))
    with pytest.raises(SettingsError, match=f"'{setting}' for method '{method}'"):
        log_likelihood(model, torch.zeros(4, 5), method=method, **{setting: 3})
