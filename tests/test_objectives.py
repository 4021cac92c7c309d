"""Every bound and every way to its gradient, against enumeration and quadrature.

A `Case` is a tiny model and guide with the formulas of both beside it. All outcomes of the noise of K particles, bits
by enumeration and normals by Gauss-Hermite nodes, go through the objective as the rows of one batch; the estimates
are then averaged with the outcomes' exact probabilities. So an unbiased estimator gives the exact gradient, to the
last digits, and no test below needs luck.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Bernoulli, Categorical, LogNormal, MixtureSameFamily, MultivariateNormal, Normal
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor, nn
from torch.testing import assert_close

from pyrogen.errors import ModelError, SettingsError
from pyrogen.inference import ELBO, IWAE, Warmup
from pyrogen.inference.terms import run
from pyrogen.models import BernoulliPixels, StandardNormal, TwoLayerVAE, VampPrior
from pyrogen.nn import MLP
from tests.oracles import (
    Forced,
    bits,
    finite_difference,
    gauss_hermite,
    log_integral,
    log_mean_exp,
    minibatches,
    normal_noise,
    row_gradients,
)
from tests.statistics import assert_same_mean

DOUBLE = {"dtype": torch.float64}
ZERO = torch.zeros((), **DOUBLE)
X = 0.7


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def normal(value, loc=0.0, scale=1.0):
    """log Normal(value; loc, scale), written out."""
    scale = torch.as_tensor(scale, **DOUBLE)
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def bernoulli(value, logit):
    """log Bernoulli(value; sigmoid(logit)), written out."""
    return value * logit - nn.functional.softplus(logit)


def leaves(parameters: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(v, **DOUBLE, requires_grad=True) for name, v in parameters.items()}


@dataclass
class Case:
    """A model and guide of scalars, and what they are as formulas.

    `density(b, e, p)` gives log p(x, z), log q(z | x) and the part of log q that belongs to the bits, for bits b and
    standard normals e, each a list of tensors, and parameters p.
    """

    name: str
    parameters: dict[str, float]
    programs: Callable
    density: Callable
    bits: tuple[str, ...] = ()
    normals: int = 0
    nodes: int = 14
    guide_only: set[str] = field(default_factory=set)

    def outcomes(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Bits (k, R, n_bits), normals (k, R, n_normals) and the weights (R,) of the normals, for k particles."""
        b = bits(len(self.bits))
        e, w = (
            gauss_hermite(self.nodes, self.normals) if self.normals else (torch.zeros(1, 0, **DOUBLE), ZERO.exp()[None])
        )
        state = torch.cartesian_prod(torch.arange(len(b)), torch.arange(len(e))).reshape(-1, 2)
        tuples = torch.cartesian_prod(*[torch.arange(len(state))] * k).reshape(-1, k).T
        return b[state[:, 0]][tuples], e[state[:, 1]][tuples], w[state[:, 1]][tuples].prod(0)

    def n_outcomes(self, k: int) -> int:
        return (2 ** len(self.bits) * self.nodes**self.normals) ** k

    def at(self, p: dict[str, Tensor], k: int) -> tuple[Tensor, Tensor, Tensor]:
        """log w (k, R), probability (R,) and log q of the bits (k, R) of every outcome."""
        b, e, w = self.outcomes(k)
        log_p, log_q, log_q_bits = self.density(b.unbind(-1), e.unbind(-1), p)
        log_q_bits = torch.as_tensor(log_q_bits, **DOUBLE).expand(k, len(w))
        return log_p - log_q, w * log_q_bits.sum(0).exp(), log_q_bits

    def bound(self, p: dict[str, Tensor], k: int, mean=log_mean_exp) -> Tensor:
        """The exact bound with k particles; `mean` forms it from log w."""
        log_w, probability, _ = self.at(p, k)
        return (probability * mean(log_w)).sum()

    def leaves(self) -> dict[str, Tensor]:
        return leaves(self.parameters)

    def detached(self) -> dict[str, Tensor]:
        return {name: t.detach() for name, t in self.leaves().items()}

    def exact_gradient(self, k: int, mean=log_mean_exp) -> dict[str, Tensor]:
        p = self.leaves()
        return dict(zip(p, torch.autograd.grad(self.bound(p, k, mean), list(p.values())), strict=True))

    def estimates(self, objective) -> tuple[dict[str, Tensor], Tensor]:
        """The objective's gradient at every outcome, and the outcomes' probabilities."""
        k = objective.particles
        b, e, w = self.outcomes(k)
        draws = {name: t if k > 1 else t.squeeze(0) for name, t in zip(self.bits, b.unbind(-1), strict=True)}
        own = row_gradients(objective, self.programs, self.parameters, X, len(w), noise=e.unbind(-1), draws=draws)
        return own, self.at(self.detached(), k)[1]


