"""A tiny model and guide with the formulas of both beside it: what the tests of objectives compare with.

All outcomes of the noise of K particles, bits by enumeration and normals by Gauss-Hermite nodes, go through the
objective as the rows of one batch; the estimates are then averaged with the outcomes' exact probabilities. So an
unbiased estimator gives the exact gradient, to the last digits, and no test needs luck.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pyro
import torch
from pyro.distributions import Bernoulli, Categorical, MixtureSameFamily, Normal
from torch import Tensor
from torch.testing import assert_close

from tests.oracles import DOUBLE, ZERO, bernoulli, bits, gauss_hermite, log_mean_exp, normal, row_gradients

X = 0.7


def leaves(parameters: dict[str, float]) -> dict[str, Tensor]:
    return {name: torch.tensor(v, **DOUBLE, requires_grad=True) for name, v in parameters.items()}


@dataclass
class Case:
    """A model and guide of scalars, and what they are as formulas.

    `density(b, e, p)` gives log p(x, z), log q(z | x) and the part of log q that belongs to the bits, for bits b and
    standard normals e, each a list of tensors, and parameters p.
    """

    name: str
    parameters: dict[str, float]
    programs: Callable
    density: Callable
    bits: tuple[str, ...] = ()
    normals: int = 0
    nodes: int = 14
    guide_only: set[str] = field(default_factory=set)

    def outcomes(self, k: int) -> tuple[Tensor, Tensor, Tensor]:
        """Bits (k, R, n_bits), normals (k, R, n_normals) and the weights (R,) of the normals, for k particles."""
        b = bits(len(self.bits))
        e, w = (
            gauss_hermite(self.nodes, self.normals) if self.normals else (torch.zeros(1, 0, **DOUBLE), ZERO.exp()[None])
        )
        state = torch.cartesian_prod(torch.arange(len(b)), torch.arange(len(e))).reshape(-1, 2)
        tuples = torch.cartesian_prod(*[torch.arange(len(state))] * k).reshape(-1, k).T
        return b[state[:, 0]][tuples], e[state[:, 1]][tuples], w[state[:, 1]][tuples].prod(0)

    def n_outcomes(self, k: int) -> int:
        return (2 ** len(self.bits) * self.nodes**self.normals) ** k

    def at(self, p: dict[str, Tensor], k: int) -> tuple[Tensor, Tensor, Tensor]:
        """log w (k, R), probability (R,) and log q of the bits (k, R) of every outcome."""
        b, e, w = self.outcomes(k)
        log_p, log_q, log_q_bits = self.density(b.unbind(-1), e.unbind(-1), p)
        log_q_bits = torch.as_tensor(log_q_bits, **DOUBLE).expand(k, len(w))
        return log_p - log_q, w * log_q_bits.sum(0).exp(), log_q_bits

    def bound(self, p: dict[str, Tensor], k: int, mean=log_mean_exp) -> Tensor:
        """The exact bound with k particles; `mean` forms it from log w."""
        log_w, probability, _ = self.at(p, k)
        return (probability * mean(log_w)).sum()

    def leaves(self) -> dict[str, Tensor]:
        return leaves(self.parameters)

    def detached(self) -> dict[str, Tensor]:
        return {name: t.detach() for name, t in self.leaves().items()}

    def exact_gradient(self, k: int, mean=log_mean_exp) -> dict[str, Tensor]:
        p = self.leaves()
        return dict(zip(p, torch.autograd.grad(self.bound(p, k, mean), list(p.values())), strict=True))

    def estimates(self, objective) -> tuple[dict[str, Tensor], Tensor]:
        """The objective's gradient at every outcome, and the outcomes' probabilities."""
        k = objective.particles
        b, e, w = self.outcomes(k)
        draws = {name: t if k > 1 else t.squeeze(0) for name, t in zip(self.bits, b.unbind(-1), strict=True)}
        own = row_gradients(objective, self.programs, self.parameters, X, len(w), noise=e.unbind(-1), draws=draws)
        return own, self.at(self.detached(), k)[1]


def case_one_bit():
    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", Bernoulli(logits=p["a"]))
                pyro.sample("x", Normal(p["w"] * z, 1.0), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", Bernoulli(logits=p["v"] * x))

        return model, guide

    def density(b, e, p):
        (z,) = b
        log_q = bernoulli(z, p["v"] * X)
        return bernoulli(z, p["a"]) + normal(X, p["w"] * z), log_q, log_q

    return Case("one bit", {"a": -0.4, "w": 1.5, "v": 0.3}, programs, density, bits=("z",))


def case_two_bits(bottom_up):
    """Two layers of bits, the model from z2 to z1; the guide in that order or in the other."""

    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                z2 = pyro.sample("z2", Bernoulli(logits=p["a"]))
                z1 = pyro.sample("z1", Bernoulli(logits=p["b"] * z2 - 0.2))
                pyro.sample("x", Normal(p["w"] * z1, 1.0), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                first, second = ("z1", "z2") if bottom_up else ("z2", "z1")
                z = pyro.sample(first, Bernoulli(logits=p["v"] * x))
                pyro.sample(second, Bernoulli(logits=p["u"] * z - 0.1))

        return model, guide

    def density(b, e, p):
        z1, z2 = b
        first, second = (z1, z2) if bottom_up else (z2, z1)
        log_q = bernoulli(first, p["v"] * X) + bernoulli(second, p["u"] * first - 0.1)
        return bernoulli(z2, p["a"]) + bernoulli(z1, p["b"] * z2 - 0.2) + normal(X, p["w"] * z1), log_q, log_q

    parameters = {"a": -0.4, "b": 0.9, "w": 1.5, "v": 0.3, "u": 0.7}
    return Case(
        f"two bits, {'bottom up' if bottom_up else 'top down'}", parameters, programs, density, bits=("z1", "z2")
    )


def case_mixed():
    """A bit, scored, above a reparameterized normal whose guide depends on the bit."""

    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                c = pyro.sample("c", Bernoulli(logits=p["a"]))
                z = pyro.sample("z", Normal(p["b"] * c, 1.0))
                pyro.sample("x", Normal(z, 0.8), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                c = pyro.sample("c", Bernoulli(logits=p["v"] * x))
                pyro.sample("z", Normal(0.4 * x + p["u"] * c, p["s"].exp()))

        return model, guide

    def density(b, e, p):
        (c,), (eps,) = b, e
        loc = 0.4 * X + p["u"] * c
        z = loc + p["s"].exp() * eps
        log_q_bit = bernoulli(c, p["v"] * X)
        log_p = bernoulli(c, p["a"]) + normal(z, p["b"] * c) + normal(X, z, 0.8)
        return log_p, log_q_bit + normal(z, loc, p["s"].exp()), log_q_bit

    parameters = {"a": -0.4, "b": 0.9, "v": 0.3, "u": 0.5, "s": -0.3}
    return Case("a bit above a normal", parameters, programs, density, bits=("c",), normals=1, nodes=12)


def case_one_normal():
    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", Normal(ZERO, p["t"].exp()))
                pyro.sample("x", Normal(p["w"] * z, 0.8), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", Normal(p["m"] * x, p["s"].exp()))

        return model, guide

    def density(b, e, p):
        (eps,) = e
        z = p["m"] * X + p["s"].exp() * eps
        return normal(z, 0.0, p["t"].exp()) + normal(X, p["w"] * z, 0.8), normal(z, p["m"] * X, p["s"].exp()), 0.0

    parameters = {"t": 0.1, "w": 1.2, "m": 0.4, "s": -0.4}
    return Case("one normal", parameters, programs, density, normals=1, nodes=40, guide_only={"m", "s"})


def case_two_normals(order):
    """Two layers of normals. "product" is a guide that reuses the model's middle layer, as TwoLayerVAE does."""

    def moments(p, z2):
        """Of the product of the model's z1 and of Normal(m x, s)."""
        if order == "top down":
            return p["n"] * z2 + p["m"] * X, p["s"].exp()
        precision = p["b"].exp() ** -2 + p["s"].exp() ** -2
        mean = (p["a"] * z2 * p["b"].exp() ** -2 + p["m"] * X * p["s"].exp() ** -2) / precision
        return mean, precision.rsqrt()

    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                z2 = pyro.sample("z2", Normal(ZERO, 1.0))
                z1 = pyro.sample("z1", Normal(p["a"] * z2, p["b"].exp()))
                pyro.sample("x", Normal(z1, 0.8), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                if order == "bottom up":
                    z1 = pyro.sample("z1", Normal(p["m"] * x, p["s"].exp()))
                    pyro.sample("z2", Normal(p["n"] * z1, 0.8))
                else:
                    z2 = pyro.sample("z2", Normal(p["n"] * x, 0.8))
                    pyro.sample("z1", Normal(*moments(p, z2)))

        return model, guide

    def density(b, e, p):
        first, second = e
        if order == "bottom up":
            z1 = p["m"] * X + p["s"].exp() * first
            z2 = p["n"] * z1 + 0.8 * second
            log_q = normal(z1, p["m"] * X, p["s"].exp()) + normal(z2, p["n"] * z1, 0.8)
        else:
            z2 = p["n"] * X + 0.8 * first
            loc, scale = moments(p, z2)
            z1 = loc + scale * second
            log_q = normal(z2, p["n"] * X, 0.8) + normal(z1, loc, scale)
        return normal(z2) + normal(z1, p["a"] * z2, p["b"].exp()) + normal(X, z1, 0.8), log_q, 0.0

    parameters = {"a": 0.8, "b": -0.3, "m": 0.5, "n": 0.3, "s": -0.4}
    return Case(f"two normals, {order}", parameters, programs, density, normals=2, nodes=16)


def case_vamp():
    """A prior made of the encoder: 1/2 sum over two pseudo-inputs of q(z | u_c)."""

    def programs(p):
        def model(x):
            with pyro.plate("rows", len(x)):
                loc = torch.stack([p["m"] * p["u"], -p["m"] * p["u"] + 1], -1)
                scale = torch.stack([p["s"].exp()] * 2, -1)
                prior = MixtureSameFamily(Categorical(logits=torch.zeros_like(loc)), Normal(loc, scale))
                z = pyro.sample("z", prior)
                pyro.sample("x", Normal(p["w"] * z, 0.8), obs=x)

        def guide(x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", Normal(p["m"] * x, p["s"].exp()))

        return model, guide

    def density(b, e, p):
        (eps,) = e
        s = p["s"].exp()
        z = p["m"] * X + s * eps
        prior = torch.logaddexp(normal(z, p["m"] * p["u"], s), normal(z, -p["m"] * p["u"] + 1, s)) - math.log(2)
        return prior + normal(X, p["w"] * z, 0.8), normal(z, p["m"] * X, s), 0.0

    return Case("vamp prior", {"m": 0.4, "s": -0.4, "u": 0.5, "w": 1.2}, programs, density, normals=1, nodes=40)


DISCRETE = [case_one_bit(), case_two_bits(False), case_two_bits(True)]
NORMALS = [case_one_normal(), *(case_two_normals(o) for o in ("top down", "bottom up", "product")), case_vamp()]
CASES = [*DISCRETE, case_mixed(), *NORMALS]


def check_gradient(case, objective, k, mean=log_mean_exp, **tolerance):
    estimates, probability = case.estimates(objective)
    exact = case.exact_gradient(k, mean)
    assert_close(probability.sum(), ZERO + 1)
    for name, expected in exact.items():
        assert_close((probability * estimates[name]).sum(), expected, msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def average(log_w):
    return log_w.mean(0)
