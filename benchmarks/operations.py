"""What a run asks of torch, counted below autograd: numbers that do not depend on the machine or its load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

VIEWS = {
    *("t", "transpose", "view", "_unsafe_view", "detach", "expand", "slice", "select", "unsqueeze", "alias"),
    *("permute", "squeeze", "as_strided", "lift_fresh", "split", "unbind"),
}
PRODUCTS = {"mm", "addmm", "bmm", "mv", "addmv"}
DRAWS = {"bernoulli", "rand", "uniform", "random", "rand_like", "randn_like", "normal", "multinomial", "randperm"}


class Operations(TorchDispatchMode):
    """Counts while it is active: calls that are no views, matrix products and their FLOP, calls that draw."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = self.products = self.draws = 0
        self.flop = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1].rstrip("_")
        if name not in VIEWS:
            self.calls += 1
        if name in DRAWS:
            self.draws += 1
        if name in PRODUCTS:
            left, right = args[1:3] if name.startswith("add") else args[:2]
            self.products += 1
            self.flop += 2.0 * left.numel() * (right.shape[-1] if right.dim() > 1 else 1)
        return func(*args, **(kwargs or {}))

    def of(self, n: int) -> dict[str, float]:
        """Means over n equal parts of what ran."""
        counts = {"calls": self.calls, "products": self.products, "mflop": self.flop / 1e6, "draws": self.draws}
        return {key: float(f"{value / n:.4g}") for key, value in counts.items()}


def operations(run: Callable[[], object]) -> Operations:
    with Operations() as counted:
        run()
    return counted
