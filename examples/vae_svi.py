"""A VAE trained by plain Pyro: nothing of pyrogen but the model and the number at the end.

python examples/vae_svi.py [--epochs 30]
"""

from __future__ import annotations

import argparse

import pyro
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO

from pyrogen.data import load
from pyrogen.evaluate import log_likelihood
from pyrogen.models import VAE, BernoulliPixels, StandardNormal
from pyrogen.nn import MLP


def main(epochs: int) -> None:
    pyro.set_rng_seed(0)
    digits = load("digits")
    train, test = digits["train"], digits["test"]
    vae = VAE(MLP(64, 128, 2 * 8), MLP(8, 128, 64), BernoulliPixels(64), StandardNormal(8))

    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 2e-3}), Trace_ELBO())
    for epoch in range(1, epochs + 1):
        loss = sum(svi.step(batch) for batch in train[torch.randperm(len(train))].split(100))
        if epoch % 10 == 0:
            print(f"epoch {epoch}: ELBO {-loss / len(train):.2f} nats per row")

    # stock Predictive: new pictures for the codes of three test digits
    again = Predictive(pyro.poutine.uncondition(vae.model), guide=vae.guide, num_samples=4)(test[:3])
    print(f"posterior predictive {tuple(again['x'].shape)}")
    print(log_likelihood(vae, test, particles=500))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    main(parser.parse_args().epochs)
