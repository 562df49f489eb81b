"""The page: everything on a leaderboard in one HTML file that loads nothing, to be opened from disk.

The tables, curves and pictures are all in the file; its script only shows, hides and sorts them.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import config_hash, flatten, from_dict, shown
from ..data.drawings import shared_classes
from ..data.streams import EMBEDDED, Stream
from ..papers.kinds import together
from ..papers.protocols import PAPERS, Protocol, Uncovered, commands, protocol_of, run_of
from ..papers.published import planned_seeds
from ..recipes import RECIPES
from ..records.record import plain
from ..stats.equivalence import Column
from ..stats.estimates import Estimate, MeanInterval, Published
from ..verdicts.cells import CellCheck, judge_tables
from ..verdicts.claims import ClaimVerdict
from ..verdicts.counting import OTHER_WEIGHTS
from ..verdicts.outside import settings_changed
from .board import (
    COLUMNS,
    EXTERNAL,
    METRICS,
    NOT_COMPARABLE,
    OF_ONES_OWN,
    RANKS,
    SHOWN,
    Group,
    Row,
    by_group,
    headline,
    label,
    time_in_words,
)
from .findings import EFFECT, differences
from .svg import Chart, Scale, chart, ends, templates
from .tables import size

CURVES = 7
"""How many curves a chart shows at once: the colours of Okabe and Ito but yellow, which cannot be seen on white."""

PLOT = (4.0, 156.0)
"""First and last pixel of the plots in table rows."""


def render(table: Sequence[Row], verdicts: Sequence[ClaimVerdict], checks: Mapping[str, CellCheck]) -> str:
    """The page.

    :param table: :func:`reclaim.benchmark.report.board.rows`.
    :param checks: what the records say of the published cells (:func:`reclaim.benchmark.verdicts.cells.check_cells`).
    """
    rows_on = Counter(row.stream for row in table)
    streams = sorted(rows_on, key=lambda stream: -rows_on[stream])
    template = templates().get_template("page.html")
    return template.render(
        sections=[_section([row for row in table if row.stream == stream], verdicts) for stream in streams],
        claims=_claims(verdicts),
        papers=[_paper(paper, [check for check in checks.values() if check.cell.paper == paper]) for paper in PAPERS],
        runs=sum(len(row.seeds) for row in table),
        recipes=len({row.recipe for row in table}),
        embedded=any(not row.own for row in table),
        own=any(row.own for row in table),
        external=len({row.recipe for row in table if row.outside}),
        of_cells=len(
            {(run.recipe, run.stream, run.config_hash, run.seed) for check in checks.values() for run in check.runs}
        ),
        shown_rows={f"{row.key}@{row.stream}" for row in table},
        overlap=shared_classes() or "none",
        not_comparable=NOT_COMPARABLE,
        of_ones_own=OF_ONES_OWN,
        marked=EXTERNAL,
        ranks=RANKS,
        differences=differences(),
        effect=EFFECT,
        metrics=METRICS,
        shown=SHOWN,
        columns=COLUMNS,
        curves=CURVES,
        interval=interval,
        size=size,
        printed=printed,
        planned_seeds=planned_seeds,
        seed_options=seed_options,
        time_in_words=time_in_words,
    )


def interval(summary: MeanInterval | None) -> str:
    """Mean and half-width of the interval, to two decimals."""
    return "-" if summary is None else str(summary)


def printed(value: float, published: Published) -> str:
    """A published number with as many decimals as the paper gives it."""
    return f"{value:.{round(-math.log10(2 * published.rounding))}f}"


# --- streams ---


@dataclass(frozen=True)
class Entry:
    """A row and what it opens.

    :ivar id: of the row's details in the page.
    :ivar slot: colour of its curve in the section's charts; None where it is not shown at first.
    :ivar description: what it is.
    :ivar commands: that repeat its runs.
    :ivar config: a setting in each line, as `reclaim run --set` takes it.
    :ivar claims: verdicts on the claims that it is in; ``outcomes`` counts those in which it is the better one.
    """

    row: Row
    description: str
    id: str
    slot: int | None
    commands: list[str]
    config: str
    claims: list[ClaimVerdict]
    outcomes: list[tuple[str, int]]
    accuracy: Chart | None
    entropy: Chart | None


@dataclass(frozen=True)
class Section:
    """A stream: its rows by group and the curves of them all."""

    stream: Stream
    groups: list[tuple[Group, list[Entry]]]
    scale: Scale
    charts: list[Chart]

    @property
    def id(self) -> str:
        """In the page; no stream of somebody's own takes the place of another section."""
        return _section_id(self.stream)

    @property
    def entries(self) -> list[Entry]:
        return [entry for _, entries in self.groups for entry in entries]


