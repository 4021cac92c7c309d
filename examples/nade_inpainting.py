"""Any part of a picture given any other: an orderless NADE draws it exactly, a MADE by weighing and resampling.

python examples/nade_inpainting.py [--epochs 60] [--out runs/nade_inpainting]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pyrogen.data import load
from pyrogen.diagnostics import image_grid
from pyrogen.evaluate import log_likelihood
from pyrogen.inference import fit
from pyrogen.models import MADE, DeepNADE


def main(epochs: int, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    digits = load("digits", binarize=True)
    test = digits["test"]
    models = {"deep-nade": DeepNADE(64, (200, 200)), "made": MADE(64, (200,), n_orders=8, order="random")}
    for name, model in models.items():
        model.prepare(digits["train"])
        fit(model, digits["train"], epochs=epochs, average=0.99, validation=digits["valid"], patience=20)
        print(f"{name}: {log_likelihood(model, test, method='exact')}")

    # known: all but a square in the middle, which no order of the pixels has at its end
    observed = torch.ones(8, 8, dtype=torch.bool)
    observed[2:6, 2:6] = False
    observed = observed.flatten()
    for name, model in models.items():
        given = model.sample_given(test[:10], observed, 8)
        found = f"effective sample size {given.ess.median():.1f}, median over rows"
        print(f"{name}, {given.method}: {found}; log p(known) {given.log_evidence.mean():.2f} nats a row")
        holes = torch.where(observed, test[:10], 0.5)
        shown = torch.cat([torch.stack([test[:10], holes]), given.draws]).transpose(0, 1).flatten(0, 1)
        title = f"{name}: a digit, its hole, eight ways to fill it"
        image_grid(shown, digits.shape, title=title).savefig(out / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/nade_inpainting"))
    args = parser.parse_args()
    main(args.epochs, args.out)
