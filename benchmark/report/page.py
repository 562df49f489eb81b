"""The page: everything on a leaderboard in one HTML file that loads nothing, to be opened from disk.

Rows of tables are in the file as they are; what a row opens and the curves are built by its script, from one block of
JSON. Which claims hold comes first.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from markupsafe import Markup, escape

from ..config import config_hash, flatten, from_dict, shown
from ..data.drawings import shared_classes
from ..data.streams import DENSE, EMBEDDED, MIDDLE, OWN, STREAMS, Stream
from ..papers.headers import Paper, papers
from ..papers.kinds import together
from ..papers.protocols import PAPERS, Protocol, Uncovered, commands, protocol_of, run_of
from ..papers.published import CLAIMS, confirmatory_plan, planned_seeds
from ..recipes import RECIPES
from ..records.record import Record, plain
from ..stats.equivalence import Column
from ..stats.estimates import Estimate, MeanInterval, Published
from ..stats.words import p_in_words, signed, span
from ..verdicts.cells import CellCheck, judge_tables
from ..verdicts.claims import ClaimVerdict
from ..verdicts.counting import OTHER_WEIGHTS
from ..verdicts.outside import settings_changed
from ..verdicts.study import count
from . import dense_pages, disagree
from .board import (
    COLUMNS,
    DENSE_NOT_COMPARABLE,
    EXTERNAL,
    METRICS,
    MIDDLE_NOT_COMPARABLE,
    NOT_COMPARABLE,
    NOT_SEPARATED,
    OF_FEATURES,
    RANKS,
    Row,
    headline,
    tier_name,
    ties,
    time_in_words,
)
from .findings import EFFECT, PAPER_METHODS, differences
from .forest import forests, interval_of
from .sentences import beside, family_of, unit_of, why
from .svg import Scale, ends, templates
from .tables import size

CURVES = 7
"""How many curves a chart shows at once: the colours of Okabe and Ito but yellow, which cannot be seen on white."""

PLOT = (4.0, 156.0)
"""First and last pixel of the plots in table rows."""
AT_0 = "60"
"""Where a logarithmic scale has its 0."""
LETTER = 6.0
"""Pixels of a letter of a name in a picture, about."""

TIERS = (*CLAIMS, OWN)
"""In the order of the page."""
OUTCOMES = ("holds", "contradicted", "undecided", "not run")
IN_WORDS = {"holds": "hold", "contradicted": "contradicted", "undecided": "undecided", "not run": "not run"}
ABOUT = {EMBEDDED: "a miniature on drawings", MIDDLE: "photographs and a small CNN", DENSE: "on canvases of drawings"}
"""What a tier is, in the first lines."""
NOTES = {EMBEDDED: NOT_COMPARABLE, MIDDLE: MIDDLE_NOT_COMPARABLE, DENSE: DENSE_NOT_COMPARABLE}
"""What no number of a tier must be taken for."""
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def render(
    table: Sequence[Row],
    verdicts: Sequence[ClaimVerdict],
    checks: Mapping[str, CellCheck],
    records: Sequence[Record] = (),
) -> str:
    """The page.

    :param table: :func:`reclaim.benchmark.report.board.rows`.
    :param verdicts: on the claims of the tiers, each a family of its own. A tier without a run is said to have none.
    :param checks: what the records say of the published cells (:func:`reclaim.benchmark.verdicts.cells.check_cells`).
    :param records: all that count, those of docs/fidelity.md and on canvases included: they are counted, the scores on
        canvases are of them, and the steps between the ways in which others run a method.
    """
    rows_on = Counter(row.stream for row in table)
    tier_on = {row.stream: row.definition.tier for row in table}
    names = sorted(rows_on, key=lambda s: (TIERS.index(tier_on[s]), -rows_on[s], s))
    dense = dense_pages.scores(records)
    run = {row.definition.tier for row in table} | ({DENSE} if dense else set())
    measured = [tier for tier in dict.fromkeys(v.claim.tier for v in verdicts) if tier in run]
    shown_verdicts = [v for v in verdicts if v.claim.tier in measured]
    unrun = _unrun([v for v in verdicts if v.claim.tier not in measured]) if measured else []
    boards = [_board([row for row in table if row.stream == stream], shown_verdicts) for stream in names]
    cards = [_card(paper, shown_verdicts, checks, table, unrun) for paper in _papers_of(shown_verdicts)]
    of_cells = {(r.recipe, r.stream, r.config_hash, r.seed) for check in checks.values() for r in check.runs}
    published = [_paper(paper, [check for check in checks.values() if check.cell.paper == paper]) for paper in PAPERS]
    tests = sorted({sum(r.result["test_counts"]) for r in records if r.stream in STREAMS})
    return (
        templates()
        .get_template("page.html")
        .render(
            cards=cards,
            names={key: paper.name for key, paper in papers().items()},
            number=NUMBERS[len(cards)] if len(cards) < len(NUMBERS) else str(len(cards)),
            tiers=[_tier(tier, shown_verdicts) for tier in measured],
            unrun=unrun,
            runs=_runs(table, records, dense),
            dense=_by_task(dense),
            dense_note=DENSE_NOT_COMPARABLE,
            dense_metrics=dense_pages.NAMES,
            boards=boards,
            published=published,
            cells=len(checks),
            cells_run=sum(bool(check.runs) for check in checks.values()),
            of_cells=len(of_cells),
            steps=_steps(records),
            reruns=_reruns(),
            data=_data(boards, shown_verdicts, published),
            external=len({row.recipe for row in table if row.outside}),
            embedded=any(row.definition.tier == EMBEDDED for row in table),
            overlap=shared_classes() or "none",
            error="" if not tests else f"{100 * (0.25 / tests[0]) ** 0.5:.1f}",
            tests=tests,
            version=metadata.version("reclaim"),
            marked=EXTERNAL,
            ranks=RANKS,
            of_features=OF_FEATURES,
            not_separated=NOT_SEPARATED,
            differences=differences(),
            effect=EFFECT,
            metrics=METRICS,
            curves=CURVES,
            outcomes=OUTCOMES,
            in_words=IN_WORDS,
            interval=interval,
            size=size,
            printed=printed,
            time_in_words=time_in_words,
            about=ABOUT,
            code=code,
            count=count,
            tier_name=tier_name,
        )
    )


def interval(summary: MeanInterval | None) -> str:
    """Mean and half-width of the interval, to two decimals."""
    return "-" if summary is None else str(summary)


def spread_in_words(summary: MeanInterval) -> str:
    """Standard deviation and interval, each by its name."""
    if summary.std is None or summary.interval is None:
        return "one seed"
    if summary.std == 0:
        return "the same with every seed"
    return "sd {:.2f}, 95% interval {:.2f} to {:.2f}".format(summary.std, *summary.interval)


def printed(value: float, published: Published) -> str:
    """A published number with as many decimals as the paper gives it."""
    return f"{value:.{round(-math.log10(2 * published.rounding))}f}"


def code(text: str) -> Markup:
    """Text whose `parts in backticks` are code, escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


