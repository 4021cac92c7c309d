"""Moves along great circles, down the gradient of a sum of radial bumps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus

from pyrogen.distributions.transforms.sphere import SphereLayer
from pyrogen.errors import NonFiniteError, SettingsError
from pyrogen.ops.spheres import exponential, one_less_cos, one_less_sinc, sinc, tangent

STEPS = 60
"""Of Newton's method at most; ten are usual."""


class ExponentialMap(SphereLayer):
    """y = exp_x(grad f(x)) of a sum of bumps, on the sphere of any dimension.

        f(x) = sum_k a_k / b_k exp(b_k (m_k.x - 1)),      a_k >= 0, sum_k a_k < 1, b_k > 0, |m_k| = 1

    which is one-to-one for such a, b. With v = grad f(x), r = |v| and H the Hessian of f on the sphere, the derivative
    in the direction of v is that of r, and across it that of a pencil of great circles (Jacobi fields):

        |det| = |det(C + S H + x x^T)|,   C = cos r P + (1 - cos r) u u^T,   S = (sin r / r) P + (1 - sin r / r) u u^T

    where u = v / r and P = I - x x^T. All of it is smooth at r = 0, where it is the identity. The inverse is Newton's
    method on the sphere, with the derivatives of the implicit function.

    Shape: x, y are (..., d + 1).
    Source: Sei 2013, doi:10.1016/j.jmva.2012.10.014; Rezende et al. 2020, arXiv:2002.02428, section 2.4 ("EMSRE").

    Args:
        width: n = d + 1.
        bumps: K.

    Raises:
        SettingsError: no bumps.
        NonFiniteError: from the inverse, when Newton's method does not end at a point that maps to y.
    """

    def __init__(self, width: int, bumps: int = 8) -> None:
        super().__init__(width)
        if bumps < 1:
            raise SettingsError(got=f"{bumps} bumps", need="1 or more", fix="bumps=8")
        self.centres = nn.Parameter(torch.randn(bumps, width))
        self.raw_sharpness = nn.Parameter(torch.ones(bumps))
        # the last one is the part of the sum that no bump has
        self.raw_heights = nn.Parameter(torch.zeros(bumps + 1))

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.direction(x, context)
        v, derivative = self._parts(x)
        return exponential(x, v), torch.linalg.slogdet(derivative)[1]

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y = self.direction(y, context)
        with torch.no_grad():
            near = self._newton(y)
        x = self._step(near, y)[0]
        return x, -torch.linalg.slogdet(self._parts(x)[1])[1]

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """v, (..., n), and C + S H + x x^T, (..., n, n)."""
        m, b = normalize(self.centres, dim=-1), softplus(self.raw_sharpness)
        e = self.raw_heights.softmax(0)[:-1] * torch.exp(b * (x @ m.mT - 1))
        ambient = e @ m
        v = tangent(x, ambient)
        outer_x, outer_v = (w.unsqueeze(-1) * w.unsqueeze(-2) for w in (x, v))
        flat = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device) - outer_x
        across = m - (x @ m.mT).unsqueeze(-1) * x.unsqueeze(-2)  # each centre's part tangent at x, (..., K, n)
        hessian = across.mT @ ((e * b).unsqueeze(-1) * across) - (ambient * x).sum(-1)[..., None, None] * flat
        square = v.square().sum(-1)[..., None, None]
        cos_part = (1 - square * one_less_cos(square)) * flat + one_less_cos(square) * outer_v
        sin_part = sinc(square) * flat + one_less_sinc(square) * outer_v
        return v, cos_part + sin_part @ hessian + outer_x

    def _newton(self, y: Tensor) -> Tensor:
        """The x with T(x) = y: Newton's steps, each halved until it comes nearer.

        Raises:
            NonFiniteError: a point was not reached to within rounding.
        """
        x, enough = y, 50 * torch.finfo(y.dtype).eps
        for _ in range(STEPS):
            new, residual = self._step(x, y)
            if bool((residual <= enough).all()):
                return x
            # where a whole step leads away, a part of it does not
            move = tangent(x, new - x)
            tried = torch.stack([normalize(x + part * move, dim=-1) for part in (1.0, 0.5, 0.2, 0.05)])
            best = self._residual(tried, y).argmin(0)[None, ..., None].expand(1, *x.shape)
            x = tried.gather(0, best)[0]
        residual = self._residual(x, y)
        if not bool((residual <= 1e3 * enough).all()):
            raise NonFiniteError(
                got=f"a distance of {residual.max():.3g} after {STEPS} steps of Newton's method",
                need="an x that maps to y to within rounding",
                fix="float64, or fewer and flatter bumps",
            )
        return x

    def _residual(self, x: Tensor, y: Tensor) -> Tensor:
        return (exponential(x, self._parts(x)[0]) - y).norm(dim=-1)

    def _step(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """One Newton step from x, and how far T(x) was from y.

        What is missing at T(x) is carried back to x along the great circle: e - (e.x) / (1 + x.T(x)) (x + T(x)).
        """
        v, derivative = self._parts(x)
        there = exponential(x, v)
        missing = tangent(there, y - there)
        along = (missing * x).sum(-1, keepdim=True) / (1 + (x * there).sum(-1, keepdim=True))
        back = tangent(x, missing - along * (x + there))
        move = torch.linalg.solve(derivative.detach(), back.unsqueeze(-1)).squeeze(-1)
        # no step is longer than half a radian
        move = move * (0.5 / move.detach().norm(dim=-1, keepdim=True).clamp(min=0.5))
        return exponential(x, tangent(x, move)), (there - y).norm(dim=-1).detach()
