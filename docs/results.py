"""Write the tables of results, in the README and in cards, from the JSON files that recipes and benchmarks wrote.

python docs/results.py           rewrite the sections
python docs/results.py --check   exit with 1 if one differs
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
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
        if "posteriors" in result:
            continue
        if "check" in result:
            checks.append(_check(path, result))
            continue
        number = result["log_likelihood"]
        recipe = path.with_suffix(".toml").relative_to(ROOT)
        method = number["kind"] if number["kind"] == "exact" else f"{number['kind']} ({number['method']})"
        seconds = max(result["seconds"], result["fit_seconds"])  # of a run that went on, the first is of its last part
        lines.append(
            f"| [{recipe}]({recipe}) | {_mean(number)} ± {number['stderr']:.2f} "
            f"| {method} | {number['n']} | {number['particles'] or ''} | {seconds:.0f} |"
        )
    return "\n".join([*lines, "", *checks]) + "\n"


def _mean(number: dict) -> str:
    if "bracket" not in number:
        return f"{number['mean']:.2f}"
    low, high = sorted(number["bracket"])
    return f"[{low:.2f}, {high:.2f}]"


def _check(path: Path, result: dict) -> str:
    check, recipe = result["check"], path.with_suffix(".toml").relative_to(ROOT)
    return (
        f"| [{recipe}]({recipe}) | {check['largest_z']:.2f} ({check['allowed_z']:.2f}) of {check['means']} "
        f"| {check['r_hat']:.3f} | {check['n_eff_per_1000_steps']:.0f} | {result['seconds']:.0f} |"
    )


def posteriors() -> str:
    """A line per posterior of benchmarks/posteriors.py: those with reference draws, then those with a known log Z."""
    found = json.loads((ROOT / "inference/flow-guide/posteriors.json").read_text())["posteriors"]
    lines = [
        "| posterior | latents | k-hat | largest difference of means, combined MCSE | the guide's own, posterior sd "
        "| effective share of draws | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    known = [
        "",
        "| target | k-hat | log Z | known | ELBO | effective share of draws | CPU seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, fit in found.items():
        if "log_z_known" in fit:
            known.append(
                f"| {name} | {fit['khat']:.2f} | {fit['log_z']:.4f} ± {fit['log_z_stderr']:.4f} "
                f"| {fit['log_z_known']:.4f} | {fit['elbo']:.3f} | {fit['ess_share']:.2f} | {fit['cpu_seconds']:.0f} |"
            )
        else:
            lines.append(
                f"| {name} | {fit['latents']} | {fit['khat']:.2f} | {fit['largest_z']:.2f} "
                f"| {fit['bias_of_guide_in_sd']:.3f} | {fit['ess_share']:.3f} | {fit['cpu_seconds']:.0f} |"
            )
    return "\n".join([*lines, *known]) + "\n"


def splits(model: str) -> str:
    """A line per recipe of a model that benchmarks/splits.py repeated."""
    found = json.loads((ROOT / "benchmarks/results/splits.json").read_text())
    lines = ["| recipe | test NLL, nats, mean and deviation | splits |", "|---|---|---|"]
    for name, row in sorted(found.items()):
        if name.startswith(f"models/{model}/"):
            recipe = name.removeprefix(f"models/{model}/").split(" ", 1)
            what = f"`{recipe[0]}`" + (f" with `{recipe[1]}`" if recipe[1:] else "")
            lines.append(f"| {what} | {-row['mean']:.2f} ± {row['deviation']:.2f} | {len(row['splits'])} |")
    return "\n".join(lines) + "\n"


SECTIONS: dict[str, Callable[[], str]] = {
    "README.md": table,
    "inference/flow-guide/card.md": posteriors,
    "models/kernel-density/card.md": lambda: splits("kernel-density"),
}


def updated(text: str, section: str) -> str:
    head, rest = text.split(BEGIN)
    return head + BEGIN + section + END + rest.split(END)[1]


if __name__ == "__main__":
    for name, write in SECTIONS.items():
        path = ROOT / name
        text = path.read_text()
        new = updated(text, write())
        if "--check" in sys.argv and new != text:
            sys.exit(f"{name} differs from the JSON files; run python docs/results.py")
        path.write_text(new)
