"""The check of a kernel passes a right one and fails a wrong one."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Gaussian, Spin, Stack
from pyrogen.errors import SettingsError
from pyrogen.evaluate.kernels import _scores, check_kernel, exact_moments
from pyrogen.inference import BlockGibbs, ParallelTempering
from tests.machines import joint, machine


@pytest.mark.parametrize(
    "make", [lambda: machine(4, 3), lambda: machine(Spin(3), 2), lambda: machine(Categorical(2, 3), 2)]
)
def test_exact_moments_are_those_of_the_listed_joint_law(make):
    m = make()
    v, h, p = joint(m)
    found = exact_moments(m)
    assert_close(found.v, p @ v)
    assert_close(found.h, p @ h)
    assert_close(found.energy, p @ m.energy(v, h))


@pytest.mark.parametrize(
    "make", [lambda: machine(5, 3), lambda: machine(Spin(4), 2), lambda: machine(3, Categorical(1, 3))]
)
@pytest.mark.parametrize("kernel", [BlockGibbs, lambda m: ParallelTempering(m, rungs=3)])
def test_a_right_kernel_passes(kernel, make):
    """One false alarm in a million seeds."""
    check = check_kernel(kernel(make()), draws=40, chains=200, warmup_steps=40)
    assert check.passed and check.r_hat < 1.05 and check.n_eff > 1000 and "agrees" in str(check)
    assert check.summary()["n_eff_per_1000_steps"] == pytest.approx(check.n_eff / 8)


class Warm(BlockGibbs):
    """Draws the visible units 10 % too warm."""

    def step(self, state, *, generator=None):
        m = self.machine
        h = m.up(state.v, generator)
        v = m.visible.sample(m.visible_input(h) / 1.1, generator)
        new, info = super().step(state, generator=generator)
        return new._replace(v=v, h=h), info


def test_a_kernel_that_is_ten_per_cent_too_warm_fails():
    check = check_kernel(Warm(machine(5, 3)), draws=100, chains=300, warmup_steps=40)
    assert not check.passed and "differs" in str(check)


def test_scores_of_mixed_layers_are_those_of_each():
    layers = [Bernoulli(2), Spin(2), Categorical(1, 3)]
    g = torch.Generator().manual_seed(0)
    draws = [layer.sample(torch.zeros(20, 100, layer.width), g) for layer in layers]
    means = [torch.full((layer.width,), p) for layer, p in zip(layers, (0.5, 0.1, 0.3), strict=True)]
    found, worth = _scores(torch.cat(draws, -1), torch.cat(means), Stack(layers))
    each = [_scores(x, mean, layer) for x, mean, layer in zip(draws, means, layers, strict=True)]
    assert_close(found, torch.cat([z for z, _ in each]))
    assert_close(worth, torch.cat([n for _, n in each]))
    # a spin of mean m has variance 1 - m^2
    assert_close(
        found[2:4], (draws[1].mean((0, 1)) - 0.1) / (0.99 / worth[2:4]).sqrt(), atol=1e-5, rtol=1e-5, check_dtype=False
    )


def test_too_few_draws_are_told(monkeypatch):
    m = machine(3, 2)
    m.b.fill_(-30)
    m.c.fill_(-30)
    with pytest.raises(SettingsError, match=r"20 draws of 10 chains.*draws=200"):
        check_kernel(BlockGibbs(m), draws=20, chains=10)


def test_units_that_hardly_ever_change_are_not_compared():
    m = machine(5, 3)
    m.b[0] = 40
    check = check_kernel(BlockGibbs(m), draws=20, chains=200)
    assert check.rare >= 1 and check.means == 9 - check.rare


def test_what_cannot_be_checked_is_said_in_words():
    with pytest.raises(SettingsError, match="draws=3"):
        check_kernel(BlockGibbs(machine(3, 2)), draws=3)
    with pytest.raises(SettingsError, match="cannot be listed"):
        check_kernel(BlockGibbs(machine(Gaussian(2), 2)))


def test_a_model_with_weights_that_need_gradients_is_checked_too():
    m = machine(3, 2)
    for x in (m.W, m.b, m.c):
        x.requires_grad_()
    assert check_kernel(BlockGibbs(m), draws=20, chains=100).passed and torch.is_grad_enabled()
