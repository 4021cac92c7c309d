"""What every benchmark here shares: contestants that run in turns, ratios taken within a round, one form of JSON.

A machine that others use, that heats up, or that changes its clock, slows all contestants of a round alike; so
each round runs each of them once, in an order that rotates, and only ratios within a round are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
RESULTS = Path(__file__).parent / "results"


def in_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, clock: Callable[[], float], warm: int = 0
) -> dict[str, dict[str, float]]:
    """Median seconds of each, and of the first one's seconds over theirs within a round, with the quartiles."""
    names = list(runs)
    taken: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds + warm):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = clock()
            runs[name]()
            if i >= warm:
                taken[name].append(clock() - start)
    out = {}
    for name in names:
        ratios = [a / b for a, b in zip(taken[names[0]], taken[name], strict=True)]
        low, ratio, high = statistics.quantiles(ratios, n=4) if rounds > 1 else 3 * ratios
        out[name] = {"ratio": ratio, "low": low, "high": high, "seconds": statistics.median(taken[name])}
        out[name] = {key: float(f"{value:.4g}") for key, value in out[name].items()}
    return out


def arguments(doc: str | None, name: str, rounds: int = 9) -> argparse.ArgumentParser:
    """The options that every benchmark takes; more can be added."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a machine that others use too")
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json")
    return parser


def limit_threads(threads: int) -> None:
    """Every library that computes here gets so many threads. To be called before jax is imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    eigen = str(threads > 1).lower()
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={eigen} intra_op_parallelism_threads={threads}"
    import torch

    torch.set_num_threads(threads)


def earlier(out: Path) -> dict[str, Any]:
    """What an earlier run wrote, to be kept where only a part is measured again."""
    return json.loads(out.read_text()) if out.exists() else {}


def write(result: dict[str, Any], out: Path, threads: int, peers: tuple[str, ...] = ()) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result | {"versions": versions(*peers), "threads": threads}, indent=2) + "\n")


def versions(*peers: str) -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}",
    }
    for name in ("pyrogen", "torch", "pyro-ppl", *peers):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")}
    return f"{os.cpu_count()} x {', '.join(sorted(names)) or platform.processor()}"
