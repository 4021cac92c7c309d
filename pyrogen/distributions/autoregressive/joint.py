"""The joint distribution of all variables of an autoregressive network, as one Pyro distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from pyrogen.distributions.autoregressive.ancestral import ancestral
from pyrogen.distributions.autoregressive.conditionals import Conditional
from pyrogen.errors import SettingsError, ShapeError, SupportError
from pyrogen.nn.autoregressive import Network

if TYPE_CHECKING:
    from pyrogen.distributions.autoregressive.given import Given

MOST_STATES = 2**20
"""Of a joint that is listed."""


class Autoregressive(TorchDistribution):
    """A joint of D variables, the product of each one's law given those before it.

        p(x | c) = prod_k p(x_o(k) | x_o(1), ..., x_o(k-1), c)          under one order o
        p(x | c) = 1/M sum_m prod_k p_m(x_o_m(k) | ..., c)              under all M orders of the network

    log_prob is one pass of the network for each order, with gradients; a draw costs about one pass too,
    because what a variable settles is computed once (`Network.stepper`). Averaging densities keeps the sum at
    one; averaging logits over orders would not.

    Shape: event (D,); batch (...), () without a context; context is (..., C).

    Args:
        network: gives the parameters of all conditionals.
        conditional: makes laws of them.
        context: c, where the network takes one.
        which: the order, a number or a tensor (); None for the even mixture of all.

    Raises:
        ShapeError: a context of another width, or none where one is needed.
        SettingsError: an order that the network does not have.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        network: Network,
        conditional: Conditional,
        context: Tensor | None = None,
        which: int | Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        _check_fit(network, conditional)
        _check_context(network, context)
        if which is None and network.n_orders == 1:
            which = 0
        if isinstance(which, int):
            network.checked(which)
        self.network, self.conditional, self.context, self.which = network, conditional, context, which
        batch_shape = torch.Size() if context is None else context.shape[:-1]
        super().__init__(batch_shape, torch.Size([network.width]), validate_args=validate_args)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        return constraints.independent(self.conditional.constraint, 1)

    def expand(self, batch_shape, _instance=None) -> Autoregressive:
        new: Any = self._get_checked_instance(type(self), _instance)
        batch_shape = torch.Size(batch_shape)
        new.network, new.conditional, new.which = self.network, self.conditional, self.which
        new.context = None if self.context is None else self.context.expand(*batch_shape, self.context.shape[-1])
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def under(self, which: int | Tensor) -> Autoregressive:
        """The same under one of the network's orders."""
        new = Autoregressive(self.network, self.conditional, self.context, which, validate_args=self._validate_args)
        return new.expand(self.batch_shape)

    @property
    def orders(self) -> range | tuple[int | Tensor, ...]:
        """The orders whose mixture this is."""
        return range(self.network.n_orders) if self.which is None else (self.which,)

    @property
    def _passes(self) -> Sequence[int | Tensor]:
        return self.orders

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            check_values(value, self)
        shape = _together(value.shape[:-1], self.batch_shape)
        context = self.context
        if context is not None:
            value = value.expand(*shape, self.network.width)
            context = context.expand(*shape, context.shape[-1]).reshape(-1, context.shape[-1])
        # without a context all batch entries are alike, and each value is scored once
        rows = value.reshape(-1, self.network.width)
        encoded = self.conditional.encode(rows)
        parts = [self._log_prob(rows, encoded, context, which) for which in self._passes]
        out = parts[0] if len(parts) == 1 else torch.stack(parts).logsumexp(0) - math.log(len(parts))
        return out.reshape(value.shape[:-1]).expand(shape)

    def _log_prob(self, rows: Tensor, encoded: Tensor, context: Tensor | None, which: int | Tensor) -> Tensor:
        # what autocast computed in bfloat16 is not fit for a sum of log-probabilities
        parameters = self.network(encoded, context, which).to(rows.dtype)
        return self.conditional.log_prob(parameters, rows).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape=(), *, uniforms: Tensor | None = None, naive: bool = False) -> Tensor:
        """Exact draws, (*sample_shape, *batch_shape, D).

        Args:
            uniforms: in [0, 1), of the shape of the result: variable d is the inverse distribution function at
                uniforms[..., d]. A mixture of orders then picks an order for each draw with torch's generator.
            naive: a whole pass of the network for each variable, to compare with.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        like = next(self.network.parameters())
        if uniforms is None:
            uniforms = torch.rand(shape, dtype=torch.float64, device=like.device)
        elif uniforms.shape != shape:
            raise ShapeError(got=f"uniforms of shape {tuple(uniforms.shape)}", need=f"{tuple(shape)}", fix="one each")
        u = uniforms.reshape(-1, self.network.width)
        context = self.context
        if context is not None:
            context = context.expand(*shape[:-1], context.shape[-1]).reshape(-1, context.shape[-1])
        orders = list(self.orders)
        if len(orders) == 1:
            return self._draw(u, context, orders[0], naive).reshape(shape)
        x = like.new_empty(u.shape)
        picked = torch.randint(len(orders), (len(u),), device=u.device)
        for which in picked.unique().tolist():
            rows = (picked == which).nonzero().squeeze(-1)
            x[rows] = self._draw(u[rows], None if context is None else context[rows], which, naive)
        return x.reshape(shape)

    def _draw(self, u: Tensor, context: Tensor | None, which: int | Tensor, naive: bool) -> Tensor:
        make = self.network.naive if naive else self.network.stepper
        return ancestral(make(len(u), context, int(which)), self.conditional, u).x

    def sample_given(self, x: Tensor, observed: Tensor, n: int = 1, **settings: Any) -> Given:
        """n draws for each row of x of what is not observed, given what is; `draw_given` has the settings and errors.

        Shape: x is (N, D), observed (D,) or (N, D) of bool; draws are (n, N, D).
        """
        from pyrogen.distributions.autoregressive.given import draw_given  # which reads this class

        return draw_given(self, x, observed, n, **settings)

    @property
    def has_enumerate_support(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether the joint is discrete and has at most 2^20 states."""
        values = self.conditional.values(torch.zeros(()))
        return values is not None and self.network.width * math.log2(max(2, len(values))) <= math.log2(MOST_STATES)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """All states, (S,) + batch_shape + (D,), or (S, 1, ..., 1, D) when expand is False.

        Raises:
            SettingsError: they are too many, or not discrete.
        """
        if not self.has_enumerate_support:
            raise SettingsError(
                got=f"{self.network.width} variables with values {self.conditional.support}",
                need=f"a discrete joint with at most {MOST_STATES} states",
                fix="sampling, or the sites view for one variable at a time",
            )
        values = self.conditional.values(next(self.network.parameters()).detach())
        states = torch.cartesian_prod(*[values] * self.network.width).reshape(-1, self.network.width)  # pyright: ignore
        states = states.reshape(-1, *[1] * len(self.batch_shape), self.network.width)
        return states.expand(-1, *self.batch_shape, -1) if expand else states


