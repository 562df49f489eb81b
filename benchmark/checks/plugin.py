"""The options of `pytest benchmark/`, the summary at its end and its report.

Every pytest of the environment loads this plugin: it needs neither torch nor scipy, its options and markers begin with
"paper", and it does nothing without ``--paper-check``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tabulate import tabulate

from ..files import write_text
from .stash import RECORDS, REPORT, Report

SCHEMA = 1
"""Of the report that --paper-verdicts writes."""

CLAIM_HEADER = ("claim or live run", "ours", "reference", "verdict")
CELL_HEADER = ("cell", "ours", "published", "re-runs", "margin", "verdict", "as a constant", "prediction interval")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option begins with --paper-: this plugin is loaded in every pytest of its environment."""
    group = parser.getgroup("reclaim", "checks of published numbers (reclaim)")

    def option(name: str, help: str, **kwargs: Any) -> None:
        group.addoption(f"--paper-{name}", help=help, **kwargs)

    option("check", "check the papers' claims and cells: live runs, records, verdicts", action="store_true")
    option("only", "only these papers, such as slca,olor (default: all)", type=_keys, metavar="KEYS")
    stores = "a record store; repeat the option for each, they are merged (default: ./leaderboards/records)"
    option("records", stores, action="append", metavar="DIR")
    option("records-only", "train nothing: judge the runs on record", action="store_true")
    missing = "train what the claims need and no record has, into the first store (hours)"
    option("run-missing", missing, action="store_true")
    option("fresh", "train every recipe and seed on record again before judging (hours)", action="store_true")
    option("jobs", "runs at a time (default: one per core)", type=int, metavar="N")
    option("margin", "of every cell, instead of its table's (papers/*.toml)", type=_margin, metavar="POINTS")
    level = "of the cells' verdicts and their tables' sentences (default: 0.05)"
    option("alpha", level, type=_alpha, metavar="LEVEL")
    option("strict", "an undecided cell fails", action="store_true")
    option("verdicts", "write all verdicts, unrounded, as JSON", metavar="FILE")


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not fits(value):
        raise argparse.ArgumentTypeError(f"{text!r}: give {wanted}")
    return value


def _margin(text: str) -> float:
    return _number(text, lambda value: 0 < value < math.inf, "a number of points above 0")


def _alpha(text: str) -> float:
    return _number(text, lambda value: 0 < value < 1, "a probability strictly between 0 and 1")


def _keys(text: str) -> tuple[str, ...]:
    from ..papers.headers import papers

    keys = tuple(key.strip() for key in text.split(","))
    if unknown := [key for key in keys if key not in papers()]:
        raise argparse.ArgumentTypeError(
            f"unknown paper {unknown[0]!r}: choose of {', '.join(papers())}, separated by commas"
        )
    return keys


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()
    config.addinivalue_line("markers", "paper_check: a check of published numbers or claims; runs with --paper-check")
    config.addinivalue_line("markers", "paper_keys(*keys): the papers that a check is about, for --paper-only")
    config.addinivalue_line(
        "markers", "paper_speed: a side-by-side measurement; runs with --benchmark-only, or when its file is named"
    )
    if config.getoption("--paper-fresh") and config.getoption("--paper-records-only"):
        raise pytest.UsageError("--paper-fresh trains every run, --paper-records-only none: pass one of them")
    if config.getoption("--paper-run-missing") and (
        config.getoption("--paper-fresh") or config.getoption("--paper-records-only")
    ):
        raise pytest.UsageError(
            "--paper-run-missing trains what is not on record, --paper-fresh every run, --paper-records-only none: "
            "pass one of them"
        )
    if verdicts := config.getoption("--paper-verdicts"):
        if not config.getoption("--paper-check"):
            raise pytest.UsageError("--paper-verdicts writes what --paper-check finds: pass that, too")
        if not Path(verdicts).absolute().parent.is_dir() or Path(verdicts).is_dir():
            raise pytest.UsageError(f"--paper-verdicts {verdicts}: name a file in a folder that is there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (chosen := config.getoption("--paper-only")) is not None:
        dropped = [
            item for item in items if (mark := item.get_closest_marker("paper_keys")) and not {*mark.args} & {*chosen}
        ]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
    named = {Path(str(argument).split("::")[0]).name for argument in config.args}
    for item in items:
        if item.get_closest_marker("paper_check") and not config.getoption("--paper-check"):
            item.add_marker(pytest.mark.skip(reason="pass --paper-check"))
        if (
            item.get_closest_marker("paper_speed")
            and not config.getoption("--benchmark-only", default=False)
            and item.path.name not in named
        ):
            item.add_marker(pytest.mark.skip(reason=f"pass --benchmark-only, or name {item.path.name}"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stores that are missing, taken for tests, or contradict each other, end the session here: before anything is
    trained.
    """
    config = session.config
    if config.getoption("--collect-only") or not config.getoption("--paper-check"):
        return
    for argument in config.args:
        folder = (config.invocation_params.dir / argument).resolve()
        # what follows the one folder of --paper-records is a test path to pytest
        records = any(folder.glob(f"*/*/{'[0-9a-f]' * 12}/*.json"))
        if records and not any(folder in item.path.resolve().parents for item in session.items):
            raise pytest.UsageError(f"{argument} looks like a record store: repeat --paper-records before each")
    if any(item.get_closest_marker("paper_check") for item in session.items):
        from .session import load

        try:
            config.stash[RECORDS], notes = load(config)
        except (ValueError, OSError) as error:
            raise pytest.UsageError(str(error)) from error
        config.stash[REPORT].notes += notes


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report = config.stash[REPORT]
    if not (report.claim_rows or report.cell_rows or report.tables or report.notes):
        return
    terminalreporter.section("paper check")
    changed = [
        f"{option} {value:g}"
        for option in ("--paper-margin", "--paper-alpha")
        if (value := config.getoption(option)) is not None
    ]
    blocks = [f"OVERRIDDEN for cells and tables: {', '.join(changed)}"] if changed else []
    for rows, header in ((report.claim_rows, CLAIM_HEADER), (report.cell_rows, CELL_HEADER)):
        if rows:
            blocks.append(tabulate(rows, headers=header, tablefmt="simple", disable_numparse=True))
            if rows is report.claim_rows and report.verdicts["claims"]:
                from ..report.findings import differences

                blocks.append(f"of claims: {differences()}")
    about: dict[str, list[str]] = {}
    for entry in report.verdicts["cells"]:
        for remark in entry["remarks"]:
            about.setdefault(remark, []).append(entry["id"])
    remarks = [f"{ids[0]}{f' and {len(ids) - 1} more' * (len(ids) > 1)}: {remark}" for remark, ids in about.items()]
    blocks += [
        "\n".join(lines) for lines in (remarks, [table["sentence"] for table in report.tables], report.notes) if lines
    ]
    terminalreporter.write_line("\n\n".join(blocks))


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    path = config.getoption("--paper-verdicts")
    if not path or config.getoption("--collect-only"):
        return
    report = config.stash[REPORT]
    options = ("only", "records", "records_only", "run_missing", "fresh", "margin", "alpha", "strict")
    document = {
        "schema": SCHEMA,
        "options": {option: config.getoption(f"paper_{option}") for option in options},
        **{part: sorted(entries, key=lambda entry: str(entry["id"])) for part, entries in report.verdicts.items()},
        "tables": report.tables,
        "notes": report.notes,
    }
    write_text(Path(path), json.dumps(document, indent=1, allow_nan=False) + "\n")
