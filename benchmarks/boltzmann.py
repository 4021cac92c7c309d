"""Epochs of CD-1 and PCD-10 and annealed importance sampling: ours against rbms, ebmkit, learnergy, sklearn and torch.

    python benchmarks/boltzmann.py [--rounds 9] [--threads 1] [--clock cpu] [--only ais]

All train the same machine of 784 x 500 bits by plain SGD on the same rows, uncentred, from the same weights, or
estimate log Z of the same machine. In every round each contestant runs one epoch, or one estimate, in an order that
rotates, and the ratio of our time to theirs is taken within the round; medians over rounds go to
benchmarks/results/boltzmann.json, with the operations that an epoch's step or a temperature takes, which do not depend
on the machine. `products_alone` is our time over that of the matrix products and nothing else: no way of drawing brings
it below 1. Of ours, `scored` takes besides the log-likelihood that `fit` writes into its history, and `default` is
centred and steps by Adam. No peer is a dependency: one that is missing is null, and `skipped` says why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from boltzmann_peers import ANNEALERS, TRAINERS, Annealing, Run, Task, UnsupportedError
from operations import operations
from paired import CLOCKS, arguments, earlier, in_turns, limit_threads, write

ROWS, WIDTH, HIDDEN, BATCH, RATE = 10_000, 784, 500, 128, 0.05
CHAINS, TEMPERATURES = 100, 1_000
TASKS = {"cd-1": (1, False), "pcd-1": (1, True), "pcd-10": (10, True)}
PEERS = ("rbms", "ebmkit", "learnergy", "scikit-learn")


def training_task(k: int, persistent: bool) -> Task:
    """Independent rows, an eighth of their pixels on, and small weights."""
    import torch

    noise = torch.Generator().manual_seed(0)
    x = (torch.rand(ROWS, WIDTH, generator=noise) < 0.125).float()
    return Task(x, 0.01 * torch.randn(WIDTH, HIDDEN, generator=noise), k, persistent, BATCH, RATE)


def annealing_task() -> Annealing:
    """A machine of random couplings, as strong as trained ones."""
    import torch

    W = 0.05 * torch.randn(WIDTH, HIDDEN, generator=torch.Generator().manual_seed(1))
    return Annealing(W, torch.full((WIDTH,), -1.95), torch.zeros(HIDDEN), CHAINS, TEMPERATURES)


def our_epochs(task: Task) -> dict[str, Run]:
    import torch
    from loop import Loop

    from pyrogen.distributions.boltzmann import Bernoulli, Contrastive, Persistent
    from pyrogen.inference import MaximumLikelihood
    from pyrogen.models import RBM

    def made(centred: bool, optimizer: Any) -> tuple[Loop, Any]:
        torch.manual_seed(0)
        particles = Persistent(task.k, chains=task.batch) if task.persistent else Contrastive(task.k)
        rbm = RBM(Bernoulli(WIDTH), Bernoulli(HIDDEN), particles=particles, centred=centred)
        with torch.no_grad():
            rbm.W.copy_(task.W)
        settings = {"batch": task.batch, "rate": task.rate, "mode": "auto", "optimizer": optimizer}
        return Loop(rbm, task.x, objective=MaximumLikelihood(), **settings), rbm

    def plain(parameters: Any) -> Any:
        return torch.optim.SGD(parameters, task.rate, fused=True)

    loop, rbm = made(False, plain)
    scored, _ = made(False, plain)
    default, _ = made(True, None)

    def epoch() -> Any:
        loop.unscored_epoch()
        return rbm.W.detach(), rbm.b.detach(), rbm.c.detach()

    return {"ours": epoch, "ours-scored": scored.epoch, "ours-default": default.unscored_epoch}


def our_log_z(task: Annealing) -> Run:
    from pyrogen.distributions.boltzmann import Bernoulli, Machine
    from pyrogen.evaluate import log_z

    machine = Machine(Bernoulli(WIDTH), Bernoulli(HIDDEN), task.W, task.b, task.c)
    ladder = {"schedule": "linear", "steps": task.temperatures - 1}
    return lambda: log_z(machine, base=task.b, chains=task.chains, **ladder).value


def products_alone(task: Task | Annealing) -> Run:
    """The matrix products of an epoch, or of the temperatures, and nothing else: what no way of drawing gets below."""
    import torch

    W, b, c = task.W, torch.zeros(task.W.shape[0]), torch.zeros(task.W.shape[1])
    if isinstance(task, Annealing):
        k, steps, rows, trains = 1, task.temperatures - 1, task.chains, False
    else:
        k, steps, rows, trains = task.k, -(-len(task.x) // task.batch), task.batch, True
    noise = torch.Generator().manual_seed(0)
    v, h = ((torch.rand(rows, width, generator=noise) < 0.5).float() for width in W.shape)

    def run() -> Any:
        for _ in range(steps):
            for _ in range(k):
                torch.addmm(b, h, W.T)
                torch.addmm(c, v, W)
            if trains:
                torch.addmm(c, v, W)
                torch.mm(v.T, h).addmm_(v.T, h)
        return W, b, c

    return run


def contestants(makers: Mapping[str, Callable[[Any], Run]], task: Any) -> tuple[dict[str, Run], dict[str, str]]:
    """Those that take part, and why the others do not."""
    runs: dict[str, Run] = {}
    skipped: dict[str, str] = {}
    for name, make in makers.items():
        try:
            runs[name] = make(task)
        except UnsupportedError as reason:
            skipped[name] = str(reason)
        except ImportError as error:
            skipped[name] = f"{error}; pip install {name}"
    return runs, skipped


def compare(name: str, rounds: int, clock: str) -> dict[str, Any]:
    if name == "ais":
        task, makers, show = annealing_task(), ANNEALERS, float
        runs: dict[str, Run] = {"ours": our_log_z(task)}
        per = TEMPERATURES - 1
    else:
        task, makers, show = training_task(*TASKS[name]), TRAINERS, lambda out: float(out[0].abs().mean())
        runs = our_epochs(task)
        per = -(-ROWS // BATCH)
    theirs, skipped = contestants(makers, task)
    runs |= theirs
    same = {who: show(runs[who]()) for who in ("ours", *theirs)}  # warms caches, shows that all do the same
    counted = {who: operations(runs[who]).of(per) for who in ("ours", *theirs) if who not in ("scikit-learn",)}
    runs["products"] = products_alone(task)
    taken = in_turns(runs, rounds, CLOCKS[clock])
    ratios = {who: taken[who]["ratio"] if who in taken else None for who in makers}
    found = [ratio for ratio in ratios.values() if ratio is not None]
    ratios["best_peer"] = max(found) if found else None
    ratios["products_alone"] = taken["products"]["ratio"]
    return {
        "ratios": ratios,
        "seconds": taken,
        "operations": {"per": "temperature" if name == "ais" else "step", **counted},
        "log_z" if name == "ais" else "mean_absolute_weight": same,
        "skipped": skipped,
    }


def main() -> None:
    parser = arguments(__doc__, "boltzmann")
    parser.add_argument("--only", choices=(*TASKS, "ais"))
    args = parser.parse_args()
    limit_threads(args.threads)
    result = earlier(args.out) if args.only else {}
    result.setdefault("ratios", {})
    for name in [args.only] if args.only else (*TASKS, "ais"):
        found = compare(name, args.rounds, args.clock)
        result["ratios"][name] = found.pop("ratios")
        result[name] = found
        print(name, result["ratios"][name], file=sys.stderr, flush=True)
        write(result | {"settings": settings(args)}, args.out, args.threads, PEERS)


def settings(args: Any) -> dict[str, Any]:
    return {
        "visible": WIDTH,
        "hidden": HIDDEN,
        "rows": ROWS,
        "batch": BATCH,
        "chains": CHAINS,
        "temperatures": TEMPERATURES,
        "rounds": args.rounds,
        "clock": args.clock,
    }


if __name__ == "__main__":
    main()
