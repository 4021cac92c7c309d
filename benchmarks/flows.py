"""Flows as densities: a training step, log p of rows and draws, against other libraries; operations of each.

    python benchmarks/flows.py [--rounds 9] [--threads 1] [--only nsf-c5] [--draws 100000] [--clock cpu]

All train the same architecture, couplings in which every other entry decides, with fused Adam on the same minibatches
of the warped mixture. In every round each contestant runs, in an order that rotates, and the ratio of our time to
theirs is taken within the round; medians over rounds go to benchmarks/results/flows.json, with the test score after
the training steps. "ours" is the loop of `fit(compile="auto")` in a long run, whose choice the result names,
"ours-graph" that of "graph", "ours-eager" a hand-written loop, as the peers' are, except FlowJAX's, which XLA compiles
and whose couplings take halves between permutations.
Pyro's own transforms, zuko, nflows, normflows and FlowJAX take part where they are installed; the ratio of one that is
not is null, with the reason. A draw from an autoregressive density takes D passes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from flows_peers import BATCH, BINS, BOUND, EVERY_OTHER, HIDDEN, PEERS, RATE, TASKS, WIDTH, Contestant
from paired import CLOCKS, arguments, earlier, in_turns, limit_threads, write

sys.path.insert(0, str(Path(__file__).parents[1]))  # the tests' count of operations


def ours(task: str) -> Contestant:
    import torch

    from pyrogen.distributions import NormalizingFlow
    from pyrogen.distributions.transforms import AffineCoupling, Flow, Permutation, SplineAutoregressive, SplineCoupling

    torch.manual_seed(0)
    orders = [range(WIDTH), range(WIDTH - 1, -1, -1)]
    layers = {
        "realnvp-8": lambda: [AffineCoupling(WIDTH, HIDDEN, swap=i % 2 == 1) for i in range(8)],
        "nsf-c5": lambda: [SplineCoupling(WIDTH, HIDDEN, bins=BINS, bound=BOUND, swap=i % 2 == 1) for i in range(5)],
        "nsf-ar5": lambda: [
            SplineAutoregressive(WIDTH, HIDDEN, bins=BINS, bound=BOUND, order=orders[i % 2]) for i in range(5)
        ],
    }[task]()
    if task != "nsf-ar5":
        layers = [Permutation(EVERY_OTHER), *layers]
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
    }
    missing = {}
    for name, make in PEERS.items():
        try:
            contestants[name] = make(task)
        except ImportError as error:
            missing[name] = f"not installed: {error}"
    peers = [name for name in PEERS if name in contestants]
    sizes = {name: sum(p.numel() for p in c.parameters) for name, c in contestants.items()}
    counts = {
        name: counted(c, batches[0][:64])
        for name, c in contestants.items()
        if c.counts and name not in ("ours", "ours-graph")
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
            warm=1,
        )
        rows = data["test"].repeat(-(-draws // len(data["test"])), 1)[:draws]
        judged = {name: one for name, one in contestants.items() if name != "ours-graph"}
        with torch.no_grad():
            scored = in_turns(
                {name: lambda one=one: one.log_prob(rows.clone()) for name, one in judged.items()},
                rounds,
                CLOCKS[clock],
                1,
            )
            drawn = in_turns(
                {name: lambda one=one: one.sample(draws) for name, one in judged.items()}, rounds, CLOCKS[clock], 1
            )
    return {
        "ratios": {
            peer: {"step": train[peer]["ratio"], "log_prob": scored[peer]["ratio"], "draws": drawn[peer]["ratio"]}
            if peer in peers
            else None
            for peer in PEERS
        },
        "chosen_by_auto": contestants["ours"].mode,
        "not_run": missing,
        "steps_20": train,
        "log_prob": scored,
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
    result: dict[str, Any] = {}
    for task in [args.only] if args.only else TASKS:
        result[task] = compare(task, args.rounds, args.clock, args.steps, args.draws)
        print(task, result[task]["ratios"], result[task]["operations"], result[task]["test_nll"], file=sys.stderr)
        kept = earlier(args.out) if args.only else {}
        write(kept | result, args.out, args.threads, peers=("zuko", "nflows", "normflows", "flowjax", "jax"))


if __name__ == "__main__":
    main()
