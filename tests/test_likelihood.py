from __future__ import annotations

import copy
import math
import warnings
from functools import partial

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrogen.distributions.boltzmann import (
    Bernoulli,
    Contrastive,
    Exact,
    FastPersistent,
    Gaussian,
    Persistent,
    Spin,
    Tempered,
    log_partition,
)
from pyrogen.errors import DataError, ModelError, NonFiniteError, SettingsError
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import ELBO, Conditional, MaximumLikelihood, Sparsity, UpDown, fit, greedy, likelihood
from pyrogen.models import DBM, DBN, PPCA, RBM, ClassRBM

PARTICLES = {
    "cd": lambda: Contrastive(2),
    "pcd": lambda: Persistent(1, 30),
    "fpcd": lambda: FastPersistent(1, 30),
    "tempered": lambda: Tempered(1, 30, 4),
    "exact": Exact,
}


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def rbm(kind="pcd", visible=None, hidden=None) -> RBM:
    torch.manual_seed(0)
    return RBM(visible or Bernoulli(5), hidden or Bernoulli(3), particles=PARTICLES[kind](), scale=0.5)


def rows(n=40):
    rates = torch.tensor([0.9, 0.2, 0.5, 0.5, 0.1])
    return (torch.rand(n, 5, generator=torch.Generator().manual_seed(1)) < rates).float()


def exact(model: RBM, x):
    with torch.no_grad():
        return float((-model.free_energy(x)).double().mean() - log_partition(model.machine()))


def trained(model: RBM, x=None, **settings):
    given = {"epochs": 3, "batch_size": 16, "learning_rate": 0.02, "progress": False} | settings
    return fit(model, rows() if x is None else x, **given)


@pytest.mark.parametrize("kind", PARTICLES)
@pytest.mark.parametrize("layers", ["bits", "spins", "gaussian"])
def test_the_gradient_by_hand_is_that_of_autograd_and_of_svi(kind, layers):
    kinds = {"bits": (Bernoulli, Bernoulli), "spins": (Spin, Spin), "gaussian": (Bernoulli, Gaussian)}[layers]
    model, x = rbm(kind, kinds[0](5), kinds[1](3)), rows(8)
    x = 2 * x - 1 if layers == "spins" else x
    value = {}
    for way in ("hand", "autograd", "svi"):
        other = copy.deepcopy(model)
        torch.manual_seed(5)
        if way == "hand":
            loss = MaximumLikelihood()(other.model, other.guide, x).loss
        elif way == "autograd":
            loss = other.free_energy(x).mean() + other.particles.log_z(other.machine(), x).mean()
        else:
            loss = -other.distribution().log_prob(x).mean()
        value[way] = torch.autograd.grad(loss, list(other.parameters()))
    for way in ("autograd", "svi"):
        for one, expected in zip(value["hand"], value[way], strict=True):
            torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-4)


