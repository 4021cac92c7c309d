"""Small machines, their exact laws, units that draw what a test says, and all kernels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyrogen.distributions.boltzmann import Bernoulli, Machine, Units
from pyrogen.inference import BlockGibbs, Kernel, ParallelTempering

KERNELS: dict[str, Callable[..., Kernel]] = {
    "block gibbs": BlockGibbs,
    "tempering": lambda m, **how: ParallelTempering(m, rungs=3, **how),
    "tempering by joint energies": lambda m, **how: ParallelTempering(m, rungs=3, joint=True, **how),
}
"""One line for each kernel, and the tests of all kernels run on it."""


def machine(visible: Units | int = 3, hidden: Units | int = 2, *, scale: float = 1.0, seed: int = 0) -> Machine:
    """A machine with random weights in float64; an int is so many Bernoulli units."""
    visible = Bernoulli(visible) if isinstance(visible, int) else visible
    hidden = Bernoulli(hidden) if isinstance(hidden, int) else hidden
    g = torch.Generator().manual_seed(seed)
    shapes = (visible.width, hidden.width), (visible.width,), (hidden.width,)
    W, b, c = (scale * torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
    return Machine(visible.double(), hidden.double(), W, b, c)


def states_of(units: Units) -> Tensor:
    """All joint states, (count, width), float64."""
    return units.states(0, int(units.count), torch.zeros((), dtype=torch.float64))


def joint(m: Machine) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs of states and their probabilities: v (n, V), h (n, H), p (n,), by listing the energies."""
    v, h = states_of(m.visible), states_of(m.hidden)
    v, h = v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)
    energy = -(v * m.b).sum(-1) - (h * m.c).sum(-1) - torch.einsum("nv,vh,nh->n", v, m.W, h)
    return v, h, (-energy).softmax(0)


def number(x: Tensor, units: Units) -> Tensor:
    """The number of each state in `states_of`, (..., width) to (...)."""
    return (x[..., None, :].to(torch.float64) == states_of(units)).all(-1).int().argmax(-1)


class Scripted(Bernoulli):
    """Bernoulli units that draw what `script` says, and sum the log-probabilities of that in `log_p`.

    With all outcomes side by side as chains, a kernel's own code then computes its exact transition matrix.
    """

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.script: list[Tensor] = []
        self.log_p: Tensor | float = 0.0

    def sample(self, a: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = self.script.pop(0)
        self.log_p = self.log_p + (x * logsigmoid(a) + (1 - x) * logsigmoid(-a)).sum(-1)
        return x


def trap(visible: int = 10, coupling: float = 10.0) -> Machine:
    """Two modes of equal mass, nearly all zeros and nearly all ones, held apart by one hidden unit.

        -E = w (h - 1/2) (sum v - V / 2) + constant

    In a mode a visible unit is against it with probability sigmoid(-w / 2), and a sweep crosses only if half of them
    are, with 10 of them and w = 10 a few times in 10^9. At beta = 0 nothing is in the way.
    """
    W = torch.full((visible, 1), coupling, dtype=torch.float64)
    return Machine(Bernoulli(visible), Bernoulli(1), W, -W[:, 0] / 2, -W.sum(0) / 2)
