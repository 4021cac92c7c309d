"""Transforms of Pyro and flows of zuko as layers."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import transforms as pyro_transforms
from torch import Tensor, nn
from torch.distributions import ComposeTransform, Transform

from pyrogen.distributions.transforms.base import Layer
from pyrogen.errors import InverseError, SettingsError, ShapeError


class FromPyro(Layer):
    """A transform of Pyro or torch as a layer, without what its caches do.

    Every call hands the transform a tensor that it has not seen and empties its caches after, so that no value is
    stale and the layer can be copied. A permutation becomes a buffer and is saved with the weights. A log-determinant
    that comes without the rows' dimensions gets them.

    Args:
        transform: of single entries or of rows; `ComposeTransform` too.
        width: D.

    Raises:
        SettingsError: no transform; or `BatchNorm`, whose log-determinant in training is not that of its map.
        ShapeError: a transform of pictures or matrices.
    """

    by_rows = False  # it may be conditioned, which does not show

    def __init__(self, transform: Any, width: int) -> None:
        super().__init__(width)
        wrong = any(isinstance(part, pyro_transforms.BatchNorm) for part in _parts(transform))
        if wrong or not isinstance(transform, Transform):
            raise SettingsError(
                got=f"a {type(transform).__name__}", need="a transform whose log-determinant is its own", fix="ActNorm"
            )
        if max(transform.domain.event_dim, transform.codomain.event_dim) > 1:
            raise ShapeError(
                got=f"{type(transform).__name__} of {transform.domain.event_dim} event dimensions",
                need="one at most",
                fix="a transform of rows",
            )
        self.transform = transform
        self.permuting = [t for t in _parts(transform) if isinstance(t, pyro_transforms.Permute)]
        for i, part in enumerate(self.permuting):
            self.register_buffer(f"permutation{i}", part.permutation)
        self.modules_of_parts = nn.ModuleList(t for t in _parts(transform) if isinstance(t, nn.Module))
        _forget(transform)

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        return self._apply_to(x, inverse=False)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Raises InverseError where the transform has none."""
        self.check(y, context)
        try:
            return self._apply_to(y, inverse=True)
        except (KeyError, NotImplementedError) as error:
            raise InverseError(
                got=f"the inverse of Pyro's {type(self.transform).__name__}, which has none",
                need="a transform that can be inverted",
                fix="the layer of that name in pyrogen.distributions.transforms, or only the forward direction",
            ) from error

    def _apply_to(self, given: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        for i, part in enumerate(self.permuting):
            part.permutation = self.get_buffer(f"permutation{i}")
            vars(part).pop("inv_permutation", None)  # Pyro computes it once
        given = given.view_as(given)  # the same values, a tensor that no cache knows
        try:
            out: Any = self.transform.inv(given) if inverse else self.transform(given)
            x, y = (out, given) if inverse else (given, out)
            log_det = self.transform.log_abs_det_jacobian(x, y)
        finally:
            _forget(self.transform)
        if self.transform.domain.event_dim == 0:
            log_det = log_det.expand(out.shape).sum(-1)
        log_det = log_det.expand(out.shape[:-1])
        return out, -log_det if inverse else log_det


class FromZuko(Layer):
    """A flow of zuko, or one of its lazy transforms, as a layer from rows to noise; with a context where it takes one.

        FlowModel(FromZuko(zuko.flows.NSF(8), width=8))

    Needs the extra `flows`. A flow's base is a standard normal; one with another base is refused.

    Args:
        flow: what zuko calls a Flow or a LazyTransform.
        width: D.
        context: C.

    Raises:
        SettingsError: neither of the two, or a flow with another base.
    """

    def __init__(self, flow: nn.Module, width: int, context: int = 0) -> None:
        super().__init__(width, context)
        lazy = getattr(flow, "transform", flow)
        if not isinstance(lazy, nn.Module):
            raise SettingsError(got=f"a {type(flow).__name__}", need="a flow of zuko", fix="zuko.flows.NSF(8)")
        base = getattr(flow, "base", None)
        if base is not None and not _is_normal(base, width):
            raise SettingsError(
                got=f"a flow on {type(base).__name__}", need="a standard normal base", fix="its transform, and a base"
            )
        self.lazy = lazy

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        return self.lazy(context).call_and_ladj(x)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        return self.lazy(context).inv.call_and_ladj(y)


def _parts(transform: Any) -> list[Any]:
    """The transform and those that it is made of, through compositions, inverses and modules."""
    found = [transform]
    if isinstance(transform, nn.Module):
        found += [part for part in transform.modules() if isinstance(part, Transform) and part is not transform]
    if isinstance(transform, ComposeTransform):
        found += [part for t in transform.parts for part in _parts(t)]
    inner = getattr(transform, "_inv", None) if type(transform).__name__ == "_InverseTransform" else None
    return found + (_parts(inner) if inner is not None else [])


def _forget(transform: Any) -> None:
    for part in _parts(transform):
        for name in vars(part):
            if name.startswith("_cache") and name != "_cache_size":
                setattr(part, name, (None, None) if name == "_cached_x_y" else None)
        if type(part).__name__ != "_InverseTransform":
            part._inv = None  # its inverse, kept by a weak reference, which cannot be copied


def _is_normal(base: Any, width: int) -> bool:
    at = torch.linspace(-1.0, 1.0, width)
    try:
        with torch.no_grad():
            found = base(None).log_prob(at)
    except (TypeError, ValueError, RuntimeError):  # a base that needs a context is none
        return False
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(at).sum()
    return found.shape == expected.shape and bool(torch.isclose(found, expected))


__all__ = ["FromPyro", "FromZuko"]
