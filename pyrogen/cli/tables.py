"""The tables [objective], [fit] and [evaluate] of a recipe: their keys, defaults and limits, checked key by key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyrogen.errors import RecipeError

_MANY = 10**9
OBJECTIVES = {
    "elbo": "stl",
    "iwae": "dreg",
    "likelihood": "auto",
    "updown": "auto",
}  # with the gradient that only they have
ANNEALED = ("ais", "reverse", "bracket", "raise")


def _setting(default: Any, **limits: Any) -> Any:
    """A field with limits: `least`, `most`, `above`, `below` for numbers, `choices` for words.

    One that is `silent` is written only where it is not the default: it came later than results that are kept.
    """
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class ObjectiveTable:
    """[objective]: what training maximises, a bound on log p(x) or itself."""

    name: str = _setting("auto", choices=("auto", *OBJECTIVES))  # auto: by the model
    particles: int | None = _setting(None, least=1, most=100_000)  # 1 for elbo, 5 for iwae
    warmup: int = _setting(0, least=0, most=_MANY)  # steps over which the KL gains its weight
    free_bits: float = _setting(0.0, least=0.0)  # nats per latent dimension, elbo only
    gradient: str = _setting("auto", choices=("auto", "stl", "dreg"))  # stl for elbo, dreg for iwae


@dataclass(frozen=True)
class FitTable:
    """[fit]: the training loop."""

    epochs: int = _setting(100, least=1, most=_MANY)
    batch_size: int = _setting(100, least=1, most=_MANY)
    learning_rate: float = _setting(1e-3, above=0.0)
    optimizer: str = _setting("adam", choices=("adam", "sgd"), silent=True)
    lasso: float | None = _setting(None, above=0.0)  # nats per row for each unit of a weight
    schedule: str = _setting("constant", choices=("constant", "cosine"))
    hold: float = _setting(0.0, least=0.0, below=1.0)  # part of the steps before the cosine sets in
    clip: float | None = _setting(None, above=0.0)  # largest norm of the gradient
    average: float | None = _setting(None, above=0.0, below=1.0)  # decay of the averaged weights
    patience: int | None = _setting(None, least=1, most=_MANY)  # epochs without a better validation bound
    compile: str = _setting("eager", choices=("auto", "eager", "graph", "inductor", "cudagraph"), silent=True)
    precision: str = _setting("float32", choices=("float32", "tf32", "bfloat16"), silent=True)
    greedy: int | None = _setting(None, least=1, most=_MANY)  # epochs of pre-training a pair of layers


@dataclass(frozen=True)
class EvaluateTable:
    """[evaluate]: the number that is reported."""

    # auto: the most exact one; for an Energy model it is the machine's size that decides
    method: str = _setting("auto", choices=("auto", "iwae", "elbo", "exact", "csl", *ANNEALED))
    particles: int = _setting(500, least=1, most=10_000_000)
    steps: int | None = _setting(None, least=1, most=10_000_000)  # of annealing, for an Energy model
    chains: int | None = _setting(None, least=1, most=10_000_000)  # of annealing
    split: str = _setting("test")


TABLES: dict[str, type] = {"objective": ObjectiveTable, "fit": FitTable, "evaluate": EvaluateTable}


def read_table(name: str, given: Mapping[str, Any], source: str) -> Any:
    """One of `TABLES` with the keys that are given.

    Raises:
        RecipeError: a key that it has not, or a value out of its limits; `source` is where they are from.
    """
    cls = TABLES[name]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in given.items():
        if key not in fields:
            raise unknown(key, fields, f"[{name}] of {source}", name)
        values[key] = checked(key, value, hints[key], fields[key].metadata, f"[{name}] of {source}")
    return cls(**values)


def checked(key: str, value: Any, hint: Any, limits: Mapping[str, Any], where: str) -> Any:
    """The value, if it is of the type and within the limits; a whole number may stand for a float."""
    kind = next(t for t in typing.get_args(hint) if t is not types.NoneType) if typing.get_args(hint) else hint
    right = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    choices, here = limits.get("choices"), f"{key} = {value!r} in {where}"
    in_range = right and (kind is str or _within(value, limits))
    if right and in_range and (choices is None or value in choices):
        return kind(value)
    if choices is not None:
        near = nearest(value, choices)
        raise RecipeError(got=here, need=f"one of {listed(choices)}", fix=f'{key} = "{near}"')
    raise RecipeError(got=here, need=_need(kind, limits), fix=f"{key} = {_example(kind, limits)}")


def _within(value: float, limits: Mapping[str, Any]) -> bool:
    return (
        math.isfinite(value)
        and value >= limits.get("least", -math.inf)
        and value <= limits.get("most", math.inf)
        and value > limits.get("above", -math.inf)
        and value < limits.get("below", math.inf)
    )


def _need(kind: type, limits: Mapping[str, Any]) -> str:
    words = {int: "a whole number", float: "a number", str: "a word in quotes"}[kind]
    said = [f"{name} {limits[key]}" for key, name in _LIMITS if key in limits]
    return " ".join([words, " and ".join(said)]).strip()


_LIMITS = (("least", "at least"), ("above", "above"), ("most", "at most"), ("below", "below"))


def _example(kind: type, limits: Mapping[str, Any]) -> str:
    if kind is str:
        return '"test"'
    if kind is int:
        return str(max(1, limits.get("least", 1)))
    return "0.5" if limits.get("below") == 1.0 else "0.001"


def unknown(key: str, known: Iterable[str], where: str, table: str = "") -> RecipeError:
    """The error for a key that is not there, with the table that has it, or the nearest key."""
    fields = {name: [f.name for f in dataclasses.fields(cls)] for name, cls in TABLES.items() if name != table}
    elsewhere = [name for name, keys in fields.items() if key in keys]
    fix = f"moving it to [{elsewhere[0]}]" if elsewhere else repr(nearest(key, known))
    return RecipeError(got=f"unknown key {key!r} in {where}", need=f"one of {listed(known)}", fix=fix)


def nearest(word: Any, known: Iterable[str]) -> str:
    """The known word that is most like this one."""
    return difflib.get_close_matches(str(word).lower(), list(known), n=1, cutoff=0)[0]


def listed(known: Iterable[str]) -> str:
    """The words in order, with commas."""
    return ", ".join(sorted(known))
