"""The options of `pytest benchmark/`, and the table at its end. A pytest plugin of every pytest of whoever installs this: free of torch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tabulate import tabulate

ROWS = pytest.StashKey[list[tuple[str, ...]]]()
HEADER = ("claim or cell", "ours", "reference", "verdict")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reclaim", "checks of published numbers (reclaim)")
    group.addoption("--paper-check", action="store_true", help="check the papers' claims and cells: live runs, records, verdicts")
    group.addoption("--fresh", action="store_true", help="train every recipe and seed on record anew before judging (hours)")
    group.addoption("--records-only", action="store_true", help="train nothing: judge the runs on record")
    group.addoption("--records", metavar="DIR", help="the record store (default: ./leaderboards/records)")
    group.addoption("--paper-jobs", type=int, default=None, metavar="N", help="runs at a time in live checks (default: one per core)")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []
    config.addinivalue_line("markers", "paper_check: a check of published numbers or claims; runs with --paper-check")
    config.addinivalue_line("markers", "speed: a side-by-side measurement; runs with --benchmark-only, or when its file is named")
    if config.getoption("--fresh") and config.getoption("--records-only"):
        raise pytest.UsageError("--fresh trains every run, --records-only none: pass one of them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = {Path(str(argument).split("::")[0]).name for argument in config.args}
    for item in items:
        if item.get_closest_marker("paper_check") and not config.getoption("--paper-check"):
            item.add_marker(pytest.mark.skip(reason="pass --paper-check"))
        if item.get_closest_marker("speed") and not config.getoption("--benchmark-only", default=False) and item.path.name not in named:
            item.add_marker(pytest.mark.skip(reason=f"pass --benchmark-only, or name {item.path.name}"))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if rows:
        # cells without runs come as equal rows, one per cell: shown once, with their number
        counted = [(name if n == 1 else f"{n} {name}", *rest) for (name, *rest), n in Counter(rows).items()]
        terminalreporter.section("paper check")
        terminalreporter.write_line(tabulate(counted, headers=HEADER, tablefmt="simple", disable_numparse=True))
