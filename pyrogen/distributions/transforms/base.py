"""The layer of a flow: a map, its inverse, and both log-determinants, in Pyro's protocol and without its caches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from pyro.distributions import TransformModule, constraints
from torch import Tensor

from pyrogen.errors import DtypeError, ShapeError


class Layer(TransformModule, ABC):
    """A one-to-one map of R^D, its parameters perhaps given by a context c.

        y = T(x; c),      log |det dT/dx|  comes with y in one call
        x = T^-1(y; c),   log |det dT^-1/dy|  comes with x in one call

    It is a `torch.distributions.Transform` and a `torch.nn.Module`: it works in `TransformedDistribution`, in Pyro's
    autoguides and in `NeuTraReparam`. Nothing is cached between calls, so no value is ever stale and a layer can be
    copied, pickled and moved at any time. What is no parameter, such as a permutation, is a buffer.

    A layer on another space than R^D sets `domain` and `codomain`, and its log-determinants are with respect to the
    volumes of those. `event_dim` of these is how many dimensions on the right the log-determinant is without.

    Shape: x, y are (..., D); c is (..., C), leading dimensions broadcast with those of x; log-determinants are (...).

    Args:
        width: D; None where the layer takes every width.
        context: C, 0 for a layer without.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True
    by_rows = True
    """Whether some rows may go through without the others: not where the layer holds a tensor with an entry per row."""

    def __init__(self, width: int | None, context: int = 0) -> None:
        super().__init__(cache_size=0)
        self.width, self.context = width, context

    @abstractmethod
    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y and log |det dy/dx|."""

    @abstractmethod
    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x and log |det dx/dy|, which is minus the log-determinant of the forward map at x."""

    def __call__(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.forward_and_log_det(x, context)[0]

    forward = __call__  # what torch.compile calls

    def inverse(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        return self.inverse_and_log_det(y, context)[0]

    def condition(self, context: Tensor) -> Layer:
        """The layer with its context bound, to use where nobody hands one over."""
        return Conditioned(self, context)

    def check(self, x: Tensor, context: Tensor | None) -> None:
        """Refuse, by looking at shapes and dtypes alone, what the layer cannot map.

        Raises:
            DtypeError: x is not float32 or float64, or the context is of another dtype.
            ShapeError: x is not (..., D), or the context not (..., C); or there is one where none is due, or none.
        """
        name = type(self).__name__
        if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
            got = f"x of {x.dtype if isinstance(x, Tensor) else type(x).__name__} for {name}"
            raise DtypeError(got=got, need="float32 or float64, which a log-determinant needs", fix="x.float()")
        if self.width is not None and (x.dim() < 1 or x.shape[-1] != self.width):
            raise ShapeError(
                got=f"x of shape {tuple(x.shape)} for {name}", need=f"(..., {self.width})", fix="another width"
            )
        if self.context or context is not None:
            self._check_context(x, context)

    def _check_context(self, x: Tensor, context: Tensor | None) -> None:
        name = type(self).__name__
        if not self.context or context is None:
            got = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
            need = f"one of shape (..., {self.context})" if self.context else "none"
            raise ShapeError(got=f"{got} for {name}", need=need, fix="the argument `context` of both, layer and call")
        if context.dim() < 1 or context.shape[-1] != self.context:
            raise ShapeError(
                got=f"a context of shape {tuple(context.shape)} for {name}",
                need=f"(..., {self.context})",
                fix=f"{name}(..., context={context.shape[-1] if context.dim() else 1})",
            )
        if context.dtype != x.dtype:
            raise DtypeError(
                got=f"a context of {context.dtype} and x of {x.dtype}", need="one dtype", fix=f"context.to({x.dtype})"
            )

    # Pyro's protocol

    def _call(self, x: Tensor) -> Tensor:
        return self.forward_and_log_det(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.inverse_and_log_det(y)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward_and_log_det(x)[1]

    @property
    def inv(self) -> Layer:
        """The inverse as a layer, with the same parameters; torch's own would hold none."""
        return Inverse(self)

    def with_cache(self, cache_size: int = 1) -> Layer:
        return self  # there is nothing that a cache would save

    def clear_cache(self) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = TransformModule.__hash__

    def __repr__(self) -> str:
        return torch.nn.Module.__repr__(self)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v}" for k, v in (("width", self.width), ("context", self.context)) if v)


class Inverse(Layer):
    """A layer the other way round: its forward map is the inverse of the one given."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer.width, layer.context)
        self.layer = layer
        self.domain, self.codomain = layer.codomain, layer.domain

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.layer.inverse_and_log_det(x, context)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.layer.forward_and_log_det(y, context)

    @property
    def inv(self) -> Layer:
        return self.layer

    def forward_shape(self, shape: Any) -> Any:
        return self.layer.inverse_shape(shape)

    def inverse_shape(self, shape: Any) -> Any:
        return self.layer.forward_shape(shape)


class Conditioned(Layer):
    """A layer with its context bound. The context is no parameter and no buffer: it belongs to the call.

    Raises:
        ShapeError: the context is not (..., C).
    """

    def __init__(self, layer: Layer, context: Tensor) -> None:
        super().__init__(layer.width)
        if not layer.context or context.dim() < 1 or context.shape[-1] != layer.context:
            raise ShapeError(
                got=f"a context of shape {tuple(context.shape)} for {type(layer).__name__}",
                need=f"(..., {layer.context})" if layer.context else "none",
                fix=f"{type(layer).__name__}(..., context={context.shape[-1] if context.dim() else 1})",
            )
        self.layer, self.given = layer, context
        self.by_rows = context.dim() == 1
        self.domain, self.codomain = layer.domain, layer.codomain

    def __getstate__(self) -> dict[str, Any]:
        # a context that was computed has a graph, which can be neither copied nor pickled
        return super().__getstate__() | {"given": self.given.detach()}

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        return self.layer.forward_and_log_det(x, self.given)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        return self.layer.inverse_and_log_det(y, self.given)


__all__ = ["Conditioned", "Inverse", "Layer"]