def _section(table: Sequence[Row], verdicts: Sequence[ClaimVerdict]) -> Section:
    slots = {row.key: slot for slot, row in enumerate(headline(table, CURVES - 2))}
    groups = [(group, [_entry(row, slots, verdicts) for row in members]) for group, members in by_group(table)]
    drawn = [row for row in table if not row.joint]
    labels = {row.key: label(row, drawn) for row in drawn}
    accuracy = [(row.key, labels[row.key], row.curves["accuracy"]) for row in drawn]
    entropy = [(row.key, labels[row.key], row.curves["entropy"]) for row in drawn if row.curves["entropy"]]
    charts = (
        chart("Accuracy after each task", "tasks seen", "percent of their test images right", accuracy),
        chart(
            "Entropy of the training predictions", "epoch, over all experiences", "nats", entropy, limits=(0, math.inf)
        ),
    )
    scale = Scale.around(ends(row.numbers["last_acc"] for row in table), *PLOT, steps=4, limits=(0, 100))
    return Section(table[0].definition, groups, scale, [c for c in charts if c])


def _section_id(stream: Stream) -> str:
    return stream.name if stream.tier == EMBEDDED else f"own:{stream.name}"


def _describe(row: Row) -> str:
    """What the recipe is; of one that is not ours, what its configuration says of it."""
    if not row.outside:
        return RECIPES[row.recipe].description
    config = from_dict(row.config)
    parts = [EXTERNAL]
    for where, component in (config.external.components if config.external else {}).items():
        parts.append(f"{where}: {plain(component.path)}, source {component.sha256[:12]}.")
    base = config.external.base if config.external else ""
    if base in RECIPES:
        changed = settings_changed(config, base)
        parts.append(f"By its configuration it starts from {base}{': ' + ', '.join(changed) if changed else ''}.")
    return " ".join(parts)


def _entry(row: Row, slots: Mapping[str, int], verdicts: Sequence[ClaimVerdict]) -> Entry:
    settings = row.config if row.variant or row.outside or row.own else RECIPES[row.recipe].config.as_dict()
    claims = [v for v in verdicts if v.claim.stream == row.stream and row.key in (v.claim.better, v.claim.worse)]
    outcomes = Counter(v.outcome for v in claims if v.claim.better == row.key)
    curves = [
        ("unknown", "task not known", row.curves["accuracy"]),
        ("known", "task known", row.curves["accuracy_task_known"]),
    ]
    entropy = [("entropy", "entropy", row.curves["entropy"])] if row.curves["entropy"] else []
    small = (420, 240)
    return Entry(
        row=row,
        description=_describe(row),
        id=f"{row.key}@{_section_id(row.definition)}",
        slot=slots.get(row.key),
        commands=_commands(row),
        config="\n".join(f"{plain(key)}={plain(shown(value), 1000)}" for key, value in flatten(settings).items()),
        claims=claims,
        outcomes=[
            (outcome, outcomes[outcome]) for outcome in ("holds", "contradicted", "undecided") if outcomes[outcome]
        ],
        accuracy=chart(f"Accuracy of {row.title} after each task", "tasks seen", "percent right", curves, small),
        entropy=chart(
            f"Entropy of {row.title} in training",
            "epoch, over all experiences",
            "nats",
            entropy,
            small,
            (0, math.inf),
        ),
    )


def _commands(row: Row) -> list[str]:
    """That repeat the row's runs; none for a variant that `--set` with its differences does not lead to, for code that
    is not here and for images that are not.
    """
    if row.outside or row.own:
        return []
    changed = [text.split(" instead of ")[0] for text in row.variant]
    if row.variant:
        try:
            same = config_hash(RECIPES[row.recipe].config.set(changed).as_dict()) == row.config_hash
        except ValueError:
            same = False
        if not same or row.variant == (OTHER_WEIGHTS,):
            return []
    more = "".join(f" --set {shlex.quote(setting)}" for setting in changed)
    return [f"reclaim run {row.recipe} {row.stream} --seeds {seeds}{more}" for seeds in seed_options(row.seeds)]


