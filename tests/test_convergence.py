"""R-hat and effective sample size, against ArviZ and a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyrogen.errors import ShapeError
from pyrogen.ops.convergence import ess, rhat


def autoregressive(chains, draws, phi, seed=0):
    """Stationary AR(1) chains, (chains, draws): tau = (1 + phi) / (1 - phi)."""
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(chains, draws, generator=g, dtype=torch.float64)
    x = noise.clone()
    x[:, 0] /= math.sqrt(1 - phi**2)
    for t in range(1, draws):
        x[:, t] += phi * x[:, t - 1]
    return x


@pytest.mark.parametrize(("chains", "draws", "phi"), [(4, 100, 0.5), (4, 101, 0.9), (8, 20, -0.4), (2, 400, 0.99)])
def test_both_are_those_of_arviz(chains, draws, phi):
    az = pytest.importorskip("arviz")
    x = autoregressive(chains, draws, phi)
    several = torch.stack([x, x.exp() ** 3, (x > 0).double(), x.round()], -1)
    theirs = [az.convert_to_dataset({"x": column.numpy()}) for column in several.unbind(-1)]
    values = [float(np.asarray(az.ess(one)["x"])) for one in theirs]
    np.testing.assert_allclose(ess(several), values, rtol=1e-8)
    np.testing.assert_allclose(rhat(several), [float(np.asarray(az.rhat(one)["x"])) for one in theirs], rtol=1e-8)


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_the_effective_sample_size_of_an_autoregression_is_the_closed_form(phi):
    """tau is estimated to a few per cent from 64000 draws; 15 % is about five of its standard errors."""
    x = autoregressive(64, 1000, phi)
    assert float(ess(x)) == pytest.approx(64_000 * (1 - phi) / (1 + phi), rel=0.15)


def test_a_constant_coordinate_is_nan_and_leaves_the_others_alone():
    x = torch.stack([torch.ones(4, 50, dtype=torch.float64), autoregressive(4, 50, 0.3)], -1)
    assert ess(x)[0].isnan() and rhat(x)[0].isnan()
    assert torch.equal(ess(x)[1], ess(x[..., 1])) and torch.equal(rhat(x)[1], rhat(x[..., 1]))


def test_chains_that_disagree_show_in_r_hat():
    x = autoregressive(4, 200, 0.0)
    assert float(rhat(x)) < 1.02
    x[0] += 2
    assert float(rhat(x)) > 1.2 and float(ess(x)) < 40
    wide = autoregressive(4, 200, 0.0)
    wide[0] *= 6  # the same median: only the folded ranks see it
    assert float(rhat(wide)) > 1.1


def test_bits_need_no_ranks_and_keep_their_dtype():
    bits = autoregressive(4, 100, 0.5) > 0
    torch.testing.assert_close(ess(bits, rank=False), ess(bits.double()), rtol=1e-9, atol=0)
    torch.testing.assert_close(rhat(bits, rank=False), _bulk(bits), rtol=1e-9, atol=0)


def _bulk(bits):
    x = bits.double()
    halves = torch.cat([x[:, :50], x[:, 50:]])
    within, between = halves.var(1).mean(), halves.mean(1).var()
    return (49 / 50 + between / within).sqrt()


def test_many_coordinates_are_worked_on_a_few_at_a_time(monkeypatch):
    x = torch.stack([autoregressive(3, 40, 0.5, seed) for seed in range(7)], -1).reshape(3, 40, 7, 1)
    at_once = ess(x), rhat(x)
    monkeypatch.setattr("pyrogen.ops.convergence._AT_ONCE", 500)
    torch.testing.assert_close((ess(x), rhat(x)), at_once)
    assert at_once[0].shape == (7, 1)


def test_three_draws_are_refused():
    with pytest.raises(ShapeError, match="4 draws"):
        ess(torch.randn(5, 3))
