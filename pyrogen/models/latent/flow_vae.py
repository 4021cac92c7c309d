"""The VAE whose posterior is a flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrogen.distributions import FlowDistribution
from pyrogen.distributions.transforms import IAF, Flow, Layer, Planars, Radial, SplineCoupling, Sylvester
from pyrogen.errors import ModelError, SettingsError
from pyrogen.models.contracts import Pair
from pyrogen.models.latent.likelihoods import Likelihood
from pyrogen.models.latent.parts import Parts, check_width, one_of
from pyrogen.models.latent.priors import Prior
from pyrogen.models.latent.vae import VAE
from pyrogen.nn import batched


class FlowVAE(VAE):
    """Rows decoded from a code, its posterior a Gaussian that a flow bends.

        model   z ~ p(z)                          x ~ p(x | f(z))
        guide   z0 ~ Normal(m(x), diag s(x)^2)    z = T(z0; c(x)),
                log q(z | x) = log q(z0 | x) - log |det dT/dz0|

    The layers' parameters are functions of the context c that the encoder gives, beside m and s. Draws and their
    log q come from one forward pass of T; its inverse is needed for densities of other points alone, as in path
    derivatives.

    Shape: x is (N, D); z is (N, L); c is (N, C).
    Source: Rezende and Mohamed 2015, arXiv:1505.05770, section 4.

    Args:
        encoder: maps (batch, D) to (batch, 2L + C): m, then r with s = softplus(r) + 1e-4, then c.
        decoder: maps (batch, L) to (batch, D * likelihood.features).
        likelihood: p(x | f).
        prior: p(z), of width L.
        layer: T, of width L, with a context of width C or none; None for a Gaussian posterior.

    Raises:
        ModelError: encoder, decoder, likelihood, prior and layer do not fit together.
    """

    recipe = ""

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, prior: Prior, layer: Layer | None
    ) -> None:
        Pair.__init__(self, likelihood.width, likelihood.support)
        self.encoder, self.decoder, self.likelihood, self.prior = encoder, decoder, likelihood, prior
        self.layer = layer
        if layer is not None and layer.width not in (None, self.latent):
            raise ModelError(
                got=f"a layer of width {layer.width} and codes of width {self.latent}",
                need="one width",
                fix=f"layers of width {self.latent}",
            )
        check_width(self, encoder, "encoder", self.width, 2 * self.latent + self.context)
        check_width(self, decoder, "decoder", self.latent, self.width * likelihood.features)

    @property
    def context(self) -> int:
        return 0 if self.layer is None else self.layer.context

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x), batch (N,), event (L,)."""
        sizes = [self.latent, self.latent, self.context]
        mean, raw, context = batched(self.encoder, x).split(sizes, dim=-1)
        base = dist.Normal(mean, softplus(raw) + 1e-4).to_event(1)
        if self.layer is None:
            return base
        return FlowDistribution(base, self.layer, context if self.context else None)


class PlanarVAE(FlowVAE):
    """A FlowVAE with k planar layers; k = 0 is the VAE with a Gaussian posterior.

    Other layers are a choice in recipes too: `posterior = "radial"`, "sylvester", "iaf" or "spline".

    Source: Rezende and Mohamed 2015, arXiv:1505.05770, table 2; van den Berg et al. 2018, arXiv:1803.05649.
    """

    recipe = "vae-planar"

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        parts = Parts(cls.recipe, width, shape, support, settings, flows=10, context=100, posterior="planar")
        k, context = parts.settings["flows"], parts.settings["context"]
        name = one_of("posterior", parts.settings["posterior"], POSTERIORS)
        if k < 0 or context < 1:
            raise SettingsError(got=f"flows={k}, context={context}", need="flows >= 0, context >= 1", fix="flows=10")
        layer = POSTERIORS[name](parts.latent, k, context) if k else None
        return cls(
            parts.encoder(2 * parts.latent + (context if k else 0)),
            parts.decoder(parts.latent),
            parts.likelihood,
            parts.prior(parts.latent),
            layer,
        )


def _iaf(latent: int, k: int, context: int) -> Layer:
    orders = [range(latent), range(latent - 1, -1, -1)]
    return Flow(
        IAF(latent, (320,), context=context, order=orders[i % 2], clip=1.0, activation=nn.ELU) for i in range(k)
    )


def _spline(latent: int, k: int, context: int) -> Layer:
    return Flow(SplineCoupling(latent, (128,), context=context, swap=i % 2 == 1) for i in range(k))


POSTERIORS: dict[str, Callable[[int, int, int], Layer]] = {
    "planar": lambda latent, k, context: Planars(latent, k, context),
    "radial": lambda latent, k, context: Flow(Radial(latent, context) for _ in range(k)),
    "sylvester": lambda latent, k, context: Flow(Sylvester(latent, context=context) for _ in range(k)),
    "iaf": _iaf,
    "spline": _spline,
}
