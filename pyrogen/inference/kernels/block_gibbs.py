"""Block Gibbs sampling: all hidden units given the visible ones, then all visible units given the hidden ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann import Machine
from pyrogen.inference.kernels.kernel import HasMachine, Kernel, magnetisation, whole


class State(NamedTuple):
    v: Tensor  # (chains, V)
    h: Tensor  # (chains, H), what v was drawn from; the next sweep draws it anew


class Info(NamedTuple):
    energy: Tensor  # (chains,), E(v, h)
    magnetisation: Tensor  # (chains,), mean of the visible units
    flipped: Tensor  # (chains,), fraction of the visible entries that changed; near 0 means stuck


class BlockGibbs(Kernel):
    """h ~ p(h | v), then v ~ p(v | h), so many times a draw.

    Leaves p(v, h) invariant, and p(v) reversibly. Entries that are held stay, and the others follow their exact
    conditional p(. | held). Two matrix products a sweep; the energy takes none.

    Source: Smolensky 1986; Salakhutdinov and Hinton 2009 for the layers of a deep machine.

    Args:
        source: a Machine, or a model with a method `machine()`.
        sweeps: how many make one step; more of them cost less than as many draws that are kept.
        clamp: {"v": (mask, value), "h": (mask, value)}, see `read_clamp`.
    """

    def __init__(
        self,
        source: Machine | HasMachine,
        *,
        sweeps: int = 1,
        clamp: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__(source, clamp=clamp)
        self.sweeps = whole("sweeps", sweeps, 1)

    @torch.no_grad()
    def init(
        self, chains: int, *, values: Mapping[str, Tensor] | None = None, generator: Generator | None = None
    ) -> State:
        return State(*self._start(self.machine, whole("chains", chains, 1), values, generator))

    @torch.no_grad()
    def step(self, state: State, *, generator: Generator | None = None) -> tuple[State, Info]:
        machine, v, h, inputs = self.machine, state.v, state.h, state.v
        for _ in range(self.sweeps):
            h = self.clamp.h(machine.up(v, generator))
            inputs = machine.visible_input(h)
            v = self.clamp.v(machine.visible.sample(inputs, generator))
        info = Info(
            energy=energy_at(machine, v, h, inputs),
            magnetisation=magnetisation(machine.visible, v),
            flipped=(v != state.v).to(v.dtype).mean(-1),
        )
        return State(v, h), info

    def values(self, state: State) -> dict[str, Tensor]:
        return state._asdict()

    def replaced(self, state: State, values: Mapping[str, Tensor]) -> State:
        return state._replace(**values)

    def settings(self) -> dict[str, Any]:
        return {"sweeps": self.sweeps} | super().settings()


def energy_at(machine: Machine, v: Tensor, h: Tensor, inputs: Tensor) -> Tensor:
    """E(v, h) where `inputs` = b + W h is known, (...)."""
    return -machine.visible.base(v) - machine.hidden.base(h) - (v * inputs).sum(-1) - h @ machine.c
