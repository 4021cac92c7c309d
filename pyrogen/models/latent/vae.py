"""The variational autoencoder."""

from __future__ import annotations

from typing import Any, Self

import pyro
import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrogen.models.contracts import Pair
from pyrogen.models.latent.likelihoods import Likelihood
from pyrogen.models.latent.parts import Parts, check_width
from pyrogen.models.latent.priors import Prior, VampPrior
from pyrogen.nn import batched


def diagonal_normal(outputs: Tensor) -> dist.TorchDistribution:
    """(..., 2L) to Normal(m, diag s^2) of event (L,): the mean m, then r with s = softplus(r) + 1e-4.

    softplus grows linearly where exp would overflow, and the floor keeps log q finite.
    """
    mean, raw = outputs.chunk(2, dim=-1)
    return dist.Normal(mean, softplus(raw) + 1e-4).to_event(1)


class VAE(Pair):
    """Rows decoded from a Gaussian code.

        model   z ~ p(z)               x ~ p(x | f(z))
        guide   q(z | x) = Normal(m(x), diag s(x)^2)

    Shape: x is (N, D); z is (N, L).
    Source: Kingma and Welling 2014, arXiv:1312.6114, section 3 and appendix C.

    Args:
        encoder: any module that maps (batch, D) to (batch, 2L): the mean m, then r, s = softplus(r) + 1e-4.
        decoder: any module that maps (batch, L) to (batch, D * likelihood.features).
        likelihood: p(x | f), for example BernoulliPixels(D).
        prior: p(z), for example StandardNormal(L) or VampPrior(L, rows).

    Raises:
        ModelError: encoder, decoder, likelihood and prior do not fit together.
    """

    recipe = "vae"

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, prior: Prior) -> None:
        super().__init__(likelihood.width, likelihood.support)
        self.encoder, self.decoder, self.likelihood, self.prior = encoder, decoder, likelihood, prior
        check_width(self, encoder, "encoder", self.width, 2 * self.latent)
        check_width(self, decoder, "decoder", self.latent, self.width * likelihood.features)

    @property
    def latent(self) -> int:
        return self.prior.latent

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            z = pyro.sample("z", self.prior(self.encode))
            return pyro.sample("x", self.decode(z), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            return pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x), batch (N,), event (L,)."""
        return diagonal_normal(batched(self.encoder, x))

    def decode(self, z: Tensor) -> dist.TorchDistribution:
        """p(x | z), batch (...,), event (D,), for z of shape (..., L)."""
        return self.likelihood(batched(self.decoder, z))

    def prepare(self, train: Tensor) -> None:
        if isinstance(self.prior, VampPrior):
            self.prior.start_at(train)

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        parts = Parts(cls.recipe, width, shape, support, settings)
        return cls(
            parts.encoder(2 * parts.latent),
            parts.decoder(parts.latent),
            parts.likelihood,
            parts.prior(parts.latent),
        )
