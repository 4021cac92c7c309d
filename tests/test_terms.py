"""The log-weights of one run of guide and model, against formulas written out by hand."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch.testing import assert_close

from pyrogen.inference import ELBO
from pyrogen.inference.terms import plate_nesting, run
from tests.oracles import DOUBLE, ZERO, Forced, gauss_hermite, normal, normal_noise
from tests.programs import ONE, vector_guide, vector_model, x_rows
from tests.statistics import assert_mean


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


@pytest.mark.parametrize("particles", [1, 4])
def test_log_w_is_the_formula_for_every_particle_and_row(particles):
    x, z = x_rows(5), torch.randn(particles, 5, 2, **DOUBLE)
    with Forced({"z": z.squeeze(0)}):
        terms = run(vector_model, vector_guide, x, particles=particles, nesting=1)
    q = normal(z, torch.stack([x / 2, x / 3], -1), 0.7).sum(-1)
    p = normal(z).sum(-1) + normal(x, z.sum(-1))
    assert_close(terms.log_w, p - q)
    assert_close(terms.log_p, p)
    assert_close(terms.log_q, q)
    assert (terms.particles, terms.n_rows, terms.size, terms.scale) == (particles, 5, 5, 1.0)


def test_pixels_in_a_plate_of_their_own_give_the_same_rows_as_pixels_in_the_event():
    def model(x, plate):
        with pyro.plate("rows", 3, dim=-2 if plate else -1):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            if plate:
                with pyro.plate("pixels", 4, dim=-1):
                    pyro.sample("x", Normal(z, 1.0), obs=x)
            else:
                pyro.sample("x", Normal(z.unsqueeze(-1).expand(*z.shape, 4), 1.0).to_event(1), obs=x)

    def guide(x, plate):
        mean = x.mean(-1, keepdim=plate)
        with pyro.plate("rows", 3, dim=-2 if plate else -1):
            pyro.sample("z", Normal(mean, 1.0))

    x, z = x_rows(3, 4), torch.randn(2, 3, **DOUBLE)
    with Forced({"z": z.unsqueeze(-1)}):
        plates = run(model, guide, x, True, particles=2, nesting=2)
    with Forced({"z": z}):
        events = run(model, guide, x, False, particles=2, nesting=1)
    assert plates.n_rows == 3 and plates.size == 3
    assert_close(plates.log_w, events.log_w)
    assert_close(plates.latents["z"].kl, events.latents["z"].kl)


def test_two_plates_of_rows_give_a_log_weight_to_every_cell():
    def model(x):
        with pyro.plate("a", 2, dim=-2), pyro.plate("b", 3, dim=-1):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("a", 2, dim=-2), pyro.plate("b", 3, dim=-1):
            pyro.sample("z", Normal(x, 1.0))

    x, z = x_rows(2, 3), torch.randn(4, 2, 3, **DOUBLE)
    with Forced({"z": z}):
        terms = run(model, guide, x, particles=4, nesting=2)
    assert_close(terms.log_w, (normal(z) + normal(x, z) - normal(z, x)).reshape(4, 6))


def test_steps_of_a_sequential_plate_add_up_within_their_row():
    def model(x):
        with pyro.plate("rows", 3):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            for t in pyro.plate("steps", 2):
                z = pyro.sample(f"z{t}", Normal(z, 1.0))
                pyro.sample(f"x{t}", Normal(z, 1.0), obs=x[:, t])

    def guide(x):
        with pyro.plate("rows", 3):
            pyro.sample("z", Normal(ZERO, 1.0))
            for t in pyro.plate("steps", 2):
                pyro.sample(f"z{t}", Normal(x[:, t], 1.0))

    x, z = x_rows(3, 2), torch.randn(3, 5, 3, **DOUBLE)
    with Forced({"z": z[0], "z0": z[1], "z1": z[2]}):
        terms = run(model, guide, x, particles=5, nesting=1)
    expected = normal(z[1], z[0]) + normal(z[2], z[1]) + normal(x[:, 0], z[1]) + normal(x[:, 1], z[2])
    assert_close(terms.log_w, expected - normal(z[1], x[:, 0]) - normal(z[2], x[:, 1]))


def test_subsampling_scales_what_a_row_stands_for_and_not_its_log_weight():
    def model(x, size):
        with pyro.plate("rows", size, subsample=torch.arange(5)):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x, size):
        with pyro.plate("rows", size, subsample=torch.arange(5)):
            pyro.sample("z", Normal(x, 1.0))

    x, z = x_rows(5), torch.randn(3, 5, **DOUBLE)
    for size in (5, 20):
        with Forced({"z": z}):
            terms = run(model, guide, x, size, particles=3, nesting=1)
        assert_close(terms.log_w, normal(z) + normal(x, z) - normal(z, x))
        assert (terms.size, terms.scale) == (size, size / 5)
        assert_close(terms.weighted_likelihood, terms.log_likelihood)
        assert terms.latents["z"].scale == 1.0


@pytest.mark.parametrize("particles", [1, 3])
def test_a_model_that_draws_its_own_minibatch_sees_the_rows_that_the_guide_saw(particles):
    data = x_rows(20)

    def model():
        with pyro.plate("rows", 20, subsample_size=5) as rows:
            z = pyro.sample("z", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=data[rows])

    def guide():
        with pyro.plate("rows", 20, subsample_size=5) as rows:
            pyro.sample("z", Normal(data[rows], 1e-6))

    terms = run(model, guide, particles=particles)
    assert (terms.particles, terms.n_rows, terms.size) == (particles, 5, 20)
    # z is the guide's x, so the residual is zero only if both programs took the same rows
    assert_close(
        terms.log_likelihood, torch.full((particles, 5), -0.5 * math.log(2 * math.pi), **DOUBLE), atol=1e-9, rtol=0
    )


def test_global_and_local_latents_are_kept_apart():
    def model(x):
        w = pyro.sample("w", Normal(torch.zeros(2, **DOUBLE), 1.0).to_event(1))
        with pyro.plate("units", 4):
            u = pyro.sample("u", Normal(ZERO, 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Normal(w.sum(-1), 1.0))
            pyro.sample("x", Normal(z + u.sum(-1, keepdim=True), 1.0), obs=x)

    def guide(x):
        pyro.sample("w", Normal(torch.ones(2, **DOUBLE), 0.5).to_event(1))
        with pyro.plate("units", 4):
            pyro.sample("u", Normal(ZERO, 0.5))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Normal(x, 0.5))

    x, w, u, z = x_rows(3), *(torch.randn(5, *s, **DOUBLE) for s in ((1, 2), (4,), (3,)))
    with Forced({"w": w, "u": u, "z": z}):
        terms = run(model, guide, x, particles=5, nesting=1)
    local = normal(z, w.sum(-1)) - normal(z, x, 0.5) + normal(x, z + u.sum(-1, keepdim=True))
    overall = (normal(w) - normal(w, 1.0, 0.5)).sum((-1, -2)) + (normal(u) - normal(u, 0.0, 0.5)).sum(-1)
    assert_close(terms.log_w, local)
    assert_close(terms.global_log_w, overall)
    assert [name for name, site in terms.latents.items() if site.is_global] == ["w", "u"]
    assert terms.latents["u"].kl.shape == (5, 1, 1)


def test_a_guide_may_call_its_plate_otherwise():
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", Normal(torch.stack([x / 2, x / 3], -1), 0.7).to_event(1))

    x, z = x_rows(5), torch.randn(3, 5, 2, **DOUBLE)
    with Forced({"z": z}):
        assert_close(
            run(vector_model, guide, x, particles=3).log_w, run(vector_model, vector_guide, x, particles=3).log_w
        )


def test_plates_are_counted_without_touching_the_random_state():
    x = x_rows(3)
    before = torch.get_rng_state()
    assert plate_nesting(vector_model, vector_guide, x) == 1
    assert torch.equal(torch.get_rng_state(), before)


A, B, C, D = 0.8, 0.6, 1.3, 0.9  # z2 ~ N(0, 1), z1 ~ N(A z2, B), x ~ N(C z1, D)
X = 0.7


def two_layer_model(x):
    with pyro.plate("rows", len(x)):
        z2 = pyro.sample("z2", Normal(ZERO, 1.0))
        z1 = pyro.sample("z1", Normal(A * z2, B))
        pyro.sample("x", Normal(C * z1, D), obs=x)


def bottom_up(x):
    with pyro.plate("rows", len(x)):
        z1 = pyro.sample("z1", Normal(0.5 * x, 0.7))
        pyro.sample("z2", Normal(0.4 * z1, 0.8))


def top_down(x):
    with pyro.plate("rows", len(x)):
        z2 = pyro.sample("z2", Normal(0.3 * x, 0.8))
        pyro.sample("z1", Normal(0.5 * z2 + 0.2 * x, 0.7))


def two_layer_elbo(guide):
    """E_q[log p - log q], by quadrature over the guide's two standard normals."""
    eps, weight = gauss_hermite(20, 2)
    first, second = eps.unbind(-1)
    if guide is bottom_up:
        z1 = 0.5 * X + 0.7 * first
        z2 = 0.4 * z1 + 0.8 * second
        log_q = normal(z1, 0.5 * X, 0.7) + normal(z2, 0.4 * z1, 0.8)
    else:
        z2 = 0.3 * X + 0.8 * first
        z1 = 0.5 * z2 + 0.2 * X + 0.7 * second
        log_q = normal(z2, 0.3 * X, 0.8) + normal(z1, 0.5 * z2 + 0.2 * X, 0.7)
    return (weight * (normal(z2) + normal(z1, A * z2, B) + normal(X, C * z1, D) - log_q)).sum()


