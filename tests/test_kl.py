"""Closed-form KL divergences against quadrature, sums over the support and dense linear algebra."""

from __future__ import annotations

import subprocess
import sys

import pyro.distributions as dist
import pytest
import torch
import torch.distributions as td
from torch import Tensor
from torch.autograd import gradcheck

from pyrogen.distributions import Logistic, closed_form_kl


def f64(*values: float) -> list[Tensor]:
    return [torch.tensor(v, dtype=torch.float64) for v in values]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> dist.Normal:
    return dist.Normal(randn(*shape, seed=seed), randn(*shape, seed=seed + 1).exp())


def full(*batch: int, d: int = 3, seed: int = 0) -> dist.MultivariateNormal:
    root = randn(*batch, d, d, seed=seed).tril(-1) + torch.diag_embed(randn(*batch, d, seed=seed + 1).exp())
    return dist.MultivariateNormal(randn(*batch, d, seed=seed + 2), scale_tril=root)


def low_rank(*batch: int, d: int = 3, seed: int = 0) -> dist.LowRankMultivariateNormal:
    return dist.LowRankMultivariateNormal(
        randn(*batch, d, seed=seed), randn(*batch, d, 2, seed=seed + 1), randn(*batch, d, seed=seed + 2).exp()
    )


def dense_kl(m0: Tensor, s0: Tensor, m1: Tensor, s1: Tensor) -> Tensor:
    """Between Gaussians with covariances s0 and s1, by inverse and determinants."""
    precision, away = torch.linalg.inv(s1), m1 - m0
    trace = torch.einsum("...ij,...ji->...", precision, s0)
    square = torch.einsum("...i,...ij,...j->...", away, precision, away)
    return 0.5 * (trace + square - m0.shape[-1] + torch.logdet(s1) - torch.logdet(s0))


def parts(d) -> tuple[Tensor, Tensor]:
    if isinstance(d, td.Independent):
        return d.mean, torch.diag_embed(d.variance)
    return d.loc, d.covariance_matrix


SCALARS = {
    "Normal": (td.Normal(*f64(0.3, 0.7)), dist.Normal(*f64(-0.5, 1.6))),
    "Laplace": (dist.Laplace(*f64(0.3, 0.7)), td.Laplace(*f64(-0.5, 1.6))),
    "Cauchy": (dist.Cauchy(*f64(0.3, 0.7)), dist.Cauchy(*f64(-0.5, 1.6))),
    "Gumbel": (dist.Gumbel(*f64(0.3, 0.7)), dist.Gumbel(*f64(-0.5, 1.6))),
    "Exponential": (dist.Exponential(*f64(0.7)), td.Exponential(*f64(1.6))),
    "Gamma": (dist.Gamma(*f64(1.7, 0.6)), dist.Gamma(*f64(2.5, 1.6))),
    "InverseGamma": (dist.InverseGamma(*f64(3.7, 0.6)), dist.InverseGamma(*f64(2.5, 1.6))),
    "HalfNormal": (dist.HalfNormal(*f64(0.7)), td.HalfNormal(*f64(1.6))),
    "HalfCauchy": (dist.HalfCauchy(*f64(0.7)), dist.HalfCauchy(*f64(1.6))),
    "LogNormal": (dist.LogNormal(*f64(0.3, 0.7)), td.LogNormal(*f64(-0.5, 1.6))),
    "Pareto": (dist.Pareto(*f64(0.7, 3.3)), dist.Pareto(*f64(0.4, 2.6))),
    "Beta": (dist.Beta(*f64(1.7, 0.6)), dist.Beta(*f64(2.5, 1.6))),
    "ContinuousBernoulli": (dist.ContinuousBernoulli(*f64(0.3)), dist.ContinuousBernoulli(*f64(0.8))),
    "Uniform": (dist.Uniform(*f64(0.2, 0.7)), dist.Uniform(*f64(-0.5, 1.6))),
    "UnitUniform": (dist.Uniform(*f64(0.0, 1.0)), dist.Uniform(*f64(0.0, 1.0))),
    "Logistic": (Logistic(*f64(0.3, 0.7)), Logistic(*f64(-0.5, 1.6))),
    "StudentT": (dist.StudentT(*f64(4.0, 0.3, 0.7)), dist.StudentT(*f64(5.0, -0.5, 1.6))),
    "VonMises": (dist.VonMises(*f64(0.3, 0.7)), dist.VonMises(*f64(-0.5, 1.6))),
}
WITHOUT_FORMULA = {"Logistic", "StudentT", "VonMises"}


