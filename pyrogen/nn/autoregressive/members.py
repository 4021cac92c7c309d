"""Several networks as one, each with weights and orders of its own."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index

import torch
from torch import Tensor, nn

from pyrogen.errors import SettingsError
from pyrogen.nn.autoregressive.network import Network, Stepper


class Members(Network):
    """G networks of the same variables, whose orders are counted through, those of the first network first.

    Under an order the network that it belongs to answers. So a mixture over the orders is one over the networks, and a
    step of a training, which takes one order, moves the weights of one network.

    Args:
        networks: G of them, with the same widths.

    Raises:
        SettingsError: none, or networks of different widths.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        sizes = {(network.width, network.inputs, network.outputs, network.context) for network in networks}
        if len(sizes) != 1:
            raise SettingsError(
                got=f"{len(networks)} networks of the widths {sorted(sizes)}", need="the same widths", fix="one network"
            )
        super().__init__(*sizes.pop(), torch.cat([network.orders for network in networks]))
        self.networks = nn.ModuleList(networks)
        self._own = [(network, which) for network in networks for which in range(network.n_orders)]

    def forward(self, encoded: Tensor, context: Tensor | None = None, which: int | Tensor = 0) -> Tensor:
        network, own = self._of(which)
        return network(encoded, context, own)

    def stepper(self, n: int, context: Tensor | None = None, which: int = 0) -> Stepper:
        network, own = self._of(which)
        return network.stepper(n, context, own)

    def _of(self, which: int | Tensor) -> tuple[Network, int]:
        return self._own[self.checked(index(which))]

    def start_at(self, parameters: Tensor) -> None:
        for network in self.networks:
            network.start_at(parameters)  # pyright: ignore[reportCallIssue]
