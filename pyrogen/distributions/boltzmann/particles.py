"""How the negative particles of a Boltzmann machine move: what turns -F(v) into a gradient of log p(v).

    d log p(v) = -dF(v) + E_model[dF],      E_model[dF] is the mean over the particles at their last v

The particles carry hidden states, and are buffers: `state_dict`, checkpoints and resumption hold them. Their number
has nothing to do with that of the rows, so that a short batch neither drops nor weighs them otherwise.

Source: Hinton 2002 (CD); Tieleman 2008 (PCD); Tieleman and Hinton 2009 (fast weights); Desjardins et al. 2010 and
Cho, Raiko and Ilin 2010 (tempering).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyrogen.distributions.boltzmann.exact import log_partition
from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.errors import SettingsError, ShapeError


class Negative(NamedTuple):
    """Particles where a gradient is taken."""

    v: Tensor  # (M, V)
    a: Tensor  # (M, H), the hidden input c + v W at that v
    weight: Tensor | None = None  # (M,), summing to 1; 1 / M unless given


class Particles(nn.Module, ABC):
    """A way to the gradient of log Z."""

    def begin(self, machine: Machine) -> None:
        """Make the particles, if there are none yet."""

    @abstractmethod
    def log_z(self, machine: Machine, v: Tensor, weight: Tensor | None = None) -> Tensor:
        """A number whose gradient estimates that of log Z; the rows v, (..., V), are where chains may start.

        The number itself is not log Z, except where the docstring of a class says so. It is (), or (...) where each row
        has a particle of its own, which counts as often as the row does. `weight` as in `Moving.negative`.
        """


class Moving(Particles):
    """Particles that are draws: log Z's gradient is that of the mean of -F over them."""

    @abstractmethod
    def negative(self, machine: Machine, v: Tensor, a: Tensor | None = None, weight: Tensor | None = None) -> Negative:
        """Move the particles and give them, without gradients.

        Args:
            v: the rows, (N, V).
            a: c + v W of the rows, (N, H), if it is known already.
            weight: of each row, (N,), summing to 1; 1 / N unless given.
        """

    def log_z(self, machine: Machine, v: Tensor, weight: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            negative = self.negative(machine, v.detach().reshape(-1, v.shape[-1]), weight=weight)
        return (-machine.free_energy(negative.v)).mean()


class Exact(Particles):
    """No particles: log Z and its gradient from all states of the smaller layer."""

    def log_z(self, machine: Machine, v: Tensor, weight: Tensor | None = None) -> Tensor:
        """log Z itself.

        Raises:
            SettingsError: both layers are too large to list.
        """
        return log_partition(machine).to(machine.W.dtype)


class Contrastive(Moving):
    """CD-k: k sweeps from the rows themselves. Biased, and quiet: the particles are near the data.

    Each particle has the weight of its row. If all counted alike, rows that weigh nothing would push the machine away.
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = _count("k", k)

    @torch.no_grad()
    def negative(self, machine: Machine, v: Tensor, a: Tensor | None = None, weight: Tensor | None = None) -> Negative:
        h = machine.hidden.sample(machine.hidden_input(v) if a is None else a)
        negative, _ = _sweeps(machine, h, self.k, last=False)
        return negative._replace(weight=weight)

    def log_z(self, machine: Machine, v: Tensor, weight: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            negative = self.negative(machine, v.detach().reshape(-1, v.shape[-1]), weight=weight)
        return -machine.free_energy(negative.v).reshape(v.shape[:-1])

    def extra_repr(self) -> str:
        return f"k={self.k}"


class Persistent(Moving):
    """PCD-k: chains that go on from where the last step left them, k sweeps a step."""

    h: Tensor | None

    def __init__(self, k: int = 1, chains: int = 100) -> None:
        super().__init__()
        self.k, self.chains = _count("k", k), _count("chains", chains)
        self.register_buffer("h", None)  # (chains, H), drawn given the v of the last step

    def begin(self, machine: Machine) -> None:
        if self.h is None:
            with torch.no_grad():
                self.h = machine.hidden.sample(machine.c.detach().expand(self.chains, -1)).contiguous()

    @torch.no_grad()
    def negative(self, machine: Machine, v: Tensor, a: Tensor | None = None, weight: Tensor | None = None) -> Negative:
        return self._go_on(machine)

    def _go_on(self, machine: Machine) -> Negative:
        self.begin(machine)
        h = _fitting(self.h, machine)
        negative, h = _sweeps(machine, h, self.k)
        self.h = h
        return negative

    def extra_repr(self) -> str:
        return f"k={self.k}, chains={self.chains}"


class FastPersistent(Persistent):
    """PCD whose chains feel fast weights on top of the machine's own, which push them away from where they are.

        fast <- decay fast + rate (moments of the rows - moments of the particles),   sampling with W + fast

    The statistics are those of the machine itself at the particles' v.
    """

    fast_weights: Tensor | None
    fast_b: Tensor | None
    fast_c: Tensor | None

    def __init__(self, k: int = 1, chains: int = 100, rate: float = 0.01, decay: float = 0.95) -> None:
        super().__init__(k, chains)
        if not rate > 0 or not 0 <= decay < 1:
            raise SettingsError(got=f"rate={rate}, decay={decay}", need="rate > 0, 0 <= decay < 1", fix="0.01, 0.95")
        self.rate, self.decay = rate, decay
        for name in ("fast_weights", "fast_b", "fast_c"):
            self.register_buffer(name, None)

    def begin(self, machine: Machine) -> None:
        super().begin(machine)
        if self.fast_weights is None:
            self.fast_weights, self.fast_b, self.fast_c = (
                torch.zeros_like(tensor.detach()) for tensor in (machine.W, machine.b, machine.c)
            )

    @torch.no_grad()
    def negative(self, machine: Machine, v: Tensor, a: Tensor | None = None, weight: Tensor | None = None) -> Negative:
        self.begin(machine)
        W, b, c = (fast for fast in (self.fast_weights, self.fast_b, self.fast_c) if fast is not None)
        moved = self._go_on(replace(machine, W=machine.W + W, b=machine.b + b, c=machine.c + c))
        negative = Negative(moved.v, machine.hidden_input(moved.v))
        change = moments(machine, v, machine.hidden_input(v) if a is None else a, negative, weight)
        for fast, step in zip((W, b, c), change, strict=True):
            fast.mul_(self.decay).add_(step, alpha=self.rate)
        return negative

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rate={self.rate}, decay={self.decay}"


class Tempered(Moving):
    """PT-PCD: on each of `rungs` temperatures as many chains, one batch; neighbours exchange their temperatures.

        log f_beta(v, h) = base(v) + base(h) + v a + beta e(v, h),   e = v (b - a) + h (c + v W)
        accept an exchange of beta_i and beta_j with probability min(1, exp((beta_i - beta_j) (e_j - e_i)))

    The chains at beta = 1 are the particles. Temperatures move, states stay: `rung` says who has which.

    Args:
        k: sweeps a step, each followed by proposals to all pairs of neighbours.
        chains: on each rung.
        rungs: temperatures from 0, where units are independent with visible bias a, `base`, to 1.
    """

    h: Tensor | None
    rung: Tensor
    base: Tensor | None
    accepted: Tensor
    betas: Tensor

    def __init__(self, k: int = 1, chains: int = 100, rungs: int = 10) -> None:
        super().__init__()
        self.k, self.chains, self.rungs = _count("k", k), _count("chains", chains), _count("rungs", rungs)
        if rungs < 2:
            raise SettingsError(got="one rung", need="at least two", fix="Persistent, which has one temperature")
        self.register_buffer("betas", torch.linspace(0, 1, rungs))
        self.register_buffer("rung", torch.arange(rungs)[:, None].repeat(1, chains))  # (R, M)
        self.register_buffer("accepted", torch.zeros(rungs - 1))  # exchanges between rungs r and r + 1, recent rate
        self.register_buffer("base", None)
        self.register_buffer("h", None)  # (R M, H)

    def begin(self, machine: Machine) -> None:
        if self.h is None:
            with torch.no_grad():
                self.h = machine.hidden.sample(machine.c.detach().expand(self.rungs * self.chains, -1)).contiguous()
        if self.base is None:
            self.base = torch.zeros_like(machine.b.detach())

    @torch.no_grad()
    def negative(self, machine: Machine, v: Tensor, a: Tensor | None = None, weight: Tensor | None = None) -> Negative:
        self.begin(machine)
        h, base = _fitting(self.h, machine), self.base
        x = v
        for _ in range(self.k):
            beta = self.betas[self.rung].reshape(-1).to(h.dtype)
            v = machine.tempered(beta, base).down(h)
            x = machine.hidden_input(v)
            h = machine.hidden.sample(beta[:, None] * x)
            self._exchange(v @ (machine.b - (0 if base is None else base)) + (h * x).sum(-1))
        self.h = h
        slot = (self.rung == self.rungs - 1).byte().argmax(0)
        at_one = slot * self.chains + torch.arange(self.chains, device=h.device)
        return Negative(v[at_one], x[at_one])

    def _exchange(self, e: Tensor) -> None:
        """Propose to swap the temperatures of rungs (0, 1), (2, 3), ..., then of (1, 2), (3, 4), ..."""
        order = self.rung.argsort(0)  # the slot of each rung
        e = e.view(self.rungs, self.chains).gather(0, order)
        betas = self.betas.to(e.dtype)[:, None]
        for first in (0, 1):
            low = torch.arange(first, self.rungs - 1, 2, device=e.device)
            high = low + 1
            log_accept = (betas[low] - betas[high]) * (e[high] - e[low])
            swap = torch.rand_like(log_accept).log() < log_accept
            for tensor in (order, e):
                below, above = tensor[low], tensor[high]
                tensor[low], tensor[high] = torch.where(swap, above, below), torch.where(swap, below, above)
            self.accepted[low] = self.accepted[low].lerp(swap.to(self.accepted.dtype).mean(1), 0.05)
        ladder = torch.arange(self.rungs, device=e.device)[:, None].expand(-1, self.chains)
        self.rung = torch.empty_like(order).scatter_(0, order, ladder)

    def extra_repr(self) -> str:
        return f"k={self.k}, chains={self.chains}, rungs={self.rungs}"


def moments(
    machine: Machine,
    v: Tensor,
    a: Tensor,
    negative: Negative,
    weight: Tensor | None = None,
    *,
    scale: float = 1.0,
) -> list[Tensor]:
    """Minus the gradient of the mean F over the rows plus that over the particles, for W, b and c: by hand.

        dW = <v E[h | v]>_rows - <v E[h | v]>_particles,    db = <v> - <v>,    dc = <E[h | v]> - <E[h | v]>

    Args:
        v, a: the rows, (N, V), and their hidden input, (N, H).
        weight: of each row, (N,), summing to 1; 1 / N unless given.
        scale: what all three are multiplied by.
    """
    up, up_v = _shares(machine, v, a, weight, scale)
    down, down_v = _shares(machine, negative.v, negative.a, negative.weight, -scale)
    return [torch.mm(v.T, up).addmm_(negative.v.T, down), up_v.add_(down_v), up.sum(0).add_(down.sum(0))]


def _shares(machine: Machine, v: Tensor, a: Tensor, weight: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """What each row or particle adds to <E[h | v]>, (N, H), and what all add to <v>, (V,)."""
    mean = machine.hidden.mean(a)
    if weight is None:
        return mean.mul_(scale / len(v)), v.mean(0).mul_(scale)
    return mean.mul_(scale * weight[:, None]), (scale * weight) @ v


def _sweeps(machine: Machine, h: Tensor, k: int, last: bool = True) -> tuple[Negative, Tensor]:
    """k times v ~ p(v | h), then h ~ p(h | v), the last h only if it is wanted."""
    v = a = h
    for i in range(k):
        v = machine.down(h)
        a = machine.hidden_input(v)
        if last or i < k - 1:
            h = machine.hidden.sample(a)
    return Negative(v, a), h


def _fitting(h: Tensor | None, machine: Machine) -> Tensor:
    if h is None or h.shape[-1] != machine.hidden.width:
        raise ShapeError(
            got=f"particles of {0 if h is None else h.shape[-1]} hidden entries",
            need=f"{machine.hidden.width}, as the machine",
            fix="particles of this machine's own",
        )
    return h


def _count(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SettingsError(got=f"{name} = {value!r}", need="a positive whole number", fix=f"{name}=1")
    return value
