"""MADE, NADE and PixelCNN: cached sampling against a pass for each variable; training steps against torch by hand.

    python benchmarks/autoregressive.py [--rounds 5] [--threads 1] [--clock cpu]

Sampling draws 64 rows of 784 bits for the same uniforms in both ways; the naive one is timed on some of its 784
equal passes and multiplied. A step is one batch of 100 rows: gradient and fused Adam. In every round each
contestant runs once, in an order that rotates; ratios of time are taken within the round, and their medians go to
benchmarks/results/autoregressive.json. For sampling a ratio is naive over ours, for a step ours over theirs.

NumPyro's network refuses layers narrower than the rows, so it is met at 1024-1024; it samples by 784 passes in one
compiled loop. It is no dependency: without it its ratios are missing, and `skipped` says why.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from paired import CLOCKS, arguments, in_turns, limit_threads, write

WIDTH, ROWS, BATCH, STEPS = 784, 64, 100, 3
PASSES = {"pixelcnn": 2}  # of 784, by model; else 16
MODES = {"nade-500": ("eager", "graph")}  # inductor has nothing to compile in one operation
THEIRS = ("by hand", "numpyro")
Run = Callable[[], object]


def models() -> dict[str, Any]:
    import torch

    from pyrogen.models import MADE, NADE, PixelCNN

    torch.manual_seed(0)
    return {
        "made-500": MADE(WIDTH, (500,)),
        "made-500-500": MADE(WIDTH, (500, 500)),
        "made-1024-1024": MADE(WIDTH, (1024, 1024)),
        "nade-500": NADE(WIDTH, 500),
        "pixelcnn": PixelCNN((1, 28, 28), channels=32, layers=8),
    }


def sampling(model: Any, passes: int) -> tuple[Run, Run]:
    """Some of the 784 passes that the naive way has, each with its draw; and all 64 draws by ours."""
    import torch

    fn = model.dist()
    uniforms = torch.rand(ROWS, WIDTH, dtype=torch.float64)
    conditional = fn.conditional

    @torch.no_grad()
    def naive() -> None:
        stepper = fn.network.naive(ROWS)
        noise = conditional.noise(uniforms, torch.float32)
        for k in range(passes):
            value = conditional.draw(stepper.parameters(), noise[:, stepper.order[k], None])
            stepper.push(conditional.encode(value))

    return naive, lambda: fn.sample((ROWS,), uniforms=uniforms)


def our_steps(model: Any, x: Any, mode: str) -> Run:
    from loop import Loop

    loop = Loop(model, x, batch=BATCH, rate=1e-3, mode=mode)
    return lambda: [loop.step(x[:BATCH]) for _ in range(STEPS)]


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
        for _ in range(STEPS):
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
        for _ in range(STEPS):
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


def numpyro_made(x: Any, hidden: tuple[int, ...]) -> tuple[Run, Run]:
    """Its network: STEPS steps with Adam in one compiled loop; and 64 draws by 784 passes in one."""
    import jax
    import jax.numpy as jnp
    from jax.example_libraries import stax
    from numpyro.nn import AutoregressiveNN
    from numpyro.optim import Adam

    init, apply = AutoregressiveNN(
        WIDTH, list(hidden), param_dims=[1], permutation=jnp.arange(WIDTH), nonlinearity=stax.Relu
    )
    rows, adam = jnp.asarray(x[:BATCH].numpy()), Adam(1e-3)
    state = adam.init(init(jax.random.PRNGKey(0), (WIDTH,))[1])

    def logits(weights: Any, v: Any) -> Any:
        return jnp.reshape(apply(weights, v), v.shape)

    def loss(weights: Any) -> Any:
        f = logits(weights, rows)
        return (jax.nn.softplus(f) - rows * f).sum() / BATCH

    @jax.jit
    def train(state: Any) -> Any:
        return jax.lax.fori_loop(0, STEPS, lambda _, s: adam.update(jax.grad(loss)(adam.get_params(s)), s), state)

    @jax.jit
    def draw(weights: Any, noise: Any) -> Any:
        def one(d: Any, v: Any) -> Any:
            return v.at[:, d].set(logits(weights, v)[:, d] > noise[:, d])

        return jax.lax.fori_loop(0, WIDTH, one, jnp.zeros((ROWS, WIDTH)))

    noise = jax.random.logistic(jax.random.PRNGKey(1), (ROWS, WIDTH))
    return (
        lambda: jax.block_until_ready(train(state)),
        lambda: jax.block_until_ready(draw(adam.get_params(state), noise)),
    )


def compare(rounds: int, clock: str) -> dict[str, Any]:
    import torch

    x = (torch.rand(BATCH * 2, WIDTH, generator=torch.Generator().manual_seed(0)) < 0.15).float()
    ratios: dict[str, float] = {}
    seconds: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for name, model in models().items():
        passes = PASSES.get(name, 16)
        naive, ours = sampling(model, passes)
        draws = {"naive": naive, "ours": ours}
        steps: dict[str, Run] = {}
        if name != "pixelcnn":
            modes = MODES.get(name, ("eager", "graph", "inductor"))
            steps = {mode: our_steps(model, x, mode) for mode in modes}
            steps["by hand"] = nade_by_hand(x, 500) if name == "nade-500" else made_by_hand(x, model.network.hidden)
        if name == "made-1024-1024":
            try:
                steps["numpyro"], draws["numpyro"] = numpyro_made(x, model.network.hidden)
            except ImportError as error:
                skipped["numpyro"] = f"{error}; pip install numpyro"
        drawn = in_turns(draws, rounds, CLOCKS[clock], warm=1)
        ratios[f"sampling {name}"] = drawn["ours"]["ratio"] * WIDTH / passes
        seconds[f"sampling {name}"] = drawn["ours"]["seconds"]
        if "numpyro" in drawn:
            ratios[f"sampling {name} numpyro"] = drawn["numpyro"]["seconds"] / drawn["ours"]["seconds"]
        for mode in steps.keys() - {"by hand", "numpyro"}:
            taken = in_turns(
                {mode: steps[mode], **{k: steps[k] for k in steps if k in THEIRS}}, rounds, CLOCKS[clock], 1
            )
            ratios |= {f"step {name} {mode} against {k}": taken[k]["ratio"] for k in taken if k in THEIRS}
            seconds |= {f"step {name} {k}": found["seconds"] / STEPS for k, found in taken.items()}
        print(name, {key: value for key, value in ratios.items() if f" {name}" in key}, file=sys.stderr, flush=True)
    return {
        "ratios": {key: float(f"{value:.4g}") for key, value in sorted(ratios.items())},
        "seconds": {key: float(f"{value:.4g}") for key, value in sorted(seconds.items())},
        "skipped": skipped,
        "settings": {
            "width": WIDTH,
            "rows": ROWS,
            "batch": BATCH,
            "naive_passes_timed": {name: PASSES.get(name, 16) for name in models()},
            "rounds": rounds,
            "clock": clock,
        },
    }


def main() -> None:
    args = arguments(__doc__, "autoregressive", rounds=5).parse_args()
    limit_threads(args.threads)
    write(compare(args.rounds, args.clock), args.out, args.threads, ("numpyro", "jax"))


if __name__ == "__main__":
    main()
