"""Exact answers for small problems, computed without the library that they check."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

DOUBLE: Any = {"dtype": torch.float64}
ZERO = torch.zeros((), **DOUBLE)

Programs = tuple[Callable[..., Any], Callable[..., Any]]


def bits(n: int) -> Tensor:
    """All 2^n binary vectors, (2^n, n), float64."""
    return torch.tensor(list(itertools.product([0.0, 1.0], repeat=n)), dtype=torch.float64).reshape(2**n, n)


def normal(value: Any, loc: Any = 0.0, scale: Any = 1.0) -> Tensor:
    """log Normal(value; loc, scale), written out."""
    value, loc, scale = (torch.as_tensor(t, **DOUBLE) for t in (value, loc, scale))
    return -0.5 * ((value - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)


def bernoulli(value: Tensor, logit: Tensor) -> Tensor:
    """log Bernoulli(value; sigmoid(logit)), written out."""
    return value * logit - torch.nn.functional.softplus(logit)


def minibatches(n: int, size: int) -> list[Tensor]:
    """All subsets of `size` out of n rows, as index tensors."""
    return [torch.tensor(rows) for rows in itertools.combinations(range(n), size)]


def gauss_hermite(nodes: int, dims: int = 1) -> tuple[Tensor, Tensor]:
    """Points, (nodes^dims, dims), and weights, (nodes^dims,), for expectations under independent standard normals."""
    x, w = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(nodes))
    w = w / math.sqrt(2 * math.pi)
    points = torch.cartesian_prod(*[x] * dims).reshape(-1, dims)
    return points, torch.cartesian_prod(*[w] * dims).reshape(-1, dims).prod(-1)


def log_integral(log_f: Callable[[Tensor], Tensor], low: float, high: float, nodes: int = 20_001) -> Tensor:
    """log of the integral of exp(log_f) over [low, high]: exact to rounding where f vanishes smoothly at the ends."""
    x = torch.linspace(low, high, nodes, dtype=torch.float64)
    return log_f(x).logsumexp(0) + math.log((high - low) / (nodes - 1))


def finite_difference(f: Callable[[Tensor], Tensor], at: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of a scalar function by central differences, to about step^2."""
    at = at.detach().double()
    gradient = torch.zeros_like(at)
    for i in range(at.numel()):
        move = torch.zeros_like(at).flatten()
        move[i] = step
        move = move.reshape(at.shape)
        gradient.view(-1)[i] = (f(at + move) - f(at - move)) / (2 * step)
    return gradient


def log_mean_exp(log_w: Tensor) -> Tensor:
    """Over the first dimension."""
    return log_w.logsumexp(0) - math.log(log_w.shape[0])


def ppca_log_likelihood(x: Tensor, latent: int) -> float:
    """The largest mean log-likelihood that probabilistic PCA can give rows x.

        -1/2 (D log 2 pi + sum of the logs of the first L eigenvalues + (D - L) log of the mean of the rest + D)

    Source: Tipping and Bishop 1999, equation 4 at the maximum of equations 7 and 8.
    """
    values = torch.linalg.eigvalsh(torch.cov(x.double().T, correction=0))
    d = x.shape[1]
    noise = values[: d - latent].mean()
    return float(-0.5 * (d * math.log(2 * math.pi) + values[d - latent :].log().sum() + (d - latent) * noise.log() + d))


class Forced(Messenger):
    """Makes sites take the values that it holds, as if the program had drawn them."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


@contextmanager
def normal_noise(*draws: Tensor) -> Iterator[None]:
    """Let the standard normals behind torch's Normal.rsample come out as `draws`, in turn and over again."""
    supply = itertools.cycle(draws)

    def feed(shape: Any, dtype: Any = None, device: Any = None) -> Tensor:
        draw = next(supply)
        return draw.reshape(shape) if draw.numel() == math.prod(shape) else draw.expand(shape)

    with mock.patch("torch.distributions.normal._standard_normal", feed):
        yield


def row_gradients(
    objective: Any,
    programs: Callable[[Mapping[str, Tensor]], Programs],
    parameters: Mapping[str, float],
    x: float,
    rows: int,
    *,
    noise: tuple[Tensor, ...] = (),
    draws: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The gradient of a bound per row, where every row is the same x in another outcome of the noise.

    Each row gets its own copy of every parameter, so that one call of the objective gives the gradient estimates
    of all outcomes, which a test then averages with their exact probabilities: an expectation without noise.

    Args:
        programs: makes a model and a guide of scalars per row from parameters of shape (rows,).
        noise: standard normals, each (K, rows), in the order in which the guide draws.
        draws: values of sites, each (K, rows).
    """
    own = {
        name: torch.full((rows,), value, dtype=torch.float64, requires_grad=True) for name, value in parameters.items()
    }
    model, guide = programs(own)
    data = torch.full((rows,), x, dtype=torch.float64)
    with normal_noise(*noise), Forced(draws or {}):
        value = objective(model, guide, data, nesting=1)
    gradients = torch.autograd.grad(-rows * value.loss, list(own.values()), allow_unused=True)
    return {name: torch.zeros(rows) if g is None else g for name, g in zip(own, gradients, strict=True)}


def globe(nodes: int) -> tuple[Tensor, Tensor]:
    """Points of S^2, (2 nodes^2, 3), and weights of sum 4 pi: Gauss-Legendre in height, equal steps in longitude."""
    z, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(nodes))
    longitude = torch.arange(2 * nodes, dtype=torch.float64) * math.pi / nodes
    flat = (1 - z * z).sqrt()[:, None]
    x = torch.stack([flat * longitude.cos(), flat * longitude.sin(), z[:, None].expand(-1, 2 * nodes)], -1)
    return x.reshape(-1, 3), w.repeat_interleave(2 * nodes) * math.pi / nodes
