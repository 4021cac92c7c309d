"""Numbers that change with the step: the weight of the KL, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyrogen.errors import SettingsError

Schedule = Callable[[int], float]


def at(value: float | Schedule, step: int) -> float:
    """The value of a number or of a schedule at a step."""
    return value(step) if callable(value) else value


def check_schedule(name: str, schedule: Any) -> None:
    """Refuse what gives no number for a step.

    Raises:
        SettingsError: it cannot be called with 0, or gives no number then, or NaN or infinity.
    """
    why = ""
    try:
        value = schedule(0)
        # a tensor's number is not taken out: it may be traced, or on a GPU
        right = value.numel() == 1 if isinstance(value, Tensor) else math.isfinite(float(value))
    except Exception as error:
        right, why = False, f" ({type(error).__name__}: {error})"
    if not right:
        raise SettingsError(
            got=f"{name} = {schedule!r}{why}", need="a function from the step to a number", fix=f"{name}=Warmup(1000)"
        )


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
