"""Equally spaced levels, such as the 256 grey values of a picture, and a free distribution over them."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Categorical

from pyrogen.errors import SettingsError, ShapeError


class Levels(constraints.Constraint):
    """The numbers low + k (high - low) / (bins - 1), k = 0, ..., bins - 1.

    A value passes when it lies within a thousandth of a bin, plus rounding, of its level. With the
    defaults the levels in float32 are exactly `grey.float() / 255` for grey = 0, ..., 255.
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, low: float = 0.0, high: float = 1.0, bins: int = 256) -> None:
        if bins != int(bins) or bins < 2:
            raise SettingsError(got=f"bins={bins}", need="a whole number of bins, 2 or more", fix="bins=256 for 8 bits")
        if not -math.inf < low < high < math.inf:
            raise SettingsError(got=f"low={low}, high={high}", need="finite low < high", fix="low=0.0, high=1.0")
        self.low, self.high, self.bins = float(low), float(high), int(bins)

    @property
    def per_unit(self) -> float:
        """Bins in a stretch of length one: the inverse of the spacing."""
        return (self.bins - 1) / (self.high - self.low)

    def values(self, like: Tensor) -> Tensor:
        """All levels, (bins,), with the dtype and device of `like`."""
        # on the CPU in float64, then one rounding: the same floats everywhere, in float32 those of k / 255
        k = torch.arange(self.bins, dtype=torch.float64, device="cpu")
        return (self.low + k * (self.high - self.low) / (self.bins - 1)).to(device=like.device, dtype=like.dtype)

    def index(self, value: Tensor) -> Tensor:
        """The number k of the nearest level, as a float; NaN stays NaN."""
        return ((value - self.low) * self.per_unit).round().clamp(0, self.bins - 1)

    def at(self, k: Tensor) -> Tensor:
        """The levels with numbers k, given as floats; NaN for NaN."""
        # NaN has no index, and one out of range is an assertion that takes a GPU down
        return torch.where(k.isnan(), k, self.values(k)[k.nan_to_num(0.0).long()])

    def check(self, value: Tensor) -> Tensor:
        dtype = value.dtype if value.is_floating_point() else torch.get_default_dtype()
        rounding = torch.finfo(dtype).eps * max(abs(self.low), abs(self.high)) * self.per_unit
        away = ((value - self.low) * self.per_unit - self.index(value)).abs()
        return away <= min(1e-3 + 4 * rounding, 0.5)

    def __repr__(self) -> str:
        return f"Levels(low={self.low:g}, high={self.high:g}, bins={self.bins})"


class OnLevels(TorchDistribution):
    """Base of distributions over levels: their support and its enumeration.

    A subclass sets `levels`, and `_like` to one of its tensors.
    """

    has_enumerate_support = True
    levels: Levels

    @property
    def _like(self) -> Tensor:
        raise NotImplementedError

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.levels

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All levels, lowest first: (bins,) + batch_shape, or (bins, 1, ..., 1) when expand is False."""
        values = self.levels.values(self._like).reshape((-1,) + (1,) * len(self.batch_shape))
        return values.expand((-1, *self.batch_shape)) if expand else values


class LevelCategorical(OnLevels):
    """Any distribution over levels in [0, 1]: a softmax over `bins` logits.

        p(k / (bins - 1)) = softmax(logits)_k,   k = 0, ..., bins - 1

    Pyro's Categorical is over the integers; here the values are the levels, so that it scores the same
    pixels as the other likelihoods do. log_prob wants levels; without validation any other number counts
    as the level nearest to it, and NaN gives NaN.

    Shape: logits are (..., bins) with ... the batch shape; events are scalars.
    Source: van den Oord et al. 2016 (PixelRNN), arXiv:1601.06759, section 3.4.

    Args:
        logits: unnormalised log-probabilities of the levels, lowest first.

    Raises:
        ShapeError: if logits has no last dimension of two or more.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"logits": constraints.real_vector}

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        if logits.dim() < 1 or logits.shape[-1] < 2:
            raise ShapeError(
                got=f"logits of shape {tuple(logits.shape)}",
                need="(..., bins) with 2 bins or more",
                fix="a last dimension with one logit for each level",
            )
        self.levels = Levels(bins=logits.shape[-1])
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> LevelCategorical:
        new: Any = self._get_checked_instance(LevelCategorical, _instance)
        batch_shape = torch.Size(batch_shape)
        new.levels = self.levels
        new.logits = self.logits.expand((*batch_shape, self.levels.bins))
        super(LevelCategorical, new).__init__(batch_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _like(self) -> Tensor:
        return self.logits

    @property
    def probs(self) -> Tensor:
        """(..., bins)"""
        return self.logits.softmax(-1)

    @property
    def mean(self) -> Tensor:
        return self.probs @ self.levels.values(self.logits)

    @property
    def variance(self) -> Tensor:
        away = self.levels.values(self.logits) - self.mean.unsqueeze(-1)
        return (self.probs * away.square()).sum(-1)

    def entropy(self) -> Tensor:
        return Categorical(logits=self.logits, validate_args=False).entropy()

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k = self.levels.index(value)
        shape = torch.broadcast_shapes(k.shape, self.batch_shape)
        index = k.nan_to_num(0.0).long().expand(shape).unsqueeze(-1)
        logit = self.logits.expand((*shape, self.levels.bins)).gather(-1, index).squeeze(-1)
        # the normaliser apart: normalised logits would be a second tensor of that size
        log_prob = logit - self.logits.logsumexp(-1)
        return torch.where(k.isnan(), k, log_prob)

    def sample(self, sample_shape=()) -> Tensor:
        k = Categorical(logits=self.logits.detach(), validate_args=False).sample(torch.Size(sample_shape))
        return self.levels.values(self.logits)[k]
