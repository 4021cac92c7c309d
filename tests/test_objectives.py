"""The values of the bounds, against enumeration and quadrature, what weighs their parts, and what is refused."""

from __future__ import annotations

import itertools
import math

import pyro
import pytest
import torch
from pyro import poutine
from torch.testing import assert_close

from pyrogen.errors import ModelError, SettingsError
from pyrogen.inference import ELBO, IWAE, Warmup
from pyrogen.inference.terms import run
from tests.cases import CASES, X, case_one_bit, case_one_normal, case_two_normals
from tests.oracles import DOUBLE, Forced, bernoulli, bits, log_integral, log_mean_exp, normal, normal_noise


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def test_the_bounds_climb_with_the_particles_and_stay_below_the_evidence_of_a_bit():
    case = case_one_bit()
    model, guide = case.programs(case.leaves())
    x = torch.tensor([X], **DOUBLE)

    def exact(objective):
        """The reported bound, averaged over all outcomes of the bits, one call each."""
        b, _, _ = case.outcomes(objective.particles)
        _, probability, _ = case.at(case.detached(), objective.particles)
        total = 0.0
        for r in range(len(probability)):
            with Forced({"z": b[:, r] if objective.particles > 1 else b[0, r]}):
                total += float(probability[r]) * float(objective(model, guide, x, nesting=1).bound)
        return total

    z, p = bits(1).squeeze(-1), case.detached()
    evidence = float((bernoulli(z, p["a"]) + normal(X, p["w"] * z)).logsumexp(0))
    bounds = [exact(ELBO()), *(exact(IWAE(k)) for k in (1, 2, 3, 4))]
    assert math.isclose(bounds[0], bounds[1], rel_tol=1e-12)
    assert math.isclose(bounds[0], exact(ELBO(3)), rel_tol=1e-12)
    assert all(a < b for a, b in itertools.pairwise([*bounds[1:], evidence])), (bounds, evidence)


def test_the_bounds_climb_with_the_particles_and_stay_below_the_evidence_of_a_normal():
    case = case_one_normal()
    model, guide = case.programs(case.leaves())
    p = case.leaves()
    evidence = log_integral(lambda z: normal(z, 0.0, p["t"].exp()) + normal(X, p["w"] * z, 0.8), -15, 15)
    scale = (p["t"].exp() ** 2 * p["w"] ** 2 + 0.8**2).sqrt()
    assert_close(evidence, normal(X, 0.0, scale))
    bounds = []
    for k in (1, 2, 3, 4):
        case.nodes = 16 if k < 4 else 10
        _, e, weight = case.outcomes(k)
        x = torch.full((len(weight),), X, **DOUBLE)
        with normal_noise(*e.unbind(-1)):
            log_w = run(model, guide, x, particles=k, nesting=1).log_w
        bounds.append((weight * log_mean_exp(log_w)).sum())
    assert all(a + 1e-4 < b for a, b in itertools.pairwise([*bounds, evidence])), (bounds, evidence)


@pytest.mark.parametrize("particles", [1, 4])
def test_the_reported_bound_is_the_formula_whatever_weighs_the_kl_in_the_loss(particles):
    case = case_one_normal()
    eps = torch.randn(particles, 6, **DOUBLE)
    log_p, log_q, _ = case.density((), (eps,), case.leaves())
    log_w = log_p - log_q
    p = case.leaves()
    kl = 0.5 * ((p["m"] * X / p["t"].exp()) ** 2 + (p["s"] - p["t"]).mul(2).exp() - 1) + p["t"] - p["s"]
    z = p["m"] * X + p["s"].exp() * eps
    closed = normal(X, p["w"] * z, 0.8).mean() - kl
    model, guide = case.programs(case.leaves())
    scaled = [
        (model, guide),
        (poutine.scale(model, scale=0.1), guide),
        (model, poutine.scale(guide, scale=0.1)),
        (poutine.scale(model, scale=0.1), poutine.scale(guide, scale=0.1)),
        (poutine.scale(model, scale=torch.linspace(0.1, 2, 6, **DOUBLE)), guide),
    ]
    expected = {
        ELBO: closed,
        "stl": log_w.mean(),
        IWAE: log_mean_exp(log_w).mean(),
    }
    for pair, beta in itertools.product(scaled, (1.0, 0.0, 3.0, Warmup(10))):
        row_weights = pair is scaled[-1]
        for objective, key in (
            (ELBO(particles, beta), ELBO),
            (ELBO(particles, beta, free_bits=0.0 if row_weights else 5.0), ELBO),
            (ELBO(particles, beta, gradient="stl"), "stl"),
            (IWAE(particles, beta), IWAE),
            (IWAE(particles, beta, gradient="dreg"), IWAE),
        ):
            with normal_noise(eps):
                value = objective(*pair, torch.full((6,), X, **DOUBLE), nesting=1, step=5)
            assert_close(value.bound, expected[key].detach(), msg=lambda m, o=objective: f"{o}: {m}")
            assert not value.bound.requires_grad


