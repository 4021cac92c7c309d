"""What units cannot be is refused wherever rows come in, in layers of several kinds too."""

from __future__ import annotations

import math

import pytest
import torch

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Categorical,
    Gaussian,
    Machine,
    RBMDistribution,
    ReLU,
    Spin,
    Stack,
    annealed_back,
    check_values,
    linear,
)
from pyrogen.errors import ShapeError, SupportError
from pyrogen.evaluate import log_likelihood, log_z, pseudo_log_likelihood
from pyrogen.inference import fit
from pyrogen.models import DBM, DBN, RBM

MIXED = Stack([Bernoulli(1), Spin(1), Categorical(1, 2)])
RIGHT = torch.tensor([[1.0, -1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]])
WRONG = [(0, 0.5), (0, -1.0), (1, 0.0), (2, 1.0), (3, math.nan)]


def wrong(column, value):
    x = RIGHT.clone()
    x[0, column] = value
    return x


@pytest.mark.parametrize(("column", "value"), WRONG)
@pytest.mark.parametrize("make", [RBM, DBM, DBN])
def test_rows_of_mixed_layers_are_looked_at_entry_by_entry(make, column, value):
    model = RBM(MIXED, Bernoulli(2)) if make is RBM else make([MIXED, Bernoulli(2), Bernoulli(2)])
    assert log_likelihood(model, RIGHT).mean < 0
    for use in (log_likelihood, fit, lambda model, x: model.prepare(x)):
        with pytest.raises(SupportError, match=r"in x|in train|column|NaN"):
            use(model, wrong(column, value))


@pytest.mark.parametrize(("column", "value"), WRONG)
def test_machines_refuse_rows_that_they_cannot_be(column, value):
    machine, x = Machine(MIXED, Bernoulli(2), torch.zeros(4, 2), torch.zeros(4), torch.zeros(2)), wrong(column, value)
    uses = {
        "log_likelihood": lambda: log_likelihood(machine, x),
        "starts": lambda: log_z(machine, "reverse", starts=x, steps=5, base=torch.zeros(4)),
        "annealed_back": lambda: annealed_back(machine, torch.zeros(4), linear(3), x),
        "pyro": lambda: RBMDistribution.of(machine, log_z=0.0, validate_args=True).log_prob(x),
    }
    for name, use in uses.items():
        with pytest.raises(ValueError, match="support" if name == "pyro" else "cannot be"):
            use()


@pytest.mark.parametrize("units", [Bernoulli(4), Spin(4), Categorical(2, 2)], ids=str)
def test_the_pseudo_likelihood_is_one_of_possible_rows(units):
    machine = Machine(units, Bernoulli(2), torch.zeros(4, 2), torch.zeros(4), torch.zeros(2))
    with pytest.raises(SupportError):
        pseudo_log_likelihood(machine, torch.full((2, 4), 0.5))
    with pytest.raises(ShapeError):
        pseudo_log_likelihood(machine, torch.zeros(4))


def test_categories_are_whole_for_pyro():
    zeros, units = (torch.zeros(6, 2), torch.zeros(6), torch.zeros(2)), Categorical(2, 3)
    layer = RBMDistribution(*zeros, visible=units, log_z=0.0, validate_args=True)
    one = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0, 0.0])
    assert layer.log_prob(one).shape == ()
    for bad in (torch.ones(6), torch.zeros(6)):
        with pytest.raises(ValueError, match="support"):
            layer.log_prob(bad)


def test_continuous_units_of_a_stack_may_be_anything_finite():
    layer = Stack([Gaussian(1), ReLU(1)])
    check_values(layer, torch.tensor([[-3.0, 2.0]]))
    for bad in ([-3.0, -2.0], [math.inf, 1.0]):
        with pytest.raises(SupportError):
            check_values(layer, torch.tensor([bad]))


def test_means_are_taken_of_rows_and_not_of_entries():
    for model in (RBM(Bernoulli(4), Bernoulli(2)), DBM([Bernoulli(4)] * 3), DBN([Bernoulli(4)] * 3)):
        for row in (torch.ones(4), torch.ones(())):
            with pytest.raises(ShapeError):
                model.prepare(row)
