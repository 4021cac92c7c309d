"""How many ATen operations something takes, and which of them wait for the device: counts do not depend on the load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "_is_all_true", "equal.default")
UNCOUNTED = ("aten.detach.default",)


class Operations(TorchDispatchMode):
    """Counts by name while it is active; indexing with a mask of booleans counts as waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if "index.Tensor" in name or "index_put" in name:
            masks = [i for i in (args[1] or []) if getattr(i, "dtype", None) == torch.bool]
            name = "nonzero by a mask" if masks else name
        self.found[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(n for name, n in self.found.items() if name not in UNCOUNTED)

    @property
    def waits(self) -> int:
        return sum(n for name, n in self.found.items() if any(word in name for word in WAITING))


def operations(run: Callable[[], object]) -> Operations:
    with Operations() as counted:
        run()
    return counted
