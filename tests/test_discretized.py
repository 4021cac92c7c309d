"""The discretized logistic against 60-digit arithmetic, enumeration and finite differences."""

from __future__ import annotations

import copy
import math
import pickle
from decimal import Decimal, localcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.autograd import gradcheck

from pyrogen.distributions import DiscretizedLogistic

DTYPES = [torch.float32, torch.float64]
GRIDS = [(0, 1, 256), (-1, 1, 256), (0, 255, 256), (-3, 7, 17), (0, 1, 2)]
LOCS = [-1e6, -1e3, -5.0, -1e-3, 0.0, 1e-4, 0.2, 127 / 255, 0.5, 0.5 + 1 / 510, 0.731, 1.0, 1.0001, 7.0, 1e3, 1e6]


def exact_log_mass(k: int, loc: float, scale: float, low: int, high: int, bins: int) -> float:
    """log(sigmoid(b) - sigmoid(a)), as it stands, with digits enough that nothing cancels."""
    with localcontext() as context:
        context.prec = 500
        w = Decimal(high - low) / (bins - 1)

        def cdf(edge: Decimal) -> Decimal:
            return 1 / (1 + (-(edge - Decimal(loc)) / Decimal(scale)).exp())

        upper = cdf(low + (k + Decimal("0.5")) * w) if k < bins - 1 else Decimal(1)
        lower = cdf(low + (k - Decimal("0.5")) * w) if k > 0 else Decimal(0)
        return float((upper - lower).ln())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("low, high, bins", GRIDS)
