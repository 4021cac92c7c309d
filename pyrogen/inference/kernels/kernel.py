"""What a Markov kernel is: a pure step from State to (State, Info), for any number of chains at once."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import torch
from torch import Generator, Tensor

from pyrogen.distributions.boltzmann import Machine, Stack, Units, check_values
from pyrogen.errors import ModelError, SettingsError, ShapeError
from pyrogen.inference.kernels.clamp import Clamp, read_clamp
from pyrogen.inference.kernels.under_pyro import UnderPyro


@runtime_checkable
class HasMachine(Protocol):
    """A model that comes down to a machine."""

    def machine(self) -> Machine: ...


def machine_of(source: Machine | HasMachine) -> Machine:
    """The machine that something is or has.

    Raises:
        ModelError: it neither is nor has one.
    """
    found = source if isinstance(source, Machine) else source.machine() if isinstance(source, HasMachine) else None
    if not isinstance(found, Machine):
        raise ModelError(
            got=f"{type(source).__name__}",
            need="a Machine, or a model whose method machine() returns one",
            fix="Machine(Bernoulli(784), Bernoulli(500), W, b, c)",
        )
    return found


class Kernel(UnderPyro):
    """A Markov kernel on the joint states (v, h) of a machine, with chains as the leading dimension.

        state = kernel.init(chains=1000, generator=g)
        state, info = kernel.step(state, generator=g)

    `init` and `step` are pure: they change neither the kernel nor the state that they are given, and the same
    generator gives the same bits. State is what the next step needs; every field of Info is (chains, ...), a small
    number of statistics that `pyrogen.inference.MCMC` keeps for every draw. A model's weights are read at every step,
    so a kernel can be made once and used while the model trains.

    The same object is a kernel of Pyro: `pyro.infer.MCMC(kernel, ...)` runs one chain without a chain dimension, or
    as many as `initial_params={"v": v}` has rows.

    Args:
        source: a Machine, or a model with a method `machine()`.
        clamp: {site: (mask, value)}: entries that are held where the mask is true, see `read_clamp`.
    """

    sites: ClassVar[tuple[str, ...]] = ("h", "v")
    summed: ClassVar[frozenset[str]] = frozenset()
    """Fields of Info that count events: over draws that thinning drops they are summed."""

    def __init__(
        self, source: Machine | HasMachine, *, clamp: Mapping[str, tuple[Tensor, Tensor]] | None = None
    ) -> None:
        super().__init__()
        self.source = source
        self.clamp: Clamp = read_clamp(machine_of(source), clamp)

    @property
    def machine(self) -> Machine:
        """With the weights that the source has now."""
        return machine_of(self.source)

    @abstractmethod
    def init(
        self, chains: int, *, values: Mapping[str, Tensor] | None = None, generator: Generator | None = None
    ) -> Any:
        """A State of so many chains, at `values` where given: {"v": (chains, V)}, and "h" with it or instead of it."""

    @abstractmethod
    def step(self, state: Any, *, generator: Generator | None = None) -> tuple[Any, Any]:
        """(State, Info) after one transition, which leaves the target invariant."""

    @abstractmethod
    def values(self, state: Any) -> dict[str, Tensor]:
        """{"v": (chains, V), "h": (chains, H)}, the draw that a state stands for."""

    @abstractmethod
    def replaced(self, state: Any, values: Mapping[str, Tensor]) -> Any:
        """The state with another draw in it."""

    def adapted(self, state: Any, info: Any, step: int, steps: int) -> Any:
        """The state after what the kernel learns from step number `step` of `steps` of the warm-up: here nothing."""
        return state

    def settings(self) -> dict[str, Any]:
        """What repeats this kernel, besides its machine; for the record."""
        return {"clamped": self.clamp.counts()}

    def report(self, state: Any, means: Mapping[str, Tensor]) -> dict[str, Any]:
        """What a person should know when a run ends, from the last state and the means over draws and chains."""
        return {}

    def clamped(self, clamp: Mapping[str, tuple[Tensor, Tensor]] | None) -> Self:
        """This kernel with another clamp."""
        other = copy.copy(self)
        other.cleanup()
        other.clamp = read_clamp(self.machine, clamp)
        return other

    def stored_as(self, site: str) -> torch.dtype:
        """The smallest dtype that holds the values of a site."""
        machine = self.machine
        return _stored_as(machine.visible if site == "v" else machine.hidden, machine.W.dtype)

    def _start(
        self, machine: Machine, chains: int, values: Mapping[str, Tensor] | None, generator: Generator | None
    ) -> tuple[Tensor, Tensor]:
        """v and h of a new state: given, or v uniform (with inputs of 0) and h ~ p(h | v)."""
        machine.check()
        self.clamp.check_chains(chains)
        values = {"v" if name == "x" else name: x for name, x in (values or {}).items()}
        for name, x in values.items():
            values[name] = _checked(machine, name, x, chains)
        if "v" in values:
            v = values["v"]
        elif "h" in values:
            v = machine.down(values["h"], generator)
        else:
            v = machine.visible.sample(machine.b.detach().new_zeros(chains, machine.visible.width), generator)
        v = self.clamp.v(v)
        h = values["h"] if "h" in values else machine.up(v, generator)
        return v, self.clamp.h(h)


def whole(name: str, value: Any, least: int) -> int:
    """The value, if it is a whole number of at least `least`.

    Raises:
        SettingsError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SettingsError(got=f"{name}={value!r}", need=f"a whole number, at least {least}", fix=f"{name}={least}")
    return value


def magnetisation(units: Units, x: Tensor) -> Tensor:
    """The mean over the units, (..., width) to (...); a category counts by its number, since their sum is constant."""
    states = getattr(units, "n_states", 1)
    if states == 1:
        return x.mean(-1)
    return (x.unflatten(-1, (-1, states)) @ torch.arange(states, dtype=x.dtype, device=x.device)).mean(-1)


def _checked(machine: Machine, name: str, x: Tensor, chains: int) -> Tensor:
    if name not in ("v", "h"):
        raise SettingsError(got=f"values for {name!r}", need="'v' or 'h'", fix="'v'")
    units = machine.visible if name == "v" else machine.hidden
    if tuple(x.shape) != (chains, units.width):
        raise ShapeError(
            got=f"{name} of shape {tuple(x.shape)}", need=f"({chains}, {units.width}), chains first", fix="one row each"
        )
    x = x.detach().to(machine.W)
    check_values(units, x, name)
    return x


def _stored_as(units: Units, own: torch.dtype) -> torch.dtype:
    if isinstance(units, Stack):
        kinds = {_stored_as(layer, own) for layer in units.layers}  # pyright: ignore[reportArgumentType]
        return kinds.pop() if len(kinds) == 1 else own if own in kinds else torch.int8
    if units.support == "binary" or units.support.startswith("one-hot"):
        return torch.bool
    return torch.int8 if units.support == "spin" else own
