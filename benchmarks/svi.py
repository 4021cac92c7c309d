"""An SVI step and an epoch of a VAE: ours against hand-written torch, Pyro's SVI and NumPyro's scanned epoch.

    python benchmarks/svi.py [--rounds 9] [--threads 1] [--only mlp-64]

All train the same networks with Adam on the same synthetic rows. In every round each contestant runs one
epoch, in an order that rotates, and the ratio of our time to theirs is taken within the round; medians
over rounds go to benchmarks/results/svi.json. NumPyro is no dependency: without it that ratio is null.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from paired import CLOCKS, arguments, earlier, in_turns, limit_threads, write

SIZES = {"mlp-400": {"hidden": 400, "batch": 128}, "mlp-64": {"hidden": 64, "batch": 16}}
WIDTH, LATENT, RATE, ROWS = 784, 20, 1e-3, 9984  # whole batches of 128 and of 16

Epoch = Callable[[], float]
"""Runs one epoch; gives the mean bound over it, nats per row."""


def synthetic(torch: Any) -> Any:
    """Binary rows: ten prototypes, a quarter of their pixels on, and a tenth of the pixels flipped."""
    source = torch.Generator().manual_seed(0)
    prototypes = torch.rand(10, WIDTH, generator=source) < 0.25
    picked = prototypes[torch.randint(10, (ROWS,), generator=source)]
    return (picked ^ (torch.rand(ROWS, WIDTH, generator=source) < 0.1)).float()


def ours(x: Any, hidden: int, batch: int, mode: str) -> tuple[Epoch, Callable[[], object], str]:
    """The loop of `fit` and its step, in a mode of `compile`; "auto" as for a long run."""
    import torch
    from loop import Loop

    from pyrogen.models import VAE, BernoulliPixels, StandardNormal
    from pyrogen.nn import MLP

    torch.manual_seed(0)
    encoder, decoder = MLP(WIDTH, hidden, 2 * LATENT), MLP(LATENT, hidden, WIDTH)
    vae = VAE(encoder, decoder, BernoulliPixels(WIDTH), StandardNormal(LATENT))
    loop = Loop(vae, x, batch=batch, rate=RATE, mode=mode)
    return loop.epoch, lambda: loop.step(x[:batch]), loop.mode


def hand_written(x: Any, hidden: int, batch: int) -> tuple[Epoch, Callable[[], object]]:
    """What one writes without a library: closed-form KL, one fused Adam."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, relu

    torch.manual_seed(0)
    e1, e2 = torch.nn.Linear(WIDTH, hidden), torch.nn.Linear(hidden, 2 * LATENT)
    d1, d2 = torch.nn.Linear(LATENT, hidden), torch.nn.Linear(hidden, WIDTH)
    parameters = [p for layer in (e1, e2, d1, d2) for p in layer.parameters()]
    adam = torch.optim.Adam(parameters, lr=RATE, fused=True)

    def step(rows: Any) -> Any:
        mean, log_scale = e2(relu(e1(rows))).chunk(2, -1)
        z = mean + log_scale.exp() * torch.randn_like(mean)
        misfit = binary_cross_entropy_with_logits(d2(relu(d1(z))), rows, reduction="sum")
        loss = misfit + 0.5 * (mean * mean + (2 * log_scale).exp() - 2 * log_scale - 1).sum()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        return loss.detach()

    def epoch() -> float:
        total = torch.zeros(())
        for picked in torch.randperm(ROWS).split(batch):
            total += step(x[picked])
        return -float(total) / ROWS

    return epoch, lambda: step(x[:batch])


def pyro_svi(x: Any, hidden: int, batch: int) -> tuple[Epoch, Callable[[], object]]:
    """Pyro's SVI as its VAE example has it, without validation, which makes it faster."""
    import pyro
    import pyro.distributions as dist
    import torch
    from torch.nn import Linear, ReLU, Sequential

    torch.manual_seed(0)
    pyro.clear_param_store()
    encoder = Sequential(Linear(WIDTH, hidden), ReLU(), Linear(hidden, 2 * LATENT))
    decoder = Sequential(Linear(LATENT, hidden), ReLU(), Linear(hidden, WIDTH))

    def model(rows: Any) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(rows)):
            zero = rows.new_zeros(len(rows), LATENT)
            z = pyro.sample("z", dist.Normal(zero, zero + 1).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=rows)

    def guide(rows: Any) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(rows)):
            mean, log_scale = encoder(rows).chunk(2, -1)
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))

    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": RATE}), pyro.infer.Trace_ELBO())

    def epoch() -> float:
        with pyro.validation_enabled(False):
            return -sum(svi.step(x[picked]) for picked in torch.randperm(ROWS).split(batch)) / ROWS  # pyright: ignore

    def step() -> None:
        with pyro.validation_enabled(False):
            svi.step(x[:batch])

    return epoch, step


