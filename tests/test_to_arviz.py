"""Guides and fits as ArviZ data, against closed forms."""

from __future__ import annotations

import math
import types

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import nn

from pyrogen.diagnostics import khat, to_arviz
from pyrogen.errors import ModelError, NonFiniteError, SettingsError, ShapeError

X = torch.tensor([0.5, -1.0, 2.0, 0.3])


@pytest.fixture(autouse=True)
def _seeded():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def normal_mean(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", x.shape[0]):
        pyro.sample("x", dist.Normal(mu, 2.0), obs=x)


def exact_guide(x):
    precision = 1 + x.shape[0] / 4
    pyro.sample("mu", dist.Normal(x.sum() / 4 / precision, precision**-0.5))


def log_evidence(x):
    return dist.MultivariateNormal(torch.zeros(len(x)), 4 * torch.eye(len(x)) + 1).log_prob(x).item()


# sites


def test_factors_are_not_data_and_deterministic_sites_are_posterior():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        pyro.factor("penalty", -mu.abs())
        with pyro.plate("rows", x.shape[0]):
            mean = pyro.deterministic("mean", mu + x)
            pyro.sample("x", dist.Normal(mean, 1e-3), obs=x)

    idata = to_arviz(exact_guide, model=model, data=(X,), num_samples=30)
    assert list(idata.observed_data.data_vars) == ["x"] and list(idata.log_likelihood.data_vars) == ["x"]
    mu, mean = idata.posterior["mu"].values, idata.posterior["mean"]
    assert mean.dims == ("chain", "draw", "rows")
    np.testing.assert_allclose(mean.values, mu[..., None] + X.numpy(), rtol=1e-6)
    np.testing.assert_allclose(idata.posterior_predictive["x"].values, mean.values, atol=0.01)
    log_p = dist.Normal(0.0, 1.0).log_prob(torch.tensor(mu)).double().numpy() - np.abs(mu)
    expected = log_p + idata.log_likelihood["x"].values.sum(-1)
    np.testing.assert_allclose(idata.sample_stats["log_p"].values, expected, rtol=1e-4)


def test_a_likelihood_made_of_factors_says_that_there_is_no_data():
    def model():
        pyro.factor("likelihood", -pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1)).sum(-1))

    def guide():
        pyro.sample("w", dist.Normal(-torch.ones(2), 1.0).to_event(1))

    with pytest.warns(UserWarning, match="observes no site") as told:
        idata = to_arviz(guide, model=model, num_samples=30)
    assert [warning.filename for warning in told] == [__file__]
    weights = idata.sample_stats["log_p"].values - idata.sample_stats["log_q"].values
    np.testing.assert_allclose(weights, 1.0, atol=1e-5)
    assert khat(torch.tensor(weights).float(), dim=1).item() == -math.inf


