"""Pareto k-hat against ArviZ's, against theory, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyrogen.diagnostics import khat, khat_threshold
from pyrogen.errors import NonFiniteError, SettingsError, ShapeError


def log_weights(seed: int, *shape: int, scale: float = 1.5) -> torch.Tensor:
    """Normal log weights, in float64."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def psislw(rows: torch.Tensor) -> torch.Tensor:
    """k-hat of (..., S) by ArviZ 0.23, or by 1.x, which takes -log w and has it in its array layer."""
    az = pytest.importorskip("arviz")
    if hasattr(az, "psislw"):
        return torch.as_tensor(np.asarray(az.psislw(rows.numpy())[1]))
    from arviz_stats.base import array_stats

    return torch.as_tensor(np.asarray(array_stats.psislw(-rows.numpy(), axis=-1)[1]))


def needs_arviz_0(why: str) -> None:
    if not hasattr(pytest.importorskip("arviz"), "psislw"):
        pytest.skip(f"ArviZ 1.x {why}")


@pytest.mark.parametrize("n_draws", [25, 100, 225, 1000, 10_000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 200.0])
def test_k_hat_is_that_of_arviz(n_draws, scale):
    if n_draws in (25, 1000) or scale == 200.0:
        needs_arviz_0("rounds the tail down, and has no answer for five draws or weights that underflow")
    rows = log_weights(n_draws, 7, n_draws, scale=scale)
    torch.testing.assert_close(khat(rows, dim=1), psislw(rows), rtol=1e-6, atol=1e-6)


def test_tied_weights_shorten_the_tail_as_in_arviz():
    needs_arviz_0("fits tied weights as a tail of zeros")
    rows = (4 * log_weights(1, 5, 1000)).round() / 4
    got = khat(rows, dim=1)
    assert (got.isfinite()).all()
    torch.testing.assert_close(got, psislw(rows), rtol=1e-6, atol=1e-6)


def test_any_dimension_can_hold_the_draws_and_a_constant_factor_does_not_matter():
    rows = log_weights(0, 3, 400, 2)
    expected = torch.stack([torch.stack([khat(rows[i, :, j]) for j in range(2)]) for i in range(3)])
    torch.testing.assert_close(khat(rows, dim=1), expected)
    torch.testing.assert_close(khat(rows.movedim(1, 0) + 1e4), expected, rtol=1e-6, atol=1e-6)
    assert khat(rows.numpy(), dim=-2).shape == (3, 2)
    assert khat(rows[0, :, 0]).shape == ()


@pytest.mark.parametrize("s", [0.4, 0.6, 0.8])
def test_k_hat_finds_the_tail_index_of_a_guide_that_is_too_narrow(s):
    """p = N(0, I), q = N(0, s^2 I) in two dimensions: |z|^2 is exponential, so the weights are exactly
    Pareto with k = 1 - s^2. The mean of 60 independent k-hats must lie within 4.9 standard errors plus
    0.01 of it, shrunk as the estimator shrinks: false alarm below 1e-6."""
    n, rows = 20_000, 60
    z = s * torch.randn(n, rows, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    log_w = 0.5 * (z / s).square().sum(-1) - 0.5 * z.square().sum(-1) + 2 * math.log(s)
    k = khat(log_w)
    tail = math.ceil(3 * math.sqrt(n))
    theory = (tail * (1 - s * s) + 5) / (tail + 10)
    assert abs(k.mean() - theory) < 4.9 * k.std() / math.sqrt(rows) + 0.01


def test_a_guide_that_is_too_wide_is_told_apart_from_one_that_is_too_narrow():
    """q = N(0, 4 I): bounded weights, k below 0. q = N(0, 0.1^2 I): k = 0.99, and k-hat's standard error
    (1 + k) / sqrt(tail of 949) is 0.065, so that 0.7 is 4.4 of them away: false alarm below 1e-5."""
    z = torch.randn(100_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def of(s: float) -> torch.Tensor:
        return khat((0.5 * z.square() - 0.5 * (s * z).square()).sum(-1))

    assert of(2.0) < 0.0 < khat_threshold(100_000) < of(0.1)


def test_equal_weights_have_no_tail():
    assert khat(torch.zeros(100)) == -math.inf
    assert khat(torch.full((100,), -2e5)) == -math.inf
    rounding = torch.full((100,), -1234.5) + 1e-4 * log_weights(0, 100).float()
    assert khat(rounding) == -math.inf
    shared = torch.cat([torch.zeros(60), log_weights(0, 40).float() - 9])
    assert khat(shared) == -math.inf
    both = khat(torch.stack([torch.zeros(100, dtype=torch.float64), log_weights(0, 100)]), dim=1)
    assert both[0] == -math.inf and both[1].isfinite()


def test_a_weight_that_stands_alone_is_the_worst_case():
    log_w = torch.full((1000,), -5000.0)
    log_w[17] = 0.0
    assert khat(log_w) == math.inf


def test_weights_of_zero_are_weights():
    log_w = log_weights(3, 1000)
    log_w[:500] = -math.inf
    torch.testing.assert_close(khat(log_w), khat(log_w.clamp(min=-800)))


def test_the_threshold_grows_with_the_draws_up_to_0_7():
    assert khat_threshold(100) == pytest.approx(0.5)
    assert khat_threshold(1000) == pytest.approx(2 / 3)
    assert khat_threshold(10**6) == 0.7


@pytest.mark.parametrize(
    ("log_w", "error", "words"),
    [
        (torch.zeros(24), SettingsError, "24 draws"),
        (torch.tensor(1.0), ShapeError, "single number"),
        (torch.tensor([0.0] * 50 + [math.nan]), NonFiniteError, "row 0 at draw 50"),
        (torch.tensor([0.0] * 50 + [math.inf]), NonFiniteError, "1 log weights"),
        (torch.full((50,), -math.inf), NonFiniteError, "all -inf"),
    ],
)
def test_bad_weights_are_refused_in_words(log_w, error, words):
    with pytest.raises(error, match=words):
        khat(log_w)


def test_too_few_draws_have_no_threshold():
    with pytest.raises(SettingsError, match="10 draws"):
        khat_threshold(10)
