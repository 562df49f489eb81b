"""Re-runs of published methods: InfLoRA's logs by its authors, and what others got. Read from reruns.toml.

They are shown beside the published numbers (docs/why-numbers-disagree.md) and never used as one.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ..toml_files import TEXT, Kind, check_entry, one_of, read_document

ROUNDING = 0.006
"""Half a unit of the last printed digit, with room for the rounding of binary numbers."""


class RerunError(ValueError):
    """reruns.toml says something that cannot be; the message names file, entry, key, value and remedy."""


@dataclass(frozen=True)
class OtherRun:
    """A number of a method that is not its paper's, in percent.

    :ivar evidence: "primary": from a log of the method's authors; "re-run": somebody else's run; "copied": the paper's
        own digits in another paper's table, which is no run.
    :ivar seed: of a single run; None: not said, or a mean.
    :ivar curve: accuracy over images of all classes seen, after each experience.
    :ivar last_acc: over images, as ``inc_acc``; ``last_acc_task`` and ``inc_acc_task`` are means over tasks.
    :ivar published_last_acc: the number that the method's own paper has, where it is not in a file of papers/.
    """

    method: str
    stream: str
    evidence: Literal["primary", "re-run", "copied"]
    source: str
    note: str = ""
    seed: int | None = None
    class_order: str = ""
    curve: tuple[float, ...] = ()
    last_acc: float | None = None
    last_acc_std: float | None = None
    inc_acc: float | None = None
    inc_acc_std: float | None = None
    last_acc_task: float | None = None
    inc_acc_task: float | None = None
    published_last_acc: float | None = None

    @property
    def counts(self) -> bool:
        """Whether it is a run at all."""
        return self.evidence != "copied"


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n - 1) over runs of ``seeds``, beside the published number."""

    method: str
    stream: str
    seeds: tuple[int, ...]
    class_order: str
    last_acc: float
    last_acc_std: float
    inc_acc: float
    inc_acc_std: float
    last_acc_task: float
    last_acc_task_std: float
    inc_acc_task: float
    inc_acc_task_std: float
    published_last_acc: float
    published_inc_acc: float
    published_source: str
    source: str


_PERCENT: Kind = (
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100,
    "a number of percent, 0 to 100",
)
_SEED: Kind = (lambda value: type(value) is int and value >= 0, "a whole number that is not negative")


def _list_of(kind: Kind, what: str) -> Kind:
    is_so: Callable[[Any], bool] = kind[0]
    return lambda value: isinstance(value, list) and value != [] and all(map(is_so, value)), what


_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("method", "stream", "source", "note", "class_order", "published_source"), TEXT),
    "evidence": one_of(("primary", "re-run", "copied")),
    "seed": _SEED,
    "seeds": _list_of(_SEED, "a list of seeds"),
    "curve": _list_of(_PERCENT, "a list of percent, one after each experience"),
}
_REQUIRED = ("method", "stream", "evidence", "source")


@dataclass(frozen=True)
class Reruns:
    """Everything that reruns.toml has, in its order."""

    runs: tuple[OtherRun, ...]
    summaries: tuple[Summary, ...]


def read_reruns(path: Path) -> Reruns:
    """The re-runs of a file, whose head explains its keys.

    :raises RerunError: the file is not TOML; an entry is not what it should be; a curve is not that of its numbers, or
        a summary not that of its runs.
    """
    document = read_document(path, RerunError)
    for section, entries in document.items():
        if section not in ("rerun", "summary") or not isinstance(entries, list):
            raise RerunError(f"{path.name}: unknown section {section!r}: write [[rerun]] or [[summary]]")
    runs = tuple(
        _run(f"{path.name}, rerun {number}", entry) for number, entry in enumerate(document.get("rerun", []), start=1)
    )
    summaries = tuple(
        _summary(f"{path.name}, summary {number}", entry, runs)
        for number, entry in enumerate(document.get("summary", []), start=1)
    )
    return Reruns(runs, summaries)


def _entry(where: str, entry: Mapping[str, Any], kind: type, required: tuple[str, ...]) -> dict[str, Any]:
    kinds = {field.name: _KINDS.get(field.name, _PERCENT) for field in fields(kind)}
    check_entry(where, entry, {name: kinds[name] for name in required}, kinds, RerunError)
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def _run(where: str, entry: Mapping[str, Any]) -> OtherRun:
    run = OtherRun(**_entry(where, entry, OtherRun, _REQUIRED))
    if all(getattr(run, key) is None for key in ("last_acc", "inc_acc", "last_acc_task", "inc_acc_task")):
        raise RerunError(f"{where}: neither last_acc nor inc_acc is there, nor one of them by task: add one")
    if run.curve:
        for key, value in (("last_acc", run.curve[-1]), ("inc_acc", statistics.fmean(run.curve))):
            _require_near(where, key, getattr(run, key), value, "its curve")
    return run


def _summary(where: str, entry: Mapping[str, Any], runs: tuple[OtherRun, ...]) -> Summary:
    summary = Summary(**_entry(where, entry, Summary, tuple(field.name for field in fields(Summary))))
    place = (summary.method, summary.stream)
    of_place = [run for run in runs if (run.method, run.stream) == place and run.evidence == "primary"]
    found = {run.seed: run for run in of_place}
    if len(found) < len(of_place):
        raise RerunError(f"{where}: {' on '.join(place)} has two primary runs of one seed: leave one out")
    if len(summary.seeds) < 2 or len(set(summary.seeds)) < len(summary.seeds):
        raise RerunError(f"{where}: seeds are {list(summary.seeds)}: give at least two, each once")
    if missing := [seed for seed in summary.seeds if seed not in found]:
        raise RerunError(
            f"{where}: no primary run of {' on '.join(place)} has seed {missing[0]}: add it, or leave it out"
        )
    for key in ("last_acc", "inc_acc", "last_acc_task", "inc_acc_task"):
        values = [value for seed in summary.seeds if (value := getattr(found[seed], key)) is not None]
        if len(values) < len(summary.seeds):
            raise RerunError(f"{where}: a run of {' on '.join(place)} has no {key}, of which this is the mean: add it")
        _require_near(where, key, getattr(summary, key), statistics.fmean(values), "its runs")
        _require_near(where, f"{key}_std", getattr(summary, f"{key}_std"), statistics.stdev(values), "its runs")
    return summary


def _require_near(where: str, key: str, value: float | None, computed: float, of: str) -> None:
    if value is None or not math.isclose(value, computed, rel_tol=0, abs_tol=ROUNDING):
        raise RerunError(f"{where}: {key} is {value}, but {of} give {computed:.3f}: correct one of them")


@functools.cache
def reruns() -> Reruns:
    """Those that ship."""
    return read_reruns(Path(__file__).with_name("reruns.toml"))
