"""What a model promises, and what it gets for the promise.

`Pair`: two Pyro programs. Gets SVI, every bound, importance-sampled log p(x), predictive draws, ArviZ.
`Explicit`: an exact density. Gets maximum likelihood, exact log p(x), normalisation and sampler tests.
`Chain`: a density known as the law that a Markov chain settles in. Gets training, and a conservative log p(x).
`Energy`: an unnormalised density over two sides. Gets block Gibbs, annealed importance sampling, enumeration.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, ClassVar, Self

import pyro
import torch
from pyro.distributions import TorchDistribution
from pyro.params import param_with_module_name
from torch import Tensor, nn

from pyrogen.distributions.boltzmann import Machine, Particles
from pyrogen.errors import DtypeError, NonFiniteError, SettingsError
from pyrogen.ops.checks import check_rows

_serial = itertools.count(1)


class Model(nn.Module):
    """A module with data of a known width and support, and a name of its own in Pyro's parameter store.

    Pyro keeps one global store: of two modules registered under one name, the second silently never
    trains. So every instance is numbered, a deep copy and an unpickled one too.

    Args:
        width: D, the number of entries of a row.
        support: what an entry may be; one of the words that `pyrogen.ops.checks.check_rows` knows.
    """

    recipe: ClassVar[str] = ""
    """The name under which recipes and the command line build this model; empty if they cannot."""

    switches: ClassVar[tuple[str, ...]] = ()
    """The settings of `build` that are true or false."""
    fit_defaults: ClassVar[dict[str, Any]] = {}
    """What recipes and the command line train it with unless told, where that is not the usual: keys of [fit]."""

    def __init__(self, width: int, support: str) -> None:
        super().__init__()
        self.width, self.support = width, support
        self.site_name = _fresh_name(type(self))
        self._registered: dict[str, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        for parameter in self.parameters():
            vars(parameter).pop("unconstrained", None)  # Pyro's weak reference, which cannot be pickled
        return super().__getstate__()  # pyright: ignore[reportReturnType]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.site_name = _fresh_name(type(self))
        self._registered = {}

    def check(self, x: Tensor) -> None:
        """Refuse data that this model has no probability for, in words. Called once per data set."""
        check_rows(x, width=self.width, support=self.support)
        own = next((p.dtype for p in self.parameters() if p.is_floating_point()), x.dtype)
        if x.dtype != own:
            raise DtypeError(got=f"x of {x.dtype}", need=f"{own}, as the model", fix=f"x.to({own}), or model.double()")

    @classmethod
    def build(cls, width: int, shape: tuple[int, int, int], support: str, **settings: Any) -> Self:
        """Make the model that a recipe describes, for data of this width, picture shape and support."""
        raise SettingsError(
            got=f"{cls.__name__} in a recipe", need="a model that recipes can build", fix="constructing it in Python"
        )

    def prepare(self, train: Tensor) -> None:
        """Start from the training rows where that helps, before the first step; by default, do nothing."""


class Trainable(Model, ABC):
    """Two Pyro programs of rows that `fit` and SVI train, with one plate "rows" in both.

    `model` and `guide` take the rows x, (N, D), and the size of the data set that they are a
    minibatch of; every term inside the plate is then scaled by size / N.
    """

    plate_nesting: ClassVar[int] = 1

    @abstractmethod
    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        """The program that observes the rows."""

    @abstractmethod
    def guide(self, x: Tensor, size: int | None = None) -> Any:
        """The program that samples what `model` samples and does not observe."""

    def rows(self, x: Tensor, size: int | None = None) -> pyro.plate:
        """Register the parameters with Pyro and open the plate "rows"."""
        self._register()
        if size is None or size == x.shape[0]:
            return pyro.plate("rows", x.shape[0])
        return pyro.plate("rows", size, subsample=torch.arange(x.shape[0]))

    @torch.no_grad()
    def _register(self) -> None:
        """Let Pyro's store hold the module's own parameters, so that what is stepped is what is used.

        Where the two differ, what changed last wins: the store when it was loaded from a file, the module
        when it was given another parameter.
        """
        store = pyro.get_param_store()
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            if not parameter.is_contiguous():
                parameter.data = parameter.data.contiguous()  # the store would make a copy, and train that
            key = param_with_module_name(self.site_name, name)
            stored = store[key].unconstrained() if key in store else parameter  # pyright: ignore[reportAttributeAccessIssue]
            if stored is not parameter:
                if self._registered.get(name, parameter) is parameter:
                    parameter.copy_(stored)
                store[key] = parameter
            self._registered[name] = parameter
        pyro.module(self.site_name, self)


class Pair(Trainable, ABC):
    """A Pyro model of rows and the guide of its latents: what training maximises is a bound on log p(x)."""

    @abstractmethod
    def model(self, x: Tensor, size: int | None = None) -> Tensor:
        """The generative program: samples the latents, observes "x"."""

    @abstractmethod
    def guide(self, x: Tensor, size: int | None = None) -> Any:
        """The variational program: samples the same latents given x."""

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        """n rows from the model's p(x), (n, D).

        Raises:
            SettingsError: no row.
            NonFiniteError: weights are NaN or infinite, of which bits could be drawn without a word.
        """
        if n < 1:
            raise SettingsError(got=f"{n} rows", need="at least one", fix="model.sample(64)")
        bad = [name for name, parameter in self.named_parameters() if not parameter.isfinite().all()]
        if bad:
            raise NonFiniteError(got=f"{bad[0]} with NaN or infinite entries", need="weights", fix="a checkpoint")
        device = next(self.parameters()).device
        blank = torch.zeros(n, self.width, device=device)
        return pyro.poutine.block(pyro.poutine.uncondition(self.model))(blank)


class Explicit(Model, ABC):
    """A normalised density that can be evaluated and sampled exactly."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (N, D) to (N,)."""

    @abstractmethod
    def sample(self, n: int) -> Tensor:
        """n independent rows, (n, D)."""