# --- the first screen ---


def _papers_of(verdicts: Sequence[ClaimVerdict]) -> list[Paper]:
    """The papers whose claims were planned, in the order of the file."""
    known = papers()
    planned = dict.fromkeys(v.claim.paper for v in verdicts if v.claim.family == "confirmatory")
    return [known[key] for key in planned]


@dataclass(frozen=True)
class Card:
    """A paper on the first screen.

    :ivar tiers: for each tier the outcomes of its planned claims and of the others, with their numbers, and what stands
        beside those that hold.
    :ivar unrun: for each tier without a run, how many of its claims are planned there.
    :ivar published: a sentence on its published numbers.
    """

    paper: Paper
    tiers: list[dict[str, Any]]
    unrun: list[tuple[str, int]]
    published: str


def _card(
    paper: Paper,
    verdicts: Sequence[ClaimVerdict],
    checks: Mapping[str, CellCheck],
    table: Sequence[Row],
    unrun: Sequence[Mapping[str, Any]],
) -> Card:
    own = [v for v in verdicts if v.claim.paper == paper.key]
    found = [check for check in checks.values() if check.cell.paper == paper.key]
    run = sum(bool(check.runs) for check in found)
    if not found:
        published = "Published numbers: we found no readable copy of its tables."
    elif not run:
        published = f"Published numbers: 0 of {len(found)} run. Nothing is known of them yet."
    else:
        words = Counter(check.words for check in found if check.runs)
        published = f"Published numbers: {run} of {len(found)} run: {_counted(words)}."
    tiers = [
        {
            "tier": tier,
            "planned": _outcomes(v for v in own if v.claim.tier == tier and v.claim.family == "confirmatory"),
            "others": _outcomes(v for v in own if v.claim.tier == tier and v.claim.family != "confirmatory"),
            "beside": beside([v for v in own if v.claim.tier == tier], table),
        }
        for tier in dict.fromkeys(v.claim.tier for v in own)
    ]
    planned = [(of["tier"], sum(claim.paper == paper.key for claim in of["planned"])) for of in unrun]
    return Card(paper, tiers, [(tier, n) for tier, n in planned if n], published)


