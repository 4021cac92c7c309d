"""log q with the guide's parameters held."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.distributions import Normal
from torch import nn
from torch.testing import assert_close

from pyrogen.inference.terms import run
from tests.oracles import ZERO
from tests.programs import ONE, x_rows


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


class Encoder(nn.Module):
    def __init__(self, p=0.0):
        super().__init__()
        self.linear, self.dropout = nn.Linear(1, 2).double(), nn.Dropout(p)

    def forward(self, x):
        mean, raw = self.linear(3 + self.dropout(x + 3)).unbind(-1)
        return mean, nn.functional.softplus(raw) + 0.1


def scalar_model(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("x", Normal(pyro.sample("z", Normal(ZERO, 1.0)), 1.0), obs=x)


def scalar_guide(encoder, told):
    def guide(x):
        if told:
            pyro.module("encoder", encoder)
        mean, scale = encoder(x.unsqueeze(-1))
        with pyro.plate("rows", len(x)):
            pyro.sample("z", Normal(mean, scale))

    return guide


@pytest.mark.parametrize("told", [True, False], ids=["registered", "unknown to Pyro"])
def test_held_parameters_get_no_gradient_from_log_q_but_all_of_it_through_z(told):
    encoder, x = Encoder(), x_rows(4)
    guide = scalar_guide(encoder, told)
    torch.manual_seed(1)
    held = run(scalar_model, guide, x, particles=3, stop_guide=True)
    torch.manual_seed(1)
    plain = run(scalar_model, guide, x, particles=3)
    assert_close(held.log_w, plain.log_w)
    parameters = list(encoder.parameters())
    # of a reparameterized normal, log q depends on the mean not at all and on the scale by -log s alone ...
    direct = torch.autograd.grad(plain.latents["z"].log_q.sum(), parameters)
    # ... and the path is what is left when the direct part is taken off
    mean, scale = encoder(x.unsqueeze(-1))
    z = held.entering["z"].detach()
    score = torch.autograd.grad(normal_log_prob(z, mean, scale).sum(), parameters)
    path = torch.autograd.grad(held.latents["z"].log_q.sum(), parameters)
    for d, s, p in zip(direct, score, path, strict=True):
        assert_close(p, d - s)
    assert all(parameter.requires_grad for parameter in parameters)


def normal_log_prob(value, loc, scale):
    return Normal(loc, scale).log_prob(value)


def test_parameters_are_released_again_when_the_guide_fails():
    encoder = Encoder()
    calls = []

    def guide(x):
        calls.append(1)
        scalar_guide(encoder, True)(x)
        if len(calls) > 1:
            raise RuntimeError("second pass")

    with pytest.raises(RuntimeError, match="second pass"):
        run(scalar_model, guide, x_rows(3), stop_guide=True)
    assert all(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("particles", [1, 3])
def test_dropout_in_an_encoder_is_the_same_in_both_passes_of_the_path_derivative(particles):
    """Two masks would mean a log q of another distribution than the one that z is from: a bound above the evidence."""
    encoder, x = Encoder(p=0.5), x_rows(200)

    def guide(x):
        with pyro.plate("rows", len(x)):
            z0 = pyro.sample("z0", Normal(ZERO, 1.0))
            mean, scale = encoder((x + z0).unsqueeze(-1))
            pyro.sample("z", Normal(mean, scale))

    def model(x):
        with pyro.plate("rows", len(x)):
            z0 = pyro.sample("z0", Normal(ZERO, 1.0))
            pyro.sample("x", Normal(pyro.sample("z", Normal(z0, 1.0)), 1.0), obs=x)

    torch.manual_seed(1)
    held = run(model, guide, x, particles=particles, stop_guide=True)
    after_held = torch.rand(3)
    torch.manual_seed(1)
    plain = run(model, guide, x, particles=particles)
    assert_close(held.log_w, plain.log_w)
    assert torch.equal(after_held, torch.rand(3)), "the second pass must leave the random state as the first did"


def test_shared_parameters_are_held_in_log_q_only():
    """A prior made of the encoder, as in a VampPrior, keeps its own gradient."""
    encoder, x = Encoder(), x_rows(4)

    def model(x):
        pyro.module("encoder", encoder)
        mean, scale = encoder(ONE.reshape(1, 1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", Normal(pyro.sample("z", Normal(mean, scale)), 1.0), obs=x)

    parameters = list(encoder.parameters())
    held = run(model, scalar_guide(encoder, True), x, stop_guide=True)
    z = held.entering["z"]
    prior = Normal(*encoder(ONE.reshape(1, 1))).log_prob(z.detach()).sum()
    whole = torch.autograd.grad(held.latents["z"].log_p.sum(), parameters, retain_graph=True)
    through_z = torch.autograd.grad(held.latents["z"].log_p.sum(), [z], retain_graph=True)
    path = torch.autograd.grad(z, parameters, through_z)
    for w, own, p in zip(whole, torch.autograd.grad(prior, parameters), path, strict=True):
        assert_close(w, own + p)
