"""The von Mises-Fisher distribution on the sphere of any dimension."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Beta, register_kl

from pyrogen.distributions.around import AroundDirection, half_square_distance
from pyrogen.distributions.sphere_uniform import SphereUniform
from pyrogen.ops.bessel import log_mean_exp_cosine, one_less_mean_cosine
from pyrogen.ops.spheres import log_area


class VonMisesFisher(AroundDirection):
    """The normal distribution's counterpart for directions.

        p(x) = exp(k mu.x) / C_n(k),      C_n(k) = (2 pi)^(n/2) I_{n/2-1}(k) / k^(n/2-1)
        log p(x) = -k (1 - mu.x) - log E_u exp(-k (1 - mu.u)) - log area,    u uniform

    The second line is what is computed: both its terms are of the order of log k, whatever k is. Draws are exact: by
    the inverse distribution function for n = 3, where they carry gradients, and by rejection otherwise.

    Shape: loc is (..., n), concentration (...), events (n,).
    Source: Mardia and Jupp 2000, Directional Statistics, section 9.3; Wood 1994, doi:10.1080/03610919408813161.
    """

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True on the globe only: the accepted draw of a rejection sampler has no derivative."""
        return self.n == 3

    @property
    def mean(self) -> Tensor:
        """A(k) mu, inside the ball."""
        return (1 - one_less_mean_cosine(self.concentration, self.n)).unsqueeze(-1) * self.loc

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        gap = half_square_distance(value, self.loc)
        return -self.concentration * gap - self._log_mass()

    def entropy(self) -> Tensor:
        """k (1 - A(k)) + log of the normaliser, in nats."""
        return self.concentration * one_less_mean_cosine(self.concentration, self.n) + self._log_mass()

    def rsample(self, sample_shape=()) -> Tensor:
        if self.n != 3:
            raise NotImplementedError("draws of a von Mises-Fisher carry gradients for n = 3; try PowerSpherical")
        k = self.concentration.expand(self._extended_shape(torch.Size(sample_shape))[:-1])
        return self._around(_gap_on_the_globe(torch.rand_like(k), k))

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        k = self.concentration.expand(self._extended_shape(torch.Size(sample_shape))[:-1])
        gap = _gap_on_the_globe(torch.rand_like(k), k) if self.n == 3 else _gap_by_rejection(k, self.n)
        return self._around(gap)

    def _log_mass(self) -> Tensor:
        return log_mean_exp_cosine(self.concentration, self.n) + log_area(self.n - 1)


def _gap_on_the_globe(u: Tensor, k: Tensor) -> Tensor:
    """1 - t by its distribution function: 1 - t = -log(1 - u (1 - exp(-2k))) / k, and 2u at k = 0."""
    safe = k.clamp(min=1e-3)
    u = u.clamp(min=torch.finfo(u.dtype).eps / 4)
    exact = -torch.log1p(u * torch.expm1(-2 * safe)) / safe
    # to second order in k, which is exact to 1e-9 below the switch
    near = 2 * u * (1 - k * (1 - u) * (1 - k / 3 * (2 * (1 - 2 * u))))
    return torch.where(k < 1e-3, near, exact).clamp(max=2.0)


def _gap_by_rejection(k: Tensor, n: int) -> Tensor:
    """1 - t under exp(k t) (1 - t^2)^((n-3)/2), by Wood's envelope; t = (1 - (1 + b) z) / (1 - (1 - b) z).

    In terms of 1 - t = 2 b z / (1 - (1 - b) z), which has its digits also for large k, in float64.
    """
    kept, k = k, k.double()
    m = n - 1
    b = m / (2 * k + (4 * k.square() + m * m).sqrt())
    # with t0 = (1 - b) / (1 + b): accept when k t + m log(1 - t0 t) - k t0 - m log(1 - t0^2) >= log u
    gap0 = 2 * b / (1 + b)
    gap, waiting = torch.zeros_like(k), torch.ones_like(k, dtype=torch.bool)
    half = torch.full_like(k, m / 2)
    while bool(waiting.any()):
        z = Beta(half, half, validate_args=False).sample()
        proposed = 2 * b * z / (1 - (1 - b) * z)
        # 1 - t0 t = gap0 + gap - gap0 gap, and 1 - t0^2 = gap0 (2 - gap0)
        log_ratio = torch.log((gap0 + proposed - gap0 * proposed) / (gap0 * (2 - gap0)))
        accepted = k * (gap0 - proposed) + m * log_ratio >= torch.rand_like(k).log()
        gap = torch.where(waiting & accepted, proposed, gap)
        waiting = waiting & ~accepted
    return gap.to(kept.dtype)


@register_kl(VonMisesFisher, VonMisesFisher)
def _kl_von_mises_fisher(q: VonMisesFisher, p: VonMisesFisher) -> Tensor:
    """E_q of k_p (1 - mu_p.x) - k_q (1 - mu_q.x), and the normalisers; E_q x = A(k_q) mu_q."""
    gap = one_less_mean_cosine(q.concentration, q.n)
    between = half_square_distance(q.loc, p.loc)
    away = gap + (1 - gap) * between
    return p.concentration * away - q.concentration * gap + p._log_mass() - q._log_mass()


@register_kl(VonMisesFisher, SphereUniform)
def _kl_to_uniform(q: VonMisesFisher, p: SphereUniform) -> Tensor:
    return log_area(p.dim) - q.entropy()


@register_kl(SphereUniform, VonMisesFisher)
def _kl_from_uniform(q: SphereUniform, p: VonMisesFisher) -> Tensor:
    """E k (1 - mu.x) = k under the uniform law."""
    return p.concentration + p._log_mass() - log_area(q.dim)


__all__ = ["VonMisesFisher"]
