from __future__ import annotations

import pytest
import torch

from pyrogen.distributions.boltzmann import Bernoulli, Persistent
from pyrogen.errors import SettingsError
from pyrogen.inference import Cosine, MaximumLikelihood, Sparsity, fit, lasso, max_norm
from pyrogen.inference.adam import FusedAdam
from pyrogen.models import FVBN, RBM
from tests.oracles import bits


def trained(**settings) -> RBM:
    torch.manual_seed(0)
    model = RBM(Bernoulli(4), Bernoulli(6), particles=Persistent(1, 50))
    rows = bits(4).float()[[0, 0, 3, 3, 12, 15, 15, 15]].repeat(4, 1)
    fit(model, rows, epochs=60, learning_rate=0.05, progress=False, **settings)
    return model


def test_sparsity_is_the_squared_distance_of_the_means():
    model = trained()
    x = bits(4).float()
    mean = model.hidden_given(x).mean.mean(0)
    found = Sparsity(0.2, 3.0)(model.machine(), x, model.machine().hidden_input(x))
    torch.testing.assert_close(found, 3.0 * ((mean - 0.2) ** 2).sum())


def test_sparse_units_are_on_as_rarely_as_asked():
    x = bits(4).float()[[0, 0, 3, 3, 12, 15, 15, 15]]
    models = trained(), trained(objective=MaximumLikelihood(penalty=Sparsity(0.1, 100.0)))
    plain, sparse = (model.hidden_given(x).mean.mean(0) for model in models)
    assert (sparse - 0.1).abs().max() < 0.05 < (plain - 0.1).abs().mean()


def test_no_column_is_longer_than_the_limit():
    def adam(parameters):
        return torch.optim.Adam(parameters, lr=0.05)

    plain, held = trained(optimizer=adam), trained(optimizer=max_norm(1.0, adam))
    assert plain.W.norm(dim=0).max() > 1.5
    assert 0.99 < float(held.W.detach().norm(dim=0).max()) < 1.0001


def test_short_columns_are_left_alone():
    W = torch.nn.Parameter(torch.tensor([[3.0, 0.1], [4.0, 0.2]]))
    b = torch.nn.Parameter(torch.full((9,), 7.0))
    optimizer = max_norm(2.5, lambda p: torch.optim.SGD(p, lr=0.0))([W, b])
    W.grad, b.grad = torch.zeros_like(W), torch.zeros_like(b)
    optimizer.step()
    torch.testing.assert_close(W.detach(), torch.tensor([[1.5, 0.1], [2.0, 0.2]]))
    assert (b == 7).all()


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan")])
def test_a_limit_that_is_no_length_is_refused(limit):
    with pytest.raises(SettingsError, match="positive length"):
        max_norm(limit, torch.optim.Adam)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=2.0),
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.8),
        lambda p: torch.optim.SGD(p, lr=0.5, momentum=0.8, dampening=0.5, nesterov=False),
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: FusedAdam(p, 0.1),
    ],
    ids=["sgd", "momentum", "dampened", "adam", "fused"],
)
def test_lasso_finds_the_posterior_mode_under_laplace_priors(optimizer):
    source = torch.Generator().manual_seed(0)
    x = (torch.rand(200, 4, generator=source) < 0.5).double()
    x[:, 2] = torch.where(torch.rand(200, generator=source) < 0.9, x[:, 0], 1 - x[:, 0])
    cost, model = 0.05, FVBN(4).double()
    model.prepare(x)
    settings = {"epochs": 600, "batch_size": 200, "schedule": Cosine(600, hold=0.7), "progress": False}
    fit(model, x, optimizer=lasso(cost, optimizer), **settings)
    A, below = model.network.out.weight, torch.ones(4, 4).tril(-1).bool()
    model.network.zero_grad()
    (-model.log_prob(x).mean()).backward()
    # at the mode the likelihood pulls with `cost` at each weight that is not zero, and with less at the others
    zero = A == 0
    torch.testing.assert_close(A.grad[~zero], -cost * A.sign()[~zero], atol=1e-5, rtol=0)
    assert (A.grad[zero].abs() <= cost).all()
    assert A[2, 0] > 1 and (zero & below).sum() >= 3, "some weights are needed, and not all"
    assert model.network.out.bias.grad.abs().max() < 1e-5, "biases are free"


def test_lasso_leaves_the_weights_of_a_step_that_was_not_taken():
    W = torch.nn.Parameter(torch.tensor([[5.0, -0.1]]))
    optimizer = lasso(1.0, lambda p: FusedAdam(p, 0.5))([W])
    W.grad = torch.full_like(W, 0.2)
    optimizer.found_inf = torch.ones(())  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
    assert W.tolist() == [[5.0, pytest.approx(-0.1)]]
    optimizer.found_inf = torch.zeros(())  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
    # Adam goes by 0.5, its rate, and the cost is five times a gradient that pulls with 0.2; eps is 1e-8
    torch.testing.assert_close(W.detach(), torch.tensor([[2.0, 0.0]]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("optimizer", [lambda p: FusedAdam(p, 0.5), lambda p: torch.optim.SGD(p, 0.5)])
def test_lasso_leaves_the_weights_that_have_no_gradient(optimizer):
    used, left = (torch.nn.Parameter(torch.full((1, 1), 2.0)) for _ in range(2))
    made = lasso(1.0, optimizer)([used, left])
    used.grad = torch.full_like(used, 1e-3)
    made.step()
    assert used.item() < 2 and left.item() == 2


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused(cost):
    with pytest.raises(SettingsError, match="positive number of nats"):
        lasso(cost, torch.optim.Adam)


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.Adamax, torch.optim.LBFGS])
def test_lasso_refuses_an_optimiser_whose_metric_it_does_not_know(kind):
    with pytest.raises(SettingsError, match=f"lasso with {kind.__name__}"):
        lasso(0.1, lambda p: kind(p))([torch.nn.Parameter(torch.zeros(2, 2))])
