"""A mixture of products of Bernoullis, scored by one matrix product."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.nn.functional import softplus

from pyrogen.errors import ShapeError


class BernoulliMixture(TorchDistribution):
    """Bits that are independent within each of K components.

        p(x) = sum_k w_k prod_d Bernoulli(x_d; sigmoid(l_kd)),      w = softmax(weights)
        log p(x | k) = x . l_k - sum_d log(1 + exp(l_kd)), which is a matrix product for all rows and components

    Shape: batch (...), () unless expanded; event (D,).

    Args:
        weights: (K,), logits of w.
        logits: (K, D).

    Raises:
        ShapeError: they do not fit together.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "weights": constraints.real_vector,
        "logits": constraints.independent(constraints.real, 2),
    }
    support = constraints.independent(constraints.boolean, 1)  # pyright: ignore[reportAssignmentType]

    def __init__(self, weights: Tensor, logits: Tensor, *, validate_args: bool | None = None) -> None:
        if logits.dim() != 2 or weights.shape != logits.shape[:1]:
            raise ShapeError(
                got=f"weights of shape {tuple(weights.shape)} and logits of shape {tuple(logits.shape)}",
                need="(K,) and (K, D)",
                fix="one row of logits for each weight",
            )
        self.weights, self.logits = weights, logits
        super().__init__(torch.Size(), logits.shape[1:], validate_args=validate_args)

    def expand(self, batch_shape, _instance=None) -> BernoulliMixture:
        new: Any = self._get_checked_instance(BernoulliMixture, _instance)
        new.weights, new.logits = self.weights, self.logits
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self.joint(value).logsumexp(-1).expand(shape)

    def joint(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        """log p(k, x), or of the known entries of x alone: (..., D) to (..., K)."""
        weights = self.weights.log_softmax(-1)
        if known is None:
            return weights + x @ self.logits.T - softplus(self.logits).sum(-1)
        known = known.to(x.dtype)
        return weights + (x * known) @ self.logits.T - known @ softplus(self.logits).T

    @property
    def mean(self) -> Tensor:
        return (self.weights.softmax(-1) @ self.logits.sigmoid()).expand(self._extended_shape())

    @torch.no_grad()
    def sample(self, sample_shape=()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        k = torch.distributions.Categorical(logits=self.weights, validate_args=False).sample(shape[:-1])
        return torch.bernoulli(self.logits.sigmoid()[k])

    @property
    def has_enumerate_support(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.event_shape[0] <= 20

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All 2^D rows for D up to 20, (2^D,) + batch_shape + (D,), or (2^D, 1, ..., 1, D) when expand is False."""
        d = self.event_shape[0]
        if not self.has_enumerate_support:
            raise ShapeError(got=f"{d} bits to list", need="20 at most", fix="sampling")
        number = torch.arange(2**d, device=self.logits.device)[:, None]
        states = (number >> torch.arange(d - 1, -1, -1, device=self.logits.device)) & 1
        states = states.to(self.logits.dtype).reshape(-1, *[1] * len(self.batch_shape), d)
        return states.expand(-1, *self.batch_shape, -1) if expand else states
