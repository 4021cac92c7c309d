"""A stack of planar maps, with a backward pass of its own: a few calls for each map, all else for all at once."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.functional import softplus

MARGIN = 1e-3
TINY = 1e-30
SHIFT = math.log(math.expm1(1 - MARGIN))


class Maps(NamedTuple):
    """What K maps are made of: u', (K, D, ...), and w and b in one, (K, D + 1, ...); the others are (K, ...)."""

    u: Tensor
    wb: Tensor
    c: Tensor  # w.u' = m(a)
    a: Tensor  # w.u
    r: Tensor  # (c - a) / |w|^2
    size: Tensor  # |w|^2


def maps(raw: Tensor) -> Maps:
    """u' = u + (m(a) - a) w / |w|^2 with a = w.u and m(a) = softplus(a + SHIFT) - 1 + MARGIN, of K rows u, w, b.

    Shape: raw is (K, 2D + 1, ...).
    """
    D = raw.shape[1] // 2
    u, w = raw[:, :D], raw[:, D : 2 * D]
    a, size = (u * w).sum(1), (w * w).sum(1).clamp(min=TINY)
    c = softplus(a + SHIFT) - (1 - MARGIN)
    r = (c - a) / size
    return Maps(torch.addcmul(u, r[:, None], w), raw[:, D:], c, a, r, size)


