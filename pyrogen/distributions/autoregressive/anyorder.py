"""What an orderless network is trained on: the log-density averaged over all D! orders, estimated in one pass."""

from __future__ import annotations

import torch
from torch import Tensor

from pyrogen.distributions.autoregressive.conditionals import Conditional
from pyrogen.distributions.autoregressive.joint import Autoregressive
from pyrogen.nn.autoregressive import OrderlessNetwork


class AnyOrder(Autoregressive):
    """A joint whose log_prob is random: an unbiased estimate of the mean of log p_o(x) over all orders o.

        K uniform among the sets of d variables, d uniform in 0..D-1:
        log_prob(x) = D / (D - d) sum over i not in K of log p(x_i | x_K)

    The mean over orders is below the log of the mixture over orders, by Jensen. Draws are those of the
    mixture of the network's own orders.

    Source: Uria, Murray and Larochelle 2014, arXiv:1310.1757, equation 7.
    """

    network: OrderlessNetwork

    def __init__(
        self,
        network: OrderlessNetwork,
        conditional: Conditional,
        context: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(network, conditional, context, validate_args=validate_args)

    @property
    def _passes(self) -> tuple[int]:
        return (0,)  # `_log_prob` draws the order itself

    def _log_prob(self, rows: Tensor, encoded: Tensor, context: Tensor | None, which: int | Tensor) -> Tensor:
        n, width = rows.shape
        count = torch.randint(width, (n, 1), device=rows.device)
        place = torch.rand(n, width, device=rows.device).argsort(1).argsort(1)
        unknown = (place >= count).to(rows.dtype)
        parameters = self.network.partial(encoded, 1 - unknown, context).to(rows.dtype)
        total = (self.conditional.log_prob(parameters, rows) * unknown).sum(-1)
        return total * width / (width - count.squeeze(-1))
