"""Flows as densities: a training step, and 100,000 draws, ours against Pyro's own transforms; ATen operations of both.

    python benchmarks/flows.py [--rounds 9] [--threads 1] [--only nsf-c5]

Both train the same architecture (as many parameters) with Adam on the same minibatches of the warped mixture. In every
round each contestant runs, in an order that rotates, and the ratio of our time to theirs is taken within the round;
medians over rounds go to benchmarks/results/flows.json, with the test score after 500 steps. "ours" is the loop of
`fit(compile="graph")`, "ours-eager" a hand-written loop, as Pyro's is. A draw from an
autoregressive density takes D passes in both.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from paired import CLOCKS, arguments, earlier, in_turns, limit_threads, write

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' count of operations

WIDTH, BATCH, RATE, HIDDEN, BINS, BOUND, DRAWS = 8, 256, 1e-3, (64, 64), 8, 5.0, 100_000
TASKS = ("realnvp-8", "nsf-c5", "nsf-ar5")


class Contestant:
    """A density with a training step: log p(x), draws, parameters."""

    module: Any = None

    def __init__(self, log_prob: Callable[[Any], Any], sample: Callable[[int], Any], parameters: list[Any]) -> None:
        import torch

        self.log_prob, self.sample, self.parameters = log_prob, sample, parameters
        self.adam = torch.optim.Adam(parameters, lr=RATE)

    def step(self, x: Any) -> None:
        self.adam.zero_grad(set_to_none=True)
        (-self.log_prob(x).mean()).backward()
        self.adam.step()


def ours(task: str) -> Contestant:
    import torch

    from pyrogen.distributions import NormalizingFlow
    from pyrogen.distributions.transforms import AffineCoupling, Flow, SplineAutoregressive, SplineCoupling

    torch.manual_seed(0)
    orders = [range(WIDTH), range(WIDTH - 1, -1, -1)]
    layers = {
        "realnvp-8": lambda: [AffineCoupling(WIDTH, HIDDEN, swap=i % 2 == 1) for i in range(8)],
        "nsf-c5": lambda: [SplineCoupling(WIDTH, HIDDEN, bins=BINS, bound=BOUND, swap=i % 2 == 1) for i in range(5)],
        "nsf-ar5": lambda: [
            SplineAutoregressive(WIDTH, HIDDEN, bins=BINS, bound=BOUND, order=orders[i % 2]) for i in range(5)
        ],
    }[task]()
    flow = NormalizingFlow(Flow(layers).inv)
    one = Contestant(lambda x: flow().log_prob(x), lambda n: flow().sample((n,)), list(flow.parameters()))
    one.module = flow
    return one


def ours_by_graph(task: str, data: Any) -> Contestant:
    """Ours as `fit(compile="graph")` trains it: the step traced once, one fused Adam."""
    from loop import Loop

    from pyrogen.models import FlowModel

    model = FlowModel(ours(task).module.layer.inv)
    loop = Loop(model, data, batch=BATCH, rate=RATE, mode="graph")

    class Trained(Contestant):
        def step(self, x: Any) -> None:
            loop.step(x)

    return Trained(model.log_prob, model.sample, list(model.parameters()))


def stock(task: str) -> Contestant:
    """Pyro's transforms. Those that its helpers cannot build, quadratic splines, are built from their classes."""
    import pyro.distributions as dist
    import torch
    from pyro.distributions import transforms as T
    from pyro.nn import AutoRegressiveNN, DenseNN

    torch.manual_seed(0)
    half, hidden = WIDTH // 2, list(HIDDEN)
    layers: list[Any] = []
    for i in range(8 if task == "realnvp-8" else 5):
        if task == "realnvp-8":
            layers.append(T.affine_coupling(WIDTH, hidden))
        elif task == "nsf-c5":
            network = DenseNN(half, hidden, param_dims=[half * BINS, half * BINS, half * (BINS - 1)])
            layer = T.SplineCoupling(WIDTH, half, network, BINS, BOUND, order="quadratic", identity=True)
            layer.lower_spline.requires_grad_(False)
            layers.append(layer)
        else:
            order: Any = torch.arange(WIDTH) if i % 2 == 0 else torch.arange(WIDTH).flip(0)
            network = AutoRegressiveNN(WIDTH, hidden, param_dims=[BINS, BINS, BINS - 1], permutation=order)
            layers.append(T.SplineAutoregressive(WIDTH, network, count_bins=BINS, bound=BOUND, order="quadratic"))
        if task != "nsf-ar5":
            layers.append(T.Permute(torch.arange(WIDTH - 1, -1, -1)))
    base = dist.Normal(torch.zeros(WIDTH), 1.0).to_event(1)
    density = dist.TransformedDistribution(base, [layer.inv for layer in reversed(layers)])

    def log_prob(x: Any) -> Any:
        out = density.log_prob(x)
        density.clear_cache()
        return out

    def sample(n: int) -> Any:
        out = density.sample((n,))
        density.clear_cache()
        return out

    modules = [layer for layer in layers if isinstance(layer, torch.nn.Module)]
    return Contestant(log_prob, sample, [p for m in modules for p in m.parameters() if p.requires_grad])


