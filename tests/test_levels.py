"""Levels, and the softmax over them, against Pyro's Categorical and enumeration."""

from __future__ import annotations

import copy
import math
import pickle

import pyro.distributions as dist
import pytest
import torch
from torch.autograd import gradcheck

from pyrogen.distributions import DiscretizedLogistic, LevelCategorical, Levels
from pyrogen.errors import SettingsError, ShapeError

DTYPES = [torch.float32, torch.float64]


def logits(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return 3 * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


def test_the_default_levels_are_bitwise_what_dividing_bytes_by_255_gives():
    grey = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(Levels().values(torch.zeros(())), grey.float() / 255)
    assert torch.equal(Levels().values(torch.zeros((), dtype=torch.float64)), grey.double() / 255)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low, high, bins", [(0, 1, 256), (-1, 1, 256), (0, 255, 256), (1000, 1001, 17), (0, 1, 65536)])
def test_levels_pass_the_check_with_rounding_errors_and_halfway_points_do_not(low, high, bins, dtype):
    levels = Levels(low, high, bins)
    values = levels.values(torch.zeros((), dtype=dtype))
    up = torch.nextafter(values, torch.full_like(values, math.inf))
    assert levels.check(values).all() and levels.check(up).all()
    assert torch.equal(levels.index(values), torch.arange(bins).to(dtype))
    assert torch.equal(levels.at(levels.index(values)), values)
    assert not levels.check((values[1:] + values[:-1]) / 2).any()
    assert not levels.check(values.new_tensor([low - 1.0, high + 1.0, math.nan])).any()


def test_bytes_that_were_not_scaled_do_not_pass_the_check():
    assert Levels().check(torch.tensor([0, 1])).all()
    assert not Levels().check(torch.tensor([2, 255])).any() and not Levels().check(torch.tensor(255.0))


@pytest.mark.parametrize(
    "low, high, bins", [(0, 1, 1), (0, 1, 2.5), (1, 0, 4), (0, 0, 4), (0, math.inf, 4), (math.nan, 1, 4)]
)
def test_impossible_levels_are_refused_in_words(low, high, bins):
    with pytest.raises(SettingsError, match=r"got .*; need .*; try "):
        DiscretizedLogistic(0.0, 1.0, low, high, bins)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_prob_is_that_of_pyros_categorical_at_the_index(dtype):
    f = logits(5, 3, 16, dtype=dtype)
    d, k = LevelCategorical(f, validate_args=True), torch.randint(16, (7, 5, 3))
    torch.testing.assert_close(d.log_prob(k.to(dtype) / 15), dist.Categorical(logits=f).log_prob(k))
    torch.testing.assert_close(d.log_prob(d.enumerate_support()).exp().sum(0), torch.ones(5, 3, dtype=dtype))
    torch.testing.assert_close(d.log_prob(d.enumerate_support(expand=False)), f.log_softmax(-1).movedim(-1, 0))


def test_mean_variance_and_entropy_are_sums_over_the_levels():
    d = LevelCategorical(logits(4, 6))
    v = d.enumerate_support()
    p = d.log_prob(v).exp()
    torch.testing.assert_close(d.mean, (p * v).sum(0))
    torch.testing.assert_close(d.variance, (p * (v - d.mean) ** 2).sum(0))
    torch.testing.assert_close(d.entropy(), -(p * p.log()).sum(0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_are_levels_and_appear_as_often_as_their_masses_say(dtype):
    torch.manual_seed(0)
    d, n = LevelCategorical(torch.tensor([0.0, 1.0, -1.0, 0.5, 0.3], dtype=dtype)), 20_000
    x = d.sample((n,))
    counts = (x == d.enumerate_support().unsqueeze(-1)).sum(-1)
    assert x.dtype == dtype and counts.sum() == n
    chi2 = ((counts - n * d.probs) ** 2 / (n * d.probs)).sum()
    assert chi2 < 33.4  # 4 degrees of freedom: exceeded once in 10^6 seeds


def test_log_prob_has_the_right_gradient_and_broadcasts_values_against_logits():
    x = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert gradcheck(lambda f: LevelCategorical(f).log_prob(x[:, None]), (logits(2, 5).requires_grad_(),))
    assert LevelCategorical(logits(5)).log_prob(x).shape == (3,)


def test_without_validation_the_nearest_level_counts_and_nan_gives_nan():
    d = LevelCategorical(logits(5), validate_args=False)
    x = torch.tensor([0.26, -3.0, 1.5, math.nan], dtype=torch.float64)
    nearest = torch.tensor([0.25, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(d.log_prob(x)[:3], d.log_prob(nearest))
    assert d.log_prob(x)[3].isnan()
    with pytest.raises(ValueError, match="Levels"):
        LevelCategorical(logits(5), validate_args=True).log_prob(x[0])


def test_expand_to_event_mask_pickle_and_deepcopy():
    d = LevelCategorical(logits(3, 8))
    assert d.batch_shape == (3,) and d.event_shape == () and d.has_enumerate_support and d.support.is_discrete
    e = d.expand((4, 3)).to_event(1)
    x = e.sample((2,))
    assert x.shape == (2, 4, 3) and type(e.base_dist) is LevelCategorical
    torch.testing.assert_close(e.log_prob(x), d.log_prob(x).sum(-1))
    assert d.mask(torch.tensor([True, False, True])).log_prob(x)[..., 1].eq(0).all()
    for other in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        torch.testing.assert_close(other.log_prob(x), d.log_prob(x), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (1,), (3, 1)])
def test_logits_without_two_levels_are_refused_in_words(shape):
    with pytest.raises(ShapeError, match=r"got .*; need .*; try "):
        LevelCategorical(torch.zeros(shape))
