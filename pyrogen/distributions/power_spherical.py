"""The power spherical distribution: like von Mises-Fisher, with draws that carry gradients in every dimension."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Beta, register_kl

from pyrogen.distributions.around import AroundDirection, half_square_distance
from pyrogen.distributions.sphere_uniform import SphereUniform
from pyrogen.ops.spheres import log_area


class PowerSpherical(AroundDirection):
    """Directions around mu with a power of the half-angle's cosine as density.

        p(x) = (1 + mu.x)^k / (2^(a+b) pi^b Gamma(a) / Gamma(a + b)),      a = (n-1)/2 + k,  b = (n-1)/2
        x    = t mu + sqrt(1 - t^2) v,    (1 - t) / 2 ~ Beta(b, a),  v uniform and orthogonal to mu

    Draws carry gradients to mu and k: through v, which is a normal vector without its part along mu, and through the
    implicit derivative of the Beta. Near mu it is 1 - t that is drawn, not t, which would be 1 to rounding.

    Shape: loc is (..., n), concentration (...), events (n,).
    Source: De Cao and Aziz 2020, arXiv:2006.04437, equations 4 to 9.
    """

    has_rsample = True

    def _beta(self) -> tuple[Tensor, Tensor]:
        b = torch.full_like(self.concentration, (self.n - 1) / 2)
        return self.concentration + b, b

    @property
    def mean(self) -> Tensor:
        """E t mu = (a - b) / (a + b) mu."""
        a, b = self._beta()
        return ((a - b) / (a + b)).unsqueeze(-1) * self.loc

    def rsample(self, sample_shape=()) -> Tensor:
        a, b = self._beta()
        shape = self._extended_shape(torch.Size(sample_shape))[:-1]
        half_gap = Beta(b.expand(shape), a.expand(shape), validate_args=False).rsample()
        return self._around(2 * half_gap)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # log((1 + t) / 2) = log1p(-(1 - t) / 2); -inf at the point opposite to mu
        half_gap = (half_square_distance(value, self.loc) / 2).clamp(max=1.0)
        away = torch.where(self.concentration == 0, 0.0, half_gap)
        return self.concentration * torch.log1p(-away) - self._log_mass()

    def entropy(self) -> Tensor:
        """log mass - k E log((1 + t) / 2), the expectation being digamma(a) - digamma(a + b); in nats."""
        a, b = self._beta()
        return self._log_mass() - self.concentration * (torch.digamma(a) - torch.digamma(a + b))

    def _log_mass(self) -> Tensor:
        """log of the integral of ((1 + t) / 2)^k: 2 b log 2 + b log pi + log Gamma(a) - log Gamma(a + b)."""
        a, b = self._beta()
        log_gammas = torch.lgamma(a.double()) - torch.lgamma((a + b).double())
        return (log_gammas + b * (2 * math.log(2) + math.log(math.pi))).to(a.dtype)


@register_kl(PowerSpherical, SphereUniform)
def _kl_to_uniform(q: PowerSpherical, p: SphereUniform) -> Tensor:
    return log_area(p.dim) - q.entropy()


__all__ = ["PowerSpherical"]
