"""Part (c) of the paper check: every published cell against the runs on record."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from reclaim.benchmark.checks.session import records_to_judge
from reclaim.benchmark.checks.stash import REPORT, enter, skip_or_fail
from reclaim.benchmark.papers.published import Cell, cells
from reclaim.benchmark.verdicts.cells import CellCheck, check_cells, judge_tables

pytestmark = pytest.mark.paper_check


@pytest.fixture(scope="module")
def checks(pytestconfig: pytest.Config) -> Mapping[str, CellCheck]:
    """Cell -> what the records say of it; of all cells of the papers asked for, since a table's sentence is about all
    of its cells.
    """
    papers, margin, alpha = (
        pytestconfig.getoption(option) for option in ("--paper-only", "--paper-margin", "--paper-alpha")
    )
    found = check_cells(records_to_judge(pytestconfig), papers, margin, alpha)
    pytestconfig.stash[REPORT].tables += judge_tables(found)
    return found


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, id=cell.id, marks=pytest.mark.paper_keys(cell.paper)) for cell in cells()]
)
def test_published_cell(cell: Cell, checks: Mapping[str, CellCheck], request: pytest.FixtureRequest) -> None:
    check = checks[cell.id]
    judged = check.verdict not in ("not run", "no reference")
    enter(request, "cells", check.as_dict(), check.row() if judged else ())
    if check.verdict == "not run":
        skip_or_fail(request, f"not run: no record of {cell.recipe} on {cell.stream} counts")
    if not judged:
        pytest.skip("no reference")
    row = check.row()
    if check.problem:
        pytest.fail(check.problem)
    still_open = check.verdict == "undecided" or (check.verdict == "below" and check.in_part)
    if (check.verdict in ("above", "below") and not still_open) or (
        still_open and request.config.getoption("--paper-strict")
    ):
        pytest.fail("; ".join([f"{check.words}: ours {row[1]}, published {row[2]}, margin {row[4]}", *check.remarks]))
