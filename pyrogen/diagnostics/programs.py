"""What a Pyro program samples: its sites, their shapes and their plates, found by running it once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from pyrogen.errors import ModelError, SettingsError

Kind = Literal["latent", "observed", "factor", "deterministic"]


@dataclass(frozen=True)
class Site:
    """One sample statement, as it is when the program runs once, without particles."""

    name: str
    kind: Kind
    batch: torch.Size
    event: torch.Size
    plates: dict[int, str]  # position in batch, to the plate's name
    value: Tensor  # of shape batch + event
    is_auxiliary: bool  # sampled by a guide for its own use
    is_enumerated: bool  # marked to be summed out
    is_delta: bool

    @property
    def shape(self) -> torch.Size:
        return self.batch + self.event

    @property
    def kept(self) -> list[int]:
        """Positions in batch without Pyro's padding: size 1, no plate of its own, right of a plate."""
        outermost = min(self.plates, default=len(self.batch))
        return [i for i, size in enumerate(self.batch) if i < outermost or i in self.plates or size != 1]

    @property
    def dims(self) -> list[str]:
        """A name per dimension that is kept: the plate's, or "<site>_dim_<k>" where no plate names it."""
        names = [self.plates.get(i) for i in self.kept] + [None] * len(self.event)
        numbers = iter(range(len(names)))
        return [name or f"{self.name}_dim_{next(numbers)}" for name in names]

    def unpadded(self, x: Tensor, leading: int, *, event: bool = True) -> Tensor:
        """x of shape (*leading dims, *batch, *event) without the padding dimensions of the batch."""
        shape = [self.batch[i] for i in self.kept] + (list(self.event) if event else [])
        return x.reshape([*x.shape[:leading], *shape])

    def per_plate(self, log_prob: Tensor, plates: tuple[str, ...]) -> Tensor:
        """Sum log_prob, (n, *batch), over every dimension but the particles' and those of `plates`, in float64."""
        others = [1 + i for i in range(len(self.batch)) if self.plates.get(i) not in plates]
        return log_prob.double().sum(others) if others else log_prob.double()


@dataclass(frozen=True)
class Program:
    """A Pyro program, its arguments and its sites; `nesting` is the number of batch dimensions in use."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    sites: dict[str, Site]

    @property
    def nesting(self) -> int:
        return max((len(site.batch) for site in self.sites.values()), default=0)

    @property
    def numbers(self) -> int:
        """How many numbers the sites hold together, for one particle."""
        return sum(site.value.numel() for site in self.sites.values())

    def of(self, *kinds: Kind) -> dict[str, Site]:
        return {name: site for name, site in self.sites.items() if site.kind in kinds}


def survey(
    fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], given: Mapping[str, Tensor] | None = None
) -> Program:
    """Run the program once and record its sites.

    Args:
        given: values for some latent sites; spares a prior that cannot be sampled.

    Raises:
        ModelError: a plate is subsampled, so that two runs would see different rows.
        SettingsError: the program needs arguments and got none.
    """
    conditioned = poutine.condition(fn, data=dict(given or {}))
    try:
        with torch.no_grad(), poutine.block():
            trace = poutine.trace(conditioned).get_trace(*args, **kwargs)
    except TypeError as error:
        if args or kwargs or "argument" not in str(error):
            raise
        raise SettingsError(
            got=f"no data ({error})", need="the arguments of the program", fix="data=(x,) or data={'x': x}"
        ) from error
    sites = {
        name: _site(name, node, given or {})
        for name, node in trace.nodes.items()
        if node["type"] == "sample" and not poutine.util.site_is_subsample(node)
    }
    return Program(fn, args, kwargs, sites)


def _site(name: str, node: Mapping[str, Any], given: Mapping[str, Tensor]) -> Site:
    frames = [frame for frame in node["cond_indep_stack"] if frame.vectorized]
    for frame in frames:
        if (frame.full_size or frame.size) != frame.size:
            raise ModelError(
                got=f"plate {frame.name!r} with {frame.size} of its {frame.full_size} rows",
                need="all rows: each draw would see others",
                fix="calling the program with the whole data and no subsample_size",
            )
    kind, fn, value, infer = _kind(name, node, given), node["fn"], node["value"], node["infer"] or {}
    if kind == "deterministic":
        batch, event = _split_deterministic(value, fn, frames)
    else:
        batch, event = fn.batch_shape, fn.event_shape
        value = value if kind == "factor" else value.expand(batch + event)
    plates = {len(batch) + frame.dim: _dimension(frame.name) for frame in frames if len(batch) + frame.dim >= 0}
    return Site(
        name=name,
        kind=kind,
        batch=batch,
        event=event,
        plates=dict(sorted(plates.items())),
        value=value.detach(),
        is_auxiliary=bool(infer.get("is_auxiliary")),
        is_enumerated=infer.get("enumerate") is not None,
        is_delta=isinstance(_base(fn), dist.Delta),
    )


def _dimension(plate: str) -> str:
    """The plate's name, unless ArviZ has another use for it."""
    return f"{plate}_plate" if plate in ("chain", "draw") else plate


def _kind(name: str, node: Mapping[str, Any], given: Mapping[str, Tensor]) -> Kind:
    if name in given or not node["is_observed"]:
        return "latent"
    if (node["infer"] or {}).get("_deterministic"):
        return "deterministic"
    return "factor" if isinstance(_base(node["fn"]), dist.Unit) else "observed"


def _base(fn: Any) -> Any:
    """The distribution inside its masks, event dimensions and expansions."""
    while not isinstance(fn, (dist.Delta, dist.Unit)) and hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return fn


def _split_deterministic(value: Tensor, fn: Any, frames: list[Any]) -> tuple[torch.Size, torch.Size]:
    """Batch and event shape. By default pyro.deterministic calls every dimension an event dimension, so
    the plates are looked for by their sizes, from the right."""
    if fn.event_dim < value.dim():
        split = value.dim() - fn.event_dim
        return value.shape[:split], value.shape[split:]
    for split in range(value.dim(), 0, -1):
        if frames and all(split + f.dim >= 0 and value.shape[split + f.dim] == f.size for f in frames):
            return value.shape[:split], value.shape[split:]
    return torch.Size(), value.shape


@contextmanager
def evaluating(*programs: Any) -> Iterator[None]:
    """Put the modules behind the programs in eval mode (no dropout, no batch statistics), and back."""
    modules = [module for program in programs for module in _modules(program)]
    before = [(module, module.training) for module in modules]
    try:
        for module in modules:
            module.training = False
        yield
    finally:
        for module, training in before:
            module.training = training


def _modules(program: Any) -> list[nn.Module]:
    while isinstance(program, functools.partial):
        program = program.func
    owner = getattr(program, "__self__", program)
    return list(owner.modules()) if isinstance(owner, nn.Module) else []
