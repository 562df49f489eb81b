"""The options of `pytest benchmark/`, the summary at its end and its report.

Every pytest of the environment loads this plugin: it needs neither torch nor scipy, its options and markers begin with
"paper", and it does nothing without ``--paper-check``.

With pytest-xdist's ``-n`` the tests run in processes of their own. What they find comes back with their reports, and
what is the same in all of them when they end.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tabulate import tabulate

from ..files import require_writable, write_text
from .stash import FINDING, PARTS, RECORDS, REPORT, Report, is_worker

SCHEMA = 1
"""Of the report that --paper-verdicts writes."""

TRAINING = ("--paper-fresh", "--paper-run-missing")
"""The options that make runs."""

NOTHING_RUN = "--paper-require-run: no claim, cell or live run of this check had a run to judge"

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
    option("root", "the images of the middle tier: one of its runs is made live, too", metavar="DIR", type=Path)
    option("records-only", "train nothing: judge the runs on record", action="store_true")
    missing = "train what the claims need and no record has, into the first store (hours)"
    option("run-missing", missing, action="store_true")
    option("fresh", "train every recipe and seed on record again before judging (hours)", action="store_true")
    option("jobs", "runs at a time (default: one per core)", type=_jobs, metavar="N")
    option("margin", "of every cell, instead of its table's (papers/*.toml)", type=_margin, metavar="POINTS")
    level = "of the cells' verdicts and their tables' sentences (default: 0.05)"
    option("alpha", level, type=_alpha, metavar="LEVEL")
    option("strict", "an undecided cell fails", action="store_true")
    option("require-run", "a claim or cell without a run fails, and so does a check of nothing", action="store_true")
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


def _jobs(text: str) -> int:
    return int(
        _number(text, lambda value: 1 <= value < math.inf and value == int(value), "a whole number of runs, at least 1")
    )


def _keys(text: str) -> tuple[str, ...]:
    from ..papers.protocols import PAPERS

    keys = tuple(key.strip() for key in text.split(","))
    if unknown := [key for key in keys if key not in PAPERS]:
        raise argparse.ArgumentTypeError(
            f"unknown paper {unknown[0]!r}: choose of {', '.join(PAPERS)}, separated by commas"
        )
    return keys


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORT] = Report()
    if not is_worker(config):
        config.pluginmanager.register(_Findings(config.stash[REPORT]), "reclaim-findings")
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
    trains = [name for name in TRAINING if config.getoption(name)]
    if trains and config.getoption("dist", "no") != "no":
        raise pytest.UsageError(
            f"{trains[0]} trains in one process, --paper-jobs at a time, and every process of -n would do it again: "
            "leave -n out"
        )
    for name in ("--paper-verdicts", "--paper-strict", "--paper-require-run", *TRAINING):
        if config.getoption(name) and not config.getoption("--paper-check"):
            raise pytest.UsageError(f"{name} is about what --paper-check finds: pass that, too")
    if config.getoption("--paper-require-run") and config.getoption("--collect-only"):
        raise pytest.UsageError("--paper-require-run asks for runs, --collect-only judges none: pass one of them")
    _check_places(config)


def _check_places(config: pytest.Config) -> None:
    """Folders that are not there or cannot be written into, before anything is imported or trained.

    :raises pytest.UsageError: naming the first.
    """
    if folders := config.getoption("--paper-records"):
        from ..records.store import RecordStore, named_store

        made = folders[:1] if config.getoption("--paper-run-missing") else []
        try:
            for folder in folders:
                if folder in made:
                    RecordStore(folder).require_writable()
                else:
                    named_store(folder, "--paper-records")
        except ValueError as error:
            raise pytest.UsageError(str(error)) from error
    if verdicts := config.getoption("--paper-verdicts"):
        path = Path(verdicts).absolute()
        if not path.parent.is_dir() or path.is_dir():
            raise pytest.UsageError(f"--paper-verdicts {verdicts}: name a file in a folder that is there")
        try:
            require_writable(path.parent)
        except OSError as error:
            raise pytest.UsageError(f"--paper-verdicts {verdicts} cannot be written: {error.strerror}") from error


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
        if not item.get_closest_marker("paper_speed"):
            continue
        if is_worker(config):
            item.add_marker(pytest.mark.skip(reason="processes beside it would be measured, too: leave -n out"))
        elif not config.getoption("--benchmark-only", default=False) and item.path.name not in named:
            item.add_marker(pytest.mark.skip(reason=f"pass --benchmark-only, or name {item.path.name}"))


def pytest_sessionstart(session: pytest.Session) -> None:
    """Stores that are missing, taken for tests, or contradict each other, end the session here: before tests are
    collected, and before pytest-xdist starts processes.
    """
    config = session.config
    if config.getoption("--collect-only") or not config.getoption("--paper-check"):
        return
    for argument in config.args:
        folder = config.invocation_params.dir / argument
        # what follows the one folder of --paper-records is a test path to pytest
        if any(folder.glob(f"*/*/{'[0-9a-f]' * 12}/*.json")) and not any(folder.rglob("*.py")):
            raise pytest.UsageError(f"{argument} looks like a record store: repeat --paper-records before each")
    from .session import load

    try:
        config.stash[RECORDS], notes = load(config)
    except (ValueError, OSError) as error:
        raise pytest.UsageError(str(error)) from error
    config.stash[REPORT].notes += notes


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and FINDING in item.stash:
        report.paper_finding = json.dumps(item.stash[FINDING])  # type: ignore[attr-defined]
    return report


@dataclass
class _Findings:
    """Gathers them from the reports of the tests, whichever process made them."""

    report: Report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if finding := getattr(report, "paper_finding", None):
            self.report.findings[report.nodeid] = json.loads(finding)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of pytest-xdist has ended; one that crashed has no output."""
    if session_wide := getattr(node, "workeroutput", {}).get("paper"):
        node.config.stash[REPORT].take(session_wide)