def case_one_bit():
    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", Bernoulli(logits=p["a"]))
                pyro.sample("x", Normal(p["w"] * z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", Bernoulli(logits=p["v"] * x))

        return model, guide

    def density(b, e, p):
        (z,) = b
        log_q = bernoulli(z, p["v"] * X)
        return bernoulli(z, p["a"]) + normal(X, p["w"] * z), log_q, log_q

    return Case("one bit", {"a": -0.4, "w": 1.5, "v": 0.3}, programs, density, bits=("z",))


def case_two_bits(bottom_up):
    """Two layers of bits, the model from z2 to z1; the guide in that order or in the other."""

    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                z2 = pyro.sample("z2", Bernoulli(logits=p["a"]))
                z1 = pyro.sample("z1", Bernoulli(logits=p["b"] * z2 - 0.2))
                pyro.sample("x", Normal(p["w"] * z1, 1.0), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                first, second = ("z1", "z2") if bottom_up else ("z2", "z1")
                z = pyro.sample(first, Bernoulli(logits=p["v"] * x))
                pyro.sample(second, Bernoulli(logits=p["u"] * z - 0.1))

        return model, guide

    def density(b, e, p):
        z1, z2 = b
        first, second = (z1, z2) if bottom_up else (z2, z1)
        log_q = bernoulli(first, p["v"] * X) + bernoulli(second, p["u"] * first - 0.1)
        return bernoulli(z2, p["a"]) + bernoulli(z1, p["b"] * z2 - 0.2) + normal(X, p["w"] * z1), log_q, log_q

    parameters = {"a": -0.4, "b": 0.9, "w": 1.5, "v": 0.3, "u": 0.7}
    return Case(
        f"two bits, {'bottom up' if bottom_up else 'top down'}", parameters, programs, density, bits=("z1", "z2")
    )


def case_mixed():
    """A bit, scored, above a reparameterized normal whose guide depends on the bit."""

    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                c = pyro.sample("c", Bernoulli(logits=p["a"]))
                z = pyro.sample("z", Normal(p["b"] * c, 1.0))
                pyro.sample("x", Normal(z, 0.8), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                c = pyro.sample("c", Bernoulli(logits=p["v"] * x))
                pyro.sample("z", Normal(0.4 * x + p["u"] * c, p["s"].exp()))

        return model, guide

    def density(b, e, p):
        (c,), (eps,) = b, e
        loc = 0.4 * X + p["u"] * c
        z = loc + p["s"].exp() * eps
        log_q_bit = bernoulli(c, p["v"] * X)
        log_p = bernoulli(c, p["a"]) + normal(z, p["b"] * c) + normal(X, z, 0.8)
        return log_p, log_q_bit + normal(z, loc, p["s"].exp()), log_q_bit

    parameters = {"a": -0.4, "b": 0.9, "v": 0.3, "u": 0.5, "s": -0.3}
    return Case("a bit above a normal", parameters, programs, density, bits=("c",), normals=1, nodes=12)


def case_one_normal():
    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", Normal(ZERO, p["t"].exp()))
                pyro.sample("x", Normal(p["w"] * z, 0.8), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", Normal(p["m"] * x, p["s"].exp()))

        return model, guide

    def density(b, e, p):
        (eps,) = e
        z = p["m"] * X + p["s"].exp() * eps
        return normal(z, 0.0, p["t"].exp()) + normal(X, p["w"] * z, 0.8), normal(z, p["m"] * X, p["s"].exp()), 0.0

    parameters = {"t": 0.1, "w": 1.2, "m": 0.4, "s": -0.4}
    return Case("one normal", parameters, programs, density, normals=1, nodes=40, guide_only={"m", "s"})


def case_two_normals(order):
    """Two layers of normals. "product" is a guide that reuses the model's middle layer, as TwoLayerVAE does."""

    def moments(p, z2):
        """Of the product of the model's z1 and of Normal(m x, s)."""
        if order == "top down":
            return p["n"] * z2 + p["m"] * X, p["s"].exp()
        precision = p["b"].exp() ** -2 + p["s"].exp() ** -2
        mean = (p["a"] * z2 * p["b"].exp() ** -2 + p["m"] * X * p["s"].exp() ** -2) / precision
        return mean, precision.rsqrt()

    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                z2 = pyro.sample("z2", Normal(ZERO, 1.0))
                z1 = pyro.sample("z1", Normal(p["a"] * z2, p["b"].exp()))
                pyro.sample("x", Normal(z1, 0.8), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                if order == "bottom up":
                    z1 = pyro.sample("z1", Normal(p["m"] * x, p["s"].exp()))
                    pyro.sample("z2", Normal(p["n"] * z1, 0.8))
                else:
                    z2 = pyro.sample("z2", Normal(p["n"] * x, 0.8))
                    pyro.sample("z1", Normal(*moments(p, z2)))

        return model, guide

    def density(b, e, p):
        first, second = e
        if order == "bottom up":
            z1 = p["m"] * X + p["s"].exp() * first
            z2 = p["n"] * z1 + 0.8 * second
            log_q = normal(z1, p["m"] * X, p["s"].exp()) + normal(z2, p["n"] * z1, 0.8)
        else:
            z2 = p["n"] * X + 0.8 * first
            loc, scale = moments(p, z2)
            z1 = loc + scale * second
            log_q = normal(z2, p["n"] * X, 0.8) + normal(z1, loc, scale)
        return normal(z2) + normal(z1, p["a"] * z2, p["b"].exp()) + normal(X, z1, 0.8), log_q, 0.0

    parameters = {"a": 0.8, "b": -0.3, "m": 0.5, "n": 0.3, "s": -0.4}
    return Case(f"two normals, {order}", parameters, programs, density, normals=2, nodes=16)


def case_vamp():
    """A prior made of the encoder: 1/2 sum over two pseudo-inputs of q(z | u_c)."""

    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                loc = torch.stack([p["m"] * p["u"], -p["m"] * p["u"] + 1], -1)
                scale = torch.stack([p["s"].exp()] * 2, -1)
                prior = MixtureSameFamily(Categorical(logits=torch.zeros_like(loc)), Normal(loc, scale))
                z = pyro.sample("z", prior)
                pyro.sample("x", Normal(p["w"] * z, 0.8), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", Normal(p["m"] * x, p["s"].exp()))

        return model, guide

    def density(b, e, p):
        (eps,) = e
        s = p["s"].exp()
        z = p["m"] * X + s * eps
        prior = torch.logaddexp(normal(z, p["m"] * p["u"], s), normal(z, -p["m"] * p["u"] + 1, s)) - math.log(2)
        return prior + normal(X, p["w"] * z, 0.8), normal(z, p["m"] * X, s), 0.0

    return Case("vamp prior", {"m": 0.4, "s": -0.4, "u": 0.5, "w": 1.2}, programs, density, normals=1, nodes=40)


DISCRETE = [case_one_bit(), case_two_bits(False), case_two_bits(True)]
NORMALS = [case_one_normal(), *(case_two_normals(o) for o in ("top down", "bottom up", "product")), case_vamp()]
CASES = [*DISCRETE, case_mixed(), *NORMALS]


def check_gradient(case, objective, k, mean=log_mean_exp, **tolerance):
    estimates, probability = case.estimates(objective)
    exact = case.exact_gradient(k, mean)
    assert_close(probability.sum(), ZERO + 1)
    for name, expected in exact.items():
        assert_close((probability * estimates[name]).sum(), expected, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def average(log_w):
    return log_w.mean(0)


# --- unbiasedness ---------------------------------------------------------------------------------------------------


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


# --- variance -------------------------------------------------------------------------------------------------------


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


# --- values ---------------------------------------------------------------------------------------------------------


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


# --- free bits and schedules ----------------------------------------------------------------------------------------


def many_dimensions(p):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(3, **DOUBLE), 1.0).to_event(1))
            pyro.sample("x", Normal(0 * z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            loc = p["loc"] * torch.linspace(0.5, 1.5, len(x), **DOUBLE).unsqueeze(-1)
            pyro.sample("z", Normal(loc, p["scale"]).to_event(1))

    return model, guide


def test_free_bits_give_no_gradient_below_the_floor_and_all_of_it_above():
    p = {
        "loc": torch.tensor([0.1, 1.0, 2.0], **DOUBLE, requires_grad=True),
        "scale": torch.tensor([0.9, 0.5, 0.4], **DOUBLE, requires_grad=True),
    }
    model, guide = many_dimensions(p)
    x = torch.zeros(4, **DOUBLE)

    def gradients(free_bits, beta=1.0):
        with normal_noise(torch.zeros(2, 4, 3, **DOUBLE)):
            value = ELBO(2, beta, free_bits)(model, guide, x, nesting=1)
        return value.loss, torch.autograd.grad(value.loss, list(p.values()))

    kl = (
        0.5 * ((p["loc"] * torch.linspace(0.5, 1.5, 4, **DOUBLE)[:, None]) ** 2 + p["scale"] ** 2 - 1)
        - p["scale"].log()
    ).mean(0)
    assert kl[0] < 0.1 < kl[1] < 2.0 < kl[2], kl
    for free_bits, below in ((0.1, 1), (1.5, 2), (50.0, 3)):
        loss, (loc, scale) = gradients(free_bits, 0.7)
        plain, (plain_loc, plain_scale) = gradients(0.0, 0.7)
        assert_close(loss - plain, 0.7 * (kl.clamp(min=free_bits) - kl).sum())
        assert_close(loc[:below], torch.zeros(below, **DOUBLE))
        assert_close(scale[:below], torch.zeros(below, **DOUBLE))
        assert_close(loc[below:], plain_loc[below:])
        assert_close(scale[below:], plain_scale[below:])


def test_free_bits_of_a_global_site_are_nats_of_the_data_set():
    loc = torch.tensor(0.5, **DOUBLE, requires_grad=True)

    def model(x):
        w = pyro.sample("w", Normal(ZERO, 1.0))
        with pyro.plate("rows", 20, subsample=torch.arange(len(x))):
            pyro.sample("x", Normal(0 * w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", Normal(loc, 1.0))

    x = torch.zeros(5, **DOUBLE)
    lifted, plain = (ELBO(free_bits=f)(model, guide, x) for f in (2.0, 0.0))
    assert_close(lifted.loss - plain.loss, (2.0 - 0.5 * loc**2) / 20)
    assert torch.autograd.grad(lifted.loss, loc)[0].abs() < 1e-12


def test_free_bits_are_refused_where_there_is_no_kl_to_hold_up():
    x = torch.full((3,), X, **DOUBLE)
    model, guide = case_two_bits(True).programs(case_two_bits(True).leaves())
    with pytest.raises(ModelError, match="free bits"):
        ELBO(free_bits=0.1)(model, guide, x)
    model, guide = case_one_normal().programs(case_one_normal().leaves())
    with pytest.raises(ModelError, match="weighted rows"):
        ELBO(free_bits=0.1)(poutine.scale(model, scale=torch.ones(3, **DOUBLE)), guide, x)


def test_warmup_is_linear_from_its_start_to_one_and_stays_there():
    assert [Warmup(4)(step) for step in (0, 1, 2, 4, 100)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert [Warmup(0)(step) for step in (0, 1)] == [1.0, 1.0]
    assert [Warmup(4, start=0.2)(step) for step in (0, 2, 4)] == pytest.approx([0.2, 0.6, 1.0])


# --- minibatches and global latents ---------------------------------------------------------------------------------

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


# --- what is refused ------------------------------------------------------------------------------------------------


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
