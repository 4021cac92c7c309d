"""The Bessel ratios against the power series in sixty digits, closed forms and autograd."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext

import pytest
import torch

from pyrogen.errors import SettingsError
from pyrogen.ops.bessel import log_mean_exp_cosine, one_less_mean_cosine

K = [0.0, 1e-9, 1e-3, 0.25, 1.0, 8.0, 50.0, 59.5, 60.5, 120.0, 700.0]


def scalar(k: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(k, dtype=dtype, requires_grad=True)


def power_series(k: float, n: int, shift: int = 0) -> Decimal:
    """sum_i (k^2 / 4)^i / (i! (n/2 + shift)_i), all terms positive, with 60 digits: E exp(k x_1) for shift 0."""
    with localcontext(prec=60):
        quarter, order = Decimal(k) ** 2 / 4, Decimal(n) / 2 + shift
        term = total = Decimal(1)
        for i in range(1, int(k) + 80):
            term = term * quarter / (i * (order + i - 1))
            total += term
        return total


@pytest.mark.parametrize("n", [2, 3, 4, 7, 20])
@pytest.mark.parametrize("k", [k for k in K if k < 130])
def test_log_mean_and_mean_are_those_of_the_power_series(k, n):
    with localcontext(prec=60):
        mean = power_series(k, n)
        log_mean = float(mean.ln() - Decimal(k))
        gap = float(1 - Decimal(k) / n * power_series(k, n, 1) / mean)
    assert log_mean_exp_cosine(scalar(k), n).item() == pytest.approx(log_mean, rel=1e-14, abs=1e-15)
    assert one_less_mean_cosine(scalar(k), n).item() == pytest.approx(gap, rel=1e-12)


@pytest.mark.parametrize("k", [*K, 1e5, 1e9])
def test_three_dimensions_have_elementary_functions(k):
    value = log_mean_exp_cosine(scalar(k), 3).item()
    expected = -k + k * k / 6 if k < 1e-2 else math.log(-math.expm1(-2 * k) / (2 * k))
    assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("n", [2, 3, 5, 16, 65])
def test_derivatives_are_those_of_differences_from_zero_to_beyond_every_switch(n):
    # in u = log k, because the functions live on that scale
    u = torch.tensor([-12.0, -3.0, 0.0, 2.0, 4.0, 4.2, 6.0, 9.0, 9.3, 14.0, 16.0], dtype=torch.float64)
    k, step = u.exp().requires_grad_(), 1e-4
    (slope,) = torch.autograd.grad(log_mean_exp_cosine(k, n).sum(), k)
    (curve,) = torch.autograd.grad(one_less_mean_cosine(k, n).sum(), k)
    up, down = (u + step).exp(), (u - step).exp()
    by_values = (log_mean_exp_cosine(up, n) - log_mean_exp_cosine(down, n)) / (2 * step)
    by_gaps = (one_less_mean_cosine(up, n) - one_less_mean_cosine(down, n)) / (2 * step)
    torch.testing.assert_close(slope * k, by_values, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(curve * k, by_gaps, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("n", [2, 3, 6, 33])
def test_large_arguments_follow_hankels_expansion(n):
    k = torch.tensor([1e6, 1e8, 1e12], dtype=torch.float64)
    m = (n / 2 - 1) ** 2 * 4
    scaled = 1 - (m - 1) / (8 * k) + (m - 1) * (m - 9) / (128 * k.square())
    expected = math.lgamma(n / 2) + (n / 2 - 1) * (2 / k).log() - 0.5 * (2 * math.pi * k).log() + scaled.log()
    torch.testing.assert_close(log_mean_exp_cosine(k, n), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(one_less_mean_cosine(k, n) * 2 * k / (n - 1), 1 - (n - 3) / (4 * k), rtol=1e-9, atol=0)


def test_float32_has_all_its_digits():
    k = torch.tensor([*K, 1e5, 1e9, 1e20], dtype=torch.float32)
    for n in (2, 3, 10):
        exact = log_mean_exp_cosine(k.double(), n)
        torch.testing.assert_close(log_mean_exp_cosine(k, n).double(), exact, rtol=1e-7, atol=1e-12)
        exact = one_less_mean_cosine(k.double(), n)
        torch.testing.assert_close(one_less_mean_cosine(k, n).double(), exact, rtol=1e-7, atol=0)


def test_gradients_at_zero_are_finite_and_right():
    k = scalar(0.0)
    (slope,) = torch.autograd.grad(log_mean_exp_cosine(k, 5), k)
    (curve,) = torch.autograd.grad(one_less_mean_cosine(k, 5), k)
    assert float(slope) == -1.0
    assert float(curve) == pytest.approx(-1 / 5)


def test_a_sphere_of_two_points_is_refused():
    with pytest.raises(SettingsError, match="got 1 dimensions"):
        log_mean_exp_cosine(scalar(1.0), 1)
