"""Discrete, deterministic, transformed and auxiliary sites."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Delta, Gamma, LogNormal, MultivariateNormal, Normal
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch.testing import assert_close

from pyrogen.errors import ModelError
from pyrogen.inference import ELBO, IWAE
from pyrogen.inference.terms import run
from tests.oracles import DOUBLE, ZERO, Forced, bits, gauss_hermite, normal
from tests.programs import ONE, vector_model, x_rows
from tests.statistics import assert_mean


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def test_discrete_sites_have_their_log_probabilities_and_are_not_reparameterized():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Bernoulli(torch.full((2,), 0.3, **DOUBLE)).to_event(1))
            pyro.sample("x", Normal(z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Bernoulli(torch.full((2,), 0.6, **DOUBLE)).to_event(1))

    x, z = x_rows(3), bits(2).unsqueeze(1).expand(4, 3, 2)
    with Forced({"z": z}):
        terms = run(model, guide, x, particles=4)
    ones = z.sum(-1)
    p, q = (ones * math.log(r) + (2 - ones) * math.log(1 - r) for r in (0.3, 0.6))
    assert_close(terms.log_w, p - q + normal(x, ones))
    kl = 0.6 * math.log(2) + 0.4 * math.log(0.4 / 0.7)
    assert_close(terms.latents["z"].kl, torch.full((4, 3, 2), kl, **DOUBLE))
    assert not terms.latents["z"].reparameterized


def test_pyro_deterministic_and_pyro_factor_leave_the_rows_as_they_are():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.factor("tilt", -z)
            pyro.deterministic("double", 2 * z, event_dim=0)
            pyro.sample("x", Normal(z, 1.0), obs=x)
        pyro.deterministic("outside", z.sum())

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.deterministic("seen", pyro.sample("z", Normal(x, 1.0)))

    x, z = x_rows(3), torch.randn(2, 3, **DOUBLE)
    with Forced({"z": z}):
        terms = run(model, guide, x, particles=2)
    assert_close(terms.log_w, normal(z) + normal(x, z) - z - normal(z, x))


def test_an_auto_guide_of_a_positive_latent_has_the_density_of_the_value_not_of_its_logarithm():
    def model(x):
        rate = pyro.sample("rate", Gamma(2.0 * ONE, 3.0 * ONE))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Exponential(rate), obs=x)

    x = torch.tensor([0.5, 1.0, 2.0], **DOUBLE)
    guide = AutoNormal(model, init_loc_fn=lambda site: ONE, init_scale=0.4)
    # by quadrature: log rate = 0.4 eps
    eps, weight = gauss_hermite(60)
    rate = (0.4 * eps.squeeze(-1)).exp()
    log_q = LogNormal(ZERO, 0.4).log_prob(rate)
    log_p = Gamma(2.0 * ONE, 3.0 * ONE).log_prob(rate) + sum(rate.log() - rate * x_n for x_n in x)
    expected = (weight * (log_p - log_q)).sum() / 3
    values = torch.stack([ELBO(particles=100)(model, guide, x).bound for _ in range(100)])
    assert_mean(values, expected)
    # STL's second pass must see the same auxiliary draws
    values = torch.stack([ELBO(particles=100, gradient="stl")(model, guide, x).bound for _ in range(100)])
    assert_mean(values, expected)


def test_a_scale_of_one_site_is_refused_when_an_auxiliary_site_draws_it():
    def model(x):
        with pyro.plate("rows", len(x)):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    with pytest.raises(ModelError, match=r"poutine.scale on some latent sites.*beta"):
        run(model, AutoNormal(model), x_rows(3))
    # around both programs it is one weight
    pyro.clear_param_store()
    both = poutine.scale(vector_model, scale=0.5)
    guide = poutine.scale(AutoNormal(vector_model), scale=0.5)
    assert {site.scale for site in run(both, guide, x_rows(3)).latents.values()} == {0.5}


def test_one_auxiliary_site_for_all_rows_is_global_and_the_elbo_is_still_exact():
    """AutoMultivariateNormal draws the codes of all rows at once."""
    x = x_rows(3)

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    guide = AutoMultivariateNormal(model, init_loc_fn=lambda site: x / 2, init_scale=math.sqrt(0.5))
    evidence = MultivariateNormal(torch.zeros(3, **DOUBLE), 2 * torch.eye(3, **DOUBLE)).log_prob(x)
    for objective in (ELBO(), ELBO(particles=3), IWAE(particles=3)):
        assert_close(objective(model, guide, x).bound, evidence / 3)


def test_a_delta_guide_gives_the_log_joint_at_its_point():
    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Delta(torch.stack([x, x], -1), event_dim=1))

    x = x_rows(3)
    terms = run(vector_model, guide, x)
    assert_close(terms.log_w, (2 * normal(x) + normal(x, 2 * x)).unsqueeze(0))
    assert_close(terms.log_likelihood - terms.latents["z"].kl.sum(-1), terms.log_w)
