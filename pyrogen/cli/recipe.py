"""A recipe in TOML: which model, which data, how to train, how to judge. Checked key by key before any work.

seed = 0
[model]                     # name, and the settings of that model
name = "vae"
latent = 8
[data]                      # name, and the options of that data set
name = "digits"
[objective]                 # optional, as all that follow; defaults are in the classes below
name = "elbo"
[fit]
epochs = 100
[evaluate]
particles = 500
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pyrogen.errors import RecipeError

_MANY = 10**9
_OBJECTIVES = {
    "elbo": "stl",
    "iwae": "dreg",
    "likelihood": "auto",
    "updown": "auto",
}  # with the gradient that only they have
_ANNEALED = ("ais", "reverse", "bracket", "raise")


def _setting(default: Any, **limits: Any) -> Any:
    """A field with limits: `least`, `most`, `above`, `below` for numbers, `choices` for words.

    One that is `silent` is written only where it is not the default: it came later than results that are kept.
    """
    return field(default=default, metadata=limits)


@dataclass(frozen=True)
class ObjectiveTable:
    """[objective]: what training maximises, a bound on log p(x) or itself."""

    name: str = _setting("auto", choices=("auto", *_OBJECTIVES))  # auto: by the model
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
    method: str = _setting("auto", choices=("auto", "iwae", "elbo", "exact", "csl", *_ANNEALED))
    particles: int = _setting(500, least=1, most=10_000_000)
    steps: int | None = _setting(None, least=1, most=10_000_000)  # of annealing, for an Energy model
    chains: int | None = _setting(None, least=1, most=10_000_000)  # of annealing
    split: str = _setting("test")


_TABLES: dict[str, type] = {"objective": ObjectiveTable, "fit": FitTable, "evaluate": EvaluateTable}


@dataclass(frozen=True)
class Recipe:
    """All that a run depends on, besides the machine and the versions."""

    model: str
    settings: dict[str, Any]
    data: str
    options: dict[str, Any]
    objective: ObjectiveTable = ObjectiveTable()
    fit: FitTable = FitTable()
    evaluate: EvaluateTable = EvaluateTable()
    seed: int = 0

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The recipe in a TOML file.

        Raises:
            RecipeError: the file cannot be read, is not TOML, or has a key or value that cannot be; names the
                file, the place, and the nearest thing that exists.
        """
        return cls.of(read_toml(path), str(path))

    @classmethod
    def of(cls, tables: Mapping[str, Any], source: str) -> Self:
        """The recipe in nested tables; `source` is where they are from, for messages.

        Raises:
            RecipeError: as for `read`.
        """
        for key in tables:
            if key not in ("seed", "model", "data", *_TABLES):
                raise _unknown(key, ("seed", "model", "data", *_TABLES), source)
        for name in ("model", "data", *_TABLES):
            if name in tables and not isinstance(tables[name], Mapping):
                raise RecipeError(
                    got=f"{name} = {tables[name]!r} in {source}", need=f"a table [{name}]", fix=f"a line [{name}]"
                )
        seed = _checked("seed", tables.get("seed", 0), int, {"least": 0, "most": 2**32 - 1}, source)
        model, settings = _named("model", tables, source)
        data, options = _named("data", tables, source)
        given = {name: tables.get(name, {}) for name in _TABLES}
        given["fit"] = _fit_defaults(model) | given["fit"]
        parts = {name: _table(name, given[name], source) for name in _TABLES}
        return _completed(cls(model, settings, data, options, seed=seed, **parts), source)

    def tables(self) -> dict[str, Any]:
        """The nested tables with the defaults filled in, but for silent ones; `of` and a TOML file take them."""
        out: dict[str, Any] = {
            "seed": self.seed,
            "model": {"name": self.model} | self.settings,
            "data": {"name": self.data} | self.options,
        }
        for name in _TABLES:
            table = getattr(self, name)
            values = {f.name: getattr(table, f.name) for f in dataclasses.fields(table)}
            silent = {f.name: f.default for f in dataclasses.fields(table) if f.metadata.get("silent")}
            out[name] = {k: v for k, v in values.items() if v is not None and (k not in silent or v != silent[k])}
        return out


