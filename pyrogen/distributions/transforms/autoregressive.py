"""Autoregressive layers: each entry is mapped in a way that those before it decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyrogen.distributions.transforms.base import Layer
from pyrogen.distributions.transforms.families import Family, ShiftScale, Spline
from pyrogen.nn.masked import MaskedMLP


class Autoregressive(Layer):
    """y_i = f(x_i; g_i(x_<i, c)),   log |det| = sum_i log f'(x_i)

    f is a family of increasing maps of single entries, g a masked network that starts at zero, so that the layer
    starts as the identity. The forward map is one pass of g, the inverse D passes: the k-th entry of the order is
    found in the k-th, in which g gives its parameters alone, and what is not found yet is zero.

    Args:
        width: D.
        family: f.
        hidden: widths of g's hidden layers.
        context: C.
        order: the entries, first to last; natural unless given.
        activation: makes the modules between g's layers.
    """

    settled: Tensor
    places: Tensor

    def __init__(
        self,
        width: int,
        family: Family,
        hidden: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        order: Sequence[int] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(width, context)
        self.family = family
        self.network = MaskedMLP(
            width, hidden, family.owners(width), order=order, context=context, activation=activation
        )
        settled = torch.zeros(width, width, dtype=torch.bool)  # (passes done, entries)
        for k, entry in enumerate(range(width) if order is None else order):
            settled[k:, entry] = True
        self.register_buffer("settled", settled)
        self.register_buffer("places", torch.zeros(0, dtype=torch.long), persistent=False)  # (D, size)
        self._arrange()

    def _arrange(self) -> None:
        """The order, and where the parameters of its entries are, from what each pass settles."""
        self.order: list[int] = self.settled.sum(0).argsort(descending=True).tolist()
        owners = self.family.owners(len(self.settled)).to(self.settled.device)
        self.places = torch.stack([(owners == entry).nonzero().squeeze(-1) for entry in self.order])

    def _load_from_state_dict(self, *args: Any, **settings: Any) -> None:
        super()._load_from_state_dict(*args, **settings)
        self._arrange()  # the state may be of a layer with another order

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        y, log_slope = self.family.forward(x, self.network(x, context))
        return y, log_slope.sum(-1)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        x, log_slopes, before = torch.zeros_like(y), [], torch.zeros_like(self.settled[0])
        for entry, settled, places in zip(self.order, self.settled, self.places, strict=True):
            raw = self.network.some(places, x, context)
            found, log_slope = self.family.inverse(y[..., entry : entry + 1], raw)
            x, before = torch.where(settled ^ before, found, x), settled
            log_slopes.append(log_slope)
        return x, torch.cat(log_slopes, -1).sum(-1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, family={type(self.family).__name__}"


class IAF(Autoregressive):
    """y_i = x_i e^s(x_<i) + m(x_<i): draws in one pass, the density of a given point in D passes.

    Source: Kingma et al. 2016, arXiv:1606.04934, equation 10, with the scale soft-clipped to `clip`.
    """

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (64, 64),
        *,
        clip: float = 3.0,
        context: int = 0,
        order: Sequence[int] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(width, ShiftScale(clip), hidden, context=context, order=order, activation=activation)


class MAF(IAF):
    """y_i = (x_i - m(y_<i)) e^-s(y_<i), the inverse of an IAF: densities in one pass, draws in D passes.

    Source: Papamakarios et al. 2017, arXiv:1705.07057, equations 3 and 4.
    """

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().inverse_and_log_det(x, context)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().forward_and_log_det(y, context)


class SplineAutoregressive(Autoregressive):
    """y_i a rational-quadratic spline of x_i, its knots decided by x_<i; the identity outside [-bound, bound].

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
        order: Sequence[int] | None = None,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(width, Spline(bins, bound), hidden, context=context, order=order, activation=activation)
