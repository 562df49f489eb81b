"""Leaderboards from records: the same records give the same bytes."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tabulate import tabulate

from . import fidelity, findings
from .datasets import shared_classes
from .figure import dot_plot
from .paper_check import current
from .published import judge_claims, metric_of
from .recipes import RECIPES
from .records import Record, RecordStore
from .statistics import MeanInterval, mean_interval
from .streams import STREAMS, pretraining_overlap

PICTURED = ("split-quickdraw-10", *STREAMS)
COLUMNS = ("last_acc", "inc_acc", "task_avg_last_acc", "task_avg_inc_acc", "forgetting", "task_known_last_acc", "final_entropy")
OTHERS = ("trained_parameters", "bytes_kept", "seconds", "epochs", "hyperparameters", "pretraining_overlap")
SHOWN = {"last_acc": "Last-Acc", "inc_acc": "Inc-Acc", "forgetting": "Forgetting", "task_known_last_acc": "Last-Acc, task known"}

INTRODUCTION = """\
# The embedded tier

Class-incremental learning on real drawings in miniature: a small ViT, pretrained on 245 classes of Quick, Draw!, meets 100 other classes.
**Nothing here was measured on a paper's data, and no number here is comparable with a paper's.** What can be compared is which method is
better than which.

Means over n seeds with 95% Student-t intervals, in percent. A seed sets the order of the classes and all that is drawn at random in
training. The intervals are conditional on one backbone and one test set of 2,000 drawings (binomial standard error {binomial:.1f} points
at 50%). Of the streams' classes {overlap} were used in pretraining. Bytes kept are those that the method carries from one experience
to the next; seconds are the median processor time of a run, evaluation included. Hyper-parameters: "validation" means chosen from four
candidates on a part of the training drawings, on a seed not used here; the choice stands in `benchmark/assets/chosen.json`, and some
choices lie at the end of their grid (joint training and the frozen backbone among them). Joint training sees one experience: only its
Last-Acc is comparable.
"""


@dataclass(frozen=True)
class Row:
    """A recipe on a stream, over its seeds.

    :ivar numbers: by column; without the entropy of what is not trained.
    :ivar seconds: median processor time of a run, evaluation included.
    :ivar pretraining_overlap: number of the stream's classes that the backbone was pretrained on.
    """

    recipe: str
    stream: str
    seeds: tuple[int, ...]
    numbers: dict[str, MeanInterval]
    trained_parameters: int
    bytes_kept: int
    seconds: float | None
    epochs: int
    hyperparameters: str
    pretraining_overlap: str

    @property
    def joint(self) -> bool:
        return RECIPES[self.recipe].config.joint


def rows(records: Sequence[Record]) -> list[Row]:
    """One row per recipe and stream, by stream and falling Last-Acc."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda r: r.seed):
        groups.setdefault((record.stream, record.recipe), []).append(record)
    found = []
    for (stream, recipe), group in groups.items():
        columns = {column: [_number(record, column) for record in group] for column in COLUMNS}
        numbers = {column: mean_interval(values) for column, values in columns.items() if not any(map(math.isnan, values))}
        result = group[0].result
        seeds = tuple(record.seed for record in group)
        found.append(
            Row(
                recipe,
                stream,
                seeds,
                numbers,
                result["trained_parameters"],
                result["bytes_kept"],
                _seconds(group),
                result["config"]["epochs"],
                _origin(recipe, stream, result["hyperparameters_from"]),
                pretraining_overlap(STREAMS[stream], result["config"]["backbone"]),
            )
        )
    streams = list(STREAMS)
    return sorted(found, key=lambda r: (streams.index(r.stream), -r.numbers["last_acc"].mean, r.recipe))


def write(store: RecordStore, folder: Path) -> list[Path]:
    """Write ``embedded.md``, ``embedded.csv`` and ``embedded.svg``, each replaced whole.

    :raises ValueError: there is no record to show, or one is damaged.
    """
    shown = [record for record in _counted(store) if RECIPES[record.recipe].fact is None]
    return _write(folder, {"embedded.md": markdown(shown), "embedded.csv": as_csv(shown), "embedded.svg": svg(shown)})


def write_docs(store: RecordStore, folder: Path) -> list[Path]:
    """Write ``fidelity.md`` and ``findings.md``, each replaced whole.

    :raises ValueError: there is no record to show, or one is damaged.
    """
    counted = _counted(store)
    return _write(folder, {"fidelity.md": fidelity.page(counted), "findings.md": findings.page(counted)})


def _counted(store: RecordStore) -> list[Record]:
    """The records of any recipe's present configuration."""
    records, problems = store.load()
    if problems:
        raise ValueError("damaged records:\n" + "\n".join(f"  {problem}" for problem in problems))
    counted = [record for record in current(records) if record.recipe in RECIPES and record.stream in STREAMS]
    if not counted:
        raise ValueError(f"no records of any recipe's present configuration in {store.root}: make some with `reclaim run`")
    return counted


