"""Make a traced graph smaller without changing a bit of what it computes."""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx

aten = torch.ops.aten


def simplify(graph: fx.Graph) -> None:
    """Take out copies of a view, products with one, and what is computed twice or for nothing.

    Random draws are kept, used or not, in their order: the random state moves as it did in the trace.
    """
    if not _writes(graph):
        for node in graph.nodes:
            same = _alias(node)
            if same is not None:
                node.replace_all_uses_with(same)
        _merge(graph)
        _separate(graph)
    graph.eliminate_dead_code()


def is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _writes(graph: fx.Graph) -> bool:
    """Whether anything but fresh memory is written to: then an equal expression may have another value later."""
    return any(
        _is_mutable(node) and not (is_random(node) and node.args[0].target in _FRESH)
        for node in graph.nodes
        if node.op == "call_function"
    )


def _is_mutable(node: fx.Node) -> bool:
    # batch norms write to their running statistics, and their schemas do not say so
    return isinstance(node.target, torch._ops.OpOverload) and (
        node.target._schema.is_mutable or "batch_norm" in node.target.name()
    )


_FRESH = (aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default, aten.empty_strided.default)


def _alias(node: fx.Node) -> fx.Node | None:
    """The earlier node with the same values, shape, strides and dtype, if this one only renames it."""
    source = _ALIASES.get(node.target, lambda _: None)(node)
    if not isinstance(source, fx.Node):
        return None
    a, b = source.meta.get("val"), node.meta.get("val")
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return None
    return source if (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype) else None


def _first(node: fx.Node) -> object:
    return node.args[0]


def _twice(node: fx.Node) -> object:
    inner = node.args[0]
    return inner.args[0] if isinstance(inner, fx.Node) and inner.target is aten.t.default else None


def _times_one(node: fx.Node) -> object:
    return node.args[0] if isinstance(node.args[1], float) and node.args[1] == 1.0 else None


_ALIASES: dict[object, Callable[[fx.Node], object]] = {
    aten.detach.default: _first,
    aten.alias.default: _first,
    aten.view.default: _first,
    aten.expand.default: _first,
    aten.t.default: _twice,
    aten.mul.Tensor: _times_one,
    aten.div.Tensor: _times_one,
    aten.pow.Tensor_Scalar: _times_one,
}


def _merge(graph: fx.Graph) -> None:
    """One node for equal operations on equal arguments."""
    seen: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "call_function" or is_random(node) or node.target in _FRESH:
            continue
        # the text tells 1 from 1.0 and from True, which are equal as keys; names of nodes are unique
        first = seen.setdefault(f"{node.target} {node.args} {node.kwargs}", node)
        if first is not node:
            node.replace_all_uses_with(first)


def _separate(graph: fx.Graph) -> None:
    """Give every result memory of its own: a gradient is clipped in place."""
    output = next(reversed(graph.nodes))
    owners: set[fx.Node] = set()
    results = list(output.args[0])
    for i, node in enumerate(results):
        if isinstance(node, fx.Node):
            owner = _owner(node)
            if owner in owners or owner.op != "call_function":
                with graph.inserting_before(output):
                    results[i] = graph.call_function(aten.clone.default, (node,))
            owners.add(owner)
    output.args = (tuple(results),)


def _owner(node: fx.Node) -> fx.Node:
    """The node whose memory this one shows, through views of views."""
    while node.op == "call_function" and (node.target is operator.getitem or _is_view(node.target)):
        node = node.args[0]  # pyright: ignore[reportAssignmentType]
    return node


def _is_view(target: object) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target.is_view
