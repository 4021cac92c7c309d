"""The flows of the papers, by name: NICE, RealNVP, MAF, NSF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

from torch import ones, zeros

from pyrogen.distributions.transforms import (
    IAF,
    ActNorm,
    AdditiveCoupling,
    Affine,
    AffineCoupling,
    Flow,
    Layer,
    LULinear,
    Permutation,
    SplineCoupling,
)
from pyrogen.errors import SettingsError
from pyrogen.models.contracts import refuse_unknown
from pyrogen.models.flows.base import FlowModel


def nice(width: int, layers: int = 4, hidden: Sequence[int] = (64, 64)) -> Flow:
    """Additive couplings of alternating halves, then a scale for each column."""
    couplings = [AdditiveCoupling(width, hidden, swap=i % 2 == 1) for i in range(layers)]
    return Flow([ActNorm(width), *couplings, Affine(zeros(width), ones(width))])


def realnvp(width: int, layers: int = 8, hidden: Sequence[int] = (64, 64)) -> Flow:
    """Affine couplings of alternating halves, with activation normalisation before each."""
    parts: list[Layer] = []
    for i in range(layers):
        parts += [ActNorm(width), AffineCoupling(width, hidden, swap=i % 2 == 1)]
    return Flow(parts)


def maf(width: int, layers: int = 5, hidden: Sequence[int] = (64, 64)) -> Flow:
    """Affine autoregressive layers whose orders alternate: one pass from rows to noise."""
    parts: list[Layer] = [ActNorm(width)]
    for i in range(layers):
        order = range(width) if i % 2 == 0 else range(width - 1, -1, -1)
        # from rows to noise the inverse of a MAF, which is an IAF
        parts += [IAF(width, hidden, order=order), ActNorm(width)]
    return Flow(parts)


def nsf(width: int, layers: int = 5, hidden: Sequence[int] = (64, 64), bins: int = 8, bound: float = 5.0) -> Flow:
    """Spline couplings, with a linear layer before each that mixes all columns."""
    parts: list[Layer] = [ActNorm(width)]
    for _ in range(layers):
        parts += [Permutation.random(width), LULinear(width), SplineCoupling(width, hidden, bins=bins, bound=bound)]
    return Flow([*parts, LULinear(width)])


class Named(FlowModel):
    """A FlowModel with an architecture and settings that recipes know."""

    architecture: Callable[..., Flow]
    defaults: dict[str, Any]

    def __init__(self, width: int, **settings: Any) -> None:
        cls = type(self)
        refuse_unknown(cls.recipe, settings, cls.defaults)
        check_settings(cls.recipe, width, cls.defaults | settings)
        super().__init__(cls.architecture(width, **settings))

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        if support != "real":
            raise SettingsError(
                got=f"{cls.recipe} for {support} data",
                need="real rows: a density of values that repeat has no upper limit",
                fix=f'name = "dequantized-flow" with flow = "{cls.recipe}", for grey levels',
            )
        return cls(width, **settings)


def check_settings(name: str, width: int, settings: dict[str, Any]) -> None:
    layers, hidden = settings["layers"], settings["hidden"]
    if layers < 1 or width < 2 or not len(hidden):
        raise SettingsError(
            got=f"{name} of width {width} with layers={layers} and hidden={hidden}",
            need="two columns, one layer and one hidden layer at least",
            fix="layers=4, hidden=[64, 64]",
        )


class NICE(Named):
    """A density by x -> z with additive couplings and one scale per column.

    Source: Dinh et al. 2014, arXiv:1410.8516, with a Gaussian for the logistic prior.

    Args:
        width: D, at least 2.
        layers, hidden: how many couplings, and the hidden widths of their networks.
    """

    recipe = "nice"
    architecture = staticmethod(nice)
    defaults = {"layers": 4, "hidden": (64, 64)}  # noqa: RUF012, no instance writes it


class RealNVP(Named):
    """A density by x -> z with affine couplings.

    Source: Dinh et al. 2016, arXiv:1605.08803, on rows and without its multi-scale parts for pictures.

    Args:
        width: D, at least 2.
        layers, hidden: how many couplings, and the hidden widths of their networks.
    """

    recipe = "realnvp"
    architecture = staticmethod(realnvp)
    defaults = {"layers": 8, "hidden": (64, 64)}  # noqa: RUF012


class MAF(Named):
    """A density by x -> z with affine autoregressive layers: one pass for densities, D passes for draws.

    Source: Papamakarios et al. 2017, arXiv:1705.07057.

    Args:
        width: D, at least 2.
        layers, hidden: how many layers, and the hidden widths of their networks.
    """

    recipe = "maf"
    architecture = staticmethod(maf)
    defaults = {"layers": 5, "hidden": (64, 64)}  # noqa: RUF012


class NSF(Named):
    """A density by x -> z with rational-quadratic spline couplings and linear layers.

    Source: Durkan et al. 2019, arXiv:1906.04032, RQ-NSF (C).

    Args:
        width: D, at least 2.
        layers, hidden: how many couplings, and the hidden widths of their networks.
        bins, bound: of the splines.
    """

    recipe = "nsf"
    architecture = staticmethod(nsf)
    defaults = {"layers": 5, "hidden": (64, 64), "bins": 8, "bound": 5.0}  # noqa: RUF012


ARCHITECTURES: dict[str, type[Named]] = {model.recipe: model for model in (NICE, RealNVP, MAF, NSF)}
