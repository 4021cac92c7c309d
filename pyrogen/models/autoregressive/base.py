"""A joint distribution of rows as a model: exact density, exact draws, and a guide with nothing to do."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrogen.distributions.autoregressive import Autoregressive, Conditional, Given
from pyrogen.distributions.autoregressive.given import Method
from pyrogen.errors import SettingsError
from pyrogen.models.density import Density
from pyrogen.nn.autoregressive import Network


class AutoregressiveModel(Density):
    """Rows that an autoregressive network makes, one variable after the other.

        model   x ~ p(x) = prod_k p(x_o(k) | x_o(1), ..., x_o(k-1)),      one site "x"
        guide   nothing, so that the ELBO is log p(x) and training is maximum likelihood

    With M > 1 orders p(x) is their even mixture. While training, each call of `model` then takes one of them
    at random: a lower bound in expectation, and what order-agnostic training maximises. In evaluation mode,
    and always in `log_prob`, it is the mixture itself.

    With a context the rows are (x, c), the context in their last C columns, and the density is p(x | c).

    Shape: rows are (N, D), or (N, D + C).

    Args:
        network: gives the parameters of all conditionals.
        conditional: makes laws of them.
    """

    def __init__(self, network: Network, conditional: Conditional) -> None:
        super().__init__(network.width, conditional.support, network.context)
        self.network, self.conditional = network, conditional

    def dist(self, context: Tensor | None = None, which: int | Tensor | None = None) -> Autoregressive:
        """p(x | context) for use in any Pyro program; `which` order, or the mixture of all."""
        return Autoregressive(self.network, self.conditional, context, which)

    def observed(self, context: Tensor | None) -> TorchDistribution:
        """In training one order, drawn on the device; else the mixture of all."""
        if not self.training or self.network.n_orders == 1:
            return self.dist(context)
        device = self.network.orders.device
        return self.dist(context, torch.randint(self.network.n_orders, (), device=device))

    def sample_given(self, x: Tensor, observed: Tensor, n: int = 1, **settings: Any) -> Given:
        """n draws for each row of what is not observed; see `pyrogen.distributions.draw_given`."""
        x, context = self.parts(x)
        return self.dist(context).sample_given(x, observed, n, **settings)

    @torch.no_grad()
    def prepare(self, train: Tensor) -> None:
        """Start at the columns' own laws."""
        x, _ = self.parts(train)
        like = next(self.network.parameters())
        self.network.start_at(self.conditional.start(x).to(like))


def conditional_for(support: str, **settings: Any) -> Conditional:
    """The family of laws for data of a support: bits, levels (`one_hot`), or reals (`components`).

    Raises:
        SettingsError: a support without one, or a setting of another.
    """
    from pyrogen.distributions.autoregressive import BinaryConditional, LevelConditional, NormalConditional
    from pyrogen.ops import levels_of

    bins = levels_of(support)
    known = {"binary": (), "real": ("components",)}.get(support, ("one_hot",) if bins else None)
    if known is None:
        raise SettingsError(got=f"support {support!r}", need="'binary', 'real' or 'grey256'", fix="'binary'")
    for key in settings:
        if key not in known:
            raise SettingsError(
                got=f"setting {key!r} for {support} data", need=f"one of {list(known)}", fix="leaving it out"
            )
    if support == "binary":
        return BinaryConditional()
    return NormalConditional(**settings) if bins is None else LevelConditional(bins, **settings)


__all__ = ["AutoregressiveModel", "Method"]
