"""The pseudo-likelihood against conditionals that are listed."""

from __future__ import annotations

import pytest
import torch

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Gaussian, Machine, Spin
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.evaluate import pseudo_log_likelihood
from tests.statistics import assert_mean
from tests.test_annealing import generator, tiny

KINDS = [Bernoulli(3), Spin(3), Categorical(2, 3)]


def listed(machine: Machine, x: torch.Tensor) -> torch.Tensor:
    """sum_i log p(v_i | v_-i), the conditional from all states that agree with v elsewhere."""
    units = machine.visible
    states = units.states(0, int(units.count), machine.W)
    log_f, per = -machine.free_energy(states), units.width // units.n
    total = torch.zeros(len(x), dtype=torch.float64)
    for n, row in enumerate(x):
        for i in range(units.n):
            own = torch.zeros(units.width, dtype=torch.bool)
            own[i * per : (i + 1) * per] = True
            alike = (states[:, ~own] == row[~own]).all(-1)
            total[n] += -machine.free_energy(row) - log_f[alike].logsumexp(0)
    return total


@pytest.mark.parametrize("hidden", [Bernoulli(2), Spin(2), Categorical(2, 3), Gaussian(2)])
@pytest.mark.parametrize("visible", KINDS)
def test_it_is_the_sum_of_the_log_conditionals(visible, hidden):
    machine = tiny(visible, hidden, 0.6)
    x = visible.states(0, int(visible.count), machine.W)
    torch.testing.assert_close(pseudo_log_likelihood(machine, x), listed(machine, x))
    torch.testing.assert_close(pseudo_log_likelihood(machine, x, at_once=1), listed(machine, x))


@pytest.mark.parametrize("visible", KINDS)
def test_one_unit_at_random_is_right_on_average(visible):
    machine = tiny(visible, Bernoulli(2))
    x = visible.states(0, int(visible.count), machine.W)[[1, 4]]
    many = pseudo_log_likelihood(machine, x.repeat(5_000, 1), one=True, generator=generator())
    assert_mean(many.view(-1, 2), listed(machine, x))


def test_continuous_units_and_wrong_rows_are_refused():
    with pytest.raises(SettingsError, match="Gaussian"):
        pseudo_log_likelihood(tiny(Gaussian(2), Bernoulli(2)), torch.zeros(1, 2))
    with pytest.raises(ShapeError, match="shape"):
        pseudo_log_likelihood(tiny(Bernoulli(3), Bernoulli(2)), torch.zeros(1, 2))
