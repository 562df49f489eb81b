"""The facts of docs/fidelity.md: where the papers' texts and codes disagree or are silent, read from facts.toml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..toml_files import FLAG, TEXT, TEXTS, Kind, check_entry, one_of, read_tables
from .headers import papers


class FactError(ValueError):
    """facts.toml says something that cannot be; the message names file, fact, key, value and remedy."""


@dataclass(frozen=True)
class Switch:
    """A place where text and code disagree or leave a hole, and the argument that chooses.

    :ivar id: "F1", "F2", ..., or the name of a switch without a number; recipes that turn it have it as their ``fact``.
    :ivar paper: a key of :func:`~reclaim.benchmark.papers.headers.papers`.
    :ivar text: what the paper's text says; ``code`` what its public code does; ``default`` what Reclaim does unless
        told, and why.
    :ivar arguments: calls with the default values, such as ``OLORPlugin(anchor="pretrained")``; none for a part of a
        protocol that is not run.
    :ivar settings: names for ``reclaim run --set``.
    :ivar tests: ``file.py::test``; they fail when the switch does not do what is said here.
    :ivar cannot_act: why no recipe of the embedded tier can turn it.
    :ivar spread: whether it is about the spread over seeds, whose ratio (turned / default) is shown next to the effect.
    """

    id: str
    paper: str
    title: str
    text: str
    code: str
    default: str
    arguments: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    cannot_act: str = ""
    spread: bool = False


@dataclass(frozen=True)
class Note:
    """A fact that is only to be known; ``tests`` as in :class:`Switch`."""

    id: str
    paper: str
    text: str
    tests: tuple[str, ...] = ()


_PAPER = one_of(papers())
_SWITCH: dict[str, Kind] = {"paper": _PAPER, "title": TEXT, "text": TEXT, "code": TEXT, "default": TEXT, "tests": TEXTS}
_OF_SWITCHES: dict[str, Kind] = {"arguments": TEXTS, "settings": TEXTS, "cannot_act": TEXT, "spread": FLAG}
_NOTE: dict[str, Kind] = {"paper": _PAPER, "note": TEXT}
_is_test = re.compile(r"test_\w+\.py::test_\w+").fullmatch


def read_facts(path: Path) -> tuple[Switch | Note, ...]:
    """The switches and notes of a file, whose head explains its keys, in its order.

    :raises FactError: the file is not TOML, or a fact is not what it should be.
    """
    return tuple(_fact(f"{path.name}, {name}", name, entry) for name, entry in read_tables(path, FactError).items())


def _fact(where: str, name: str, entry: Mapping[str, Any]) -> Switch | Note:
    if "note" in entry:
        check_entry(where, entry, _NOTE, {"tests": TEXTS}, FactError)
    else:
        check_entry(where, entry, _SWITCH, _OF_SWITCHES, FactError)
    for test in entry.get("tests", []):
        if not _is_test(test):
            raise FactError(f"{where}: tests has {test!r}: write test_<file>.py::test_<name>")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Note(name, text=values.pop("note"), **values) if "note" in values else Switch(name, **values)


FACTS: tuple[Switch | Note, ...] = read_facts(Path(__file__).with_name("facts.toml"))