@pytest.mark.parametrize("objective", [ELBO(2), ELBO(2, gradient="stl"), IWAE(2), IWAE(2, gradient="dreg")], ids=repr)
def test_without_gradients_the_bound_is_the_same(objective):
    """Validation scores are taken this way."""
    case, noise = case_two_normals("top down"), torch.randn(2, 2, 6, **DOUBLE)
    model, guide = case.programs(case.leaves())

    def bound():
        with normal_noise(*noise):
            return objective(model, guide, torch.full((6,), X, **DOUBLE), nesting=1).bound

    with torch.no_grad():
        silent = bound()
    assert_close(silent, bound())


def test_at_beta_one_the_loss_is_minus_the_bound():
    for case, objective in itertools.product(CASES, (ELBO(2), IWAE(2))):
        model, guide = case.programs({n: torch.full((5,), v, **DOUBLE) for n, v in case.parameters.items()})
        value = objective(model, guide, torch.full((5,), X, **DOUBLE), nesting=1)
        assert_close(-value.loss, value.bound)


def test_beta_is_the_weight_of_the_kl():
    case = case_one_normal()
    eps = torch.randn(1, 6, **DOUBLE)
    model, guide = case.programs(case.leaves())

    def loss(beta):
        with normal_noise(eps):
            return ELBO(beta=beta)(model, guide, torch.full((6,), X, **DOUBLE), step=5).loss

    reconstruction = -loss(0.0)
    kl = loss(1.0) - loss(0.0)
    p = case.leaves()
    assert_close(reconstruction, normal(X, p["w"] * (p["m"] * X + p["s"].exp() * eps), 0.8).mean())
    assert_close(loss(2.5), -reconstruction + 2.5 * kl)
    assert_close(loss(Warmup(10)), -reconstruction + 0.5 * kl)
    assert_close(loss(lambda step: step / 50), -reconstruction + 0.1 * kl)


@pytest.mark.parametrize("objective", [ELBO, IWAE], ids=lambda o: o.__name__)
@pytest.mark.parametrize("gradient", ["auto", "path"])
def test_a_kl_weight_means_the_same_as_beta_and_on_either_side_of_the_pair(objective, gradient):
    """Pyro's TraceMeanField_ELBO does not see a scale around the model's latent, and Trace_ELBO half of it."""
    choice = {"auto": "auto", "path": "stl" if objective is ELBO else "dreg"}[gradient]
    eps = torch.randn(3, 6, **DOUBLE)
    case, beta = case_one_normal(), 0.3

    def weighed(in_model, in_guide):
        def programs(p):
            model, guide = case.programs(p)

            def scaled_model(x):
                with _ScaleSite("z", in_model):
                    return model(x)

            def scaled_guide(x):
                with _ScaleSite("z", in_guide):
                    return guide(x)

            return scaled_model, scaled_guide

        return programs

    def outcome(programs, beta):
        p = case.leaves()
        model, guide = programs(p)
        with normal_noise(eps):
            loss = objective(3, beta, gradient=choice)(model, guide, torch.full((6,), X, **DOUBLE), nesting=1).loss
        return loss.detach(), torch.stack(torch.autograd.grad(loss, list(p.values())))

    loss, gradients = outcome(case.programs, beta)
    for in_model, in_guide in ((beta, 1.0), (1.0, beta), (beta, beta)):
        other, other_gradients = outcome(weighed(in_model, in_guide), 1.0)
        assert_close(other, loss)
        assert_close(other_gradients, gradients)
    assert abs(float(outcome(case.programs, 1.0)[0] - loss)) > 0.1


class _ScaleSite(poutine.messenger.Messenger):
    """poutine.scale around one site of a finished program."""

    def __init__(self, site, scale):
        super().__init__()
        self.site, self.scale = site, scale

    def _pyro_sample(self, msg):
        if msg["name"] == self.site:
            msg["scale"] = msg["scale"] * self.scale


def test_a_scale_around_everything_scales_the_loss_and_its_gradient():
    case = case_one_normal()
    eps = torch.randn(2, 6, **DOUBLE)

    def outcome(scale):
        p = case.leaves()
        model, guide = (poutine.scale(program, scale=scale) for program in case.programs(p))
        with normal_noise(eps):
            loss = ELBO(2)(model, guide, torch.full((6,), X, **DOUBLE), nesting=1).loss
        return torch.stack([loss, *torch.autograd.grad(loss, list(p.values()))])

    assert_close(outcome(0.01), 0.01 * outcome(1.0))
    # weights of rows: the mean of the rows' own losses
    weights = torch.tensor([0.0, 0.0, 0.0, 6.0, 0.0, 0.0], **DOUBLE) + 1e-12
    weighed = outcome(weights)
    eps = eps[:, 3:4].expand(2, 6)
    assert_close(weighed, outcome(1.0), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("objective", [ELBO(gradient="stl"), IWAE(gradient="dreg")], ids=repr)
def test_the_path_derivative_of_a_discrete_site_is_refused(objective):
    model, guide = case_one_bit().programs(case_one_bit().leaves())
    with pytest.raises(ModelError, match=r"'z', which has no rsample.*auto"):
        objective(model, guide, torch.full((3,), X, **DOUBLE))


@pytest.mark.parametrize(
    "make", [lambda: ELBO(0), lambda: IWAE(-1), lambda: ELBO(gradient="dreg"), lambda: IWAE(gradient="stl")]
)
def test_settings_that_do_not_exist_are_refused_before_anything_runs(make):
    with pytest.raises(SettingsError):
        make()
