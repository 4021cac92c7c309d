"""The von Mises distribution of angles, with the circle as its support."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrogen.distributions.constraints import circular
from pyrogen.ops.angles import wrap
from pyrogen.ops.bessel import log_mean_exp_cosine


class VonMises(dist.VonMises):
    """Angles around loc, p(x) = exp(k cos(x - loc)) / (2 pi I_0(k)), on [-pi, pi).

    Pyro's own calls its support the real line, on which this density has infinite mass: a guide of such a site
    can spread without end and report any evidence. Here the support is `circular`, so guides stay on the circle.

    Shape: loc and concentration broadcast to the batch; events are scalars, radians.
    Source: Mardia and Jupp 2000, Directional Statistics, section 3.5.4.
    """

    support = circular  # pyright: ignore[reportAssignmentType]

    def expand(self, batch_shape, _instance=None) -> Any:
        batch_shape = torch.Size(batch_shape)
        loc, k = self.loc.expand(batch_shape), self.concentration.expand(batch_shape)
        return VonMises(loc, k, validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """-k (1 - cos(x - loc)) - log E exp(-k (1 - cos u)) - log 2 pi, which has its digits for every k."""
        if self._validate_args:
            self._validate_sample(value)
        gap = 2 * torch.sin((value - self.loc) / 2).square()
        return -self.concentration * gap - log_mean_exp_cosine(self.concentration, 2) - math.log(2 * math.pi)

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        return wrap(super().sample(torch.Size(sample_shape)))
