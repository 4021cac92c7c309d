"""MADE and NADE: cached sampling against a whole pass for each variable, and a training step against torch by hand.

    python benchmarks/autoregressive.py [--rounds 5] [--threads 1] [--clock cpu]

Sampling draws 64 rows of 784 bits for the same uniforms in both ways; the naive one is timed on some of its 784
equal passes and multiplied. A step is one batch of 100 rows: gradient and fused Adam. In every round each
contestant runs once, in an order that rotates; ratios of time are taken within the round, and their medians go to
benchmarks/results/autoregressive.json. For sampling a ratio is naive over ours, for a step ours over theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from paired import CLOCKS, arguments, in_turns, limit_threads, write

WIDTH, ROWS, BATCH, PASSES = 784, 64, 100, 16
Run = Callable[[], object]


def models() -> dict[str, Any]:
    import torch

    from pyrogen.models import MADE, NADE

    torch.manual_seed(0)
    return {"made-500-500": MADE(WIDTH, (500, 500)), "made-500": MADE(WIDTH, (500,)), "nade-500": NADE(WIDTH, 500)}


def sampling(model: Any) -> tuple[Run, Run]:
    """PASSES of the 784 passes that the naive way has, each with its draw; and all 64 draws by ours."""
    import torch

    fn = model.dist()
    uniforms = torch.rand(ROWS, WIDTH, dtype=torch.float64)
    conditional = fn.conditional

    @torch.no_grad()
    def naive() -> None:
        stepper = fn.network.naive(ROWS)
        noise = conditional.noise(uniforms, torch.float32)
        for k in range(PASSES):
            value = conditional.draw(stepper.parameters(), noise[:, stepper.order[k], None])
            stepper.push(conditional.encode(value))

    return naive, lambda: fn.sample((ROWS,), uniforms=uniforms)


def our_steps(model: Any, x: Any, mode: str) -> Run:
    from loop import Loop

    loop = Loop(model, x, batch=BATCH, rate=1e-3, mode=mode)
    return lambda: [loop.step(x[:BATCH]) for _ in range(3)]


def made_by_hand(x: Any, hidden: tuple[int, ...]) -> Run:
    """What one writes without a library: masks made once, multiplied at each step."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, linear, relu

    torch.manual_seed(0)
    degrees = [torch.arange(1, WIDTH + 1), *(torch.arange(h) * (WIDTH - 1) // h + 1 for h in hidden)]
    masks = [(b[:, None] >= a).float() for a, b in pairwise(degrees)]
    masks.append((degrees[0][:, None] > degrees[-1]).float())
    widths = [WIDTH, *hidden, WIDTH]
    layers = [torch.nn.Linear(a, b) for a, b in pairwise(widths)]
    parameters = [p for layer in layers for p in layer.parameters()]
    adam = torch.optim.Adam(parameters, lr=1e-3, fused=True)

    def step() -> None:
        for _ in range(3):
            h = x[:BATCH]
            for i, (layer, mask) in enumerate(zip(layers, masks, strict=True)):
                h = linear(h, layer.weight * mask, layer.bias)
                h = relu(h) if i + 1 < len(layers) else h
            loss = binary_cross_entropy_with_logits(h, x[:BATCH], reduction="sum") / BATCH
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()

    return step


def nade_by_hand(x: Any, hidden: int) -> Run:
    """The loop over variables of the paper's algorithm, differentiated by autograd."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits

    torch.manual_seed(0)
    W = torch.nn.Parameter(torch.randn(WIDTH, hidden) / WIDTH**0.5)
    V = torch.nn.Parameter(torch.randn(WIDTH, hidden) / hidden**0.5)
    b, c = torch.nn.Parameter(torch.zeros(WIDTH)), torch.nn.Parameter(torch.zeros(hidden))
    adam = torch.optim.Adam([W, V, b, c], lr=1e-3, fused=True)

    def step() -> None:
        for _ in range(3):
            rows = x[:BATCH]
            a, logits = c.expand(BATCH, -1), []
            for w, v, value in zip(W.unbind(), V.unbind(), rows.T.unsqueeze(-1), strict=True):
                logits.append(a.sigmoid() @ v)
                a = torch.addcmul(a, value, w)
            total = binary_cross_entropy_with_logits(torch.stack(logits, 1) + b, rows, reduction="sum") / BATCH
            adam.zero_grad(set_to_none=True)
            total.backward()
            adam.step()

    return step


def compare(rounds: int, clock: str) -> dict[str, Any]:
    import torch

    x = (torch.rand(BATCH * 2, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.15).float()
    ratios: dict[str, float] = {}
    seconds: dict[str, float] = {}
    for name, model in models().items():
        naive, ours = sampling(model)
        drawn = in_turns({"naive": naive, "ours": ours}, rounds, CLOCKS[clock], warm=1)
        ratios[f"sampling {name}"] = drawn["ours"]["ratio"] * WIDTH / PASSES
        seconds[f"sampling {name}"] = drawn["ours"]["seconds"]
        by_hand = nade_by_hand(x, 500) if name.startswith("nade") else made_by_hand(x, model.network.hidden)
        for mode in ("eager", "graph"):
            steps = in_turns({mode: our_steps(model, x, mode), "by hand": by_hand}, rounds, CLOCKS[clock], warm=1)
            ratios[f"step {name} {mode}"] = steps["by hand"]["ratio"]
            seconds |= {f"step {name} {key}": taken["seconds"] / 3 for key, taken in steps.items()}
        print(name, {key: value for key, value in ratios.items() if name in key}, file=sys.stderr, flush=True)
    return {
        "ratios": ratios,
        "seconds": {key: float(f"{value:.4g}") for key, value in seconds.items()},
        "settings": {
            "width": WIDTH,
            "rows": ROWS,
            "batch": BATCH,
            "naive_passes_timed": PASSES,
            "rounds": rounds,
            "clock": clock,
        },
    }


def main() -> None:
    args = arguments(__doc__, "autoregressive", rounds=5).parse_args()
    limit_threads(args.threads)
    write(compare(args.rounds, args.clock), args.out, args.threads)


if __name__ == "__main__":
    main()
