"""The rational-quadratic spline: what the paper says, its tails, its bounds, and one path for all entries."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from pyrogen.distributions.transforms import Spline, SplineCoupling
from pyrogen.ops.spline import MIN_BIN, MIN_SLOPE, rational_quadratic
from tests.operations import operations

BOUND, K = 3.0, 6


@pytest.fixture(autouse=True)
def same_noise():
    torch.manual_seed(0)


def draws(n: int, dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(4)
    bins = scale * torch.randn(n, 2, K, generator=source, dtype=torch.float64)
    return bins.to(dtype), (scale * torch.randn(n, K - 1, generator=source, dtype=torch.float64)).to(dtype)


def by_the_paper(x: float, bins: Tensor, slopes: Tensor) -> tuple[float, float]:
    """Equations 4 and 5 of Durkan et al. in plain numbers: xi in the bin, s the slope of the chord, delta at knots."""
    w, h = (2 * BOUND * (MIN_BIN + (1 - K * MIN_BIN) * row.softmax(-1)) for row in bins)
    xs = [-BOUND + float(w[:i].sum()) for i in range(K + 1)]
    ys = [-BOUND + float(h[:i].sum()) for i in range(K + 1)]
    shift = math.log(math.expm1(1 - MIN_SLOPE))
    delta = [1.0, *(MIN_SLOPE + softplus(slopes + shift)).tolist(), 1.0]
    k = max(i for i in range(K) if xs[i] <= x)
    xi, s = (x - xs[k]) / (xs[k + 1] - xs[k]), (ys[k + 1] - ys[k]) / (xs[k + 1] - xs[k])
    bottom = s + (delta[k + 1] + delta[k] - 2 * s) * xi * (1 - xi)
    y = ys[k] + (ys[k + 1] - ys[k]) * (s * xi**2 + delta[k] * xi * (1 - xi)) / bottom
    slope = s**2 * (delta[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + delta[k] * (1 - xi) ** 2) / bottom**2
    return y, math.log(slope)


def test_it_is_the_formula_of_the_paper():
    bins, slopes = draws(40)
    x = torch.linspace(-2.99, 2.99, 40, dtype=torch.float64)
    y, log_slope = rational_quadratic(x, bins, slopes, BOUND)
    expected = torch.tensor([by_the_paper(float(x[i]), bins[i], slopes[i]) for i in range(40)], dtype=torch.float64)
    torch.testing.assert_close(y, expected[:, 0], atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope, expected[:, 1], atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_undoes_it_at_every_place(dtype):
    bins, slopes = draws(4000, dtype)
    x = torch.linspace(-1.5 * BOUND, 1.5 * BOUND, 4000, dtype=dtype)
    y, log_slope = rational_quadratic(x, bins, slopes, BOUND)
    back, log_back = rational_quadratic(y, bins, slopes, BOUND, inverse=True)
    slope = log_slope.exp()
    eps = torch.finfo(dtype).eps
    # what rounding y to eps does to x is eps over the slope
    assert bool(((back - x).abs() <= 100 * eps * (1 + 1 / slope)).all())
    assert bool(((log_back + log_slope).abs() <= 1e3 * eps * (1 + 1 / slope)).all())


def test_both_bounds_and_all_knots_are_hit_without_a_jump():
    bins, slopes = draws(200)
    for edge in (-BOUND, BOUND):
        x = torch.tensor([edge - 1e-9, edge, edge + 1e-9], dtype=torch.float64)
        y, log_slope = rational_quadratic(x, bins[:, None], slopes[:, None], BOUND)
        assert (y - x).abs().max() < 1e-8
        assert log_slope.abs().max() < 1e-5
        assert log_slope[:, 1].abs().max() < 1e-13  # the slope at the bound itself is 1, and not 1 - MIN_SLOPE
    w = 2 * BOUND * (MIN_BIN + (1 - K * MIN_BIN) * bins[:, 0].softmax(-1))
    knots = -BOUND + w.cumsum(-1)[:, :-1]
    below, above = (rational_quadratic(knots + e, bins[:, None], slopes[:, None], BOUND) for e in (-1e-10, 1e-10))
    assert (below[0] - above[0]).abs().max() < 1e-7 and (below[1] - above[1]).abs().max() < 1e-5


def test_outside_it_is_exactly_the_identity_with_finite_gradients():
    bins, slopes = (t.float().requires_grad_() for t in draws(6))
    x = torch.tensor([-1e6, -3.0001, -3.0, 3.0, 3.0001, 1e6], requires_grad=True)
    y, log_slope = rational_quadratic(x, bins, slopes, BOUND)
    assert (y - x).abs().max() <= 2.5e-7 * BOUND and log_slope.abs().max() < 1e-6
    assert torch.equal(y[[0, 5]], x[[0, 5]])
    (y.sum() + log_slope.sum()).backward()
    for t in (x, bins, slopes):
        assert t.grad is not None and t.grad.isfinite().all()
    assert torch.equal(x.grad[[0, 5]], torch.ones(2))  # pyright: ignore


def test_steep_and_flat_bins_do_not_lose_the_logarithm():
    """One slope of 1e3 beside one of 1e-3: the slope's numerator in powers of t would cancel to below zero."""
    slopes = torch.tensor([1e3, -20.0, 1e3, -20.0, 1e3]).expand(2000, -1)
    x = torch.linspace(-BOUND, BOUND, 2000)
    y, log_slope = rational_quadratic(x, torch.zeros(2000, 2, K), slopes, BOUND)
    assert log_slope.isfinite().all() and bool((y.diff() > -1e-6).all())


