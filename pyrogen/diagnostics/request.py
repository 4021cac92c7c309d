"""What the caller of `to_arviz` asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyrogen.diagnostics.programs import Program
from pyrogen.errors import SettingsError


@dataclass(frozen=True)
class Request:
    """The arguments of `to_arviz`; see there."""

    model: Callable[..., Any] | None = None
    guide: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_samples: int = 1000
    log_likelihood: bool = True
    posterior_predictive: bool = True
    prior: int = 0
    vectorize: bool = True
    chunk: int | None = None
    max_gb: float = 4.0

    def __post_init__(self) -> None:
        for name, least in (("num_samples", 1), ("prior", 0), ("chunk", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise SettingsError(got=f"{name}={value}", need=f"at least {least}", fix=f"{name}={least}")

    def afford(self, model: Program, n: int) -> None:
        """Refuse, before any work, groups of n draws that would not fit into max_gb."""
        observed = model.of("observed").values()
        latent = sum(site.value.numel() for site in model.of("latent", "deterministic").values())
        predictive = sum(site.value.numel() for site in observed)
        pointwise = sum(math.prod(site.batch) for site in observed)
        per_draw = latent + self.log_likelihood * pointwise + self.posterior_predictive * predictive
        size = 4e-9 * (per_draw * n + (latent + predictive) * self.prior)
        if size > self.max_gb:
            raise SettingsError(
                got=f"a result of {size:.1f} GB",
                need=f"at most {self.max_gb:g} GB",
                fix="fewer rows, num_samples=100, posterior_predictive=False or a larger max_gb",
            )
