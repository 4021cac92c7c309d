from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Gaussian, ReLU, Spin, Stack, stacked
from pyrogen.errors import SettingsError, SupportError
from pyrogen.ops import check_rows
from tests.boltzmann import COUNTABLE, LAYERS, points
from tests.oracles import finite_difference
from tests.statistics import assert_mean, assert_standard_deviation

INPUTS = [-2.5, -0.7, 0.0, 0.4, 1.9, -1.1]


def inputs(units):
    return torch.tensor(INPUTS[: units.width], dtype=torch.float64)


def weights(units, a):
    """p(x | a) over the states of `points`, normalised by their sum alone."""
    x, log_w = points(units)
    log_p = (units.base(x) + x @ a + log_w).detach()
    return x, log_p, log_p.logsumexp(0)


@pytest.mark.parametrize("name", LAYERS)
def test_the_cumulant_is_the_log_of_the_sum_over_states(name):
    units = LAYERS[name]()
    a = inputs(units)
    torch.testing.assert_close(units.cumulant(a).detach(), weights(units, a)[2], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_the_mean_is_the_sum_over_states_and_the_gradient_of_the_cumulant(name):
    units = LAYERS[name]()
    a = inputs(units).requires_grad_()
    x, log_p, total = weights(units, a.detach())
    mean = ((log_p - total).exp()[:, None] * x).sum(0)
    torch.testing.assert_close(units.mean(a).detach(), mean, atol=1e-9, rtol=1e-9)
    (gradient,) = torch.autograd.grad(units.cumulant(a), a)
    torch.testing.assert_close(gradient, mean, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(finite_difference(units.cumulant, a), mean, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_draws_have_the_mean_and_the_spread_of_the_states(name):
    units = LAYERS[name]()
    a = inputs(units)
    x, log_p, total = weights(units, a)
    p = (log_p - total).exp()[:, None]
    mean = (p * x).sum(0)
    drawn = units.sample(a.expand(40_000, -1), torch.Generator().manual_seed(0)).detach()
    assert drawn.shape == (40_000, units.width) and drawn.dtype == a.dtype
    assert_mean(drawn, mean, exact_to=1e-9)
    assert_mean(drawn.square(), (p * x.square()).sum(0), exact_to=1e-9)
    assert_standard_deviation(drawn, ((p * x.square()).sum(0) - mean.square()).sqrt(), relative=1e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_units_of_a_draw_are_independent_given_their_inputs(name):
    units = LAYERS[name]()
    a = inputs(units)
    x, log_p, total = weights(units, a)
    both = torch.einsum("s,si,sj->ij", (log_p - total).exp(), x, x)
    drawn = units.sample(a.expand(40_000, -1), torch.Generator().manual_seed(1)).detach()
    assert_mean(torch.einsum("si,sj->sij", drawn, drawn), both, exact_to=1e-9)


@pytest.mark.parametrize("name", LAYERS)
def test_draws_are_in_the_support_that_the_units_name(name):
    units = LAYERS[name]()
    drawn = units.sample(torch.randn(500, units.width, generator=torch.Generator().manual_seed(0)))
    check_rows(drawn.detach(), width=units.width, support=units.support)
    assert units.constraint.check(drawn).all()


@pytest.mark.parametrize("name", LAYERS)
def test_the_same_generator_gives_the_same_draws(name):
    units, a = LAYERS[name](), torch.zeros(30, LAYERS[name]().width)
    first, again = (units.sample(a, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, units.sample(a, torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("name", ["bernoulli", "spin", "categorical", "gaussian", "stack"])
def test_the_bias_of_many_rows_has_their_mean(name):
    units = LAYERS[name]()
    mean = units.mean(inputs(units)).detach()
    torch.testing.assert_close(units.mean(units.bias_of(mean, 10**12)).detach(), mean, atol=1e-9, rtol=1e-9)


def test_the_bias_of_a_rectified_unit_has_the_mean_to_seven_digits():
    mean = torch.tensor([0.05, 0.4, 1.0, 6.0], dtype=torch.float64)
    torch.testing.assert_close(ReLU(4).mean(ReLU(4).bias_of(mean, 10)), mean, atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("name", ["bernoulli", "spin", "categorical"])
def test_the_bias_of_few_rows_is_finite_where_all_of_them_agree(name):
    units = LAYERS[name]()
    same = units.states(0, 1, torch.zeros((), dtype=torch.float64))[0]
    bias = units.bias_of(same, 5)
    assert bias.isfinite().all()
    # pulled to the middle by half a row: 5 of 5 counts as 5.5 of 6
    if name == "bernoulli":
        torch.testing.assert_close(units.mean(bias), (5 * same + 0.5) / 6)


@pytest.mark.parametrize("name", COUNTABLE)
def test_states_are_all_states_once_in_any_cut(name):
    units = LAYERS[name]()
    expected, _ = points(units)
    like, count = torch.zeros((), dtype=torch.float64), int(units.count)
    torch.testing.assert_close(units.states(0, count, like), expected)
    cut = torch.cat([units.states(0, 5, like), units.states(5, count, like)])
    torch.testing.assert_close(cut, expected)


def test_spins_and_bits_are_the_same_unit_in_other_words():
    # x = 2 y - 1: a spin of input a is a bit of input 2 a
    a = torch.linspace(-30, 30, 7, dtype=torch.float64)
    bit, spin = Bernoulli(7), Spin(7)
    torch.testing.assert_close(spin.mean(a), 2 * bit.mean(2 * a) - 1)
    torch.testing.assert_close(spin.cumulant(a), bit.cumulant(2 * a) - a.sum())


@pytest.mark.parametrize("name", LAYERS)
def test_large_inputs_give_finite_numbers_in_float32(name):
    units = LAYERS[name]().float()
    for size in (60.0, -60.0):
        a = torch.full((units.width,), size, requires_grad=True)
        value = units.cumulant(a)
        (gradient,) = torch.autograd.grad(value, a)
        drawn = units.sample(a.detach().expand(100, -1), torch.Generator().manual_seed(0))
        assert value.isfinite() and gradient.isfinite().all() and drawn.isfinite().all()


def test_the_softplus_of_float64_has_no_step_at_twenty():
    a = torch.tensor([20.0, 21.0], dtype=torch.float64)
    expected = sum(math.log1p(math.exp(-x)) + x for x in (20.0, 21.0))
    assert abs(float(Bernoulli(2).cumulant(a)) - expected) < 1e-13


def test_gaussian_scales_are_parameters_that_learn():
    units = Gaussian(3)
    assert [name for name, _ in units.named_parameters()] == ["log_scale"]
    a = torch.tensor([0.5, -1.0, 2.0])
    units.cumulant(a).backward()
    expected = a.square() + 1  # d/ds of s^2 a^2 / 2 + log s, times s, at s = 1
    torch.testing.assert_close(units.log_scale.grad, expected)


def test_a_stack_gives_each_layer_its_own_entries():
    parts = [Bernoulli(2), Categorical(1, 3)]
    both, a = Stack(parts), torch.tensor([0.3, -1.0, 2.0, 0.1, -0.5])
    torch.testing.assert_close(both.cumulant(a), parts[0].cumulant(a[:2]) + parts[1].cumulant(a[2:]))
    torch.testing.assert_close(both.mean(a), torch.cat([parts[0].mean(a[:2]), parts[1].mean(a[2:])]))
    assert (both.n, both.width, both.count) == (3, 5, 12)
    assert both.support == "real" and both.bounded and not Stack([Bernoulli(1), Gaussian(1)]).bounded


def test_stacking_bits_gives_bits_and_one_layer_itself():
    one = Spin(2)
    assert stacked([one]) is one
    assert type(stacked([Bernoulli(2), Bernoulli(3)])) is Bernoulli and stacked([Bernoulli(2), Bernoulli(3)]).n == 5
    assert isinstance(stacked([Bernoulli(2), one]), nn.Module) and stacked([Bernoulli(2), one]).width == 4


@pytest.mark.parametrize("n", [0, -1, 2.0, True, "3"])
@pytest.mark.parametrize("kind", [Bernoulli, Spin, Gaussian, ReLU])
def test_a_number_of_units_that_is_none_is_refused(kind, n):
    with pytest.raises(SettingsError, match="at least one unit"):
        kind(n)


@pytest.mark.parametrize("states", [1, 0, 2.5, True])
def test_a_categorical_unit_has_at_least_two_states(states):
    with pytest.raises(SettingsError, match="at least 2"):
        Categorical(3, states)


def test_continuous_units_cannot_be_listed():
    with pytest.raises(SettingsError, match="counted"):
        Gaussian(2).states(0, 1, torch.zeros(()))


def test_codes_become_one_hot_rows_and_back():
    units, codes = Categorical(2, 3), torch.tensor([[0, 2], [1, 1]])
    x = units.encode(codes)
    assert x.tolist() == [[1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0]] and x.dtype == torch.float32
    assert torch.equal(units.decode(x), codes)


@pytest.mark.parametrize("bad", [3, -1])
def test_a_code_out_of_range_is_refused_and_placed(bad):
    codes = torch.tensor([[0, 2], [1, bad]])
    with pytest.raises(SupportError, match=rf"{bad} at row 1, column 1.*0\.\.2"):
        Categorical(2, 3).encode(codes)
