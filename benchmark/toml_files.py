"""Reads TOML: the tables that ship with this package, and recipes of users. Error messages name the file, entry, key,
value and remedy.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Kind = tuple[Callable[[Any], bool], str]
"""A check of a value, and a description of valid values."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.strip() != ""


TEXT: Kind = (_is_text, "a text that is not empty")
TEXTS: Kind = (
    lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "a list of texts that are not empty",
)
FLAG: Kind = (lambda value: isinstance(value, bool), "true or false")
COUNT: Kind = (lambda value: type(value) is int and value >= 0, "a whole number that is not negative")
TABLE: Kind = (lambda value: isinstance(value, dict), "a table")


def one_of(choices: Iterable[str]) -> Kind:
    """One of the given texts."""
    known = tuple(choices)
    return lambda value: value in known, f"one of {', '.join(known)}"


def read_document(path: Path, error: type[ValueError]) -> dict[str, Any]:
    """The content of a file.

    :raises ValueError: the file is not TOML (for example, a name occurs twice, or it is nested too deeply), or not
        UTF-8; of type ``error``.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise error(f"{path.name} is not TOML: {problem}") from None


def read_tables(path: Path, error: type[ValueError]) -> dict[str, dict[str, Any]]:
    """Name -> table, for every top-level table of a file, in its order.

    :raises ValueError: the file is not TOML, or contains anything but tables; of type ``error``.
    """
    document = read_document(path, error)
    for name, entry in document.items():
        if not isinstance(entry, dict):
            raise error(f"{path.name}: {name} is {entry!r}: write it as [{name}] with its keys")
    return document


def check_entry(
    where: str,
    entry: Mapping[str, Any],
    required: Mapping[str, Kind],
    optional: Mapping[str, Kind],
    error: type[ValueError],
) -> None:
    """Check an entry's keys and values against the required and optional keys.

    :param where: file and entry; messages start with it.
    :raises ValueError: a key is unknown or missing, or a value is invalid; of type ``error``.
    """
    kinds = {**required, **optional}
    for key, value in entry.items():
        if key not in kinds:
            quoted = "; if it is part of a name with a dot, quote the name" if isinstance(value, dict) else ""
            raise error(f"{where}: unknown key {key!r}, which is {value!r}: {did_you_mean(key, kinds)}{quoted}")
        is_so, wanted = kinds[key]
        if not is_so(value):
            raise error(f"{where}: {key} is {value!r}: write {wanted}")
    for key, (_, wanted) in required.items():
        if key not in entry:
            raise error(f"{where}: {key} is missing: add {wanted}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Such as "did you mean title?"; lists all known names if none is similar."""
    names = list(known)
    return f"did you mean {', '.join(difflib.get_close_matches(name, names, n=3) or names)}?"
