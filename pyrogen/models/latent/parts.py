"""From the words of a recipe to the networks, the likelihood and the prior of a VAE, and whether parts fit together."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from pyrogen.errors import ModelError, SettingsError
from pyrogen.models.contracts import Pair, refuse_unknown
from pyrogen.models.latent.likelihoods import LIKELIHOODS, CategoricalPixels, DiscretizedLogisticPixels, Likelihood
from pyrogen.models.latent.priors import Prior, StandardNormal, VampPrior
from pyrogen.nn import MLP, ConvDecoder, ConvEncoder
from pyrogen.ops import levels_of


class Parts:
    """The pieces of a VAE that a recipe's [model] table describes.

    Args:
        name: of the model, for messages.
        settings: the table; `more` are the settings, with defaults, that the model has beside the common ones.
    """

    def __init__(
        self,
        name: str,
        width: int,
        shape: tuple[int, int, int],
        support: str,
        settings: dict[str, Any],
        **more: Any,
    ) -> None:
        defaults = {
            "latent": 20,
            "network": "mlp",
            "hidden": [400],
            "channels": [16, 32],
            "likelihood": _natural(support),
            "prior": "normal",
            "pseudo_inputs": 500,
            **more,
        }
        refuse_unknown(name, settings, defaults)
        self.settings = defaults | settings
        self.width, self.shape = width, shape
        self.latent: int = self.settings["latent"]
        one_of("network", self.settings["network"], ("mlp", "conv"))
        one_of("prior", self.settings["prior"], ("normal", "vamp"))
        likelihood = LIKELIHOODS[one_of("likelihood", self.settings["likelihood"], LIKELIHOODS)]
        levels = levels_of(support)
        grey = issubclass(likelihood, (DiscretizedLogisticPixels, CategoricalPixels))
        self.likelihood: Likelihood = likelihood(width, levels) if grey and levels else likelihood(width)

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


def _natural(support: str) -> str:
    """The likelihood that data of this support has unless a recipe says otherwise."""
    if levels_of(support):
        return "discretized-logistic"
    return "bernoulli" if support == "binary" else "gaussian"


def one_of(key: str, value: str, known: Collection[str]) -> str:
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
