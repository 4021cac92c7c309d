"""Densities of whole rows, and those of rows that carry their context."""

from __future__ import annotations

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrogen.distributions.transforms import ActNorm, AffineCoupling, CylinderSpline, Flow, Rotation
from pyrogen.errors import ShapeError, SupportError
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import fit
from pyrogen.models import Density, FlowModel, SphereFlow
from tests.layers import stirred
from tests.zoo import all_of, small


@pytest.fixture(autouse=True)
def fresh_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def conditional() -> FlowModel:
    couplings = [AffineCoupling(2, (16,), context=1, swap=swap) for swap in (False, True)]
    return FlowModel(Flow([ActNorm(2), *couplings]))


@pytest.mark.parametrize("name", all_of(Density))
def test_the_bound_of_a_density_is_its_log_prob(name):
    model = small(name).eval()
    assert isinstance(model, Density)
    x = model.sample(5)
    assert x.shape == (5, model.width)
    loss = Trace_ELBO().loss(model.model, model.guide, x)
    torch.testing.assert_close(torch.tensor(-loss), model.log_prob(x).sum().detach(), atol=1e-4, rtol=1e-5)


def test_a_conditional_flow_is_for_each_context_the_flow_of_that_context():
    model = FlowModel(stirred(conditional().flow.layer.inv))
    x, c = torch.randn(6, 2, dtype=torch.float64), torch.randn(6, 1, dtype=torch.float64)
    joint = model.log_prob(torch.cat([x, c], -1))
    for i in range(6):
        alone = model.dist(c[i]).log_prob(x[i])
        torch.testing.assert_close(joint[i], alone)
    assert (joint - model.log_prob(torch.cat([x, c.flip(0)], -1))).abs().max() > 1e-3


def test_it_learns_how_rows_depend_on_their_context():
    """x | c ~ N(2c, I/4): of rows with c in {-1, 1} a flow without the context finds two humps, this one 1.45 nats."""
    source = torch.Generator().manual_seed(0)
    c = torch.randint(0, 2, (2000, 1), generator=source).float() * 2 - 1
    rows = torch.cat([2 * c + 0.5 * torch.randn(2000, 2, generator=source), c], 1)
    model = conditional()
    model.prepare(rows[:1500])
    fit(model, rows[:1500], epochs=15, learning_rate=0.01, progress=False)
    best = torch.distributions.Normal(2 * rows[1500:, 2:], 0.5).log_prob(rows[1500:, :2]).sum(1).mean()
    assert 0 < best - log_likelihood(model, rows[1500:]).mean < 0.1
    drawn = model.sample(500, torch.tensor([1.0]))
    assert drawn.shape == (500, 2) and (drawn.mean(0) - 2).abs().max() < 0.2


def test_a_conditional_density_on_the_globe_integrates_to_one_for_each_context():
    model = SphereFlow(Flow([Rotation(3, 1.0), CylinderSpline(4, (5,), context=2)]))
    model.layer = stirred(model.layer)
    z, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(60))
    a = torch.arange(120, dtype=torch.float64) * (2 * torch.pi / 120)
    r = (1 - z * z).sqrt()[:, None]
    x = torch.stack([r * a.cos(), r * a.sin(), z[:, None].expand(-1, 120)], -1).reshape(-1, 3)
    for c in ([0.0, 0.0], [1.0, -2.0]):
        rows = torch.cat([x, torch.tensor(c, dtype=torch.float64).expand(len(x), 2)], 1)
        mass = (model.log_prob(rows).detach().exp().reshape(60, 120).sum(1) * w).sum() * (2 * torch.pi / 120)
        assert abs(float(mass) - 1) < 2e-3


def test_rows_without_their_context_are_refused():
    model = conditional()
    with pytest.raises(ShapeError, match="and then a context of 1"):
        model.log_prob(torch.zeros(3, 2))
    with pytest.raises(ShapeError):
        model.check(torch.zeros(3, 2))
    with pytest.raises(SupportError):
        SphereFlow(CylinderSpline(4, (5,), context=1)).check(torch.ones(3, 4))
    with pytest.raises(ShapeError, match="no context"):
        model.sample(2)
