"""Where a guide over unconstrained latents starts: at the mode, with the width that the curvature there gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import biject_to

Potential = Callable[[Tensor], Tensor]
"""-log p(x, z) as a function of the unconstrained z, (L,) to ()."""

MOST_CURVATURE, LEAST_CURVATURE = 1e10, 1e-2


class Start(NamedTuple):
    loc: Tensor  # (L,)
    scale: Tensor  # (L, L), lower triangular, or (L,)
    how: str  # "laplace", or why not


def or_zero(init: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Where a site begins: where `init` says, or what zero is mapped to if its prior is improper and has no draws.

    Pyro's own rules all fall back on a draw.
    """

    def begin(site: Any) -> Any:
        try:
            return init(site)
        except NotImplementedError:
            to_support = biject_to(site["fn"].support)
            return to_support(torch.zeros(to_support.inverse_shape(site["fn"].shape())))

    return begin


def around(loc: Tensor, scale: float, how: str) -> Start:
    return Start(loc.detach(), torch.full_like(loc, scale), how)


def laplace(potential: Potential, at: Tensor, fallback: float, steps: int = 100, full: int = 300) -> Start:
    """The Gaussian that has the mode and the curvature of exp(-potential).

        loc = argmin U,      scale scale^T = (d^2 U / dz^2)^-1 at loc

    Where there is no such Gaussian, because U has no minimum (the mode of a hierarchical model can lie at zero
    variance), because it is not finite, or because the curvature is not positive, the start is where the search began,
    `at`, with the `fallback` as scale: training moves a guide from there as any other.

    Args:
        at: where to begin, (L,).
        steps: of L-BFGS.
        full: the largest L for which the curvature, (L, L), is computed.
    """
    if at.numel() > full:
        return around(at, fallback, f"more than {full} latents")
    loc = _mode(potential, at, steps)
    if loc is None:
        return around(at, fallback, "the density has no mode that was found")
    curvature = torch.autograd.functional.hessian(potential, loc)
    if not isinstance(curvature, Tensor) or not bool(curvature.isfinite().all()):
        return around(at, fallback, "the curvature at the mode is not finite")
    values, vectors = torch.linalg.eigh(0.5 * (curvature + curvature.mT).double())
    if float(values.min()) < LEAST_CURVATURE or float(values.max()) > MOST_CURVATURE:
        return around(at, fallback, "the curvature at the mode is not positive, or nearly so")
    covariance = (vectors / values) @ vectors.mT
    return Start(loc.detach(), torch.linalg.cholesky(covariance).to(loc.dtype), "laplace")


def _mode(potential: Potential, at: Tensor, steps: int) -> Tensor | None:
    """The minimum by L-BFGS; None if the search leaves the finite, or ends on a slope."""
    z = at.detach().clone().requires_grad_()
    search = torch.optim.LBFGS([z], max_iter=steps, max_eval=2 * steps, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        search.zero_grad()
        u = potential(z)
        u.backward()
        return u

    try:
        search.step(closure)  # pyright: ignore[reportArgumentType]
    except (RuntimeError, ValueError):  # a density that torch cannot evaluate where the search went
        return None
    z = z.detach().requires_grad_()
    slope = torch.autograd.grad(potential(z), z)[0]
    settled = bool(z.isfinite().all()) and bool(slope.isfinite().all()) and float(slope.abs().max()) < 1.0
    return z.detach() if settled else None
