"""The table that `make speed` writes."""

from __future__ import annotations

from typing import Any

import pytest
from reclaim.benchmark.checks.speed_table import BEGIN, END, put, table


def saved(**of_item: Any) -> dict[str, Any]:
    item = {
        "ratio": 1.5,
        "interval": [1.4, 1.625],
        "pairs": 7,
        "what": "a step",
        "than": "torch's",
        "goal": 1.6,
        "versions": {"torch": "9.9"},
        "load": 0.5,
    }
    return {
        "benchmarks": [{"extra_info": {**item, **of_item}}, {"extra_info": {}}],
        "machine_info": {"cpu": {"brand_raw": "Z80"}, "machine": "z80", "python_version": "3.99"},
        "datetime": "2030-01-02T03:04:05",
    }


@pytest.mark.parametrize(("goal", "cells"), [(1.6, ["1.6", "met"]), (1.25, ["1.25", "**missed**"]), (None, ["-", ""])])
def test_a_row_says_whether_its_goal_is_met(goal: float | None, cells: list[str]) -> None:
    text = table(saved(goal=goal))
    _, _, row = (line.strip("|").split("|") for line in text.split("\n\n")[0].splitlines())
    assert [cell.strip() for cell in row] == ["a step", "torch's", "1.50 [1.40, 1.62]", *cells]
    assert "Z80, one thread, Python 3.99, torch 9.9, 2030-01-02; processes running or waiting per core" in text


def test_of_few_pairs_the_range_is_no_interval() -> None:
    assert "| 1.50 (1.40 to 1.62 in 5 pairs) |" in table(saved(pairs=5))


def test_without_measurements_there_is_no_table() -> None:
    with pytest.raises(ValueError, match="make speed"):
        table({**saved(), "benchmarks": []})


def test_only_what_is_between_the_marks_is_replaced() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    assert put(put(page, "old \\1"), "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter\n"
    for other in ("no marks", page + page, f"{END}\n{BEGIN}"):
        with pytest.raises(ValueError, match="once each"):
            put(other, "new")
