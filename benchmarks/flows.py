"""Flows as densities: a training step, and draws, against Pyro's own transforms and zuko; ATen operations of each.

    python benchmarks/flows.py [--rounds 9] [--threads 1] [--only nsf-c5] [--draws 100000] [--clock cpu]

All train the same architecture (as many parameters) with Adam on the same minibatches of the warped mixture. In every
round each contestant runs, in an order that rotates, and the ratio of our time to theirs is taken within the round;
medians over rounds go to benchmarks/results/flows.json, with the test score after the training steps. "ours" is the
loop of `fit(compile="auto")` in a long run, whose choice the result names, "ours-graph" that of "graph", "ours-eager" a
hand-written loop, as the peers' are. zuko (`pip install zuko`) is a contestant where it is installed. A draw from an
autoregressive density takes D passes in all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paired import CLOCKS, arguments, earlier, in_turns, limit_threads, write

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' count of operations

WIDTH, BATCH, RATE, HIDDEN, BINS, BOUND = 8, 256, 1e-3, (64, 64), 8, 5.0
TASKS = ("realnvp-8", "nsf-c5", "nsf-ar5")


class Contestant:
    """A density with a training step: log p(x), draws, parameters."""

    module: Any = None
    mode = "eager"

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


def ours_by_fit(task: str, data: Any, mode: str) -> Contestant:
    """Ours as `fit(compile=mode)` trains it: the step traced once, one fused Adam."""
    from loop import Loop

    from pyrogen.models import FlowModel

    model = FlowModel(ours(task).module.layer.inv)
    loop = Loop(model, data, batch=BATCH, rate=RATE, mode=mode)

    class Trained(Contestant):
        def step(self, x: Any) -> None:
            loop.step(x)

    one = Trained(model.log_prob, model.sample, list(model.parameters()))
    one.mode = loop.mode
    return one


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


def zuko_flow(task: str) -> Contestant:
    """zuko's layers: its own RealNVP and NSF, and couplings of its splines."""
    import torch
    from zuko.distributions import DiagNormal
    from zuko.flows import NSF, Flow, RealNVP, UnconditionalDistribution
    from zuko.flows.coupling import GeneralCouplingTransform
    from zuko.transforms import MonotonicRQSTransform

    torch.manual_seed(0)

    def coupling(i: int) -> Any:
        mask = torch.arange(WIDTH) % 2 == i % 2
        spline = partial(MonotonicRQSTransform, bound=BOUND, slope=1e-3)
        shapes = [(BINS,), (BINS,), (BINS - 1,)]
        return GeneralCouplingTransform(WIDTH, mask=mask, univariate=spline, shapes=shapes, hidden_features=HIDDEN)

    if task == "nsf-c5":
        base = UnconditionalDistribution(DiagNormal, torch.zeros(WIDTH), torch.ones(WIDTH), buffer=True)
        flow = Flow([coupling(i) for i in range(5)], base)
    elif task == "realnvp-8":
        flow = RealNVP(WIDTH, transforms=8, hidden_features=HIDDEN)
    else:
        flow = NSF(WIDTH, bins=BINS, transforms=5, hidden_features=HIDDEN)
    return Contestant(lambda x: flow().log_prob(x), lambda n: flow().sample((n,)), list(flow.parameters()))


def compare(task: str, rounds: int, clock: str, steps: int, draws: int) -> dict[str, Any]:
    import pyro
    import torch

    from pyrogen.data import load

    data = load("warped-mixture")
    source = torch.Generator().manual_seed(1)
    batches = [data["train"][torch.randint(len(data["train"]), (BATCH,), generator=source)] for _ in range(steps)]
    contestants = {
        "ours": ours_by_fit(task, data["train"], "auto"),
        "ours-graph": ours_by_fit(task, data["train"], "graph"),
        "ours-eager": ours(task),
        "pyro": stock(task),
    }
    peers = ["pyro"]
    if find_spec("zuko"):
        contestants["zuko"] = zuko_flow(task)
        peers.append("zuko")
    sizes = {name: sum(p.numel() for p in c.parameters) for name, c in contestants.items()}
    counts = {
        name: counted(c, batches[0][:64]) for name, c in contestants.items() if name not in ("ours", "ours-graph")
    }
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
            drawn = in_turns(
                {name: lambda one=one: one.sample(draws) for name, one in contestants.items() if name != "ours-graph"},
                rounds,
                CLOCKS[clock],
            )
    return {
        "ratios": {peer: {"step": train[peer]["ratio"], "draws": drawn[peer]["ratio"]} for peer in peers},
        "chosen_by_auto": contestants["ours"].mode,
        "not_run": {} if "zuko" in peers else {"zuko": "not installed"},
        "steps_20": train,
        "draws": drawn,
        "operations": counts,
        "parameters": sizes,
        "test_nll": scores,
        "settings": {
            "batch": BATCH,
            "learning_rate": RATE,
            "steps": steps,
            "rounds": rounds,
            "draws": draws,
            "clock": clock,
        },
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
    parser.add_argument("--draws", type=int, default=100_000)
    parser.add_argument("--only", choices=TASKS)
    args = parser.parse_args()
    limit_threads(args.threads)
    result = earlier(args.out) if args.only else {}
    for task in [args.only] if args.only else TASKS:
        result[task] = compare(task, args.rounds, args.clock, args.steps, args.draws)
        print(task, result[task]["ratios"], result[task]["operations"], result[task]["test_nll"], file=sys.stderr)
        write(result, args.out, args.threads, peers=("zuko",))


if __name__ == "__main__":
    main()
