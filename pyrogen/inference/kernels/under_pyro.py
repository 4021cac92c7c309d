"""The side of a kernel that `pyro.infer.MCMC` sees."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Generator, Tensor

from pyrogen.errors import SettingsError

_EVERY = 100
"""Steps between two looks at the energy: a look waits for the device."""


class UnderPyro(MCMCKernel):
    """Runs a pure kernel as Pyro wants it: an object that remembers where its chain is.

    Pyro 1.9 asks for more than its base class says: `transforms` must not be None, ArviZ reads `model` and the
    diagnostic "divergences", `initial_params` may be set before `setup`, `cleanup` is called twice, and names in
    `save_params` that are not sorted mix up the sites.
    """

    model = None

    def __init__(self) -> None:
        self.transforms: dict[str, Any] = {}
        self._saved: list[str] | None = None
        self.cleanup()

    @abstractmethod
    def init(
        self, chains: int, *, values: Mapping[str, Tensor] | None = None, generator: Generator | None = None
    ) -> Any: ...

    @abstractmethod
    def step(self, state: Any, *, generator: Generator | None = None) -> tuple[Any, Any]: ...

    @abstractmethod
    def values(self, state: Any) -> dict[str, Tensor]: ...

    @abstractmethod
    def replaced(self, state: Any, values: Mapping[str, Tensor]) -> Any: ...

    @abstractmethod
    def adapted(self, state: Any, info: Any, step: int, steps: int) -> Any: ...

    @abstractmethod
    def report(self, state: Any, means: Mapping[str, Tensor]) -> dict[str, Any]: ...

    def refuse(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Raise a SettingsError if there are arguments."""
        if args or kwargs:
            raise SettingsError(
                got=f"arguments of run() for {type(self).__name__}",
                need="none: the kernel has its machine and its clamp",
                fix="mcmc.run(), and clamp={'v': (mask, value)} for data",
            )

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        self.refuse(args, kwargs)
        self._warmup, self._done = warmup_steps, 0
        given = self._given
        self._rows = given is not None and next(iter(given.values())).dim() > 1
        if given is not None and not self._rows:
            given = {name: x[None] for name, x in given.items()}
        chains = next(iter(given.values())).shape[0] if given else 1
        self._state = self.init(chains, values=given)

    @property
    def initial_params(self) -> Any:
        """Each site as (chains, width), or (width,) for the one chain that runs when none were set."""
        return self._given if self._state is None else self._shown()

    @initial_params.setter
    def initial_params(self, params: Mapping[str, Tensor]) -> None:
        self._given = dict(params)

    @property
    def save_params(self) -> list[str]:
        """The sites that are kept, sorted: Pyro takes them apart in sorted order, whatever the order they came in."""
        if self._saved is None:
            raise AttributeError("save_params")
        return self._saved

    @save_params.setter
    def save_params(self, names: list[str]) -> None:
        self._saved = sorted(names)

    def sample(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = params if self._rows else {name: x[None] for name, x in params.items()}
        self._state, info = self.step(self.replaced(self._state, given))
        if self._done < self._warmup:
            self._state = self.adapted(self._state, info, self._done, self._warmup)
        else:
            for name, x in info._asdict().items():
                self._sums[name] = self._sums.get(name, 0) + x
        if self._done % _EVERY == 0:
            self._told = {"energy": f"{float(info.energy.mean()):.1f}"}
        self._done += 1
        return self._shown()

    def logging(self) -> dict[str, str]:
        return self._told

    def diagnostics(self) -> dict[str, Any]:
        drawn = max(1, self._done - self._warmup)
        means = {name: (x / drawn).mean(0) for name, x in self._sums.items()}
        return {"divergences": []} | (self.report(self._state, means) if means else {})

    def cleanup(self) -> None:
        self._state: Any = None
        self._given: dict[str, Tensor] | None = None
        self._sums: dict[str, Any] = {}
        self._told: dict[str, str] = {}
        self._warmup, self._done, self._rows = 0, 0, False

    def _shown(self) -> dict[str, Tensor]:
        values = self.values(self._state)
        return values if self._rows else {name: x[0] for name, x in values.items()}
