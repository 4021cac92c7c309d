"""p(v) of a Boltzmann machine, and the conditionals of its layers, as Pyro distributions."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pyro.distributions import TorchDistribution
from torch import Size, Tensor
from torch.distributions import constraints

from pyrogen.distributions.boltzmann.bits import Bernoulli
from pyrogen.distributions.boltzmann.exact import can_enumerate, log_partition
from pyrogen.distributions.boltzmann.machine import Machine
from pyrogen.distributions.boltzmann.particles import Particles
from pyrogen.distributions.boltzmann.starts import exact_draws
from pyrogen.distributions.boltzmann.units import Units
from pyrogen.errors import ModelError, NotNormalizedError, SettingsError

LISTED = 2**14
"""Draws are exact where a layer has at most so many states: some milliseconds."""


class Layer(TorchDistribution):
    """p(x | a) = exp(base(x) + x a - cumulant(a)): units given their inputs a, (..., width)."""

    arg_constraints = {"a": constraints.real_vector}  # noqa: RUF012  # pyright: ignore[reportAssignmentType]
    has_rsample = False

    def __init__(self, units: Units, a: Tensor, validate_args: bool | None = None) -> None:
        self.units, self.a = units, a
        super().__init__(a.shape[:-1], a.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        return constraints.independent(self.units.constraint, 1)

    @property
    def mean(self) -> Tensor:
        return self.units.mean(self.a)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Layer:
        return Layer(self.units, self.a.expand((*batch_shape, *self.event_shape)), validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        return self.units.sample(self.a.expand(self._extended_shape(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.units.base(value) + (value * self.a).sum(-1) - self.units.cumulant(self.a)


class RBMDistribution(TorchDistribution):
    """The visible side of a restricted Boltzmann machine: log p(v) = -F(v) - log Z.

        F(v) = -base(v) - v b - cumulant(c + v W)

    What `log_prob` gives depends on what is known of log Z:

        log_z     particles   value                     gradient
        "exact"   None        log p(v)                  exact, from all states of the smaller layer
        "exact"   given       log p(v)                  from the particles
        a number  given       -F(v) - log_z             from the particles
        a number  None        -F(v) - log_z             none: backward raises, for log Z would stay where it is
        None      given       while gradients are taken, F(v_neg) - F(v), which is no likelihood; else it raises
                                                        from the particles
        None      None        raises NotNormalizedError

    Particles move at every `log_prob` that takes gradients of the weights.

    Shape: W is (V, H), b is (V,), c is (H,); v is (..., V). Event shape (V,), batch shape () and what `expand` makes.

    Args:
        visible, hidden: the layers, Bernoulli unless given.
        log_z: log Z: a number, "exact", or None.
        particles: how log Z's gradient is estimated.
        sweeps: of Gibbs sampling that `sample` makes, from units drawn by their biases alone; where a layer has at
            most 2^14 states, draws are exact instead.

    Raises:
        ShapeError: W, b and c are not of the layers' widths.
        SettingsError: log_z is another word, or sweeps below 1.
    """

    arg_constraints = {  # noqa: RUF012  # pyright: ignore[reportAssignmentType]
        "W": constraints.independent(constraints.real, 2),
        "b": constraints.real_vector,
        "c": constraints.real_vector,
    }
    has_rsample = False

    def __init__(
        self,
        W: Tensor,
        b: Tensor,
        c: Tensor,
        *,
        visible: Units | None = None,
        hidden: Units | None = None,
        log_z: Tensor | float | Literal["exact"] | None = None,
        particles: Particles | None = None,
        sweeps: int = 1000,
        validate_args: bool | None = None,
    ) -> None:
        if isinstance(log_z, str) and log_z != "exact":
            raise SettingsError(got=f"log_z = {log_z!r}", need="a number, 'exact' or None", fix="log_z='exact'")
        if sweeps < 1:
            raise SettingsError(got=f"sweeps = {sweeps}", need="at least 1", fix="sweeps=1000")
        visible = Bernoulli(W.shape[0]) if visible is None else visible
        hidden = Bernoulli(W.shape[-1]) if hidden is None else hidden
        self.machine = Machine(visible, hidden, W, b, c)
        self.W, self.b, self.c = W, b, c
        self.log_z, self.particles, self.sweeps = log_z, particles, sweeps
        super().__init__(Size(), b.shape, validate_args=validate_args)

    @classmethod
    def of(cls, machine: Machine, **settings: Any) -> RBMDistribution:
        """p(v) of a machine."""
        return cls(machine.W, machine.b, machine.c, visible=machine.visible, hidden=machine.hidden, **settings)

    @constraints.dependent_property(event_dim=1)
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        return constraints.independent(self.machine.visible.constraint, 1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RBMDistribution:
        new: Any = self._get_checked_instance(RBMDistribution, _instance)
        for name in ("machine", "W", "b", "c", "log_z", "particles", "sweeps"):
            setattr(new, name, getattr(self, name))
        super(RBMDistribution, new).__init__(Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(v) in nats, or the energy gap of the table above.

        Raises:
            NotNormalizedError: log Z is unknown, and either there are no particles or no gradient is taken.
        """
        if self._validate_args:
            self._validate_sample(value)
        log_p = self.unnormalized_log_prob(value) - self._log_z(value)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def unnormalized_log_prob(self, value: Tensor) -> Tensor:
        """-F(v)."""
        return -self.machine.free_energy(value)

    @torch.no_grad()
    def sample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008
        """Exact where a layer can be listed, else after `sweeps` sweeps of Gibbs sampling.

        Raises:
            NonFiniteError: weights are NaN or infinite, of which bits could be drawn without a word.
        """
        self.machine.check()
        shape = self._extended_shape(sample_shape)
        n = shape[:-1].numel()
        if can_enumerate(self.machine, LISTED):
            return exact_draws(self.machine, n).reshape(shape)
        v = self.machine.visible.sample(self.b.expand(n, -1))
        return self.machine.sweep(v, self.sweeps).reshape(shape)

    def _log_z(self, v: Tensor) -> Tensor | float:
        """log Z with its gradient, as far as they are known."""
        learns = torch.is_grad_enabled() and self._learns
        if not learns or self.particles is None:
            value = self._value()
            constant = learns and not (isinstance(value, Tensor) and value.requires_grad)
            return _Constant.apply(torch.as_tensor(value).to(self.b), self.W, self.b, self.c) if constant else value  # pyright: ignore[reportReturnType]
        surrogate = self.particles.log_z(self.machine, v)
        if self.log_z is None:
            return surrogate
        with torch.no_grad():
            value = self._value()
        return surrogate - surrogate.detach() + value

    def _value(self) -> Tensor | float:
        if self.log_z is None:
            raise NotNormalizedError(
                got="log p(v) of a machine whose log Z is unknown",
                need='log_z="exact" where a layer is small, or an estimate as a number',
                fix="unnormalized_log_prob for -F(v), or particles=Persistent() to train",
            )
        return log_partition(self.machine).to(self.b.dtype) if self.log_z == "exact" else self.log_z  # pyright: ignore[reportReturnType]

    @property
    def _learns(self) -> bool:
        units = [*self.machine.visible.parameters(), *self.machine.hidden.parameters()]
        return any(tensor.requires_grad for tensor in (self.W, self.b, self.c, *units))


class _Constant(torch.autograd.Function):
    """A number that the weights determine, without a way back to them."""

    @staticmethod
    def forward(ctx, value: Tensor, *weights: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return value.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise ModelError(
            got="the gradient of a log p(v) whose log Z is a constant",
            need="log Z's own gradient, without which the energies fall for ever",
            fix='particles=Persistent(), or log_z="exact"',
        )
