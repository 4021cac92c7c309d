"""The models. Each is exported here, once; `MODELS` are those that recipes and the command line build by name."""

from pyrogen.models.contracts import Energy, Explicit, Model, Pair
from pyrogen.models.latent import (
    PPCA,
    VAE,
    BernoulliPixels,
    CategoricalPixels,
    DiscretizedLogisticPixels,
    GaussianPixels,
    StandardNormal,
    TwoLayerVAE,
    VampPrior,
)

MODELS: dict[str, type[Model]] = {
    model.recipe: model
    for model in list(globals().values())
    if isinstance(model, type) and issubclass(model, Model) and model.recipe
}

__all__ = [
    "MODELS",
    "PPCA",
    "VAE",
    "BernoulliPixels",
    "CategoricalPixels",
    "DiscretizedLogisticPixels",
    "Energy",
    "Explicit",
    "GaussianPixels",
    "Model",
    "Pair",
    "StandardNormal",
    "TwoLayerVAE",
    "VampPrior",
]