def _unrun(verdicts: Sequence[ClaimVerdict]) -> list[dict[str, Any]]:
    """The claims of tiers without a run."""
    return [
        {
            "tier": tier,
            "planned": [v.claim for v in verdicts if v.claim.tier == tier and v.claim.family == "confirmatory"],
            "others": [v.claim for v in verdicts if v.claim.tier == tier and v.claim.family != "confirmatory"],
        }
        for tier in dict.fromkeys(v.claim.tier for v in verdicts)
    ]


def _outcomes(verdicts: Iterable[ClaimVerdict]) -> list[tuple[str, int]]:
    counts = Counter(v.outcome for v in verdicts)
    return [(outcome, counts[outcome]) for outcome in OUTCOMES if counts[outcome]]  # type: ignore[index]


def _counted(words: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {word}" for word, n in words.items())


def _runs(table: Sequence[Row], records: Sequence[Record], dense: Sequence[dense_pages.Scores]) -> list[dict[str, Any]]:
    """For each measured tier, how many runs count, and how many of them are in the table: the others each turn one
    switch of docs/fidelity.md.
    """
    found = []
    for tier in dict.fromkeys(row.definition.tier for row in table):
        shown_ = sum(len(row.seeds) for row in table if row.definition.tier == tier)
        switches = sum(
            r.stream in STREAMS
            and STREAMS[r.stream].tier == tier
            and r.recipe in RECIPES
            and RECIPES[r.recipe].fact is not None
            for r in records
        )
        recipes = len({row.recipe for row in table if row.definition.tier == tier})
        found.append({"tier": tier, "shown": shown_, "switches": switches, "recipes": recipes})
    if dense:
        runs = sum(len(one.seeds) for one in dense)
        found.append({"tier": DENSE, "shown": runs, "switches": 0, "recipes": len(dense)})
    return sorted(found, key=lambda of: TIERS.index(of["tier"]))


def _by_task(dense: Sequence[dense_pages.Scores]) -> list[dict[str, Any]]:
    """The scores on canvases, a table for each task: its metrics and its recipes."""
    return [
        {
            "task": task,
            "metrics": list(dict.fromkeys(m for one in dense if one.task == task for m in one.means)),
            "scores": [one for one in dense if one.task == task],
        }
        for task in dict.fromkeys(one.task for one in dense)
    ]


# --- claims ---


@dataclass(frozen=True)
class Strip:
    """A claim with its reason, and a dot for each seed on a scale of its own."""

    verdict: ClaimVerdict
    unit: str
    why: str
    scale: Scale | None


def _tier(tier: str, verdicts: Sequence[ClaimVerdict]) -> dict[str, Any]:
    own = [v for v in verdicts if v.claim.tier == tier]
    planned = [v for v in own if v.claim.family == "confirmatory"]
    keys = [paper.key for paper in _papers_of(own)]
    keys += [key for key in dict.fromkeys(v.claim.paper for v in own) if key not in keys]
    return {
        "tier": tier,
        "note": NOTES[tier],
        "planned": planned,
        "forests": forests(planned),
        "papers": [_claims_of(key, [v for v in own if v.claim.paper == key], verdicts) for key in keys],
    }


def _claims_of(key: str, own: Sequence[ClaimVerdict], verdicts: Sequence[ClaimVerdict]) -> dict[str, Any]:
    planned = [v for v in own if v.claim.family == "confirmatory"]
    others = [v for v in own if v.claim.family != "confirmatory"]
    return {
        "key": key,
        "paper": papers().get(key),
        "planned": [_strip(v, verdicts) for v in planned],
        "others": [_strip(v, verdicts) for v in others],
        "outcomes": _outcomes(others),
    }


def _strip(verdict: ClaimVerdict, verdicts: Sequence[ClaimVerdict]) -> Strip:
    difference = verdict.difference
    scale = None
    if difference:
        scale = Scale.around((0.0, -verdict.claim.margin, *difference.values, *interval_of(verdict)), *PLOT, steps=4)
    return Strip(verdict, unit_of(verdict.claim), why(verdict, family_of(verdict, verdicts)), scale)


# --- streams ---


@dataclass(frozen=True)
class Entry:
    """A row and what it opens.

    :ivar id: of the row in the page.
    :ivar outcomes: of the planned and other claims on accuracy that say that this method of a paper is the better one.
    """

    row: Row
    id: str
    protocol: str
    outcomes: list[tuple[str, int]]
    claims: list[str]
    ties: str


@dataclass(frozen=True)
class Point:
    """A method by the bytes that it keeps and by its Last-Acc, in pixels.

    :ivar front: none that keeps less or as much is better.
    :ivar paper: a paper proposes it.
    """

    title: str
    x: str
    y: str
    front: bool
    paper: bool


@dataclass(frozen=True)
class Name:
    """A name next to its point."""

    text: str
    x: str
    y: str
    anchor: str


@dataclass(frozen=True)
class Scatter:
    """Last-Acc over bytes kept.

    :ivar decades: pixel and text of the ticks on the logarithmic scale.
    """

    width: int
    height: int
    y: Scale
    decades: list[tuple[str, str]]
    points: list[Point]
    names: list[Name]


@dataclass(frozen=True)
class Board:
    """A stream: its rows by falling Last-Acc, and accuracy over bytes kept."""

    stream: Stream
    note: str
    entries: list[Entry]
    scale: Scale
    scatter: Scatter | None
    first: list[str]

    @property
    def id(self) -> str:
        """In the page; no stream of somebody's own takes the place of another."""
        return board_id(self.stream)


def board_id(stream: Stream) -> str:
    return f"own:{stream.name}" if stream.tier == OWN else stream.name


def _board(table: Sequence[Row], verdicts: Sequence[ClaimVerdict]) -> Board:
    falling = sorted(table, key=lambda row: (-row.numbers["last_acc"].mean, row.key))
    entries = [_entry(row, table, verdicts) for row in falling]
    scale = Scale.around(ends(row.numbers["last_acc"] for row in table), *PLOT, steps=4, limits=(0, 100))
    first = [f"{row.key}@{board_id(row.definition)}" for row in headline(table, CURVES - 2)]
    stream = table[0].definition
    return Board(stream, table[0].note, entries, scale, _scatter(entries), first)


def _entry(row: Row, table: Sequence[Row], verdicts: Sequence[ClaimVerdict]) -> Entry:
    backbones = {other.backbone for other in table}
    claims = [v for v in verdicts if v.claim.stream == row.stream and row.key in (v.claim.better, v.claim.worse)]
    own = [v for v in claims if v.claim.better == row.key and unit_of(v.claim) == "points"]
    return Entry(
        row=row,
        id=f"{row.key}@{board_id(row.definition)}",
        protocol=_protocol(row, len(backbones) > 1),
        outcomes=_outcomes(own) if row.recipe in PAPER_METHODS else [],
        claims=[v.claim.id for v in claims],
        ties=ties(row, [other for other in table if other.group == row.group]),
    )


def _protocol(row: Row, several: bool) -> str:
    """What the row shares with those that it is ranked with, in few words."""
    trained = "nothing trained" if row.epochs == 0 else count(row.epochs, "epoch")
    return f"{trained}, {row.backbone}" if several else trained


def _scatter(entries: Sequence[Entry]) -> Scatter | None:
    """Last-Acc over bytes kept, by a logarithmic scale on which 0 has a place of its own at the left."""
    shown_ = [e for e in entries if not e.row.joint and not e.row.variant]
    if len(shown_) < 3:
        return None
    width, height, left, right, top, bottom = 640, 300, 96, 24, 10, 38
    kept = [e.row.bytes_kept for e in shown_]
    known = [math.log10(n) for n in kept if n > 0]
    low, high = (math.floor(min(known)), math.ceil(max(known))) if known else (0, 1)
    high = max(high, low + 1)
    x = Scale(low, high, 1, left, width - right)
    y = Scale.around((e.row.numbers["last_acc"].mean for e in shown_), height - bottom, top, steps=5, limits=(0, 100))
    points, best = [], -math.inf
    for e in sorted(shown_, key=lambda e: (e.row.bytes_kept, -e.row.numbers["last_acc"].mean, e.id)):
        mean = e.row.numbers["last_acc"].mean
        at = x.at(math.log10(e.row.bytes_kept)) if e.row.bytes_kept else AT_0
        points.append(Point(e.row.title, at, y.at(mean), mean > best, e.row.recipe in PAPER_METHODS))
        best = max(best, mean)
    decades = [(AT_0, "0")] if 0 in kept else []
    decades += [(x.at(power), size(10**power)) for power in range(low, high + 1)]
    return Scatter(width, height, y, decades, points, _names(points, width))


def _names(points: Sequence[Point], width: int) -> list[Name]:
    """A name beside each point of the front, where no name or point is in its way, cut shorter where it must be; none
    if all sides are taken.
    """
    taken = [(float(p.x) - 4, float(p.y) - 4, float(p.x) + 4, float(p.y) + 4) for p in points]
    names = []
    for point in (p for p in points if p.front):
        x, y = float(point.x), float(point.y)
        for most, side, down in itertools.product((30, 20, 12), (1, -1, 0), (-4, 12, -16, 24)):
            text = plain(point.title, most)
            start = x + 7 * side - LETTER * len(text) * (1 - side) / 2
            box = (start, y + down - 10, start + LETTER * len(text), y + down + 2)
            free = all(box[2] < o[0] or o[2] < box[0] or box[3] < o[1] or o[3] < box[1] for o in taken)
            if free and box[0] > 44 and box[2] < width and box[1] > 0:
                taken.append(box)
                names.append(Name(text, f"{x + 7 * side:g}", f"{y + down:g}", ("middle", "start", "end")[side]))
                break
    return names


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


# --- published numbers ---


def _paper(paper: str, checks: Sequence[CellCheck]) -> dict[str, Any]:
    """A paper's cells: a grid of tables and streams, and the numbers of each place in it, by metric on a scale of its
    own.
    """
    plots = (f"plot:{paper}-{number}" for number in itertools.count())
    streams = list(dict.fromkeys(check.cell.stream for check in checks))
    groups: dict[tuple[str, str, str], list[CellCheck]] = {}
    for check in checks:
        groups.setdefault((str(check.cell.table), check.cell.stream, check.cell.metric), []).append(check)
    header = papers()[paper]
    return {
        "key": paper,
        "name": header.name,
        "paper": header,
        "cells": len(checks),
        "run": sum(bool(check.runs) for check in checks),
        "sentences": [judged["sentence"] for judged in judge_tables({check.cell.id: check for check in checks})],
        "streams": streams,
        "grid": [
            (table, [_place([c for c in checks if (str(c.cell.table), c.cell.stream) == (table, s)]) for s in streams])
            for table in dict.fromkeys(str(check.cell.table) for check in checks)
        ],
        "groups": [
            {
                "id": f"numbers:{table}/{stream}",
                "table": table,
                "stream": stream,
                "metric": metric,
                "first": (table, stream) not in [key[:2] for key in list(groups)[:number]],
                "cells": [_cell(check, next(plots)) for check in members],
                "scale": _forest(members),
            }
            for number, ((table, stream, metric), members) in enumerate(groups.items())
        ],
    }


def _place(checks: Sequence[CellCheck]) -> dict[str, Any] | None:
    """A table on a stream: how many of its numbers were run, and their verdicts with what qualifies them."""
    if not checks:
        return None
    run = [check for check in checks if check.runs]
    words = Counter((check.verdict or "not judged", check.words) for check in run)
    first = checks[0].cell
    return {
        "id": f"numbers:{first.table}/{first.stream}",
        "cells": len(checks),
        "run": len(run),
        "verdicts": [(verdict, f"{n} {text}") for (verdict, text), n in words.items()],
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
        "id": check.cell.id,
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
    return span(column.interval) if column.interval else ""


# --- why published numbers disagree ---


def _steps(records: Sequence[Record]) -> list[dict[str, Any]]:
    """From the setting of a method's authors to each framework's: its single differences that were run."""
    found = []
    for method, name in disagree.METHODS.items():
        for path in disagree.paths(method, records):
            steps = [(disagree.fact_of(recipe), diff) for recipe, diff in path.steps.items() if diff]
            if path.total is None or path.at is None:
                continue
            shown_ = [*steps, ("what they do together, and the rest", path.left), ("all at once", path.total)]
            shown_ = [(text, diff) for text, diff in shown_ if diff]
            values = [end for _, diff in shown_ if diff for end in (0.0, *(diff.interval() or (diff.value,)))]
            found.append(
                {
                    "title": f"{name}: from {path.start.name} to {path.end.name}",
                    "from": path.at,
                    "to": path.at + path.total.value,
                    "steps": shown_,
                    "scale": Scale.around(values, *PLOT, steps=4),
                }
            )
    return found


def _reruns() -> list[dict[str, Any]]:
    """Methods on streams of which others have other numbers than the method's own paper, the widest apart first."""
    found = []
    for place in disagree.places():
        for metric, name in disagree.NAMES.items():
            values = [v for run in place.runs if run.counts and (v := getattr(run, metric)) is not None]
            published = place.published.get(metric)
            if values and published is not None:
                apart = max(abs(value - published) for value in values)
                found.append(
                    {
                        "method": place.method,
                        "stream": place.stream,
                        "metric": name,
                        "published": published,
                        "values": sorted(values),
                        "apart": apart,
                        "scale": Scale.around((published, *values), *PLOT, steps=4),
                    }
                )
    return sorted(found, key=lambda one: (-one["apart"], one["method"], one["stream"], one["metric"]))


# --- what the script builds from ---


def _data(boards: Sequence[Board], verdicts: Sequence[ClaimVerdict], published: Sequence[Mapping[str, Any]]) -> Markup:
    """All that rows open, and the curves, as JSON that ends no script."""
    settings: dict[str, int] = {}
    value = {
        "boards": {board.id: {"first": board.first, "name": board.stream.name} for board in boards},
        "rows": {e.id: _row_data(e, settings) for board in boards for e in board.entries},
        "claims": {v.claim.id: _claim_data(v) for v in verdicts},
        "cells": {cell["id"]: _cell_data(cell) for paper in published for g in paper["groups"] for cell in g["cells"]},
        "settings": list(settings),
        "metrics": METRICS,
    }
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _row_data(entry: Entry, settings: dict[str, int]) -> dict[str, Any]:
    """A row's details. Numbers are in hundredths. Curves are means and half-widths of the intervals, in tenths of a
    percent and thousandths of a nat. Matrices are row by row, in percent.
    """
    row = entry.row
    config = row.config if row.variant or row.outside or row.own else RECIPES[row.recipe].config.as_dict()
    lines = [f"{plain(key)}={plain(shown(value), 1000)}" for key, value in flatten(config).items()]
    columns = [c for c in COLUMNS if c in row.numbers and (not row.joint or c in ("last_acc", "final_entropy"))]
    rank: dict[str, Any] = {}
    if row.rank:
        rank = {"rank": [row.rank.rank, row.rank.low, row.rank.high, row.ranked], "ties": entry.ties}
        rank["tied"] = len(row.rank.tied_with)
    linked = not (row.outside or row.own)
    return {
        "title": row.title,
        "about": _describe(row),
        "group": str(row.group),
        "numbers": {c: _hundredths(row.numbers[c]) for c in columns},
        "trained": row.trained_parameters,
        "bytes": row.bytes_kept,
        "seconds": time_in_words(row),
        "seen": row.pretraining_overlap,
        **rank,
        "claims": entry.claims,
        "from": row.hyperparameters,
        "commands": _commands(row),
        "hash": row.config_hash,
        "config": [settings.setdefault(line, len(settings)) for line in lines],
        "records": f"records/{row.folder}" if linked else row.folder,
        "linked": linked,
        "seeds": row.seeds,
        "drawn": not row.joint,
        "curves": {key: _points(curve, 1000 if key == "entropy" else 10) for key, curve in row.curves.items() if curve},
        "matrices": [
            [round(value) for line in row.matrices[key] for value in line]
            for key in ("accuracy", "accuracy_task_known")
            if len(row.matrices[key]) > 1
        ],
    }


def _hundredths(summary: MeanInterval) -> list[int]:
    """The mean; with more than one seed also standard deviation and ends of the interval: as they are shown."""
    values = [summary.mean]
    if summary.std is not None and summary.interval is not None:
        values += [summary.std, *summary.interval]
    return [round(100 * float(f"{value:.2f}")) for value in values]


def _points(curve: Sequence[MeanInterval], unit: int) -> list[list[int]]:
    """Means, and half-widths where all have an interval."""
    means = [round(unit * point.mean) for point in curve]
    halves = [round(unit * (p.interval[1] - p.interval[0]) / 2) for p in curve if p.interval]
    return [means, halves] if len(halves) == len(means) and any(halves) else [means]


def _claim_data(verdict: ClaimVerdict) -> dict[str, Any]:
    claim, difference, unit = verdict.claim, verdict.difference, unit_of(verdict.claim)
    metric = (METRICS | dense_pages.NAMES)[claim.metric]
    numbers: list[tuple[str, str]] = []
    if difference:
        spread_ = difference.interval()
        numbers.append((f"Difference, {unit}", signed(difference.value, unit)))
        same = "none, one seed" if difference.n == 1 else f"none, the same in {difference.n} seeds"
        numbers.append(("95% interval", span(spread_, unit) if spread_ and difference.std else same))
        if verdict.adjusted_interval:
            numbers.append(("Adjusted interval", span(verdict.adjusted_interval, unit)))
        g = difference.hedges_g
        numbers.append(("g", "-" if g is None else f"{g:+.2f}"))
        numbers.append(("n, seeds that both have", verdict.note or str(difference.n)))
        if not verdict.note:
            bound = confirmatory_plan(claim.tier)[1] / 2
            numbers.append(("p, for the claim", p_in_words(verdict.judged.p, bound)))
            numbers.append(("Reverse p, against it", p_in_words(verdict.judged.reverse_p, bound)))
        listed = zip(difference.seeds, difference.values, strict=True)
        numbers.append(("By seed", "; ".join(f"{seed}: {signed(value, unit)}" for seed, value in listed)))
    numbers.append(("Verdict", verdict.outcome))
    numbers.append(("Family", claim.family))
    if claim.margin:
        numbers.append((f"Margin {claim.margin:g}, because", claim.margin_reason))
    if claim.earlier:
        numbers.append(("By a rule that was changed after the runs", claim.earlier))
    seeds = seed_options(difference.seeds if difference else range(planned_seeds(claim)))
    return {
        "text": claim.text,
        "outcome": verdict.outcome,
        "about": f"{metric} on {claim.stream}, {tier_name(claim.tier)}. Source: {claim.source}.",
        "numbers": numbers,
        "recipes": [
            [recipe, [f"reclaim run {recipe} {claim.stream} --seeds {span}" for span in seeds]]
            for recipe in (claim.better, claim.worse)
        ],
        "stream": claim.stream,
    }


def _cell_data(cell: Mapping[str, Any]) -> dict[str, Any]:
    check, published, ours = cell["check"], cell["published"], cell["ours"]
    of = f"n = {published.n}" if published.n else "n not known"
    sd = "no sd printed" if published.std is None else f"sd {printed(published.std, published)}"
    numbers = [(f"■ Printed in {check.cell.table}", f"{printed(published.mean, published)}; {sd}; {of}")]
    if ours:
        numbers.append(("● Ours", f"{ours.mean:.2f}; {spread_in_words(ours)}; n = {ours.n}"))
        spread_ = f" [{cell['spread']}]" if cell["spread"] else ""
        numbers.append(("Difference", f"{signed(cell['difference'].value)}{spread_}"))
        numbers.append(("Verdict", cell["badge"]))
        of_constant = f" [{cell['constant_spread']}]" if cell["constant_spread"] else ""
        numbers.append(("As a constant", f"{cell['constant'].verdict}{of_constant}"))
        if cell["predicted"]:
            inside = "in" if cell["inside"] else "not in"
            numbers.append(("Prediction", "{} {:.2f} to {:.2f}".format(inside, *cell["predicted"])))
    numbers.append(("The printed number is", str(check.cell.kind)))
    if cell["kind"]:
        numbers.append(("Ours is", str(cell["kind"])))
    numbers.append(("Margin, points", f"{check.margin:g}"))
    for again in cell["reruns"]:
        kind = "" if again.evidence == "re-run" else f"{again.kind}: "
        numbers.append((f"◇ {again.value:g}", f"{kind}{again.source}"))
    notes = [] if cell["commands"] else [f"Nothing runs `{check.cell.id}`: {cell['reason']}."]
    notes += ["setting: natural reading, for the paper states none."] if cell["natural"] else []
    if len(cell["commands"]) > 1:
        notes.append("The paper prints the best of a grid: one command for each candidate.")
    return {
        "numbers": numbers,
        "commands": cell["commands"],
        "notes": notes,
        "runs": [
            [str(run.seed), f"records/{run.recipe}/{run.stream}/{run.config_hash}/{run.seed}.json"]
            for run in check.runs
        ],
    }
