"""The state of a training: a copy, taken whole and put back whole or not at all."""

from __future__ import annotations

import pytest
import torch

from pyrogen.errors import DataError
from pyrogen.inference import ELBO
from pyrogen.inference.programs import Programs
from pyrogen.inference.training import Training
from pyrogen.models import VAE, BernoulliPixels, StandardNormal
from pyrogen.nn import MLP

X = (torch.rand(20, 4, generator=torch.Generator().manual_seed(3)) > 0.5).float()


def trained(epochs=1, width=5, **settings):
    """A Training after some epochs, by itself."""
    torch.manual_seed(0)
    vae = VAE(MLP(4, width, 4), MLP(2, 5, 4), BernoulliPixels(4), StandardNormal(2))
    given = {"learning_rate": 0.01, "schedule": None, "optimizer": None, "clip": None, "average": None} | settings
    training = Training(Programs.of(vae), X, X[:5], ELBO(), batch_size=8, seed=0, **given)
    for _ in range(epochs):
        for x in training.batches():
            training.update(x)
        training.close_epoch()
    return training


def replaced(state, name, value):
    return state._replace(tensors=state.tensors | {name: value})


def without(state, name):
    return state._replace(tensors={key: value for key, value in state.tensors.items() if key != name})


def told(state, **values):
    return state._replace(meta=state.meta | values)


BROKEN = {
    "weight of another shape": lambda s: replaced(s, "weights/decoder.0.bias", torch.zeros(6)),
    "weight of another dtype": lambda s: replaced(s, "weights/decoder.0.bias", torch.zeros(5, dtype=torch.float64)),
    "a tensor too many": lambda s: replaced(s, "weights/more", torch.zeros(1)),
    "a tensor too few": lambda s: without(s, "total"),
    "half of the best": lambda s: without(s, "best/decoder.0.bias"),
    "an order that leads outside": lambda s: replaced(s, "permutation", torch.arange(20) + 10**9),
    "no random state": lambda s: replaced(s, "rng/cpu", torch.zeros_like(s.tensors["rng/cpu"])),
    "moments of another shape": lambda s: replaced(s, "optimizer/0/exp_avg", torch.zeros(1)),
    "moments of another dtype": lambda s: replaced(s, "optimizer/0/exp_avg", s.tensors["optimizer/0/exp_avg"].double()),
    "position outside": lambda s: told(s, position=21),
    "negative step": lambda s: told(s, step=-1),
    "a step in words": lambda s: told(s, step="3"),
    "a step that is true": lambda s: told(s, step=True),
    "a mode that there is not": lambda s: told(s, compile="auto"),
    "a longer history": lambda s: told(s, epoch=2),
    "a history of words": lambda s: told(s, history=s.meta["history"] | {"train": ["x"]}),
    "a history of lists": lambda s: told(s, history=s.meta["history"] | {"train": [{"list": []}]}),
    "a history of objects": lambda s: told(s, history=s.meta["history"] | {"train": [{"float": "none"}]}),
    "another optimiser": lambda s: told(s, optimizer=[{"momentum": 1.0}] * len(s.meta["optimizer"])),
    "too few parameters": lambda s: told(s, optimizer=s.meta["optimizer"][1:]),
    "two groups": lambda s: told(s, groups=s.meta["groups"] * 2),
    "a rate in words": lambda s: told(s, groups=[s.meta["groups"][0] | {"lr": "0.1"}]),
    "a tensor that is not there": lambda s: told(s, groups=[s.meta["groups"][0] | {"lr": {"tensor": "no"}}]),
    "a list of nothing": lambda s: told(s, groups=[{}]),
    "a schedule": lambda s: told(s, scheduler={"dict": {}}),
    "nothing": lambda s: s._replace(meta={}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(name):
    training, state = trained(epochs=0), trained().state()
    before = training.state()
    with pytest.raises(DataError):
        training.restore(BROKEN[name](state))
    after = training.state()
    assert after.meta == before.meta
    assert all(torch.equal(value, after.tensors[key]) for key, value in before.tensors.items())
    training.restore(state)
    assert training.state().meta == state.meta
    assert all(torch.equal(value, training.state().tensors[key]) for key, value in state.tensors.items())


def test_a_state_is_a_copy_that_training_does_not_move():
    training = trained(average=0.9)
    state = training.state()
    before = {name: value.clone() for name, value in state.tensors.items()}
    training.update(X)
    assert all(torch.equal(value, state.tensors[name]) for name, value in before.items())
