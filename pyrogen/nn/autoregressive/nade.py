"""The network of NADE: one hidden layer for each variable, all with shared weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrogen.errors import SettingsError
from pyrogen.nn.autoregressive.network import Network, Stepper
from pyrogen.nn.autoregressive.orders import check_count
from pyrogen.ops import nade


class NADENetwork(Network):
    """A hidden layer that grows with the variables seen, and an output of its own for each.

        h_d = s(c + sum over j before d of W_j x_j  [+ U c]),      f_d = b_d + V_d h_d

    A pass costs as much as a multilayer perceptron with as many weights has for each of its D rows' prefixes at
    once, since consecutive sums differ by one term.

    Source: Larochelle and Murray 2011, equations 1 and 2.

    Args:
        orders: one order, (1, D).
        hidden: H.
        activation: "sigmoid" or "relu".
    """

    def __init__(
        self,
        width: int,
        orders: Tensor,
        hidden: int = 500,
        *,
        inputs: int = 1,
        outputs: int = 1,
        context: int = 0,
        activation: str = "sigmoid",
    ) -> None:
        super().__init__(width, inputs, outputs, context, orders)
        check_count("hidden", hidden, 1)
        if self.n_orders != 1:
            raise SettingsError(got=f"{self.n_orders} orders for NADE", need="one", fix="an orderless network")
        if activation not in ("sigmoid", "relu"):
            raise SettingsError(got=f"activation {activation!r}", need="'sigmoid' or 'relu'", fix="'sigmoid'")
        self.activation = activation
        # rows of W and V are by place in the order, so that a block of variables is a slice
        self.W = nn.Parameter(torch.randn(width * inputs, hidden) / width**0.5)
        self.V = nn.Parameter(torch.randn(width, outputs, hidden) / hidden**0.5)
        self.c = nn.Parameter(torch.zeros(hidden))
        self.b = nn.Parameter(torch.zeros(width, outputs))  # by variable
        self.U = nn.Parameter(torch.randn(hidden, context) / context**0.5) if context else None

    def start(self, n: int, context: Tensor | None) -> Tensor:
        """What goes into the hidden layer before any variable is known, (n, H)."""
        if self.U is None:
            return self.c.expand(n, -1)
        if context is None:
            raise SettingsError(got="no context", need="the one that the network was made for", fix="context=c")
        return self.c + context @ self.U.T

    def forward(self, encoded: Tensor, context: Tensor | None = None, which: int | Tensor = 0) -> Tensor:
        n, order = encoded.shape[0], self.orders[0]
        by_place = encoded.view(n, self.width, self.inputs)[:, order].flatten(1)
        start = self.start(n, context).to(encoded.dtype).contiguous()
        out = nade(by_place, self.W, start, self.V, self.activation)
        return out[:, order.argsort()] + self.b

    def stepper(self, n: int, context: Tensor | None = None, which: int = 0) -> Stepper:
        return NADEStepper(self, n, context)

    @torch.no_grad()
    def start_at(self, parameters: Tensor) -> None:
        # what the hidden layer adds at the start, on average, is left in: it is small
        self.b.copy_(parameters)


class NADEStepper(Stepper):
    """Carries what goes into the hidden layer: each variable adds one product, and needs one."""

    @torch.no_grad()
    def __init__(self, network: NADENetwork, n: int, context: Tensor | None) -> None:
        order = network.orders[0]
        self.order, self.k = order.tolist(), 0
        total, W, V, b = network.start(n, context), network.W, network.V, network.b[order]
        self.activation = torch.relu
        if network.activation == "sigmoid":  # (1 + tanh) / 2, as in pyrogen.ops.nade
            total, W, V, b = total / 2, W / 2, V / 2, b + V.sum(-1) / 2
            self.activation = torch.tanh
        self.total = total.clone()
        self.W = W.view(network.width, network.inputs, -1).unbind(0)
        self.V, self.b = V.transpose(1, 2).unbind(0), b.unbind(0)

    def parameters(self) -> Tensor:
        return torch.addmm(self.b[self.k], self.activation(self.total), self.V[self.k])

    def push(self, encoded: Tensor) -> None:
        self.total.addmm_(encoded, self.W[self.k])
        self.k += 1
