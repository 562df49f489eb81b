"""A comparison of methods as a table and sentences: what `reclaim compare` prints."""

from __future__ import annotations

import csv
import io
import json

from ..verdicts.comparison import Comparison, ComparisonRow, p_in_words, signed, span, unit_of
from .board import METRICS
from .tables import markdown_table, table

FORMATS = ("text", "json", "csv", "markdown")


def show_comparison(comparison: Comparison, form: str = "text", width: int | None = None) -> str:
    """The comparison in one of :data:`FORMATS`: rounded for reading, or unrounded in JSON and CSV (its rows alone).

    :param width: of the table in text.
    """
    if form == "json":
        return json.dumps(comparison.as_dict(), indent=2)
    if form == "csv":
        return _csv(comparison)
    first, unit = comparison.first.name, unit_of(comparison.metric)
    header = (
        "method",
        "seeds",
        f"{METRICS[comparison.metric]}, 95%",
        f"minus {first}",
        "adjusted interval",
        "p (Holm)",
        "verdict",
        "bytes kept",
        "trained",
        "time of a run",
    )
    rows = [_cells(row, unit) for row in comparison.rows]
    title = f"{METRICS[comparison.metric]} on {comparison.stream or 'no stream'}"
    if len(rows) == 1:  # no differences
        header, rows = (*header[:3], *header[7:]), [(*rows[0][:3], *rows[0][7:])]
    if form == "markdown":
        said = [f"**{title}**", markdown_table(rows, header), comparison.conclusion.replace("\n", "  \n")]
        said += ["\n".join(f"- {note}" for note in comparison.notes)] * bool(comparison.notes)
    else:
        said = [title, table(rows, header, width), comparison.conclusion]
        said += ["\n".join(f"note: {note}" for note in comparison.notes)] * bool(comparison.notes)
    return "\n\n".join(said)


def _cells(row: ComparisonRow, unit: str) -> tuple[str, ...]:
    nats = 4 if unit == "nats" else 2
    mean = "-"
    if row.mean:
        mean = f"{row.mean.mean:.{nats}f}"
        mean += f" [{row.mean.interval[0]:.{nats}f}, {row.mean.interval[1]:.{nats}f}]" if row.mean.interval else ""
    return (
        row.name,
        str(len(row.seeds)),
        mean,
        signed(row.difference.value, unit) if row.difference else "-",
        span(row.interval, unit),
        p_in_words(row.p),
        "failed" if row.failures and not row.seeds else row.verdict,
        "-" if row.bytes_kept is None else f"{row.bytes_kept:,}",
        "-" if row.trained_parameters is None else f"{row.trained_parameters:,}",
        "-" if row.seconds is None else f"{row.seconds:.1f} s{' (wall)' * (row.clock == 'wall')}",
    )


def _csv(comparison: Comparison) -> str:
    file = io.StringIO()
    flat = []
    for row in comparison.as_dict()["rows"]:
        for key in ("mean_interval", "difference_interval", "interval"):
            row[f"{key}_low"], row[f"{key}_high"] = row.pop(key) or (None, None)
        for key in ("seeds", "common_seeds", "unmatched"):
            row[key] = " ".join(map(str, row[key]))
        row["failures"] = "; ".join(row["failures"])
        flat.append({"stream": comparison.stream, "metric": comparison.metric, **row})
    writer = csv.DictWriter(file, list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return file.getvalue().rstrip("\n")
