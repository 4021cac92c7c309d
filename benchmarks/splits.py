"""A recipe repeated on several permutations of its rows into training, validation and test: mean and deviation.

    python benchmarks/splits.py models/kernel-density/*.toml [--splits 5] [--set model.finest=0.01]

The published comparisons on the Earth data are means over five permutations. Each run has its own permutation and its
own seed. Results go to benchmarks/results/splits.json, by recipe, settings that were set, and split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from paired import RESULTS, earlier, limit_threads, versions

ROOT = Path(__file__).parents[1]


def one(path: Path, split: int, settings: dict[str, Any]) -> float:
    """The mean log-likelihood of the test rows, nats."""
    from pyrogen.cli.recipe import Recipe
    from pyrogen.cli.run import run

    recipe = Recipe.read(path)
    recipe = dataclasses.replace(
        recipe,
        seed=split,
        settings=recipe.settings | settings,
        options=recipe.options | {"split": split},
    )
    with tempfile.TemporaryDirectory() as folder:
        return run(recipe, Path(folder) / "run", quiet=True).result["log_likelihood"]["mean"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], help="key=value of [model]")
    parser.add_argument("--out", type=Path, default=RESULTS / "splits.json")
    args = parser.parse_args()
    limit_threads(1)
    settings = tomllib.loads("\n".join(args.set))
    for path in args.recipes:
        name = str(path.resolve().relative_to(ROOT)) + "".join(f" {text}" for text in args.set)
        scores: list[float] = []
        for split in range(args.splits):
            scores.append(one(path, split, settings))
            print(name, split, scores[-1], flush=True)
        found = earlier(args.out) | {"versions": versions()}
        found[name] = {
            "mean": statistics.mean(scores),
            "deviation": statistics.stdev(scores) if len(scores) > 1 else None,
            "splits": scores,
            "unit": "nats per test row",
        }
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
