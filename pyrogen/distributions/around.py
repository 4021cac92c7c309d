"""What the distributions around a mean direction share: x = t mu + sqrt(1 - t^2) v, v uniform and orthogonal to mu."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import normalize

from pyrogen.distributions.constraints import sphere
from pyrogen.errors import ShapeError
from pyrogen.ops.spheres import tangent


class AroundDirection(TorchDistribution):
    """A distribution of unit vectors that is symmetric around mu, decreasing with the angle to it.

    Shape: loc is (..., n) with n of 2 or more, concentration is (...); they broadcast to the batch.

    Args:
        loc: mu, unit vectors.
        concentration: k, at least 0; 0 is the uniform distribution.

    Raises:
        ShapeError: loc has no last dimension of 2 or more entries.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": sphere, "concentration": constraints.nonnegative}
    support = sphere  # pyright: ignore[reportAssignmentType]

    def __init__(self, loc: Tensor, concentration: Tensor | float, *, validate_args: bool | None = None) -> None:
        k = torch.as_tensor(concentration, dtype=loc.dtype, device=loc.device)
        if loc.dim() < 1 or loc.shape[-1] < 2:
            raise ShapeError(got=f"loc of shape {tuple(loc.shape)}", need="(..., n) with n of 2 or more", fix="loc")
        batch = torch.broadcast_shapes(loc.shape[:-1], k.shape)
        self.loc, self.concentration = loc.expand(*batch, -1), k.expand(batch)
        super().__init__(batch, loc.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> Any:
        kind = type(self)
        new: Any = self._get_checked_instance(kind, _instance)
        batch_shape = torch.Size(batch_shape)
        new.loc, new.concentration = self.loc.expand(*batch_shape, -1), self.concentration.expand(batch_shape)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def n(self) -> int:
        """Entries of a vector, one more than the dimension of the sphere."""
        return self.event_shape[0]

    @property
    def mode(self) -> Tensor:
        return self.loc

    def _around(self, gap: Tensor) -> Tensor:
        """x at 1 - t = gap, in a uniform direction; near mu it keeps its digits, and it carries gradients.

        v is a standard normal without its part along mu: no frame of reference that would turn with mu.
        """
        mu = self.loc.expand(*gap.shape, -1)
        noise = torch.randn_like(mu)
        v = normalize(tangent(mu, noise), dim=-1)
        v = normalize(tangent(mu, v), dim=-1)  # again, for noise that was almost along mu
        gap = gap.unsqueeze(-1)
        sine = (gap * (2 - gap)).clamp(min=torch.finfo(gap.dtype).tiny).sqrt()
        return normalize((1 - gap) * mu + sine * v, dim=-1)


def half_square_distance(x: Tensor, mu: Tensor) -> Tensor:
    """1 - x.mu of unit vectors as |x - mu|^2 / 2, which keeps its digits where x is near mu."""
    return (x - mu).square().sum(-1) / 2
