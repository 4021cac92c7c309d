from __future__ import annotations

import math

import pytest
import torch

from pyrogen.distributions.boltzmann import Bernoulli, Gaussian, Machine, can_enumerate, log_partition, exact_draws
from pyrogen.errors import SettingsError
from tests.boltzmann import COUNTABLE, PAIRS, log_joint, machine
from tests.statistics import FALSE_ALARM, assert_mean

LISTED = [(v, h) for v, h in PAIRS if v in COUNTABLE or h in COUNTABLE]


@pytest.mark.parametrize(("visible", "hidden"), LISTED)
def test_log_z_is_the_sum_over_all_states_whichever_side_is_listed(visible, hidden):
    model = machine(visible, hidden)
    total = log_joint(model)[2].flatten().logsumexp(0)
    torch.testing.assert_close(log_partition(model).detach(), total, atol=1e-8, rtol=1e-9)
    torch.testing.assert_close(log_partition(model.turned()).detach(), total, atol=1e-8, rtol=1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_log_z_does_not_depend_on_the_chunks(chunk):
    model = machine("bernoulli", "stack")
    torch.testing.assert_close(log_partition(model, chunk=chunk), log_partition(model), atol=1e-13, rtol=0)


@pytest.mark.parametrize(("visible", "hidden"), [(v, h) for v, h in PAIRS if v in COUNTABLE and h in COUNTABLE])
@pytest.mark.parametrize("chunk", [2, 1000])
def test_the_gradient_of_log_z_is_the_moment_of_the_model(visible, hidden, chunk):
    model = machine(visible, hidden)
    parameters = [tensor.requires_grad_() for tensor in (model.W, model.b, model.c)]
    found = torch.autograd.grad(log_partition(model, chunk=chunk), parameters)
    v, h, log_f = log_joint(model)
    p = log_f.flatten().softmax(0).reshape(log_f.shape)
    for gradient, moment in zip(found, (v.T @ p @ h, p.sum(1) @ v, p.sum(0) @ h), strict=True):
        torch.testing.assert_close(gradient, moment, atol=1e-12, rtol=1e-10)


def test_the_scales_of_gaussian_units_get_their_gradient():
    model = machine(Gaussian(2).double(), "bernoulli")
    (found,) = torch.autograd.grad(log_partition(model), [model.visible.log_scale])
    h = torch.tensor([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=torch.float64)
    a = model.visible_input(h)
    p = (h @ model.c + 0.5 * a.square().sum(1)).softmax(0)
    torch.testing.assert_close(found, p @ (a.square() + 1))


def test_float32_weights_give_log_z_to_six_digits():
    exact = machine(Bernoulli(40), Bernoulli(8), strength=0.5)
    rounded = Machine(exact.visible, exact.hidden, exact.W.float(), exact.b.float(), exact.c.float())
    assert log_partition(rounded).dtype == torch.float64
    torch.testing.assert_close(log_partition(rounded), log_partition(exact), atol=1e-5, rtol=1e-6)


def test_a_side_that_is_too_large_is_refused_with_what_it_would_cost():
    # 2^30 states times 2 x 30 x 40 operations are 2.6e3 GFLOP
    model = machine(Bernoulli(40), Bernoulli(30))
    assert not can_enumerate(model)
    with pytest.raises(SettingsError, match=r"1\.1e\+12 and 1\.07e\+09 joint states, 2\.6e\+03 GFLOP.*annealed"):
        log_partition(model)


def test_a_machine_of_thousands_of_units_is_too_large_and_not_an_overflow():
    with pytest.raises(SettingsError, match="annealed"):
        log_partition(Machine(Bernoulli(2), Bernoulli(2), *(torch.zeros(2, 2), torch.zeros(2), torch.zeros(2))), most=3)
    many = Bernoulli(1500)
    assert many.count == math.inf
    assert not can_enumerate(Machine(many, many, torch.zeros(1500, 1500), torch.zeros(1500), torch.zeros(1500)))


def test_a_machine_without_a_side_that_can_be_listed_is_refused():
    model = machine("gaussian", "relu")
    with pytest.raises(SettingsError, match="inf and inf joint states;"):
        log_partition(model)


def test_the_limit_can_be_moved():
    model = machine(Bernoulli(5), Bernoulli(4))
    with pytest.raises(SettingsError, match="at most 15"):
        log_partition(model, most=15)
    assert math.isfinite(float(log_partition(model, most=16)))


@pytest.mark.parametrize(("visible", "hidden"), LISTED)
def test_exact_draws_have_the_moments_of_p_v(visible, hidden):
    model = machine(
        visible, hidden, strength=0.5 if {"gaussian", "relu", "mixed"} & {visible, hidden} == set() else 0.3
    )
    v, _, log_f = log_joint(model)
    p = log_f.logsumexp(1).softmax(0)
    drawn = exact_draws(model, 20_000, torch.Generator().manual_seed(0))
    assert drawn.shape == (20_000, model.visible.width) and not drawn.requires_grad
    assert_mean(drawn, p @ v, exact_to=1e-7)
    assert_mean(torch.einsum("ni,nj->nij", drawn, drawn), torch.einsum("s,si,sj->ij", p, v, v), exact_to=1e-6)


def test_exact_draws_fill_the_whole_table():
    model = machine(Bernoulli(4), Bernoulli(2), strength=1.5)
    _, _, log_f = log_joint(model)
    p, n = log_f.logsumexp(1).softmax(0), 50_000
    drawn = exact_draws(model, n, torch.Generator().manual_seed(0))
    counts = torch.bincount((drawn @ torch.tensor([8.0, 4, 2, 1]).double()).long(), minlength=16)
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum()
    # the tail of chi-square with 15 degrees of freedom: the regularised incomplete gamma function
    tail = torch.special.gammaincc(torch.tensor(7.5).double(), chi_square / 2)
    assert tail > FALSE_ALARM
