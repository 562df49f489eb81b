"""A comparison of methods as a table and sentences: what `reclaim compare` prints."""

from __future__ import annotations

import csv
import io
import json

from ..records.metrics import LESS_IS_BETTER
from ..stats.words import p_in_words, signed, span
from ..verdicts.comparison import Comparison, ComparisonRow, unit_of
from .board import METRICS as OF_BOARDS
from .tables import markdown_table, size, table

METRICS = {**OF_BOARDS, "miou": "mIoU", "box_ap": "box AP", "mask_ap": "mask AP"}
FORMATS = ("text", "json", "csv", "markdown")


def show_comparison(comparison: Comparison, form: str = "text", width: int | None = None) -> str:
    """The comparison in one of :data:`FORMATS`: rounded for reading, or unrounded in JSON and CSV (its rows alone).

    :param width: of the table in text.
    """
    if form == "json":
        return json.dumps(comparison.as_dict(), indent=2)
    if form == "csv":
        return _csv(comparison)
    rows, unit = comparison.rows, unit_of(comparison.metric)
    numbers = {len(row.seeds) for row in rows if row.mean}
    several = len(numbers) > 1
    columns = {
        "method": [row.name for row in rows],
        METRICS[comparison.metric]: [
            _mean(row, unit) + (f" (n = {len(row.seeds)})" if several and row.mean else "") for row in rows
        ],
    }
    if len(rows) > 1:
        columns |= {
            f"minus {comparison.first.name}": [_difference(row, unit) for row in rows],
            "p": [p_in_words(row.p) for row in rows],
            "verdict": ["failed" if row.failures and not row.seeds else row.verdict for row in rows],
        }
    columns |= {
        "kept": ["-" if row.bytes_kept is None else _bytes(row.bytes_kept) for row in rows],
        "trained": ["-" if row.trained_parameters is None else size(row.trained_parameters) for row in rows],
        "time": ["-" if row.seconds is None else f"{row.seconds:.1f} s" for row in rows],
    }
    over = f"n = {numbers.pop()}, " if len(numbers) == 1 else ""
    where = f" on {comparison.stream}" if comparison.stream else ""
    less = ", less is better" if comparison.metric in LESS_IS_BETTER else ""
    title = f"{METRICS[comparison.metric]}{where}, {over}95% intervals{less}"
    cells = list(zip(*columns.values(), strict=True))
    if form == "markdown":
        parts = [f"**{title}**", markdown_table(cells, list(columns)), comparison.conclusion.replace("\n", "  \n")]
    else:
        parts = [title, table(cells, list(columns), width), comparison.conclusion]
    mark = "- " if form == "markdown" else "note: "
    return "\n\n".join([*parts, *filter(None, ["\n".join(f"{mark}{note}" for note in comparison.notes)])])


def _mean(row: ComparisonRow, unit: str) -> str:
    digits = 4 if unit == "nats" else 2
    if row.mean is None:
        return "-"
    if row.mean.interval is None or not row.mean.std:  # "± 0.00" would say that it is exact
        return f"{row.mean.mean:.{digits}f}"
    return f"{row.mean.mean:.{digits}f} ± {(row.mean.interval[1] - row.mean.interval[0]) / 2:.{digits}f}"


def _difference(row: ComparisonRow, unit: str) -> str:
    """With its adjusted interval."""
    if row.difference is None:
        return "-"
    return signed(row.difference.value, unit) + (f" ({span(row.interval, unit)})" if row.interval else "")


def _bytes(number: int) -> str:
    text = size(number)
    return f"{text}B" if " " in text else f"{text} B"


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