def _is_empty(config: pytest.Config) -> bool:
    """Whether --paper-require-run asks for runs, and none was judged."""
    report = config.stash[REPORT]
    verdicts = {entry["verdict"] for part in PARTS for entry in report.of(part)}
    return config.getoption("--paper-require-run") and verdicts <= {"not run", "no reference"}


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report = config.stash[REPORT]
    if _is_empty(config):
        terminalreporter.write_line(f"ERROR: {NOTHING_RUN}", red=True)
    if not (report.findings or report.tables or report.notes):
        return
    terminalreporter.section("paper check")
    changed = [
        f"{option} {value:g}"
        for option in ("--paper-margin", "--paper-alpha")
        if (value := config.getoption(option)) is not None
    ]
    blocks = [f"OVERRIDDEN for cells and tables: {', '.join(changed)}"] if changed else []
    if rows := report.rows("live", "claims"):
        blocks.append(tabulate(rows, headers=CLAIM_HEADER, tablefmt="simple", disable_numparse=True))
    if report.of("claims"):
        from ..report.findings import differences

        blocks.append(f"of claims: {differences()}")
    if rows := report.rows("cells"):
        blocks.append(tabulate(rows, headers=CELL_HEADER, tablefmt="simple", disable_numparse=True))
    about: dict[str, list[str]] = {}
    for entry in report.of("cells"):
        sides = ["; ".join(entry["sides"])] if entry["ours"] else []
        for remark in (*sides, *entry["remarks"]):
            about.setdefault(remark, []).append(entry["id"])
    remarks = [f"{ids[0]}{f' and {len(ids) - 1} more' * (len(ids) > 1)}: {remark}" for remark, ids in about.items()]
    blocks += [
        "\n".join(lines) for lines in (remarks, [table["sentence"] for table in report.tables], report.notes) if lines
    ]
    terminalreporter.write_line("\n\n".join(blocks))


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    report = config.stash[REPORT]
    if is_worker(config):
        config.workeroutput["paper"] = report.session_wide()  # type: ignore[attr-defined]
        return
    if _is_empty(config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    path = config.getoption("--paper-verdicts")
    if not path or RECORDS not in config.stash:
        return
    if session.exitstatus == pytest.ExitCode.INTERRUPTED:
        report.notes.append("interrupted: checks are missing here")
    options = ("only", "records", "records_only", "run_missing", "fresh", "margin", "alpha", "strict", "require_run")
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "options": {option: config.getoption(f"paper_{option}") for option in options},
        **{part: sorted(report.of(part), key=lambda entry: str(entry["id"])) for part in PARTS},
        "tables": report.tables,
        "notes": report.notes,
    }
    write_text(Path(path), json.dumps(document, indent=1, allow_nan=False) + "\n")
