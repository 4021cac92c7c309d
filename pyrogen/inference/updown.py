"""The up-down algorithm: wake-sleep for a deep belief network, with particles for the RBM on top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Machine, Moving, exact_draws
from pyrogen.errors import ModelError
from pyrogen.inference.likelihood import MaximumLikelihood
from pyrogen.inference.objectives import Value
from pyrogen.models.energy.dbn import DBN

if TYPE_CHECKING:
    from pyrogen.inference.training import Training


@dataclass(frozen=True)
class UpDown(MaximumLikelihood):
    """Wake and sleep at every step.

        wake    l_k+1 ~ q(. | l_k) up from the rows:   raises sum_k log p(l_k | l_k+1) - F(l_L-1) + F(particles)
        sleep   l_k ~ p(. | l_k+1) down from the particles:   raises sum_k log q(l_k+1 | l_k)

    With particles `Contrastive(k)` they start at what was recognised, as in the paper; `Persistent` ones go on.

    The history has the bound E_q[log p(x, l) - log q(l | x)] from a draw per row, with log Z as in
    `MaximumLikelihood`.

    Source: Hinton, Osindero and Teh 2006, appendix B.
    """

    def __call__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        *args: Any,
        step: int = 0,
        nesting: int | None = None,
    ) -> Value:
        """The loss of rows args[0], wake and sleep together; its value is no bound."""
        network = _network(model)
        awake, machine = network.recognise(args[0]), network.machine()
        with torch.no_grad():
            a = machine.hidden_input(awake[-1])
            network.top.follow(awake[-1], a)
            negative = _particles(network, machine, awake[-1])
        loss = machine.free_energy(awake[-1]).mean() - machine.free_energy(negative).mean()
        asleep = network.dream(negative)
        for k in range(network.levels):
            loss = loss - network.given_above(k, awake[k + 1]).log_prob(awake[k]).mean()
            loss = loss - network.given_below(k + 1, asleep[k]).log_prob(asleep[k + 1]).mean()
        return self.penalised(Value(loss, -loss.detach()), machine, awake[-1])

    @torch.no_grad()
    def score(self, programs: Any, x: Tensor, seed: int) -> Tensor:
        """The mean bound on log p(x), (), in float64, with the same noise at every call."""
        network = _network(programs.model)
        with torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            torch.manual_seed(seed)
            rows = network.recognise(x)
        machine = network.machine()
        total = -machine.free_energy(rows[-1])
        for k in range(network.levels):
            total = total + network.given_above(k, rows[k + 1]).log_prob(rows[k])
            total = total - network.given_below(k + 1, rows[k]).log_prob(rows[k + 1])
        return total.double().mean() - self.log_z(machine, rows[-1], seed)

    def describe(self, model: Any) -> str:
        return f"a bound on log p(x) from a draw per row; of the top {super().describe(_network(model).top)}"

    def comparable(self, model: Any) -> bool:
        return super().comparable(_network(model).top)

    def after_epoch(self, training: Training) -> None:
        """Move the offsets of the top, and what is kept of its weights with them."""
        network = _network(training.programs.model)
        kept = [dict(zip(training.named, tensors, strict=False)) for tensors in (training.averaged, training.best)]
        tops = [{name[4:]: w for name, w in weights.items() if name.startswith("top.")} for weights in kept]
        # what is frozen is the same in all of them
        network.top.recentre(*(dict(network.top.named_parameters()) | weights for weights in tops if weights))


def _network(model: Any) -> DBN:
    network = getattr(model, "__self__", model)
    if not isinstance(network, DBN):
        raise ModelError(got=f"UpDown and {type(network).__name__}", need="a DBN", fix="ELBO()")
    return network


def _particles(network: DBN, machine: Machine, v: Tensor) -> Tensor:
    particles = network.top.particles
    return particles.negative(machine, v).v if isinstance(particles, Moving) else exact_draws(machine, len(v))