def test_the_inverse_has_a_slope_just_below_every_knot():
    """Rounding can put the root of a bin's last entry above 1, where the slope is negative and its logarithm NaN."""
    bins, slopes = draws(20_000, torch.float32, scale=5.0)
    shares = (bins.double().softmax(-1) * (1 - K * MIN_BIN) + MIN_BIN).cumsum(-1)[:, 1, :-1]
    knots = (2 * BOUND * shares - BOUND).float().T
    for _ in range(3):
        knots = torch.nextafter(knots, torch.tensor(-9.0))
        x, log_slope = rational_quadratic(
            knots, bins.expand(K - 1, -1, -1, -1), slopes.expand(K - 1, -1, -1), BOUND, inverse=True
        )
        assert x.isfinite().all() and log_slope.isfinite().all()


def test_zeros_make_the_identity():
    x = torch.linspace(-5, 5, 101, dtype=torch.float64)
    y, log_slope = rational_quadratic(x, x.new_zeros(101, 2, K), x.new_zeros(101, K - 1), BOUND)
    torch.testing.assert_close(y, x, atol=1e-14, rtol=0)
    assert log_slope.abs().max() < 1e-14


def test_a_circular_spline_has_one_slope_where_it_closes():
    bins, _ = draws(50)
    slopes = torch.randn(50, K, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ends = torch.tensor([-BOUND, BOUND], dtype=torch.float64)
    y, log_slope = rational_quadratic(ends, bins[:, None], slopes[:, None], BOUND, circular=True)
    torch.testing.assert_close(y, ends.expand(50, 2), atol=1e-12, rtol=0)
    torch.testing.assert_close(log_slope[:, 0], log_slope[:, 1], atol=1e-11, rtol=0)
    expected = (MIN_SLOPE + softplus(slopes[:, 0] + math.log(math.expm1(1 - MIN_SLOPE)))).log()
    torch.testing.assert_close(log_slope[:, 0], expected, atol=1e-11, rtol=0)


def test_gradients_are_those_of_the_function():
    bins, slopes = (t.requires_grad_() for t in draws(3))
    x = torch.tensor([-1.3, 0.2, 2.1], dtype=torch.float64, requires_grad=True)
    for inverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda *a, inverse=inverse: rational_quadratic(*a, BOUND, inverse=inverse), (x, bins, slopes)
        )


def test_one_path_for_all_entries_no_wait_for_the_device():
    layer, x = SplineCoupling(6, (8,)), 3 * torch.randn(50, 6)
    for call in (layer.forward_and_log_det, layer.inverse_and_log_det):
        assert operations(lambda call=call: call(x)[1].sum().backward()).waits == 0


def test_settings_that_leave_no_room_are_refused():
    for settings in ({"bins": 1}, {"bins": 1000}, {"bound": 0.0}):
        with pytest.raises(ValueError, match="bins"):
            Spline(**settings)