def planars(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """K planar maps, the first one first, and the sum of their log-determinants.

        x_k = x_(k-1) + u'_k t_k,   t_k = tanh(w_k.x_(k-1) + b_k),   sum_k log(1 + w_k.u'_k (1 - t_k^2))

    What is computed map by map is t and x alone, in four operations each, and backwards in four, the gradient for x:

        G_(k-1) = G_k + w_k d_k,   d_k = (1 - t_k^2) (u'_k.G_k + dl_k / dt_k)

    The gradients for u', w and b follow from all G, d, x and t at once. Second and forward derivatives are taken map by
    map, by autograd.

    Shape: x is (D, ...), raw is (K, 2D + 1, ...): u, w and b of every map, and what comes after is broadcast; gives
    (D, ...) and (...). The rows come last because sums over D then are sums of long vectors.
    Source: Rezende and Mohamed 2015, arXiv:1505.05770, equations 10 to 12 and appendix A.1.
    """
    dims = max(x.dim() - 1, raw.dim() - 2)
    batch = torch.broadcast_shapes(x.shape[1:], raw.shape[2:])
    x = x.reshape(x.shape[:1] + (1,) * (dims - x.dim() + 1) + x.shape[1:]).expand(x.shape[0], *batch)
    raw = raw.reshape(raw.shape[:2] + (1,) * (dims - raw.dim() + 2) + raw.shape[2:])
    if _transformed(x, raw):
        return _plainly(x, raw)
    keep = torch.is_grad_enabled() and (x.requires_grad or raw.requires_grad)
    y, log_det, *_ = _planars(x, raw, keep)
    return y, log_det


def _transformed(*tensors: Tensor) -> bool:
    """Whether forward derivatives are asked for, or torch.func is at work: the operation does not know of them."""
    within = getattr(torch._C._functorch, "peek_interpreter_stack", lambda: None)() is not None  # pyright: ignore
    return within or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _plainly(x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
    """The same by torch's operations, which have derivatives of every kind."""
    D, made = len(x), maps(raw)
    total = x.new_zeros(())
    for u, wb, c in zip(made.u.unbind(), made.wb.unbind(), made.c.unbind(), strict=True):
        t = torch.tanh((wb[:D] * x).sum(0) + wb[D])
        x = x + u * t
        total = total + torch.log1p(c * (1 - t) * (1 + t))
    return x, total


# one operation for torch, so that a traced step has one node and not hundreds
@torch.library.custom_op("pyrogen::planars", mutates_args=())
def _planars(x: Tensor, raw: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the log-determinant, and for the way back, or else empty, the points between with a one below and t."""
    D, K = len(x), len(raw)
    u, wb, c, *_ = maps(raw)
    # a row of ones under the points makes b a part of w
    points = x.new_ones(K + 1 if keep else 2, D + 1, *x.shape[1:])
    points[0, :D] = x
    t, product = x.new_empty(K, *x.shape[1:]), torch.empty_like(points[0])
    whole, inner = points.unbind(), points[:, :D].unbind()
    for k, (u_k, wb_k, t_k) in enumerate(zip(u.unbind(), wb.unbind(), t.unbind(), strict=True)):
        now, then = k % len(points), (k + 1) % len(points)
        torch.mul(whole[now], wb_k, out=product)
        torch.sum(product, 0, out=t_k)
        torch.addcmul(inner[now], u_k, t_k.tanh_(), out=inner[then])
    log_det = torch.log1p(c * (1 - t) * (1 + t)).sum(0)
    y = inner[K % len(points)].clone()
    return y, log_det, points if keep else x.new_empty(0), t if keep else x.new_empty(0)


@_planars.register_fake
def _(x: Tensor, raw: Tensor, keep: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    D, K, batch = len(x), len(raw), x.shape[1:]
    kept = (x.new_empty(K + 1, D + 1, *batch), x.new_empty(K, *batch)) if keep else (x.new_empty(0), x.new_empty(0))
    return x.new_empty(x.shape), x.new_empty(batch), *kept


@torch.library.custom_op("pyrogen::planars_backward", mutates_args=())
def _planars_backward(gy: Tensor, gl: Tensor, raw: Tensor, points: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """dx and draw."""
    D, made = len(gy), maps(raw)
    slope = (1 - t) * (1 + t)
    # of the log-determinants
    dc = gl / (1 + made.c * slope)
    dt = (-2 * slope) * dc * made.c * t
    dc = dc * slope
    G, d, product = gy.new_empty(len(t) + 1, *gy.shape), torch.empty_like(t), gy.new_empty(gy.shape)
    G[-1] = gy
    steps = zip(G[1:].unbind(), G[:-1].unbind(), made.u.unbind(), made.wb[:, :D].unbind(), strict=True)
    cells = zip(d.unbind(), dt.unbind(), slope.unbind(), strict=True)
    for (g, before, u, w), (d_k, dt_k, slope_k) in zip(reversed([*steps]), reversed([*cells]), strict=True):
        torch.mul(g, u, out=product)
        torch.sum(product, 0, out=d_k)
        torch.addcmul(dt_k, d_k, slope_k, out=d_k)
        torch.addcmul(g, w, d_k, out=before)
    dx, out = G[0].clone(), torch.empty_like(raw)
    if raw.shape[2:] == t.shape[1:]:  # into where it belongs: large new memory costs more than the product
        torch.mul(points[:-1], d[:, None], out=out[:, D:])
    else:
        out[:, D:] = (points[:-1] * d[:, None]).sum_to_size(made.wb.shape)
    du = _sum_to(G[1:].mul_(t[:, None]), made.u.shape)
    return dx, _through_maps(du, _sum_to(dc, made.c.shape), raw, made, out)


@_planars_backward.register_fake
def _(gy: Tensor, gl: Tensor, raw: Tensor, points: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(gy, memory_format=torch.contiguous_format), raw.new_empty(raw.shape)


def _through_maps(du: Tensor, dc: Tensor, raw: Tensor, made: Maps, out: Tensor) -> Tensor:
    """The gradient for u, w and b from those for u' and c, and for w and b, which are in `out` already."""
    D = du.shape[1]
    u, w, for_u, for_w = raw[:, :D], raw[:, D : 2 * D], out[:, :D], out[:, D : 2 * D]
    p = torch.mul(du, w, out=for_u).sum(1) / made.size  # for c - a
    da = (dc + p) * torch.sigmoid(made.a + SHIFT) - p
    torch.addcmul(du, da[:, None], w, out=for_u)
    # |w|^2 is a constant where it is clamped; there p w is nothing
    for_w.addcmul_(du, made.r[:, None]).addcmul_(u, da[:, None]).addcmul_(w, (-2 * made.r * p)[:, None])
    return out


def _sum_to(g: Tensor, shape: torch.Size) -> Tensor:
    return g if g.shape == shape else g.sum_to_size(shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, raw, _ = inputs
    *_, points, t = output
    ctx.save_for_backward(x, raw, points, t)
    ctx.mark_non_differentiable(points, t)


def _differentiate(ctx: Any, gy: Tensor, gl: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    x, *saved = ctx.saved_tensors
    if not torch.is_grad_enabled():
        return *_planars_backward(gy, gl, *saved), None
    wanted = [tensor for tensor in (x, saved[0]) if tensor.requires_grad]
    found = iter(torch.autograd.grad(_plainly(x, saved[0]), wanted, (gy, gl), create_graph=True))
    return *(next(found) if tensor.requires_grad else None for tensor in (x, saved[0])), None


_planars.register_autograd(_differentiate, setup_context=_keep)


def _rows_last(size: int, dims: tuple[int | None, ...], *tensors: Any) -> list[Any]:
    """Tensors with the dimension that vmap maps over at their end, whether they had it or not."""
    return [
        t if not isinstance(t, Tensor) else t[..., None].expand(*t.shape, size) if d is None else t.movedim(d, -1)
        for t, d in zip(tensors, dims, strict=True)
    ]


@_planars_backward.register_vmap
def _(info: Any, dims: Any, *tensors: Tensor) -> Any:
    dx, draw = _planars_backward(*_rows_last(info.batch_size, dims, *tensors))
    return (dx, draw), (dx.dim() - 1, draw.dim() - 1)
