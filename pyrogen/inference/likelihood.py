"""Maximum likelihood of undirected models: the gradient from particles, and a number that is honest about log Z."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import (
    Machine,
    Moving,
    annealed,
    base_log_z,
    can_enumerate,
    linear,
    log_partition,
    moments,
)
from pyrogen.errors import ModelError, SettingsError
from pyrogen.inference.objectives import Objective, Value
from pyrogen.inference.terms import Terms
from pyrogen.models.contracts import Energy

if TYPE_CHECKING:
    from pyrogen.inference.training import Training

LISTED = 2**16
"""log Z of the history is exact where a layer has at most so many states: 50 ms for 64 units on the other side."""

Penalty = Callable[[Machine, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class MaximumLikelihood(Objective):
    """log p(x) of an `Energy` model: the gradient is that of -F(x) against that of the model's particles.

        d log p(x) = -dF(x) + dF(particles),     averaged over the rows and over the particles, each by its own number

    The gradient is taken by hand: no graph goes through the sweeps.

    The history has log p(x) per row, not what a step can see: after each epoch log Z is summed over all states where
    the smaller layer has at most 2^16 of them, and is estimated by annealed importance sampling otherwise, which is on
    average too small, and the likelihood too high. `describe` says which; so do the settings of a `Fit`. The best of
    estimates is the luckiest, so the model ends with the weights of the last epoch then, and not of the best.

    Args:
        penalty: adds a cost to the loss of a step, from the machine, the rows v and their hidden input a, for example
            `Sparsity(0.1, 0.01)`; the history is without it.
        temperatures, chains: of the annealing.
    """

    penalty: Penalty | None = None
    temperatures: int = 200
    chains: int = 100
    particles: int = 1
    runs_programs = False
    unlowered = "particles move in Python, outside the graph"

    def __post_init__(self) -> None:
        for name in ("temperatures", "chains"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise SettingsError(got=f"{name} = {value!r}", need="a whole number, at least 1", fix=f"{name}=100")

    def __call__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        step: int = 0,
        nesting: int | None = None,
    ) -> Value:
        """The loss of rows args[0], and a gap between particles and rows, which is no likelihood."""
        return self._value(_energy(model), args[0], None)

    def weighted(
        self, weight: Tensor, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **how: Any
    ) -> Value:
        """The loss is -1/N sum_n w_n log p(x_n): log Z's gradient counts as often as the rows do; penalties once."""
        if type(self) is not MaximumLikelihood:
            return super().weighted(weight, model, guide, *args, **how)
        return self._value(_energy(model), args[0], weight)

    def _value(self, energy: Energy, x: Tensor, weight: Tensor | None) -> Value:
        if torch.is_autocast_enabled(x.device.type):
            raise SettingsError(
                got="reduced precision for a machine",
                need="float32, in which its energies are",
                fix="precision='float32'",
            )
        machine, x = energy.machine(), energy.filled(x)
        with torch.no_grad():
            a = machine.hidden_input(x)
            energy.follow(x, a)
        loss = (
            _by_hand(machine, energy.particles, x, a, weight)
            if _is_plain(machine, energy)
            else _by_autograd(energy, machine, x, weight)
        )
        return self.penalised(Value(loss, -loss.detach()), machine, x)

    def penalised(self, value: Value, machine: Machine, v: Tensor) -> Value:
        """With the cost of rows v of the machine added to the loss."""
        if self.penalty is None:
            return value
        return value._replace(loss=value.loss + self.penalty(machine, v, machine.hidden_input(v)))

    def value(self, terms: Terms, step: int) -> Value:
        raise ModelError(got="the terms of two programs", need="an Energy model", fix="ELBO()")

    @torch.no_grad()
    def score(self, programs: Any, x: Tensor, seed: int) -> Tensor:
        """The mean of log p(x), (), in float64, with the same noise at every call."""
        energy = _energy(programs.model)
        rows = torch.cat([-energy.free_energy(part).double() for part in x.split(5000)])
        return rows.mean() - self.log_z(energy.machine(), energy.filled(x), seed)

    @torch.no_grad()
    def log_z(self, machine: Machine, x: Tensor, seed: int) -> Tensor:
        """log Z, exact or annealed from the base rates of the rows x."""
        if can_enumerate(machine, LISTED):
            return log_partition(machine)
        base = machine.visible.bias_of(x.mean(0), len(x))
        noise = torch.Generator(x.device).manual_seed(seed)
        log_w, _ = annealed(machine, base, linear(self.temperatures), self.chains, noise)
        return base_log_z(machine, base) + log_w.logsumexp(0) - log_w.new_tensor(float(self.chains)).log()

    def describe(self, model: Any) -> str:
        energy = _energy(model)
        name = "the mean-field bound on log p(x)" if energy.free_energy_is_bound else "log p(x)"
        if can_enumerate(energy.machine(), LISTED):
            return f"{name}, exact"
        return f"{name}, an estimate: log Z by annealing {self.chains} chains at {self.temperatures} temperatures"

    def comparable(self, model: Any) -> bool:
        return can_enumerate(_energy(model).machine(), LISTED)

    def after_epoch(self, training: Training) -> None:
        """Move the offsets of a centred model, and what is kept of its weights with them."""
        energy = _energy(training.programs.model)
        kept = [dict(zip(training.named, tensors, strict=False)) for tensors in (training.averaged, training.best)]
        # what is frozen is the same in all of them
        energy.recentre(*(dict(energy.named_parameters()) | weights for weights in kept if weights))


