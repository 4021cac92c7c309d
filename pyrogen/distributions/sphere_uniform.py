"""The uniform distribution on a sphere."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.nn.functional import normalize

from pyrogen.distributions.constraints import sphere
from pyrogen.errors import SettingsError
from pyrogen.ops.spheres import log_area


class SphereUniform(TorchDistribution):
    """Every direction alike.

        p(x) = 1 / area(S^d),      area(S^2) = 4 pi

    Shape: events are unit vectors (d + 1,); batches by `expand`.

    Args:
        dim: d, 1 for the circle, 2 for the globe.
        like: a tensor whose dtype and device the draws have; by default torch's.

    Raises:
        SettingsError: d below 1.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = sphere  # pyright: ignore[reportAssignmentType]
    has_rsample = True

    def __init__(self, dim: int, *, like: Tensor | None = None, validate_args: bool | None = None) -> None:
        if dim < 1:
            raise SettingsError(got=f"a sphere of dimension {dim}", need="1 or more", fix="dim=2 for the globe")
        self.dim, self._like = dim, torch.empty(()) if like is None else like.detach().new_empty(())
        super().__init__(torch.Size(), torch.Size([dim + 1]), validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> SphereUniform:
        new: Any = self._get_checked_instance(SphereUniform, _instance)
        new.dim, new._like = self.dim, self._like
        super(SphereUniform, new).__init__(torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def mean(self) -> Tensor:
        """E x, which is the centre of the ball."""
        return self._like.new_zeros(self._extended_shape())

    def rsample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        return normalize(torch.randn(shape, dtype=self._like.dtype, device=self._like.device), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return value.new_full(torch.broadcast_shapes(value.shape[:-1], self.batch_shape), -log_area(self.dim))

    def entropy(self) -> Tensor:
        """log area(S^d), in nats."""
        return self._like.new_full(self.batch_shape, log_area(self.dim))
