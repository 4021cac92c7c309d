"""A flow as the guide of eight schools: how far to trust it, means without its bias, and its draws in ArviZ.

python examples/flow_guide.py [--epochs 1000] [--out runs/flow_guide]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import arviz as az
import pyro
import pyro.distributions as dist
import torch

from pyrogen.diagnostics import khat, to_arviz
from pyrogen.inference import ELBO, FlowGuide, fit

EFFECT = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def model(y: torch.Tensor) -> None:
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        # not Normal(mean, spread): that is a funnel, into whose neck a guide falls
        offset = pyro.sample("offset", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mean + spread * offset, ERROR), obs=y)


def main(epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    draws = min(10_000, 100 * epochs)
    for flow in ("gaussian", "affine"):
        torch.manual_seed(0)
        guide = FlowGuide(model, (EFFECT,), flow=flow)
        objective = ELBO(particles=32, gradient="stl")
        result = fit(model, EFFECT, guide=guide, objective=objective, epochs=epochs, batch_size=8, compile="graph")
        # weights make means of draws those of the posterior, as long as k-hat is below 0.7
        z, log_w = guide.weighted_draws(draws, EFFECT)
        weighted, k = float(log_w.softmax(0) @ z["spread"].flatten()), float(khat(guide.log_weights(draws, EFFECT)))
        bound, error = float(log_w.mean()), float(log_w.std() / draws**0.5)
        print(f"{flow}: log p(y) >= {bound:.3f} +- {error:.3f}, k-hat {k:.2f}")
        print(f"  mean of the spread: {float(z['spread'].mean()):.3f} by the guide, {weighted:.3f} by its weights")

        idata = to_arviz(result, data=EFFECT)
        idata.to_netcdf(out / f"{flow}.nc")
    print(az.summary(idata, var_names=["mean", "spread"], kind="stats"))  # the draws are independent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("runs/flow_guide"))
    args = parser.parse_args()
    main(args.epochs, args.out)