def _energy(model: Any) -> Energy:
    energy = getattr(model, "__self__", model)
    if not isinstance(energy, Energy):
        raise ModelError(
            got=f"MaximumLikelihood and {type(energy).__name__}", need="an Energy model such as RBM(...)", fix="ELBO()"
        )
    return energy


def _is_plain(machine: Machine, energy: Energy) -> bool:
    """Whether W, b and c are all that learns, and particles are draws."""
    units = [*machine.visible.parameters(), *machine.hidden.parameters()]
    return isinstance(energy.particles, Moving) and not any(p.requires_grad for p in units)


def _by_autograd(energy: Energy, machine: Machine, x: Tensor, weight: Tensor | None) -> Tensor:
    free, log_z = machine.free_energy(x), energy.particles.log_z(machine, x, _shares(weight))
    if weight is not None:
        free, log_z = weight * free, weight * log_z
    return free.mean() + log_z.mean()


def _by_hand(machine: Machine, particles: Any, x: Tensor, a: Tensor, weight: Tensor | None) -> Tensor:
    """A loss with the gradient taken by hand. Its value only has to be NaN or infinite as soon as an energy is.

    Free energies would be twice the logarithms of all hidden units, which is a tenth of a step, and nobody reads them.
    """
    with torch.no_grad():
        share = _shares(weight)
        negative = particles.negative(machine, x, a, share)
        gradients = moments(machine, x, a, negative, share, scale=-1.0)
        if weight is not None:
            gradients = [weight.mean() * g for g in gradients]
        gap = negative.a.mean() - a.mean() + gradients[1].sum()
    return _Known.apply(gap, gradients, machine.W, machine.b, machine.c)  # pyright: ignore[reportReturnType]


def _shares(weight: Tensor | None) -> Tensor | None:
    """Weights that sum to 1."""
    return None if weight is None else weight / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)


class _Known(torch.autograd.Function):
    """A loss whose gradients with respect to W, b and c are already there; backward hands them over, once."""

    @staticmethod
    def forward(ctx, loss: Tensor, gradients: list[Tensor], *weights: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        known, ctx.gradients = ctx.gradients, None  # so that the parameters can have them without a copy
        if gradient.device.type == "cpu" and gradient == 1:
            return None, None, *known
        return None, None, *(gradient * one for one in known)
