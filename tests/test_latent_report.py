"""What is said of a latent space, where it is known beforehand."""

from __future__ import annotations

import json
import math

import pyro
import pytest
import torch
from pyro.distributions import MultivariateNormal, Normal
from torch import nn

from pyrogen.errors import ModelError, PyrogenError, ShapeError
from pyrogen.evaluate import latent_report
from pyrogen.inference import ELBO
from pyrogen.models import PPCA, VAE, GaussianPixels, StandardNormal, TwoLayerVAE
from pyrogen.nn import MLP
from tests.statistics import assert_mean, assert_same_mean

D, L = 4, 3
SOFTPLUS_ONE = math.log(math.e - 1)


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def linear_vae(mean_weight, raw_scale):
    """A VAE whose guide is Normal(A x, softplus(r) + 1e-4), with A and r given."""
    latent = len(raw_scale)
    vae = VAE(nn.Linear(D, 2 * latent), nn.Linear(latent, D), GaussianPixels(D), StandardNormal(latent)).double()
    with torch.no_grad():
        vae.encoder.weight.copy_(torch.cat([mean_weight, torch.zeros(latent, D)]))
        vae.encoder.bias.copy_(torch.cat([torch.zeros(latent), raw_scale]))
    return vae


def test_a_guide_that_ignores_the_rows_has_no_active_units_and_no_information():
    vae = linear_vae(torch.zeros(L, D), torch.full((L,), SOFTPLUS_ONE))
    report = latent_report(vae, torch.randn(50, D, dtype=torch.float64))
    site = report.sites["z"]
    assert report.collapsed and site.active_units == 0
    assert site.mean_variance == pytest.approx([0.0] * L, abs=1e-12)
    assert site.mutual_information == pytest.approx(0.0, abs=1e-12)
    assert site.kl == pytest.approx(0.0, abs=1e-6)  # of the floor of the scale, 1e-4


def test_a_unit_is_active_when_its_mean_varies_by_more_than_a_hundredth():
    """Rows of unit variance, so that the variance of a unit's mean is the square of its weight."""
    x = torch.randn(400, D, dtype=torch.float64)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T
    weight = torch.zeros(L, D)
    weight[0, 0], weight[1, 1], weight[2, 2] = 0.09, 0.11, 2.0
    report = latent_report(linear_vae(weight, torch.zeros(L)), x)
    assert report.sites["z"].mean_variance == pytest.approx([0.0081, 0.0121, 4.0])
    assert report.sites["z"].active_units == 2 and not report.collapsed


@pytest.mark.parametrize("latent", [1, 3])
def test_the_kl_is_its_closed_form_per_unit_and_adds_up(latent):
    x = torch.randn(40, D, dtype=torch.float64)
    weight, raw = torch.randn(latent, D), torch.linspace(-1, 1, latent)
    site = latent_report(linear_vae(weight, raw), x).sites["z"]
    scale = nn.functional.softplus(raw.double()) + 1e-4
    per_unit = 0.5 * ((x @ weight.T.double()).square().mean(0) + scale**2 - 1) - scale.log()
    assert site.kl_per_dimension == pytest.approx(per_unit.tolist())
    assert site.kl == pytest.approx(float(per_unit.sum()))


def test_codes_that_give_their_row_away_carry_the_logarithm_of_the_number_of_rows():
    x = torch.arange(64.0, dtype=torch.float64).unsqueeze(-1).expand(64, D)
    vae = linear_vae(torch.full((L, D), 1.0), torch.full((L,), -8.0))
    assert latent_report(vae, x).sites["z"].mutual_information == pytest.approx(math.log(64))


def test_the_information_of_ppcas_codes_is_half_the_log_determinant():
    """I(x; z) = 1/2 log det(I + W'W / s^2), for rows from the model itself."""
    ppca = PPCA(D, 2).double()
    with torch.no_grad():
        ppca.loadings.mul_(0.5)
    gram = ppca.loadings.T @ ppca.loadings / ppca.scale**2
    exact = 0.5 * torch.logdet(torch.eye(2, dtype=torch.float64) + gram)
    estimates = [latent_report(ppca, ppca.sample(400), particles=1, seed=s) for s in range(60)]
    information = torch.tensor([report.sites["z"].mutual_information for report in estimates])
    assert 0.3 < float(exact.detach()) < 3
    # 400 rows stand for the aggregate posterior: a bias of the order of exp(I) / 400
    assert_mean(information, exact.detach(), exact_to=0.02)