def seed_options(seeds: Sequence[int]) -> list[str]:
    """What --seeds of `reclaim run` takes for these seeds: "10" for 0 to 9, "3-7" for others; one for each unbroken run
    of numbers.
    """
    spans: list[list[int]] = []
    for seed in sorted(seeds):
        if spans and seed == spans[-1][-1] + 1:
            spans[-1].append(seed)
        else:
            spans.append([seed])
    return [str(len(span)) if span[0] == 0 else f"{span[0]}-{span[-1]}" for span in spans]


# --- claims and cells ---


def _claims(verdicts: Sequence[ClaimVerdict]) -> list[dict[str, Any]]:
    """The claims by the unit of their difference, each unit with a scale that holds 0."""
    groups = []
    for unit in ("points", "nats"):
        members = [v for v in verdicts if (v.claim.metric == "final_entropy") == (unit == "nats")]
        differences = [v.difference for v in members if v.difference]
        if members:
            shown = [end for d in differences for end in d.interval() or (d.value,)]
            groups.append({"unit": unit, "verdicts": members, "scale": Scale.around([0.0, *shown], *PLOT, steps=4)})
    return groups


def _paper(paper: str, checks: Sequence[CellCheck]) -> dict[str, Any]:
    """A paper's cells by table, stream and metric, each group on a scale of its own."""
    groups: dict[tuple[str, str, str], list[CellCheck]] = {}
    plots = (f"plot:{paper}-{number}" for number in itertools.count())
    for check in checks:
        groups.setdefault((str(check.cell.table), check.cell.stream, check.cell.metric), []).append(check)
    return {
        "name": paper,
        "cells": len(checks),
        "run": sum(bool(check.runs) for check in checks),
        "sentences": [judged["sentence"] for judged in judge_tables({check.cell.id: check for check in checks})],
        "groups": [
            {
                "table": table,
                "stream": stream,
                "metric": metric,
                "cells": [_cell(check, next(plots)) for check in members],
                "scale": _forest(members),
            }
            for (table, stream, metric), members in groups.items()
        ],
    }


def _forest(checks: Sequence[CellCheck]) -> Scale:
    shown = [
        end for check in checks for end in published_interval(check.cell.published) or (check.cell.published.mean,)
    ]
    shown += [again.value for check in checks for again in check.cell.reruns]
    shown += ends(check.judged.ours for check in checks if check.judged and check.judged.ours)
    return Scale.around(shown, *PLOT, steps=4)


def _cell(check: CellCheck, plot: str) -> dict[str, Any]:
    published = check.cell.published
    verdict = check.verdict or "not judged"
    judged = check.judged if check.judged and check.judged.ours else None
    # without a published standard deviation there is no other verdict than that against the printed value
    alone = judged is not None and check.column is judged.constant
    qualified = [*(["as a constant"] if alone else []), *(check.qualifiers if judged else [])]
    run = run_of(check.cell)
    protocol = protocol_of(run)
    return {
        "check": check,
        "plot": plot,
        "kind": together(check.kinds) if check.runs else None,
        "commands": commands(run),
        "reason": protocol.reason if isinstance(protocol, Uncovered) else "",
        "natural": isinstance(protocol, Protocol) and protocol.natural,
        "published": published,
        "interval": published_interval(published),
        "reruns": check.cell.reruns,
        "ours": judged and judged.ours,
        "verdict": verdict,
        "badge": f"{verdict} ({'; '.join(qualified)})" if qualified else verdict,
        "difference": judged and check.column and check.column.difference,
        "spread": spread(check.column) if check.column else "",
        "constant": judged and judged.constant,
        "constant_spread": spread(judged.constant) if judged else "",
        "predicted": judged and check.prediction_interval,
        "inside": judged and judged.in_prediction_interval,
        "remarks": [check.problem] if check.problem else check.remarks,
    }


def published_interval(published: Published) -> tuple[float, float] | None:
    """95% interval of a printed mean by its own standard deviation, None where none is printed."""
    if published.std is None:
        return None
    std, n = published.error
    return Estimate(
        value=published.mean, standard_error=std / math.sqrt(n), df=n - 1, n=int(n), rounding=published.rounding
    ).interval()


def spread(column: Column) -> str:
    """The interval of the difference, signed; empty where there is none."""
    return "{:+.2f} to {:+.2f}".format(*column.interval) if column.interval else ""
