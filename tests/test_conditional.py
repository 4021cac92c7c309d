"""Filling gaps against the exact conditional."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from pyrogen.distributions.boltzmann import Gaussian
from pyrogen.errors import SettingsError, ShapeError, SupportError
from pyrogen.inference import BlockGibbs, ParallelTempering, sample_given
from tests.machines import joint, machine, number, trap
from tests.statistics import assert_law, assert_mean


def exact(m, mask, row):
    """p(v | held), over all states."""
    v, _, p = joint(m)
    p = torch.where((v[:, mask] == row[mask]).all(-1), p, 0)
    return (p / p.sum()).reshape(int(m.visible.count), -1).sum(1)


@pytest.mark.parametrize("source", [BlockGibbs, lambda m: ParallelTempering(m, rungs=3), lambda m: m])
def test_the_gaps_are_filled_by_the_exact_conditional(source):
    """Two rows with gaps of their own; the last draw of each of 8000 independent chains."""
    m = machine(4, 3)
    rows = torch.tensor([[1.0, 0.0, math.nan, math.nan], [math.nan, 1.0, math.nan, 0.0]])
    known = ~rows.isnan()
    given = sample_given(source(m), rows, known, draws=2, chains=8000, warmup_steps=30, seed=0)
    assert given.draws.shape == (2, 8000, 2, 4) and given.draws.dtype == torch.bool
    v = joint(m)[0].reshape(16, 8, 4)[:, 0]
    for row, mask, draws in zip(rows, known, given.draws, strict=True):
        law = exact(m, mask, row)
        assert_law(number(draws[:, -1], m.visible), law)
        assert_mean(draws[:, -1], law @ v)


def test_the_mean_is_of_the_conditional_means_and_keeps_what_is_known():
    m = machine(4, 3)
    row = torch.tensor([1.0, 0.0, 0.0, 1.0])
    mask = torch.tensor([True, False, False, True])
    given = sample_given(m, row, mask, draws=300, chains=20, seed=0)
    law, v = exact(m, mask, row), joint(m)[0].reshape(16, 8, 4)[:, 0]
    h = given.mcmc.get_samples()["h"]
    by_hand = torch.where(mask, row.double(), (m.b + h @ m.W.T).sigmoid().mean(0))
    assert_close(given.mean[0], by_hand)
    # 6000 draws of a chain that mixes in a few sweeps: the error of the mean is below 0.01
    assert_close(given.mean[0], law @ v, atol=0.05, rtol=0)
    assert given.r_hat.shape == (1,) and float(given.r_hat) < 1.02 and float(given.n_eff) > 1000


def test_r_hat_is_of_each_row_and_sees_chains_in_two_modes():
    """With most pixels known there is one mode; with none known each chain stays in the mode where it started."""
    m = trap()
    rows = torch.ones(2, 10)
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[0, :7] = True
    given = sample_given(m, rows, mask, draws=50, chains=6, seed=1)
    v = given.draws.double().mean((2, 3))
    assert bool((v[0] > 0.5).all()) and 0 < int((v[1] > 0.5).sum()) < 6
    free = sample_given(ParallelTempering(m, rungs=8), rows, mask, draws=400, chains=6, seed=1)
    share = (free.draws[1].double().mean(-1) > 0.5).double().mean(1)
    assert bool(((share > 0.1) & (share < 0.9)).all())  # each chain was in both modes


def test_real_values_are_filled_too_and_few_draws_have_no_r_hat():
    m = machine(Gaussian(3), 2, scale=0.4)
    row, mask = torch.tensor([[0.7, math.nan, -1.2]]), torch.tensor([True, False, True])
    given = sample_given(m, row, mask, draws=3, chains=2, seed=0)
    assert given.draws.dtype == torch.float64 and bool(given.draws.isfinite().all()) and given.r_hat.isnan().all()
    assert_close(given.draws[..., mask], row[:, mask].double().expand(1, 2, 3, 2))


X, MASK = torch.ones(2, 4), torch.tensor([True, True, False, False])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: sample_given(m, X[None], MASK), ShapeError, "flatten"),
        (lambda m: sample_given(m, X, MASK.expand(3, 4)), ShapeError, r"observed of shape \(3, 4\)"),
        (lambda m: sample_given(m, X[:, :3], MASK[:3]), ShapeError, r"\(4,\)"),
        (lambda m: sample_given(m, X / 2, MASK), SupportError, "0.5"),
        (lambda m: sample_given(m, X, MASK, draws=0), SettingsError, "draws=0"),
        (lambda m: sample_given(m, X, MASK, chains=0), SettingsError, "chains=0"),
        (lambda m: sample_given(BlockGibbs(m, clamp={"x": (MASK, X[0])}), X, MASK), SettingsError, "already"),
    ],
)
def test_what_cannot_be_is_said_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call(machine(4, 2))
