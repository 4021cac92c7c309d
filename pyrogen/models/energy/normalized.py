"""A model whose log p(x) is a number once its log Z is known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from pyrogen.distributions.boltzmann import Machine, can_enumerate
from pyrogen.models.energy.rbm import LISTED, LISTED_WITHOUT_GRADIENTS


class Normalized:
    """Holds what is known of log Z of a machine that is too large to list."""

    log_z: float | None = None

    @contextmanager
    def normalized(self, log_z: float) -> Iterator[None]:
        """Let log p(x) be a number, with this log Z."""
        before, self.log_z = self.log_z, log_z
        try:
            yield
        finally:
            self.log_z = before

    def _known(self, machine: Machine) -> float | Literal["exact"] | None:
        most = LISTED if torch.is_grad_enabled() else LISTED_WITHOUT_GRADIENTS
        if self.log_z is None and can_enumerate(machine, most):
            return "exact"
        return self.log_z
