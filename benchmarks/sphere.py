"""Variational fits of flows to the four-mode target on the globe: KL(q || p) and effective sample size.

    python benchmarks/sphere.py [--steps 6000] [--only cylinder-4]

The target is p(x) ~ sum_k exp(10 m_k.x). Its normaliser is known, 2 pi (1 - exp(-20)) exp(10) / 10 per mode, so the KL
is E_q[log q - log p] itself and no difference to an estimate. Each flow is trained on that with draws of q, and judged
on fresh draws. Results go to benchmarks/results/sphere.json.

Source: Rezende et al. 2020, arXiv:2002.02428, section 5 and table 1; 5.0 is printed there as 0.5.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrogen.distributions import FlowDistribution, SphereUniform
from pyrogen.distributions.transforms import Flow
from pyrogen.models.flows.sphere_flow import sphere_flow

OUT = Path(__file__).parent / "results" / "sphere.json"
MODES = ((1.5, 0.7), (1.0, -1.0), (5.0, 0.6), (4.0, -0.7))  # both angles of the paper, radians, the second less pi / 2
SHARPNESS, BATCH, DRAWS, RATE = 10.0, 256, 100_000, 3e-3
FLOWS: dict[str, Callable[[], Flow]] = {
    "cylinder-2": lambda: sphere_flow(3, layers=2, bins=16),
    "cylinder-4": lambda: sphere_flow(3, layers=4, bins=16),
    "exponential-6": lambda: sphere_flow(3, "exponential", layers=6, bumps=5),
    "mobius-12": lambda: sphere_flow(3, "mobius", layers=12),
}


def log_target(x: Tensor) -> Tensor:
    """log p(x), normalised: the even mixture of four von Mises-Fisher laws of concentration 10."""
    longitude, angle = torch.tensor(MODES, dtype=x.dtype).unbind(1)
    angle = angle + math.pi / 2
    m = torch.stack([angle.sin() * longitude.cos(), angle.sin() * longitude.sin(), angle.cos()], -1)
    log_mass = math.log(2 * math.pi / SHARPNESS * -math.expm1(-2 * SHARPNESS)) + SHARPNESS + math.log(len(m))
    return torch.logsumexp(SHARPNESS * x @ m.T, -1) - log_mass


def train(flow: Flow, steps: int) -> None:
    law = FlowDistribution(SphereUniform(2), flow)
    optimizer = torch.optim.Adam(flow.parameters(), lr=RATE)
    course = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, log_q = law.rsample_and_log_prob((BATCH,))
        loss = (log_q - log_target(x)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.step()


@torch.no_grad()
def judge(flow: Flow) -> dict[str, float]:
    """KL(q || p) in nats with its standard error, and the effective share of importance-weighted draws."""
    x, log_q = FlowDistribution(SphereUniform(2), flow).rsample_and_log_prob((DRAWS,))
    log_w = (log_target(x) - log_q).double()
    w = log_w.exp()
    return {
        "kl": float(-log_w.mean()),
        "kl_stderr": float(log_w.std() / math.sqrt(DRAWS)),
        "ess": float(w.sum() ** 2 / w.square().sum() / DRAWS),
        "mass": float(w.mean()),
        "mass_stderr": float(w.std() / math.sqrt(DRAWS)),
    }


def main(steps: int, only: str | None, seed: int) -> None:
    torch.set_num_threads(1)
    results: dict[str, Any] = json.loads(OUT.read_text())["flows"] if OUT.exists() else {}
    for name, make in FLOWS.items():
        if only not in (None, name):
            continue
        torch.manual_seed(seed)
        flow, start = make(), time.process_time()
        train(flow, steps)
        settings = {"steps": steps, "batch": BATCH, "rate": RATE, "seed": seed, "draws": DRAWS}
        parameters = sum(p.numel() for p in flow.parameters())
        results[name] = judge(flow) | settings | {"parameters": parameters, "cpu_seconds": time.process_time() - start}
        print(name, json.dumps(results[name]), flush=True)
        versions = {"python": platform.python_version(), "torch": torch.__version__}
        OUT.parent.mkdir(exist_ok=True)
        content = {"target": "four modes on S^2", "flows": results, "versions": versions}
        OUT.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--only", choices=FLOWS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.steps, arguments.only, arguments.seed)
