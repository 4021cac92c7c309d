"""What the mean field gives away, against the sum over all states of the hidden layers."""

from __future__ import annotations

import pytest
import torch

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Spin, log_partition
from pyrogen.errors import ModelError, SettingsError, SupportError
from pyrogen.evaluate import mean_field_gap
from pyrogen.models import DBM, RBM
from tests.oracles import bits


def machine(*layers, scale: float = 1.0) -> DBM:
    torch.manual_seed(0)
    model = DBM([Bernoulli(layer) if isinstance(layer, int) else layer for layer in layers], scale=scale).double()
    with torch.no_grad():
        for bias in model.b:
            bias.normal_()
        model.mu.uniform_()
        model.lam.uniform_()
    return model


@pytest.mark.parametrize("layers", [(3, 2, 2), (3, 2, 2, 3, 2), (3, Spin(2), Categorical(1, 3))], ids=str)
def test_the_gap_is_that_between_the_likelihood_and_its_bound(layers):
    model, x = machine(*layers), bits(3)
    found = mean_field_gap(model, x)
    # the probabilities of all rows sum to one, so that log Z, which is in no gap, makes both sides the same
    truth = -model.free_energy(x) - log_partition(model.machine()) + found.rows
    torch.testing.assert_close(truth.logsumexp(0), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0)
    assert found.kind == "exact" and found.mc_stderr == 0 and (found.rows > -1e-12).all() and found.mean > 0.01
    torch.testing.assert_close(found.mean, float(found.rows.mean()))


def test_it_is_nothing_where_the_layers_above_are_not_coupled():
    model = machine(3, 2, 2)
    with torch.no_grad():
        model.W[1].zero_()
    torch.testing.assert_close(mean_field_gap(model, bits(3)).rows, torch.zeros(8, dtype=torch.float64))


def test_it_is_annealed_where_no_side_can_be_listed(monkeypatch):
    model, x = machine(3, 8, 7, scale=0.6), bits(3)
    exact = mean_field_gap(model, x)
    monkeypatch.setattr("pyrogen.evaluate.gap.LISTED", 1)
    state = torch.random.get_rng_state()
    found = mean_field_gap(model, x, steps=300, chains=200)
    assert found.kind == "lower bound" and found.mc_stderr > 0 and torch.equal(state, torch.random.get_rng_state())
    # the z-score of a mean of 8 rows, each of 200 chains: beyond 4.5 once in 100,000 seeds
    assert abs(found.mean - exact.mean) < 4.5 * found.mc_stderr
    again = mean_field_gap(model, x[3:5], steps=300, chains=200, seed=3)
    torch.testing.assert_close(again.rows, found.rows[3:5])  # a row's chains do not depend on the other rows


def test_what_has_no_gap_is_refused():
    with pytest.raises(ModelError, match="got RBM"):
        mean_field_gap(RBM(Bernoulli(3), Bernoulli(2)), bits(3).float())  # type: ignore[arg-type]
    with pytest.raises(SupportError):
        mean_field_gap(machine(3, 2, 2), bits(3) / 2)
    with pytest.raises(SettingsError, match="chains"):
        mean_field_gap(machine(3, 30, 30), bits(3), chains=0)
