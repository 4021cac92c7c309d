"""MADE: the masked autoencoder for distribution estimation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from pyrogen.distributions.autoregressive import Conditional
from pyrogen.errors import SettingsError
from pyrogen.models.autoregressive.base import AutoregressiveModel, conditional_for
from pyrogen.models.contracts import refuse_unknown
from pyrogen.nn.autoregressive import MaskedMLP, Members, check_count, make_orders, raster_orders


class MADE(AutoregressiveModel):
    """A multilayer perceptron, masked so that output d sees the variables before d only.

        p(x) = prod_d p(x_d | f_d(x_<d)),       and with M orders   p(x) = 1/M sum_m p_m(x)

    One set of weights serves all M orders, each with random masks of its own: order-agnostic and
    connectivity-agnostic training takes one of them at each step. M sets of masks with one order are
    connectivity-agnostic alone.

    Shape: x is (N, D).
    Source: Germain et al. 2015, arXiv:1502.03509.

    Args:
        width: D.
        hidden: widths of the hidden layers; they may be narrower than D.
        conditional: the family of each variable: bits unless given; also levels (categories) and reals.
        order: "natural", "random" (a new one for each m), a permutation of 0..D-1, or M of them, (M, D), such as
            `raster_orders`; in a recipe that is "raster".
        n_orders: M, the number of orders and masks.
        degrees: "even" or "random"; random with several masks unless given. Under a scan and the same backwards even
            degrees share hardly a weight, so that two orders train as well as one.
        direct: connect the inputs to the outputs, too.
        sees_mask: give each layer weights on its mask.
        activation: "relu", "elu", "tanh" or "sigmoid".
        dropout: share of the hidden units that are left out at random in training mode, where log_prob is then
            the noisy one that is trained.
        context: C, the width of what all is conditioned on; 0 for none.
        members: G networks with weights of their own, each of M / G of the orders in turn; a step trains one of them.
        seed: of orders and degrees.

    Raises:
        SettingsError: the orders do not share out evenly among the members, or any other setting that cannot be.
    """

    recipe = "made"
    switches = ("direct", "sees_mask", "one_hot")

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (500,),
        conditional: Conditional | None = None,
        *,
        order: str | Tensor | Sequence[int] = "natural",
        n_orders: int = 1,
        degrees: str | None = None,
        direct: bool = False,
        sees_mask: bool = False,
        activation: str = "relu",
        dropout: float = 0.0,
        context: int = 0,
        members: int = 1,
        seed: int = 0,
    ) -> None:
        conditional = conditional or conditional_for("binary")
        orders = make_orders(order, width, n_orders, seed)
        check_count("the number of members", members, 1)
        if n_orders % members:
            raise SettingsError(
                got=f"{n_orders} orders for {members} members", need="as many for each", fix=f"n_orders = {members}"
            )
        networks = [
            MaskedMLP(
                width,
                own,
                hidden,
                inputs=conditional.inputs,
                outputs=conditional.outputs,
                context=context,
                direct=direct,
                sees_mask=sees_mask,
                degrees=degrees or ("even" if len(own) == 1 else "random"),
                activation=activation,
                dropout=dropout,
                seed=seed + i,
            )
            for i, own in enumerate(orders.chunk(members))
        ]
        super().__init__(networks[0] if members == 1 else Members(networks), conditional)

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        known = (
            "hidden",
            "order",
            "n_orders",
            "degrees",
            "direct",
            "sees_mask",
            "activation",
            "dropout",
            "members",
            "components",
            "one_hot",
        )
        refuse_unknown(cls.recipe, settings, dict.fromkeys(known))
        if settings.get("order") == "raster":
            settings = {"degrees": "even"} | settings | {"order": raster_orders(shape, settings.get("n_orders", 1))}
        family = {key: settings.pop(key) for key in ("components", "one_hot") if key in settings}
        return cls(width, conditional=conditional_for(support, **family), **settings)
