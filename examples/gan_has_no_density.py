"""A generative adversarial net beside the explicit models: it draws pictures, and has no log p(x) to report.

python examples/gan_has_no_density.py [--epochs 100] [--out runs/gan_has_no_density]

Its generator maps 16 numbers into 64 dimensions, so that its law lies on a surface without volume: the density of
any picture is zero or infinite. What can be said is whether somebody tells its draws from data: a classifier, trained
on half of the test digits and as many draws, on the other half; 50 % is indistinguishable. That is no likelihood
either: a generator that repeats the training digits would do well.

Source: Goodfellow et al. 2014, arXiv:1406.2661; Lopez-Paz and Oquab 2017, arXiv:1610.06545.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from pyrogen.data import load
from pyrogen.diagnostics import image_grid
from pyrogen.errors import PyrogenError
from pyrogen.evaluate import log_likelihood
from pyrogen.nn import MLP

CODE = 16


def train(real: Tensor, epochs: int) -> nn.Module:
    """G and D in turns: D tells real from drawn, G makes D take drawn for real."""
    generator, critic = nn.Sequential(MLP(CODE, 128, 64), nn.Sigmoid()), MLP(64, 128, 1)
    makes, judges = (torch.optim.Adam(net.parameters(), lr=1e-3, betas=(0.5, 0.999)) for net in (generator, critic))
    for _ in range(epochs):
        for x in real[torch.randperm(len(real))].split(100):
            drawn = generator(torch.randn(len(x), CODE))
            judges.zero_grad()
            tells(critic, x, drawn.detach()).backward()
            judges.step()
            makes.zero_grad()
            cross(critic(drawn), 1.0).backward()
            makes.step()
    return generator


def cross(logits: Tensor, label: float) -> Tensor:
    return cross_entropy(logits, torch.full_like(logits, label))


def tells(critic: nn.Module, real: Tensor, drawn: Tensor) -> Tensor:
    return cross(critic(real), 1.0) + cross(critic(drawn), 0.0)


def told_apart(real: Tensor, drawn: Tensor) -> float:
    """Share of unseen pictures that a classifier, trained on the other half, names rightly."""
    half = len(real) // 2
    classifier = MLP(64, 64, 1)
    adam = torch.optim.Adam(classifier.parameters(), lr=1e-3, weight_decay=1e-3)
    for _ in range(200):
        adam.zero_grad()
        tells(classifier, real[:half], drawn[:half]).backward()
        adam.step()
    with torch.no_grad():
        right = [classifier(real[half:]) > 0, classifier(drawn[half:]) <= 0]
    return float(torch.cat(right).double().mean())


def main(epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = load("digits")
    generator = train(digits["train"], epochs)
    with torch.no_grad():
        drawn = generator(torch.randn(len(digits["test"]), CODE))
    try:
        log_likelihood(generator, digits["test"])
    except PyrogenError as error:
        print(f"log p(x) of a GAN: none. Asked for it, pyrogen says: {error}")
    score = told_apart(digits["test"], drawn)
    row = {"model": "gan", "kind": "none", "log_likelihood": None, "told_from_data": round(score, 3)}
    print(json.dumps(row))
    image_grid(drawn[:64], digits.shape, title="draws without a density").savefig(out / "samples.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("runs/gan_has_no_density"))
    args = parser.parse_args()
    main(args.epochs, args.out)
