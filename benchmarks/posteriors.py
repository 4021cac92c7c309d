"""Posteriors by FlowGuide: k-hat, the means against reference draws, and the evidence against a known one.

    PYROGEN_DATA=... python benchmarks/posteriors.py [--only NAME ...] [--seed 0]

Each posterior is fitted once, by the path derivative of the ELBO, or where the setting `objective` is "iwae" by the
doubly reparameterized gradient of that bound, and judged on fresh draws. Means are those of the weighted
draws, their differences to the reference in combined Monte-Carlo standard errors; how far the guide's own means are
off is said in posterior standard deviations. Targets with a known log Z are compared with that. Results go to
inference/flow-guide/posteriors.json, and `python docs/results.py` writes the card's tables from there.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from paired import earlier, versions
from posteriordb import POSTERIORS, read
from targets import TARGETS, log_z, program
from torch import Tensor

OUT = Path(__file__).parents[1] / "inference" / "flow-guide" / "posteriors.json"
DRAWS = 20_000
USUAL = {"flow": "affine", "layers": 4, "hidden": [32, 32], "start": "laplace", "scale": 0.1}
USUAL |= {"particles": 64, "steps": 1000, "learning_rate": 2e-3}
PLANE = {"flow": "spline", "layers": 6, "start": "median", "scale": 1.5, "particles": 256, "steps": 1000}
SETTINGS: dict[str, dict[str, Any]] = dict.fromkeys(TARGETS, PLANE)
# arms that part: the importance-weighted bound covers what the ELBO would rather leave out
SETTINGS |= dict.fromkeys(("U3", "U4"), PLANE | {"objective": "iwae"})
SETTINGS |= {"gp_pois_regr-gp_regr": {"steps": 2000}}


def fitted(model: Callable[[Tensor], None], rows: Tensor, seed: int, settings: dict[str, Any]) -> tuple[Any, float]:
    """The guide, trained, and the seconds that it took."""
    import pyro

    from pyrogen.inference import ELBO, IWAE, FlowGuide, fit

    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
    names = ("flow", "layers", "hidden", "start", "scale")
    guide = FlowGuide(model, (rows,), **{name: settings[name] for name in names})
    weighted, particles = settings.get("objective") == "iwae", settings["particles"]
    objective = IWAE(particles, gradient="dreg") if weighted else ELBO(particles, gradient="stl")
    begin = time.process_time()
    fit(
        model,
        rows,
        guide=guide,
        objective=objective,
        epochs=settings["steps"],
        batch_size=len(rows),
        learning_rate=settings["learning_rate"],
        schedule=lambda step: 0.5 * (1 + math.cos(math.pi * min(step / settings["steps"], 1.0))),
        clip=10.0,
        compile="graph",
        progress=False,
        seed=seed,
    )
    return guide, time.process_time() - begin


def judged(x: Tensor, log_w: Tensor, mean: Tensor, mcse: Tensor, sd: Tensor) -> dict[str, float]:
    """The means of weighted draws x, (S, P), against those of a reference, with its errors and standard deviations."""
    w = log_w.softmax(0)
    ours = w @ x
    error = (w.square() @ (x - ours).square()).sqrt()
    return {
        "largest_z": float(((ours - mean) / (error**2 + mcse**2).sqrt()).abs().max()),
        "largest_z_guide": float(((x.mean(0) - mean) / (x.var(0) / len(x) + mcse**2).sqrt()).abs().max()),
        "bias_of_guide_in_sd": float(((x.mean(0) - mean) / sd).abs().max()),
    }


def weights(log_w: Tensor) -> dict[str, float]:
    from pyrogen.diagnostics import khat

    w = (log_w - log_w.max()).exp()
    return {
        "khat": float(khat(log_w)),
        "ess_share": float(w.sum() ** 2 / w.square().sum() / len(w)),
        "elbo": float(log_w.mean()),
        "elbo_stderr": float(log_w.std() / math.sqrt(len(w))),
        "log_z": float(log_w.logsumexp(0) - math.log(len(w))),
        "log_z_stderr": float(w.std() / w.mean() / math.sqrt(len(w))),
    }


def posterior(name: str, seed: int) -> dict[str, Any]:
    from pyrogen.ops.convergence import ess

    settings = USUAL | SETTINGS.get(name, {})
    if name in TARGETS:
        rows, model = torch.zeros(1, 1, dtype=torch.float64), program(TARGETS[name])
        known, mean = log_z(TARGETS[name])
        mcse = torch.zeros_like(mean)
    else:
        rows, reference, _ = read(name)
        model, known, mean = POSTERIORS[name].program, None, reference.mean((0, 1))
        mcse = reference.std((0, 1)) / ess(reference, rank=False).sqrt()
    guide, seconds = fitted(model, rows, seed, settings)
    sites, log_w = guide.weighted_draws(DRAWS, rows)
    x = sites["z"] if name in TARGETS else POSTERIORS[name].parameters(sites)
    sd = x.std(0) if name in TARGETS else reference.std((0, 1))  # pyright: ignore[reportPossiblyUnboundVariable]
    out: dict[str, Any] = weights(log_w)
    if known is not None:
        out |= {"log_z_known": known, "log_z_error": out["log_z"] - known}
    out |= judged(x, log_w, mean, mcse, sd)
    shown = {key: value if isinstance(value, int) else float(f"{value:.6g}") for key, value in out.items()}
    size = {"latents": guide.latent_dim, "started": guide.started, "cpu_seconds": round(seconds, 1)}
    return shown | size | {"settings": settings | {"seed": seed, "draws": DRAWS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=[*POSTERIORS, *TARGETS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    found = earlier(args.out).get("posteriors", {}) if args.only else {}
    for name in args.only or [*POSTERIORS, *TARGETS]:
        found[name] = posterior(name, args.seed)
        print(name, json.dumps(found[name]), flush=True)
        ordered = {key: found[key] for key in [*POSTERIORS, *TARGETS] if key in found}
        args.out.write_text(json.dumps({"posteriors": ordered, "versions": versions()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
