"""A training step's gradient, traced once through Pyro's handlers into a pure graph of tensors."""

from __future__ import annotations

import dataclasses
import random
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyro
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from pyrogen.distributions.boltzmann import Particles
from pyrogen.inference.noise import Noise, NoiseError
from pyrogen.inference.objectives import Objective
from pyrogen.inference.programs import Programs
from pyrogen.inference.schedules import at
from pyrogen.inference.simplify import simplify


class NotLoweredError(Exception):
    """Why a step cannot become a graph, in one line."""


class Step:
    """The gradient of an objective as a function of tensors alone.

        (parameters, buffers, x, schedules) -> (bound, gradients)

    Parameters and buffers are the very tensors that the programs use, so tracing needs no substitutes
    and Pyro's parameter store is only read. Schedules are fields of the objective, a dataclass, that can
    be called; their values come in as tensors. An objective that asks for the step itself is refused.
    What the programs compute with besides, such as a tensor in a closure, is a constant of the graph.

    Args:
        size: of the data set.
        nesting: depth of the programs' plates.
    """

    def __init__(
        self, programs: Programs, objective: Objective, parameters: list[Tensor], size: int, nesting: int
    ) -> None:
        self.programs, self.objective, self.size, self.nesting = programs, objective, size, nesting
        self.parameters = parameters
        known = {id(p) for p in parameters}
        owned = (t for m in programs.modules for t in [*m.parameters(), *m.buffers()])
        # distinct inputs must be distinct tensors, or one would stand for the other in the graph
        others = {id(t): t for t in owned if id(t) not in known}
        self.state = [*parameters, *others.values()]
        self.buffers = [t for t in others.values() if not t.requires_grad]
        device = parameters[0].device
        fields = dataclasses.fields(objective) if dataclasses.is_dataclass(objective) else ()
        values: dict[str, Any] = {f.name: getattr(objective, f.name) for f in fields}
        self.schedules: dict[str, Any] = {name: value for name, value in values.items() if callable(value)}
        self.rates = [torch.zeros((), dtype=torch.float64, device=device) for _ in self.schedules]

    def inputs(self, x: Tensor, step: int) -> list[Tensor]:
        """Everything that the gradient depends on, at a step."""
        for rate, schedule in zip(self.rates, self.schedules.values(), strict=True):
            rate.fill_(at(schedule, step))
        return [*self.state, x, *self.rates]

    def __call__(self, *inputs: Tensor) -> tuple[Tensor | None, ...]:
        x, *rates = inputs[len(self.state) :]
        objective = self.objective
        if rates:
            held = {name: _always(rate) for name, rate in zip(self.schedules, rates, strict=True)}
            objective = dataclasses.replace(objective, **held)  # pyright: ignore[reportArgumentType]
        for parameter in self.parameters:
            parameter.grad = None
        untold = _Untold()
        value = self.programs.evaluate(objective, x, self.size, untold, self.nesting)  # pyright: ignore[reportArgumentType]
        # backward rather than grad: it gives each parameter memory of its own, in the parameter's layout
        torch.autograd.backward(value.loss, inputs=self.parameters)
        return (value.bound, *(p.grad for p in self.parameters))

    @contextmanager
    def rehearsing(self) -> Iterator[None]:
        """Run the step without consequences: random states, buffers and gradients are put back."""
        gradients = [p.grad for p in self.parameters]
        kept = [b.detach().clone() for b in self.buffers]
        python, numpy = random.getstate(), np.random.get_state()
        try:
            with torch.random.fork_rng(), pyro.validation_enabled(False):
                yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            with torch.no_grad():
                for buffer, value in zip(self.buffers, kept, strict=True):
                    buffer.copy_(value)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient


def lower(step: Step, x: Tensor) -> fx.GraphModule:
    """Trace the step on rows like x into a graph, with random numbers drawn anew at each call.

    It is traced twice, with other weights and rows the second time: a program that counts its calls,
    reads Python's random numbers or takes a value out of a tensor then gives another graph. What it changes
    in place besides, in a closure, is not seen.

    Raises:
        NotLoweredError: the step is not a fixed function of its tensors.
    """
    with step.rehearsing():
        graph = trace(step, x)
        with _elsewhere(step.parameters):
            again = trace(step, 0.75 * x.roll(1, 0))
    if not _same(graph, again):
        raise NotLoweredError("the programs do something else at each call, beyond drawing with torch")
    return graph


def trace(step: Step, x: Tensor) -> fx.GraphModule:
    """The graph of one run of the step, which is run: to be called while `rehearsing`.

    Raises:
        NotLoweredError: the step needs a value while it is traced, or goes back in the random state.
    """

    if any(isinstance(part, Particles) for module in step.programs.modules for part in module.modules()):
        raise NotLoweredError("the particles of an undirected model move from call to call, outside the graph")

    def traced(*inputs: Tensor) -> tuple[Tensor | None, ...]:
        with Noise() as noise:
            out = step(*inputs)
        noise.close()
        return out

    try:
        module = make_fx(traced)(*step.inputs(x.clone(), 0))  # a clone: x itself may be a parameter too
    except NotLoweredError:
        raise
    except NoiseError as error:
        raise NotLoweredError(str(error)) from error
    except Exception as error:
        raise NotLoweredError(_reason(error)) from error
    simplify(module.graph)
    module.recompile()
    return module


@contextmanager
def _elsewhere(parameters: list[Tensor]) -> Iterator[None]:
    """Other values in the parameters, for a while."""
    kept = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        try:
            for p in parameters:
                p.mul_(1.25).add_(1e-2)
            with torch.enable_grad():
                yield
        finally:
            for p, value in zip(parameters, kept, strict=True):
                p.copy_(value)


def _refuse(*_: object) -> NoReturn:
    raise NotLoweredError("the objective computes with the step; a schedule in a field of a dataclass can be lowered")


class _Untold:
    """The number of the step, to those who pass it on; whoever computes with it would bake it into the graph."""

    __bool__ = __int__ = __float__ = __index__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __format__ = _refuse


def _always(value: Tensor) -> Callable[[int], Tensor]:
    return lambda _: value


def _same(a: fx.GraphModule, b: fx.GraphModule) -> bool:
    """Whether two graphs are the same function: their operations, numbers and constant tensors."""
    ours, theirs = (dict([*g.named_buffers(), *g.named_parameters()]) for g in (a, b))
    return (
        a.code == b.code
        and ours.keys() == theirs.keys()
        and all(torch.equal(t.nan_to_num(), theirs[name].nan_to_num()) for name, t in ours.items())
    )


def _reason(error: BaseException) -> str:
    """One line: what went wrong, and the innermost line outside torch and Pyro where it did."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _FOREIGN.search(f.filename)]
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    message = (str(error).splitlines() or [""])[0]
    if "data-dependent" in message or "value out of a tracing tensor" in message:
        return f"a tensor becomes a Python number or a condition{where}"
    return f"{type(error).__name__}{where}: {message}"


_FOREIGN = re.compile(r"[/\\](torch|pyro)[/\\]|inference[/\\]noise|^<")
