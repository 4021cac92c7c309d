"""A logistic distribution rounded to levels: the pixel likelihood of PixelCNN++."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyrogen.distributions.levels import Levels, OnLevels
from pyrogen.distributions.logistic import standard_logistic


class DiscretizedLogistic(OnLevels):
    """A logistic variable rounded to the nearest of `bins` levels.

        v_k = low + k w,   w = (high - low) / (bins - 1),   k = 0, ..., bins - 1
        p(v_k) = sigmoid(b_k) - sigmoid(a_k),   a_k = (v_k - w/2 - loc) / scale,   b_k = a_k + w / scale

    with a_0 = -inf and b_{bins-1} = inf: the outer bins take the tails. Nothing is clamped, because

        log(sigmoid(b) - sigmoid(a)) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(a - b))

    is a sum of three negative terms, accurate however small the mass is. In units of bins, with
    m = (loc - low) / w and t = scale / w, the edges are (k -+ 1/2 - m) / t: neighbours share the same
    float, so that the masses sum to one in float32 also where scale is far below a bin.

    log_prob wants levels; without validation any other number counts as the level nearest to it.
    log_prob has gradients in loc and scale, samples have none.

    Shape: loc and scale broadcast to the batch shape; events are scalars.
    Source: Salimans et al. 2017 (PixelCNN++), arXiv:1701.05517, section 2.1.

    Args:
        loc: centre of the logistic before rounding, in the units of low and high; it may lie outside them.
        scale: positive, in the same units.
        low: the lowest level.
        high: the highest level.
        bins: number of levels.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        low: float = 0.0,
        high: float = 1.0,
        bins: int = 256,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.levels = Levels(low, high, bins)
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> DiscretizedLogistic:
        new: Any = self._get_checked_instance(DiscretizedLogistic, _instance)
        batch_shape = torch.Size(batch_shape)
        new.levels = self.levels
        new.loc = self.loc.expand(batch_shape)
        new.scale = self.scale.expand(batch_shape)
        super(DiscretizedLogistic, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _like(self) -> Tensor:
        return self.loc

    def _in_bins(self) -> tuple[Tensor, Tensor]:
        """m and t: loc and scale in units of bins, counted from low."""
        return (self.loc - self.levels.low) * self.levels.per_unit, self.scale * self.levels.per_unit

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._log_mass(self.levels.index(value))

    def _log_mass(self, k: Tensor) -> Tensor:
        m, t = self._in_bins()
        below = logsigmoid((k + 0.5 - m) / t)
        above = logsigmoid(-(k - 0.5 - m) / t)
        inside = torch.log(-torch.expm1(-1 / t))
        # all branches are finite, so the ones not taken send back 0 and never NaN
        return torch.where(k == 0, below, torch.where(k == self.levels.bins - 1, above, below + above + inside))

    def sample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            m, t = self._in_bins()
            k = (m + t * standard_logistic(shape, self.loc)).round().clamp(0, self.levels.bins - 1)
            return self.levels.at(k)

    @property
    def mean(self) -> Tensor:
        return self._expect(lambda v: v)

    @property
    def variance(self) -> Tensor:
        mean = self.mean
        return self._expect(lambda v: (v - mean).square())

    def _expect(self, f: Callable[[Tensor], Tensor]) -> Tensor:
        """sum_k p(v_k) f(v_k), level by level: all of them at once are `bins` times the batch."""
        total = torch.zeros_like(self.loc)
        for k, v in enumerate(self.levels.values(self.loc)):
            total = total + self._log_mass(torch.full_like(v, k)).exp() * f(v)
        return total
