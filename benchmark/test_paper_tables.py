"""Part (c) of the paper check: every published cell against the runs on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from reclaim.benchmark.paper_check import ROWS, records_to_judge
from reclaim.benchmark.published import DEFAULT_MARGIN, Cell, cells, metric_of
from reclaim.benchmark.records import Record
from reclaim.benchmark.statistics import judge_cell

pytestmark = pytest.mark.paper_check


@pytest.fixture(scope="module")
def runs(pytestconfig: pytest.Config) -> Mapping[tuple[str, str], Sequence[Record]]:
    """(Recipe, stream) -> the records made of it."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records_to_judge(pytestconfig):
        found.setdefault((record.recipe, record.stream), []).append(record)
    return found


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: cell.id)
def test_published_cell(cell: Cell, runs: Mapping[tuple[str, str], Sequence[Record]], pytestconfig: pytest.Config) -> None:
    records = runs.get((cell.recipe, cell.stream), [])
    judged = judge_cell([metric_of(record, cell.metric) for record in records], cell.published, DEFAULT_MARGIN)
    spread = "" if cell.published.std is None else f" +- {cell.published.std}"
    if judged.ours is None:
        pytestconfig.stash[ROWS].append((f"cells of {cell.table}", "-", "see `reclaim list cells`", "not run"))
        pytest.skip(f"not run: no record of {cell.recipe} on {cell.stream}")
    column = judged.sampled if cell.published.std is not None else judged.constant
    interval = " [{:.2f}, {:.2f}]".format(*judged.ours.interval) if judged.ours.interval else ""
    limit = f", limited by: {column.limited_by}" if column.limited_by else ""
    pytestconfig.stash[ROWS].append(
        (
            cell.id,
            f"{judged.ours.mean:.2f}{interval}, n = {judged.ours.n}",
            f"{cell.published.mean}{spread}",
            f"{column.verdict}{limit}; as a constant: {judged.constant.verdict}",
        )
    )
    assert column.verdict not in ("above", "below"), f"ours {judged.ours} against {cell.published}: {column}"
