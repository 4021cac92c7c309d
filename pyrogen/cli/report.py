"""The last words of a command, on stdout: what was made, the number, what to try next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from pyrogen.cli.folder import ALL

if TYPE_CHECKING:
    from pyrogen.cli.run import Outcome


def report(outcome: Outcome) -> str:
    """A finished run in a screenful."""
    folder, result = str(outcome.folder), outcome.result
    width = max(map(len, ALL))
    lines = [f"In {folder}:"]
    lines += [f"  {name:{width}}  {what}" for name, what in ALL.items() if name in outcome.result["files"]]
    lines += [f"  {name:{width}}  not made: {why}" for name, why in outcome.not_made.items()]
    lines += [
        "",
        f"{result['model']} on {result['data']}, split {result['split']}:",
        f"  {number(result['log_likelihood'])}",
    ]
    lines += [f"  {line}" for line in _more(result)]
    quoted = shlex.quote(folder)
    lines += [
        "",
        "Try next:",
        f"  pyrogen sample {quoted} -n 100 --seed 1",
        f"  pyrogen evaluate {quoted} {_other(result['log_likelihood'])}",
        f"  pyrogen run {quoted}/recipe.toml --out {quoted}-again",
    ]
    if "posterior.nc" not in outcome.not_made and quoted == folder:
        lines.append(f"""  python -c "import arviz; print(arviz.from_netcdf('{folder}/posterior.nc'))\"""")
    return "\n".join(lines)


def number(found: dict[str, Any]) -> str:
    """A log-likelihood with its kind and both errors."""
    sign = {"exact": "=", "lower bound": ">=", "upper bound": "<="}.get(found["kind"], "~")
    if "bracket" in found:
        low, high = sorted(found["bracket"])
        return (
            f"log p(x) in [{low:.3f}, {high:.3f}] +- {found['stderr']:.3f} nats per row (by annealing back and forth, "
            f"{found['n']:,} rows, Monte-Carlo error {found['mc_stderr']:.3f})"
        )
    noise = f", Monte-Carlo error {found['mc_stderr']:.3f}" if found["mc_stderr"] else ""
    how = found["method"] + (f" with {found['particles']} particles" if found["particles"] else "")
    by = "" if found["kind"] == found["method"] else f" by {how}"
    return (
        f"log p(x) {sign} {found['mean']:.3f} +- {found['stderr']:.3f} nats per row "
        f"({found['kind']}{by}, {found['n']:,} rows{noise})"
    )


def _other(found: dict[str, Any]) -> str:
    """Options that measure it again in another way."""
    if "bracket" in found:
        return f"--steps {10 * found['log_z']['below']['steps']}"
    if "log_z" in found and found["method"] in ("exact", "ais", "reverse"):
        return "--method bracket"
    return f"--particles {10 * max(100, found['particles'])}"


def _more(result: dict[str, Any]) -> list[str]:
    """One line each on the latent space, the guide and the time."""
    out = []
    for name, site in ((result["latent"] or {}).get("sites") or {}).items():
        out.append(f"{name}: {site['active_units']} of {site['units']} units active, KL {site['kl']:.2f} nats")
    k = result["khat"]
    if k:
        out.append(f"guide: k-hat above {k['threshold']:.2f} in {k['share_above']:.0%} of {k['rows']} rows")
    out.append(f"{result['fit_seconds']:.1f} s of training, {result['seconds']:.1f} s in all; {result['outcome']}")
    return out
