"""docs/coverage.md: which published cells have a protocol here, and why the others have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..papers.olor import OLOR_BACKBONES, OLOR_METHODS, OLOR_STREAMS
from ..papers.protocols import Uncovered, protocol_of, run_names, run_of
from ..papers.published import cells, tables
from ..papers.sources import NATURAL, OURS
from .svg import templates
from .tables import markdown_table


def coverage_page() -> str:
    """docs/coverage.md: for each table how many cells are covered and why the others are not, then its
    methods and streams."""
    metrics: dict[str, list[str]] = {}
    for cell in cells():
        metrics.setdefault(run_of(cell), []).append(cell.metric)
    counts: list[tuple[Any, ...]] = []
    reasons: dict[tuple[str, str, str], int] = {}
    for table in tables():
        found = [(cell, protocol_of(run_of(cell))) for cell in cells() if cell.table == table]
        missing = [
            (table.id, cell.method, protocol.reason) for cell, protocol in found if isinstance(protocol, Uncovered)
        ]
        counts.append((table.id, len(found), len(found) - len(missing), len(missing)))
        reasons |= {reason: missing.count(reason) for reason in missing}
    counts.append(("all", *(sum(row[column] for row in counts) for column in (1, 2, 3))))
    others = [run for run in run_names() if run not in metrics and not run.startswith("olor/grid/")]
    grid = [
        (
            title,
            *(
                "-" if isinstance(protocol_of(f"olor/grid/{name}/{OLOR_STREAMS[0]}/{b}"), Uncovered) else "yes"
                for b in OLOR_BACKBONES
            ),
        )
        for name, (title, _) in OLOR_METHODS.items()
    ]
    return "\n".join(
        [
            templates().get_template("coverage.md").render(),
            _table(("table", "cells", "covered", "not covered"), counts),
            *(
                [
                    _table(
                        ("table", "method", "cells", "not covered, because"),
                        [(*reason[:2], n, reason[2]) for reason, n in reasons.items()],
                    )
                ]
                if reasons
                else []
            ),
            "## Runs with published numbers\n\nA run is `TABLE/METHOD/STREAM`; a place of the grid says how many "
            "published numbers it has.\n",
            *(f"### {table.id}\n\n{_grid(table.id, metrics)}" for table in tables()),
            "## Runs without\n\n`papers/*.toml` has no published number of these.\n",
            _table(("run", "method", "our reading"), [(f"`{run}`", *_row(run)) for run in others]),
            "OLOR's grid, `olor/grid/<method>/<stream>/<backbone>`. VPT's prompts are for ViTs: what OLOR's code has "
            "for ConvNets is never "
            "reached.",
            f"The streams are {', '.join(f'`{stream}`' for stream in OLOR_STREAMS)}.\n",
            _table(("", *(f"`{backbone}`" for backbone in OLOR_BACKBONES)), grid),
        ]
    )


def _grid(table: str, metrics: Mapping[str, Sequence[str]]) -> str:
    """The runs of a table: a row for each method, a column for each stream."""
    runs = {tuple(run.rsplit("/", 2)[1:]): run for run in metrics if run.rpartition("/")[0].startswith(f"{table}/")}
    streams = list(dict.fromkeys(stream for _, stream in runs))
    rows = []
    for method in dict.fromkeys(method for method, _ in runs):
        own = {stream: runs[method, stream] for stream in streams if (method, stream) in runs}
        titles, readings = (dict.fromkeys(texts) for texts in zip(*map(_row, own.values()), strict=True))
        numbers = (str(len(metrics[own[stream]])) if stream in own else "" for stream in streams)
        rows.append((f"`{method}` {'; '.join(titles)}<br>our reading: {'; '.join(readings)}", *numbers))
    return _table(("method", *(f"`{stream}`" for stream in streams)), rows)


def _row(run: str) -> tuple[str, str]:
    """The method, and the settings that neither text nor code gives."""
    protocol = protocol_of(run)
    if isinstance(protocol, Uncovered):
        return "not covered", ""
    if protocol.natural:
        return protocol.recipe.title, f"setting: {NATURAL}"
    own = [f"`{key}`" for key, (_, source) in protocol.settings.items() if OURS in source]
    return protocol.recipe.title, "all of it" if protocol.recipe.config.joint else ", ".join(own) or "-"


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    return markdown_table(rows, header, padded=False) + "\n"
