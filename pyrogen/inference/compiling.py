"""How a step's gradient is run: eagerly, as its traced graph, compiled, or as a captured CUDA graph."""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor, fx

from pyrogen.inference.lowering import NotLoweredError, Step, lower

if TYPE_CHECKING:
    from pyrogen.inference.training import Training

Compile = Literal["auto", "eager", "graph", "inductor", "cudagraph"]
Run = Callable[..., tuple[Tensor | None, ...]]

aten = torch.ops.aten
_WHOLE = (torch.float32, torch.float64)  # in fewer bits, the sum would be rounded once more

WORTH_COMPILING = 60.0  # seconds that a run must last for the compiler, which takes 10 to 30, to be tried


class Lowered:
    """The gradient of a step as a graph for each shape of the rows, traced when the shape first comes.

    Only the first shape is compiled or captured; a smaller last batch runs as the plain graph.
    """

    def __init__(self, step: Step, mode: str = "graph") -> None:
        self.step, self.mode = step, mode
        self.reasons: dict[str, str] = {}  # what could not be done, and why
        self._runs: dict[tuple[torch.Size, torch.dtype], Run | None] = {}

    def __call__(self, x: Tensor, step: int) -> Tensor | None:
        """Leave the gradient in the parameters; give the bound, or None if rows of this shape cannot be lowered."""
        key = (x.shape, x.dtype)
        if key not in self._runs:
            self._runs[key] = self.prepare(x, "graph")
        run = self._runs[key]
        if run is None:
            return None
        with torch.no_grad():
            bound, *gradients = run(*self.step.inputs(x, step))
        for parameter, gradient in zip(self.step.parameters, gradients, strict=True):
            parameter.grad = gradient
        return bound

    def prepare(self, x: Tensor, mode: str) -> Run | None:
        """The graph for rows like x in a mode, run once; None, with the reason noted, if that fails."""
        try:
            graph = lower(self.step, x)
            run = _BACKENDS[mode](graph, self.step, x)
            with self.step.rehearsing(), torch.no_grad():
                run(*self.step.inputs(x, 0))
        except Exception as error:  # whatever it is, the same step without compiling is there
            words = str(error) if isinstance(error, NotLoweredError) else f"{type(error).__name__}: {error}"
            self.reasons[mode] = (words.splitlines() or [""])[0]
            return None
        return run

    def use(self, x: Tensor, mode: str, run: Run) -> None:
        self._runs[x.shape, x.dtype], self.mode = run, mode


def _as_graph(graph: fx.GraphModule, step: Step, x: Tensor) -> Run:
    return graph.forward


def _by_inductor(graph: fx.GraphModule, step: Step, x: Tensor) -> Run:
    try:
        # calls the kernels from C++: a sixth faster in small networks, but not for every operation
        return _compiled(graph, step, x, cpp_wrapper=x.device.type == "cpu")
    except Exception:
        return _compiled(graph, step, x, cpp_wrapper=False)


