"""Kernels around points of the sphere: their density, their draws, and what training by leaving out means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from pyrogen.distributions import SphereKernels, VonMisesFisher
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import fit
from pyrogen.models import KernelDensity
from tests.statistics import assert_mean


def kernels(**settings) -> SphereKernels:
    source = torch.Generator().manual_seed(0)
    points = normalize(torch.randn(4, 3, generator=source, dtype=torch.float64), dim=-1)
    k = torch.tensor([0.0, 3.0, 20.0], dtype=torch.float64)
    return SphereKernels(points, k, torch.tensor([0.3, -0.5, 1.0], dtype=torch.float64), **settings)


def test_it_is_the_mixture_of_its_kernels_and_integrates_to_one():
    law = kernels()
    z, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(60))
    a = torch.arange(120, dtype=torch.float64) * (2 * torch.pi / 120)
    r = (1 - z * z).sqrt()[:, None]
    x = torch.stack([r * a.cos(), r * a.sin(), z[:, None].expand(-1, 120)], -1)
    log_p = law.log_prob(x)
    each = VonMisesFisher(law.points[:, None], law.concentrations).log_prob(x[..., None, None, :]).exp().mean(-2)
    torch.testing.assert_close(log_p.exp(), each @ law.weights.softmax(-1))
    assert abs(float((log_p.exp().sum(1) * w).sum() * (2 * torch.pi / 120)) - 1) < 1e-9


def test_its_draws_have_the_mean_of_the_mixture():
    torch.manual_seed(0)
    law = kernels()
    means = VonMisesFisher(law.points[:, None], law.concentrations).mean.mean(0)
    assert_mean(law.sample((20_000,)), law.weights.softmax(-1) @ means)


def test_a_point_that_is_left_out_is_scored_by_the_others_and_an_equal_one_stays():
    law = kernels(left_out=True)
    for i in range(4):
        others = torch.cat([law.points[:i], law.points[i + 1 :]])
        alone = SphereKernels(others, law.concentrations, law.weights)
        torch.testing.assert_close(law.log_prob(law.points[i]), alone.log_prob(law.points[i]))
    twice = SphereKernels(law.points[[0, 0, 1]], law.concentrations, law.weights, left_out=True)
    once = SphereKernels(law.points[[0, 1]], law.concentrations, law.weights)
    torch.testing.assert_close(twice.log_prob(law.points[0]), once.log_prob(law.points[0]))


def test_training_finds_the_width_of_the_law_and_not_that_of_the_points():
    """Rows around 20 places, 0.1 radians off: the right radius is in the row, and finer ones would fit the points."""
    torch.manual_seed(0)
    places = normalize(torch.randn(20, 3), dim=-1)
    x = VonMisesFisher(places[torch.randint(20, (800,))], 100.0).sample()
    model = KernelDensity(3, points=400, finest=1e-3, scales=7)
    model.prepare(x[:400])
    untrained = log_likelihood(model, x[400:]).mean
    fit(model, x[:400], epochs=10, learning_rate=0.2, progress=False)
    assert log_likelihood(model, x[400:]).mean > untrained + 0.3
    assert float(model.weights.detach().softmax(-1)[-2:].sum()) < 0.02  # radii of 0.003 and 0.001
    assert not model.points.requires_grad and torch.equal(model.points, x[:400])


def test_settings_and_shapes_that_cannot_be_are_refused():
    for settings in ({"points": 1}, {"finest": 1.5}, {"scales": 0}):
        with pytest.raises(SettingsError):
            KernelDensity(3, **({"points": 5} | settings))
    with pytest.raises(SettingsError, match="9 points for 4 rows"):
        KernelDensity(3, points=9).prepare(torch.zeros(4, 3))
    with pytest.raises(SettingsError, match="real data"):
        KernelDensity.build(3, (1, 1, 3), "real")
    with pytest.raises(ShapeError, match="one weight"):
        SphereKernels(torch.eye(3), torch.ones(2), torch.zeros(3))
    with pytest.raises(ShapeError):
        SphereKernels(torch.eye(3)[:1], torch.ones(2), torch.zeros(2), left_out=True)
