"""A restricted Boltzmann machine of rows together with their classes: p(y | x) is exact."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrogen.distributions.boltzmann import Categorical, Stack, Units
from pyrogen.errors import DtypeError, ShapeError, SupportError
from pyrogen.models.energy.rbm import RBM


class ClassRBM(RBM):
    """An RBM whose visible layer is a row x and its class y, written one-hot beside it.

        E(x, y, h) = E(x, h) - d_y - U_y h
        log p(y | x) = d_y + cumulant(c + x W + U_y) - log of the sum of the same over all classes

    Trained by `MaximumLikelihood()` it is generative, by `Conditional()` discriminative, and by
    `Conditional(generative=0.01)` hybrid.

    Shape: x is (N, D), y is (N,) of whole numbers 0 to K - 1; the rows of the model are `join(x, y)`, (N, D + K).
    Source: Larochelle and Bengio 2008, "Classification using discriminative restricted Boltzmann machines".

    Args:
        features: the layer of x.
        classes: K.
        hidden: the layer of h.
        settings: of RBM.
    """

    recipe: ClassVar[str] = ""

    def __init__(self, features: Units, classes: int, hidden: Units, **settings: Any) -> None:
        super().__init__(Stack([features, Categorical(1, classes)]), hidden, **settings)
        self.features, self.classes, self.n_features = features, classes, features.width

    def join(self, x: Tensor, y: Tensor) -> Tensor:
        """Rows and their classes as rows of the model, (N, D + K).

        Raises:
            DtypeError: the classes are not whole numbers.
            ShapeError: there is not one class for each row.
            SupportError: a class is out of range.
        """
        if y.is_floating_point():
            raise DtypeError(got=f"classes of {y.dtype}", need="whole numbers", fix="y.long()")
        if y.shape != x.shape[:1]:
            raise ShapeError(got=f"classes of shape {tuple(y.shape)}", need=f"({len(x)},), one for each row", fix="y")
        bad = (y < 0) | (y >= self.classes)
        if bool(bad.any()):
            raise SupportError(
                got=f"class {int(y[bad][0])} at row {int(bad.byte().argmax())} ({int(bad.sum())} such)",
                need=f"classes in 0..{self.classes - 1}",
                fix=f"ClassRBM with {int(y.max()) + 1} classes, or classes that start at 0",
            )
        return torch.cat([x, one_hot(y.long(), self.classes).to(x)], -1)

    def split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the model as x, (N, D), and classes y, (N,)."""
        return rows[..., : self.n_features], rows[..., self.n_features :].argmax(-1)

    def log_class(self, x: Tensor) -> Tensor:
        """log p(y | x) of all classes, (N, D) to (N, K), in nats; log Z cancels."""
        machine = self.machine()
        W, U = machine.W.split([self.n_features, self.classes])
        d = machine.b[self.n_features :]
        return (d + self.hidden.cumulant((machine.c + x @ W).unsqueeze(-2) + U)).log_softmax(-1)

    @torch.no_grad()
    def classify(self, x: Tensor) -> Tensor:
        """The likeliest class of each row, (N,)."""
        return self.log_class(x).argmax(-1)
