"""Densities of several angles."""

from __future__ import annotations

import math
from typing import Any, Self

import pyro.distributions as dist
from pyro.distributions import TorchDistribution

from pyrogen.distributions.transforms import (
    CircularMobius,
    CircularSpline,
    Flow,
    Layer,
    Permutation,
    TorusAutoregressive,
    TorusCoupling,
)
from pyrogen.errors import SettingsError
from pyrogen.models.contracts import refuse_unknown
from pyrogen.models.flows.manifold import ManifoldFlow


class TorusFlow(ManifoldFlow):
    """Angles that a flow of the torus makes uniform.

        p(x) = |det dT/dx| / (2 pi)^D

    Shape: x is (N, D) with entries in [-pi, pi).
    Source: Rezende et al. 2020, arXiv:2002.02428, section 2.2.

    Args:
        layer: T, from rows to the uniform law, of width D.
    """

    recipe = "torus-flow"

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, "torus")

    def base(self) -> TorchDistribution:
        ends = next(self.parameters()).new_full((self.width,), math.pi)
        return dist.Uniform(-ends, ends, validate_args=False).to_event(1)

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        defaults = {"kind": "coupling", "family": "spline", "layers": 4, "bins": 8, "centres": 3, "hidden": [64, 64]}
        refuse_unknown(cls.recipe, settings, defaults)
        if support != "torus":
            raise SettingsError(got=f"{cls.recipe} for {support} data", need="angles", fix='name = "nsf"')
        return cls(torus_flow(width, **(defaults | settings)))


def torus_flow(
    width: int,
    kind: str = "coupling",
    family: str = "spline",
    layers: int = 4,
    bins: int = 8,
    centres: int = 3,
    hidden: tuple[int, ...] = (64, 64),
) -> Flow:
    """Layers of one kind, their halves or orders alternating.

    Args:
        width: D; a coupling needs two angles.
        kind: "coupling" or "autoregressive".
        family: "spline", of so many `bins`, or "mobius", of so many `centres`.
        layers: how many.
        hidden: widths of the networks' hidden layers.

    Raises:
        SettingsError: another kind or family, or no layers.
    """
    families = {"spline": lambda: CircularSpline(bins), "mobius": lambda: CircularMobius(centres)}
    if kind not in ("coupling", "autoregressive") or family not in families or layers < 1:
        raise SettingsError(
            got=f"kind={kind!r}, family={family!r}, layers={layers}",
            need="coupling or autoregressive, spline or mobius, and a layer at least",
            fix="kind='coupling', family='spline', layers=4",
        )
    parts: list[Layer] = []
    for i in range(layers):
        if kind == "coupling":
            parts.append(TorusCoupling(width, families[family](), hidden, swap=i % 2 == 1))
        else:
            parts += [TorusAutoregressive(width, families[family](), hidden), Permutation.reversal(width)]
    return Flow(parts)


__all__ = ["TorusFlow", "torus_flow"]
