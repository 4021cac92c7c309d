"""A flow under grey levels."""

from __future__ import annotations

from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Size, Tensor

from pyrogen.distributions import NormalizingFlow
from pyrogen.distributions.transforms import Layer
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.models.contracts import Pair, refuse_unknown
from pyrogen.models.flows.architectures import ARCHITECTURES, check_settings
from pyrogen.models.flows.base import start_at
from pyrogen.models.flows.glow import DEFAULTS as GLOW
from pyrogen.models.flows.glow import glow
from pyrogen.ops import levels_of


class Cell(dist.TorchDistribution):
    """The grey levels that continuous values fall into: all mass on floor(levels y) / (levels - 1).

    Args:
        y: (..., D); what is outside [0, 1) belongs to the first and the last level.
        levels: L.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012, as torch declares it

    def __init__(self, y: Tensor, levels: int, validate_args: bool | None = None) -> None:
        self.y, self.levels = y, levels
        super().__init__(y.shape[:-1], y.shape[-1:], validate_args=validate_args)

    @property
    def support(self) -> Any:
        return dist.constraints.independent(dist.constraints.unit_interval, 1)

    @property
    def mean(self) -> Tensor:
        return (self.y * self.levels).floor().clamp(0, self.levels - 1) / (self.levels - 1)

    def sample(self, sample_shape: Any = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.mean.expand(Size(sample_shape) + self.y.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        # y on the edge of its cell may round into the next one, hence the margin
        away = (value * (self.levels - 1) + 0.5 - (self.y * self.levels).clamp(0.5, self.levels - 0.5)).abs()
        inside = (away <= 0.5 + 1e-3).all(-1)
        return torch.where(inside, 0.0, -torch.inf).to(value.dtype)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Cell:  # pyright: ignore[reportIncompatibleMethodOverride]
        return Cell(self.y.expand(*Size(batch_shape), -1), self.levels, validate_args=False)


class DequantizedFlow(Pair):
    """Rows of grey levels, as the cells that a continuous density's draws fall into.

        model   y ~ p(y) = Normal(T(y); 0, I) |det dT/dy|,      x = floor(L y) / (L - 1),   k = (L - 1) x
        guide   y | x ~ Uniform over the cell [k / L, (k + 1) / L)^D
        bound   log P(x) >= E_q[ log p(y) ] - D log L

    So what is reported for it is a bound on the log-probability of the levels, and it is comparable with models of
    discrete pixels.

    Shape: x is (N, D) with entries k / (L - 1).
    Source: Theis et al. 2015, arXiv:1511.01844, section 3.1; Uria et al. 2013, arXiv:1306.0186, section 5.

    Args:
        layer: T, of width D.
        levels: L, at least 2.

    Raises:
        ShapeError: the layer takes every width, or a context.
        SettingsError: fewer than two levels.
    """

    recipe = "dequantized-flow"

    def __init__(self, layer: Layer, levels: int) -> None:
        if layer.width is None or layer.context:
            raise ShapeError(
                got=f"a layer of width {layer.width} and context {layer.context}",
                need="a width, and no context",
                fix="a Flow of a given width",
            )
        if levels < 2:
            raise SettingsError(got=f"levels={levels}", need="at least 2", fix="levels=256")
        super().__init__(layer.width, f"grey{levels}")
        self.levels = levels
        self.flow = NormalizingFlow(layer.inv)

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            y = pyro.sample("y", self.flow())
            return pyro.sample("x", Cell(y, self.levels), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> Tensor:
        with self.rows(x, size):
            return pyro.sample("y", self.encode(x))

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(y | x), uniform over the cell, batch (N,), event (D,)."""
        k = (x * (self.levels - 1)).round()
        return dist.Uniform(k / self.levels, (k + 1) / self.levels, validate_args=False).to_event(1)

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Let each ActNorm start from what the rows, with noise in their cells, are when they come to it."""
        start_at(self.flow.layer.inv, self.encode(train).sample())

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        name = settings.pop("flow", "nsf")
        known = sorted([*ARCHITECTURES, "glow"])
        if name not in known:
            raise SettingsError(got=f"flow = {name!r}", need=f"one of {known}", fix="'nsf'")
        levels = 2 if support == "binary" else levels_of(support)
        if levels is None:
            raise SettingsError(got=f"{cls.recipe} for {support} data", need="grey levels", fix=f"name = {name!r}")
        defaults = GLOW if name == "glow" else ARCHITECTURES[name].defaults
        refuse_unknown(cls.recipe, settings, defaults | {"flow": "nsf"})
        if name == "glow":
            return cls(glow(shape, **settings), levels)
        check_settings(name, width, defaults | settings)
        return cls(ARCHITECTURES[name].architecture(width, **settings), levels)
