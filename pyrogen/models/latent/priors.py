"""Priors of a VAE's code z: a call with the encoder's q(z | .) gives the distribution p(z)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrogen.errors import ShapeError

Encode = Callable[[Tensor], dist.TorchDistribution]


class Prior(nn.Module, ABC):
    """p(z), batch (), event (latent,).

    Args:
        latent: L, the width of the code.
    """

    zero: Tensor  # says on which device and in which precision

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent
        self.register_buffer("zero", torch.zeros(()), persistent=False)

    @abstractmethod
    def forward(self, encode: Encode) -> dist.TorchDistribution: ...


class StandardNormal(Prior):
    """z ~ Normal(0, I)."""

    def forward(self, encode: Encode) -> dist.TorchDistribution:
        zero = self.zero.expand(self.latent)
        return dist.Normal(zero, zero + 1).to_event(1)


class VampPrior(Prior):
    """The mixture of the encoder's posteriors at C learned pseudo-inputs.

        p(z) = 1/C sum_c q(z | u_c)

    Shape: pseudo_inputs is (C, D), kept inside [0, 1].
    Source: Tomczak and Welling 2018, arXiv:1705.07120, equation 9.

    Args:
        latent: L.
        pseudo_inputs: their start, for example C rows of the training data.

    Raises:
        ShapeError: pseudo_inputs is not a matrix.
    """

    def __init__(self, latent: int, pseudo_inputs: Tensor) -> None:
        super().__init__(latent)
        if pseudo_inputs.dim() != 2:
            raise ShapeError(
                got=f"pseudo-inputs of shape {tuple(pseudo_inputs.shape)}", need="(C, D)", fix="x[:500], some rows"
            )
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.detach().clone())

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Put the pseudo-inputs near rows of x, spread evenly over it (x is in [0, 1])."""
        # with more pseudo-inputs than rows, rows come more than once; noise keeps those apart
        picks = torch.arange(self.pseudo_inputs.shape[0]) * x.shape[0] // self.pseudo_inputs.shape[0]
        # 0.1 away from the ends, where the gradient of the clamp is not zero
        self.pseudo_inputs.copy_(0.1 + 0.8 * x[picks] + 0.01 * torch.rand_like(self.pseudo_inputs))

    def forward(self, encode: Encode) -> dist.TorchDistribution:
        components = encode(self.pseudo_inputs.clamp(0, 1))
        even = dist.Categorical(logits=self.zero.expand(self.pseudo_inputs.shape[0]))
        return dist.MixtureSameFamily(even, components)
