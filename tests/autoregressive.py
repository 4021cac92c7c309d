"""Small autoregressive networks of every kind and option, with strong weights, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyrogen.distributions import Autoregressive, BinaryConditional, LevelConditional, NormalConditional
from pyrogen.distributions.autoregressive import Conditional
from pyrogen.nn.autoregressive import (
    MaskedMLP,
    Members,
    NADENetwork,
    Network,
    OrderlessNetwork,
    make_orders,
    raster_orders,
)

Made = tuple[Network, Conditional]
BITS, LEVELS, REALS = BinaryConditional(), LevelConditional(3), NormalConditional(2)


def sizes(conditional: Conditional) -> dict[str, int]:
    return {"inputs": conditional.inputs, "outputs": conditional.outputs}


def made(width: int, hidden: tuple[int, ...], conditional: Conditional = BITS, n: int = 1, **options) -> Made:
    orders = make_orders(options.pop("order", "random"), width, n, seed=4)
    return MaskedMLP(width, orders, hidden, **sizes(conditional), **options), conditional


def nade(width: int, conditional: Conditional = BITS, **options) -> Made:
    return NADENetwork(width, make_orders("random", width, seed=4), 4, **sizes(conditional), **options), conditional


def orderless(width: int, conditional: Conditional = BITS, n: int = 1, **options) -> Made:
    orders = make_orders("random", width, n, seed=4)
    return OrderlessNetwork(width, orders, (5, 4), **sizes(conditional), **options), conditional


NETWORKS: dict[str, Callable[[], Made]] = {
    "fvbn": lambda: made(8, ()),
    "fvbn-levels": lambda: made(5, (), LEVELS),
    "made": lambda: made(8, (20,)),
    "made-natural-deep": lambda: made(7, (30, 20), order="natural", activation="tanh"),
    "made-narrow": lambda: made(8, (3, 2), direct=True),
    "made-random-degrees": lambda: made(8, (9, 9), degrees="random"),
    "made-orders": lambda: made(7, (30, 20), n=5, degrees="random", sees_mask=True, direct=True),
    "made-scan-orders": lambda: made(6, (20, 15), n=4, degrees="even", order=raster_orders((1, 2, 3), 4)),
    "made-members-orders": lambda: (Members([made(6, (12,), n=2, degrees="even")[0], made(6, (9,))[0]]), BITS),
    "made-levels": lambda: made(5, (12,), LEVELS, direct=True),
    "made-levels-numbers": lambda: made(5, (12,), LevelConditional(3, one_hot=False)),
    "made-context": lambda: made(6, (15,), context=2, direct=True),
    "made-one": lambda: made(1, (3,), direct=True),
    "made-one-deep": lambda: made(1, (4, 3, 3), context=2),
    "made-real": lambda: made(4, (12,), REALS, direct=True),
    "nade": lambda: nade(8),
    "nade-relu-levels": lambda: nade(5, LEVELS, activation="relu"),
    "nade-context": lambda: nade(6, context=2),
    "nade-real": lambda: nade(4, REALS),
    "orderless": lambda: orderless(7),
    "orderless-orders": lambda: orderless(6, n=3),
    "orderless-levels-context": lambda: orderless(4, LEVELS, context=2, activation="elu"),
}
DISCRETE = [name for name in NETWORKS if not name.endswith("real")]


def strong(network: nn.Module, scale: float = 1.0) -> None:
    """Weights from a standard normal: a leak or a lost mask then moves the sum over all states by far."""
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=source))


def joint(name: str) -> Autoregressive:
    """The joint of that network, with one context where it takes one."""
    network, conditional = NETWORKS[name]()
    network = network.double()
    strong(network)
    context = torch.tensor([0.7, -1.1], dtype=torch.float64) if network.context else None
    return Autoregressive(network, conditional, context)


def states(fn: Autoregressive) -> Tensor:
    """All of them, (S, D)."""
    return fn.enumerate_support().reshape(-1, fn.event_shape[0])
