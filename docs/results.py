"""Write the README's table of results from the JSON files that the recipes wrote.

python docs/results.py           rewrite the section
python docs/results.py --check   exit with 1 if it differs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results -->\n", "<!-- /results -->"


def table() -> str:
    """One line per models/<name>/<data>.json and inference/<name>/<data>.json, with a link to its recipe.

    The checks of kernels have a table of their own.
    """
    lines = [
        "| recipe | log p(x), nats per test row | kind | rows | particles | seconds |",
        "|---|---|---|---|---|---|",
    ]
    checks = [
        "| recipe | largest \\|z\\| of the means (allowed) | r_hat of the energy "
        "| effective draws per 1000 steps | seconds |",
        "|---|---|---|---|---|",
    ]
    for path in sorted([*ROOT.glob("models/*/*.json"), *ROOT.glob("inference/*/*.json")]):
        result = json.loads(path.read_text())
        if "check" in result:
            checks.append(_check(path, result))
            continue
        number = result["log_likelihood"]
        recipe = path.with_suffix(".toml").relative_to(ROOT)
        method = number["kind"] if number["kind"] == "exact" else f"{number['kind']} ({number['method']})"
        lines.append(
            f"| [{recipe}]({recipe}) | {_mean(number)} ± {number['stderr']:.2f} "
            f"| {method} | {number['n']} | {number['particles'] or ''} | {result['seconds']:.0f} |"
        )
    return "\n".join([*lines, "", *checks]) + "\n"


def _mean(number: dict) -> str:
    if "bracket" not in number:
        return f"{number['mean']:.2f}"
    low, high = number["bracket"]
    return f"[{low:.2f}, {high:.2f}]"


def _check(path: Path, result: dict) -> str:
    check, recipe = result["check"], path.with_suffix(".toml").relative_to(ROOT)
    return (
        f"| [{recipe}]({recipe}) | {check['largest_z']:.2f} ({check['allowed_z']:.2f}) of {check['means']} "
        f"| {check['r_hat']:.3f} | {check['n_eff_per_1000_steps']:.0f} | {result['seconds']:.0f} |"
    )


def updated(readme: str) -> str:
    head, rest = readme.split(BEGIN)
    return head + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = path.read_text()
    if "--check" in sys.argv:
        sys.exit(0 if updated(text) == text else "README.md differs from the JSON files; run python docs/results.py")
    path.write_text(updated(text))
