"""NADE's sums on a CPU: variable by variable, in memory that stays in a core's cache."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS, _BLOCK = 1 << 18, 1 << 20
"""Bytes of the hidden units of one variable, by which rows are taken at a time, and of those of a block."""


def forward(x: Tensor, W: Tensor, a: Tensor, V: Tensor, relu: bool) -> tuple[Tensor, Tensor]:
    """As `pyrogen.ops.nade._nade`: the outputs, (B, D, F), and a at the beginnings of the blocks, (K, B, H)."""
    D, F, H = V.shape
    C, step = size(a), _step(a)
    out, starts = x.new_empty(D, len(x), F), x.new_empty(-(-D // C), *a.shape)
    xs, Ws, Vs = _by_variable(x, D), W.view(D, -1, H).unbind(), V.transpose(1, 2).unbind()
    for i in range(0, len(x), step):
        now = a[i : i + step].clone()
        pre = now.new_empty(C, *now.shape)
        cells, columns, outs = pre.unbind(), [t[i : i + step] for t in xs], out[:, i : i + step].unbind()
        for k in range(len(starts)):
            s, e = k * C, min((k + 1) * C, D)
            starts[k, i : i + step] = now
            _walk(now, columns[s:e], Ws[s:e], cells)
            _add(cells[e - s - 1], columns[e - 1], Ws[e - 1], now)
            activate(pre[: e - s], relu)
            for d in range(s, e):
                torch.mm(cells[d - s], Vs[d], out=outs[d])
    return out.transpose(0, 1).contiguous(), starts


def backward(
    g: Tensor, x: Tensor, W: Tensor, V: Tensor, starts: Tensor, relu: bool, wants_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dx (empty unless wanted), dW, da and dV."""
    D, F, H = V.shape
    C, step = size(starts[0]), _step(starts[0])
    dW, dV, S = torch.zeros_like(W), torch.zeros_like(V), torch.zeros_like(starts[0])
    dx = x.new_empty(x.shape if wants_x else 0)
    dxs = dx.view(len(x), D, -1).unbind(1) if wants_x else []
    xs, Ws, dWs = _by_variable(x, D), W.view(D, -1, H).unbind(), dW.view(D, -1, H).unbind()
    gs = _by_variable(g.reshape(len(g), -1), D)
    for i in range(0, len(x), step):
        here = slice(i, i + step)
        now, columns = S[here], [t[here] for t in xs]
        pre = now.new_empty(C, *now.shape)
        cells = pre.unbind()
        for k in reversed(range(len(starts))):
            s, e = k * C, min((k + 1) * C, D)
            _walk(starts[k, here], columns[s:e], Ws[s:e], cells)
            h = activate(pre[: e - s], relu)
            gb = torch.stack([t[here] for t in gs[s:e]])
            dV[s:e].baddbmm_(gb.transpose(1, 2), h)
            # for one output the product of g with V is an outer one, and left to the last addition
            da = slope(V[s:e].expand_as(h) if F == 1 else torch.bmm(gb, V[s:e]), h, relu)
            for d, gd, one in zip(reversed(range(s, e)), reversed(gb.unbind()), reversed(da.unbind()), strict=True):
                dWs[d].addmm_(columns[d].T, now)
                if wants_x:
                    dxs[d][here] = now @ Ws[d].T
                if F == 1:
                    now.addcmul_(one, gd)
                else:
                    now.add_(one)
    return dx, dW, S, dV


def size(a: Tensor) -> int:
    """Variables of a block."""
    return max(1, _BLOCK // max(1, min(len(a), _step(a)) * a.shape[1] * a.element_size()))


def activate(pre: Tensor, relu: bool) -> Tensor:
    """relu or tanh, in place."""
    return pre.relu_() if relu else pre.tanh_()


def slope(g: Tensor, h: Tensor, relu: bool) -> Tensor:
    """g times the derivative of the activation whose value is h, in one pass."""
    return torch.ops.aten.threshold_backward(g, h, 0) if relu else torch.ops.aten.tanh_backward(g, h)


def _step(a: Tensor) -> int:
    return max(1, _ROWS // max(1, a.shape[1] * a.element_size()))


def _by_variable(x: Tensor, D: int) -> tuple[Tensor, ...]:
    """D tensors (B, E)."""
    return x.view(len(x), D, -1).transpose(0, 1).contiguous().unbind()


def _walk(a: Tensor, xs: list[Tensor], Ws: tuple[Tensor, ...], cells: tuple[Tensor, ...]) -> None:
    """What goes into the hidden units of each variable of a block."""
    cells[0].copy_(a)
    for c in range(len(xs) - 1):
        _add(cells[c], xs[c], Ws[c], cells[c + 1])


def _add(a: Tensor, x: Tensor, W: Tensor, out: Tensor) -> None:
    if x.shape[1] == 1:
        torch.addcmul(a, x, W, out=out)
    else:
        torch.addmm(a, x, W, out=out)
