"""Layers on the torus: couplings and autoregressive layers whose networks see directions, not angles."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyrogen.distributions.constraints import torus
from pyrogen.distributions.transforms.base import Layer
from pyrogen.distributions.transforms.circular import CircularSpline
from pyrogen.distributions.transforms.coupling import Coupling
from pyrogen.distributions.transforms.families import Family
from pyrogen.errors import SettingsError
from pyrogen.nn.conditioner import Conditioner


class OfDirections(nn.Module):
    """g(cos x, sin x, c): a network of angles that is continuous where they are cut."""

    def __init__(self, network: Conditioner) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.network(torch.cat([x.cos(), x.sin()], -1), context)


class TorusCoupling(Coupling):
    """y_a = x_a,   y_b = f(x_b; g(cos x_a, sin x_a, c)),   log |det| = sum_i log f'(x_b,i),   all angles

    Angles outside [-pi, pi) are taken for the directions that they are; those that come out are inside.

    Shape: x, y are (..., D) radians.
    Source: Rezende et al. 2020, arXiv:2002.02428, section 2.2.

    Args:
        width: D, at least 2.
        family: maps of single angles, CircularSpline() unless given.
        hidden, context, swap, activation: as for `Coupling`.
    """

    domain = torus
    codomain = torus

    def __init__(
        self,
        width: int,
        family: Family | None = None,
        hidden: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        swap: bool = False,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        family = CircularSpline() if family is None else family
        super().__init__(width, family, hidden, context=context, swap=swap, activation=activation)
        kept, mapped = reversed(self.sizes) if swap else self.sizes
        outputs = mapped * family.size
        inner = Conditioner(2 * kept, hidden, outputs, context=context, activation=activation)
        self.network = OfDirections(inner)  # pyright: ignore[reportAttributeAccessIssue]


class TorusAutoregressive(Layer):
    """y_i = f(x_i; g_i(cos x_<i, sin x_<i, c)),   log |det| = sum_i log f'(x_i),   all angles

    Every angle but the first has a network of its own; the first has constants, or a network of the context. So a
    layer of width 1 is a flow on the circle. The inverse takes D steps, each through one of the networks. Angles
    outside [-pi, pi) are taken for the directions that they are.

    Shape: x, y are (..., D) radians.
    Source: Rezende et al. 2020, arXiv:2002.02428, section 2.2.

    Args:
        width: D.
        family: maps of single angles, CircularSpline() unless given.
        hidden: widths of the hidden layers of each network.
        context: C.
        activation: makes the modules between layers.

    Raises:
        SettingsError: a width below 1.
    """

    domain = torus
    codomain = torus

    def __init__(
        self,
        width: int,
        family: Family | None = None,
        hidden: Sequence[int] = (64, 64),
        *,
        context: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(width, context)
        if width < 1:
            raise SettingsError(got=f"a torus of width {width}", need="1 or more", fix="width=1 for the circle")
        self.family = CircularSpline() if family is None else family
        size = self.family.size
        self.first = nn.Parameter(torch.zeros(size))
        inputs = [2 * i for i in range(1, width)]
        self.of_context = Conditioner(context, hidden, size, activation=activation) if context else None
        self.networks = nn.ModuleList(
            OfDirections(Conditioner(n, hidden, size, context=context, activation=activation)) for n in inputs
        )

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(x, context)
        found = [self.family.forward(x[..., i : i + 1], self._raw(x, i, context)) for i in range(x.shape[-1])]
        return self._joined(found)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.check(y, context)
        found: list[tuple[Tensor, Tensor]] = []
        for i in range(y.shape[-1]):
            known = torch.cat([x for x, _ in found], -1) if found else y[..., :0]
            found.append(self.family.inverse(y[..., i : i + 1], self._raw(known, i, context)))
        return self._joined(found)

    def _raw(self, x: Tensor, i: int, context: Tensor | None) -> Tensor:
        """The parameters of entry i, from those before it."""
        if i:
            return self.networks[i - 1](x[..., :i], context)
        return self.first if self.of_context is None else self.first + self.of_context(context)

    def _joined(self, found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        shape = torch.broadcast_shapes(*(y.shape for y, _ in found))
        y = torch.cat([part.expand(shape) for part, _ in found], -1)
        return y, torch.cat([log_slope.expand(shape) for _, log_slope in found], -1).sum(-1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, family={type(self.family).__name__}"
