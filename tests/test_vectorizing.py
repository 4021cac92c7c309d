"""Programs that mean something else for many particles than for one are refused; others are not."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrogen.errors import ModelError
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import ELBO, IWAE, fit

X = torch.randn(20, generator=torch.Generator().manual_seed(0)) * 2**0.5


@pytest.fixture(autouse=True)
def fresh_store():
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


def guide(x):
    s = pyro.param("s", torch.tensor(0.7))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal((x / 2)[:, None].expand(-1, WIDTH), s).to_event(1))


WIDTH = 1


def model_of(read, width=1):
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(width), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(read(z), 1.0), obs=x)

    return model


def test_an_index_from_the_left_is_refused_with_particles_and_fine_without():
    wrong, right = model_of(lambda z: z[:, 0]), model_of(lambda z: z[..., 0])
    for number in (lambda: log_likelihood(wrong, X, guide=guide, particles=50), lambda: fitted(wrong, IWAE(5))):
        with pytest.raises(ModelError, match="particle"):
            number()
    assert abs(log_likelihood(right, X, guide=guide, particles=500).mean - exact()) < 0.02
    fitted(right, IWAE(5))
    fitted(wrong, ELBO())


def test_a_sum_over_all_dimensions_of_a_global_site_is_refused_with_particles():
    def model(x):
        theta = pyro.sample("theta", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(theta.sum(), 1.0), obs=x)

    def shared(x):
        pyro.sample("theta", dist.Normal(pyro.param("m", torch.zeros(3)), 1.0).to_event(1))

    fit(model, X, guide=shared, epochs=1, batch_size=20, progress=False)
    with pytest.raises(ModelError, match="particle"):
        fit(model, X, guide=shared, objective=ELBO(particles=5), epochs=1, batch_size=20, progress=False)


def test_dropout_is_no_reason_to_refuse():
    net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))

    def model(x):
        pyro.module("net", net)
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(net(z)[..., 0], 1.0), obs=x)

    fitted(model, IWAE(5))
    assert not net.training, "a module in a closure is put into evaluation mode too"


def fitted(model, objective):
    return fit(model, X, guide=guide, objective=objective, epochs=1, progress=False)


def exact() -> float:
    return float(dist.Normal(0.0, 2**0.5).log_prob(X).mean())