def test_ppcas_kl_and_reconstruction_are_their_closed_forms():
    ppca = PPCA(D, 2).double()
    x = ppca.sample(100)
    report = latent_report(ppca, x, particles=400)
    site = report.sites["z"]
    with torch.no_grad():
        q = ppca.encode(x)
        prior = MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
        kl = torch.distributions.kl_divergence(q, prior).mean()
        spread = (ppca.loadings @ q.covariance_matrix @ ppca.loadings.T).diagonal(dim1=-2, dim2=-1).sum(-1)
        off = (x - ppca.decode(q.mean).mean).square().sum(-1) + spread
        reconstruction = -0.5 * off / ppca.scale**2 - D * (ppca.scale.log() + 0.5 * math.log(2 * math.pi))
        assert site.kl == pytest.approx(float(kl))
        assert site.mean_variance == pytest.approx(q.mean.var(0).tolist())
        # the two are the bound, which is the likelihood here
        assert float(reconstruction.mean() - kl) == pytest.approx(float(ppca.log_prob(x).mean()))
    assert site.kl_per_dimension is None, "a full covariance has no KL per unit"
    seeds = [latent_report(ppca, x, particles=50, seed=s).reconstruction for s in range(60)]
    assert_mean(torch.tensor(seeds, dtype=torch.float64), reconstruction.mean())


def test_a_two_layer_guide_is_reported_layer_by_layer():
    vae = TwoLayerVAE(
        MLP(D, 2 * L), MLP(2 * L, 4), MLP(2, 2 * L), MLP(L, D), GaussianPixels(D), StandardNormal(2), L
    ).double()
    report = latent_report(vae, torch.randn(30, D, dtype=torch.float64))
    assert list(report.sites) == ["z2", "z1"]
    top, middle = report.sites["z2"], report.sites["z1"]
    assert len(top.mean_variance) == 2 and len(middle.mean_variance) == L
    assert top.mutual_information is not None and middle.mutual_information is None
    for site in (top, middle):
        assert sum(site.kl_per_dimension) == pytest.approx(site.kl)
    assert json.loads(json.dumps(report.summary()))["sites"]["z1"]["units"] == L


def test_the_model_and_the_random_state_are_left_as_they_were():
    encoder = nn.Sequential(nn.Linear(D, 2 * L), nn.Dropout(0.5), nn.BatchNorm1d(2 * L))
    vae = VAE(encoder, nn.Linear(L, D), GaussianPixels(D), StandardNormal(L)).train()
    encoder[2].eval()
    before, state = [part.training for part in vae.modules()], torch.get_rng_state()
    x = torch.randn(30, D, generator=torch.Generator().manual_seed(1))
    first, again = latent_report(vae, x), latent_report(vae, x)
    assert [part.training for part in vae.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again


def test_what_cannot_be_reported_is_refused():
    ppca = PPCA(D, 2)
    with pytest.raises(ShapeError, match="at least two"):
        latent_report(ppca, torch.randn(1, D))
    with pytest.raises(PyrogenError):
        latent_report(ppca, torch.randn(3, D - 1))

    def model(x):
        w = pyro.sample("w", Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", Normal(w.sum(-1), 1.0), obs=x[:, 0])

    def guide(x):
        pyro.sample("w", Normal(torch.zeros(2), 1.0).to_event(1))

    with pytest.raises(ModelError, match="'w'"):
        latent_report(model, torch.randn(3, D), guide=guide)


def test_the_report_agrees_with_the_bound():
    vae = linear_vae(torch.randn(L, D), torch.zeros(L))
    x = torch.randn(50, D, dtype=torch.float64)
    seeds = [latent_report(vae, x, seed=s, particles=8) for s in range(60)]
    bounds = torch.tensor([r.reconstruction - r.sites["z"].kl for r in seeds], dtype=torch.float64)
    assert_same_mean(bounds, torch.stack([ELBO(8)(vae.model, vae.guide, x).bound for _ in range(60)]))
