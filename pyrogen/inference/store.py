"""Where the draws of thousands of chains go: one buffer a site, made once, in the smallest dtype that holds it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from pyrogen.errors import SettingsError


class Store:
    """Buffers (chains, draws, ...), filled draw by draw.

    Args:
        draws: how many there will be.
        dtypes: {site: dtype to keep it in}; others are kept as they come.
        device: where the buffers are; None for where the values are.
        summed: names that are summed over the draws that are thinned out.
    """

    def __init__(
        self,
        draws: int,
        *,
        dtypes: Mapping[str, torch.dtype] | None = None,
        device: torch.device | None = None,
        summed: Iterable[str] = (),
    ) -> None:
        self.draws, self.dtypes, self.device = draws, dict(dtypes or {}), device
        self.summed, self.buffers = frozenset(summed), dict[str, Tensor]()
        self._skipped: dict[str, Tensor] = {}

    def skip(self, values: Mapping[str, Tensor]) -> None:
        """A draw that is not kept: only what is summed counts."""
        for name in self.summed & values.keys():
            self._skipped[name] = values[name] + self._skipped.get(name, 0)

    def put(self, draw: int, values: Mapping[str, Tensor]) -> None:
        """Draw number `draw`; each value is (chains, ...)."""
        for name, value in values.items():
            if name not in self.buffers:
                self.buffers[name] = self._made(name, value)
            self.buffers[name][:, draw].copy_(value + self._skipped.pop(name, 0) if name in self.summed else value)

    def _made(self, name: str, value: Tensor) -> Tensor:
        shape = (value.shape[0], self.draws, *value.shape[1:])
        dtype, device = self.dtypes.get(name, value.dtype), self.device or value.device
        try:
            return torch.empty(shape, dtype=dtype, device=device)
        except (RuntimeError, MemoryError) as error:
            size = math.prod(shape) * dtype.itemsize / 1e9
            raise SettingsError(
                got=f"{size:.1f} GB of draws of {name!r} on {device}: {error}".splitlines()[0],
                need="as much free memory",
                fix="thinning, save_params=['v'], fewer chains or draws, or storage='cpu'",
            ) from error