def test_exact_particles_give_pyros_gradient_too():
    model, x = rbm("exact"), rows(8)
    found = torch.autograd.grad(MaximumLikelihood()(model.model, model.guide, x).loss, list(model.parameters()))
    loss = Trace_ELBO().differentiable_loss(model.model, model.guide, x) / 8
    for one, expected in zip(found, torch.autograd.grad(loss, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", PARTICLES)
def test_fit_climbs_and_its_history_is_the_exact_likelihood(kind):
    model, x = rbm(kind), rows(200)
    before = exact(model, x)
    result = trained(model, x, epochs=15, validation=rows(30))
    assert max(result.history["valid"]) == pytest.approx(exact(model, rows(30)), abs=2e-5)
    assert exact(model, x) > before + 0.3
    assert result.settings["history"] == "log p(x), exact" and isinstance(result.objective, MaximumLikelihood)


def test_the_history_is_of_the_weights_that_the_model_has():
    model, x = rbm(), rows(50)
    result = trained(model, x, epochs=2)
    assert result.history["train"][-1] == pytest.approx(exact(model, x), abs=2e-5)
    averaged = rbm()
    result = trained(averaged, x, epochs=3, average=0.9, validation=x)
    # with validation rows the model ends with the best averaged weights, offsets and all
    assert max(result.history["valid"]) == pytest.approx(exact(averaged, x), abs=2e-5)


def test_an_estimate_is_called_one_and_is_near(monkeypatch):
    monkeypatch.setattr(likelihood, "LISTED", 0)
    model, x = rbm(), rows(50)
    result = trained(model, x, epochs=2)
    assert "estimate" in result.settings["history"]
    # 100 chains, 200 temperatures on 5 x 3 bits: the log-weights spread by less than 0.1
    assert result.history["train"][-1] == pytest.approx(exact(model, x), abs=0.05)
    again = trained(rbm(), x, epochs=2)
    assert again.history["train"] == result.history["train"]


@pytest.mark.parametrize("kind", ["cd", "pcd", "fpcd", "tempered"])
def test_an_interrupted_fit_goes_on_to_the_bit_particles_and_all(kind, tmp_path):
    x = rows(50)
    settings = {"epochs": 4, "average": 0.9, "validation": x[:10]}
    whole, parts = rbm(kind), rbm(kind)
    expected = trained(whole, x, **settings)

    trained(parts, x, folder=tmp_path / "run", **(settings | {"epochs": 2}))
    fresh = rbm(kind)
    found = trained(fresh, x, folder=tmp_path / "run", resume=True, **settings)
    assert found.history["train"] == expected.history["train"] and found.history["valid"] == expected.history["valid"]
    for (name, one), other in zip(fresh.state_dict().items(), whole.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("other", [{"centred": False}, {"updates": 3}, {"tolerance": 0.1}], ids=str)
def test_a_run_does_not_go_on_as_another_machine(other, tmp_path):
    def machine(**settings):
        return DBM([Bernoulli(5), Bernoulli(3), Bernoulli(2)], **settings)

    trained(machine(), rows(50), folder=tmp_path / "run")
    with pytest.raises(DataError, match="model = "):
        trained(machine(**other), rows(50), folder=tmp_path / "run", resume=True, epochs=2)


def test_a_centred_run_does_not_go_on_without_offsets(tmp_path):
    trained(RBM(Bernoulli(5), Bernoulli(3)), rows(50), folder=tmp_path / "run")
    with pytest.raises(DataError, match="centred=True"):
        trained(RBM(Bernoulli(5), Bernoulli(3), centred=False), rows(50), folder=tmp_path / "run", resume=True)


@pytest.mark.filterwarnings("ignore:.* was not registered in the param store")
@pytest.mark.parametrize("frozen", ["W", "b", "c"])
@pytest.mark.parametrize("kind", [RBM, DBM, DBN])
def test_a_machine_that_is_frozen_in_part_is_trained(kind, frozen):
    x, layers = rows(50), [Bernoulli(5), Bernoulli(3), Bernoulli(2)]
    model = RBM(*layers[:2]) if kind is RBM else kind(layers)
    name = {"W": "W.0", "b": "b.0", "c": "b.1"}[frozen] if kind is DBM else frozen if kind is RBM else f"top.{frozen}"
    model.get_parameter(name).requires_grad_(False)
    before = {key: value.clone() for key, value in model.named_parameters()}
    objective = UpDown() if kind is DBN else MaximumLikelihood()
    result = trained(model, x, epochs=4, average=0.9, validation=x[:20], objective=objective)
    moved = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert moved == set(before) - {name}
    if kind is not DBN:  # the number of the history is that of the averaged weights with these offsets
        assert log_likelihood(model, x[:20], method="exact").mean == pytest.approx(
            max(result.history["valid"]), abs=1e-4
        )


@pytest.mark.parametrize("kind", ["dbn", "classes"])
def test_penalties_are_paid_by_every_objective(kind):
    x = rows(40)
    if kind == "dbn":
        model, objective = DBN([Bernoulli(5), Bernoulli(4), Bernoulli(3)]), UpDown
        top = model.top
    else:
        model, objective = ClassRBM(Bernoulli(5), 3, Bernoulli(4)), partial(Conditional, generative=0.5)
        x, top = model.join(x, torch.arange(40) % 3), model
    found = {}
    for penalty in (None, Sparsity(0.9, 7.0)):
        own = copy.deepcopy(model)  # with particles where they were
        torch.manual_seed(1)
        loss = objective(penalty=penalty)(own.model, own.guide, x).loss
        of = own.top if kind == "dbn" else own
        found[penalty] = torch.autograd.grad(loss, list(of.parameters()), allow_unused=True)
    torch.manual_seed(1)
    machine = top.machine()
    v = model.recognise(x)[-1] if kind == "dbn" else x
    cost = 7 * (machine.hidden_input(v).sigmoid().mean(0) - 0.9).square().sum()
    expected = torch.autograd.grad(cost, list(top.parameters()), allow_unused=True)
    for plain, penalised, cost in zip(*found.values(), expected, strict=True):
        torch.testing.assert_close(
            penalised - plain, torch.zeros_like(plain) if cost is None else cost, atol=1e-4, rtol=1e-4
        )


def test_early_stopping_keeps_the_best_weights():
    x = rows(60)
    model = rbm()
    result = trained(model, x, epochs=60, learning_rate=0.3, validation=rows(400)[300:], patience=3)
    assert result.outcome.startswith("stopped early")
    assert exact(model, rows(400)[300:]) == pytest.approx(max(result.history["valid"]), abs=2e-5)


def test_of_estimates_the_last_weights_are_kept_and_not_the_luckiest(monkeypatch):
    monkeypatch.setattr(likelihood, "LISTED", 0)
    x, other = rows(60), rows(400)[300:]
    model = rbm()
    valid = trained(model, x, epochs=60, learning_rate=0.3, validation=other).history["valid"]
    assert max(valid) - valid[-1] > 0.06
    assert exact(model, other) == pytest.approx(valid[-1], abs=0.02)


def test_best_weights_of_an_earlier_release_do_not_come_back(monkeypatch, tmp_path):
    monkeypatch.setattr(likelihood, "LISTED", 0)
    x, other, model = rows(60), rows(400)[300:], rbm()
    settings = {"learning_rate": 0.3, "validation": other, "folder": tmp_path / "run"}
    with monkeypatch.context() as earlier:
        earlier.setattr(MaximumLikelihood, "comparable", lambda self, model: True)
        trained(rbm(), x, epochs=20, **settings)
    valid = trained(model, x, epochs=60, resume=True, **settings).history["valid"]
    assert max(valid) - valid[-1] > 0.06
    assert exact(model, other) == pytest.approx(valid[-1], abs=0.02)


@pytest.mark.parametrize("mode", ["graph", "inductor"])
def test_a_compiled_mode_falls_back_and_says_why(mode):
    with pytest.warns(UserWarning, match="falls back to 'eager': particles move"):
        result = trained(rbm(), compile=mode, epochs=1)
    assert result.settings["compile"] == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert trained(rbm(), compile="auto", epochs=1).settings["compile"] == "eager"


def test_the_elbo_on_a_small_machine_is_the_same_training_number():
    x = rows(30)
    found = trained(rbm("exact"), x, objective=ELBO(), epochs=1, batch_size=30)
    model = rbm("exact")
    # one step per epoch: the bound is that of the weights before it
    assert found.history["train"][0] == pytest.approx(exact(model, x), abs=1e-4)


def test_a_penalty_joins_the_loss_and_not_the_history():
    x = rows(60)

    def cost(machine, v, a):
        return 100 * machine.W.square().sum()

    plain, held = rbm(), rbm()
    trained(plain, x, epochs=20)
    result = trained(held, x, epochs=20, objective=MaximumLikelihood(penalty=cost))
    assert held.W.abs().max() < 0.1 < plain.W.abs().max()
    assert result.history["train"][-1] == pytest.approx(exact(held, x), abs=2e-5)


def test_weights_that_are_no_numbers_stop_the_fit():
    model = rbm()
    with pytest.raises(NonFiniteError):
        trained(model, learning_rate=1e30, epochs=30, optimizer=lambda p: torch.optim.SGD(p, lr=1e38))


def test_other_models_are_refused():
    with pytest.raises(ModelError, match="MaximumLikelihood and PPCA"):
        fit(PPCA(5, 2), rows(), objective=MaximumLikelihood(), epochs=1, progress=False)


def test_the_offset_follows_the_hidden_means_once_an_epoch():
    model, x = rbm(), rows(64)
    with torch.no_grad():
        model.c.fill_(-3.0)
    trained(model, x, epochs=30, learning_rate=1e-6)
    with torch.no_grad():
        mean = model.hidden_given(x).mean.mean(0)
    start = 0.5
    # 120 steps of 0.99 leave 0.3 of the way
    left = 0.99**120
    torch.testing.assert_close(model.lam, mean + (start - mean) * left, atol=0.02, rtol=0)
    assert math.isfinite(exact(model, x))


@pytest.mark.parametrize("settings", [{"temperatures": 0}, {"chains": 0}, {"chains": 2.5}], ids=str)
@pytest.mark.parametrize("objective", [MaximumLikelihood, UpDown, Conditional])
def test_annealing_of_the_history_that_could_not_be_is_refused_before_training(objective, settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        objective(**settings)


def test_greedy_training_has_no_validation_rows():
    with pytest.raises(SettingsError, match="validation rows of greedy training"):
        greedy(DBN([Bernoulli(5), Bernoulli(4), Bernoulli(3)]), rows(20), validation=rows(5))


def test_machines_are_not_trained_in_reduced_precision():
    with pytest.raises(SettingsError, match="reduced precision"):
        trained(rbm(), rows(20), precision="bfloat16")
