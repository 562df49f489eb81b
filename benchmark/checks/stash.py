"""What one pytest session carries: its records, and the report of what its checks found. Free of torch and scipy."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class Report:
    """What one session's checks found: the rows of the summary's two tables, and all of it again for --paper-verdicts.

    :ivar verdicts: "claims", "cells" or "live" -> one dict of JSON values per test.
    :ivar tables: one dict per table of a paper; its ``sentence`` is for the summary.
    :ivar notes: what was skipped or counted once, by name.
    """

    claim_rows: list[tuple[str, ...]] = field(default_factory=list)
    cell_rows: list[tuple[str, ...]] = field(default_factory=list)
    verdicts: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"claims": [], "cells": [], "live": []})
    tables: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


REPORT = pytest.StashKey[Report]()
RECORDS = pytest.StashKey[list[Any]]()
"""The records of all stores (:class:`reclaim.benchmark.records.record.Record`)."""

JUDGED = pytest.StashKey[list[Any]]()
"""Those of them that verdicts rest on, or the runs made in their place."""


def enter(request: pytest.FixtureRequest, part: str, entry: dict[str, Any]) -> None:
    """Put a verdict into --paper-verdicts, and into the properties of its test, which --junitxml writes."""
    request.config.stash[REPORT].verdicts[part].append(entry)
    # not the fixture record_property, which warns of every JUnit schema but the oldest
    request.node.user_properties += [
        (key, value if isinstance(value, str) else json.dumps(value)) for key, value in entry.items()
    ]
