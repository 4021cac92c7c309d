"""Kernels of several widths around many points of the sphere."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyrogen.distributions.constraints import sphere
from pyrogen.distributions.von_mises_fisher import VonMisesFisher
from pyrogen.errors import ShapeError
from pyrogen.ops.bessel import log_mean_exp_cosine
from pyrogen.ops.spheres import log_area


class SphereKernels(TorchDistribution):
    """A von Mises-Fisher law around each of M points, of S widths, with one weight for each width.

        p(x) = sum_s w_s 1/M sum_i vMF(x; c_i, k_s)

    A concentration of 0 is the uniform law. With `left_out` the rows that are scored are points themselves, and each is
    scored by the others: of its nearest points one, which is itself or an equal one, has no kernel.

    Shape: batch (...), () unless expanded; event (n,).
    Source: Hall, Watson and Cabrera 1987, doi:10.1093/biomet/74.4.751.

    Args:
        points: c, (M, n), unit vectors.
        concentrations: k, (S,).
        weights: (S,), logits of w.

    Raises:
        ShapeError: they do not fit together, or there is but one point to leave out.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "points": constraints.independent(sphere, 1),
        "concentrations": constraints.independent(constraints.nonnegative, 1),
        "weights": constraints.real_vector,
    }
    support = sphere  # pyright: ignore[reportAssignmentType]

    def __init__(
        self,
        points: Tensor,
        concentrations: Tensor,
        weights: Tensor,
        *,
        left_out: bool = False,
        validate_args: bool | None = None,
    ) -> None:
        if points.dim() != 2 or weights.dim() != 1 or weights.shape != concentrations.shape or len(points) <= left_out:
            raise ShapeError(
                got=f"points, concentrations and weights of shapes "
                f"{tuple(points.shape)}, {tuple(concentrations.shape)}, {tuple(weights.shape)}",
                need="(M, n), (S,) and (S,), and another point where one is left out",
                fix="one weight for each concentration",
            )
        self.points, self.concentrations, self.weights, self.left_out = points, concentrations, weights, left_out
        super().__init__(torch.Size(), points.shape[1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> SphereKernels:
        new: Any = self._get_checked_instance(SphereKernels, _instance)
        new.points, new.concentrations, new.weights = self.points, self.concentrations, self.weights
        new.left_out = self.left_out
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self.joint(value).logsumexp(-1).expand(shape)

    def joint(self, x: Tensor) -> Tensor:
        """log p(s, x), (..., n) to (..., S)."""
        # |x - c|^2 / 2, by differences: a product would lose the digits of what is near
        gap = torch.cdist(x.reshape(-1, x.shape[-1]), self.points, compute_mode="donot_use_mm_for_euclid_dist")
        gap = gap.reshape(*x.shape[:-1], -1).square() / 2
        if self.left_out:
            gap = gap.scatter(-1, gap.argmin(-1, keepdim=True), torch.inf)
        count = math.log(len(self.points) - self.left_out)
        around = [_log_sum(gap, k) for k in self.concentrations.unbind()]
        mass = log_mean_exp_cosine(self.concentrations, self.event_shape[0]) + log_area(self.event_shape[0] - 1)
        return torch.stack(around, -1) - mass - count + self.weights.log_softmax(-1)

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))[:-1]
        s = torch.distributions.Categorical(logits=self.weights, validate_args=False).sample(shape)
        i = torch.randint(len(self.points), shape, device=self.points.device)
        return VonMisesFisher(self.points[i], self.concentrations[s], validate_args=False).sample()


def _log_sum(gap: Tensor, k: Tensor) -> Tensor:
    """log sum_i exp(-k gap_i) over the points that are not left out."""
    # 0 times infinity would be NaN
    return torch.where(gap.isinf(), -torch.inf, -k * gap).logsumexp(-1)


__all__ = ["SphereKernels"]