def quadrature(q, p) -> float:
    """E_q[log q - log p] by the trapezoid rule, in a coordinate where the integrand decays doubly fast."""
    t = torch.linspace(-33.0, 60.0 if isinstance(q, td.Pareto) else 33.0, 200_001, dtype=torch.float64)
    real = q.support is td.constraints.real
    u, stretch = (t.sinh(), t.cosh()) if real else (t, torch.ones_like(t))
    to_support = td.biject_to(q.support)
    x = to_support(u)
    mass = q.log_prob(x).exp() * to_support.log_abs_det_jacobian(u, x).exp() * stretch
    inside = p.support.check(x)
    if torch.trapezoid(mass * ~inside, t) > 1e-9:
        return float("inf")
    used = inside & (mass > 0)
    return torch.trapezoid(torch.where(used, mass * (q.log_prob(x) - p.log_prob(x)), 0.0), t).item()


@pytest.fixture
def no_validation():
    before = td.Distribution._validate_args
    td.Distribution.set_default_validate_args(False)
    for pair in SCALARS.values():
        for d in pair:
            while d is not None:  # a transformed distribution validates in its base, too
                d._validate_args, d = False, getattr(d, "base_dist", None)
    yield
    td.Distribution.set_default_validate_args(before)


@pytest.mark.parametrize("name_q", SCALARS)
def test_every_formula_for_scalars_is_the_integral(name_q, no_validation):
    for name_p, (_, p) in SCALARS.items():
        q = SCALARS[name_q][0]
        kl = closed_form_kl(q, p)
        if kl is not None:
            assert kl.item() == pytest.approx(quadrature(q, p), rel=1e-6, abs=1e-6), (name_q, name_p)
        elif name_q == name_p:
            assert name_q in WITHOUT_FORMULA


def test_every_formula_for_counts_is_the_sum():
    n = torch.arange(400.0, dtype=torch.float64)
    pairs = [
        (dist.Bernoulli(*f64(0.3)), dist.Bernoulli(logits=f64(1.3)[0]), n[:2]),
        (dist.Categorical(logits=randn(5)), td.Categorical(logits=randn(5, seed=1)), n[:5]),
        (dist.Poisson(*f64(3.3)), dist.Poisson(*f64(0.8)), n[:60]),
        (dist.Geometric(*f64(0.3)), dist.Geometric(*f64(0.2)), n),
        (dist.Binomial(9, *f64(0.3)), dist.Binomial(9, *f64(0.6)), n[:10]),
        (dist.Bernoulli(*f64(0.3)), dist.Poisson(*f64(0.8)), n[:2]),
    ]
    for q, p, x in pairs:
        expected = (q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x))).sum()
        torch.testing.assert_close(closed_form_kl(q, p), expected)


def test_pairs_where_torch_is_wrong_have_no_formula():
    unit, tilted = dist.Uniform(*f64(0.0, 1.0)), dist.ContinuousBernoulli(*f64(0.3))
    assert td.kl_divergence(tilted, unit).isinf()  # it is 0.03
    assert closed_form_kl(tilted, unit) is None and closed_form_kl(unit, tilted) is None
    a, b = (dist.Wishart(torch.full((3,), df), torch.eye(2).expand(3, 2, 2) * s) for df, s in ((5.0, 1.0), (6.0, 2.0)))
    assert (td.kl_divergence(a, b) < 0).any()
    assert closed_form_kl(a, b) is None


