"""The VAE with two stochastic layers, whose guide reuses the generative middle layer."""

from __future__ import annotations

from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrogen.models.contracts import Pair
from pyrogen.models.latent.likelihoods import Likelihood
from pyrogen.models.latent.parts import Parts, check_width
from pyrogen.models.latent.priors import Prior, VampPrior
from pyrogen.models.latent.vae import diagonal_normal
from pyrogen.nn import MLP, batched


class TwoLayerVAE(Pair):
    """Rows decoded from a code whose own prior is decoded from a second code.

        model   z2 ~ p(z2)        z1 ~ Normal(a(z2), diag b(z2)^2)        x ~ p(x | f(z1))
        guide   z2 ~ Normal(c(x), diag d(x)^2)
                z1 ~ Normal(a(z2), diag b(z2)^2) * Normal(m(x), diag s(x)^2), normalised

    The product of the two normals has precision 1/b^2 + 1/s^2 and the precision-weighted mean: what
    the model expects, corrected by what was seen.

    Shape: x is (N, D); z1 is (N, L1); z2 is (N, L2).
    Source: Sonderby et al. 2016, arXiv:1602.02282, equations 13 to 16.

    Args:
        encoder: (batch, D) to (batch, 2 L1): m, then the raw scale of s.
        top: (batch, 2 L1), the encoder's output, to (batch, 2 L2): c and d.
        middle: (batch, L2) to (batch, 2 L1): a and b.
        decoder: (batch, L1) to (batch, D * likelihood.features).
        likelihood: p(x | f).
        prior: p(z2), of width L2.

    Raises:
        ModelError: the networks do not fit together.
    """

    recipe = "vae-two-layer"

    def __init__(
        self,
        encoder: nn.Module,
        top: nn.Module,
        middle: nn.Module,
        decoder: nn.Module,
        likelihood: Likelihood,
        prior: Prior,
        latent: int,
    ) -> None:
        super().__init__(likelihood.width, likelihood.support)
        self.encoder, self.top, self.middle, self.decoder = encoder, top, middle, decoder
        self.likelihood, self.prior, self.latent = likelihood, prior, latent
        check_width(self, encoder, "encoder", self.width, 2 * latent)
        check_width(self, top, "top", 2 * latent, 2 * prior.latent)
        check_width(self, middle, "middle", prior.latent, 2 * latent)
        check_width(self, decoder, "decoder", latent, self.width * likelihood.features)

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            z2 = pyro.sample("z2", self.prior(self.encode))
            z1 = pyro.sample("z1", diagonal_normal(batched(self.middle, z2)))
            return pyro.sample("x", self.decode(z1), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> tuple[Tensor, Tensor]:
        with self.rows(x, size):
            seen = batched(self.encoder, x)
            z2 = pyro.sample("z2", diagonal_normal(batched(self.top, seen)))
            expected = diagonal_normal(batched(self.middle, z2))
            z1 = pyro.sample("z1", product(expected, diagonal_normal(seen)))
            return z1, z2

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z2 | x), batch (N,), event (L2,)."""
        return diagonal_normal(batched(self.top, batched(self.encoder, x)))

    def decode(self, z1: Tensor) -> dist.TorchDistribution:
        """p(x | z1), batch (...,), event (D,), for z1 of shape (..., L1)."""
        return self.likelihood(batched(self.decoder, z1))

    def prepare(self, train: Tensor) -> None:
        if isinstance(self.prior, VampPrior):
            self.prior.start_at(train)

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        parts = Parts(cls.recipe, width, shape, support, settings, top_latent=None, bridge=300)
        latent, bridge = parts.latent, parts.settings["bridge"]
        top_latent = parts.settings["top_latent"] or latent
        return cls(
            encoder=parts.encoder(2 * latent),
            top=MLP(2 * latent, bridge, bridge, 2 * top_latent),
            middle=MLP(top_latent, bridge, bridge, 2 * latent),
            decoder=parts.decoder(latent),
            likelihood=parts.likelihood,
            prior=parts.prior(top_latent),
            latent=latent,
        )


def product(p: dist.TorchDistribution, q: dist.TorchDistribution) -> dist.TorchDistribution:
    """The normalised product of two diagonal normals of event (L,)."""
    precision_p, precision_q = p.base_dist.scale.pow(-2), q.base_dist.scale.pow(-2)
    precision = precision_p + precision_q
    mean = (precision_p * p.base_dist.loc + precision_q * q.base_dist.loc) / precision
    return dist.Normal(mean, torch.rsqrt(precision)).to_event(1)