def _write(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        temporary = folder / f".{name}.tmp"
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, folder / name)
    return [folder / name for name in texts]


def markdown(records: Sequence[Record]) -> str:
    """The page: a table per stream, then the verdicts on the claims."""
    parts = [INTRODUCTION.format(binomial=100 * (0.25 / 2000) ** 0.5, overlap=shared_classes() or "none")]
    all_rows = rows(records)
    for stream in STREAMS.values():
        table = [
            (
                RECIPES[row.recipe].title,
                f"`{row.recipe}`",
                len(row.seeds),
                *("-" if row.joint and column != "last_acc" else _with_interval(row.numbers[column]) for column in SHOWN),
                row.epochs,
                f"{row.trained_parameters:,}",
                f"{row.bytes_kept:,}",
                "-" if row.seconds is None else f"{row.seconds:.0f}",
                row.hyperparameters,
            )
            for row in all_rows
            if row.stream == stream.name
        ]
        if table:
            header = ("method", "recipe", "n", *SHOWN.values(), "epochs", "trained parameters", "bytes kept", "seconds", "hyper-parameters")
            parts.append(
                f"## {stream.name}\n\n{stream.description}.\n\n{tabulate(table, header, tablefmt='pipe', disable_numparse=True)}\n"
            )
    claims = [
        (f"`{v.claim.id}`", v.claim.text, v.claim.family, f"`{v.claim.stream}` {v.claim.metric}", str(v), f"**{v.outcome}**")
        for v in judge_claims(records)
    ]
    header = ("claim", "says", "family", "measured on", "difference (95% interval)", "verdict")
    parts.append(
        "## Claims\n\nDifferences are paired by seed; p is one-sided, after Holm's correction over the confirmatory family. "
        "A claim of no difference says its margin in `papers/claims.toml`.\n\n"
        + tabulate(claims, header, tablefmt="pipe", disable_numparse=True)
        + "\n"
    )
    return "\n".join(parts)


def svg(records: Sequence[Record]) -> str:
    """The picture of the first stream of :data:`PICTURED` that has rows; recipes that are tuned as another are left to the table."""
    all_rows = rows(records)
    pictured = [row for row in all_rows if not RECIPES[row.recipe].tuned_as] or all_rows
    stream = next(name for name in PICTURED if any(row.stream == name for row in pictured))
    entries = [(RECIPES[row.recipe].title, row.numbers["last_acc"]) for row in pictured if row.stream == stream]
    n = sorted({e.n for _, e in entries})
    seeds = f"{n[0]} seeds" if n[0] == n[-1] else f"{n[0]} to {n[-1]} seeds"
    return dot_plot(f"{stream}: embedded tier, {seeds}", "Last-Acc in percent, mean and 95% interval", entries)


def as_csv(records: Sequence[Record]) -> str:
    """All numbers, unrounded: mean, standard deviation and the ends of the 95% interval of each."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    statistics = [f"{column}_{part}" for column in COLUMNS for part in ("mean", "std", "low", "high")]
    writer.writerow(["stream", "recipe", "n", *statistics, *OTHERS])
    for row in rows(records):
        summaries = [row.numbers.get(column) for column in COLUMNS]
        numbers = [v for m in summaries for v in ((m.mean, m.std, *(m.interval or (None, None))) if m else (None,) * 4)]
        writer.writerow([row.stream, row.recipe, len(row.seeds), *numbers, *(getattr(row, name) for name in OTHERS)])
    return buffer.getvalue()


def _origin(recipe: str, stream: str, origin: str) -> str:
    """How the hyper-parameters came about, with the recipe or the stream that they were chosen for if that is not this row's."""
    found = RECIPES[recipe]
    others = [f"as `{found.tuned_as}`"] if found.tuned_as else []
    others += [f"on {found.home}"] if stream != found.home else []
    return f"{origin} ({', '.join(others)})" if others and origin == "validation" else origin


def _seconds(group: Sequence[Record]) -> float | None:
    """Median processor time; the first records have wall time alone, on a core that was all but theirs."""
    known = [r.provenance.get("cpu_seconds") or r.provenance.get("wall_seconds") for r in group]
    return median(seconds for seconds in known if seconds) if any(known) else None


def _number(record: Record, column: str) -> float:
    return record.metrics_task_known()["last_acc"] if column == "task_known_last_acc" else metric_of(record, column)


def _with_interval(summary: MeanInterval) -> str:
    if summary.interval is None:
        return f"{summary.mean:.2f}"
    return f"{summary.mean:.2f} ± {(summary.interval[1] - summary.interval[0]) / 2:.2f}"
