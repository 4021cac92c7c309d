"""A recipe in TOML: which model, which data, how to train, how to judge. Checked key by key before any work.

seed = 0
[model]                     # name, and the settings of that model
name = "vae"
latent = 8
[data]                      # name, and the options of that data set
name = "digits"
[objective]                 # optional, as all that follow; defaults are in `pyrogen.cli.tables`
name = "elbo"
[fit]
epochs = 100
[evaluate]
particles = 500
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pyrogen.cli.tables import (
    ANNEALED,
    OBJECTIVES,
    TABLES,
    EvaluateTable,
    FitTable,
    ObjectiveTable,
    checked,
    listed,
    nearest,
    read_table,
    unknown,
)
from pyrogen.errors import RecipeError


@dataclass(frozen=True)
class Recipe:
    """All that a run depends on, besides the machine and the versions."""

    model: str
    settings: dict[str, Any]
    data: str
    options: dict[str, Any]
    objective: ObjectiveTable = field(default_factory=ObjectiveTable)
    fit: FitTable = field(default_factory=FitTable)
    evaluate: EvaluateTable = field(default_factory=EvaluateTable)
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
            if key not in ("seed", "model", "data", *TABLES):
                raise unknown(key, ("seed", "model", "data", *TABLES), source)
        for name in ("model", "data", *TABLES):
            if name in tables and not isinstance(tables[name], Mapping):
                raise RecipeError(
                    got=f"{name} = {tables[name]!r} in {source}", need=f"a table [{name}]", fix=f"a line [{name}]"
                )
        seed = checked("seed", tables.get("seed", 0), int, {"least": 0, "most": 2**32 - 1}, source)
        model, settings = _named("model", tables, source)
        data, options = _named("data", tables, source)
        given = {name: tables.get(name, {}) for name in TABLES}
        given["fit"] = _fit_defaults(model) | given["fit"]
        parts = {name: read_table(name, given[name], source) for name in TABLES}
        return _completed(cls(model, settings, data, options, seed=seed, **parts), source)

    def tables(self) -> dict[str, Any]:
        """The nested tables with the defaults filled in, but for silent ones; `of` and a TOML file take them."""
        out: dict[str, Any] = {
            "seed": self.seed,
            "model": {"name": self.model} | self.settings,
            "data": {"name": self.data} | self.options,
        }
        for name in TABLES:
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
            got=f"no name in [{table}] of {source}",
            need=f"one of {listed(known)}",
            fix=f'[{table}] name = "{known[0]}"',
        )
    name = rest.pop("name")
    if name not in known:
        raise RecipeError(
            got=f"unknown {table} {name!r} in [{table}] of {source}",
            need=f"one of {listed(known)}",
            fix=repr(nearest(name, known)),
        )
    for key, value in rest.items():
        if table == "model" and key in _switches(name) and value not in (0, 1):
            here = f"{key} = {value!r} in [model] of {source}"
            raise RecipeError(got=here, need="true or false", fix=f"{key} = true")
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


def _completed(recipe: Recipe, source: str) -> Any:
    """Check what each key allows by itself, but not all of them together; fill in what depends on the rest."""
    from pyrogen.models import DBM, DBN, MODELS, Chain, Energy, Explicit, Pair

    objective, evaluate, cls = recipe.objective, recipe.evaluate, MODELS[recipe.model]
    explicit, pair, chain, energy = (issubclass(cls, contract) for contract in (Explicit, Pair, Chain, Energy))
    network = issubclass(cls, DBN)
    usual = "likelihood" if energy else "updown" if network else "elbo"
    name = usual if objective.name == "auto" else objective.name
    own = OBJECTIVES[name]
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
    elif evaluate.method in ("iwae", "elbo") and not (pair and (issubclass(cls, DBM) or not energy)):
        found = f'method = "{evaluate.method}" for {recipe.model}', "a model with a guide", 'method = "auto"'
    elif evaluate.method == "csl" and not chain:
        found = f'method = "csl" for {recipe.model}', "a model that is a Markov chain", 'method = "auto"'
    elif evaluate.method in ANNEALED and not energy:
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
