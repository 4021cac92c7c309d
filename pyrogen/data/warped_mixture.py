"""Eight real columns drawn from a law that is known, to judge densities by.

A mixture of five Gaussians with full covariances, its second column then bent by the first and its third stretched:

    u ~ sum_k w_k Normal(mu_k, A_k A_k^T),     v_1 = u_1 + 0.3 u_0^2,     v_2 = u_2 + 0.05 u_2^3,     v_d = u_d else
    x = (v - mean) / std,      both of the first 50,000 rows, column by column

All numbers come from numpy's `default_rng(0)`. No density scores test rows better on average than the law itself,
`log_density`, but for noise.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyrogen.data.dataset import Dataset

WIDTH, COMPONENTS, SCALED_BY = 8, 5, 50_000
ROWS = {"train": slice(0, 45_000), "valid": slice(45_000, 50_000), "test": slice(50_000, 60_000)}


class Law(NamedTuple):
    """What the seed gives, in the order in which it is drawn."""

    weights: np.ndarray  # (5,)
    means: np.ndarray  # (5, 8)
    factors: np.ndarray  # (5, 8, 8)
    component: np.ndarray  # (60000,)
    noise: np.ndarray  # (60000, 8)

    def rows(self) -> np.ndarray:
        u = self.means[self.component] + np.einsum("nij,nj->ni", self.factors[self.component], self.noise)
        u[:, 1] += 0.3 * u[:, 0] ** 2
        u[:, 2] += 0.05 * u[:, 2] ** 3
        return u


def warped_mixture() -> Dataset:
    """45,000 training, 5,000 validation and 10,000 test rows of 8 real columns."""
    law = _law()
    v = law.rows()
    x = torch.from_numpy(((v - v[:SCALED_BY].mean(0)) / v[:SCALED_BY].std(0)).astype(np.float32))
    digest = hashlib.sha256()
    for drawn in law:  # not the rows, whose last bits depend on the machine's order of sums
        digest.update(np.ascontiguousarray(drawn).tobytes())
    return Dataset(
        name="warped-mixture",
        splits={split: x[part] for split, part in ROWS.items()},
        shape=(1, 1, WIDTH),
        support="real",
        sha256=digest.hexdigest(),
    )


def log_density(x: Tensor) -> Tensor:
    """log p(x) under the law, in nats, (N, 8) to (N,), in float64."""
    law = _law()
    v = law.rows()
    mean, std = (torch.from_numpy(a) for a in (v[:SCALED_BY].mean(0), v[:SCALED_BY].std(0)))
    columns = list((x.double() * std + mean).unbind(-1))
    columns[1] = columns[1] - 0.3 * columns[0] ** 2
    columns[2] = _uncubed(columns[2])
    u = torch.stack(columns, -1)
    parts = torch.distributions.MultivariateNormal(
        torch.from_numpy(law.means), scale_tril=torch.linalg.cholesky(_covariances(law))
    )
    mixed = (parts.log_prob(u[:, None]) + torch.from_numpy(law.weights).log()).logsumexp(-1)
    return mixed - torch.log1p(0.15 * u[:, 2] ** 2) + std.log().sum()


def _covariances(law: Law) -> Tensor:
    factors = torch.from_numpy(law.factors)
    return factors @ factors.mT


def _uncubed(y: Tensor) -> Tensor:
    """u with u + 0.05 u^3 = y: Cardano's formula, in the form that does not cancel."""
    p, q = 20.0, 20.0 * y.abs()
    root = (q / 2 + torch.sqrt(q * q / 4 + p**3 / 27)).pow(1 / 3)
    u = q / (root**2 + p / 3 + (p / (3 * root)) ** 2)
    return u * y.sign()


def _law() -> Law:
    source, n = np.random.default_rng(0), 60_000
    weights = source.dirichlet(np.full(COMPONENTS, 3.0))
    means = source.normal(0, 2.0, (COMPONENTS, WIDTH))
    factors = source.normal(0, 0.5, (COMPONENTS, WIDTH, WIDTH)) + 0.6 * np.eye(WIDTH)
    return Law(weights, means, factors, source.choice(COMPONENTS, n, p=weights), source.normal(size=(n, WIDTH)))
