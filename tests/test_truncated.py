from __future__ import annotations

import pytest
import torch

from pyrogen.distributions.boltzmann.truncated import half_normal_cumulant, half_normal_mean, half_normal_sample
from tests.oracles import log_integral
from tests.statistics import FALSE_ALARM, assert_mean

FAR = [-300.0, -60.0, -20.1, -19.9, -5.0, -1.0, 0.0, 1.0, 6.0, 40.0]


def integral(a: float, power: int = 0) -> torch.Tensor:
    """log of the integral of x^power exp(a x - x^2 / 2) over x >= 0, in the variable t = log x."""
    # x = exp(t): the integrand then vanishes smoothly at both ends
    return log_integral(lambda t: (power + 1) * t + a * t.exp() - 0.5 * (2 * t).exp(), -45.0, 4.2)


@pytest.mark.parametrize("a", FAR)
def test_the_cumulant_is_the_integral_in_both_tails(a):
    found = half_normal_cumulant(torch.tensor(a, dtype=torch.float64))
    torch.testing.assert_close(found, integral(a), atol=1e-9, rtol=1e-10)


@pytest.mark.parametrize("a", FAR)
def test_the_mean_is_the_integral_in_both_tails(a):
    expected = (integral(a, 1) - integral(a)).exp()
    torch.testing.assert_close(half_normal_mean(torch.tensor(a, dtype=torch.float64)), expected, atol=0, rtol=2e-7)


def test_the_gradient_of_the_cumulant_is_the_mean_to_the_bit():
    a = torch.tensor(FAR, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(half_normal_cumulant(a).sum(), a)
    assert torch.equal(gradient, half_normal_mean(a.detach()))


def test_float32_keeps_four_digits_where_phi_underflows():
    a = torch.linspace(-80, 80, 333)
    exact = a.double()
    torch.testing.assert_close(half_normal_mean(a).double(), half_normal_mean(exact), atol=1e-6, rtol=2e-4)
    torch.testing.assert_close(half_normal_cumulant(a).double(), half_normal_cumulant(exact), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("a", [-50.0, -8.0, -0.5, 0.0, 0.5, 3.0, 12.0])
def test_draws_have_the_moments_of_the_integral(a, dtype):
    x = half_normal_sample(torch.full((40_000,), a, dtype=dtype), torch.Generator().manual_seed(0))
    assert (x >= 0).all() and x.dtype == dtype
    first, second = ((integral(a, k) - integral(a)).exp() for k in (1, 2))
    assert_mean(x, first, exact_to=2e-6 * max(1.0, float(first)))
    assert_mean(x.double().square(), second, exact_to=2e-6 * max(1.0, float(second)))


@pytest.mark.parametrize("a", [-30.0, -2.0, 0.0, 2.5])
def test_draws_follow_the_whole_distribution(a):
    n = 20_000
    x = half_normal_sample(torch.full((n,), a, dtype=torch.float64), torch.Generator().manual_seed(1)).sort().values
    log_tail = [
        log_integral(lambda t, low=low: a * (low + t.exp()) - (low + t.exp()) ** 2 / 2 + t, -45.0, 4.2)
        for low in x[:: n // 50]
    ]
    cdf = 1 - (torch.stack(log_tail) - integral(a)).exp()
    empirical = torch.arange(0, n, n // 50) / n
    # Dvoretzky-Kiefer-Wolfowitz: P(sup |F_n - F| > e) <= 2 exp(-2 n e^2)
    allowed = (torch.log(torch.tensor(2 / FALSE_ALARM)) / (2 * n)).sqrt() + 1 / n
    assert (cdf - empirical).abs().max() < allowed