@pytest.mark.parametrize("p_batch", [(), (5,), (4, 1), (4, 5)])
@pytest.mark.parametrize("q_batch", [(), (5,), (4, 5)])
def test_gaussians_of_every_shape_agree_with_dense_linear_algebra(q_batch, p_batch):
    qs = [full(*q_batch), low_rank(*q_batch), normal(*q_batch, 3).to_event(1)]
    ps = [full(*p_batch, seed=7), low_rank(*p_batch, seed=7), normal(*p_batch, 3, seed=7).to_event(1)]
    batch = torch.broadcast_shapes(q_batch, p_batch)
    for q in qs:
        for p in ps:
            kl = closed_form_kl(q, p)
            if isinstance(q, td.Independent) and isinstance(p, td.LowRankMultivariateNormal):
                assert kl is None
                continue
            assert kl.shape == batch
            torch.testing.assert_close(kl, dense_kl(*parts(q), *parts(p)).expand(batch))


@pytest.mark.parametrize("q", [full(2), low_rank(2)])
def test_the_registered_pairs_serve_torch_too_and_agree_with_a_full_prior(q):
    p = normal(3, seed=7).to_event(1)
    as_full = td.MultivariateNormal(p.mean, scale_tril=torch.diag(p.stddev))
    torch.testing.assert_close(td.kl_divergence(q, p), td.kl_divergence(q, as_full))
    with pytest.raises(NotImplementedError):
        td.kl_divergence(q, dist.Laplace(torch.zeros(3), torch.ones(3)).to_event(1))


def test_the_registered_pairs_have_right_gradients_and_keep_float32():
    p_loc, p_scale = randn(3, seed=7), randn(3, seed=8).exp()

    def to_diagonal(loc, root, factor, diag, m, s):
        p = dist.Normal(m, s).to_event(1)
        q1 = dist.MultivariateNormal(loc, scale_tril=root.tril(), validate_args=False)
        q2 = dist.LowRankMultivariateNormal(loc, factor, diag, validate_args=False)
        return closed_form_kl(q1, p), closed_form_kl(q2, p)

    inputs = (randn(3), full().scale_tril, randn(3, 2), randn(3, seed=3).exp(), p_loc, p_scale)
    assert gradcheck(to_diagonal, tuple(x.clone().requires_grad_() for x in inputs))
    for single, double in zip(to_diagonal(*(x.float() for x in inputs)), to_diagonal(*inputs), strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


def test_the_kl_is_zero_at_equality_in_float32_in_many_dimensions():
    m, s = torch.randn(500), torch.rand(500) + 0.1
    p = dist.Normal(m, s).to_event(1)
    q = dist.MultivariateNormal(m, scale_tril=torch.diag(s))
    assert closed_form_kl(q, p).abs() < 1e-3
    torch.testing.assert_close(closed_form_kl(p, p), torch.tensor(0.0))


def test_importing_the_package_registers_its_pairs_and_changes_nothing_else():
    script = """
import torch, pyro, pyro.distributions
from torch.distributions import kl

def world():
    return (torch.get_default_dtype(), torch.random.get_rng_state().tolist(), torch.is_grad_enabled(),
            torch.distributions.Distribution._validate_args, pyro.settings.get(), dict(pyro.get_param_store()))

import pyrogen
pairs, before = dict(kl._KL_REGISTRY), world()
import pyrogen.distributions
new = {(a.__name__, b.__name__) for a, b in set(kl._KL_REGISTRY) - set(pairs)}
assert new == {
    ("MultivariateNormal", "Independent"),
    ("LowRankMultivariateNormal", "Independent"),
    ("PowerSpherical", "SphereUniform"),
    ("VonMisesFisher", "SphereUniform"),
    ("SphereUniform", "VonMisesFisher"),
    ("VonMisesFisher", "VonMisesFisher"),
}, new
assert all(kl._KL_REGISTRY[pair] is f for pair, f in pairs.items())
assert world() == before
"""
    subprocess.run([sys.executable, "-W", "error::RuntimeWarning", "-c", script], check=True)
