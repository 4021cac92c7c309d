"""Pictures of flows: laws of the plane bent by K layers, a law on the globe and its learned density, Earth maps.

    PYROGEN_DATA=... python docs/flow_pictures.py [--out runs/pictures] [--only morph globe earth] [--steps 1500]

morph   planar and radial layers at random, K = 1, 2 and 10: densities, exact by the layers' inverses; after figure 1 of
        Rezende and Mohamed 2015, arXiv:1505.05770
globe   four modes of Rezende et al. 2020, arXiv:2002.02428: true density, draws of it, and a flow trained on them
earth   rows, and the densities of a flow and of kernels trained on them
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))


def bent(kind: str, count: int) -> Any:
    """So many layers of one kind; the first ones are the same for every count."""
    from pyrogen.distributions.transforms import Flow, Planar, Radial

    layers = []
    for k in range(count):
        torch.manual_seed(7 * k + (3 if kind == "planar" else 5))
        layers.append(Planar(2, scale=1.5) if kind == "planar" else Radial(2))
        with torch.no_grad():
            for p in layers[-1].parameters():
                p.add_((1.2 if kind == "planar" else 1.0) * torch.randn_like(p))
    return Flow(layers)


@torch.no_grad()
def morph(steps: int) -> Any:
    import pyro.distributions as dist
    from matplotlib.figure import Figure

    line = torch.linspace(-4, 4, 240)
    x = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    bases = {
        "Gaussian": dist.Normal(torch.zeros(2), torch.ones(2)).to_event(1),
        "uniform": dist.Uniform(torch.full((2,), -2.0), torch.full((2,), 2.0), validate_args=False).to_event(1),
    }
    figure = Figure(figsize=(13, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots(2, 7, sharex=True, sharey=True)
    counts = [("planar", 1), ("planar", 2), ("planar", 10), ("radial", 1), ("radial", 2), ("radial", 10)]
    for row, (name, base) in zip(axes, bases.items(), strict=True):
        for ax, (kind, count) in zip(row, [("", 0), *counts], strict=True):
            z, log_det = x, torch.zeros(())
            if count:
                flow = bent(kind, count)
                middle = flow(base.sample((4000,))).median(0).values
                z, log_det = flow.inverse_and_log_det(x + middle)
            p = (base.log_prob(z) + log_det).exp()
            ax.pcolormesh(line, line, p, vmax=float(p.quantile(0.998)), rasterized=True)
            title = f"{kind}, K = {count}" if count else "K = 0"
            ax.set(title=title if name == "Gaussian" else "", aspect="equal", xticks=[], yticks=[])
        row[0].set_ylabel(f"from a {name}" if name == "Gaussian" else "from a square")
    return figure


def globe(steps: int) -> Any:
    from sphere import SHARPNESS, log_target

    from pyrogen.diagnostics import globe_maps
    from pyrogen.distributions import SphereUniform
    from pyrogen.inference import fit
    from pyrogen.models import SphereFlow
    from pyrogen.models.flows.sphere_flow import sphere_flow

    torch.manual_seed(0)
    proposed = SphereUniform(2).sample((200_000,))
    log_p = log_target(proposed)
    x = proposed[torch.rand(len(proposed)).log() < log_p - log_p.max()]  # rejection: exact draws
    model = SphereFlow(sphere_flow(3, layers=3, bins=12))
    epochs = max(1, steps * 128 // len(x))
    fit(model, x, epochs=epochs, batch_size=128, learning_rate=3e-3, compile="graph", progress=False)
    title = f"four modes of concentration {SHARPNESS:.0f}, {len(x)} draws"
    return globe_maps({"true": log_target, "empirical": x, "learned": model.log_prob}, title=title)


def earth(steps: int) -> Any:
    from pyrogen.data import load
    from pyrogen.diagnostics import globe_maps
    from pyrogen.inference import fit
    from pyrogen.models import KernelDensity, SphereFlow
    from pyrogen.models.flows.sphere_flow import sphere_flow

    torch.manual_seed(0)
    rows = load("earth", events="earthquake")
    train = rows["train"]
    kernels = KernelDensity(3, len(train), finest=0.01)
    kernels.prepare(train)
    fit(kernels, train, epochs=3, batch_size=256, learning_rate=0.2, progress=False)
    flow = SphereFlow(sphere_flow(3, layers=3, bins=24, hidden=(48, 48), degree=6))
    epochs = max(1, steps * 256 // len(train))
    fit(flow, train, epochs=epochs, batch_size=256, learning_rate=3e-3, compile="graph", progress=False)
    panels: dict[str, Any] = {"empirical": train, "flow": flow.log_prob, "kernels": kernels.eval().log_prob}
    return globe_maps(panels, points=rows["test"], log=True, title="earthquakes; dots: test rows")


def main() -> None:
    pictures = {"morph": morph, "globe": globe, "earth": earth}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"))
    parser.add_argument("--only", nargs="*", choices=pictures)
    parser.add_argument("--steps", type=int, default=1500, help="of each training")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.only or pictures:
        pictures[name](args.steps).savefig(args.out / f"{name}.png")
        print(args.out / f"{name}.png")


if __name__ == "__main__":
    main()
