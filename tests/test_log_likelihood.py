"""Held-out likelihoods against closed forms, and whether their errors are the errors that they have."""

from __future__ import annotations

import json
import math

import pyro
import pytest
import torch
from pyro.distributions import Bernoulli, Normal
from torch import nn
from torch.testing import assert_close

from pyrogen.errors import ModelError, SettingsError, ShapeError, SupportError
from pyrogen.evaluate import log_likelihood
from pyrogen.models import PPCA, VAE, BernoulliPixels, GaussianPixels, StandardNormal
from tests.oracles import bits, gauss_hermite, log_mean_exp, normal_noise
from tests.statistics import assert_mean, assert_standard_deviation, threshold

DOUBLE = {"dtype": torch.float64}
ZERO = torch.zeros((), **DOUBLE)


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def ppca():
    return PPCA(4, 2).double()


def rows(n):
    return torch.randn(n, 4, **DOUBLE)


# x = z + noise, z ~ N(0, 1): exact posterior N(x / 2, 1/2), evidence N(0, 2)


def model(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", Normal(ZERO, 1.0))
        pyro.sample("x", Normal(z, 1.0), obs=x)


def guide(x):
    """Off in place and scale."""
    with pyro.plate("rows", len(x)):
        pyro.sample("z", Normal(0.3 * x, 0.9))


def evidence(x):
    return Normal(ZERO, math.sqrt(2)).log_prob(x)


# --- the numbers ----------------------------------------------------------------------------------------------------


def test_the_exact_method_gives_the_models_own_log_prob():
    pca, x = ppca(), rows(7)
    result = log_likelihood(pca, x, method="exact", chunk=3)
    assert_close(result.rows, pca.log_prob(x).detach())
    assert (result.kind, result.method, result.n, result.mc_stderr) == ("exact", "exact", 7, 0.0)
    assert result.mean == pytest.approx(float(result.rows.mean()))
    assert result.stderr == pytest.approx(float(result.rows.std()) / math.sqrt(7))
    assert result.ess is None


@pytest.mark.parametrize("method", ["iwae", "elbo"])
@pytest.mark.parametrize(("particles", "chunk"), [(1, 10_000), (5, 10_000), (5, 20), (5, 7), (5, 2), (5, 1)])
def test_with_the_exact_guide_every_row_is_exact_in_any_chunks_and_in_the_order_given(method, particles, chunk):
    pca, x = ppca(), rows(11)
    result = log_likelihood(pca, x, method=method, particles=particles, chunk=chunk)
    assert_close(result.rows, pca.log_prob(x).detach())
    assert_close(result.ess, torch.full((11,), float(particles), **DOUBLE))
    assert result.kind == "lower bound"
    if particles > 1:
        assert result.mc_stderr < 1e-12


REHEARSALS = [torch.zeros(())] * 4  # the plates are counted, rows checked, particles compared one with two


def test_rows_errors_and_sizes_are_the_formulas_of_the_log_weights():
    x, k = torch.tensor([0.5, -1.0], **DOUBLE), 6
    eps = torch.randn(k, 2, **DOUBLE)
    z = 0.3 * x + 0.9 * eps
    log_w = Normal(ZERO, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(x) - Normal(0.3 * x, 0.9).log_prob(z)
    w = log_w.exp()
    with normal_noise(*REHEARSALS, eps):
        result = log_likelihood(model, x, guide=guide, particles=k)
    assert_close(result.rows, log_mean_exp(log_w))
    assert_close(result.ess, w.sum(0) ** 2 / (w**2).sum(0))
    relative = w.std(0) / w.mean(0) / math.sqrt(k)
    assert result.mc_stderr == pytest.approx(float(relative.square().sum().sqrt()) / 2)
    with normal_noise(*REHEARSALS, eps):
        result = log_likelihood(model, x, guide=guide, particles=k, method="elbo")
    assert_close(result.rows, log_w.mean(0))
    assert result.mc_stderr == pytest.approx(float((log_w.std(0) / math.sqrt(k)).square().sum().sqrt()) / 2)


def test_the_bound_is_below_the_evidence_and_closes_with_the_particles():
    x = torch.linspace(-2, 2, 9, **DOUBLE)
    exact = float(evidence(x).mean())
    gaps = []
    for k in (1, 10, 1000):
        result = log_likelihood(model, x.repeat(200), guide=guide, particles=k)
        gaps.append(exact - result.mean)
        assert gaps[-1] > -threshold() * (result.mc_stderr if k > 1 else 0.01)
    assert gaps[0] > 3 * gaps[1] > 9 * abs(gaps[2]), gaps


@pytest.mark.parametrize("particles", [1, 3])
def test_the_expected_bound_is_that_of_the_enumerated_codes(particles):
    """Bits instead of normals, so that the expectation is a finite sum."""
    a, b = 0.3, 0.7

    def bit_model(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("x", Normal(2 * pyro.sample("z", Bernoulli(ZERO + a)), 1.0), obs=x)

    def bit_guide(x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Bernoulli(ZERO + b))

    z = bits(particles).T
    log_w = z * math.log(a / b) + (1 - z) * math.log((1 - a) / (1 - b)) + Normal(2 * z, 1.0).log_prob(ZERO + 0.5)
    probability = (z * b + (1 - z) * (1 - b)).prod(0)
    result = log_likelihood(bit_model, torch.full((20_000,), 0.5, **DOUBLE), guide=bit_guide, particles=particles)
    assert_mean(result.rows, (probability * log_mean_exp(log_w)).sum())


# --- the errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "particles"), [("iwae", 100), ("elbo", 100), ("elbo", 5)])
def test_the_monte_carlo_error_is_the_spread_over_seeds(method, particles):
    x = torch.linspace(-2, 2, 10, **DOUBLE)
    runs = [log_likelihood(model, x, guide=guide, method=method, particles=particles, seed=s) for s in range(200)]
    means = torch.tensor([run.mean for run in runs], **DOUBLE)
    errors = torch.tensor([run.mc_stderr for run in runs], **DOUBLE)
    # the delta method is right to first order in 1 / particles
    assert_standard_deviation(means, errors.square().mean().sqrt(), relative=0.05)


def test_the_standard_error_is_the_spread_over_samples_of_rows():
    pca = ppca()
    runs = [log_likelihood(pca, pca.sample(50), method="exact") for _ in range(200)]
    means = torch.tensor([run.mean for run in runs], **DOUBLE)
    errors = torch.tensor([run.stderr for run in runs], **DOUBLE)
    assert_standard_deviation(means, errors.square().mean().sqrt())


def test_the_interval_combines_both_errors():
    x = torch.linspace(-2, 2, 10, **DOUBLE)
    result = log_likelihood(model, x, guide=guide, particles=10)
    low, high = result.interval
    assert high - result.mean == pytest.approx(1.96 * math.hypot(result.stderr, result.mc_stderr))
    assert result.mean - low == pytest.approx(high - result.mean)


def test_chunks_change_the_noise_and_nothing_else():
    x = torch.linspace(-2, 2, 50, **DOUBLE)
    whole, *parts = (log_likelihood(model, x, guide=guide, particles=64, chunk=c) for c in (10_000, 640, 64, 16))
    exact = evidence(x)
    for part in parts:
        assert abs(part.mean - whole.mean) < threshold(3) * math.hypot(part.mc_stderr, whole.mc_stderr)
        # a row in another's place would be off by far more than its error
        assert float((part.rows - exact).abs().max()) < 0.5
        assert part.mc_stderr == pytest.approx(whole.mc_stderr, rel=0.3)


def test_the_same_seed_gives_the_same_rows_and_leaves_the_random_state_alone():
    x = torch.linspace(-2, 2, 10, **DOUBLE)
    state = torch.get_rng_state()
    first, again, other = (log_likelihood(model, x, guide=guide, particles=5, seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.rows, again.rows) and not torch.equal(first.rows, other.rows)


def test_the_effective_size_is_that_of_the_distribution_of_the_weights():
    """K (E w)^2 / E w^2, by quadrature."""
    x = ZERO + 1.5
    eps, weight = gauss_hermite(60)
    z = 0.3 * x + 0.9 * eps.squeeze(-1)
    w = (Normal(ZERO, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(x) - Normal(0.3 * x, 0.9).log_prob(z)).exp()
    limit = (weight * w).sum() ** 2 / (weight * w**2).sum()
    result = log_likelihood(model, x.expand(200), guide=guide, particles=2000)
    assert_mean(result.ess / 2000, limit, exact_to=0.002)


# --- the words ------------------------------------------------------------------------------------------------------


def test_the_kind_says_whether_the_number_is_exact_or_a_bound():
    pca, x = ppca(), rows(5)
    exact, bound = log_likelihood(pca, x, method="exact"), log_likelihood(pca, x, particles=5)
    assert str(exact).startswith("log p(x) = ") and "(exact, 5 rows" in str(exact)
    assert str(bound).startswith("log p(x) >= ") and "(lower bound, iwae, 5 rows" in str(bound)
    for result in (exact, bound):
        summary = json.loads(json.dumps(result.summary()))
        assert summary["kind"] == result.kind and summary["n"] == 5 and summary["unit"] == "nats per row"
        assert summary["interval"] == list(result.interval)
    assert bound.summary()["ess_min"] == pytest.approx(5.0)


def test_one_row_has_no_standard_error_and_one_particle_no_monte_carlo_error():
    result = log_likelihood(ppca(), rows(1), particles=1)
    assert math.isfinite(result.mean) and math.isnan(result.stderr) and math.isnan(result.mc_stderr)


# --- the model is left as it was ------------------------------------------------------------------------------------


class Frozen(nn.Module):
    """An encoder with dropout, and a batch norm that its owner keeps in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout, self.norm = nn.Linear(4, 4), nn.Dropout(0.9), nn.BatchNorm1d(4)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.norm(self.dropout(self.linear(x)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_every_part_of_the_model_is_in_the_mode_that_it_was_in_also_after_a_failure(training, fails):
    vae = VAE(Frozen(), nn.Linear(2, 4), GaussianPixels(4), StandardNormal(2))
    vae.train(training)
    vae.encoder.norm.eval()
    before = {name: part.training for name, part in vae.named_modules()}
    norm = vae.encoder.norm.running_mean.clone()
    if fails:
        vae.decoder.forward = lambda z: 1 / 0
        with pytest.raises(ZeroDivisionError):
            log_likelihood(vae, torch.randn(6, 4), particles=3)
    else:
        log_likelihood(vae, torch.randn(6, 4), particles=3)
    assert {name: part.training for name, part in vae.named_modules()} == before
    assert torch.equal(vae.encoder.norm.running_mean, norm)


def test_dropout_is_off_also_when_the_programs_are_methods_of_a_module():
    vae, x = VAE(Frozen(), nn.Linear(2, 4), GaussianPixels(4), StandardNormal(2)), torch.randn(6, 4)
    vae.train()
    as_pair = log_likelihood(vae, x, particles=3)
    as_programs = log_likelihood(lambda x: vae.model(x), x, guide=vae.guide, particles=3)
    assert_close(as_programs.rows, as_pair.rows)


def test_no_gradient_is_left_behind():
    pca = ppca()
    result = log_likelihood(pca, rows(5), particles=3)
    assert not result.rows.requires_grad
    assert all(p.grad is None and p.requires_grad for p in pca.parameters())


# --- what is refused ------------------------------------------------------------------------------------------------


def test_rows_of_a_model_with_global_latents_have_no_likelihood_of_their_own():
    def with_global(x):
        w = pyro.sample("w", Normal(ZERO, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", Normal(w, 1.0), obs=x)

    def its_guide(x):
        pyro.sample("w", Normal(ZERO, 1.0))

    with pytest.raises(ModelError, match="1 global latents"):
        log_likelihood(with_global, torch.zeros(5, **DOUBLE), guide=its_guide)


def test_a_model_without_a_plate_or_with_only_some_of_a_rows_pixels_is_refused():
    def no_plate(x):
        z = pyro.sample("z", Normal(torch.zeros_like(x), 1.0).to_event(1))
        pyro.sample("x", Normal(z, 1.0).to_event(1), obs=x)

    def its_guide(x):
        pyro.sample("z", Normal(torch.zeros_like(x), 1.0).to_event(1))

    with pytest.raises(ModelError, match="1 rows for 5 data"):
        log_likelihood(no_plate, torch.zeros(5, **DOUBLE), guide=its_guide)

    def some_pixels(x):
        with pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", Normal(ZERO, 1.0))
            with pyro.plate("pixels", 8, subsample=torch.arange(2), dim=-1):
                pyro.sample("x", Normal(z, 1.0), obs=x)

    def guide_of_rows(x):
        with pyro.plate("rows", len(x), dim=-2):
            pyro.sample("z", Normal(torch.zeros(len(x), 1, **DOUBLE), 1.0))

    with pytest.raises(ModelError, match="subsampled plate inside"):
        log_likelihood(some_pixels, torch.zeros(5, 2, **DOUBLE), guide=guide_of_rows)


def test_settings_and_rows_that_cannot_be_are_refused():
    vae = VAE(nn.Linear(4, 4), nn.Linear(2, 4), BernoulliPixels(4), StandardNormal(2))
    x = torch.ones(3, 4)
    for settings in ({"method": "ais"}, {"particles": 0}, {"chunk": 0}, {"method": "exact"}):
        with pytest.raises(SettingsError):
            log_likelihood(vae, x, **settings)
    with pytest.raises(SupportError):
        log_likelihood(vae, 0.5 * x)
    with pytest.raises(ShapeError):
        log_likelihood(vae, x[:, :3])
    with pytest.raises(SettingsError, match="guide"):
        log_likelihood(model, x)