@pytest.mark.parametrize("guide", [top_down, bottom_up])
def test_the_elbo_of_two_layers_is_right_whichever_the_guide_draws_first(guide):
    eps, weight = gauss_hermite(20, 2)
    x = torch.full((len(weight),), X, **DOUBLE)
    with normal_noise(*eps.unbind(-1)):
        terms = run(two_layer_model, guide, x)
    kl = sum(s.kl.sum(-1) if s.kl is not None else s.log_q - s.log_p for s in terms.latents.values())
    assert_close((weight * (terms.log_likelihood - kl)).sum(), two_layer_elbo(guide))
    torch.manual_seed(3)
    values = torch.stack([ELBO()(two_layer_model, guide, x[:100]).bound for _ in range(100)])
    assert_mean(values, two_layer_elbo(guide))


def test_a_site_that_is_drawn_before_its_parent_in_the_model_gets_no_closed_form_kl():
    x = x_rows(3)
    downwards, upwards = run(two_layer_model, top_down, x).latents, run(two_layer_model, bottom_up, x).latents
    assert downwards["z1"].kl is not None and downwards["z2"].kl is not None
    # z2's own prior needs no parent, but z1's prior is at a z2 that is drawn given z1
    assert upwards["z1"].kl is None and upwards["z2"].kl is not None


def test_the_closed_form_kl_is_the_mean_of_the_sampled_one():
    eps, weight = gauss_hermite(10)
    x = torch.full((len(weight),), X, **DOUBLE)

    def model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("x", Normal(pyro.sample("z", Normal(ONE / 3, 1.5)), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Normal(x, 0.5))

    with normal_noise(eps.squeeze(-1)):
        site = run(model, guide, x).latents["z"]
    assert_close(site.kl[0, 0, 0], (weight * (site.log_q - site.log_p)).sum())
