"""What models of pictures share: laws of pixels, and pictures as rows."""

from __future__ import annotations

from typing import Any

from pyrogen.distributions.autoregressive import (
    BinaryConditional,
    Conditional,
    LevelConditional,
    LogisticMixtureConditional,
    NormalConditional,
)
from pyrogen.errors import SettingsError
from pyrogen.ops import levels_of


def pixel_conditional(support: str, components: int = 0, one_hot: bool = False) -> Conditional:
    """The law of a pixel for data of a support.

        binary   Bernoulli
        grey     a softmax over the levels; with components, a discretized mixture of so many logistics
        real     a mixture of normals, of one unless components says so

    Args:
        one_hot: of a softmax, whether the network reads a value as one input for each level.

    Raises:
        SettingsError: a support without one, or settings of another.
    """
    bins = levels_of(support)
    if not isinstance(components, int) or isinstance(components, bool) or components < 0:
        raise SettingsError(got=f"components = {components!r}", need="a whole number, 0 or more", fix="components=5")
    if one_hot and (not bins or components):
        raise SettingsError(got="one_hot without a softmax over levels", need="grey pixels", fix="leaving it out")
    if support == "binary":
        if components:
            raise SettingsError(got=f"components = {components} for bits", need="grey pixels", fix="leaving it out")
        return BinaryConditional()
    if support == "real":
        return NormalConditional(components or 1)
    if bins is None:
        raise SettingsError(got=f"support {support!r}", need="'binary', 'real' or 'grey256'", fix="'binary'")
    return LogisticMixtureConditional(bins, components) if components else LevelConditional(bins, one_hot)


def take_family(settings: dict[str, Any]) -> dict[str, Any]:
    """Of a recipe's settings those of `pixel_conditional`, taken out."""
    return {key: settings.pop(key) for key in ("components", "one_hot") if key in settings}
