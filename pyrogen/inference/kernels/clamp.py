"""Holding entries of v or h at given values: {site: (mask, value)}."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrogen.distributions.boltzmann import Machine, Units
from pyrogen.errors import DeviceError, DtypeError, SettingsError, ShapeError, SupportError


class Held(NamedTuple):
    """Entries of one side: where the mask is true, x is the value.

    The units of a side are independent given the other one, so drawing them all and putting the held ones back is
    drawing the free ones given the held ones.
    """

    mask: Tensor  # bool, (width,) or (chains, width)
    value: Tensor  # like the mask

    def __call__(self, x: Tensor) -> Tensor:
        """x, (chains, width) or with more dimensions between the two."""
        return torch.where(_between(self.mask, x), _between(self.value, x), x)


@dataclass(frozen=True)
class Clamp:
    """What is held of v and of h; nothing by default."""

    visible: Held | None = None
    hidden: Held | None = None

    def v(self, x: Tensor) -> Tensor:
        return x if self.visible is None else self.visible(x)

    def h(self, x: Tensor) -> Tensor:
        return x if self.hidden is None else self.hidden(x)

    def counts(self) -> dict[str, int]:
        """How many entries of a chain are held, by site; the most of all chains."""
        sides = {"v": self.visible, "h": self.hidden}
        return {name: int(held.mask.sum(-1).max()) for name, held in sides.items() if held is not None}

    def check_chains(self, chains: int) -> None:
        """Raise a ShapeError if a mask or value is for another number of chains."""
        for name, held in (("v", self.visible), ("h", self.hidden)):
            if held is not None and held.mask.dim() == 2 and held.mask.shape[0] != chains:
                raise ShapeError(
                    got=f"a clamp of {name!r} for {held.mask.shape[0]} chains",
                    need=f"one for {chains}, or one row for all",
                    fix=f"num_chains={held.mask.shape[0]}",
                )


def read_clamp(machine: Machine, clamp: Mapping[str, tuple[Tensor, Tensor]] | None) -> Clamp:
    """{site: (mask, value)} with site "v" (or "x", which is the same) or "h".

    Shape: masks are bool and values numbers, each (width,) for all chains or (chains, width). What a value is where
    its mask is false does not matter, so the gaps may be NaN.

    Raises:
        SettingsError: another site, not a pair, or a category held in part.
        ShapeError, DtypeError, DeviceError: of a mask or a value.
        SupportError: a value that the units cannot have.
    """
    found: dict[str, Held] = {}
    for site, pair in (clamp or {}).items():
        name = "v" if site == "x" else site
        if name not in ("v", "h") or name in found:
            raise SettingsError(got=f"a clamp of site {site!r}", need="'v' (or 'x') and 'h', each once", fix="'v'")
        if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(x, Tensor) for x in pair):
            raise SettingsError(
                got=f"{type(pair).__name__} as the clamp of {site!r}", need="(mask, value), two tensors", fix="a pair"
            )
        found[name] = _held(machine, machine.visible if name == "v" else machine.hidden, site, *pair)
    return Clamp(found.get("v"), found.get("h"))


def _held(machine: Machine, units: Units, site: str, mask: Tensor, value: Tensor) -> Held:
    if mask.dtype != torch.bool:
        raise DtypeError(got=f"a mask of {mask.dtype} for site {site!r}", need="torch.bool", fix="mask.bool()")
    for what, x in (("mask", mask), ("value", value)):
        if x.dim() not in (1, 2) or x.shape[-1] != units.width:
            raise ShapeError(
                got=f"a {what} of shape {tuple(x.shape)} for site {site!r}",
                need=f"({units.width},) or (chains, {units.width})",
                fix=f"{what}.flatten(1)" if x.dim() > 2 else f"a {what} for all {units.width} entries of {units}",
            )
        if x.device != machine.W.device:
            raise DeviceError(
                got=f"a {what} on {x.device} for site {site!r}", need=f"{machine.W.device}, as the machine",
                fix=f"{what}.to({str(machine.W.device)!r})",
            )  # fmt: skip
    if mask.dim() == value.dim() == 2 and len(mask) != len(value):
        raise ShapeError(
            got=f"a mask of {len(mask)} rows and a value of {len(value)} for site {site!r}",
            need="as many",
            fix="mask[0]",
        )
    mask, value = torch.broadcast_tensors(mask, value.detach().to(machine.W.dtype))
    _check_whole(units, site, mask)
    bad = units.wrong(value) & mask
    if bad.any():
        raise SupportError(
            got=f"{value[bad][0].item():.6g} in the clamp of {site!r} ({int(bad.sum())} such held entries)",
            need=f"{units.support} values where the mask is true",
            fix="another mask, or rows of the data that the machine is a model of",
        )
    # zeros in the gaps, so that no NaN is kept
    return Held(mask, torch.where(mask, value, torch.zeros_like(value)))


def _check_whole(units: Units, site: str, mask: Tensor) -> None:
    """A category is held as a whole, or not at all."""
    for layer, part in units.parts(mask):
        if not layer.support.startswith("one-hot"):
            continue
        each = part.unflatten(-1, (layer.n, -1))
        partly = each.any(-1) & ~each.all(-1)
        if partly.any():
            raise SettingsError(
                got=f"a clamp of {site!r} that holds {int(partly.sum())} categories in part",
                need="all entries of a one-hot unit, or none",
                fix=f"mask.unflatten(-1, ({layer.n}, {each.shape[-1]})).any(-1, keepdim=True), expanded",
            )


def _between(held: Tensor, x: Tensor) -> Tensor:
    """Dimensions of size 1 after the chains, so that replicas of a chain are held alike."""
    if held.dim() == 1:
        return held
    return held.reshape(held.shape[0], *[1] * (x.dim() - 2), held.shape[-1])
