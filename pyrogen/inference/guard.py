"""Watches every step for NaN and infinity without waiting for the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

_KEPT = 2000  # steps whose noise is remembered; it is looked at least every 1000


class Noise(NamedTuple):
    """Torch's random states: the CPU's and, where rows are on a GPU, that GPU's."""

    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> Noise:
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(torch.get_rng_state(), cuda)

    def put(self, device: torch.device) -> None:
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, device)


class Guard:
    """Two numbers on the device that tell the first bad step to whoever looks later.

        found = 1 from the first step on whose bound is not finite, before that 0
        since = how many steps that is ago, counting it

    An optimiser that heeds `found_inf`, as ours and torch's fused ones do, then leaves the weights as they were before
    that step. The noise of the last steps is remembered, so that each can be run again as it was.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.device = device
        self.found, self.since = torch.zeros((), device=device), torch.zeros((), device=device)
        self.holds = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        if self.holds:
            optimizer.found_inf = self.found  # pyright: ignore[reportAttributeAccessIssue]
        self.noises: deque[tuple[int, Noise]] = deque(maxlen=_KEPT)

    def before(self, step: int) -> None:
        """Remember the noise of a step; the first is 1."""
        self.noises.append((step, Noise.now(self.device)))

    def watch(self, total: Tensor) -> None:
        """Take note of a sum to which the step's bound was added: once it is bad, it stays so."""
        torch.ne(total - total, 0, out=self.found)
        self.since += self.found

    def first_bad(self, step: int) -> int | None:
        """The first of the steps up to `step` whose bound was not finite. Waits for the device."""
        since = int(self.since)
        if since:
            return step - since + 1
        while len(self.noises) > 1:  # the last of the good steps may have done what the next one shows
            self.noises.popleft()
        return None

    @contextmanager
    def again(self, step: int) -> Iterator[None]:
        """Inside, without gradients, the noise is that of a step, if it is remembered."""
        with torch.no_grad(), torch.random.fork_rng():
            for number, noise in self.noises:
                if number == step:
                    noise.put(self.device)
            yield
