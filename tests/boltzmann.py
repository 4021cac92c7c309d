"""Layers of every kind with all their states, by loops and quadrature: what the exact tests of machines sum over."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Bernoulli, Categorical, Gaussian, Machine, ReLU, Spin, Stack, Units


def _gaussian() -> Gaussian:
    units = Gaussian(2).double()
    with torch.no_grad():
        units.log_scale.copy_(torch.tensor([-0.3, 0.2]))
    return units


LAYERS: dict[str, Callable[[], Units]] = {
    "bernoulli": lambda: Bernoulli(3),
    "spin": lambda: Spin(3),
    "categorical": lambda: Categorical(2, 3),
    "gaussian": _gaussian,
    "relu": lambda: ReLU(2),
    "stack": lambda: Stack([Bernoulli(1), Categorical(1, 3), Spin(1)]),
    "mixed": lambda: Stack([Spin(2), ReLU(1)]),
}
COUNTABLE = ["bernoulli", "spin", "categorical", "stack"]
PAIRS = list(itertools.product(LAYERS, LAYERS))


def points(units: Units) -> tuple[Tensor, Tensor]:
    """All states, (S, width), and the logs of their weights in a sum or quadrature, (S,)."""
    if isinstance(units, Stack):
        return _product([points(layer) for layer in units.layers])  # pyright: ignore[reportArgumentType]
    if isinstance(units, Gaussian):
        # the trapezoid rule, exact to rounding for what decays like a normal
        one = torch.linspace(-12, 12, 65, dtype=torch.float64)[:, None]
        return _product([(one, torch.full((65,), 24 / 64, dtype=torch.float64).log())] * units.n)
    if isinstance(units, ReLU):
        x, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(40))
        return _product([(6 * (x + 1)[:, None], (6 * w).log())] * units.n)
    values = {Bernoulli: [[0.0], [1.0]], Spin: [[-1.0], [1.0]]}.get(type(units))
    if isinstance(units, Categorical):
        values = np.eye(units.n_states).tolist()
    one = torch.tensor(values, dtype=torch.float64)
    return _product([(one, torch.zeros(len(one), dtype=torch.float64))] * units.n)


def machine(visible: str | Units, hidden: str | Units, *, strength: float = 0.3, seed: int = 0) -> Machine:
    """A machine over two of the layers, float64, weak enough to be normalised whatever they are."""
    v = LAYERS[visible]() if isinstance(visible, str) else visible
    h = LAYERS[hidden]() if isinstance(hidden, str) else hidden
    noise = torch.Generator().manual_seed(seed)
    W, b, c = (torch.randn(*shape, generator=noise).double() for shape in ((v.width, h.width), (v.width,), (h.width,)))
    weaker = 1.0 if v.bounded or h.bounded else 0.5  # or quadrature would have to reach far
    return Machine(v, h, weaker * strength * W, 0.5 * b, 0.5 * c)


def log_joint(machine: Machine) -> tuple[Tensor, Tensor, Tensor]:
    """States v and h, and log f(v, h) with the weights of the sums, (S, T), from the definition of the energy."""
    (v, log_v), (h, log_h) = points(machine.visible), points(machine.hidden)
    interaction = torch.einsum("sv,vh,th->st", v, machine.W, h)
    left = machine.visible.base(v) + v @ machine.b + log_v
    right = machine.hidden.base(h) + h @ machine.c + log_h
    return v, h, (interaction + left[:, None] + right).detach()


def _product(layers: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    states, logs = layers[0]
    for x, log_w in layers[1:]:
        left, right = states.repeat_interleave(len(x), 0), x.repeat(len(states), 1)
        logs = (logs[:, None] + log_w).flatten()
        states = torch.cat([left, right], -1)
    return states, logs
