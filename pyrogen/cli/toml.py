"""Nested tables as TOML, which the standard library reads but does not write."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from pyrogen.errors import RecipeError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(tables: Mapping[str, Any]) -> str:
    """The tables as text: plain keys first, then one [table] after the other.

    Values are words, numbers, booleans and lists of those; `tomllib.loads` gives them back.
    """
    plain = {key: value for key, value in tables.items() if not isinstance(value, Mapping)}
    lines = _lines(plain)
    for name, table in tables.items():
        if isinstance(table, Mapping):
            lines += ["", f"[{_key(name)}]", *_lines(table)]
    return "\n".join(lines).strip() + "\n"


def _lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{_key(key)} = {_value(value)}" for key, value in table.items()]


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _word(key)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(entry) for entry in value) + "]"
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    return str(value) if isinstance(value, int) else _word(str(value))


def _word(word: str) -> str:
    # JSON's escapes are TOML's, but for DEL, which JSON leaves as it is
    return json.dumps(word, ensure_ascii=False).replace("\x7f", "\\u007f")


def assignment(text: str) -> tuple[str, str, Any]:
    """`key=value` or `table.key=value` as (table, key, value); a value that is not TOML is a word."""
    left, equals, right = text.partition("=")
    table, dot, key = left.strip().rpartition(".")
    if not equals or not key:
        raise RecipeError(got=f"--set {text}", need="KEY=VALUE", fix="--set latent=8")
    try:
        value = tomllib.loads(f"value = {right}")["value"]
    except tomllib.TOMLDecodeError:
        value = right.strip()
    return (table if dot else "model"), key, value
