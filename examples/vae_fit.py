"""The same VAE with `fit`: a tighter bound, early stopping, pictures, and the posterior in ArviZ.

python examples/vae_fit.py [--epochs 100] [--out runs/vae_fit]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pyrogen.data import load
from pyrogen.diagnostics import curves, image_grid, khat, to_arviz
from pyrogen.evaluate import latent_report, log_likelihood
from pyrogen.inference import IWAE, fit
from pyrogen.models import VAE, BernoulliPixels, StandardNormal
from pyrogen.nn import MLP


def main(epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = load("digits")
    vae = VAE(MLP(64, 128, 2 * 8), MLP(8, 128, 64), BernoulliPixels(64), StandardNormal(8))

    result = fit(
        vae,
        digits["train"],
        objective=IWAE(particles=5, gradient="dreg"),
        epochs=epochs,
        learning_rate=2e-3,
        validation=digits["valid"],
        patience=20,
    )
    print(f"{result.outcome} after {result.history['epoch'][-1]} epochs")
    print(log_likelihood(vae, digits["test"], particles=500))
    report = latent_report(vae, digits["test"])
    print(f"{report.sites['z'].active_units} of 8 latent units are active")

    curves(result.history).savefig(out / "curves.png")
    image_grid(vae.sample(64), digits.shape).savefig(out / "samples.png")
    idata = to_arviz(result, data=digits["test"][:20], num_samples=500)
    idata.to_netcdf(out / "posterior.nc")
    k = khat(torch.as_tensor(idata.sample_stats["log_weight"].values[0]))
    print(f"k-hat of the guide, 20 rows: largest {float(k.max()):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/vae_fit"))
    args = parser.parse_args()
    main(args.epochs, args.out)
