"""Clamped sampling: digits with a missing part, filled in by block Gibbs and by tempering of a trained RBM.

python examples/rbm_inpainting.py [--epochs 100] [--out runs/rbm_inpainting]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pyrogen.data import load
from pyrogen.diagnostics import image_grid, tempering_ladder
from pyrogen.distributions.boltzmann import Bernoulli
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import MCMC, BlockGibbs, ParallelTempering, fit, sample_given
from pyrogen.models import RBM


def main(epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = load("digits")
    train, test = digits["train"], digits["test"]
    rbm = RBM(Bernoulli(64), Bernoulli(16))
    rbm.prepare(train)
    fit(rbm, train, epochs=epochs, learning_rate=0.01, average=0.995, progress=False)
    found = log_likelihood(rbm, test, method="exact")
    print(f"log p(x) = {found.mean:.2f} nats per test row, exact")

    # a window in the middle of each row is unknown; everything else is held
    observed = torch.ones(8, 8, dtype=torch.bool)
    observed[2:6, 2:6] = False
    observed, rows = observed.flatten(), test[:10]
    hidden_part = torch.where(observed, rows, torch.full_like(rows, 0.5))
    shown = [rows, hidden_part]
    for kernel in (BlockGibbs(rbm), ParallelTempering(rbm, rungs=6)):
        filled = sample_given(kernel, rows, observed, draws=100, chains=4, seed=0)
        shown.append(filled.mean)
        wrong = ((filled.mean > 0.5) != (rows > 0.5)).float()[:, ~observed].mean()
        print(f"{type(kernel).__name__}: {float(wrong):.0%} of the unknown pixels wrong, largest r_hat "
              f"{float(filled.r_hat.max()):.3f}")  # fmt: skip
    image_grid(torch.cat(shown), digits.shape, columns=10, title="rows, known, Gibbs, tempering").savefig(
        out / "filled.png"
    )

    # the same by hand: clamp={site: (mask, values)}, here one row in many chains
    clamp = {"v": (observed, rows[:1].expand(50, -1))}
    mcmc = MCMC(ParallelTempering(rbm, rungs=6, clamp=clamp), num_samples=100, warmup_steps=62, num_chains=50, seed=0)
    mcmc.run()
    assert torch.equal(mcmc.get_samples()["v"][:, observed].unique(dim=0), rows[:1, observed])
    tempering_ladder(mcmc.diagnostics()).savefig(out / "ladder.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/rbm_inpainting"))
    args = parser.parse_args()
    main(args.epochs, args.out)
