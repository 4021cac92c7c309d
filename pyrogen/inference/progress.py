"""The one progress bar of a fit or of a sampler, on stderr, shown only to a terminal."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from torch import Tensor

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Progress:
    """Rows done, the bounds of the last epoch, rows per second, time left."""

    def __init__(self, epochs: int, rows: int, shown: bool) -> None:
        self.epochs, self.rows = epochs, rows
        self.bar = _bar() if shown and sys.stderr.isatty() else None
        if self.bar:
            self.task = self.bar.add_task(f"epoch 1/{epochs}", total=epochs * rows, bounds="", speed="")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def advance(self, rows: int) -> None:
        if self.bar:
            self.bar.advance(self.task, rows)

    def report(self, history: dict[str, list[float]]) -> None:
        """Show the last epoch's numbers."""
        if not self.bar:
            return
        done, seconds = int(history["epoch"][-1]), history["seconds"][-1]
        bounds = " ".join(f"{name} {history[name][-1]:.2f}" for name in ("train", "valid") if name in history)
        self.bar.update(
            self.task,
            description=f"epoch {min(done + 1, self.epochs)}/{self.epochs}",
            bounds=f"{bounds} nats",
            speed=f"{done * self.rows / max(seconds, 1e-9):,.0f} rows/s",
        )


def _bar() -> RichProgress:
    # here, not above: importing rich draws from Python's global random state
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[bounds]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    # transient: a finished bar leaves no line behind; numbers belong to stdout and files
    return Progress(*columns, console=Console(stderr=True), transient=True)


class Sampling:
    """The one bar of a sampler: steps done of the warm-up and of the draws, the mean energy, steps per second."""

    def __init__(self, warmup: int, steps: int, shown: bool) -> None:
        self.warmup, self.steps, self.done, self.start = warmup, warmup + steps, 0, time.perf_counter()
        self.bar = _bar() if shown and sys.stderr.isatty() else None
        # a look at the energy waits for the device, so a hundred of them have to do
        self.every = max(1, self.steps // 100)
        if self.bar:
            self.task = self.bar.add_task("warm-up" if warmup else "draws", total=self.steps, bounds="", speed="")

    def __enter__(self) -> Self:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    def step(self, energy: Tensor) -> None:
        """One more step, after which the chains have these energies."""
        self.done += 1
        if self.bar and (self.done % self.every == 0 or self.done == self.steps):
            speed = self.done / max(time.perf_counter() - self.start, 1e-9)
            self.bar.update(
                self.task,
                completed=self.done,
                description="warm-up" if self.done < self.warmup else "draws",
                bounds=f"energy {float(energy.mean()):.1f}",
                speed=f"{speed:,.0f} steps/s",
            )
