"""The fully visible belief net: logistic autoregression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from torch import Tensor

from pyrogen.distributions.autoregressive import Conditional
from pyrogen.models.autoregressive.base import AutoregressiveModel, conditional_for
from pyrogen.models.contracts import refuse_unknown
from pyrogen.nn.autoregressive import MaskedMLP, make_orders


class FVBN(AutoregressiveModel):
    """Each variable a (multinomial) logistic regression on those before it.

        p(x_d = 1 | x_<d) = sigmoid(b_d + sum_(j<d) A_dj x_j)

    Training is convex. For levels the logits of a softmax are linear in the one-hot of those before, for
    reals the parameters of the conditional are linear in them.

    Shape: x is (N, D).
    Source: Neal 1992; Frey 1998; FVSBN in the tables of Larochelle and Murray 2011.

    Args:
        width: D.
        conditional: the family of each variable; bits unless given.
        order: "natural", "random" or a permutation of 0..D-1.
        context: C, the width of what all is conditioned on; 0 for none.
        seed: of a random order.
    """

    recipe = "fvbn"
    switches = ("one_hot",)

    def __init__(
        self,
        width: int,
        conditional: Conditional | None = None,
        *,
        order: str | Tensor | Sequence[int] = "natural",
        context: int = 0,
        seed: int = 0,
    ) -> None:
        conditional = conditional or conditional_for("binary")
        network = MaskedMLP(
            width,
            make_orders(order, width, seed=seed),
            inputs=conditional.inputs,
            outputs=conditional.outputs,
            context=context,
        )
        super().__init__(network, conditional)

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        refuse_unknown(cls.recipe, settings, {"order": "natural", "components": 1, "one_hot": True})
        family = {key: settings.pop(key) for key in ("components", "one_hot") if key in settings}
        return cls(width, conditional_for(support, **family), **settings)
