"""Numbers that change with the step: the weight of the KL, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int], float]


def at(value: float | Schedule, step: int) -> float:
    """The value of a number or of a schedule at a step."""
    return value(step) if callable(value) else value


@dataclass(frozen=True)
class Warmup:
    """Linear from `start` at step 0 to 1 at step `steps`, then 1."""

    steps: int
    start: float = 0.0

    def __call__(self, step: int) -> float:
        done = min(1.0, step / self.steps) if self.steps > 0 else 1.0
        return self.start + (1 - self.start) * done


@dataclass(frozen=True)
class Cosine:
    """1 until the step `hold * steps`, then half a cosine down to `end` at step `steps`."""

    steps: int
    hold: float = 0.0
    end: float = 0.0

    def __call__(self, step: int) -> float:
        held = self.hold * self.steps
        done = min(1.0, max(0.0, step - held) / max(1.0, self.steps - held))
        return self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * done))
