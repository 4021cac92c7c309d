"""Every way to a bound's gradient, against enumeration and quadrature."""

from __future__ import annotations

import itertools
import math

import pyro
import pytest
import torch
from pyro.distributions import Bernoulli, LogNormal, Normal
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch.testing import assert_close

from pyrogen.inference import ELBO, IWAE
from pyrogen.models import BernoulliPixels, StandardNormal, TwoLayerVAE, VampPrior
from pyrogen.nn import MLP
from tests.cases import (
    CASES,
    DISCRETE,
    NORMALS,
    Case,
    X,
    average,
    case_one_bit,
    case_one_normal,
    check_gradient,
    leaves,
)
from tests.oracles import DOUBLE, ZERO, Forced, bernoulli, bits, finite_difference, log_mean_exp, normal, row_gradients
from tests.statistics import assert_same_mean


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_formulas_gradient_is_the_finite_difference_of_the_exact_bound(case):
    """The oracle itself, before it judges."""
    p = torch.tensor(list(case.parameters.values()), **DOUBLE)
    k = 1 if case.normals > 1 else 2
    numeric = finite_difference(lambda t: case.bound(dict(zip(case.parameters, t, strict=True)), k), p)
    assert_close(torch.stack(list(case.exact_gradient(k).values())), numeric, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_elbo_has_the_exact_gradient_on_average(case, particles):
    """Closed-form KLs, sampled ones and score functions included."""
    check_gradient(case, ELBO(particles), 1, average, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("case", "particles"),
    [(case, k) for case in CASES for k in (1, 2, 3) if case.n_outcomes(k) < 100_000],
    ids=lambda v: v.name if isinstance(v, Case) else str(v),
)
def test_iwae_has_the_exact_gradient_on_average(case, particles):
    """Pyro's RenyiELBO gives a discrete guide no gradient at all here."""
    check_gradient(case, IWAE(particles), particles, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("case", NORMALS, ids=lambda case: case.name)
def test_sticking_the_landing_is_unbiased(case, particles):
    """In hierarchies too, where z1 feeds q(z2 | z1), and when model and guide share parameters."""
    check_gradient(case, ELBO(particles, gradient="stl"), 1, average, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("particles", [1, 2])
@pytest.mark.parametrize("case", NORMALS, ids=lambda case: case.name)
def test_dreg_is_unbiased(case, particles):
    """Quadrature converges at the rate of the weights' softmax here, so it is exact to fewer digits."""
    check_gradient(case, IWAE(particles, gradient="dreg"), particles, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("objective", [ELBO(), ELBO(2), IWAE(2)], ids=repr)
def test_a_global_bit_beside_local_bits_has_the_exact_gradient_on_average(objective):
    """Two rows, so every outcome of the global bit and of both local ones, for every particle."""
    x = torch.tensor([0.3, -1.1], **DOUBLE)
    values = {"a": -0.4, "b": 0.6, "v": 0.7, "u": -0.2}

    def programs(p):
        def model(x):
            g = pyro.sample("g", Bernoulli(logits=p["a"]))
            with pyro.plate("rows", 2):
                z = pyro.sample("z", Bernoulli(logits=p["b"] * g))
                pyro.sample("x", Normal(z + g, 1.0), obs=x)

        def guide(x):
            g = pyro.sample("g", Bernoulli(logits=p["u"]))
            with pyro.plate("rows", 2):
                pyro.sample("z", Bernoulli(logits=p["v"] * x + g))

        return model, guide

    def density(g, z, p):
        local_p = bernoulli(z, p["b"] * g) + normal(x, z + g)
        local_q = bernoulli(z, p["v"] * x + g)
        return bernoulli(g, p["a"]) + local_p.sum(-1, keepdim=True), bernoulli(g, p["u"]) + local_q.sum(
            -1, keepdim=True
        )

    k = objective.particles
    p = leaves(values)
    model, guide = programs(p)
    total, average_gradient = ZERO, [ZERO] * len(p)
    for outcome in itertools.product(bits(3), repeat=k):
        state = torch.stack(list(outcome))
        g, z = state[:, :1], state[:, 1:]
        log_p, log_q = density(g, z, p)
        probability = log_q.sum().exp()
        log_w = (log_p - log_q).squeeze(-1)
        total = total + probability * (log_w.mean() if isinstance(objective, ELBO) else log_mean_exp(log_w)) / 2
        with Forced({"g": g if k > 1 else g[0, 0], "z": z if k > 1 else z[0]}):
            loss = objective(model, guide, x, nesting=1).loss
        gradient = torch.autograd.grad(loss, list(p.values()), allow_unused=True)
        average_gradient = [
            a - probability.detach() * (0.0 if g is None else g)
            for a, g in zip(average_gradient, gradient, strict=True)
        ]
    for exact, estimate in zip(torch.autograd.grad(total, list(p.values())), average_gradient, strict=True):
        assert_close(estimate, exact)


@pytest.mark.parametrize("shared", [False, True])
def test_in_a_two_layer_vae_all_estimators_agree_with_the_plain_gradient(shared):
    """Real networks, many parameters, a VampPrior whose components are the guide's: noise, but a stated rate."""
    torch.manual_seed(2)
    prior = VampPrior(1, torch.rand(3, 4)) if shared else StandardNormal(1)
    vae = TwoLayerVAE(MLP(4, 4), MLP(4, 2), MLP(1, 4), MLP(2, 4), BernoulliPixels(4), prior, latent=2).double()
    x = torch.bernoulli(torch.full((4,), 0.5, **DOUBLE)).repeat(400, 1)

    def draws(objective):
        out = []
        for _ in range(60):
            vae.zero_grad()
            objective(vae.model, vae.guide, x).loss.backward()
            out.append(torch.cat([p.grad.flatten() for p in vae.parameters()]))
        return torch.stack(out)

    assert_same_mean(draws(ELBO()), draws(ELBO(gradient="stl")))
    assert_same_mean(draws(IWAE(3)), draws(IWAE(3, gradient="dreg")))


def test_with_an_auto_guide_the_path_derivatives_agree_with_the_plain_gradient():
    """Its draws pass through auxiliary sites and a change of variables."""
    x = torch.tensor([0.5, 1.0, 2.0], **DOUBLE)

    def model(x):
        rate = pyro.sample("rate", LogNormal(ZERO, 1.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Normal(rate, 1.0))
            pyro.sample("x", Normal(z, 1.0), obs=x)

    guide = AutoNormal(model, init_loc_fn=init_to_value(values={"rate": ZERO + 1, "z": x}), init_scale=0.5)
    guide(x)

    def draws(objective):
        out = []
        for _ in range(100):
            loss = objective(model, guide, x, nesting=1).loss
            out.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(guide.parameters()))]))
        return torch.stack(out)

    assert_same_mean(draws(ELBO(4)), draws(ELBO(4, gradient="stl")))
    assert_same_mean(draws(IWAE(4)), draws(IWAE(4, gradient="dreg")))


def variance(estimates, probability):
    mean = (probability * estimates).sum()
    return (probability * estimates**2).sum() - mean**2


def test_dreg_has_less_variance_than_the_plain_iwae_gradient():
    case = case_one_normal()
    plain, probability = case.estimates(IWAE(3))
    dreg, _ = case.estimates(IWAE(3, gradient="dreg"))
    for name in case.guide_only:
        assert variance(dreg[name], probability) < 0.2 * variance(plain[name], probability)


@pytest.mark.parametrize("case", DISCRETE, ids=lambda case: case.name)
def test_vimco_has_less_variance_than_the_naive_score_function(case):
    k = 3
    vimco, probability = case.estimates(IWAE(k))
    p = case.detached()

    def surrogate(v):
        """Whose gradient is the naive estimator: log-mean-exp times the gradient of log q, and its own gradient."""
        log_w, _, log_q_bits = case.at({**p, "v": v}, k)
        rows = log_mean_exp(log_w)
        return rows.detach() * log_q_bits.sum(0) + rows

    naive = torch.autograd.functional.jacobian(surrogate, p["v"])
    assert_close((probability * naive).sum(), (probability * vimco["v"]).sum())
    assert variance(vimco["v"], probability) < 0.5 * variance(naive, probability)


def test_more_particles_give_the_score_function_a_baseline():
    case = case_one_bit()
    one, probability_one = case.estimates(ELBO(1))
    two, probability_two = case.estimates(ELBO(2))
    assert variance(two["v"], probability_two) < 0.5 * variance(one["v"], probability_one)


def posterior_case(scale=0.8):
    """One normal, with the guide at the exact posterior: z | x ~ Normal(w x / (w^2 + s^2), s / sqrt(w^2 + s^2))."""
    case = case_one_normal()
    w = case.parameters["w"]
    precision = 1 + w**2 / scale**2
    case.parameters |= {"t": 0.0, "m": w / scale**2 / precision, "s": -0.5 * math.log(precision)}
    return case


@pytest.mark.parametrize("particles", [1, 3])
def test_at_the_posterior_each_draw_of_the_path_derivative_is_zero_and_the_plain_one_is_not(particles):
    case = posterior_case()
    noise = torch.randn(particles, 50, **DOUBLE)
    for stopped, plain in (
        (ELBO(particles, gradient="stl"), ELBO(particles)),
        (IWAE(particles, gradient="dreg"), IWAE(particles)),
    ):
        own = row_gradients(stopped, case.programs, case.parameters, X, 50, noise=(noise,))
        other = row_gradients(plain, case.programs, case.parameters, X, 50, noise=(noise,))
        for name in case.guide_only:
            assert_close(own[name], torch.zeros(50, **DOUBLE), atol=1e-12, rtol=0)
            assert other[name].abs().median() > 0.01