def _compiled(graph: fx.GraphModule, step: Step, x: Tensor, cpp_wrapper: bool) -> Run:
    from torch._inductor import compile as compiled  # not above: importing it changes torch's state

    # random numbers from torch's own stream, so that the result does not depend on the mode but for rounding
    options: dict[str, Any] = {"fallback_random": True, "cpp_wrapper": cpp_wrapper}
    own = fx.GraphModule(graph, copy.deepcopy(graph.graph))
    if x.device.type == "cpu":
        _unfuse(own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with step.rehearsing(), torch.no_grad():
            # not torch.compile, which would look at each call whether the graph is still that one, and all its inputs
            return compiled(own, list[Any](step.inputs(x, 0)), options=options)  # pyright: ignore[reportReturnType]


def _unfuse(graph: fx.GraphModule) -> None:
    """Take the bias out of products: on a CPU it is a copy before them, and else a part of what comes after them."""
    for node in graph.graph.nodes:
        if node.target is aten.addmm.default and not node.kwargs and node.meta["val"].dtype in _WHOLE:
            bias, *factors = node.args
            with graph.graph.inserting_before(node):
                product = graph.graph.call_function(aten.mm.default, tuple(factors))
                whole = graph.graph.call_function(aten.add.Tensor, (product, bias))
            node.replace_all_uses_with(whole)
            graph.graph.erase_node(node)
    graph.recompile()


def _by_capture(graph: fx.GraphModule, step: Step, x: Tensor) -> Run:
    """Capture the graph's kernels once and replay them: one launch a step. Results share memory over calls."""
    if x.device.type != "cuda":
        raise NotLoweredError(f"no CUDA device: the rows are on the {x.device.type}")
    kept = len(step.state)
    inputs = step.inputs(x, 0)
    inputs = [*inputs[:kept], *(t.clone() for t in inputs[kept:])]
    captured = torch.cuda.CUDAGraph()
    with step.rehearsing(), torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels choose themselves and allocate before the capture
            for _ in range(3):
                graph.forward(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(captured):
            out = graph.forward(*inputs)

    def replay(*new: Tensor) -> tuple[Tensor | None, ...]:
        for old, value in zip(inputs[kept:], new[kept:], strict=True):
            old.copy_(value)
        captured.replay()
        return out

    return replay


_BACKENDS: dict[str, Callable[[fx.GraphModule, Step, Tensor], Run]] = {
    "graph": _as_graph,
    "inductor": _by_inductor,
    "cudagraph": _by_capture,
}


class Choice(NamedTuple):
    """How steps are run: in a mode, and why in that one."""

    lowered: Lowered | None  # None for eager
    reason: str

    @property
    def mode(self) -> str:
        return self.lowered.mode if self.lowered else "eager"


def choose(training: Training, mode: str, steps: int) -> Choice:
    """Make the training's step ready to run in a mode. What is asked for and fails, warns.

    "auto" is the mode that the run began in, or it measures: a few gradients of the first batch in each mode, without
    consequences, and the compiler too if the run of `steps` steps is long enough to pay for it. Of several processes,
    all take the one that is the fastest in the first.
    """
    reason = "asked for"
    if mode == "auto" and training.mode:
        mode, reason = training.mode, "the run began in it"
    if mode == "eager":
        return Choice(None, reason)
    if training.objective.unlowered:
        if mode != "auto":
            warnings.warn(f"compile={mode!r} falls back to 'eager': {training.objective.unlowered}", stacklevel=3)
        return Choice(None, training.objective.unlowered)
    training.programs.train(True)
    x = training.first
    step = Step(training.programs, training.objective, training.parameters, training.size, training.nesting)
    lowered = Lowered(step)
    graph = lowered.prepare(x, "graph")
    if graph is not None:
        lowered.use(x, "graph", graph)
    if mode == "auto":
        return _fastest(lowered, graph, training, x, steps)
    if graph is not None and mode != "graph" and (run := lowered.prepare(x, mode)):
        lowered.use(x, mode, run)
    used = "eager" if graph is None else lowered.mode
    if used != mode:
        reason = lowered.reasons.get(mode) or lowered.reasons["graph"]
        warnings.warn(f"compile={mode!r} falls back to {used!r}: {reason}", stacklevel=3)
    return Choice(lowered if graph is not None else None, reason)


def _fastest(lowered: Lowered, graph: Run | None, training: Training, x: Tensor, steps: int) -> Choice:
    step, ranks = lowered.step, training.ranks

    def eager() -> None:
        training.eager_gradient(x)

    def of(run: Run) -> Callable[[], None]:
        def once() -> None:
            with torch.no_grad():
                run(*step.inputs(x, 0))

        return once

    def measured() -> dict[str, float]:
        with step.rehearsing():
            return ranks.told(_measure(candidates, x.device))

    candidates: dict[str, Callable[[], None]] = {"eager": eager}
    runs: dict[str, Run] = {}
    if all(ranks.gather(graph is not None)) and graph is not None:
        runs["graph"], candidates["graph"] = graph, of(graph)
        seconds = measured()
        if min(seconds.values()) * steps > WORTH_COMPILING:
            for mode in ("inductor", "cudagraph") if x.device.type == "cuda" else ("inductor",):
                run = lowered.prepare(x, mode)
                if all(ranks.gather(run is not None)) and run is not None:
                    runs[mode], candidates[mode] = run, of(run)
            seconds = measured()
        best = min(seconds, key=seconds.__getitem__)
        reason = f"the fastest of {', '.join(f'{name} {1e3 * taken:.3g} ms' for name, taken in seconds.items())}"
    else:
        best, reason = "eager", "the only one"
    failed = [f"no {mode}: {why}" for mode, why in lowered.reasons.items() if mode not in runs]
    if best != "eager":
        lowered.use(x, best, runs[best])
    return Choice(lowered if best != "eager" else None, "; ".join([reason, *failed]))


def _measure(candidates: dict[str, Callable[[], None]], device: torch.device, rounds: int = 7) -> dict[str, float]:
    """The median seconds of each, in turns, so that a busy moment meets all."""
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, once in candidates.items():
            start = time.perf_counter()
            once()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(t[1:]) for name, t in taken.items()}