def test_padding_of_plates_goes_and_dimensions_of_size_one_stay():
    def model(y):
        pyro.sample("scale", dist.LogNormal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("outer", 3, dim=-2):
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
            with pyro.plate("inner", 5, dim=-1):
                pyro.sample("y", dist.Normal(w.expand((*w.shape[:-1], 5)), 1.0), obs=y)
        pyro.sample("loose", dist.Normal(torch.zeros(1), 1.0))

    def guide(y):
        pyro.sample("scale", dist.LogNormal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("outer", 3, dim=-2):
            pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("loose", dist.Normal(torch.zeros(1), 1.0))

    y = torch.randn(3, 5)
    idata = to_arviz(guide, model=model, data={"y": y}, num_samples=7, prior=4, dims={"scale": ["unit"]})
    assert idata.posterior["scale"].dims == ("chain", "draw", "unit") and idata.posterior["scale"].shape == (1, 7, 1)
    assert idata.posterior["w"].dims == ("chain", "draw", "outer") and idata.posterior["w"].shape == (1, 7, 3)
    assert idata.posterior["loose"].shape == (1, 7, 1)
    w = torch.tensor(idata.posterior["w"].values)
    np.testing.assert_allclose(
        idata.log_likelihood["y"].values, dist.Normal(w[..., None], 1.0).log_prob(y), rtol=1e-4, atol=1e-6
    )
    assert idata.log_likelihood["y"].dims == ("chain", "draw", "outer", "inner")
    assert idata.prior["w"].shape == (1, 4, 3) and idata.prior_predictive["y"].shape == (1, 4, 3, 5)


# guides


def test_the_exact_posterior_has_constant_weights():
    idata = to_arviz(exact_guide, model=normal_mean, data=X, num_samples=50, coords={"rows": list("abcd")})
    weights = idata.sample_stats["log_p"].values - idata.sample_stats["log_q"].values
    np.testing.assert_allclose(weights, log_evidence(X), atol=1e-4)
    assert idata.posterior["mu"].shape == (1, 50) and idata.attrs["draws"] == "independent"
    assert idata.observed_data["rows"].values.tolist() == list("abcd")


@pytest.mark.parametrize("family", [AutoNormal, AutoDiagonalNormal])
def test_autoguides_after_svi(family):
    """One free Normal on one mean, so log q is known; its auxiliary sites stay out of the posterior."""
    guide = family(normal_mean)
    svi = SVI(normal_mean, guide, pyro.optim.Adam({"lr": 0.05}), Trace_ELBO())
    for _ in range(20):
        svi.step(X)
    idata = to_arviz(guide, model=normal_mean, data=(X,), num_samples=40, seed=3)
    assert list(idata.posterior.data_vars) == ["mu"]
    (loc, scale) = (p.detach().reshape(()) for p in (pyro.param(name) for name in sorted(pyro.get_param_store())))
    log_q = dist.Normal(loc, scale).log_prob(torch.tensor(idata.posterior["mu"].values))
    np.testing.assert_allclose(idata.sample_stats["log_q"].values, log_q, rtol=1e-4, atol=1e-5)
    again = to_arviz(svi, data=(X,), num_samples=40, seed=3)
    np.testing.assert_array_equal(again.posterior["mu"].values, idata.posterior["mu"].values)
    assert again.attrs["seed"] == 3


class Amortized(nn.Module):
    """z ~ N(0, I_2), x | z ~ N(W z, 1), q(z | x) by one linear layer; dropout, to be switched off."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 2), nn.Linear(2, 3)
        self.dropout = nn.Dropout(0.5)

    def model(self, x):
        pyro.module("amortized", self)
        with pyro.plate("rows", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(self.dropout(z)), 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", x.shape[0]):
            pyro.sample("z", dist.Normal(self.encoder(x), 0.7).to_event(1))


@pytest.mark.parametrize("chunk", [None, 1, 6])
def test_local_latents_have_weights_by_row(chunk):
    pair, x = Amortized(), torch.randn(5, 3)
    idata = to_arviz(pair, data=(x,), num_samples=16, chunk=chunk)
    assert pair.training and pair.dropout.training
    z = torch.tensor(idata.posterior["z"].values)
    assert idata.posterior["z"].dims == ("chain", "draw", "rows", "z_dim_0") and z.shape == (1, 16, 5, 2)
    assert idata.posterior_predictive["x"].dims == ("chain", "draw", "rows", "x_dim_0")
    with torch.no_grad():
        log_likelihood = dist.Normal(pair.decoder(z), 1.0).log_prob(x).sum(-1)
        log_p = log_likelihood + dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
        log_q = dist.Normal(pair.encoder(x), 0.7).log_prob(z).sum(-1)
    np.testing.assert_allclose(idata.log_likelihood["x"].values, log_likelihood, rtol=1e-4)
    assert idata.log_likelihood["x"].dims == idata.sample_stats["log_weight"].dims == ("chain", "draw", "rows")
    np.testing.assert_allclose(idata.sample_stats["log_weight"].values, log_p - log_q, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(idata.sample_stats["log_q"].values, log_q.sum(-1), rtol=1e-4)
    np.testing.assert_allclose(idata.sample_stats["log_p"].values, log_p.sum(-1), rtol=1e-4)


def test_a_global_site_beside_local_ones_has_weights_for_the_whole_only():
    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", x.shape[0]):
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        pyro.sample("mu", dist.Normal(0.3, 0.5))
        with pyro.plate("rows", x.shape[0]):
            pyro.sample("z", dist.Normal(x, 1.0))

    idata = to_arviz(guide, model=model, data=(X,), num_samples=12)
    mu, z = (torch.tensor(idata.posterior[name].values) for name in ("mu", "z"))
    assert set(idata.sample_stats) == {"log_p", "log_q"} and mu.shape == (1, 12) and z.shape == (1, 12, 4)
    log_q = dist.Normal(0.3, 0.5).log_prob(mu) + dist.Normal(X, 1.0).log_prob(z).sum(-1)
    np.testing.assert_allclose(idata.sample_stats["log_q"].values, log_q, rtol=1e-4)


def test_a_discrete_guide_keeps_integers_or_what_pyro_draws():
    def model(x):
        with pyro.plate("rows", x.shape[0]):
            k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.8])))
            pyro.sample("x", dist.Normal(k.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", x.shape[0]):
            pyro.sample("k", dist.Categorical(torch.ones(x.shape[0], 2)))

    idata = to_arviz(guide, model=model, data=(X,), num_samples=9)
    k = torch.tensor(idata.posterior["k"].values)
    assert k.dtype == torch.int64
    log_p = torch.tensor([0.2, 0.8]).log()[k] + dist.Normal(k.float(), 1.0).log_prob(X)
    np.testing.assert_allclose(idata.sample_stats["log_weight"].values, log_p - math.log(0.5), rtol=1e-5)


def test_a_site_that_the_guide_leaves_to_the_model_is_predicted():
    def model(x):
        normal_mean(x)
        pyro.sample("next", dist.Normal(100.0, 1.0))

    idata = to_arviz(exact_guide, model=model, data=(X,), num_samples=8)
    assert set(idata.posterior_predictive.data_vars) == {"next", "x"} and list(idata.posterior.data_vars) == ["mu"]
    weights = idata.sample_stats["log_p"].values - idata.sample_stats["log_q"].values
    np.testing.assert_allclose(weights, log_evidence(X), atol=1e-4)


def test_predictive_draws_have_the_mean_of_the_exact_predictive_density():
    """z-score of a mean of 4000 draws of variance 4.5, noise and posterior: |z| < 5, false alarm below 1e-6."""
    idata = to_arviz(exact_guide, model=normal_mean, data=(X,), num_samples=4000)
    expected = X.sum() / 4 / (1 + len(X) / 4)
    got = idata.posterior_predictive["x"].values.mean((0, 1))
    assert (np.abs(got - expected.item()) < 5 * math.sqrt(4.5 / 4000)).all()


# fits, and what ArviZ makes of them


def test_a_fit_carries_its_seed_and_settings():
    pair, x = Amortized(), torch.randn(5, 3)
    fit = types.SimpleNamespace(model=pair, guide=None, history={}, settings={"objective": "ELBO", "lr": 0.1}, seed=11)
    idata = to_arviz(fit, data=(x,), num_samples=3)
    assert idata.attrs["seed"] == 11 and idata.attrs["inference_library"] == "pyrogen"
    assert idata.attrs["algorithm"] == "ELBO" and '"lr": 0.1' in idata.attrs["settings"]
    assert idata.posterior["z"].shape == (1, 3, 5, 2)
    plain = types.SimpleNamespace(model=normal_mean, guide=exact_guide, history={}, settings={}, seed=None)
    assert to_arviz(plain, data=(X,), num_samples=3).posterior["mu"].shape == (1, 3)


def test_arviz_computes_loo_on_the_result():
    """The exact leave-one-out density of the Normal mean; PSIS-LOO of 2000 draws is within 0.05 of it,
    about ten of its Monte-Carlo standard errors (below 0.005): false alarm below 1e-6."""
    az = pytest.importorskip("arviz")
    idata = to_arviz(exact_guide, model=normal_mean, data=(X,), num_samples=2000)
    elpd = sum(log_evidence(X) - log_evidence(torch.cat([X[:i], X[i + 1 :]])) for i in range(len(X)))
    loo = az.loo(idata)
    assert abs(float(getattr(loo, "elpd_loo", None) or loo.elpd) - elpd) < 0.05


# words


def no_site(x):
    pyro.sample("other", dist.Normal(0.0, 1.0))


def wrong_shape(x):
    pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def diverged(x):
    pyro.sample("mu", dist.Normal(torch.tensor(math.nan), 1.0, validate_args=False))


def subsampled(x):
    with pyro.plate("rows", 4, subsample_size=2) as rows:
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[rows])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: to_arviz(exact_guide, data=(X,)), SettingsError, "without its model"),
        (lambda: to_arviz(AutoNormal(normal_mean), data=(X,)), SettingsError, "AutoNormal without its model"),
        (lambda: to_arviz(3), SettingsError, "got int"),
        (lambda: to_arviz(exact_guide, model=normal_mean), SettingsError, r"data=\(x,\)"),
        (lambda: to_arviz(exact_guide, model=normal_mean, data=X, num_samples=0), SettingsError, "num_samples=0"),
        (lambda: to_arviz(exact_guide, model=normal_mean, data=X, max_gb=1e-9), SettingsError, "max_gb"),
        (lambda: to_arviz(no_site, model=normal_mean, data=X), ModelError, "same names"),
        (lambda: to_arviz(wrong_shape, model=normal_mean, data=X), ShapeError, r"'mu' of shape \(2,\)"),
        (lambda: to_arviz(exact_guide, model=subsampled, data=X), ModelError, "2 of its 4 rows"),
        (lambda: to_arviz(exact_guide, model=normal_mean, data=X, coords={"rows": [1]}), ShapeError, "1 coords"),
        (lambda: to_arviz(exact_guide, model=normal_mean, data=X, dims={"x": ["a", "b"]}), ShapeError, "1 names"),
    ],
)
def test_what_cannot_be_converted_is_said_in_words(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_diverged_guide_is_refused():
    with pyro.validation_enabled(False), pytest.raises(NonFiniteError, match="'mu'"):
        to_arviz(diverged, model=normal_mean, data=X, num_samples=5)


def test_a_seed_repeats_the_draws_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, second = (to_arviz(exact_guide, model=normal_mean, data=X, num_samples=5, seed=1) for _ in range(2))
    np.testing.assert_array_equal(first.posterior_predictive["x"].values, second.posterior_predictive["x"].values)
    assert torch.equal(torch.get_rng_state(), state)
