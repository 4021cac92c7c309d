"""Inverse temperatures on the way from the base to the machine: 0 = beta_0 < ... < beta_K = 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from pyrogen.errors import SettingsError

PIECES = ((0.0, 0.5, 500), (0.5, 0.9, 4_000), (0.9, 1.0, 10_000))
"""From, to, steps. Source: Salakhutdinov and Murray 2008, section 5."""


def linear(steps: int) -> list[float]:
    """K = `steps` equal steps.

    Raises:
        SettingsError: no step.
    """
    if steps < 1:
        raise SettingsError(got=f"{steps} steps", need="at least one", fix="steps=1000")
    return [k / steps for k in range(steps + 1)]


def three_piece(steps: int = 14_500) -> list[float]:
    """Most steps near beta = 1: of 14,500, 500 are in [0, 0.5], 4,000 in [0.5, 0.9] and 10,000 in [0.9, 1].

    Other numbers are shared out in that proportion, at least one step to each piece.

    Raises:
        SettingsError: fewer than three steps.
    """
    if steps < 3:
        raise SettingsError(got=f"{steps} steps", need="at least three, one to a piece", fix="linear(steps)")
    whole = sum(n for _, _, n in PIECES)
    counts = [max(1, round(steps * n / whole)) for _, _, n in PIECES[:2]]
    counts.append(steps - sum(counts))
    betas = [0.0]
    for (low, high, _), n in zip(PIECES, counts, strict=True):
        betas += [low + (high - low) * (k + 1) / n for k in range(n - 1)] + [high]
    return betas


def check_ladder(betas: Sequence[float]) -> list[float]:
    """The ladder as numbers of Python, or an error in words.

    Raises:
        SettingsError: it does not start at 0, the base, or end at 1, the machine, or does not increase.
    """
    ladder = [float(beta) for beta in betas]
    fix = "three_piece(1000)"
    if len(ladder) < 2 or not all(math.isfinite(beta) for beta in ladder):
        raise SettingsError(got=f"a ladder {ladder}", need="at least beta = 0 and beta = 1", fix=fix)
    if ladder[0] != 0:
        raise SettingsError(got=f"a ladder from {ladder[0]:g}", need="a start at the base, beta = 0", fix=fix)
    if ladder[-1] != 1:
        raise SettingsError(got=f"a ladder to {ladder[-1]:g}", need="an end at the machine, beta = 1", fix=fix)
    for k, (low, high) in enumerate(pairwise(ladder)):
        if low >= high:
            raise SettingsError(
                got=f"a ladder with {low:g} at {k} before {high:g} at {k + 1}", need="increasing betas", fix=fix
            )
    return ladder
