"""A model and guide of rows with a latent vector each, and rows for them."""

from __future__ import annotations

import math

import pyro
import torch
from pyro.distributions import Normal

from tests.oracles import DOUBLE, ZERO

ONE = ZERO + 1


def x_rows(*shape):
    return torch.linspace(-1, 2, math.prod(shape), **DOUBLE).reshape(shape)


def vector_model(x, scale=1.0):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", Normal(torch.zeros(2, **DOUBLE), 1.0).to_event(1))
        pyro.sample("x", Normal(z.sum(-1), scale), obs=x)


def vector_guide(x):
    with pyro.plate("rows", len(x)):
        loc = torch.stack([x / 2, x / 3], -1)
        return pyro.sample("z", Normal(loc, 0.7).to_event(1))
