"""The log-weights of one run of guide and model, against formulas written out by hand, and what is refused."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Delta, Gamma, LogNormal, MultivariateNormal, Normal
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from torch import nn
from torch.testing import assert_close

from pyrogen.errors import ModelError
from pyrogen.inference import ELBO, IWAE
from pyrogen.inference.terms import plate_nesting, run
from tests.oracles import Forced, bits, gauss_hermite, normal_noise
from tests.statistics import assert_mean

DOUBLE = {"dtype": torch.float64}
ZERO = torch.zeros((), **DOUBLE)
ONE = ZERO + 1


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def normal(value, loc=0.0, scale=1.0):
    """log Normal(value; loc, scale), written out."""
    value, loc, scale = (torch.as_tensor(t, **DOUBLE) for t in (value, loc, scale))
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def x_rows(*shape):
    return torch.linspace(-1, 2, math.prod(shape), **DOUBLE).reshape(shape)


# --- plates ---------------------------------------------------------------------------------------------------------


def vector_model(x, scale=1.0):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", Normal(torch.zeros(2, **DOUBLE), 1.0).to_event(1))
        pyro.sample("x", Normal(z.sum(-1), scale), obs=x)


def vector_guide(x):
    with pyro.plate("rows", len(x)):
        loc = torch.stack([x / 2, x / 3], -1)
        return pyro.sample("z", Normal(loc, 0.7).to_event(1))


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


# --- masks and scales -----------------------------------------------------------------------------------------------


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


# --- two layers: when the closed-form KL may be taken ---------------------------------------------------------------

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


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AutoNormal, AutoDelta, AutoMultivariateNormal])
@pytest.mark.parametrize(("first", "then"), [(6, 9), (6, 3), (1, 9), (6, 1)])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_guide_that_kept_an_old_batch_size_is_refused(kind, first, then, particles):
    """From 6 rows to 1 everything broadcasts: without the check, a bound of one row at six stale codes came out."""
    guide = kind(vector_model)
    guide(x_rows(first))
    with pyro.validation_enabled(False):
        run(vector_model, guide, x_rows(first), particles=particles)
        with pytest.raises(ModelError, match=f"plate 'rows' of {first} rows in the guide; need {then}"):
            run(vector_model, guide, x_rows(then), particles=particles)


def test_missing_and_extra_sites_are_refused_by_name():
    def extra(x):
        vector_guide(x)
        pyro.sample("extra", Normal(ZERO, 1.0))

    for guide, sites in ((lambda x: None, r"\[\] in the guide"), (extra, r"\['extra', 'z'\] in the guide")):
        with pytest.raises(ModelError, match=r"latent sites \['z'\] in the model and " + sites):
            run(vector_model, guide, x_rows(3))


def test_a_model_that_observes_nothing_is_refused():
    with pytest.raises(ModelError, match="observes nothing"):
        run(poutine.block(vector_model, hide=["x"]), vector_guide, x_rows(3))


@pytest.mark.parametrize("event_dim", [1, 2])
def test_a_guide_that_samples_all_rows_outside_the_plate_is_refused(event_dim):
    """With to_event(2) its log q would be the sum over rows, taken off every row."""

    def guide(x):
        pyro.sample("z", Normal(torch.zeros(len(x), 2, **DOUBLE), 1.0).to_event(event_dim))

    with pytest.raises(ModelError, match="'z'"):
        run(vector_model, guide, x_rows(4))


def test_a_latent_that_the_model_forgot_to_put_in_the_plate_is_refused():
    def model(x):
        z = pyro.sample("z", Normal(torch.zeros(4, **DOUBLE), 1.0))
        with pyro.plate("rows", 4):
            pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", Normal(x, 1.0))

    with pytest.raises(ModelError, match="in no plate"):
        run(model, guide, x_rows(4))


def test_a_guide_of_another_shape_is_refused():
    def guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Normal(torch.zeros(1, **DOUBLE), 1.0).to_event(1))

    with pytest.raises((ModelError, ValueError), match=r"event|'z'"):
        run(vector_model, guide, x_rows(4))


# --- sites of other kinds -------------------------------------------------------------------------------------------


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


# --- log q with the guide's parameters held -------------------------------------------------------------------------


class Encoder(nn.Module):
    def __init__(self, p=0.0):
        super().__init__()
        self.linear, self.dropout = nn.Linear(1, 2).double(), nn.Dropout(p)

    def forward(self, x):
        mean, raw = self.linear(3 + self.dropout(x + 3)).unbind(-1)
        return mean, nn.functional.softplus(raw) + 0.1


def scalar_model(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("x", Normal(pyro.sample("z", Normal(ZERO, 1.0)), 1.0), obs=x)


def scalar_guide(encoder, told):
    def guide(x):
        if told:
            pyro.module("encoder", encoder)
        mean, scale = encoder(x.unsqueeze(-1))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Normal(mean, scale))

    return guide


@pytest.mark.parametrize("told", [True, False], ids=["registered", "unknown to Pyro"])
def test_held_parameters_get_no_gradient_from_log_q_but_all_of_it_through_z(told):
    encoder, x = Encoder(), x_rows(4)
    guide = scalar_guide(encoder, told)
    torch.manual_seed(1)
    held = run(scalar_model, guide, x, particles=3, stop_guide=True)
    torch.manual_seed(1)
    plain = run(scalar_model, guide, x, particles=3)
    assert_close(held.log_w, plain.log_w)
    parameters = list(encoder.parameters())
    # of a reparameterized normal, log q depends on the mean not at all and on the scale by -log s alone ...
    direct = torch.autograd.grad(plain.latents["z"].log_q.sum(), parameters)
    # ... and the path is what is left when the direct part is taken off
    mean, scale = encoder(x.unsqueeze(-1))
    z = held.entering["z"].detach()
    score = torch.autograd.grad(normal_log_prob(z, mean, scale).sum(), parameters)
    path = torch.autograd.grad(held.latents["z"].log_q.sum(), parameters)
    for d, s, p in zip(direct, score, path, strict=True):
        assert_close(p, d - s)
    assert all(parameter.requires_grad for parameter in parameters)


def normal_log_prob(value, loc, scale):
    return Normal(loc, scale).log_prob(value)


def test_parameters_are_released_again_when_the_guide_fails():
    encoder = Encoder()
    calls = []

    def guide(x):
        calls.append(1)
        scalar_guide(encoder, True)(x)
        if len(calls) > 1:
            raise RuntimeError("second pass")

    with pytest.raises(RuntimeError, match="second pass"):
        run(scalar_model, guide, x_rows(3), stop_guide=True)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("particles", [1, 3])
def test_dropout_in_an_encoder_is_the_same_in_both_passes_of_the_path_derivative(particles):
    """Two masks would mean a log q of another distribution than the one that z is from: a bound above the evidence."""
    encoder, x = Encoder(p=0.5), x_rows(200)

    def guide(x):
        with pyro.plate("rows", len(x)):
            z0 = pyro.sample("z0", Normal(ZERO, 1.0))
            mean, scale = encoder((x + z0).unsqueeze(-1))
            pyro.sample("z", Normal(mean, scale))

    def model(x):
        with pyro.plate("rows", len(x)):
            z0 = pyro.sample("z0", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(pyro.sample("z", Normal(z0, 1.0)), 1.0), obs=x)

    torch.manual_seed(1)
    held = run(model, guide, x, particles=particles, stop_guide=True)
    after_held = torch.rand(3)
    torch.manual_seed(1)
    plain = run(model, guide, x, particles=particles)
    assert_close(held.log_w, plain.log_w)
    assert torch.equal(after_held, torch.rand(3)), "the second pass must leave the random state as the first did"


def test_shared_parameters_are_held_in_log_q_only():
    """A prior made of the encoder, as in a VampPrior, keeps its own gradient."""
    encoder, x = Encoder(), x_rows(4)

    def model(x):
        pyro.module("encoder", encoder)
        mean, scale = encoder(ONE.reshape(1, 1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", Normal(pyro.sample("z", Normal(mean, scale)), 1.0), obs=x)

    parameters = list(encoder.parameters())
    held = run(model, scalar_guide(encoder, True), x, stop_guide=True)
    z = held.entering["z"]
    prior = Normal(*encoder(ONE.reshape(1, 1))).log_prob(z.detach()).sum()
    whole = torch.autograd.grad(held.latents["z"].log_p.sum(), parameters, retain_graph=True)
    through_z = torch.autograd.grad(held.latents["z"].log_p.sum(), [z], retain_graph=True)
    path = torch.autograd.grad(z, parameters, through_z)
    for w, own, p in zip(whole, torch.autograd.grad(prior, parameters), path, strict=True):
        assert_close(w, own + p)
