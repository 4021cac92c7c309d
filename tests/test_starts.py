"""Starts of the reverse: their law against listing."""

from __future__ import annotations

import pytest
import torch

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Categorical,
    Gaussian,
    Machine,
    Spin,
    exact_draws,
    linear,
    long_draws,
    tempered_draws,
)
from pyrogen.errors import SettingsError
from tests.oracles import bits
from tests.statistics import assert_mean
from tests.test_annealing import generator, tiny


def visits(v: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    return (v[:, None] == states).all(-1).double()


def two_modes() -> Machine:
    """One hidden unit that all six visible units follow, up to the last digit: Gibbs sweeps never leave a mode."""
    one = torch.ones(6, dtype=torch.float64)
    return Machine(Bernoulli(6), Bernoulli(1), 40 * one[:, None], -20 * one, torch.tensor([-119.0]).double())


@pytest.mark.parametrize("hidden", [Bernoulli(2), Bernoulli(5), Spin(2), Categorical(1, 3), Gaussian(2)])
def test_exact_draws_have_the_listed_law(hidden):
    machine = tiny(Bernoulli(3), hidden, 0.6)
    v = exact_draws(machine, 20_000, generator(), chunk=5)
    assert_mean(visits(v, bits(3)), (-machine.free_energy(bits(3))).softmax(0))


def test_tempered_draws_find_both_modes_where_long_chains_stay_in_theirs():
    machine, base = two_modes(), torch.zeros(6, dtype=torch.float64)
    p = (-machine.free_energy(bits(6))).softmax(0)
    assert 0.2 < float(p[-1]) < 0.8 and float(p[0] + p[-1]) > 0.999
    stuck = long_draws(machine, torch.zeros(10, 6), 500, 100, generator())
    assert bool((stuck == 0).all())
    v, swapped = tempered_draws(machine, base, linear(10), 1_000, 200, generator())
    assert_mean(visits(v, bits(6))[:, [0, -1]], p[[0, -1]])
    assert swapped.shape == (10,) and bool(((swapped > 0) & (swapped <= 1)).all())


def test_every_row_starts_as_many_long_chains():
    from_both = long_draws(two_modes(), torch.stack([torch.zeros(6), torch.ones(6)]), 11, 5, generator())
    assert abs(int(from_both.mean(1).sum()) - 5.5) <= 0.5


def test_draws_that_cannot_be_are_refused():
    with pytest.raises(SettingsError, match="one of at most"):
        exact_draws(tiny(Bernoulli(30), Bernoulli(30)), 3)
    with pytest.raises(SettingsError, match="0 sweeps"):
        long_draws(two_modes(), torch.zeros(1, 6), 3, 0)
    with pytest.raises(SettingsError, match="0 sweeps"):
        tempered_draws(two_modes(), torch.zeros(6, dtype=torch.float64), linear(3), 3, 0)
