"""The logistic distribution against its formulas in float64, quadrature, and a hostile uniform source."""

from __future__ import annotations

import copy
import math
import pickle

import pyro
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from pyrogen.distributions import Logistic

DTYPES = [torch.float32, torch.float64]


def scalar(x: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(x, dtype=dtype)


def feed_uniforms(monkeypatch, *u: float) -> None:
    """Let torch.rand return u, over and over."""

    def rand(shape, dtype=None, device=None):
        return torch.tensor(u, dtype=dtype).repeat(math.ceil(shape.numel() / len(u)))[: shape.numel()].reshape(shape)

    monkeypatch.setattr(torch, "rand", rand)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, *DTYPES])
def test_draws_and_their_gradients_are_finite_at_both_ends_of_the_uniform(monkeypatch, dtype):
    feed_uniforms(monkeypatch, 0.0, 1 - torch.finfo(dtype).eps / 2, 1.0)
    loc, scale = torch.zeros(6, dtype=dtype, requires_grad=True), torch.ones(6, dtype=dtype, requires_grad=True)
    x = Logistic(loc, scale).rsample()
    x.sum().backward()
    assert x.isfinite().all() and scale.grad.isfinite().all() and loc.grad.eq(1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_stands_for_the_middle_of_its_cell_and_is_no_outlier(monkeypatch, dtype):
    feed_uniforms(monkeypatch, 0.0)
    cell = torch.finfo(dtype).eps / 2
    expected = math.log(cell / 2) - math.log1p(-cell / 2)
    torch.testing.assert_close(Logistic(scalar(0.0, dtype), scalar(1.0, dtype)).sample(), scalar(expected, dtype))


def test_draws_follow_the_distribution():
    torch.manual_seed(0)
    d, n = Logistic(0.7, 2.5), 100_000
    u = d.cdf(d.sample((n,))).double().sort().values
    k = torch.arange(n, dtype=torch.float64)
    distance = torch.maximum((k + 1) / n - u, u - k / n).max()
    # Kolmogorov: P(sqrt(n) distance > t) <= 2 exp(-2 t^2); a false alarm once in 10^6 seeds
    assert math.sqrt(n) * distance < math.sqrt(math.log(2e6) / 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_prob_is_the_float64_formula_in_both_tails(dtype):
    z = torch.tensor([0.0, 1e-8, 1e-3, 0.5, 3.0, 17.0, 40.0, 88.0, 104.0, 745.0, 1e4, 1e30], dtype=dtype)
    z = torch.cat([-z.flip(0), z])
    exact = -z.double().abs() - 2 * torch.log1p(torch.exp(-z.double().abs())) - math.log(2.0)
    torch.testing.assert_close(Logistic(scalar(0, dtype), scalar(2, dtype)).log_prob(2 * z), exact.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cdf_and_icdf_keep_their_digits_in_the_lower_tail_and_invert_each_other(dtype):
    z = torch.linspace(-80, 8, 177, dtype=dtype)
    d = Logistic(scalar(0, dtype), scalar(1, dtype))
    exact = torch.exp(z.double()) / (1 + torch.exp(z.double()))
    small = 1e-14 if dtype == torch.float64 else 3e-5  # the spacing of floats near -80 is a relative error here
    torch.testing.assert_close(d.cdf(z).double(), exact, rtol=small, atol=0)
    torch.testing.assert_close(d.icdf(d.cdf(z)), z, rtol=1e-5, atol=1e-3 if dtype == torch.float32 else 1e-12)
    u = torch.tensor([1e-30, 1e-12, 0.25, 0.5, 0.75], dtype=dtype)
    torch.testing.assert_close(d.icdf(u).double(), u.double().log() - torch.log1p(-u.double()), rtol=1e-6, atol=1e-7)
    assert d.icdf(scalar(0, dtype)) == -math.inf and d.icdf(scalar(1, dtype)) == math.inf


def test_density_integrates_to_one_and_to_the_stated_moments():
    d = Logistic(scalar(0.3), scalar(1.7))
    x = torch.linspace(-100, 100, 200_001, dtype=torch.float64)
    log_p = d.log_prob(x)
    p = log_p.exp()
    torch.testing.assert_close(torch.trapezoid(p, x), scalar(1.0))
    torch.testing.assert_close(torch.trapezoid(p * x, x), d.mean)
    torch.testing.assert_close(torch.trapezoid(p * (x - d.mean) ** 2, x), d.variance)
    torch.testing.assert_close(torch.trapezoid(-p * log_p, x), d.entropy())
    torch.testing.assert_close(torch.cumulative_trapezoid(p, x), d.cdf(x[1:]), rtol=0, atol=1e-7)
    assert x[p.argmax()] == pytest.approx(d.mode.item())


def test_the_pathwise_gradient_is_the_derivative_of_the_quantile(monkeypatch):
    u = torch.tensor([1e-6, 0.1, 0.5, 0.8, 1 - 1e-6], dtype=torch.float64)
    feed_uniforms(monkeypatch, *u.tolist())
    loc = torch.full((5,), 0.4, dtype=torch.float64, requires_grad=True)
    scale = torch.full((5,), 1.3, dtype=torch.float64, requires_grad=True)
    x = Logistic(loc, scale).rsample()
    by_path = torch.autograd.grad(x.sum(), [loc, scale])
    torch.testing.assert_close(by_path, (torch.ones(5).double(), torch.logit(u)))
    # and by the implicit function theorem: dx/dtheta = -(dF/dtheta) / p
    d, at = Logistic(loc, scale), x.detach()
    slopes = torch.autograd.grad(d.cdf(at).sum(), [loc, scale])
    for path, slope in zip(by_path, slopes, strict=True):
        torch.testing.assert_close(path, -slope / d.log_prob(at).exp())


def test_log_prob_and_cdf_have_right_first_and_second_derivatives_also_at_the_mode():
    x = torch.tensor([-30.0, -0.2, 0.5, 2.0, 40.0], dtype=torch.float64, requires_grad=True)
    loc, scale = scalar(0.5).requires_grad_(), scalar(1.5).requires_grad_()
    for f in (lambda x, m, s: Logistic(m, s).log_prob(x), lambda x, m, s: Logistic(m, s).cdf(x)):
        assert gradcheck(f, (x, loc, scale)) and gradgradcheck(f, (x, loc, scale))


@pytest.mark.parametrize("dtype", DTYPES)
def test_expand_to_event_and_mask_are_those_of_any_pyro_distribution(dtype):
    d = Logistic(torch.zeros(3, 1, dtype=dtype), torch.ones(4, dtype=dtype))
    assert d.batch_shape == (3, 4) and d.rsample((2,)).shape == (2, 3, 4) and d.sample().dtype == dtype
    e = d.expand((5, 3, 4)).to_event(1)
    assert type(e.base_dist) is Logistic and (e.batch_shape, e.event_shape) == ((5, 3), (4,))
    x = e.sample((2,))
    torch.testing.assert_close(e.log_prob(x), d.log_prob(x).sum(-1))
    mask = torch.tensor([True, False, True])
    masked = d.to_event(1).mask(mask)
    torch.testing.assert_close(masked.log_prob(x[0, 0]), d.log_prob(x[0, 0]).sum(-1) * mask)


def test_it_survives_pickle_and_deepcopy():
    d = Logistic(torch.tensor([0.1, 0.2]), torch.tensor(0.3))
    for other in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        assert type(other) is Logistic
        torch.testing.assert_close(other.log_prob(torch.ones(2)), d.log_prob(torch.ones(2)), rtol=0, atol=0)


def test_validation_refuses_a_scale_of_zero_and_nan():
    with pytest.raises(ValueError, match="scale"):
        Logistic(0.0, 0.0, validate_args=True)
    with pytest.raises(ValueError, match="within the support"):
        Logistic(0.0, 1.0, validate_args=True).log_prob(torch.tensor(math.nan))


def test_it_is_a_reparameterized_site_of_a_pyro_program():
    def program():
        with pyro.plate("rows", 3):
            return pyro.sample("z", Logistic(torch.zeros(2), torch.ones(2)).to_event(1))

    site = pyro.poutine.trace(program).get_trace().nodes["z"]
    assert site["fn"].has_rsample and site["value"].shape == (3, 2) and site["fn"].batch_shape == (3,)
