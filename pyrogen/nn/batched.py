"""Call a network that knows one batch dimension on a tensor that has several."""

from __future__ import annotations

from torch import Tensor, nn


def batched(network: nn.Module, x: Tensor) -> Tensor:
    """Apply `network`, which maps (batch, ...) to (batch, out), to x of shape (*leading, in).

    Particles add dimensions on the left; convolutions and batch norms accept exactly one. All
    leading dimensions become one for the call and come back afterwards: (*leading, out), in the
    precision of x: what autocast computed in bfloat16 is not fit for a sum of log-probabilities.
    """
    out = network(x if x.dim() == 2 else x.reshape(-1, x.shape[-1])).to(x.dtype)
    return out if x.dim() == 2 else out.reshape(*x.shape[:-1], *out.shape[1:])
