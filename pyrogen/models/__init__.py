"""The models. A family exports its own; `MODELS` are those that recipes and the command line build by name."""

from pyrogen.models import autoregressive, energy, flows, latent
from pyrogen.models.autoregressive import *
from pyrogen.models.contracts import Chain, Energy, Explicit, Model, Pair
from pyrogen.models.density import Density
from pyrogen.models.energy import *
from pyrogen.models.flows import *
from pyrogen.models.latent import *

MODELS: dict[str, type[Model]] = {
    model.recipe: model
    for model in list(globals().values())
    if isinstance(model, type) and issubclass(model, Model) and model.recipe
}

__all__ = ["MODELS", "Chain", "Density", "Energy", "Explicit", "Model", "Pair"]
__all__ += autoregressive.__all__
__all__ += energy.__all__
__all__ += flows.__all__
__all__ += latent.__all__
