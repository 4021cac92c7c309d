from __future__ import annotations

import copy

import pyro
import pytest
import torch
from pyro.nn import PyroModule

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Contrastive,
    Exact,
    FastPersistent,
    Gaussian,
    Persistent,
    Tempered,
)
from pyrogen.errors import NonFiniteError, SettingsError, ShapeError
from pyrogen.inference import ELBO, IWAE, MaximumLikelihood, fit
from pyrogen.models import PPCA, RBM

WEIGHTS = torch.tensor([3.0, 1.0, 0.0, 2.0, 1.0])


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def rows(n=5):
    return (torch.rand(n, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()


def rbm(hidden=None, particles=None):
    torch.manual_seed(0)
    return RBM(Bernoulli(4), hidden or Bernoulli(3), particles=particles or Exact(), scale=0.5)


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


def trained(model, x, **settings):
    given = {"epochs": 1, "batch_size": 1000, "optimizer": sgd, "progress": False, "device": "cpu"} | settings
    return fit(model, x, **given)


def same(one, other):
    # in natural parameters, for the offsets have seen other rows
    one, other = one.machine(), other.machine()
    for name in ("W", "b", "c"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=2e-6, rtol=1e-5)


def repeated(x):
    return x.repeat_interleave(WEIGHTS.long(), 0)


@pytest.mark.parametrize("hidden", [Bernoulli(3), Gaussian(3)])
@pytest.mark.parametrize("objective", [MaximumLikelihood(), ELBO()])
def test_whole_weights_are_repeated_rows(objective, hidden):
    # with exact particles neither objective has noise, and an RBM's ELBO is its likelihood
    x = rows()
    weighted, plain = rbm(copy.deepcopy(hidden)), rbm(copy.deepcopy(hidden))
    trained(weighted, x, weights=WEIGHTS, objective=objective)
    trained(plain, repeated(x), objective=objective)
    same(weighted, plain)
    unweighted = rbm(copy.deepcopy(hidden))
    trained(unweighted, x)
    assert (unweighted.W - plain.W).abs().max() > 1e-3


def test_only_how_weights_compare_counts():
    one, other = rbm(), rbm()
    trained(one, rows(), weights=WEIGHTS)
    trained(other, rows(), weights=100 * WEIGHTS)
    same(one, other)


def test_minibatches_see_the_weights_of_their_own_rows():
    # rows without weight are not learned from, in whatever batch they come
    x = torch.cat([torch.ones(50, 4), torch.zeros(50, 4)])
    model = rbm(particles=Exact())
    weights = torch.cat([torch.ones(50), torch.zeros(50)])
    trained(model, x, weights=weights, batch_size=7, epochs=30)
    with torch.no_grad():
        assert model.distribution().log_prob(torch.ones(1, 4)).exp() > 0.8


def likeliest(units, a, generator=None):
    return (units.mean(a) > 0.4).to(a.dtype)


@pytest.mark.parametrize("visible", [Bernoulli, Gaussian], ids=["by hand", "by autograd"])
@pytest.mark.parametrize("particles", [Contrastive(2), FastPersistent(2, 3), Persistent(2, 3), Tempered(1, 3, 2)])
def test_particles_have_the_gradient_of_repeated_rows(visible, particles, monkeypatch):
    # without noise, so that a row and its repetitions have the same particle
    monkeypatch.setattr(Bernoulli, "sample", likeliest)
    monkeypatch.setattr(Gaussian, "sample", likeliest)
    x = rows()
    model = RBM(visible(4), Bernoulli(3), particles=copy.deepcopy(particles), scale=2.0, centred=False)
    other = copy.deepcopy(model)
    for _ in range(2):  # fast weights are seen by the second step
        torch.manual_seed(1)  # Tempered exchanges by uniforms of its own
        one = MaximumLikelihood().weighted(WEIGHTS / WEIGHTS.mean(), model.model, model.guide, x).loss
        torch.manual_seed(1)
        two = MaximumLikelihood()(other.model, other.guide, repeated(x)).loss
        names = [name for name, _ in model.named_parameters()]
        found = torch.autograd.grad(one, list(model.parameters()))
        expected = torch.autograd.grad(two, list(other.parameters()))
        for name, g, h in zip(names, found, expected, strict=True):
            torch.testing.assert_close(g, h, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")
    for kept, same_kept in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(kept, same_kept, atol=1e-5, rtol=1e-4)


def test_contrastive_divergence_of_a_pyro_model_counts_a_particle_as_its_row():
    model = rbm(particles=Contrastive(1))
    x, factor = rows(), torch.tensor([1.0, 0.0, 2.0, 0.0, 0.5])
    torch.manual_seed(1)
    (model.distribution().log_prob(x) * factor).sum().backward()
    found = model.W.grad.clone()
    machine = model.machine().detached()
    torch.manual_seed(1)
    v = model.particles.negative(machine, x).v
    gap = model.machine().free_energy(v) - model.machine().free_energy(x)
    expected = torch.autograd.grad((gap * factor).sum(), model.W)[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_resuming_with_other_weights_is_refused(tmp_path):
    from pyrogen.errors import DataError

    trained(rbm(), rows(), weights=WEIGHTS, folder=tmp_path / "run")
    with pytest.raises(DataError):
        trained(rbm(), rows(), weights=torch.ones(5), folder=tmp_path / "run", resume=True, epochs=2)


def test_validation_rows_and_the_history_count_once():
    x = rows(40)
    result = trained(rbm(), x, weights=torch.rand(40) + 0.1, validation=x, epochs=3)
    assert result.history["train"] == pytest.approx(result.history["valid"], abs=1e-5)


@pytest.mark.parametrize(
    ("weights", "error", "said"),
    [
        (torch.ones(4), ShapeError, r"need \(5,\)|\(5,\), one for each"),
        ([1.0] * 5, ShapeError, "list"),
        (torch.tensor([1.0, 2, 3, 4, float("nan")]), NonFiniteError, "1 bad weights"),
        (torch.tensor([1.0, 2, 3, 4, -1]), SettingsError, "weights from -1 to 4"),
        (torch.zeros(5), SettingsError, "not all 0"),
    ],
)
def test_bad_weights_are_refused(weights, error, said):
    with pytest.raises(error, match=said):
        trained(rbm(), rows(), weights=weights)


def test_where_a_weight_is_no_factor_it_is_refused():
    with pytest.raises(SettingsError, match="IWAE"):
        trained(PPCA(4, 2), torch.randn(5, 4), weights=WEIGHTS, objective=IWAE(5))

    class Own(PyroModule):
        def forward(self, x):
            return x

    with pytest.raises(SettingsError, match="Own"):
        fit(Own(), rows(), guide=lambda x: None, weights=WEIGHTS, progress=False)
