"""A model and a guide from the user, made ready to train: checked, on a device, with their parameters known."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from pyrogen.errors import DtypeError, ModelError, NonFiniteError, SettingsError, ShapeError, SupportError
from pyrogen.inference.objectives import Objective, Value
from pyrogen.inference.sites import parameter_leaves
from pyrogen.inference.terms import plate_nesting, run
from pyrogen.inference.vectorizing import check_particles
from pyrogen.models.contracts import Trainable
from pyrogen.ops.precision import networks_in


@dataclass
class Programs:
    """Two Pyro programs and how to call them: a Pair's are called with (x, size), others with (x,)."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    pair: Trainable | None
    precision: str = "float32"
    rows_per_row: float = 1.0  # rows that the programs tell apart for each row of the data; found by `rehearse`
    weighted: bool = False  # rows come with their weight in a last column

    @classmethod
    def of(cls, model: Any, guide: Any | None = None) -> Programs:
        """Take a Pair, or a model and a guide.

        Raises:
            SettingsError: a Pair with another guide, or a program without one.
        """
        if isinstance(model, Trainable):
            if guide is not None:
                return cls(model.model, guide, model)
            return cls(model.model, model.guide, model)
        if guide is None or not callable(model):
            raise SettingsError(
                got=f"model {type(model).__name__} and guide {type(guide).__name__}",
                need="a Pair such as VAE(...), or a Pyro model and its guide",
                fix="fit(model, data, guide=AutoNormal(model))",
            )
        return cls(model, guide, None)

    @property
    def modules(self) -> list[nn.Module]:
        """The pair, what the programs are or are methods of, and modules that functions close over or name."""
        found = [self.pair, *_modules(self.model), *_modules(self.guide)]
        return list({id(module): module for module in found if isinstance(module, nn.Module)}.values())

    def rows(self, x: Tensor) -> Tensor:
        """Rows without their weights."""
        return x[:, :-1] if self.weighted else x

    def args(self, x: Tensor, size: int) -> tuple[Any, ...]:
        x = self.rows(x)
        return (x, size) if self.pair is not None and self.guide == self.pair.guide else (x,)

    def check(self, x: Tensor) -> None:
        """Refuse bad data before any work: by the Pair's own check, else empty, integer or non-finite rows."""
        if self.pair is not None:
            return self.pair.check(x)
        if not isinstance(x, Tensor) or x.dim() < 1 or x.shape[0] == 0:
            raise ShapeError(got=f"data {_describe(x)}", need="a tensor with at least one row", fix="x of shape (N, D)")
        if not x.is_floating_point():
            raise DtypeError(got=f"data of {x.dtype}", need="floating point", fix="x.float()")
        if not bool(x.isfinite().all()):
            bad = int((~x.isfinite()).sum())
            raise SupportError(got=f"{bad} entries that are NaN or infinite", need="finite data", fix="x[x.isfinite()]")

    def to(self, device: torch.device) -> None:
        for module in self.modules:
            module.to(device)

    def train(self, mode: bool) -> None:
        for module in self.modules:
            module.train(mode)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, and then for each submodule the mode that it was in."""
        modes = [(part, part.training) for module in self.modules for part in module.modules()]
        self.train(False)
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training

    def nesting(self, x: Tensor, size: int) -> int:
        if self.pair is not None:
            return self.pair.plate_nesting
        return plate_nesting(self.model, self.guide, *self.args(x, size))

    def evaluate(self, objective: Objective, x: Tensor, size: int, step: int, nesting: int) -> Value:
        """The objective on rows of a data set of `size`, at a step."""
        with networks_in(self.precision, x.device.type):
            args, how = self.args(x, size), {"step": step, "nesting": nesting}
            if self.weighted:
                value = objective.weighted(x[:, -1], self.model, self.guide, *args, **how)
            else:
                value = objective(self.model, self.guide, *args, **how)
        return value if self.rows_per_row == 1 else Value(value.loss, value.bound * self.rows_per_row)

    def rehearse(self, x: Tensor, size: int, objective: Objective, nesting: int) -> None:
        """One step without consequences and with Pyro's validation on, so that what is wrong shows now."""
        if objective.runs_programs:
            self._rehearse_programs(x, size, objective, nesting)
        with pyro.validation_enabled(False), torch.random.fork_rng():
            bound = self.evaluate(objective, x, size, 0, nesting).bound
        if not bool(bound.isfinite()):
            raise NonFiniteError(
                got=f"a bound of {float(bound)} before the first step",
                need="a finite one",
                fix="data on the model's scale, or another initialisation",
            )

    def _rehearse_programs(self, x: Tensor, size: int, objective: Objective, nesting: int) -> None:
        with torch.no_grad(), pyro.validation_enabled(True), torch.random.fork_rng():
            terms = run(self.model, self.guide, *self.args(x, size))
        rows = x.shape[0]
        if rows < size and terms.n_rows % rows:
            raise ModelError(
                got=f"a model without a plate over the {rows} rows of a minibatch",
                need="rows that are told apart, to take some of them at a time",
                fix=f"pyro.plate(name, len(x)) around them, or batch_size={size} if they are one observation",
            )
        if terms.global_latents and terms.size * rows != size * terms.n_rows:
            raise ModelError(
                got=f"a plate over {terms.size} rows in a model with global latents, {rows} of {size} at a time",
                need="terms scaled to the whole data set",
                fix=f"pyro.plate(name, {size}, subsample=torch.arange(len(x))), or batch_size={size}",
            )
        self.rows_per_row = terms.n_rows / rows
        if objective.particles > 1:
            with self.evaluating(), pyro.validation_enabled(False):
                check_particles(self.model, self.guide, *self.args(x, size), nesting=nesting)

    def parameters(self, x: Tensor, size: int) -> dict[str, Tensor]:
        """What can be trained, by name: every leaf that the two programs or their modules own."""
        _name_apart(self.guide)
        with torch.no_grad(), torch.random.fork_rng():
            guide_trace = poutine.trace(self.guide).get_trace(*self.args(x, size))
            model_trace = poutine.trace(poutine.replay(self.model, trace=guide_trace)).get_trace(*self.args(x, size))
        found: dict[int, tuple[str, Tensor]] = {}
        for module in self.modules:
            for name, parameter in module.named_parameters():
                found.setdefault(id(parameter), (name, parameter))
        for trace in (guide_trace, model_trace):
            for name, leaf in parameter_leaves(trace).items():
                found.setdefault(id(leaf), (name, leaf))
        trainable: dict[str, Tensor] = {}
        for name, leaf in found.values():
            if leaf.requires_grad and leaf.is_leaf:
                while name in trainable:  # a model and its guide may each have a `loc`
                    name += "'"
                trainable[name] = leaf
        if not trainable:
            raise ModelError(
                got="programs without parameters", need="something to train", fix="a guide with pyro.param"
            )
        return dict(sorted(trainable.items()))


def _name_apart(guide: Any) -> None:
    """Give an AutoGuide that has no parameters yet a name of its own in Pyro's store.

    All AutoNormals are called "AutoNormal" there: a second one would take over the parameters of the first.
    """
    if not isinstance(guide, AutoGuide) or guide.prototype_trace is not None:
        return
    taken = {key.split(".")[0] for key in pyro.get_param_store().keys()}  # noqa: SIM118 (a store, not a dict)
    name = guide._pyro_name
    numbers = itertools.count(2)
    while guide._pyro_name in taken:
        guide._pyro_name = f"{name}-{next(numbers)}"


def _modules(program: Any) -> list[nn.Module]:
    while isinstance(program, functools.partial):
        program = program.func
    owner = getattr(program, "__self__", program)
    if isinstance(owner, nn.Module) or not inspect.isfunction(program):
        return [owner] if isinstance(owner, nn.Module) else []
    named = inspect.getclosurevars(program)
    return [value for value in (*named.nonlocals.values(), *named.globals.values()) if isinstance(value, nn.Module)]


def _describe(x: Any) -> str:
    return f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
