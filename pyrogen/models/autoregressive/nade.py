"""NADE: the neural autoregressive distribution estimator, and its deep, orderless form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrogen.distributions.autoregressive import AnyOrder, Autoregressive, Conditional, Given
from pyrogen.distributions.autoregressive.given import check_given
from pyrogen.models.autoregressive.base import AutoregressiveModel, conditional_for
from pyrogen.models.contracts import refuse_unknown
from pyrogen.nn.autoregressive import NADENetwork, OrderlessNetwork, make_orders


class NADE(AutoregressiveModel):
    """A hidden layer for each variable, over those before it, with shared weights.

        p(x_d | x_<d) = p(x_d | b_d + V_d h_d),      h_d = s(c + sum over j before d of W_j x_j)

    Shape: x is (N, D); W is (D E, H), V is (D, F, H) for E inputs and F outputs of a variable.
    Source: Larochelle and Murray 2011; for reals Uria et al. 2013, arXiv:1306.0186.

    Args:
        width: D.
        hidden: H.
        conditional: the family of each variable: bits unless given; also levels (categories) and reals.
        order: "natural", "random" or a permutation of 0..D-1.
        activation: "sigmoid" or "relu".
        context: C, the width of what all is conditioned on; 0 for none.
        seed: of a random order.
    """

    recipe = "nade"
    switches = ("one_hot",)

    def __init__(
        self,
        width: int,
        hidden: int = 500,
        conditional: Conditional | None = None,
        *,
        order: str | Tensor | Sequence[int] = "natural",
        activation: str = "sigmoid",
        context: int = 0,
        seed: int = 0,
    ) -> None:
        conditional = conditional or conditional_for("binary")
        network = NADENetwork(
            width,
            make_orders(order, width, seed=seed),
            hidden,
            inputs=conditional.inputs,
            outputs=conditional.outputs,
            context=context,
            activation=activation,
        )
        super().__init__(network, conditional)

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        known = ("hidden", "order", "activation", "components", "one_hot")
        refuse_unknown(cls.recipe, settings, dict.fromkeys(known))
        family = {key: settings.pop(key) for key in ("components", "one_hot") if key in settings}
        return cls(width, conditional=conditional_for(support, **family), **settings)


class DeepNADE(AutoregressiveModel):
    """A network of the known values and of which are known: it predicts any variable from any others.

        p(x) = 1/M sum_m prod_k p(x_o_m(k) | f(x * K, K)),      K the variables before in order o_m
        training: D / (D - d) sum over i not in K of log p(x_i | x_K), K a random set of d variables

    Training serves all D! orders; the density is that of M of them, each of which costs D prefixes. What is
    missing is drawn exactly given what is observed, whatever that is: in an order that begins with it.

    Shape: x is (N, D).
    Source: Uria, Murray and Larochelle 2014, arXiv:1310.1757.

    Args:
        width: D.
        hidden: widths of the hidden layers.
        conditional: the family of each variable: bits unless given; also levels (categories) and reals.
        order: "random" (a new one for each m), "natural" or a permutation of 0..D-1.
        n_orders: M, the orders of the ensemble.
        activation: "relu", "elu", "tanh" or "sigmoid".
        context: C, the width of what all is conditioned on; 0 for none.
        seed: of the orders.
    """

    recipe = "deep-nade"
    switches = ("one_hot",)
    network: OrderlessNetwork

    def __init__(
        self,
        width: int,
        hidden: Sequence[int] = (500,),
        conditional: Conditional | None = None,
        *,
        order: str | Tensor | Sequence[int] = "random",
        n_orders: int = 1,
        activation: str = "relu",
        context: int = 0,
        seed: int = 0,
    ) -> None:
        conditional = conditional or conditional_for("binary")
        network = OrderlessNetwork(
            width,
            make_orders(order, width, n_orders, seed),
            hidden,
            inputs=conditional.inputs,
            outputs=conditional.outputs,
            context=context,
            activation=activation,
        )
        super().__init__(network, conditional)

    def observed(self, context: Tensor | None) -> TorchDistribution:
        if not self.training:
            return self.dist(context)
        return AnyOrder(self.network, self.conditional, context)

    def sample_given(self, x: Tensor, observed: Tensor, n: int = 1, **settings: Any) -> Given:
        """n draws for each row of what is not observed: exact, in the first order with the observed ones put first.

        With `method` "importance" or "gibbs", of the mixture of the model's own orders; see
        `pyrogen.distributions.draw_given`.
        """
        if settings.get("method", "auto") not in ("auto", "exact"):
            return super().sample_given(x, observed, n, **settings)
        x, context = self.parts(x)
        observed = check_given(self.dist(context), x, observed)
        order = self.network.orders[0]
        draws = x.new_empty(n, *x.shape)
        ess, evidence = x.new_empty(len(x)), x.new_empty(len(x))
        for mask in observed.unique(dim=0):
            rows = (observed == mask).all(1)
            first = torch.cat([order[mask[order]], order[~mask[order]]])
            own = None if context is None else context[rows]
            fn = Autoregressive(self.network.reordered(first), self.conditional, own)
            found = fn.sample_given(x[rows], mask, n, method="exact")
            draws[:, rows], ess[rows], evidence[rows] = found.draws, found.ess, found.log_evidence
        return Given(draws, ess, evidence, "exact")

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        known = ("hidden", "order", "n_orders", "activation", "components", "one_hot")
        refuse_unknown(cls.recipe, settings, dict.fromkeys(known))
        family = {key: settings.pop(key) for key in ("components", "one_hot") if key in settings}
        return cls(width, conditional=conditional_for(support, **family), **settings)
