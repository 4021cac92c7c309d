"""The distribution of what comes out of a flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Size, Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import ShapeError

PART = 2**15
"""Entries of rows that go through a flow at once, where no gradient is wanted: what it computes stays in the cache."""
FEWEST = 128
"""Rows at once, however wide they are: fewer make slow products."""


class FlowDistribution(dist.TorchDistribution):
    """x = T(z; c) with z from a base.

        log p(x) = log p_base(T^-1(x; c)) + log |det dT^-1/dx|

    `rsample_and_log_prob` has both from one forward pass. A program draws first and scores that very draw after, so
    the distribution keeps the noise of its last draw: the density of that same tensor, not written into since, by
    parameters that have not moved, needs no inverse. All else goes through the inverse, so nothing is ever stale. The
    density so found has the right gradient for parameters and noise; as a function of the draw alone, apart from how
    it was made, it is that of `x.detach().requires_grad_()`.

    Shape: batch is that of the base broadcast with the context's, event that of the base.

    Args:
        base: of event dimension 1 or what the layer maps.
        layer: T.
        context: c, (..., C).

    Raises:
        ShapeError: the base's events are not what the layer maps.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012, as torch declares it

    def __init__(
        self,
        base: dist.TorchDistribution,
        layer: Layer,
        context: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        event = layer.domain.event_dim
        if base.event_dim != event or (layer.width is not None and event == 1 and base.event_shape[0] != layer.width):
            raise ShapeError(
                got=f"a base of event shape {tuple(base.event_shape)} for {type(layer).__name__}",
                need=f"{event} event dimensions" + (f" of width {layer.width}" if layer.width else ""),
                fix=".to_event(1) on the base",
            )
        batch = base.batch_shape
        if context is not None:
            batch = torch.broadcast_shapes(batch, context.shape[:-1])
        self.base = base if batch == base.batch_shape else base.expand(batch)
        self.layer, self.context = layer, context
        self._drawn: tuple[Any, ...] | None = None
        super().__init__(batch, base.event_shape, validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        return self.layer.codomain

    def rsample_and_log_prob(self, sample_shape: Any = ()) -> tuple[Tensor, Tensor]:
        """Draws and their log-densities, in one pass."""
        z = self.base.rsample(Size(sample_shape))
        x, log_det = self._in_parts(self.layer.forward_and_log_det, z)
        return x, self.base.log_prob(z) - log_det

    def rsample(self, sample_shape: Any = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        z = self.base.rsample(Size(sample_shape))
        x, log_det = self._in_parts(self.layer.forward_and_log_det, z)
        self._drawn = (x, z, log_det, torch.is_grad_enabled(), self._versions(x))
        return x

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self.has_rsample:
            return self.rsample(sample_shape)
        z = self.base.sample(Size(sample_shape))
        return self._in_parts(self.layer.forward_and_log_det, z)[0]

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        if self._drawn is not None:
            x, z, log_det, with_gradient, versions = self._drawn
            same = x is value and versions == self._versions(x)
            if same and (with_gradient or not torch.is_grad_enabled()):
                return self.base.log_prob(z) - log_det
        z, log_det = self._in_parts(self.layer.inverse_and_log_det, value)
        return self.base.log_prob(z) + log_det

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:  # pyright: ignore[reportIncompatibleMethodOverride]
        return FlowDistribution(self.base.expand(Size(batch_shape)), self.layer, self.context, validate_args=False)

    def _in_parts(self, f: Callable[..., tuple[Tensor, Tensor]], x: Tensor) -> tuple[Tensor, Tensor]:
        """f of rows, part by part where that is faster: on a CPU, and without gradients, which keep all."""
        context, batch_dim = self.context, x.dim() - self.event_dim
        whole = torch.is_grad_enabled() or x.device.type != "cpu" or batch_dim < 1 or x.numel() == 0
        if whole or (context is not None and context.dim() - 1 > batch_dim):  # which adds dimensions to the result
            return f(x, context)
        size = max(1, PART // x[0].numel(), FEWEST // x.shape[1:batch_dim].numel())
        if len(x) <= size or not all(getattr(module, "by_rows", True) for module in self.layer.modules()):
            return f(x, context)
        pieces = x.split(size)
        own = context is not None and context.dim() - 1 == batch_dim and len(context) > 1
        contexts = context.split(size) if own else [context] * len(pieces)  # pyright: ignore[reportOptionalMemberAccess]
        done = [f(piece, given) for piece, given in zip(pieces, contexts, strict=True)]
        return torch.cat([y for y, _ in done]), torch.cat([log_det for _, log_det in done])

    def _versions(self, x: Tensor) -> tuple[Any, ...]:
        """Moves when a tensor that the density depends on is written into, or must not be differentiated any more."""
        tensors = [x, *self.layer.parameters(), *self.layer.buffers()]
        if self.context is not None:
            tensors.append(self.context)
        return tuple((0 if t.is_inference() else t._version, t is x or t.requires_grad) for t in tensors)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_drawn": None}


class NormalizingFlow(nn.Module):
    """A flow with its base, as a module: called with a context it gives the distribution.

        z ~ Normal(0, I),   x = T(z; c)

    The base's parameters are buffers, so that they move with the module.

    Args:
        layer: T, of a known width.

    Raises:
        ShapeError: the layer takes every width.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        if layer.width is None:
            raise ShapeError(got="a layer that takes every width", need="one", fix=f"{type(layer).__name__}(width)")
        self.layer = layer
        self.register_buffer("loc", torch.zeros(layer.width))
        self.register_buffer("scale", torch.ones(layer.width))

    def forward(self, context: Tensor | None = None) -> FlowDistribution:
        # known to be valid, and checking would wait for the device
        base = dist.Normal(self.loc, self.scale, validate_args=False).to_event(1)
        return FlowDistribution(base, self.layer, context)


__all__ = ["FlowDistribution", "NormalizingFlow"]
