"""Chains of a small RBM: block Gibbs and tempering, their summary in ArviZ, and digits whose lower half is filled in.

python examples/rbm_chains.py [--epochs 300] [--out runs/rbm_chains]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import arviz as az
import torch

from pyrogen.data import load
from pyrogen.diagnostics import image_grid, to_arviz
from pyrogen.distributions.boltzmann import Bernoulli, Machine, log_partition
from pyrogen.inference import MCMC, BlockGibbs, ParallelTempering, sample_given


def main(epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = load("digits")
    train, test = digits["train"], digits["test"]

    # with 10 hidden units log Z is a sum of 1024 terms: exact maximum likelihood by plain torch
    visible, hidden = Bernoulli(64), Bernoulli(10)
    rates = visible.bias_of(train.mean(0), len(train))
    W, b, c = (x.requires_grad_() for x in (0.05 * torch.randn(64, 10), rates.clone(), torch.zeros(10)))
    machine = Machine(visible, hidden, W, b, c)
    adam = torch.optim.Adam([W, b, c], lr=0.03)
    for _ in range(epochs):
        adam.zero_grad()
        (machine.free_energy(train).mean() + log_partition(machine)).backward()
        adam.step()
    with torch.no_grad():
        exact = -machine.free_energy(test).mean() - log_partition(machine)
        print(f"log p(x) = {exact:.2f} nats per test row, exact")

    for kernel in (BlockGibbs(machine, sweeps=5), ParallelTempering(machine, rungs=6, base=rates)):
        mcmc = MCMC(kernel, num_samples=200, warmup_steps=126, num_chains=50, seed=0)
        mcmc.run()
        name = type(kernel).__name__
        print(f"\n{name}")
        mcmc.summary()
        idata = to_arviz(mcmc)
        idata.to_netcdf(out / f"{name}.nc")
        print(az.summary(idata, var_names=["energy", "magnetisation"]))
        image_grid(mcmc.get_samples(group_by_chain=True)["v"][:, -1], digits.shape).savefig(out / f"{name}.png")

    observed = torch.zeros(64, dtype=torch.bool)
    observed[:32] = True  # the upper four of eight lines
    filled = sample_given(machine, test[:16], observed, draws=100, chains=4, seed=0)
    image_grid(filled.mean, digits.shape).savefig(out / "filled.png")
    print(f"\nlower halves of 16 digits: largest r_hat {float(filled.r_hat.max()):.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("runs/rbm_chains"))
    args = parser.parse_args()
    main(args.epochs, args.out)
