"""A bipartite Boltzmann machine in natural parameters: what every RBM, DBM and top of a DBN comes down to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn.functional import linear

from pyrogen.distributions.boltzmann.units import Units
from pyrogen.errors import DeviceError, ModelError, NonFiniteError, ShapeError


@dataclass(frozen=True, eq=False)
class Machine:
    """p(v, h) = exp(-E(v, h)) / Z over two layers of units.

        E(v, h) = -base(v) - base(h) - v b - h c - v W h
        F(v)    = -base(v) - v b - cumulant_h(c + v W),        p(v) = exp(-F(v)) / Z

    Shape: v is (..., V), h is (..., H), W is (V, H), b is (V,), c is (H,), where V and H are the widths of the layers.

    Raises:
        ShapeError: W, b and c are not of the layers' widths.
    """

    visible: Units
    hidden: Units
    W: Tensor
    b: Tensor
    c: Tensor

    def __post_init__(self) -> None:
        v, h = self.visible.width, self.hidden.width
        for name, tensor, shape in (("W", self.W, (v, h)), ("b", self.b, (v,)), ("c", self.c, (h,))):
            if tuple(tensor.shape) != shape:
                raise ShapeError(
                    got=f"{name} of shape {tuple(tensor.shape)}",
                    need=f"{shape}, from {self.visible} and {self.hidden}",
                    fix=f"{name}.T" if tuple(tensor.shape) == shape[::-1] and name == "W" else "other layers",
                )

    def check(self) -> None:
        """Refuse parameters that no number can come of; looks at every entry, so once per call of a long task.

        Raises:
            NonFiniteError: an entry is NaN or infinite.
            DeviceError: the parameters are on different devices.
        """
        tensors = {"W": self.W, "b": self.b, "c": self.c}
        if len({tensor.device for tensor in tensors.values()}) > 1:
            raise DeviceError(
                got=", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items()),
                need="one device",
                fix=f".to({str(self.W.device)!r})",
            )
        for name, tensor in tensors.items():
            bad = int((~tensor.isfinite()).sum())
            if bad:
                raise NonFiniteError(
                    got=f"{bad} entries of {name} that are NaN or infinite", need="finite weights", fix="a checkpoint"
                )

    def hidden_input(self, v: Tensor) -> Tensor:
        """c + v W, (..., H)."""
        return self.c + v @ self.W

    def visible_input(self, h: Tensor) -> Tensor:
        """b + W h, (..., V)."""
        return linear(h, self.W, self.b)

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h), (...)."""
        linear_part = v @ self.b + (h * self.hidden_input(v)).sum(-1)
        return -self.visible.base(v) - self.hidden.base(h) - linear_part

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = -log sum_h exp(-E(v, h)), (...)."""
        return -self.visible.base(v) - v @ self.b - self.hidden.cumulant(self.hidden_input(v))

    def up(self, v: Tensor, generator: Generator | None = None) -> Tensor:
        """h ~ p(h | v)."""
        return self.hidden.sample(self.hidden_input(v), generator)

    def down(self, h: Tensor, generator: Generator | None = None) -> Tensor:
        """v ~ p(v | h)."""
        return self.visible.sample(self.visible_input(h), generator)

    @torch.no_grad()
    def sweep(self, v: Tensor, n: int = 1, generator: Generator | None = None) -> Tensor:
        """n times h ~ p(h | v), then v ~ p(v | h). Leaves p(v) invariant."""
        for _ in range(n):
            v = self.down(self.up(v, generator), generator)
        return v

    def turned(self) -> Machine:
        """The same machine with its sides exchanged: its free energy is that of h."""
        return Machine(self.hidden, self.visible, self.W.T, self.c, self.b)

    def detached(self) -> Machine:
        """Without gradients to W, b and c."""
        return replace(self, W=self.W.detach(), b=self.b.detach(), c=self.c.detach())

    def tempered(self, beta: Tensor | float, base: Tensor | None = None) -> Machine:
        """The machine at inverse temperature beta, on the way from independent visible units with bias `base`, (V,).

            f_beta(v) = sum_h exp( base(v) + base(h) + v ((1 - beta) base + beta b) + beta (h c + v W h) )

        Shape: beta is a number, or (...) with a temperature for each row of v and h.
        """
        return Tempered(self.visible, self.hidden, self.W, self.b, self.c, _column(beta), _zero(self.b, base))


@dataclass(frozen=True, eq=False)
class Tempered(Machine):
    """A machine at inverse temperatures beta, (..., 1) or a number, above a base with visible bias a; see `tempered`.

    The base measures of the units are not tempered, so that Gaussian units stay normalised at beta = 0.
    """

    beta: Tensor | float = 1.0
    a: Tensor | float = 0.0

    def hidden_input(self, v: Tensor) -> Tensor:
        return self.beta * super().hidden_input(v)

    def visible_input(self, h: Tensor) -> Tensor:
        return (1 - self.beta) * self.a + self.beta * super().visible_input(h)

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        linear_part = (v * self._bias).sum(-1) + (h * self.hidden_input(v)).sum(-1)
        return -self.visible.base(v) - self.hidden.base(h) - linear_part

    def free_energy(self, v: Tensor) -> Tensor:
        return -self.visible.base(v) - (v * self._bias).sum(-1) - self.hidden.cumulant(self.hidden_input(v))

    def turned(self) -> Machine:
        raise ModelError(
            got="a tempered machine with its sides exchanged", need="its base on the visible side", fix="tempering last"
        )

    @property
    def _bias(self) -> Tensor:
        return (1 - self.beta) * self.a + self.beta * self.b


def _column(beta: Tensor | float) -> Tensor | float:
    return beta.unsqueeze(-1) if isinstance(beta, Tensor) and beta.dim() else beta


def _zero(b: Tensor, base: Tensor | None) -> Tensor:
    return torch.zeros_like(b) if base is None else base
