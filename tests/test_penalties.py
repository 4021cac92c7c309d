from __future__ import annotations

import pytest
import torch

from pyrogen.distributions.boltzmann import Bernoulli, Persistent
from pyrogen.errors import SettingsError
from pyrogen.inference import MaximumLikelihood, Sparsity, fit, max_norm
from pyrogen.models import RBM
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
