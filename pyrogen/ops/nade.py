"""The conditionals of NADE in blocks of matrix products, with a backward pass of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyrogen.errors import SettingsError

_CPU, _GPU = 1 << 20, 1 << 26
"""Bytes of one block of hidden units: what stays in a core's cache, and what fills a GPU."""


def nade(x: Tensor, W: Tensor, a: Tensor, V: Tensor, activation: str = "sigmoid", block: int | None = None) -> Tensor:
    """All outputs of NADE, o_d = V_d s(a + sum over j < d of W_j x_j), without a loop over single variables.

        block of C variables, a carried:   pre = X W_block + a,   X[c, b, j] = x[b, j] [j < c]
                                           o_c = V_c s(pre_c),    a <- a + x_block W_block
        backward, blocks in reverse, S = sum of da over all later variables:
                                           dW_j = x_j^T sum over d > j of da_d,   dx_j = (sum over d > j of da_d) W_j^T

    Only a at the beginnings of the blocks is kept, and pre computed again: memory is B H (C + D / C) instead of
    B H D. Gradients are those of the loop, in x too.

    Shape: x is (B, D E), E numbers for each variable next to each other; W is (D E, H); a is (B, H), the bias;
    V is (D, F, H); gives (B, D, F).
    Source: Larochelle and Murray 2011, algorithm 1.

    Args:
        activation: "sigmoid" or "relu".
        block: C; None for one that fits the device.
    """
    if activation not in ("sigmoid", "relu"):
        raise SettingsError(got=f"activation {activation!r}", need="'sigmoid' or 'relu'", fix="'sigmoid'")
    if block is None:
        size = max(1, a.numel() * a.element_size())
        block = min(V.shape[0], max(1, (_GPU if x.is_cuda else _CPU) // size))
    return _Nade.apply(x, W, a, V, activation, block)  # pyright: ignore[reportReturnType]


class _Nade(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, a: Tensor, V: Tensor, activation: str, block: int) -> Tensor:  # pyright: ignore
        D, E = V.shape[0], x.shape[1] // V.shape[0]
        starts, out = [], []
        for s in range(0, D, block):
            e = min(s + block, D)
            xb, Wb = x[:, s * E : e * E], W[s * E : e * E]
            starts.append(a)
            out.append(torch.bmm(_hidden(xb, Wb, a, e - s, activation)[1], V[s:e].transpose(1, 2)))
            a = torch.addmm(a, xb, Wb)
        ctx.save_for_backward(x, W, V, *starts)
        ctx.activation, ctx.block = activation, block
        return torch.cat(out).transpose(0, 1).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, W, V, *starts = ctx.saved_tensors
        D, E, block = V.shape[0], x.shape[1] // V.shape[0], ctx.block
        gt = g.transpose(0, 1)
        S = torch.zeros_like(starts[0])
        dW, dV, dx = [], [], []
        for s, a in zip(reversed(range(0, D, block)), reversed(starts), strict=True):
            e = min(s + block, D)
            xb, Wb, gb = x[:, s * E : e * E], W[s * E : e * E], gt[s:e]
            X, h = _hidden(xb, Wb, a, e - s, ctx.activation)
            dV.append(torch.bmm(gb.transpose(1, 2), h))
            # for one output the product with V is an outer one
            da = gb * V[s:e] if V.shape[1] == 1 else torch.bmm(gb, V[s:e])
            slope = torch.addcmul(h, h, h, value=-1) if ctx.activation == "sigmoid" else h > 0
            da = da.mul_(slope)
            flat = da.reshape(-1, da.shape[-1])
            dW.append(torch.addmm(xb.T @ S, X.T, flat))
            if ctx.needs_input_grad[0]:
                later = S + da.sum(0) - da.cumsum(0)
                dx.append(torch.bmm(later, Wb.view(e - s, E, -1).transpose(1, 2)))
            S = S + da.sum(0)
        dx = torch.cat(dx[::-1]).transpose(0, 1).reshape(x.shape) if dx else None
        return dx, torch.cat(dW[::-1]), S, torch.cat(dV[::-1]), None, None


def _hidden(x: Tensor, W: Tensor, a: Tensor, size: int, activation: str) -> tuple[Tensor, Tensor]:
    """X, (C B, C E), and the hidden units, (C, B, H), of a block of `size` variables."""
    below = torch.ones(size, size, dtype=x.dtype, device=x.device).tril(-1)
    below = below.repeat_interleave(x.shape[1] // size, dim=1)
    X = (below[:, None, :] * x).reshape(-1, x.shape[1])
    pre = (X @ W).view(size, x.shape[0], -1).add_(a)
    return X, pre.sigmoid_() if activation == "sigmoid" else pre.relu_()
