"""The options of `pytest benchmark/`, the summary at its end and its report.

A plugin of every pytest of whoever installs this: free of torch and scipy. ``--strict`` is pytest's own option; here an undecided cell
fails with it.
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
from .stash import RECORDS, REPORT, Report, strict

SCHEMA = 1
"""Of the report that --verdicts writes."""

CLAIM_HEADER = ("claim or live run", "ours", "reference", "verdict")
CELL_HEADER = ("cell", "ours", "published", "re-runs", "margin", "verdict", "as a constant", "prediction interval")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("reclaim", "checks of published numbers (reclaim)")
    checks = "check the papers' claims and cells: live runs, records, verdicts; with pytest's --strict an undecided cell fails"
    group.addoption("--paper-check", action="store_true", help=checks)
    group.addoption(
        "--paper", type=_keys, metavar="KEYS", help="only these papers, such as slca,olor (default: slca,olor,aepg)"
    )
    stores = "a record store; repeat the option for each, they are merged (default: ./leaderboards/records)"
    group.addoption("--records", action="append", metavar="DIR", help=stores)
    group.addoption("--records-only", action="store_true", help="train nothing: judge the runs on record")
    group.addoption(
        "--run-missing",
        action="store_true",
        help="train what the claims need and no record has, into the first store (hours)",
    )
    group.addoption(
        "--fresh", action="store_true", help="train every recipe and seed on record anew before judging (hours)"
    )
    group.addoption("--paper-jobs", type=int, default=None, metavar="N", help="runs at a time (default: one per core)")
    group.addoption(
        "--margin", type=_margin, metavar="POINTS", help="of every cell, instead of its table's (papers/*.toml)"
    )
    group.addoption(
        "--alpha",
        type=_alpha,
        metavar="LEVEL",
        help="of the cells' verdicts and their tables' sentences (default: 0.05)",
    )
    group.addoption("--verdicts", metavar="FILE", help="write all verdicts, unrounded, as JSON")


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
    config.addinivalue_line("markers", "papers(*keys): the papers that a check is about, for --paper")
    config.addinivalue_line(
        "markers", "speed: a side-by-side measurement; runs with --benchmark-only, or when its file is named"
    )
    if config.getoption("--fresh") and config.getoption("--records-only"):
        raise pytest.UsageError("--fresh trains every run, --records-only none: pass one of them")
    if config.getoption("--run-missing") and (config.getoption("--fresh") or config.getoption("--records-only")):
        raise pytest.UsageError(
            "--run-missing trains what is not on record, --fresh every run, --records-only none: pass one of them"
        )
    if verdicts := config.getoption("--verdicts"):
        if not config.getoption("--paper-check"):
            raise pytest.UsageError("--verdicts writes what --paper-check finds: pass that, too")
        if not Path(verdicts).absolute().parent.is_dir() or Path(verdicts).is_dir():
            raise pytest.UsageError(f"--verdicts {verdicts}: name a file in a folder that is there")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (chosen := config.getoption("--paper")) is not None:
        dropped = [
            item for item in items if (mark := item.get_closest_marker("papers")) and not {*mark.args} & {*chosen}
        ]
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]
    named = {Path(str(argument).split("::")[0]).name for argument in config.args}
    for item in items:
        if item.get_closest_marker("paper_check") and not config.getoption("--paper-check"):
            item.add_marker(pytest.mark.skip(reason="pass --paper-check"))
        if (
            item.get_closest_marker("speed")
            and not config.getoption("--benchmark-only", default=False)
            and item.path.name not in named
        ):
            item.add_marker(pytest.mark.skip(reason=f"pass --benchmark-only, or name {item.path.name}"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stores that are missing, taken for tests, or contradict each other, end the session here: before anything is trained."""
    config = session.config
    if config.getoption("--collect-only") or not config.getoption("--paper-check"):
        return
    for argument in config.args:
        folder = (config.invocation_params.dir / argument).resolve()
        # what follows the one folder of --records is a test path to pytest
        records = any(folder.glob(f"*/*/{'[0-9a-f]' * 12}/*.json"))
        if records and not any(folder in item.path.resolve().parents for item in session.items):
            raise pytest.UsageError(f"{argument} looks like a record store: repeat --records before each")
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
        f"{option} {value:g}" for option in ("--margin", "--alpha") if (value := config.getoption(option)) is not None
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
    path = config.getoption("--verdicts")
    if not path or config.getoption("--collect-only"):
        return
    report = config.stash[REPORT]
    options = ("paper", "records", "records_only", "run_missing", "fresh", "margin", "alpha")
    document = {
        "schema": SCHEMA,
        "options": {**{option: config.getoption(option) for option in options}, "strict": strict(config)},
        **{part: sorted(entries, key=lambda entry: str(entry["id"])) for part, entries in report.verdicts.items()},
        "tables": report.tables,
        "notes": report.notes,
    }
    write_text(Path(path), json.dumps(document, indent=1, allow_nan=False) + "\n")
