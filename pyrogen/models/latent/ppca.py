"""Probabilistic principal component analysis: the one VAE whose every number has a closed form."""

from __future__ import annotations

import math
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrogen.errors import ShapeError
from pyrogen.models.contracts import Explicit, Pair, refuse_unknown


class PPCA(Pair, Explicit):
    """A linear-Gaussian latent variable model, with its exact posterior as guide.

        model   z ~ Normal(0, I)      x ~ Normal(W z + m, s^2 I)
        guide   z | x ~ Normal(M^-1 W^T (x - m), s^2 M^-1),      M = W^T W + s^2 I
        exact   x ~ Normal(m, W W^T + s^2 I)

    Shape: x is (N, D) real; z is (N, L); W is (D, L).
    Source: Tipping and Bishop 1999, equations 4 to 9.

    Args:
        width: D.
        latent: L, smaller than D.
    """

    recipe = "ppca"

    def __init__(self, width: int, latent: int) -> None:
        super().__init__(width, "real")
        self.latent = latent
        self.loadings = nn.Parameter(torch.randn(width, latent) / math.sqrt(latent))
        self.mean = nn.Parameter(torch.zeros(width))
        self.raw_scale = nn.Parameter(torch.zeros(()))

    @property
    def scale(self) -> Tensor:
        return softplus(self.raw_scale) + 1e-4

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            zero = self.mean.new_zeros(self.latent)
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
            return pyro.sample("x", self.decode(z), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            return pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """The exact p(z | x), batch (N,), event (L,)."""
        m = self.loadings.T @ self.loadings + self.scale**2 * torch.eye(self.latent).to(x)
        factor = torch.linalg.cholesky(m)
        mean = torch.cholesky_solve((x - self.mean).matmul(self.loadings).T, factor).T
        return dist.MultivariateNormal(mean, precision_matrix=m / self.scale**2)

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        return dist.Normal(z @ self.loadings.T + self.mean, self.scale).to_event(1)

    def log_prob(self, x: Tensor) -> Tensor:
        noise = (self.scale**2).expand(self.width)
        return dist.LowRankMultivariateNormal(self.mean, self.loadings, noise).log_prob(x)

    @torch.no_grad()
    def solve(self, x: Tensor) -> None:
        """Move to the maximum-likelihood solution in closed form (rows (N, D), N > 1, L < D).

        Raises:
            ShapeError: too few rows or too wide a code for a noise variance to be left over.
        """
        if x.shape[0] < 2 or self.latent >= self.width:
            raise ShapeError(
                got=f"{x.shape[0]} rows and {self.latent} of {self.width} components",
                need="at least 2 rows and fewer components than columns",
                fix="a smaller latent",
            )
        centred = x.double() - x.double().mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / x.shape[0])
        noise = values[: -self.latent].mean().clamp(min=1e-6)
        strength = (values[-self.latent :] - noise).clamp(min=0).sqrt()
        self.mean.copy_(x.mean(0))
        self.loadings.copy_(vectors[:, -self.latent :] * strength)
        self.raw_scale.copy_((noise.sqrt() - 1e-4).expm1().log())

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        refuse_unknown(cls.recipe, settings, {"latent": 2})
        return cls(width, **({"latent": 2} | settings))
