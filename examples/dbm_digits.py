"""A deep Boltzmann machine on digits: trained on its mean-field bound, with log Z from below and from above.

python examples/dbm_digits.py [--epochs 100] [--out runs/dbm_digits]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pyrogen.data import load
from pyrogen.diagnostics import annealing_weights, chain_movie, filters, gibbs_frames
from pyrogen.distributions.boltzmann import Bernoulli, Persistent
from pyrogen.evaluate import bracket, mean_field_gap
from pyrogen.inference import fit
from pyrogen.models import DBM


def main(epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = load("digits")
    train, test = digits["train"], digits["test"]

    # centred, so that no pre-training is needed; `greedy` in pyrogen.inference is there all the same
    dbm = DBM([Bernoulli(64), Bernoulli(32), Bernoulli(16)], particles=Persistent(k=5, chains=100))
    dbm.prepare(train)
    fit(dbm, train, epochs=epochs, learning_rate=0.005, average=0.995, progress=False)

    found = bracket(dbm, data=train, steps=1000)
    print(found)
    with torch.no_grad():
        rows = -dbm.free_energy(test).mean()  # of the mean-field posterior, without log Z
    # log Z from below makes the likelihood too high, from above too low: both are told
    low, high = sorted(float(rows) - end.value for end in (found.above, found.below))
    print(f"log p(x) >= {low:.2f} to {high:.2f} nats per test row, mean-field bound")
    gap = mean_field_gap(dbm, test[:100])
    print(f"the mean field gives away {gap.mean:.3f} +- {gap.stderr:.3f} nats of that ({gap.kind}, 100 rows)")

    times = (0, 1, 2, 5, 10, 20, 50, 100)
    frames = gibbs_frames(dbm.machine().detached(), dbm.filled(test[:8]), times)[..., :64]
    chain_movie(frames, digits.shape, times=times).savefig(out / "chains.png")
    filters(dbm.W[0], digits.shape).savefig(out / "filters.png")
    annealing_weights(found.below).savefig(out / "weights.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/dbm_digits"))
    args = parser.parse_args()
    main(args.epochs, args.out)
