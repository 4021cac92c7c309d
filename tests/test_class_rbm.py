from __future__ import annotations

import copy

import pytest
import torch

from pyrogen.data import load
from pyrogen.distributions.boltzmann import Bernoulli, Exact, Gaussian, Persistent, Spin, log_partition
from pyrogen.errors import DtypeError, ModelError, SettingsError, ShapeError, SupportError
from pyrogen.inference import Conditional, MaximumLikelihood, fit
from pyrogen.models import RBM, ClassRBM
from tests.oracles import bits


def small(hidden=None, **settings) -> ClassRBM:
    torch.manual_seed(0)
    model = ClassRBM(Bernoulli(3), 4, hidden or Bernoulli(2), scale=0.8, **settings).double()
    with torch.no_grad():
        model.b.normal_()
        model.c.normal_()
    return model


def joint(model):
    """log p(x, y) of all rows and classes, (8, 4)."""
    x, y = bits(3).repeat_interleave(4, 0), torch.arange(4).repeat(8)
    return (-model.free_energy(model.join(x, y)) - log_partition(model.machine())).reshape(8, 4)


@pytest.mark.parametrize("hidden", [Bernoulli(2), Spin(3), Gaussian(2)])
def test_the_classes_follow_from_the_joint(hidden):
    model = small(hidden)
    log_p = joint(model)
    torch.testing.assert_close(log_p.logsumexp((0, 1)).detach(), torch.zeros(()).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(model.log_class(bits(3)), log_p.log_softmax(1))
    assert torch.equal(model.classify(bits(3)), log_p.argmax(1))


def test_rows_and_classes_are_joined_and_split():
    model, y = small(), torch.tensor([3, 0])
    rows = model.join(bits(3)[[1, 6]], y)
    model.check(rows)
    x, again = model.split(rows)
    assert torch.equal(x, bits(3)[[1, 6]]) and torch.equal(again, y)


@pytest.mark.parametrize("generative", [0.0, 0.3])
def test_the_loss_is_the_mixture_that_it_says(generative):
    model = small(particles=Exact())
    x, y = bits(3)[[1, 6, 6]], torch.tensor([3, 0, 1])
    log_p = joint(model)
    at = torch.tensor([1, 6, 6])
    expected = -(log_p.log_softmax(1)[at, y].mean() + generative * log_p[at, y].mean())
    loss = Conditional(generative=generative)(model.model, model.guide, model.join(x, y)).loss
    for one, other in zip(
        torch.autograd.grad(loss, list(model.parameters())),
        torch.autograd.grad(expected, list(model.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_fit_learns_classes_and_its_history_is_exact():
    model = small(Bernoulli(6))
    x = bits(3).repeat(20, 1)
    y = (x[:, 0] + 2 * x[:, 1]).long()
    rows = model.join(x, y)
    result = fit(model, rows, objective=Conditional(), epochs=80, learning_rate=0.05, progress=False)
    assert result.settings["history"] == "log p(y | x), exact"
    with torch.no_grad():
        exact = model.log_class(x).gather(1, y[:, None]).mean()
    assert result.history["train"][-1] == pytest.approx(float(exact), abs=1e-9) and exact > -0.3
    assert torch.equal(model.classify(x), y)


def test_the_generative_machine_trains_by_maximum_likelihood():
    model = small(particles=Persistent(1, 200))
    rows = model.join(bits(3).repeat(5, 1), torch.arange(40) % 4)
    start = copy.deepcopy(model)
    result = fit(model, rows, objective=MaximumLikelihood(), epochs=30, learning_rate=0.03, progress=False)
    with torch.no_grad():
        before = (-start.free_energy(rows)).mean() - log_partition(start.machine())
    assert result.history["train"][-1] > float(before) + 0.3


@pytest.mark.slow
def test_digits_are_told_apart():
    data = load("digits")
    torch.manual_seed(0)
    model = ClassRBM(Bernoulli(64), 10, Bernoulli(64))
    fit(
        model,
        model.join(data["train"], data.labels["train"]),
        objective=Conditional(generative=0.01),
        epochs=40,
        learning_rate=0.005,
        progress=False,
    )
    errors = (model.classify(data["test"]) != data.labels["test"]).double().mean()
    # logistic regression on the same bits errs on about 0.08 of the rows
    assert errors < 0.06


@pytest.mark.parametrize(
    ("y", "error", "said"),
    [
        (torch.tensor([0, 4]), SupportError, r"class 4 at row 1 .*0\.\.3"),
        (torch.tensor([-1, 0]), SupportError, "class -1 at row 0"),
        (torch.tensor([0.0, 1.0]), DtypeError, "whole numbers"),
        (torch.tensor([0]), ShapeError, "one for each row"),
    ],
)
def test_classes_that_cannot_be_are_refused(y, error, said):
    with pytest.raises(error, match=said):
        small().join(bits(3)[:2], y)


def test_rows_without_a_class_are_refused():
    model = small()
    rows = model.join(bits(3)[:2], torch.tensor([0, 1]))
    rows[1, 3:] = 0
    with pytest.raises(SupportError, match=r"Categorical\(1, 4\) cannot be"):
        model.check(rows)
    rows[1, 4], rows[0, 0] = 1, 0.5
    with pytest.raises(SupportError, match=r"0\.5 in x .*Bernoulli\(3\) cannot be"):
        model.check(rows)


def test_only_a_class_rbm_has_classes():
    model = RBM(Bernoulli(3), Bernoulli(2))
    with pytest.raises(ModelError, match="need a ClassRBM"):
        fit(model, bits(3).float(), objective=Conditional(), epochs=1, progress=False)
    with pytest.raises(SettingsError, match="generative"):
        Conditional(generative=-1.0)