def read_toml(path: str | Path) -> dict[str, Any]:
    """The nested tables in a file.

    Raises:
        RecipeError: it cannot be read, or is not TOML.
    """
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise RecipeError(
            got=f"{path}, which cannot be read: {error.strerror}", need="a recipe file", fix="the path of a .toml"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(got=f"{path}, which is not TOML: {error}", need="valid TOML", fix="a look there") from error


def _named(table: str, tables: Mapping[str, Any], source: str) -> tuple[str, dict[str, Any]]:
    """The name in [model] or [data], and the other keys."""
    known = _names(table)
    rest = dict(tables.get(table, {}))
    if "name" not in rest:
        raise RecipeError(
            got=f"no name in [{table}] of {source}", need=f"one of {_list(known)}", fix=f'[{table}] name = "{known[0]}"'
        )
    name = rest.pop("name")
    if name not in known:
        raise RecipeError(
            got=f"unknown {table} {name!r} in [{table}] of {source}",
            need=f"one of {_list(known)}",
            fix=repr(_nearest(name, known)),
        )
    for key, value in rest.items():
        for entry in value if isinstance(value, list) else [value]:
            switch = table == "data" or key in _switches(name)
            wrong = not isinstance(entry, int | float | str) or (isinstance(entry, bool) and not switch)
            if wrong or (isinstance(entry, float) and not math.isfinite(entry)):
                raise RecipeError(
                    got=f"{key} = {value!r} in [{table}] of {source}",
                    need="a word, a number, or a list of those"
                    if table == "model"
                    else "a word, a number, true or false",
                    fix="another value",
                )
    if table == "data" and not isinstance(rest.get("root", ""), str):
        raise RecipeError(got=f"root = {rest['root']!r} in {source}", need="a folder", fix='root = "folder"')
    return name, rest


def _switches(model: str) -> tuple[str, ...]:
    from pyrogen.models import MODELS

    return MODELS[model].switches


def _names(table: str) -> list[str]:
    # imported here: these import torch
    if table == "model":
        from pyrogen.models import MODELS

        return sorted(MODELS)
    from pyrogen.data import names

    return sorted(names())


def _fit_defaults(model: str) -> dict[str, Any]:
    from pyrogen.models import MODELS

    return dict(MODELS[model].fit_defaults)


def _table(name: str, given: Mapping[str, Any], source: str) -> Any:
    cls = _TABLES[name]
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in given.items():
        if key not in fields:
            raise _unknown(key, fields, f"[{name}] of {source}", name)
        values[key] = _checked(key, value, hints[key], fields[key].metadata, f"[{name}] of {source}")
    return cls(**values)


def _checked(key: str, value: Any, hint: Any, limits: Mapping[str, Any], where: str) -> Any:
    """The value, if it is of the type and within the limits; a whole number may stand for a float."""
    kind = next(t for t in typing.get_args(hint) if t is not types.NoneType) if typing.get_args(hint) else hint
    right = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
    choices, here = limits.get("choices"), f"{key} = {value!r} in {where}"
    in_range = right and (kind is str or _within(value, limits))
    if right and in_range and (choices is None or value in choices):
        return kind(value)
    if choices is not None:
        near = _nearest(value, choices)
        raise RecipeError(got=here, need=f"one of {_list(choices)}", fix=f'{key} = "{near}"')
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


def _completed(recipe: Recipe, source: str) -> Any:
    """Check what each key allows by itself, but not all of them together; fill in what depends on the rest."""
    from pyrogen.models import DBM, DBN, MODELS, Chain, Energy, Explicit, Pair

    objective, evaluate, cls = recipe.objective, recipe.evaluate, MODELS[recipe.model]
    explicit, pair, chain, energy = (issubclass(cls, contract) for contract in (Explicit, Pair, Chain, Energy))
    network = issubclass(cls, DBN)
    usual = "likelihood" if energy else "updown" if network else "elbo"
    name = usual if objective.name == "auto" else objective.name
    own = _OBJECTIVES[name]
    found: tuple[str, str, str] | None = None
    if name == "likelihood" and not energy:
        found = f'name = "likelihood" for {recipe.model}', "an undirected model such as rbm", 'name = "elbo"'
    elif name == "updown" and not network:
        found = f'name = "updown" for {recipe.model}', "a dbn", 'name = "elbo"'
    elif recipe.fit.greedy and not issubclass(MODELS[recipe.model], DBM | DBN):
        found = f"greedy in [fit] for {recipe.model}", "a dbm or a dbn", "leaving it out"
    elif objective.gradient not in ("auto", own):
        found = f'gradient = "{objective.gradient}" for {name}', f"auto or {own}", f'gradient = "{own}"'
    elif objective.free_bits and name != "elbo":
        found = f"free_bits for {name}", "elbo", 'name = "elbo" in [objective]'
    elif name in ("likelihood", "updown") and (objective.warmup or objective.particles):
        found = f"warmup or particles for {name}", "neither", "k and chains in [model]"
    elif recipe.fit.hold and recipe.fit.schedule != "cosine":
        found = "hold without a cosine in [fit]", 'schedule = "cosine"', "leaving out hold"
    elif evaluate.method == "exact" and not (explicit or energy):
        found = f'method = "exact" for {recipe.model}', "a model with an exact log p(x)", 'method = "auto"'
    elif evaluate.method in ("iwae", "elbo") and not pair:
        found = f'method = "{evaluate.method}" for {recipe.model}', "a model with a guide", 'method = "auto"'
    elif evaluate.method == "csl" and not chain:
        found = f'method = "csl" for {recipe.model}', "a model that is a Markov chain", 'method = "auto"'
    elif evaluate.method in _ANNEALED and not energy:
        found = f'method = "{evaluate.method}" for {recipe.model}', "an undirected model", 'method = "auto"'
    elif (evaluate.steps or evaluate.chains) and not (energy or network):
        found = f"steps or chains in [evaluate] for {recipe.model}", "an undirected model", "particles"
    if found:
        got, need, fix = found
        raise RecipeError(got=f"{got} in {source}", need=need, fix=fix)
    particles = objective.particles or {"elbo": 1, "iwae": 5, "likelihood": None, "updown": None}[name]
    usual = "auto" if energy else "exact" if explicit else "csl" if chain else "iwae"
    method = evaluate.method if evaluate.method != "auto" else usual
    return dataclasses.replace(
        recipe,
        objective=dataclasses.replace(objective, name=name, particles=particles),
        evaluate=dataclasses.replace(evaluate, method=method),
    )


def _unknown(key: str, known: Iterable[str], where: str, table: str = "") -> RecipeError:
    fields = {name: [f.name for f in dataclasses.fields(cls)] for name, cls in _TABLES.items() if name != table}
    elsewhere = [name for name, keys in fields.items() if key in keys]
    fix = f"moving it to [{elsewhere[0]}]" if elsewhere else repr(_nearest(key, known))
    return RecipeError(got=f"unknown key {key!r} in {where}", need=f"one of {_list(known)}", fix=fix)


def _nearest(word: Any, known: Iterable[str]) -> str:
    return difflib.get_close_matches(str(word).lower(), list(known), n=1, cutoff=0)[0]


def _list(known: Iterable[str]) -> str:
    return ", ".join(sorted(known))
