"""A class-conditional PixelCNN of digits: exact log p(x | class), pictures of each class, halves given halves.

python examples/pixelcnn_classes.py [--epochs 60] [--out runs/pixelcnn_classes]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pyrogen.data import load
from pyrogen.diagnostics import image_grid
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import fit
from pyrogen.models import PixelCNN


def main(epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = load("digits")
    classes = torch.eye(10)
    # a row is a picture and then its class, one-hot: the context that the picture is conditioned on
    rows = {split: torch.cat([digits[split], classes[digits.labels[split]]], 1) for split in digits.splits}

    model = PixelCNN(digits.shape, channels=16, layers=2, first_kernel=5, dropout=0.3, context=10)
    model.prepare(rows["train"])
    fit(model, rows["train"], epochs=epochs, learning_rate=6e-3, average=0.99, validation=rows["valid"], patience=15)
    print("given the class:", log_likelihood(model, rows["test"], method="exact"))

    # log p(x | y) for all ten classes: with even classes, Bayes' rule is a classifier
    test, labels = digits["test"], digits.labels["test"]
    log_p = torch.stack([model.dist(c.expand(len(test), -1)).log_prob(test) for c in classes], 1).detach()
    print(f"Bayes' rule names {(log_p.argmax(1) == labels).double().mean():.0%} of the test digits")

    # ten pictures of each class, one row each
    drawn = model.sample(100, classes.repeat_interleave(10, 0))
    image_grid(drawn, digits.shape, title="ten of each class").savefig(out / "classes.png")

    # the upper half is first in the order, so that the rest of the walk is the conditional law itself
    upper = torch.arange(64) < 32
    given = model.sample_given(rows["test"][:10], upper, 9)
    print(f"lower halves by {given.method}: worth {given.ess[0]:.0f} independent draws of {len(given.draws)}")
    # an upper half given a lower one: walks are weighed by how well they lead to it, and resampled
    back = model.sample_given(rows["test"][:10], ~upper, 9, particles=200)
    print(f"upper halves by {back.method}: worth {back.ess.median():.1f} of 200, median over rows")
    shown = torch.cat([test[:10].unsqueeze(0), given.draws]).transpose(0, 1).flatten(0, 1)
    image_grid(shown, digits.shape, title="a digit, and nine lower halves for it").savefig(out / "halves.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/pixelcnn_classes"))
    args = parser.parse_args()
    main(args.epochs, args.out)
