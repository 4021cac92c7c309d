"""Densities on the globe, and on spheres of other dimensions."""

from __future__ import annotations

from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution

from pyrogen.distributions import SphereUniform
from pyrogen.distributions.transforms import CylinderSpline, ExponentialMap, Flow, Layer, Mobius, Rotation
from pyrogen.errors import SettingsError
from pyrogen.models.contracts import refuse_unknown
from pyrogen.models.flows.manifold import ManifoldFlow


class SphereFlow(ManifoldFlow):
    """Unit vectors that a flow of the sphere makes uniform.

        p(x) = |det dT/dx| / area(S^d),      T = T_K R_K ... T_1 R_1,   R_k rotations

    with respect to the sphere's area: the uniform law of the globe is log 4 pi = 2.531 nats.

    Shape: x is (N, d + 1), rows of length 1.
    Source: Rezende et al. 2020, arXiv:2002.02428.

    Args:
        layer: T, from rows to the uniform law, of width d + 1.
    """

    recipe = "sphere-flow"

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, "sphere")

    def base(self) -> TorchDistribution:
        return SphereUniform(self.width - 1, like=next(self.parameters()), validate_args=False)

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        defaults = {"kind": "cylinder", "layers": 4, "bins": 16, "hidden": [32, 32], "degree": 1, "bumps": 8}
        refuse_unknown(cls.recipe, settings, defaults)
        chosen = defaults | settings
        if support != "sphere":
            raise SettingsError(got=f"{cls.recipe} for {support} data", need="unit vectors", fix='name = "nsf"')
        return cls(sphere_flow(width, **chosen))


def sphere_flow(
    width: int,
    kind: str = "cylinder",
    layers: int = 4,
    bins: int = 16,
    hidden: tuple[int, ...] = (32, 32),
    degree: int = 1,
    bumps: int = 8,
) -> Flow:
    """Layers of one kind with a rotation before each.

    Args:
        width: d + 1.
        kind: "cylinder", splines on the globe alone; "exponential", sums of radial bumps; "mobius".
        layers: how many.
        bins, hidden, degree: of the cylinder's splines and their network.
        bumps: of an exponential map.

    Raises:
        SettingsError: another kind, no layers, or cylinders on another sphere than the globe.
    """
    kinds = {
        "cylinder": lambda: CylinderSpline(bins, hidden, degree=degree),
        "exponential": lambda: ExponentialMap(width, bumps),
        "mobius": lambda: Mobius(0.1 * torch.randn(width).clamp(-1, 1) / width**0.5),
    }
    if kind not in kinds or layers < 1 or (kind == "cylinder" and width != 3):
        raise SettingsError(
            got=f"kind={kind!r} and layers={layers} for unit vectors of {width} entries",
            need=f"one of {', '.join(kinds)}, cylinder for 3 entries, and a layer at least",
            fix="kind='exponential', layers=6, on any sphere",
        )
    return Flow([part for _ in range(layers) for part in (Rotation(width, 1.0), kinds[kind]())])


__all__ = ["SphereFlow", "sphere_flow"]
