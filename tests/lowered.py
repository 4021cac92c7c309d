"""A step, eagerly and as its graph: what the tests of lowering and compiling compare."""

from __future__ import annotations

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyrogen.inference import ELBO, IWAE, Warmup
from pyrogen.inference.lowering import Step, lower
from pyrogen.inference.programs import Programs

OBJECTIVES = {
    "elbo": ELBO(),
    "elbo-schedule": ELBO(particles=2, beta=Warmup(10, start=0.2), free_bits=0.1),
    "iwae": IWAE(3, beta=Warmup(20)),
    "stl": ELBO(gradient="stl"),
    "dreg": IWAE(3, gradient="dreg"),
}


def rows(n: int, width: int = 4, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(n, width, generator=torch.Generator().manual_seed(n)) > 0.5).to(dtype)


def step_of(model, x, objective, guide=None, size=30) -> Step:
    programs = Programs.of(model, guide)
    parameters = list(programs.parameters(x, size).values())
    return Step(programs, objective, parameters, size, programs.nesting(x, size))


def eagerly(step: Step, x, at: int):
    """Bound, gradients and the random state after an eager step."""
    torch.manual_seed(at)
    for p in step.parameters:
        p.grad = None
    programs = step.programs
    value = step.objective(programs.model, programs.guide, *programs.args(x, step.size), step=at, nesting=step.nesting)
    value.loss.backward()
    gradients = [p.grad for p in step.parameters]
    for p in step.parameters:
        p.grad = None
    return [value.bound, *gradients], torch.get_rng_state()


def assert_equal_to_eager(step: Step, x, graph=None, steps=(0, 7, 40)):
    graph = graph or lower(step, x)
    for at in steps:
        expected, state = eagerly(step, x, at)
        torch.manual_seed(at)
        with torch.no_grad():
            got = graph(*step.inputs(x, at))
        for a, b in zip(expected, got, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (torch.equal(a, b) and a.dtype == b.dtype and a.stride() == b.stride())
        assert torch.equal(torch.get_rng_state(), state)
    return graph


class Count(TorchDispatchMode):
    """Counts the ATen operations that are dispatched."""

    def __init__(self):
        super().__init__()
        self.ops = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops[str(func)] += 1
        return func(*args, **(kwargs or {}))
