"""A distribution of whole rows as a model: exact density, exact draws, and a guide with nothing to do."""

from __future__ import annotations

from abc import abstractmethod

import pyro
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyrogen.errors import ShapeError
from pyrogen.models.contracts import Explicit, Pair
from pyrogen.ops import check_rows


class Density(Pair, Explicit):
    """Rows whose distribution is known as a whole.

        model   x ~ p(x),  or p(x | c),      one site "x"
        guide   nothing, so that the ELBO is log p(x) and training is maximum likelihood

    A density that takes a context has it in the last C columns of its rows, (x, c).

    Shape: rows are (N, D), or (N, D + C).

    Args:
        width: D.
        support: what an entry of x may be.
        context: C, 0 for a density without.
    """

    def __init__(self, width: int, support: str, context: int = 0) -> None:
        super().__init__(width, support)
        self.context = context

    @abstractmethod
    def dist(self, context: Tensor | None = None) -> TorchDistribution:
        """p(x | context), for use in any Pyro program."""

    def observed(self, context: Tensor | None) -> TorchDistribution:
        """What the program observes the rows as; by default, `dist`."""
        return self.dist(context)

    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        x, context = self.parts(x)
        with self.rows(x, size):
            return pyro.sample("x", self.observed(context), obs=x)

    def guide(self, x: Tensor, size: int | None = None) -> None:
        with self.rows(x, size):
            pass

    def log_prob(self, x: Tensor) -> Tensor:
        x, context = self.parts(x)
        return self.dist(context).log_prob(x)

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None) -> Tensor:
        """n rows, (n, D); with a context of (C,) or (n, C), one for each."""
        return self.dist().sample((n,)) if context is None else self.dist(context.expand(n, -1)).sample()

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """x and the context of rows.

        Raises:
            ShapeError: rows that have no room for both.
        """
        if not self.context:
            return x, None
        if x.shape[-1] != self.width + self.context:
            raise ShapeError(
                got=f"rows of {x.shape[-1]} entries",
                need=f"{self.width} and then a context of {self.context}",
                fix="torch.cat([x, context], -1)",
            )
        return x[..., : self.width], x[..., self.width :]

    def check(self, x: Tensor) -> None:
        if self.context and isinstance(x, Tensor) and x.dim() == 2:
            check_rows(x, width=self.width + self.context, support="real")
            x = x[:, : self.width].contiguous()
        super().check(x)


__all__ = ["Density"]
