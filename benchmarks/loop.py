"""The loop of `fit`, step by step, so that a benchmark can time one step or one epoch of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Loop:
    """What `fit(model, x, compile=mode)` does in an epoch, with no validation, no folder and no progress bar.

    "auto" chooses as for a long run. `mode` is what was chosen. `optimizer` makes another than Adam.
    """

    def __init__(
        self,
        model: Any,
        x: Any,
        *,
        batch: int,
        rate: float,
        mode: str,
        objective: Any = None,
        optimizer: Any = None,
    ) -> None:
        from pyrogen.inference import ELBO
        from pyrogen.inference.compiling import choose
        from pyrogen.inference.programs import Programs
        from pyrogen.inference.training import Training

        options: dict[str, Any] = {"schedule": None, "optimizer": optimizer, "clip": None, "average": None}
        options |= {"batch_size": batch, "learning_rate": rate, "seed": 0}
        self.training = Training(Programs.of(model), x, None, objective or ELBO(), **options)
        with self._as_fit():
            self.training.lowered = choose(self.training, mode, 10**6).lowered
        self.mode = self.training.lowered.mode if self.training.lowered else "eager"

    @contextmanager
    def _as_fit(self) -> Iterator[None]:
        import pyro

        from pyrogen.ops import denormals_flushed

        with pyro.validation_enabled(False), denormals_flushed():
            yield

    def epoch(self) -> float:
        """One pass over the rows; gives the mean bound, nats per row."""
        with self._as_fit():
            for rows in self.training.batches():
                self.training.update(rows)
            self.training.close_epoch()
        return self.training.history["train"][-1]

    def unscored_epoch(self) -> None:
        """One pass over the rows, and nothing of what `fit` does after it."""
        with self._as_fit():
            for rows in self.training.batches():
                self.training.update(rows)
            self.training.position = 0

    def step(self, rows: Any) -> None:
        with self._as_fit():
            self.training.update(rows)
            self.training.position = 0
