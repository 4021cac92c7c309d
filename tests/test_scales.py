"""Masks and scales of sites, on either side of the pair."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from torch.testing import assert_close

from pyrogen.errors import ModelError
from pyrogen.inference.terms import run
from tests.oracles import DOUBLE, ZERO, Forced, normal
from tests.programs import vector_guide, vector_model, x_rows


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


@pytest.mark.parametrize("how", ["poutine", "method"])
def test_masked_rows_count_for_nothing(how):
    mask = torch.tensor([True, False, True])

    def program(x, latent, observed):
        with pyro.plate("rows", 3):
            if how == "poutine":
                with poutine.mask(mask=mask):
                    z = pyro.sample("z", latent)
                    observed and pyro.sample("x", Normal(z, 1.0), obs=x)
            else:
                z = pyro.sample("z", latent.mask(mask))
                observed and pyro.sample("x", Normal(z, 1.0).mask(mask), obs=x)

    x, z = x_rows(3), torch.randn(3, **DOUBLE)
    with Forced({"z": z}):
        terms = run(lambda x: program(x, Normal(ZERO, 1.0), True), lambda x: program(x, Normal(x, 0.5), False), x)
    expected = (normal(z) + normal(x, z) - normal(z, x, 0.5)) * mask
    assert_close(terms.log_w, expected.unsqueeze(0))
    kl = 0.5 * (0.25 + x**2 - 1) - math.log(0.5)
    if terms.latents["z"].kl is not None:
        assert_close(terms.latents["z"].kl.squeeze(-1), (kl * mask).unsqueeze(0))


def test_a_mask_on_one_side_only_is_refused_because_it_would_leave_an_entropy_in_the_bound():
    def model(x):
        with pyro.plate("rows", 3), poutine.mask(mask=torch.tensor([True, False, True])):
            pyro.sample("x", Normal(pyro.sample("z", Normal(ZERO, 1.0)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", 3):
            pyro.sample("z", Normal(x, 1.0))

    with pytest.raises(ModelError, match="'z' with other entries masked"):
        run(model, guide, x_rows(3))
    whole = poutine.mask(guide, mask=torch.tensor([True, False, True]))
    assert run(model, whole, x_rows(3)).log_w[0, 1] == 0


def test_a_flat_prior_written_as_a_mask_over_the_whole_site_is_allowed():
    def model(x):
        with pyro.plate("rows", 3):
            with poutine.mask(mask=False):
                z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", 3):
            pyro.sample("z", Normal(x, 1.0))

    x, z = x_rows(3), torch.randn(3, **DOUBLE)
    with Forced({"z": z}):
        terms = run(model, guide, x)
    assert_close(terms.log_w, (normal(x, z) - normal(z, x)).unsqueeze(0))
    assert terms.latents["z"].kl is None


def test_entries_that_obs_mask_leaves_open_are_latents_of_the_guide():
    mask = torch.tensor([True, False, True])

    def model(x):
        with pyro.plate("rows", 3):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x, obs_mask=mask)

    def guide(x):
        with pyro.plate("rows", 3):
            pyro.sample("z", Normal(x, 0.5))
            with poutine.mask(mask=~mask):
                pyro.sample("x_unobserved", Normal(ZERO, 2.0))

    x, z, u = x_rows(3), torch.randn(4, 3, **DOUBLE), torch.randn(4, 3, **DOUBLE)
    with Forced({"z": z, "x_unobserved": u}):
        terms = run(model, guide, x, particles=4)
    open_entries = (normal(u, z) - normal(u, 0.0, 2.0)) * ~mask
    assert_close(terms.log_w, normal(z) - normal(z, x, 0.5) + normal(x, z) * mask + open_entries)
    with pytest.raises(ModelError, match="x_unobserved"):
        run(model, poutine.block(guide, hide=["x_unobserved"]), x)


def scaled(side, on, scale):
    return poutine.scale(scale=scale) if side in on else poutine.scale(scale=1.0)


@pytest.mark.parametrize("on", ["model", "guide", "model guide"])
@pytest.mark.parametrize("size", [3, 12])
@pytest.mark.parametrize("scale", [0.25, torch.tensor(0.25, **DOUBLE), torch.tensor([0.25, 0.5, 2.0], **DOUBLE)])
def test_a_scale_on_either_side_or_the_same_on_both_is_one_weight_of_the_kl(on, size, scale):
    def model(x):
        with pyro.plate("rows", size, subsample=torch.arange(3)):
            with scaled("model", on, scale):
                z = pyro.sample("z", Normal(ZERO, 1.0))
            with poutine.scale(scale=3.0):
                pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", size, subsample=torch.arange(3)), scaled("guide", on, scale):
            pyro.sample("z", Normal(x, 0.5))

    x, z = x_rows(3), torch.randn(2, 3, **DOUBLE)
    with Forced({"z": z}):
        terms = run(model, guide, x, particles=2)
    site = terms.latents["z"]
    assert_close(torch.as_tensor(site.scale, **DOUBLE).expand(2, 3), torch.as_tensor(scale, **DOUBLE).expand(2, 3))
    # the terms themselves are never scaled, so that the reported bound is the true one
    assert_close(site.log_p - site.log_q, normal(z) - normal(z, x, 0.5))
    assert_close(terms.log_likelihood, normal(x, z))
    assert_close(terms.weighted_likelihood, 3 * normal(x, z))


def test_two_different_scales_of_one_site_are_refused():
    model = poutine.scale(vector_model, scale=0.5)
    with pytest.raises(ModelError, match=r"scaled by 0.5 in the model and 0.25 in the guide"):
        run(model, poutine.scale(vector_guide, scale=0.25), x_rows(3))
    with pytest.raises(ModelError, match="one weight"):
        run(model, poutine.scale(vector_guide, scale=torch.tensor(0.25)), x_rows(3))


def test_weights_of_rows_reach_their_rows_also_when_pixels_have_a_plate():
    weights = torch.tensor([[1.0], [2.0], [3.0]], **DOUBLE)

    def model(x):
        with pyro.plate("rows", 3, dim=-2), poutine.scale(scale=weights):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            with pyro.plate("pixels", 2, dim=-1):
                pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", 3, dim=-2):
            pyro.sample("z", Normal(x.mean(-1, keepdim=True), 0.5))

    x, z = x_rows(3, 2), torch.randn(4, 3, 1, **DOUBLE)
    with Forced({"z": z}):
        terms = run(model, guide, x, particles=4)
    assert_close(terms.weighted_likelihood, normal(x, z).sum(-1) * weights.squeeze(-1))
    assert_close(terms.latents["z"].scale, weights.squeeze(-1).expand(4, 3))
