"""Bounds of minibatches and of global latents, against the bound of the whole data set."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.distributions import MultivariateNormal, Normal
from torch.testing import assert_close

from pyrogen.errors import ModelError
from pyrogen.inference import ELBO, IWAE
from tests.cases import leaves
from tests.oracles import DOUBLE, ZERO, log_mean_exp, minibatches, normal, normal_noise
from tests.statistics import assert_same_mean


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


DATA = torch.tensor([0.3, -1.2, 2.0, 0.9, -0.4], **DOUBLE)


def minibatch_programs(p, rows, with_global):
    size = len(DATA)

    def model(x):
        w = pyro.sample("w", Normal(ZERO, p["t"].exp())) if with_global else 0.0
        with pyro.plate("rows", size, subsample=rows):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(p["b"] * z + w, 0.8), obs=x)

    def guide(x):
        if with_global:
            pyro.sample("w", Normal(p["v"], 0.5))
        with pyro.plate("rows", size, subsample=rows):
            pyro.sample("z", Normal(p["m"] * x, p["s"].exp()))

    return model, guide


LINEAR = [ELBO(), ELBO(3), ELBO(2, beta=0.3), ELBO(3, gradient="stl")]
WEIGHTED = [IWAE(1), IWAE(3), IWAE(2, beta=0.3), IWAE(3, gradient="dreg")]


@pytest.mark.parametrize(
    ("objective", "with_global"),
    # importance weights of global latents do not split over rows: refused, see below
    [*((o, False) for o in LINEAR + WEIGHTED), *((o, True) for o in LINEAR)],
    ids=repr,
)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_mean_over_all_minibatches_is_the_full_bound_and_the_full_gradient(objective, with_global, size):
    """With the scale inside the logarithm, as in Pyro's RenyiELBO, it is not even below the evidence."""
    k = objective.particles
    eps, eps_w = torch.randn(k, 5, **DOUBLE), torch.randn(k, 1, **DOUBLE)

    def outcome(rows):
        p = leaves({"t": 0.2, "b": 1.1, "v": 0.4, "m": 0.3, "s": -0.5})
        model, guide = minibatch_programs(p, rows, with_global)
        with normal_noise(*([eps_w] if with_global else []), eps[:, rows]):
            value = objective(model, guide, DATA[rows], nesting=1)
        gradients = torch.autograd.grad(value.loss, list(p.values()), allow_unused=True)
        return torch.stack([value.bound, *(ZERO if g is None else g for g in gradients)])

    full = outcome(torch.arange(5))
    assert_close(torch.stack([outcome(rows) for rows in minibatches(5, size)]).mean(0), full)


def conjugate(rows, loc, scale, size=5):
    """w ~ Normal(0, 1), x_n ~ Normal(w, 1)."""

    def model(x):
        w = pyro.sample("w", Normal(ZERO, 1.0))
        with pyro.plate("rows", size, subsample=rows):
            pyro.sample("x", Normal(w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", Normal(loc, scale))

    return model, guide


def test_the_elbo_of_a_conjugate_model_is_its_closed_form():
    loc, scale = ZERO + 0.3, ZERO + 0.6
    model, guide = conjugate(torch.arange(5), loc, scale)
    # noise +1 and -1 has the moments that the expectation of a quadratic needs
    with normal_noise(torch.tensor([[1.0], [-1.0]], **DOUBLE)):
        value = ELBO(2)(model, guide, DATA, nesting=1)
    likelihood = (-0.5 * ((DATA - loc) ** 2 + scale**2) - 0.5 * math.log(2 * math.pi)).sum()
    kl = 0.5 * (loc**2 + scale**2 - 1) - scale.log()
    assert_close(value.bound, (likelihood - kl) / 5)


def test_at_the_exact_posterior_every_bound_is_the_evidence_in_nats_per_row():
    precision = 1 + len(DATA)
    model, guide = conjugate(torch.arange(5), DATA.sum() / precision, torch.tensor(precision**-0.5, **DOUBLE))
    evidence = MultivariateNormal(torch.zeros(5, **DOUBLE), torch.eye(5, **DOUBLE) + 1).log_prob(DATA)
    for objective in (ELBO(1, gradient="stl"), ELBO(4, gradient="stl"), IWAE(1), IWAE(4), IWAE(4, gradient="dreg")):
        assert_close(objective(model, guide, DATA).bound, evidence / 5)


def test_an_importance_weight_of_global_latents_is_one_for_the_whole_data_set():
    loc, scale, k = ZERO + 0.3, ZERO + 0.6, 4
    model, guide = conjugate(torch.arange(5), loc, scale)
    eps = torch.randn(k, 1, **DOUBLE)
    with normal_noise(eps):
        value = IWAE(k)(model, guide, DATA, nesting=1)
    w = loc + scale * eps
    log_w = normal(w).squeeze(-1) + normal(DATA, w).sum(-1) - normal(w, loc, scale).squeeze(-1)
    assert_close(value.bound, log_mean_exp(log_w) / 5)


def test_dreg_of_local_and_global_latents_together_agrees_with_the_plain_gradient():
    """One weight per particle for everything, so it is spread over the codes of all rows."""
    x, p = DATA[:2], leaves({"v": 0.4, "m": 0.3, "s": -0.3})

    def model(x):
        w = pyro.sample("w", Normal(ZERO, 1.0))
        with pyro.plate("rows", 2):
            pyro.sample("x", Normal(pyro.sample("z", Normal(w, 1.0)), 0.8), obs=x)

    def guide(x):
        pyro.sample("w", Normal(p["v"], p["s"].exp()))
        with pyro.plate("rows", 2):
            pyro.sample("z", Normal(p["m"] * x, p["s"].exp()))

    def draws(gradient):
        losses = (IWAE(3, gradient=gradient)(model, guide, x, nesting=1).loss for _ in range(300))
        return torch.stack([torch.stack(torch.autograd.grad(loss, list(p.values()))) for loss in losses])

    assert_same_mean(draws("auto"), draws("dreg"))


def test_an_importance_weighted_bound_of_global_latents_on_a_minibatch_is_refused():
    model, guide = conjugate(torch.tensor([0, 3]), ZERO, ZERO + 1)
    with pytest.raises(ModelError, match=r"minibatch of 2 of 5 rows and global latents.*ELBO"):
        IWAE(3)(model, guide, DATA[:2])
    assert ELBO(3)(model, guide, DATA[:2]).bound.isfinite()


def test_an_importance_weighted_bound_of_some_pixels_of_each_row_is_refused():
    """Scaled inside the logarithm it can exceed the evidence; the ELBO is linear and stays a bound on average."""
    x = torch.randn(3, 6, **DOUBLE)

    def programs(pixels):
        def model(x):
            with pyro.plate("rows", 3, dim=-2):
                z = pyro.sample("z", Normal(ZERO, 1.0))
                with pyro.plate("pixels", 6, subsample=pixels, dim=-1):
                    pyro.sample("x", Normal(z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("rows", 3, dim=-2):
                pyro.sample("z", Normal(torch.zeros(3, 1, **DOUBLE), 1.0))

        return model, guide

    with pytest.raises(ModelError, match="subsampled plate inside the rows"):
        IWAE(3)(*programs(torch.tensor([0, 2])), x[:, :2])

    def bound(pixels):
        with normal_noise(torch.full((2, 3, 1), 0.3, **DOUBLE)):
            return ELBO(2)(*programs(pixels), x[:, pixels], nesting=2).bound

    assert_close(torch.stack([bound(p) for p in minibatches(6, 2)]).mean(), bound(torch.arange(6)))