def numpyro_scan(x: Any, hidden: int, batch: int) -> Epoch:
    """NumPyro's SVI with the whole epoch in one compiled scan."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax import random

    def layer(name: str, h: Any, width: int) -> Any:
        bound = 1 / h.shape[-1] ** 0.5
        keys = random.split(random.PRNGKey(sum(map(ord, name))))
        w = numpyro.param(f"{name}.w", random.uniform(keys[0], (h.shape[-1], width), minval=-bound, maxval=bound))
        b = numpyro.param(f"{name}.b", random.uniform(keys[1], (width,), minval=-bound, maxval=bound))
        return h @ w + b

    def model(rows: Any) -> None:
        with numpyro.plate("rows", len(rows)):
            z = numpyro.sample("z", dist.Normal(jnp.zeros((len(rows), LATENT)), 1.0).to_event(1))
            logits = layer("d2", jax.nn.relu(layer("d1", z, hidden)), WIDTH)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=rows)

    def guide(rows: Any) -> None:
        mean, log_scale = jnp.split(layer("e2", jax.nn.relu(layer("e1", rows, hidden)), 2 * LATENT), 2, -1)
        with numpyro.plate("rows", len(rows)):
            numpyro.sample("z", dist.Normal(mean, jnp.exp(log_scale)).to_event(1))

    data = jnp.asarray(x.numpy())
    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(RATE), numpyro.infer.TraceMeanField_ELBO())
    state = svi.init(random.PRNGKey(0), data[:batch])

    @jax.jit
    def scan(state: Any, key: Any) -> Any:
        order = random.permutation(key, ROWS).reshape(-1, batch)
        return jax.lax.scan(lambda s, picked: svi.update(s, data[picked]), state, order)

    keys = iter(range(10**6))

    def epoch() -> float:
        nonlocal state
        state, losses = scan(state, random.PRNGKey(next(keys)))
        return -float(jax.block_until_ready(losses).sum()) / ROWS

    return epoch


def compare(size: dict[str, int], rounds: int, clock: str) -> dict[str, Any]:
    import torch

    x, hidden, batch = synthetic(torch), size["hidden"], size["batch"]
    epochs: dict[str, Epoch] = {}
    steps: dict[str, Callable[[], object]] = {}
    skipped: dict[str, str] = {}
    epochs["ours"], steps["ours"], mode = ours(x, hidden, batch, "auto")
    for other in ("eager", "graph"):
        if other != mode:
            epochs[f"ours-{other}"], steps[f"ours-{other}"], _ = ours(x, hidden, batch, other)
    epochs["hand_written"], steps["hand_written"] = hand_written(x, hidden, batch)
    epochs["pyro"], steps["pyro"] = pyro_svi(x, hidden, batch)
    try:
        epochs["numpyro"] = numpyro_scan(x, hidden, batch)
    except ImportError as error:
        skipped["numpyro"] = f"{error}; pip install numpyro"
    bounds = {name: epoch() for name, epoch in epochs.items()}  # compiles, warms caches, shows that all do the same
    whole = in_turns(epochs, rounds, CLOCKS[clock])
    short = in_turns({name: repeated(step) for name, step in steps.items()}, rounds, CLOCKS[clock])
    return {
        "ratios": {
            name: whole[name]["ratio"] if name in whole else None for name in ("hand_written", "pyro", "numpyro")
        },
        "mode": mode,
        "epoch": whole,
        "step": short,
        "first_epoch_bound": bounds,
        "settings": {
            **size,
            "width": WIDTH,
            "latent": LATENT,
            "rows": ROWS,
            "steps": ROWS // batch,
            "rounds": rounds,
            "clock": clock,
        },
        "skipped": skipped,
    }


def repeated(step: Callable[[], object], times: int = 50) -> Callable[[], object]:
    return lambda: [step() for _ in range(times)]


def main() -> None:
    parser = arguments(__doc__, "svi")
    parser.add_argument("--only", choices=SIZES)
    args = parser.parse_args()
    limit_threads(args.threads)
    result = earlier(args.out) if args.only else {}
    for name in [args.only] if args.only else SIZES:
        result[name] = compare(SIZES[name], args.rounds, args.clock)
        print(name, result[name]["mode"], result[name]["ratios"], file=sys.stderr)
    write(result, args.out, args.threads, ("numpyro", "jax"))


if __name__ == "__main__":
    main()
