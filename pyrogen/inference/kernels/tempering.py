"""Parallel tempering: copies of a chain at many temperatures, all one batch, that exchange their temperatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann import Machine
from pyrogen.errors import SettingsError, ShapeError
from pyrogen.inference.kernels.block_gibbs import energy_at
from pyrogen.inference.kernels.kernel import HasMachine, Kernel, magnetisation, whole
from pyrogen.inference.kernels.ladder import Ladder, fresh, read_betas

_FROM_BASE, _FROM_TARGET = 1, 2


class State(NamedTuple):
    v: Tensor  # (chains, rungs, V), by replica: a swap moves temperatures, not states
    h: Tensor  # (chains, rungs, H), what v was drawn from
    rung: Tensor  # (chains, rungs), where on the ladder each replica is; a permutation
    leg: Tensor  # (chains, rungs), the end of the ladder that each replica saw last: 1 base, 2 target after the base
    ladder: Ladder
    turn: int  # even and odd pairs take turns


class Info(NamedTuple):
    energy: Tensor  # (chains,), E(v, h) at the target
    magnetisation: Tensor  # (chains,), mean of the visible units at the target
    flipped: Tensor  # (chains,), fraction of the target's visible entries that changed
    accepted: Tensor  # (chains, rungs - 1), probability that a swap of each pair is accepted
    round_trips: Tensor  # (chains,), replicas that came back to the base from the target in this step


class ParallelTempering(Kernel):
    """Replicas at inverse temperatures 0 = beta_1 < ... < beta_R = 1 on the path of `Machine.tempered`.

        target   prod_r f_{beta_r}(v_r) / Z_{beta_r},     f_beta(v) = exp(-F_beta(v))
        swap     r and r + 1 exchange temperatures with probability min(1, exp(a)),
                 a = F_r(v_r) + F_{r+1}(v_{r+1}) - F_r(v_{r+1}) - F_{r+1}(v_r)

    F_beta is the free energy of the tempered machine and not beta F: the hidden units are summed out at beta. Where
    hidden units are held, the swap is that of the joint states, a = (beta_r - beta_{r+1}) (U_r - U_{r+1}), in which U
    is the part of the energy that beta multiplies. At beta = 0 the visible units are independent, so that every
    replica that comes by the base starts anew.

    A step is, so many times: swaps of the even pairs or, in turn, of the odd ones, then a sweep of every replica. Both
    need c + v W, which is computed once. In the warm-up the ladder moves until all pairs reject alike; then it stays,
    and the target is exactly that above.

    Source: Geyer 1991; Hukushima and Nemoto 1996; Syed, Bouchard-Cote, Deligiannidis and Doucet 2022,
    arXiv:1905.02939, for alternating pairs, the ladder and round trips; Cho, Raiko and Ilin 2010 for machines.

    Args:
        source: a Machine, or a model with a method `machine()`.
        rungs: R; 16 where betas are not given.
        betas: the ladder to start from, (R,), instead of `rungs` evenly spaced ones.
        base: visible bias at beta = 0, (V,); `machine.visible.bias_of(rows.mean(0), len(rows))` takes that of the data.
        adapt: whether the warm-up moves the ladder.
        joint: swap by the joint energy although the free energy, which accepts more, would do.
        sweeps: how many swaps and sweeps make one step.
        clamp: {"v": (mask, value), "h": (mask, value)}, held in every replica.
    """

    summed: ClassVar[frozenset[str]] = frozenset({"round_trips"})

    def __init__(
        self,
        source: Machine | HasMachine,
        *,
        rungs: int | None = None,
        betas: Tensor | None = None,
        base: Tensor | None = None,
        adapt: bool = True,
        joint: bool = False,
        sweeps: int = 1,
        clamp: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__(source, clamp=clamp)
        self.betas = read_betas(rungs, betas)
        self.base, width = base, self.machine.visible.width
        if base is not None and tuple(base.shape) != (width,):
            raise ShapeError(
                got=f"base of shape {tuple(base.shape)}", need=f"({width},)", fix="one bias a visible unit"
            )
        if base is not None and not bool(base.isfinite().all()):
            raise SettingsError(
                got="a base with NaN or infinite entries", need="finite biases", fix="units.bias_of(...)"
            )
        self.adapt, self.joint, self.sweeps = adapt, joint, whole("sweeps", sweeps, 1)

    @torch.no_grad()
    def init(
        self, chains: int, *, values: Mapping[str, Tensor] | None = None, generator: Generator | None = None
    ) -> State:
        machine, rungs = self.machine, len(self.betas)
        v, h = self._start(machine, whole("chains", chains, 1), values, generator)
        rung = torch.arange(rungs, device=v.device).expand(chains, rungs).contiguous()
        ladder = fresh(self.betas.to(machine.W))
        start = v[:, None].expand(chains, rungs, v.shape[1])
        if not values:  # every replica from its own place
            fresh_v = machine.visible.sample(torch.zeros_like(start), generator)
            start = torch.cat([self.clamp.v(fresh_v)[:, :-1], start[:, -1:]], 1)
        leg = torch.where(rung == 0, _FROM_BASE, 0)
        return State(start.contiguous(), h[:, None].repeat(1, rungs, 1), rung, leg, ladder, 0)

    @torch.no_grad()
    def step(self, state: State, *, generator: Generator | None = None) -> tuple[State, Info]:
        machine, before = self.machine, _at_target(state.rung)
        old, accepted, trips = _pick(state.v, before), [], []
        for _ in range(self.sweeps):
            state, rates, returned = self._swap_and_sweep(machine, state, generator)
            accepted.append(rates)
            trips.append(returned)
        target = _at_target(state.rung)
        v, h = _pick(state.v, target), _pick(state.h, target)
        info = Info(
            energy=energy_at(machine, v, h, machine.visible_input(h)),
            magnetisation=magnetisation(machine.visible, v),
            flipped=(v != old).to(v.dtype).mean(-1),
            accepted=torch.stack(accepted).mean(0),
            round_trips=torch.stack(trips).sum(0).to(v.dtype),
        )
        return state, info

    def adapted(self, state: State, info: Info, step: int, steps: int) -> State:
        """Rounds of 1, 2, 4, ... steps; the betas move at the end of each, from what that round saw."""
        if not self.adapt:
            return state
        ladder = state.ladder.with_rates(info.accepted)
        if (step + 2).bit_count() == 1:
            ladder = fresh(ladder.retuned().betas)
        return state._replace(ladder=ladder)

    def values(self, state: State) -> dict[str, Tensor]:
        target = _at_target(state.rung)
        return {"v": _pick(state.v, target), "h": _pick(state.h, target)}

    def replaced(self, state: State, values: Mapping[str, Tensor]) -> State:
        at = (state.rung == state.rung.shape[1] - 1).unsqueeze(-1)
        new = {name: torch.where(at, x[:, None].to(state.v), getattr(state, name)) for name, x in values.items()}
        return state._replace(**new)

    def settings(self) -> dict[str, Any]:
        return {"rungs": len(self.betas), "sweeps": self.sweeps, "adapt": self.adapt} | super().settings()

    def report(self, state: State, means: Mapping[str, Tensor]) -> dict[str, Any]:
        """The ladder and how replicas move on it. `barrier`, the sum of the pairs' rejection rates, hardly depends on
        the ladder; with 2 barrier + 1 rungs the swaps are used best."""
        accepted = means["accepted"]
        return {
            "betas": state.ladder.betas.tolist(),
            "swap_rates": accepted.tolist(),
            "barrier": float((1 - accepted).sum()),
            "round_trips_per_draw": float(means["round_trips"]),
        }

    def _swap_and_sweep(
        self, machine: Machine, state: State, generator: Generator | None
    ) -> tuple[State, Tensor, Tensor]:
        """(state, acceptance of all pairs (chains, rungs - 1), round trips (chains,))."""
        v, betas = state.v, state.ladder.betas
        base = machine.b.new_zeros(()) if self.base is None else self.base.to(machine.b)
        slope = v @ (machine.b - base)  # what beta multiplies of the linear part in v, (chains, rungs)
        x = machine.hidden_input(v)
        if self.joint or self.clamp.hidden is not None:
            h = self._draw_hidden(machine, betas[state.rung], x, generator)
            log_accept = _joint_log_accept(betas, state.rung, slope + (h * x).sum(-1))
            rung, rates = _swapped(state.rung, log_accept, state.turn, generator)
        else:
            log_accept = _marginal_log_accept(machine, betas, state.rung, slope, x)
            rung, rates = _swapped(state.rung, log_accept, state.turn, generator)
            h = self._draw_hidden(machine, betas[rung], x, generator)
        beta = betas[rung].unsqueeze(-1)
        v = self.clamp.v(machine.visible.sample((1 - beta) * base + beta * machine.visible_input(h), generator))
        leg, returned = _travelled(state.leg, rung)
        return State(v, h, rung, leg, state.ladder, state.turn + 1), rates, returned

    def _draw_hidden(self, machine: Machine, beta: Tensor, x: Tensor, generator: Generator | None) -> Tensor:
        return self.clamp.h(machine.hidden.sample(beta.unsqueeze(-1) * x, generator))


def _joint_log_accept(betas: Tensor, rung: Tensor, slope: Tensor) -> Tensor:
    """(beta_r - beta_{r+1}) (U_r - U_{r+1}) with U = -slope, (chains, rungs - 1)."""
    up = slope.gather(1, _by_rung(rung))
    return betas.diff() * -up.diff(dim=1)


def _marginal_log_accept(machine: Machine, betas: Tensor, rung: Tensor, slope: Tensor, x: Tensor) -> Tensor:
    """F_r(v_r) + F_{r+1}(v_{r+1}) - F_r(v_{r+1}) - F_{r+1}(v_r), (chains, rungs - 1)."""
    last, replica = len(betas) - 1, _by_rung(rung)

    def log_f(at: Tensor) -> Tensor:
        beta = betas[at.clamp(0, last)]
        return (beta * slope + machine.hidden.cumulant(beta.unsqueeze(-1) * x)).gather(1, replica)

    here, above, below = log_f(rung), log_f(rung + 1), log_f(rung - 1)
    return below[:, 1:] + above[:, :-1] - here[:, :-1] - here[:, 1:]


def _swapped(rung: Tensor, log_accept: Tensor, turn: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
    """The rungs after the pairs of this turn were tried, and the probability of every pair."""
    chains, pairs = log_accept.shape
    u = torch.rand(chains, pairs, dtype=log_accept.dtype, device=log_accept.device, generator=generator)
    mine = torch.arange(pairs, device=rung.device) % 2 == turn % 2
    accept = (mine & (u.log() < log_accept)).to(rung.dtype)
    none = accept.new_zeros(chains, 1)
    # rung r goes one up where the pair above it is swapped, one down where the pair below is
    move = torch.cat([accept, none], 1) - torch.cat([none, accept], 1)
    return rung + move.gather(1, rung), log_accept.clamp(max=0).exp()


def _travelled(leg: Tensor, rung: Tensor) -> tuple[Tensor, Tensor]:
    """The leg of each replica after a move, and how many came back to the base by way of the target, (chains,)."""
    base, target = rung == 0, rung == rung.shape[1] - 1
    returned = (base & (leg == _FROM_TARGET)).sum(1)
    leg = torch.where(base, _FROM_BASE, torch.where(target & (leg == _FROM_BASE), _FROM_TARGET, leg))
    return leg, returned


def _by_rung(rung: Tensor) -> Tensor:
    """The replica at each rung: the inverse permutation."""
    return torch.empty_like(rung).scatter_(1, rung, torch.arange(rung.shape[1], device=rung.device).expand_as(rung))


def _at_target(rung: Tensor) -> Tensor:
    """The replica at the target, (chains,)."""
    return (rung == rung.shape[1] - 1).int().argmax(1)


def _pick(x: Tensor, replica: Tensor) -> Tensor:
    """(chains, rungs, width) at one replica a chain, (chains, width)."""
    return x[torch.arange(len(x), device=x.device), replica]
