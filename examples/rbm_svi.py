"""An RBM inside a Pyro program of one's own: a prior on its weights, trained by pyro.infer.SVI.

python examples/rbm_svi.py [--epochs 100]
"""

from __future__ import annotations

import argparse

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta
from pyro.optim import Adam

from pyrogen.data import load
from pyrogen.distributions.boltzmann import Bernoulli, Persistent, RBMDistribution
from pyrogen.evaluate import log_z


def main(epochs: int) -> None:
    pyro.set_rng_seed(0)
    digits = load("digits")
    train, test = digits["train"], digits["test"]
    visible, hidden = Bernoulli(64), 12
    rates = visible.bias_of(train.mean(0), len(train))
    particles = Persistent(k=5, chains=200)  # the chains that log Z's gradient is taken from

    def model(x, size):
        W = pyro.sample("W", dist.Normal(torch.zeros(64, hidden), 0.5).to_event(2))
        b = pyro.sample("b", dist.Normal(rates, 3.0).to_event(1))
        c = pyro.sample("c", dist.Normal(torch.zeros(hidden), 3.0).to_event(1))
        with pyro.plate("rows", size, subsample=torch.arange(len(x))):
            pyro.sample("x", RBMDistribution(W, b, c, particles=particles), obs=x)

    def start(site):
        return {"W": 0.05 * torch.randn(64, hidden), "b": rates, "c": torch.zeros(hidden)}[site["name"]]

    guide = AutoDelta(model, init_loc_fn=start)
    # the loss is no number while log Z is unknown, and its gradient is right: nothing is printed from it
    svi = SVI(model, guide, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(epochs):
        for rows in train[torch.randperm(len(train))].split(100):
            svi.step(rows, len(train))

    W, b, c = (value.detach() for value in guide.median().values())
    fitted = RBMDistribution(W, b, c)
    exact = log_z(fitted.machine, "exact").value
    bits = fitted.unnormalized_log_prob(test).mean() - exact
    print(f"log p(x) = {float(bits):.2f} nats per test row, exact")
    annealed = log_z(fitted.machine, "ais", data=train, steps=1000)
    print(f"{annealed}; exact {exact:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    main(parser.parse_args().epochs)
