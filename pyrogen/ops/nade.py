"""The conditionals of NADE, with a backward pass of their own: in blocks of products, or variable by variable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pyrogen.errors import SettingsError
from pyrogen.ops import nade_loop

_GPU = 1 << 26
"""Bytes of one block of hidden units, which fill a GPU."""


def nade(x: Tensor, W: Tensor, a: Tensor, V: Tensor, activation: str = "sigmoid", block: int | None = None) -> Tensor:
    """All outputs of NADE, o_d = V_d s(a + sum over j < d of W_j x_j).

        block of C variables, a carried:   pre = X W_block + a,   X[c, b, j] = x[b, j] [j < c]
                                           o_c = V_c s(pre_c),    a <- a + x_block W_block
        backward, blocks in reverse, S = sum of da over all later variables:
                                           dW_j = x_j^T sum over d > j of da_d,   dx_j = (sum over d > j of da_d) W_j^T

    Only a at the beginnings of the blocks is kept, and pre computed again: memory is B H (C + D / C) instead of
    B H D. Gradients are those of the loop, in x too. On a CPU it is a loop over the variables inside each block, for
    so many rows at a time that a core's cache holds them: there products cost more than calls.

    For the sigmoid it is t = tanh(pre / 2) that is computed, s = (1 + t) / 2 and s' = (1 - t^2) / 4: on a CPU several
    times faster than torch's sigmoid. The halves go into W, a, V and the gradient.

    Shape: x is (B, D E), E numbers for each variable next to each other; W is (D E, H); a is (B, H), the bias;
    V is (D, F, H); gives (B, D, F).
    Source: Larochelle and Murray 2011, algorithm 1.

    Args:
        activation: "sigmoid" or "relu".
        block: C, in matrix products on a CPU too; None for what fits the device.
    """
    if activation not in ("sigmoid", "relu"):
        raise SettingsError(got=f"activation {activation!r}", need="'sigmoid' or 'relu'", fix="'sigmoid'")
    if block is None and x.is_cuda:
        block = max(1, _GPU // max(1, a.numel() * a.element_size()))
    if activation == "relu":
        return _nade(x, W, a, V, True, block or 0)[0]
    return (_nade(x, W / 2, a / 2, V, False, block or 0)[0] + V.sum(-1)) / 2


# one operation for torch, so that a traced step has one node and not thousands
@torch.library.custom_op("pyrogen::nade", mutates_args=())
def _nade(x: Tensor, W: Tensor, a: Tensor, V: Tensor, relu: bool, block: int) -> tuple[Tensor, Tensor]:
    """V_d act(a + ...) with act relu or tanh, (B, D, F), and a at the beginnings of the blocks, (K, B, H)."""
    if not block:
        return nade_loop.forward(x, W, a, V, relu)
    starts, out, E = [], [], x.shape[1] // len(V)
    for s in range(0, len(V), block):
        xb, Wb, Vb = x[:, s * E : (s + block) * E], W[s * E : (s + block) * E], V[s : s + block]
        starts.append(a)
        out.append(torch.bmm(_hidden(xb, Wb, a, len(Vb), relu)[1], Vb.transpose(1, 2)))
        a = torch.addmm(a, xb, Wb)
    return torch.cat(out).transpose(0, 1).contiguous(), torch.stack(starts)


@_nade.register_fake
def _(x: Tensor, W: Tensor, a: Tensor, V: Tensor, relu: bool, block: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), *V.shape[:2]), x.new_empty(-(-len(V) // (block or nade_loop.size(a))), *a.shape)


@torch.library.custom_op("pyrogen::nade_backward", mutates_args=())
def _nade_backward(
    g: Tensor, x: Tensor, W: Tensor, V: Tensor, starts: Tensor, relu: bool, block: int, wants_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx (empty unless wanted), dW, da and dV."""
    if not block:
        return nade_loop.backward(g, x, W, V, starts, relu, wants_x)
    E, S = x.shape[1] // len(V), torch.zeros_like(starts[0])
    gt = g.transpose(0, 1).contiguous()  # or what is made of it would be strided too
    dW, dV, dx = [], [], []
    for k in reversed(range(len(starts))):
        s = k * block
        xb, Wb, Vb, gb = x[:, s * E : (s + block) * E], W[s * E : (s + block) * E], V[s : s + block], gt[s : s + block]
        X, h = _hidden(xb, Wb, starts[k], len(Vb), relu)
        dV.append(torch.bmm(gb.transpose(1, 2), h))
        # for one output the product with V is an outer one
        da = nade_loop.slope(gb * Vb if V.shape[1] == 1 else torch.bmm(gb, Vb), h, relu)
        dW.append(torch.addmm(xb.T @ S, X.T, da.view(-1, da.shape[-1])))
        total = da.sum(0)
        if wants_x:
            later = S + total - da.cumsum(0)
            dx.append(torch.bmm(later, Wb.view(len(Vb), E, -1).transpose(1, 2)))
        S = S + total
    found = torch.cat(dx[::-1]).transpose(0, 1).reshape(x.shape) if wants_x else x.new_empty(0)
    return found, torch.cat(dW[::-1]), S, torch.cat(dV[::-1])


@_nade_backward.register_fake
def _(g: Tensor, x: Tensor, W: Tensor, V: Tensor, starts: Tensor, relu: bool, block: int, wants_x: bool) -> Any:
    dx = x.new_empty(x.shape if wants_x else 0)
    return dx, torch.empty_like(W), starts.new_empty(starts.shape[1:]), torch.empty_like(V)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, W, _, V, ctx.relu, ctx.block = inputs
    ctx.save_for_backward(x, W, V, output[1])
    ctx.mark_non_differentiable(output[1])


@once_differentiable
def _differentiate(ctx: Any, g: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, W, V, starts = ctx.saved_tensors
    wants_x = ctx.needs_input_grad[0]
    dx, dW, da, dV = _nade_backward(g, x, W, V, starts, ctx.relu, ctx.block, wants_x)
    return dx if wants_x else None, dW, da, dV, None, None


_nade.register_autograd(_differentiate, setup_context=_keep)


def _hidden(x: Tensor, W: Tensor, a: Tensor, size: int, relu: bool) -> tuple[Tensor, Tensor]:
    """X, (C B, C E), and the hidden units, (C, B, H), of a block of `size` variables."""
    below = torch.ones(size, size, dtype=x.dtype, device=x.device).tril(-1)
    below = below.repeat_interleave(x.shape[1] // size, dim=1)
    X = (below[:, None, :] * x).reshape(-1, x.shape[1])
    pre = (X @ W).view(size, x.shape[0], -1).add_(a)
    return X, nade_loop.activate(pre, relu)