def compare(task: str, rounds: int, clock: str, steps: int) -> dict[str, Any]:
    import pyro
    import torch

    from pyrogen.data import load

    data = load("warped-mixture")
    source = torch.Generator().manual_seed(1)
    batches = [data["train"][torch.randint(len(data["train"]), (BATCH,), generator=source)] for _ in range(steps)]
    contestants = {"ours": ours_by_graph(task, data["train"]), "ours-eager": ours(task), "pyro": stock(task)}
    sizes = {name: sum(p.numel() for p in c.parameters) for name, c in contestants.items()}
    counts = {name: counted(c, batches[0][:64]) for name, c in contestants.items() if name != "ours"}
    with pyro.validation_enabled(False):
        scores = {}
        for name, one in contestants.items():
            for x in batches:
                one.step(x)
            with torch.no_grad():
                scores[name] = round(-float(one.log_prob(data["test"]).mean()), 4)
        train = in_turns(
            {name: lambda one=one: [one.step(x) for x in batches[:20]] for name, one in contestants.items()},
            rounds,
            CLOCKS[clock],
        )
        with torch.no_grad():
            draw = in_turns(
                {name: lambda one=one: one.sample(DRAWS) for name, one in contestants.items()}, rounds, CLOCKS[clock]
            )
    return {
        "ratios": {"step": train["pyro"]["ratio"], "draws": draw["pyro"]["ratio"]},
        "steps_20": train,
        "draws_100000": draw,
        "operations": counts,
        "parameters": sizes,
        "test_nll": scores,
        "settings": {"batch": BATCH, "learning_rate": RATE, "steps": steps, "rounds": rounds, "clock": clock},
    }


def counted(one: Contestant, x: Any) -> dict[str, int]:
    """ATen operations of log p and its gradient on 64 rows, and of 64 draws; how many wait for the device."""
    import pyro
    import torch

    from tests.operations import operations

    with pyro.validation_enabled(False):
        step = operations(lambda: (-one.log_prob(x.clone()).mean()).backward())
        with torch.no_grad():
            draw = operations(lambda: one.sample(64))
    return {"step": step.total, "step_waits": step.waits, "draw": draw.total, "draw_waits": draw.waits}


def main() -> None:
    parser = arguments(__doc__, "flows")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", choices=TASKS)
    args = parser.parse_args()
    limit_threads(args.threads)
    result = earlier(args.out) if args.only else {}
    for task in [args.only] if args.only else TASKS:
        result[task] = compare(task, args.rounds, args.clock, args.steps)
        print(task, result[task]["ratios"], result[task]["operations"], result[task]["test_nll"], file=sys.stderr)
    write(result, args.out, args.threads)


if __name__ == "__main__":
    main()