def check_values(value: Tensor, fn: Autoregressive) -> None:
    """Refuse values of another width or outside the support, in words.

    Raises:
        ShapeError, SupportError.
    """
    width = fn.network.width
    if value.dim() < 1 or value.shape[-1] != width:
        raise ShapeError(got=f"a value of shape {tuple(value.shape)}", need=f"(..., {width})", fix="x.flatten(1)")
    inside = fn.conditional.constraint.check(value)
    if not bool(inside.all()):
        first = float(value[~inside][0])
        raise SupportError(
            got=f"{first:.6g} ({int((~inside).sum())} such of {value.numel()} entries)",
            need=f"values that are {fn.conditional.support}",
            fix="pyrogen.ops.check_rows, which says where they are",
        )


def _check_fit(network: Network, conditional: Conditional) -> None:
    if (network.inputs, network.outputs) != (conditional.inputs, conditional.outputs):
        raise ShapeError(
            got=f"a network of {network.inputs} inputs and {network.outputs} outputs for each variable",
            need=f"{conditional.inputs} and {conditional.outputs}, as {type(conditional).__name__} has",
            fix=f"inputs={conditional.inputs}, outputs={conditional.outputs}",
        )


def _check_context(network: Network, context: Tensor | None) -> None:
    got = "no context" if context is None else f"a context of shape {tuple(context.shape)}"
    if context is None and network.context:
        raise ShapeError(got=got, need=f"(..., {network.context})", fix="context=c")
    if context is not None and not network.context:
        raise ShapeError(got=got, need="none, as the network takes none", fix="leaving it out")
    if context is not None and context.shape[-1:] != (network.context,):
        raise ShapeError(got=got, need=f"(..., {network.context})", fix="one of that width")


def _together(rows: torch.Size, batch: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(rows, batch)
    except RuntimeError as error:
        raise ShapeError(
            got=f"values of batch shape {tuple(rows)} for a context or a plate of {tuple(batch)}",
            need="shapes that broadcast",
            fix="as many rows of one as of the other",
        ) from error
