"""Probabilistic PCA: the model whose every number is known, as the judge of everything that has none.

Among them the linear-Gaussian VAE, whose bound, trained by the same loop as any other, must reach the closed form.
"""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pyrogen.errors import ShapeError
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import ELBO, IWAE, Cosine, fit
from pyrogen.inference.terms import run
from pyrogen.models import PPCA, VAE, GaussianPixels, Pair, StandardNormal
from pyrogen.nn import batched
from tests.oracles import ppca_log_likelihood
from tests.statistics import assert_mean, threshold

D, L = 5, 2


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def data(n=300):
    """Rows of two strong factors, one weak and noise, off centre."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        strengths = torch.tensor([1.5, 1.0, 0.3])
        return torch.randn(n, 3) * strengths @ torch.randn(3, D) + 0.5 * torch.randn(n, D) + torch.arange(D) / 4


def solved(x, latent=L):
    ppca = PPCA(x.shape[1], latent).to(x.dtype)
    ppca.solve(x)
    return ppca


# --- the closed form ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", [1, 2, 4])
def test_the_solution_has_the_largest_likelihood_that_there_is(latent):
    x = data().double()
    ppca = solved(x, latent)
    best = ppca_log_likelihood(x, latent)
    assert float(ppca.log_prob(x).mean().detach()) == pytest.approx(best, abs=1e-9)
    gradient = torch.autograd.grad(ppca.log_prob(x).mean(), list(ppca.parameters()))
    for part in gradient:
        assert_close(part, torch.zeros_like(part), atol=1e-9, rtol=0)
    for parameter in ppca.parameters():
        with torch.no_grad():
            parameter += 0.01 * torch.randn_like(parameter)
        assert float(ppca.log_prob(x).mean().detach()) < best


def test_the_solution_is_the_eigendecomposition_of_the_covariance():
    x = data().double()
    ppca = solved(x)
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    noise = values[: D - L].mean()
    assert_close(ppca.mean.detach(), x.mean(0))
    assert_close(ppca.scale.detach() ** 2, noise)
    explained = vectors[:, D - L :] @ (values[D - L :] - noise).diag() @ vectors[:, D - L :].T
    assert_close((ppca.loadings @ ppca.loadings.T).detach(), explained)


def test_log_prob_is_that_of_the_full_covariance():
    x = data().double()
    ppca = solved(x)
    covariance = ppca.loadings @ ppca.loadings.T + ppca.scale**2 * torch.eye(D, dtype=torch.float64)
    assert_close(ppca.log_prob(x), dist.MultivariateNormal(ppca.mean, covariance).log_prob(x))


def test_rows_without_noise_left_over_still_get_a_density():
    x = data(20)[:, :1].double() @ torch.ones(1, D, dtype=torch.float64)
    assert bool(solved(x, 2).log_prob(x).isfinite().all())


def test_too_few_rows_or_too_wide_a_code_is_refused():
    for x, latent in ((data()[:1], L), (data(), D)):
        with pytest.raises(ShapeError):
            PPCA(D, latent).solve(x)


# --- the exact guide ------------------------------------------------------------------------------------------------


def test_the_guide_is_the_posterior_by_bayes_rule():
    x = data(4).double()
    ppca = solved(data().double())
    z = torch.randn(6, 4, L, dtype=torch.float64)
    prior = dist.Normal(torch.zeros(L, dtype=torch.float64), 1.0).to_event(1).log_prob(z)
    by_bayes = prior + ppca.decode(z).log_prob(x) - ppca.log_prob(x)
    assert_close(ppca.encode(x).log_prob(z), by_bayes)


@pytest.mark.parametrize("particles", [1, 7])
def test_importance_weights_with_the_exact_guide_have_no_variance_at_all(particles):
    """Whatever the parameters, not only at the solution."""
    x, ppca = data().double(), PPCA(D, L).double()
    log_w = run(ppca.model, ppca.guide, x, particles=particles).log_w
    assert_close(log_w, ppca.log_prob(x).expand(particles, -1))
    for objective in (IWAE(particles), ELBO(particles, gradient="stl")):
        assert_close(objective(ppca.model, ppca.guide, x).bound, ppca.log_prob(x).mean().detach())


def test_the_gradient_of_the_bound_with_the_exact_guide_is_that_of_the_likelihood():
    """Model and guide share all their parameters here, and the bound is tight."""
    x, ppca = data(20).double(), PPCA(D, L).double()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(ppca.log_prob(x).mean(), list(ppca.parameters()))])
    for objective in (ELBO(gradient="stl"), IWAE(3, gradient="dreg")):
        losses = (objective(ppca.model, ppca.guide, x).loss for _ in range(200))
        draws = [torch.cat([g.flatten() for g in torch.autograd.grad(-l, list(ppca.parameters()))]) for l in losses]
        assert_mean(torch.stack(draws), exact)


def test_its_elbo_is_its_likelihood_on_average():
    x, ppca = data(100).double(), PPCA(D, L).double()
    bounds = torch.stack([ELBO()(ppca.model, ppca.guide, x).bound for _ in range(100)])
    assert_mean(bounds, ppca.log_prob(x).mean().detach())


def test_its_samples_have_its_covariance():
    ppca = solved(data())
    x = ppca.sample(20_000).double()
    centred = x - ppca.mean.detach()
    products = (centred.unsqueeze(-1) * centred.unsqueeze(-2)).flatten(1)
    covariance = (ppca.loadings @ ppca.loadings.T + ppca.scale**2 * torch.eye(D)).detach()
    assert_mean(x, ppca.mean.detach())
    assert_mean(products, covariance.flatten())


# --- a VAE that must reach it ---------------------------------------------------------------------------------------


class FullCovariance(Pair):
    """A linear-Gaussian model whose guide is a normal with one full covariance and a linear mean.

    model   z ~ Normal(0, I)      x ~ Normal(f(z), s^2 I)
    guide   z | x ~ Normal(m(x), T T'),      T lower triangular
    """

    def __init__(self) -> None:
        super().__init__(D, "real")
        self.decoder, self.likelihood = nn.Linear(L, D), GaussianPixels(D)
        self.encoder, self.raw_tril = nn.Linear(D, L), nn.Parameter(torch.zeros(L, L))

    def model(self, x, size=None):
        with self.rows(x, size):
            z = pyro.sample("z", dist.Normal(x.new_zeros(L), 1.0).to_event(1))
            return pyro.sample("x", self.likelihood(batched(self.decoder, z)), obs=x)

    def guide(self, x, size=None):
        with self.rows(x, size):
            tril = self.raw_tril.tril(-1) + self.raw_tril.diagonal().exp().diag_embed()
            return pyro.sample("z", dist.MultivariateNormal(self.encoder(x), scale_tril=tril))


def trained(pair, x, gradient="auto", steps=400):
    objective = ELBO(10, gradient=gradient)
    settings = {"epochs": steps, "batch_size": len(x), "learning_rate": 0.1, "schedule": Cosine(steps)}
    fit(pair, x, objective=objective, progress=False, **settings)
    return pair


def exact_elbo(pair, x):
    """The ELBO of a linear-Gaussian pair with all expectations in closed form."""
    with torch.no_grad():
        q = pyro.poutine.trace(pair.guide).get_trace(x).nodes["z"]["fn"]
        mean, covariance = q.mean, getattr(q, "covariance_matrix", None)
        covariance = torch.diag_embed(q.variance) if covariance is None else covariance
        W, s = pair.decoder.weight, pair.likelihood.scale
        expected = (x - pair.decoder(mean)).square().sum(-1)
        expected = expected + torch.einsum("di,nij,dj->n", W, covariance.expand(len(x), L, L), W)
        likelihood = -0.5 * expected / s**2 - D * s.log() - 0.5 * D * math.log(2 * math.pi)
        trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
        kl = 0.5 * (trace + mean.square().sum(-1) - L - torch.logdet(covariance))
        return float((likelihood - kl).mean())


@pytest.mark.parametrize("gradient", ["auto", "stl"])
def test_a_linear_gaussian_vae_with_full_covariance_reaches_the_closed_form(gradient):
    """Within 0.002 nats per row, through the same loop and bound as any other model."""
    x = data()
    pair = trained(FullCovariance(), x, gradient)
    best = ppca_log_likelihood(x, L)
    bound = exact_elbo(pair, x)
    assert best - 0.002 < bound <= best
    held = log_likelihood(pair, x, particles=50)
    assert best - 0.002 < held.mean < best + threshold() * held.mc_stderr


def test_a_linear_gaussian_vae_with_diagonal_covariance_reaches_it_too_by_rotating_its_codes():
    """Where the loadings are orthogonal the posterior is diagonal, and the bound has no gap (Lucas et al. 2019)."""
    x = data()
    vae = trained(VAE(nn.Linear(D, 2 * L), nn.Linear(L, D), GaussianPixels(D), StandardNormal(L)), x)
    best = ppca_log_likelihood(x, L)
    bound = exact_elbo(vae, x)
    with torch.no_grad():
        noise = vae.likelihood.scale.square().expand(D)
        evidence = dist.LowRankMultivariateNormal(vae.decoder.bias, vae.decoder.weight, noise).log_prob(x).mean()
        # loadings in the directions of the codes' axes
        gram = vae.decoder.weight.T @ vae.decoder.weight
    assert best - 0.005 < bound <= float(evidence) <= best
    assert abs(float(gram[0, 1])) < 0.05 * float(gram.diagonal().prod().sqrt())
    held = log_likelihood(vae, x, particles=50)
    assert bound - threshold() * held.mc_stderr < held.mean < float(evidence) + threshold() * held.mc_stderr
