"""What one pytest session carries: its records, and the report of what its checks found. Free of torch and scipy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

import pytest


@dataclass
class Report:
    """What one session's checks found, with pytest-xdist in all of its processes.

    :ivar findings: test -> its finding, see :func:`enter`; they come in the order in which the tests end.
    :ivar tables: one dict per table of a paper; its ``sentence`` is for the summary.
    :ivar notes: what was skipped or counted once, by name.
    """

    findings: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def of(self, part: Part) -> list[dict[str, Any]]:
        """The verdicts of a part, one dict of JSON values per test, in the order of the tests."""
        return [finding["entry"] for finding in self._in_order() if finding["part"] == part]

    def rows(self, *parts: Part) -> list[tuple[str, ...]]:
        """The rows of these parts' table in the summary, in the order of the tests."""
        return [tuple(f["row"]) for f in self._in_order() if f["part"] in parts and f["row"]]

    def _in_order(self) -> list[dict[str, Any]]:
        return sorted(self.findings.values(), key=lambda finding: int(finding["place"]))

    def session_wide(self) -> str:
        """What is the same in every process that judges, as JSON for :meth:`take`."""
        return json.dumps({"tables": self.tables, "notes": self.notes})

    def take(self, session_wide: str) -> None:
        """Add what another process of this session sent, without what is here already."""
        for part, entries in json.loads(session_wide).items():
            own = getattr(self, part)
            own += [entry for entry in entries if entry not in own]


Part = Literal["claims", "cells", "live"]
PARTS: tuple[Part, ...] = ("claims", "cells", "live")

REPORT = pytest.StashKey[Report]()
FINDING = pytest.StashKey[dict[str, Any]]()
"""Of a test; the plugin puts it into the test's report, which pytest-xdist carries to the process that prints."""

RECORDS = pytest.StashKey[list[Any]]()
"""The records of all stores (:class:`reclaim.benchmark.records.record.Record`)."""

JUDGED = pytest.StashKey[list[Any]]()
"""Those of them that verdicts rest on, or the runs made in their place."""


def is_worker(config: pytest.Config) -> bool:
    """Whether this is one of pytest-xdist's processes, which run tests and print nothing."""
    return hasattr(config, "workerinput")


def enter(request: pytest.FixtureRequest, part: Part, entry: dict[str, Any], row: tuple[str, ...] = ()) -> None:
    """Put a verdict into --paper-verdicts, into the properties of its test, which --junitxml writes, and its row, if it
    has one, into the summary.
    """
    place = request.session.items.index(request.node)
    request.node.stash[FINDING] = {"place": place, "part": part, "entry": entry, "row": row}
    # not the fixture record_property, which warns of every JUnit schema but the oldest
    request.node.user_properties += [
        (key, value if isinstance(value, str) else json.dumps(value)) for key, value in entry.items()
    ]


def skip_or_fail(request: pytest.FixtureRequest, reason: str) -> NoReturn:
    """End a test that has no run to judge: skipped or, with --paper-require-run, failed."""
    if request.config.getoption("--paper-require-run"):
        pytest.fail(f"{reason}, and --paper-require-run asks for one: make it, or choose what to check", pytrace=False)
    pytest.skip(reason)
