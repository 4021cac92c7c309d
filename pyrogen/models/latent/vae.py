"""The variational autoencoder."""

from __future__ import annotations

from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyrogen.errors import ModelError, SettingsError
from pyrogen.models.contracts import Pair, refuse_unknown
from pyrogen.models.latent.likelihoods import LIKELIHOODS, Likelihood
from pyrogen.models.latent.priors import Prior, StandardNormal, VampPrior
from pyrogen.nn import MLP, ConvDecoder, ConvEncoder, batched


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


class Parts:
    """The pieces of a VAE that a recipe's [model] table describes, with its defaults."""

    defaults: dict[str, Any] = {
        "latent": 20, "network": "mlp", "hidden": [400], "channels": [16, 32], "likelihood": "", "prior": "normal",
        "pseudo_inputs": 500,
    }  # fmt: skip
    natural = {"binary": "bernoulli", "unit": "gaussian", "real": "gaussian", "grey256": "discretized-logistic"}

    def __init__(
        self, name: str, width: int, shape: tuple[int, int, int], support: str, settings: dict[str, Any]
    ) -> None:
        refuse_unknown(name, settings, self.defaults)
        self.settings = self.defaults | settings
        self.width, self.shape = width, shape
        self.latent: int = self.settings["latent"]
        chosen = self.settings["likelihood"] or self.natural[support]
        self.likelihood: Likelihood = LIKELIHOODS[one_of("likelihood", chosen, LIKELIHOODS)](width)
        one_of("network", self.settings["network"], ("mlp", "conv"))
        one_of("prior", self.settings["prior"], ("normal", "vamp"))

    def encoder(self, outputs: int) -> nn.Module:
        hidden = self.settings["hidden"]
        if self.settings["network"] == "mlp":
            return MLP(self.width, *hidden, outputs)
        return ConvEncoder(self.shape, outputs, self.settings["channels"], hidden[0])

    def decoder(self, inputs: int) -> nn.Module:
        hidden, features = self.settings["hidden"], self.likelihood.features
        if self.settings["network"] == "mlp":
            return MLP(inputs, *reversed(hidden), self.width * features)
        return ConvDecoder(inputs, self.shape, features, self.settings["channels"], hidden[0])

    def prior(self, latent: int) -> Prior:
        if self.settings["prior"] == "normal":
            return StandardNormal(latent)
        return VampPrior(latent, torch.rand(self.settings["pseudo_inputs"], self.width))


def one_of(key: str, value: str, known: Any) -> str:
    """The value, if it is known; else a SettingsError that lists what is."""
    if value not in known:
        raise SettingsError(got=f"{key} = {value!r}", need=f"one of {sorted(known)}", fix=repr(sorted(known)[0]))
    return value


def check_width(pair: Pair, network: nn.Module, name: str, inputs: int, outputs: int) -> None:
    """Run the network on two rows of zeros and raise a ModelError unless they come out `outputs` wide."""
    training = network.training
    parameter = next(network.parameters(), torch.zeros(()))
    try:
        with torch.no_grad():
            out = network.eval()(parameter.new_zeros(2, inputs))
    except RuntimeError as error:
        raise ModelError(
            got=f"{type(pair).__name__}'s {name} failing on a (2, {inputs}) batch: {error}",
            need=f"a module that maps (batch, {inputs}) to (batch, {outputs})",
            fix=f"an input width of {inputs}",
        ) from error
    finally:
        network.train(training)
    if out.shape != (2, outputs):
        raise ModelError(
            got=f"{type(pair).__name__}'s {name} mapping (2, {inputs}) to {tuple(out.shape)}",
            need=f"(2, {outputs})",
            fix=f"an output width of {outputs}" + (", mean and scale" if name == "encoder" else ""),
        )
