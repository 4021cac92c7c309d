"""Annealed importance sampling of machines: log-weights whose mean is Z / Z_0, or Z_0 / Z, or p_ann(v).

The path goes from independent visible units with bias a, and hidden units with input 0, to the machine:

    log f_beta(v) = base(v) + v ((1 - beta) a + beta b) + cumulant_h(beta (c + v W)),    f_0 has a known sum Z_0

T_k is the block sweep at beta_k, which is reversible with respect to f_k. Between temperatures x = c + v W is kept: it
serves both energies and the next draw of h, so that a temperature costs two matrix products.

Source: Neal 2001; Salakhutdinov and Murray 2008; Grosse, Ghahramani and Adams 2015, arXiv:1511.02543 (the reverse);
Burda, Grosse and Salakhutdinov 2015, arXiv:1412.8566 (RAISE).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann.bits import Bernoulli
from pyrogen.distributions.boltzmann.coins import coins
from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.distributions.boltzmann.schedules import check_ladder
from pyrogen.distributions.boltzmann.units import check_values
from pyrogen.errors import DeviceError, NonFiniteError, SettingsError, ShapeError

_SMALL = 4.0
# where (beta_k - beta_k-1) |x| stays below, log1p(p expm1(.)) is as exact as float32 can say; beyond, it cancels


def base_log_z(machine: Machine, base: Tensor) -> Tensor:
    """log Z_0 = cumulant_v(a) + cumulant_h(0), (), in float64."""
    a = base.double()
    return machine.visible.cumulant(a) + machine.hidden.cumulant(torch.zeros_like(machine.c, dtype=torch.float64))


@torch.no_grad()
def annealed(
    machine: Machine,
    base: Tensor,
    betas: Sequence[float],
    chains: int = 100,
    generator: Generator | None = None,
    *,
    sweeps: int = 1,
) -> tuple[Tensor, Tensor]:
    """From the base up: log w = sum_k log f_k(v_k-1) - log f_k-1(v_k-1),  v_0 ~ f_0,  v_k ~ T_k(. | v_k-1).

    E[w] = Z / Z_0 whatever the ladder; so log of the mean weight is below log Z / Z_0 in expectation.

    Shape: base is (V,), from `Units.bias_of`.

    Returns:
        log w, (chains,) in float64, and v_K, (chains, V), which are draws from about p(v).

    Args:
        betas: the ladder, from 0 to 1.
        chains: independent ones.
        sweeps: of Gibbs sampling at each temperature.

    Raises:
        SettingsError: no chain, no sweep, or a ladder that does not increase from 0 to 1.
        NonFiniteError: weights of the machine, or of the chains, are NaN or infinite.
    """
    path = Path(machine, base, betas, sweeps)
    check_chains(chains)
    v, x = path.start(chains, generator)
    log_w = torch.zeros(chains, dtype=torch.float64, device=v.device)
    for low, high in pairwise(path.betas):
        log_w += path.change(v, x, low, high)
        v, x = path.move(x, high, generator)
    return finite(log_w), v


@torch.no_grad()
def annealed_back(
    machine: Machine,
    base: Tensor,
    betas: Sequence[float],
    v: Tensor,
    generator: Generator | None = None,
    *,
    sweeps: int = 1,
) -> Tensor:
    """From the machine down: log w = sum_k log f_k-1(v_k-1) - log f_k(v_k-1),  v_k-1 ~ T_k(. | v_k),  v_K = v.

    E[w] = Z_0 / Z if v is drawn from the machine exactly; so -log of the mean weight is above log Z / Z_0 in
    expectation. The mean of 1 / w is biased: it is not what to take.

    Shape: v is (chains, V); the result is (chains,), in float64.

    Raises:
        SettingsError: as `annealed`.
        NonFiniteError: as `annealed`.
    """
    path = Path(machine, base, betas, sweeps)
    check_chains(len(v))
    return finite(_down(path, path.checked(v), generator))


@torch.no_grad()
def raised(
    machine: Machine,
    base: Tensor,
    betas: Sequence[float],
    v: Tensor,
    chains: int = 100,
    generator: Generator | None = None,
    *,
    sweeps: int = 1,
    at_once: int = 4096,
) -> Tensor:
    """From each row down (RAISE): log w = log f_K(v) - log Z_0 + that of `annealed_back`.

    E[w] = p_ann(v), the probability that `annealed` ends at v; so log of the mean weight is below log p_ann(v) in
    expectation, and p_ann is a distribution: its log-likelihood is not optimistic as that of AIS is.

    Shape: v is (N, V); the result is (N, chains), in float64.

    Args:
        at_once: rows times chains in memory.

    Raises:
        SettingsError: as `annealed`.
        NonFiniteError: as `annealed`.
    """
    path = Path(machine, base, betas, sweeps)
    check_chains(chains)
    parts = []
    for rows in path.checked(v).split(max(1, at_once // chains)):
        log_w = _down(path, rows.repeat_interleave(chains, 0), generator).view(len(rows), chains)
        parts.append(log_w - machine.free_energy(rows).double()[:, None])
    return finite(torch.cat(parts) - base_log_z(machine, path.a))


class Path:
    """The tempered path of one machine and its moves; `x` is c + v W of the chains as they stand.

    Raises:
        SettingsError: a ladder that does not increase from 0 to 1, or no sweep.
        NonFiniteError: weights that are NaN or infinite.
        ShapeError: a base that is not (V,).
        DeviceError: weights or base on different devices.
    """

    def __init__(self, machine: Machine, base: Tensor, betas: Sequence[float], sweeps: int = 1) -> None:
        machine = machine.detached()
        machine.check()
        self.betas, self.sweeps, self.machine = check_ladder(betas), sweeps, machine
        if sweeps < 1:
            raise SettingsError(got=f"{sweeps} sweeps a temperature", need="at least one", fix="sweeps=1")
        if base.device != machine.b.device:
            raise DeviceError(
                got=f"a base on {base.device} and weights on {machine.b.device}",
                need="one device",
                fix=f"base.to({str(machine.b.device)!r})",
            )
        if base.shape != machine.b.shape:
            raise ShapeError(
                got=f"a base of shape {tuple(base.shape)}",
                need=f"a bias for each visible entry, {tuple(machine.b.shape)}",
                fix="machine.visible.bias_of(data.mean(0), len(data))",
            )
        if not base.isfinite().all():
            raise NonFiniteError(got="a base with NaN or infinite bias", need="finite entries", fix="Units.bias_of")
        self.a = base.detach().to(machine.b.dtype)
        self._difference = machine.b - self.a
        self._widest = _most_input(machine)
        self._even = bool((self._difference == 0).all())
        self._mean: tuple[Tensor, float, Tensor] | None = None  # x, beta, and E[h | v] of the last change

    def checked(self, v: Tensor) -> Tensor:
        """Rows that a chain can start at, in the dtype of the machine."""
        if v.dim() != 2 or v.shape[1] != len(self.a):
            raise ShapeError(got=f"v of shape {tuple(v.shape)}", need=f"(N, {len(self.a)})", fix="v.flatten(1)")
        if v.device != self.a.device:
            raise DeviceError(
                got=f"v on {v.device}, weights on {self.a.device}",
                need="one device",
                fix=f"v.to({str(self.a.device)!r})",
            )
        check_values(self.machine.visible, v, "v")
        return v.to(self.a.dtype)

    def start(self, chains: int, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """Draws of the base, (chains, V), and their x, (chains, H)."""
        v = self.machine.visible.sample(self.a.expand(chains, -1), generator)
        return v, self.input(v)

    def input(self, v: Tensor) -> Tensor:
        return torch.addmm(self.machine.c, v, self.machine.W)

    def change(self, v: Tensor, x: Tensor, low: float, high: float) -> Tensor:
        """log f_high(v) - log f_low(v), (chains,), in float64."""
        small = abs(high - low) * self._widest < _SMALL
        if isinstance(self.machine.hidden, Bernoulli) and small:
            mean = (high * x).sigmoid_()
            self._mean = x, high, mean
            rise = _rise_of_bits(x, low, high, mean)
        else:
            rise = self.machine.hidden.cumulant(high * x.double()) - self.machine.hidden.cumulant(low * x.double())
        return rise if self._even else rise.add_(torch.mv(v, self._difference), alpha=high - low)

    def move(self, x: Tensor, beta: float, generator: Generator | None) -> tuple[Tensor, Tensor]:
        """v ~ T(. | v) at beta, given x of the old v; the new v and its x."""
        machine, v = self.machine, x
        bias = torch.lerp(self.a, machine.b, beta)
        for _ in range(self.sweeps):
            h = self._up(x, beta, generator)
            v = machine.visible.sample(torch.addmm(bias, h, machine.W.T, alpha=beta), generator)
            x = self.input(v)
        return v, x

    def _up(self, x: Tensor, beta: float, generator: Generator | None) -> Tensor:
        """h ~ p(h | v) at beta; its mean is known where the energy has just been taken there."""
        known, self._mean = self._mean, None
        if known is not None and known[0] is x and known[1] == beta:
            return coins(known[2], generator)
        return self.machine.hidden.sample(beta * x, generator)


def check_chains(chains: int) -> None:
    """Refuse to estimate from nothing."""
    if chains < 1:
        raise SettingsError(got=f"{chains} chains", need="at least one", fix="chains=100")


def _down(path: Path, v: Tensor, generator: Generator | None) -> Tensor:
    x = path.input(v)
    log_w = torch.zeros(len(v), dtype=torch.float64, device=v.device)
    for high, low in pairwise(reversed(path.betas)):
        v, x = path.move(x, high, generator)
        log_w += path.change(v, x, high, low)
    return log_w


def _rise_of_bits(x: Tensor, low: float, high: float, mean: Tensor) -> Tensor:
    """softplus(high x) - softplus(low x) summed over the units, (...), in float64, given mean = sigmoid(high x).

        -log(1 + mean (exp((low - high) x) - 1))

    Unit by unit before the sum: the difference of two sums would lose four digits, thousands of times over.
    """
    return torch.mul(x, low - high).expm1_().mul_(mean).log1p_().sum(-1, dtype=torch.float64).neg_()


def _most_input(machine: Machine) -> float:
    """A bound on |c + v W| over all v, whose entries are in [-1, 1] where they are bounded."""
    if machine.visible.bounded:
        return float((machine.c.abs() + machine.W.abs().sum(0)).max())
    return float("inf")


def finite(log_w: Tensor) -> Tensor:
    """The weights, refused where one is NaN or infinite."""
    bad = int((~log_w.isfinite()).sum())
    if bad:
        raise NonFiniteError(
            got=f"{bad} of {log_w.numel()} log-weights that are NaN or infinite",
            need="a machine whose energies are finite all along the path",
            fix="float64, or weights of an earlier checkpoint",
        )
    return log_w