class Chain(Trainable, ABC):
    """A density p that is known as the law that a Markov chain of its own settles in.

        x~ ~ C(x~ | x),   x' ~ P(x' | x~),      p(x') = sum_x p(x) sum_x~ C(x~ | x) P(x' | x~)

    Training maximises a criterion, and no bound on log p(x).
    """

    @abstractmethod
    def noisy(self, n: int) -> Tensor:
        """n draws x~ as the chain has them once it has settled, (n, D), of independent chains."""

    @abstractmethod
    def again(self, noisy: Tensor) -> Tensor:
        """The next x~ of each chain, (n, D)."""

    @abstractmethod
    def log_given(self, x: Tensor, noisy: Tensor) -> Tensor:
        """log P(x | x~) of all pairs, (N, D) and (n, D) to (N, n)."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (N,), exact; SettingsError where there are too many states to list."""

    @abstractmethod
    def sample(self, n: int) -> Tensor:
        """n rows, each from a chain of its own, (n, D)."""


class Energy(Model, ABC):
    """p(v, h) = exp(-energy(v, h)) / Z over visible v and hidden h, each independent given the other.

    `particles` say how the gradient of log Z is estimated.
    """

    particles: Particles
    free_energy_is_bound: ClassVar[bool] = False
    """Whether `free_energy` is only an upper bound, so that -F(x) - log Z is a lower bound on log p(x)."""

    @abstractmethod
    def machine(self) -> Machine:
        """The same model in natural parameters, differentiable in the model's own."""

    def filled(self, x: Tensor) -> Tensor:
        """Rows of the machine's visible side: x, and in a deep model beside it the means of further units given x."""
        return x

    def follow(self, x: Tensor, a: Tensor) -> None:
        """Take note of a batch of rows, (N, V), with hidden inputs a, (N, H), in training; by default, do nothing."""
        return None

    def recentre(self, *others: dict[str, Tensor]) -> None:
        """Move offsets to where the rows were; `others` are further weights by name that stay the same model."""
        return None

    @abstractmethod
    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """(..., V) and (..., H) to (...)."""

    @abstractmethod
    def free_energy(self, v: Tensor) -> Tensor:
        """-log sum_h exp(-energy(v, h)), (..., V) to (...)."""

    @abstractmethod
    def hidden_given(self, v: Tensor) -> TorchDistribution:
        """p(h | v), batch (...,), event (H,)."""

    @abstractmethod
    def visible_given(self, h: Tensor) -> TorchDistribution:
        """p(v | h), batch (...,), event (V,)."""


def refuse_unknown(model: str, settings: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    """Raise a SettingsError that names the nearest known setting for the first unknown one."""
    for key in settings:
        if key not in known:
            near = get_close_matches(key, known, n=1) or sorted(known)
            raise SettingsError(got=f"setting {key!r} for {model}", need=f"one of {sorted(known)}", fix=f"{near[0]!r}")


def _fresh_name(cls: type) -> str:
    return f"{cls.__name__}-{next(_serial)}"


__all__ = ["Chain", "Energy", "Explicit", "Model", "Pair", "Trainable"]