def test_masses_sum_to_one_for_any_loc_and_for_scales_over_24_decades(low, high, bins, dtype):
    d = DiscretizedLogistic(
        torch.tensor(LOCS, dtype=dtype)[:, None], torch.logspace(-12, 12, 97, dtype=dtype), low, high, bins
    )
    log_mass = d.log_prob(d.enumerate_support(expand=False)).double()
    assert log_mass.isfinite().all() and (log_mass <= 0).all()
    total = log_mass.exp().sum(0)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize(
    "loc, scale", [(0.4, 0.05), (0.4, 0.002), (0.93, 3.0), (-0.7, 0.01), (1.2, 900.0), (0.0, 1e-3)]
)
@pytest.mark.parametrize("low, high, bins", [(0, 1, 256), (-1, 1, 11)])
def test_log_masses_agree_with_exact_arithmetic_down_to_the_far_tail(loc, scale, low, high, bins):
    ks = [0, 1, 2, bins // 3, bins // 2, bins - 2, bins - 1]
    exact = torch.tensor([exact_log_mass(k, loc, scale, low, high, bins) for k in ks], dtype=torch.float64)
    for dtype, rtol in ((torch.float64, 1e-11), (torch.float32, 2e-5)):
        d = DiscretizedLogistic(torch.tensor(loc, dtype=dtype), torch.tensor(scale, dtype=dtype), low, high, bins)
        got = d.log_prob(d.enumerate_support()[ks]).double()
        torch.testing.assert_close(got, exact, rtol=rtol, atol=rtol)
    assert scale > 0.01 or exact.min() < -100  # the tail is far where the scale is small


def test_gradients_are_finite_for_every_level_and_scales_from_1e_3_to_1e3():
    loc = torch.tensor(LOCS)[:, None].expand(-1, 61).clone().requires_grad_()
    scale = torch.logspace(-3, 3, 61).expand(len(LOCS), -1).clone().requires_grad_()
    d = DiscretizedLogistic(loc, scale)
    for v in d.enumerate_support(expand=False):
        by_loc, by_scale = torch.autograd.grad(d.log_prob(v).sum(), [loc, scale])
        assert by_loc.isfinite().all() and by_scale.isfinite().all()


def test_gradients_are_those_of_finite_differences_inside_and_at_both_edges():
    v = torch.tensor([0.0, 1 / 15, 7 / 15, 1.0], dtype=torch.float64)[:, None]
    loc = torch.tensor([0.4, -0.3, 1.7], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.03, 0.2, 40.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m, s: DiscretizedLogistic(m, s, bins=16).log_prob(v), (loc, scale))


def test_a_location_outside_the_grid_puts_the_mass_on_the_nearest_edge():
    d = DiscretizedLogistic(torch.tensor([-0.5, 1.5]), 1e-3)
    torch.testing.assert_close(d.log_prob(torch.tensor([0.0, 1.0])), torch.zeros(2))
    torch.testing.assert_close(d.mean, torch.tensor([0.0, 1.0]))
    assert torch.equal(d.sample((100,)), torch.tensor([0.0, 1.0]).expand(100, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_and_variance_are_sums_over_the_levels(dtype):
    d = DiscretizedLogistic(torch.tensor([0.1, 0.5, 2.0], dtype=dtype), torch.tensor([0.01, 0.3, 5.0], dtype=dtype))
    v = d.enumerate_support()
    p = d.log_prob(v).exp()
    torch.testing.assert_close(d.mean, (p * v).sum(0))
    torch.testing.assert_close(d.variance, (p * (v - d.mean) ** 2).sum(0))


def test_samples_are_levels_and_appear_as_often_as_their_masses_say():
    torch.manual_seed(0)
    d, n = DiscretizedLogistic(0.3, 0.4, low=-1, high=1, bins=5), 20_000
    x, p = d.sample((n,)), d.log_prob(d.enumerate_support()).exp()
    counts = (x == d.enumerate_support().unsqueeze(-1)).sum(-1)
    assert counts.sum() == n and not x.requires_grad
    chi2 = ((counts - n * p) ** 2 / (n * p)).sum()
    assert chi2 < 33.4  # 4 degrees of freedom: exceeded once in 10^6 seeds


def test_samples_are_the_floats_that_bytes_over_255_give_and_pass_validation():
    d = DiscretizedLogistic(torch.rand(50), 0.2, validate_args=True)
    x = d.sample((40,))
    assert torch.isin(x, torch.arange(256).float() / 255).all() and d.log_prob(x).isfinite().all()


def test_samples_stay_on_the_grid_when_the_uniform_source_returns_its_ends(monkeypatch):
    ends = torch.tensor([0.0, 1.0])
    monkeypatch.setattr(torch, "rand", lambda shape, dtype, device: ends.expand(shape).to(dtype))
    assert torch.equal(DiscretizedLogistic(torch.full((2,), 0.5), 1e3).sample(), ends)
    assert DiscretizedLogistic(torch.tensor([math.nan, 0.5]), 1.0, validate_args=False).sample()[0].isnan()


def test_values_off_the_grid_are_refused_by_validation_and_else_count_as_the_nearest_level():
    checked = DiscretizedLogistic(0.4, 0.1, validate_args=True)
    for bad in (0.5, 1.5, math.nan, 128.0):
        with pytest.raises(ValueError, match=r"Levels\(low=0, high=1, bins=256\)"):
            checked.log_prob(torch.tensor(bad))
    free = DiscretizedLogistic(0.4, 0.1, bins=5, validate_args=False)
    x, nearest = torch.tensor([0.26, 0.9, -4.0, 4.0]), torch.tensor([0.25, 1.0, 0.0, 1.0])
    torch.testing.assert_close(free.log_prob(x), free.log_prob(nearest), rtol=0, atol=0)
    assert free.log_prob(torch.tensor(math.nan)).isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_expand_to_event_mask_pickle_and_deepcopy(dtype):
    d = DiscretizedLogistic(torch.rand(3, 1, dtype=dtype), torch.rand(4, dtype=dtype) + 0.1, bins=8)
    assert d.batch_shape == (3, 4) and d.has_enumerate_support and d.support.is_discrete and not d.has_rsample
    assert d.enumerate_support().shape == (8, 3, 4) and d.enumerate_support(expand=False).shape == (8, 1, 1)
    e = d.expand((5, 3, 4)).to_event(1)
    x = e.sample((2,))
    assert x.shape == (2, 5, 3, 4) and x.dtype == dtype and type(e.base_dist) is DiscretizedLogistic
    torch.testing.assert_close(e.log_prob(x), d.log_prob(x).sum(-1))
    mask = torch.rand(3, 4) < 0.5
    torch.testing.assert_close(d.mask(mask).log_prob(x), d.log_prob(x) * mask)
    for other in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        torch.testing.assert_close(other.log_prob(x), d.log_prob(x), rtol=0, atol=0)


def test_as_a_latent_site_pyro_sums_it_out_exactly():
    prior, x = DiscretizedLogistic(0.2, 0.5, low=-1, high=1, bins=6), torch.tensor([0.4, -0.3])

    def model():
        with pyro.plate("rows", 2):
            z = pyro.sample("z", prior, infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(z, 0.7), obs=x)

    loss = TraceEnum_ELBO(max_plate_nesting=1).loss(model, lambda: None)
    z = prior.enumerate_support()[:, None]
    log_joint = prior.log_prob(z) + dist.Normal(z, 0.7).log_prob(x)
    assert loss == pytest.approx(-log_joint.logsumexp(0).sum().item(), abs=1e-5)
