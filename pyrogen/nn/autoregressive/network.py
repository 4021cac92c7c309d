"""What every autoregressive network promises: all conditionals in one pass, or one variable after the other."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrogen.errors import SettingsError
from pyrogen.nn.autoregressive.orders import check_count, check_orders


class Stepper(ABC):
    """Walks through the variables in one order, once: asks for parameters, is told the value, and so on.

        for k in range(D):
            parameters = stepper.parameters()     of variable order[k], (n, F)
            stepper.push(encoded value of it)     (n, E)

    It is for sampling: what it computed is kept and nothing carries a gradient, unless a class says otherwise.
    """

    order: Sequence[int]

    @abstractmethod
    def parameters(self) -> Tensor:
        """Of the next variable given those pushed before, (n, F)."""

    @abstractmethod
    def push(self, encoded: Tensor) -> None:
        """The value of that variable in n rows, (n, E), as the network reads it."""


class Network(nn.Module, ABC):
    """Maps encoded rows to the parameters of p(x_d | the variables before d), all D at once.

        x_d takes E inputs and F outputs;   order[k] is the variable that comes k-th
        output d depends on the inputs of the variables before d in the order, and on nothing else

    A network may know M orders (with masks of their own, as in MADE); `which` of them is a number, or a
    tensor () where it is drawn anew at each step of a training.

    Shape: encoded rows are (N, D * E), the E inputs of a variable next to each other; context is (N, C).

    Args:
        width: D.
        inputs: E.
        outputs: F.
        context: C, 0 for none.
        orders: (M, D), each row a permutation of 0..D-1.
    """

    orders: Tensor

    def __init__(self, width: int, inputs: int, outputs: int, context: int, orders: Tensor) -> None:
        super().__init__()
        for name, value, least in (("width", width, 1), ("inputs", inputs, 1), ("outputs", outputs, 1)):
            check_count(name, value, least)
        check_count("context", context, 0)
        self.width, self.inputs, self.outputs, self.context = width, inputs, outputs, context
        self.register_buffer("orders", check_orders(orders, width).clone())  # not the caller's, who may write into it

    @property
    def n_orders(self) -> int:
        return self.orders.shape[0]

    def checked(self, which: int) -> int:
        """The number of an order.

        Raises:
            SettingsError: the network has no such order.
        """
        if not 0 <= which < self.n_orders:
            raise SettingsError(
                got=f"order {which}", need=f"one of the network's {self.n_orders}, from 0", fix="which=None for all"
            )
        return which

    @abstractmethod
    def forward(self, encoded: Tensor, context: Tensor | None = None, which: int | Tensor = 0) -> Tensor:
        """(N, D * E) and (N, C) to (N, D, F), by variable and not by order."""

    def stepper(self, n: int, context: Tensor | None = None, which: int = 0) -> Stepper:
        """For n rows with a context of (n, C); the one that costs least."""
        return self.naive(n, context, which)

    def naive(self, n: int, context: Tensor | None = None, which: int = 0) -> Stepper:
        """A whole pass for each variable. Slow, differentiable, and right if `forward` is."""
        return NaiveStepper(self, n, context, which)

    @abstractmethod
    def start_at(self, parameters: Tensor) -> None:
        """Set the biases of the outputs to (D, F), before training."""

    def extra_repr(self) -> str:
        sizes = f"width={self.width}, inputs={self.inputs}, outputs={self.outputs}, context={self.context}"
        return f"{sizes}, orders={short_digest(self.orders)}"


class NaiveStepper(Stepper):
    """A whole pass of the network for each variable, with zeros where nothing is known yet."""

    def __init__(self, network: Network, n: int, context: Tensor | None, which: int) -> None:
        self.network, self.context, self.which = network, context, which
        self.order = network.orders[which].tolist()
        like = next(network.parameters())
        self.columns = [like.new_zeros(n, network.inputs)] * network.width
        self.k = 0

    def parameters(self) -> Tensor:
        encoded = torch.cat(self.columns, 1)
        return self.network(encoded, self.context, self.which)[:, self.order[self.k]]

    def push(self, encoded: Tensor) -> None:
        self.columns[self.order[self.k]] = encoded
        self.k += 1


def short_digest(*tables: Tensor) -> str:
    """Of tables of whole numbers, eight characters that tell them from others; for a repr, which tells models apart."""
    found = hashlib.sha256()
    for table in tables:
        found.update(b"none" if table.is_meta else table.cpu().numpy().tobytes())
    return found.hexdigest()[:8]


def there(context: Tensor | None) -> Tensor:
    """The context of a network that was made for one."""
    if context is None:
        raise SettingsError(got="no context", need="the context that the network was made for", fix="context=c")
    return context
