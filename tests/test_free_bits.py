"""Free bits and schedules."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro import poutine
from pyro.distributions import Normal
from torch.testing import assert_close

from pyrogen.errors import ModelError
from pyrogen.inference import ELBO, Warmup
from tests.cases import X, case_one_normal, case_two_bits
from tests.oracles import DOUBLE, ZERO, normal_noise


@pytest.fixture(autouse=True)
def fresh():
    pyro.clear_param_store()
    torch.manual_seed(0)


def many_dimensions(p):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", Normal(torch.zeros(3, **DOUBLE), 1.0).to_event(1))
            pyro.sample("x", Normal(0 * z.sum(-1), 1.0), obs=x)

    def guide(x):
        with pyro.plate("rows", len(x)):
            loc = p["loc"] * torch.linspace(0.5, 1.5, len(x), **DOUBLE).unsqueeze(-1)
            pyro.sample("z", Normal(loc, p["scale"]).to_event(1))

    return model, guide


def test_free_bits_give_no_gradient_below_the_floor_and_all_of_it_above():
    p = {
        "loc": torch.tensor([0.1, 1.0, 2.0], **DOUBLE, requires_grad=True),
        "scale": torch.tensor([0.9, 0.5, 0.4], **DOUBLE, requires_grad=True),
    }
    model, guide = many_dimensions(p)
    x = torch.zeros(4, **DOUBLE)

    def gradients(free_bits, beta=1.0):
        with normal_noise(torch.zeros(2, 4, 3, **DOUBLE)):
            value = ELBO(2, beta, free_bits)(model, guide, x, nesting=1)
        return value.loss, torch.autograd.grad(value.loss, list(p.values()))

    kl = (
        0.5 * ((p["loc"] * torch.linspace(0.5, 1.5, 4, **DOUBLE)[:, None]) ** 2 + p["scale"] ** 2 - 1)
        - p["scale"].log()
    ).mean(0)
    assert kl[0] < 0.1 < kl[1] < 2.0 < kl[2], kl
    for free_bits, below in ((0.1, 1), (1.5, 2), (50.0, 3)):
        loss, (loc, scale) = gradients(free_bits, 0.7)
        plain, (plain_loc, plain_scale) = gradients(0.0, 0.7)
        assert_close(loss - plain, 0.7 * (kl.clamp(min=free_bits) - kl).sum())
        assert_close(loc[:below], torch.zeros(below, **DOUBLE))
        assert_close(scale[:below], torch.zeros(below, **DOUBLE))
        assert_close(loc[below:], plain_loc[below:])
        assert_close(scale[below:], plain_scale[below:])


def test_free_bits_of_a_global_site_are_nats_of_the_data_set():
    loc = torch.tensor(0.5, **DOUBLE, requires_grad=True)

    def model(x):
        w = pyro.sample("w", Normal(ZERO, 1.0))
        with pyro.plate("rows", 20, subsample=torch.arange(len(x))):
            pyro.sample("x", Normal(0 * w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", Normal(loc, 1.0))

    x = torch.zeros(5, **DOUBLE)
    lifted, plain = (ELBO(free_bits=f)(model, guide, x) for f in (2.0, 0.0))
    assert_close(lifted.loss - plain.loss, (2.0 - 0.5 * loc**2) / 20)
    assert torch.autograd.grad(lifted.loss, loc)[0].abs() < 1e-12


def test_free_bits_are_refused_where_there_is_no_kl_to_hold_up():
    x = torch.full((3,), X, **DOUBLE)
    model, guide = case_two_bits(True).programs(case_two_bits(True).leaves())
    with pytest.raises(ModelError, match="free bits"):
        ELBO(free_bits=0.1)(model, guide, x)
    model, guide = case_one_normal().programs(case_one_normal().leaves())
    with pytest.raises(ModelError, match="weighted rows"):
        ELBO(free_bits=0.1)(poutine.scale(model, scale=torch.ones(3, **DOUBLE)), guide, x)


def test_warmup_is_linear_from_its_start_to_one_and_stays_there():
    assert [Warmup(4)(step) for step in (0, 1, 2, 4, 100)] == [0.0, 0.25, 0.5, 1.0, 1.0]
    assert [Warmup(0)(step) for step in (0, 1)] == [1.0, 1.0]
    assert [Warmup(4, start=0.2)(step) for step in (0, 2, 4)] == pytest.approx([0.2, 0.6, 1.0])
