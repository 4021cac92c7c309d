"""Coupling layers: one part of a row decides how the other is mapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.distributions.transforms.families import Family, Shift, ShiftScale, Spline
from pyrogen.errors import SettingsError
from pyrogen.nn.conditioner import Conditioner


class Coupling(Layer):
    """y_a = x_a,   y_b = f(x_b; g(x_a, c)),   log |det| = sum_i log f'(x_b,i)

    f is a family of increasing maps of single entries and g a network that starts at zero, so that the layer starts
    as the identity. a is the first half of the row; with `swap` it is the second one. The inverse costs as much as the
    forward map.

    Args:
        width: D, at least 2.
        family: f.
        hidden: widths of g's hidden layers.
        context: C.
        swap: whether the second half decides and the first is mapped.
        activation: makes the modules between g's layers.

    Raises:
        SettingsError: a width below 2, which has no two parts.
    """

    def __init__(
        self,
        width: int,
        family: Family,
        hidden: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        swap: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(width, context)
        if width < 2:
            raise SettingsError(
                got=f"a coupling of width {width}", need="two entries or more", fix="an autoregressive layer"
            )
        self.sizes = [width // 2, width - width // 2]
        self.swap, self.family = swap, family
        kept, mapped = reversed(self.sizes) if swap else self.sizes
        self.network = Conditioner(kept, hidden, mapped * family.size, context=context, activation=activation)

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        return self._mapped(x, context, self.family.forward)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        return self._mapped(y, context, self.family.inverse)

    def _mapped(
        self, x: Tensor, context: Tensor | None, f: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        first, second = x.split(self.sizes, -1)
        a, b = (second, first) if self.swap else (first, second)
        b, log_slope = f(b, self.network(a, context))
        if a.shape[:-1] != b.shape[:-1]:  # a context with more leading dimensions than x
            a = a.expand(*b.shape[:-1], -1)
        return torch.cat([b, a] if self.swap else [a, b], -1), log_slope.sum(-1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, family={type(self.family).__name__}, swap={self.swap}"


class AdditiveCoupling(Coupling):
    """y_b = x_b + m(x_a): volumes stay as they are.

    Source: Dinh et al. 2014 (NICE), arXiv:1410.8516, section 3.2.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        swap: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(width, Shift(), hidden, context=context, swap=swap, activation=activation)


class AffineCoupling(Coupling):
    """y_b = x_b e^s(x_a) + m(x_a), with s soft-clipped to `clip`.

    Source: Dinh et al. 2016 (RealNVP), arXiv:1605.08803, equations 4 and 5.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (64, 64),
        *,
        clip: float = 3.0,
        context: int = 0,
        swap: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(width, ShiftScale(clip), hidden, context=context, swap=swap, activation=activation)


class SplineCoupling(Coupling):
    """y_b a rational-quadratic spline of x_b on [-bound, bound], the identity outside.

    Source: Durkan et al. 2019, arXiv:1906.04032, section 3.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (64, 64),
        *,
        bins: int = 8,
        bound: float = 5.0,
        context: int = 0,
        swap: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(width, Spline(bins, bound), hidden, context=context, swap=swap, activation=activation)
