"""Leaderboards from records, as text: Markdown, CSV, JSON and LaTeX; the page and the pictures are made from the same
rows.

The same records give the same bytes.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..config import differences
from ..data.drawings import shared_classes
from ..data.streams import DENSE_STREAMS, EMBEDDED, LISTED, MIDDLE, STREAMS
from ..files import write_text
from ..papers.published import CLAIMS
from ..recipes import RECIPES
from ..records.record import Record, plain
from ..records.store import Problem, RecordStore
from ..stats.estimates import MeanInterval
from ..verdicts.cells import check_cells
from ..verdicts.claims import ClaimVerdict, judge_claims
from ..verdicts.counting import OTHER_CONFIGURATION, OTHER_WEIGHTS, Reason, merge, reasons
from ..verdicts.outside import is_outside, why_not
from . import dense_pages, disagree, fidelity, findings, forest, page
from .board import (
    COLUMNS,
    EXTERNAL,
    MIDDLE_NOT_COMPARABLE,
    NOT_SEPARATED,
    OF_FEATURES,
    RANKS,
    SHOWN,
    Row,
    by_group,
    ends_of_grids,
    rows,
    ties,
    time_in_words,
)
from .coverage import coverage_page
from .svg import dot_plot, templates
from .tables import markdown_table, markdown_text

__all__ = ["COLUMNS", "FORMATS", "Account", "Row", "account", "rows", "write", "write_docs", "write_figures"]

FORMATS = ("markdown", "csv", "json", "svg", "html", "latex")
PICTURED = ("split-quickdraw-10", *STREAMS)
OTHERS = (
    "trained_parameters",
    "bytes_kept",
    "seconds",
    "clock",
    "epochs",
    "hyperparameters",
    "pretraining_overlap",
    "backbone",
    "config_hash",
)
LABEL_OF_TIER = {
    EMBEDDED: "Embedded tier: not measured on a paper's data, and not comparable with a paper's numbers.",
    MIDDLE: "Middle tier: a part of CIFAR-10 and a small CNN, not comparable with a paper's numbers.",
}
LABEL_OF_ONES_OWN = "Somebody's own images: not comparable with a paper's numbers."
"""In a LaTeX table, whose width they must not set."""
DECIMALS = 6
"""Of the numbers in JSON: beyond them the order in which a processor adds shows."""

TIES = f'"Not separated from" names the ranks of methods. {NOT_SEPARATED}'

VARIANTS = "A variant is another configuration of a recipe, as far as it differs, and has no rank."
PICTURE = 40
"""Characters of a title that a picture has room for."""
NAMED = 3
"""How many of the records that are left out for one reason are named."""

# --- the files ---


Stores = RecordStore | Sequence[RecordStore]
"""One record store, or several: a run that two of them have is shown once."""


def write(
    stores: Stores, folder: Path, formats: Iterable[str] = FORMATS[:-1], with_variants: bool = False
) -> list[Path]:
    """Write the leaderboards, each file replaced whole.

    ``embedded.md``, ``.csv`` and ``.svg`` show all streams of the embedded tier, ``middle.md`` and ``.csv`` those of
    the middle tier, ``<stream>.md``, ``.csv``, ``.json`` and, when asked for, ``.tex`` one of them or one stream of
    somebody's own, ``index.html`` everything, runs of published cells and on canvases included; where there are no
    others, it is all that is written. Files of streams that have no record
    any more are warned of and left. Recipes that are not ours are marked (:mod:`reclaim.benchmark.verdicts.outside`);
    claims and cells are judged without them.

    :param formats: of :data:`FORMATS`; all but LaTeX by default.
    :param with_variants: also rows of other configurations of a recipe.
    :raises ValueError: there is no record to show, or none to show in these formats.
    :raises reclaim.benchmark.records.record.RecordError: two stores contradict each other.
    """
    counted, variants, outside = _counted(stores, with_variants)
    ranked = _ranked(counted)
    everything, verdicts = rows(ranked, variants, outside), judge_claims(counted)
    table = [row for row in everything if row.definition.tier == EMBEDDED]
    middle = [row for row in everything if row.definition.tier == MIDDLE]
    streams = {
        stream: [row for row in everything if row.stream == stream]
        for stream in dict.fromkeys(row.stream for row in everything)
    }
    texts = {}
    for kind in formats:
        if kind not in FORMATS:
            raise ValueError(f"unknown format {kind!r}: choose one of {', '.join(FORMATS)}")
        if kind == "html":
            texts["index.html"] = page.render(everything, _all_verdicts(counted), check_cells(counted), counted)
        elif kind == "markdown":
            texts |= {"embedded.md": markdown(table, verdicts)} if table else {}
            texts |= {"middle.md": middle_markdown(middle, judge_claims(counted, "middle"))} if middle else {}
            texts |= {f"{stream}.md": stream_markdown(part) for stream, part in streams.items()}
        elif kind == "csv":
            texts |= {"embedded.csv": as_csv(table)} if table else {}
            texts |= {"middle.csv": as_csv(middle)} if middle else {}
            texts |= {f"{stream}.csv": as_csv(part) for stream, part in streams.items()}
        elif kind == "json":
            texts |= {f"{stream}.json": as_json(part) for stream, part in streams.items()}
        elif kind == "svg":
            texts |= {"embedded.svg": svg(table)} if table else {}
        else:
            texts |= {f"{stream}.tex": as_latex(part) for stream, part in streams.items()}
    if not texts and everything:
        raise ValueError(
            f"{_named(stores)} holds runs on streams of one's own or of the middle tier alone, which have no picture: "
            "ask for markdown"
        )
    if not texts:
        raise ValueError(
            f"{_named(stores)} holds runs of published cells or on canvases alone, and only the page shows these: "
            "ask for html"
        )
    gone = [stream for stream in LISTED if stream not in streams]
    gone += [*([] if table else ["embedded"]), *([] if middle else ["middle"])]
    for path in [folder / f"{name}.{end}" for name in gone for end in ("md", "csv", "json", "tex", "svg")]:
        if path.exists():
            warnings.warn(f"{path} is out of date: no record of {path.stem} counts; delete it", stacklevel=2)
    return _write(folder, texts)


def write_docs(stores: Stores, folder: Path) -> list[Path]:
    """Write ``fidelity.md``, ``findings.md``, ``coverage.md`` and ``why-numbers-disagree.md``, each replaced whole,
    and, where there are runs, the pictures of the first and the last, of runs on canvases, and ``claims.svg``, the
    planned claims.

    :raises ValueError: there is no record to show.
    """
    of_recipes = [record for record in _counted(stores)[0] if record.recipe in RECIPES]
    counted = [record for record in of_recipes if record.stream in STREAMS]
    on_canvases = [record for record in of_recipes if record.stream in DENSE_STREAMS]
    pages = {
        "fidelity.md": fidelity.page(counted),
        "findings.md": findings.page([r for r in of_recipes if r.stream in LISTED | DENSE_STREAMS]),
        "coverage.md": coverage_page(),
        "why-numbers-disagree.md": disagree.page(counted),
    }
    if picture := disagree.picture(counted):
        pages[disagree.PICTURE] = picture
    if picture := fidelity.picture(counted):
        pages[fidelity.PICTURE] = picture
    if picture := forest.picture(_all_verdicts(of_recipes)):
        pages["claims.svg"] = picture
    if picture := dense_pages.picture(on_canvases):
        pages[dense_pages.PICTURE] = picture
    return _write(folder, pages)


def write_figures(stores: Stores, folder: Path, with_variants: bool = False) -> list[Path]:
    """Write the figures for papers and slides (:mod:`reclaim.benchmark.report.figures`), as SVG and PNG.

    :raises ValueError: there is no record to show, or matplotlib is not installed.
    """
    from . import figures

    counted, variants, outside = _counted(stores, with_variants)
    ranked = _ranked(counted)
    return figures.write(rows(ranked, variants, outside), check_cells(counted), folder, _all_verdicts(counted))


@dataclass(frozen=True)
class Account:
    """What the leaderboards show of a store, and what they leave out.

    :ivar left_out: why and what, of every other record and of every file that is none.
    """

    shown: int
    left_out: list[tuple[str, str]]

    def __str__(self) -> str:
        total = self.shown + len(self.left_out)
        names: dict[str, Counter[str]] = {}
        for why, what in self.left_out:
            names.setdefault(why, Counter())[what] += 1
        lines = [
            f"{self.shown} of {total} records are shown{f', {len(self.left_out)} are left out:' * (total > self.shown)}"
        ]
        for why, found in sorted(names.items(), key=lambda reason: -reason[1].total()):
            listed = "; ".join(f"{what}{f' ({n})' * (n > 1)}" for what, n in itertools.islice(found.items(), NAMED))
            more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
            lines.append(f"  {found.total()}: {why}: {listed}{more}")
        return "\n".join(lines)


def account(
    stores: Stores, formats: Iterable[str] = FORMATS[:-1], docs: bool = False, with_variants: bool = False
) -> Account:
    """What :func:`write` shows of the store's records and, with ``docs``, :func:`write_docs`."""
    records, problems, repeated = _load(stores)
    counted = list(zip(records, reasons(records), strict=True))
    checks = check_cells([record for record, reason in counted if reason is None])
    html = "html" in formats
    of_cells = {_place(run) for check in checks.values() for run in check.runs} if html else set()
    left_out = [("a file that cannot be read", str(problem.path)) for problem in problems]
    left_out += [("a run that another store has", note) for note in repeated]
    for record, reason in counted:
        if is_outside(record):
            (reason,) = why_not([record])
            why = reason.kind if reason else ""
        else:
            why = _why_left_out(record, reason, of_cells, html, docs, with_variants)
        if why:
            detail = f", {reason.detail}" if reason and reason.detail else ""
            left_out.append((why, f"{plain(record.recipe)} on {plain(record.stream)}{detail}"))
    return Account(len(records) + len(problems) + len(repeated) - len(left_out), left_out)


def _why_left_out(
    record: Record, reason: Reason | None, of_cells: Set[tuple[str, ...]], html: bool, docs: bool, with_variants: bool
) -> str:
    if _is_variant(record, reason):
        return "" if with_variants else f"{reason.kind} (--variants shows them)" if reason else ""
    if reason:
        return reason.kind
    if record.recipe not in RECIPES:
        return (
            ""
            if _place(record) in of_cells
            else "a run of a published cell, which the page alone shows (--format html)"
        )
    if record.stream in DENSE_STREAMS:
        return "" if html or docs else "a run on canvases (--format html shows it)"
    if record.stream not in LISTED:
        return "a recipe on a stream without a leaderboard"
    if RECIPES[record.recipe].fact and not docs:
        return "a recipe of docs/fidelity.md (--docs writes it)"
    return ""


def _place(record: Record) -> tuple[str, ...]:
    return record.recipe, record.stream, record.config_hash, str(record.seed)


def _is_variant(record: Record, reason: Reason | None) -> bool:
    """Whether it can be shown as another configuration of a recipe that is on the leaderboards."""
    return (
        reason is not None
        and reason.kind in (OTHER_CONFIGURATION, OTHER_WEIGHTS)
        and record.stream in LISTED
        and RECIPES[record.recipe].fact is None
        and "" not in differences(record.result["config"], RECIPES[record.recipe].config)
    )


def _counted(stores: Stores, with_variants: bool = False) -> tuple[list[Record], list[Record], list[Record]]:
    """The records that count (:func:`reclaim.benchmark.verdicts.counting.reasons`), with ``with_variants`` those of
    other configurations, and those from outside; damaged files are warned of and skipped.
    """
    records, problems, _ = _load(stores)
    for problem in problems:
        warnings.warn(f"skipped {problem}", stacklevel=3)
    why = list(zip(records, reasons(records), strict=True))
    counted = [record for record, reason in why if reason is None]
    variants = [record for record, reason in why if with_variants and _is_variant(record, reason)]
    from_outside = [record for record in records if is_outside(record)]
    outside = [record for record, reason in zip(from_outside, why_not(from_outside), strict=True) if reason is None]
    shown = [record for record in counted if record.recipe not in RECIPES or record.stream in DENSE_STREAMS]
    if not variants and not outside and not shown and not _ranked(counted):
        left_out = f"\n{account(stores)}" if records or problems else ""
        raise ValueError(
            "no records of any recipe's present configuration, or of a published cell by its paper's protocol, in "
            f"{_named(stores)}: make some with `reclaim run`{left_out}"
        )
    return counted, variants, outside


def _load(stores: Stores) -> tuple[list[Record], list[Problem], list[str]]:
    return merge([stores] if isinstance(stores, RecordStore) else stores)


def _named(stores: Stores) -> str:
    return ", ".join(str(s.root) for s in ([stores] if isinstance(stores, RecordStore) else stores))


def _ranked(counted: Sequence[Record]) -> list[Record]:
    """Those of recipes on streams; a recipe that turns a switch of the fidelity page is shown there."""
    return [r for r in counted if r.recipe in RECIPES and r.stream in LISTED and RECIPES[r.recipe].fact is None]


def _all_verdicts(counted: Sequence[Record]) -> list[ClaimVerdict]:
    """On the claims of every tier, each a family of its own: nothing is pooled."""
    return [verdict for tier in CLAIMS for verdict in judge_claims(counted, tier)]


def _write(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


# --- Markdown and LaTeX ---


def markdown(table: Sequence[Row], verdicts: Sequence[ClaimVerdict]) -> str:
    """The whole tier: a table per stream and group, then the verdicts on the claims."""
    ours = [row for row in table if not row.variant and not row.outside]
    validated = {row.recipe for row in ours if row.hyperparameters.startswith("validation")}
    introduction = templates().get_template("embedded.md")
    parts = [
        introduction.render(
            binomial=f"{100 * (0.25 / 2000) ** 0.5:.1f}",
            overlap=shared_classes() or "None",
            tuning=ends_of_grids(validated),
            ranks=RANKS,
            ties=TIES,
        )
    ]
    for stream in dict.fromkeys(row.stream for row in table):
        own = [row for row in table if row.stream == stream]
        parts.append(f"## {stream}\n\n{STREAMS[stream].description}.\n\n{_tables(own, 3)}")
    explained = f"{findings.differences()} {findings.EFFECT}"
    parts.append(f"## Claims\n\n{explained}\n\n{findings.claims_table(verdicts)}\n")
    return "\n".join(parts)


def middle_markdown(table: Sequence[Row], verdicts: Sequence[ClaimVerdict]) -> str:
    """The middle tier: a table per stream and group, then the verdicts on its claims, a family of their own."""
    ours = [row for row in table if not row.variant]
    tuning = ends_of_grids({row.recipe for row in ours if row.hyperparameters.startswith("validation")})
    reading = (
        "Means over n seeds with 95% Student-t intervals, in percent. A seed sets the class order and all random draws "
        "of training. Bytes kept are those that a method carries from one experience to the next. Seconds are the "
        f"median processor time of a run, evaluation included. {OF_FEATURES}"
    )
    parts = [
        f"# The middle tier\n\n**{MIDDLE_NOT_COMPARABLE}**\n\n{findings.TIERS_DIFFER}\n\n{reading}\n\n"
        f"{tuning} {RANKS} {TIES}\n"
    ]
    for stream in dict.fromkeys(row.stream for row in table):
        own = [row for row in table if row.stream == stream]
        parts.append(f"## {stream}\n\n{own[0].definition.description}.\n\n{_tables(own, 3)}")
    explained = f"{findings.differences('middle')} {findings.EFFECT}"
    parts.append(f"## Claims\n\n{explained}\n\n{findings.claims_table(verdicts)}\n")
    return "\n".join(parts)


def stream_markdown(table: Sequence[Row]) -> str:
    """One stream alone."""
    stream = table[0].definition
    if table[0].own:
        reading = "Means over n seeds with 95% Student-t intervals, in percent."
    else:
        board = f"{stream.tier}.md"
        reading = f"How to read this: [{board}]({board})."
    explained = f"{markdown_text(stream.description)}. {reading}\n\n{RANKS} {TIES}"
    return f"# {stream.name}\n\n**{table[0].note}**\n\n{explained}\n\n{_tables(table, 2)}"


def as_latex(table: Sequence[Row]) -> str:
    """One stream as a table per group, for the packages booktabs and graphicx, which shrinks what is wider than the
    text; the text is UTF-8.
    """
    header = ("Rank", "Not separated from", "Method", "n", *SHOWN.values(), "Bytes kept")
    align = ("right", "left", "left", *["right"] * (len(header) - 3))
    # in the table itself: a comment does not show in a paper
    label = LABEL_OF_TIER.get(table[0].definition.tier, LABEL_OF_ONES_OWN)
    last = f"\\midrule\n\\multicolumn{{{len(header)}}}{{l}}{{\\footnotesize {label}}} \\\\\n"
    parts = []
    for group, members in by_group(table):
        lines = [
            (
                _rank(row),
                ties(row, members),
                row.title,
                len(row.seeds),
                *_accuracies(row),
                f"{row.bytes_kept:,}",
            )
            for row in members
        ]
        tabular = tabulate(lines, header, tablefmt="latex_booktabs", disable_numparse=True, colalign=align)
        parts.append(
            f"% {group.stream}: {group}. {table[0].note}\n% Means over n seeds in percent, and ranks, with "
            f"95% intervals. {TIES}\n{f'% {EXTERNAL}{chr(10)}' if any(row.outside for row in members) else ''}"
            + "{\\setlength{\\tabcolsep}{3pt}\\noindent\n"
            + "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%\n"
            + tabular.replace("\\bottomrule", f"{last}\\bottomrule")
            + "}\\par}\n"
        )
    return "\n".join(["% needs \\usepackage{booktabs, graphicx}", *parts])


def _tables(table: Sequence[Row], level: int) -> str:
    header = ("rank, not separated from", "method", ", ".join(SHOWN.values()), "cost and choice")
    parts = []
    for group, members in by_group(table):
        lines = [
            (
                f"{_rank(row)}<br>{ties(row, members)}",
                f"{markdown_text(row.title)}<br>`{row.key if row.told else row.recipe}`, n = {len(row.seeds)}",
                f"**{_accuracies(row)[0]}**<br>{', '.join(_accuracies(row)[1:])}",
                f"{row.bytes_kept:,} bytes kept, {row.trained_parameters:,} trained, {time_in_words(row)} s"
                f"<br>{row.hyperparameters}",
            )
            for row in members
        ]
        parts.append(f"{'#' * level} {markdown_text(str(group))}\n\n{markdown_table(lines, header, padded=False)}\n")
        if any(row.variant for row in members):
            parts.append(f"{VARIANTS}\n")
        if any(row.outside for row in members):
            parts.append(f"{EXTERNAL}\n")
    return "\n".join(parts)


def _rank(row: Row) -> str:
    return f"{row.rank.rank} [{row.rank.low}, {row.rank.high}]" if row.rank else "-"


def _accuracies(row: Row) -> list[str]:
    return ["-" if row.joint and column != "last_acc" else str(row.numbers[column]) for column in SHOWN]


# --- CSV, JSON and the picture ---


def as_csv(table: Sequence[Row]) -> str:
    """All numbers, unrounded: mean, standard deviation and the ends of the 95% interval of each."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    variants, outside = any(row.variant for row in table), any(row.outside for row in table)
    statistics = [f"{column}_{part}" for column in COLUMNS for part in ("mean", "std", "low", "high")]
    writer.writerow(
        ["stream", "tier", "recipe", "n", *statistics, *OTHERS, "rank", "rank_low", "rank_high", "ranked", "tied_with"]
        + ["variant"] * variants
        + ["external", "settings"] * outside
    )
    for row in table:
        summaries = [row.numbers.get(column) for column in COLUMNS]
        numbers = [v for m in summaries for v in ((m.mean, m.std, *(m.interval or (None, None))) if m else (None,) * 4)]
        ranks = (
            (row.rank.rank, row.rank.low, row.rank.high, row.ranked, " ".join(row.rank.tied_with))
            if row.rank
            else (None,) * 5
        )
        marks = [" ".join(row.external) or "true" if row.outside else "", "; ".join(row.told)]
        writer.writerow(
            [
                row.stream,
                row.definition.tier,
                row.recipe,
                len(row.seeds),
                *numbers,
                *(getattr(row, name) for name in OTHERS),
                *ranks,
            ]
            + ["; ".join(row.variant)] * variants
            + marks * outside
        )
    return buffer.getvalue()


def as_json(table: Sequence[Row]) -> str:
    """One stream: the numbers of the CSV file, the curves and the mean accuracy matrices, to six decimals; a line for
    each recipe.
    """
    stream = table[0].definition
    head = {"tier": stream.tier, "note": table[0].note, "stream": stream.name, "classes_per_experience": stream.sizes}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    recipes = ",\n".join(f"  {json.dumps(_as_dict(row))}" for row in table)
    return "{\n" + ",\n".join([*lines, f' "rows": [\n{recipes}\n ]']) + "\n}\n"


def _as_dict(row: Row) -> dict[str, Any]:
    rank = row.rank
    return {
        "recipe": row.recipe,
        "title": row.title,
        **({"variant": row.variant} if row.variant else {}),
        **({"external": row.external or True} if row.outside else {}),
        **({"settings": row.told} if row.told else {}),
        "seeds": row.seeds,
        "rank": rank
        and {"rank": rank.rank, "low": rank.low, "high": rank.high, "of": row.ranked, "tied_with": rank.tied_with},
        "reference": row.joint,
        **{name: getattr(row, name) for name in OTHERS},
        "numbers": {column: _summary(summary) for column, summary in row.numbers.items()},
        "curves": {key: [_summary(summary) for summary in curve] for key, curve in row.curves.items()},
        "matrices": {
            key: [[round(value, DECIMALS) for value in line] for line in matrix] for key, matrix in row.matrices.items()
        },
    }


def _summary(summary: MeanInterval) -> dict[str, Any]:
    """Mean, and where there is more than one seed standard deviation and interval."""
    values = {"mean": summary.mean, "std": summary.std}
    if summary.interval:
        values |= {"low": summary.interval[0], "high": summary.interval[1]}
    return {key: round(value, DECIMALS) for key, value in values.items() if value is not None}


def svg(table: Sequence[Row]) -> str:
    """The picture of the first stream of :data:`PICTURED` that has rows; recipes that are tuned as another are left to
    the table.
    """
    pictured = [row for row in table if row.outside or not RECIPES[row.recipe].tuned_as] or list(table)
    stream = next(name for name in PICTURED if any(row.stream == name for row in pictured))
    pictured = [row for row in pictured if row.stream == stream]
    groups = [
        (str(p), [(plain(r.title, PICTURE), r.numbers["last_acc"]) for r in members])
        for p, members in by_group(pictured)
    ]
    n = sorted({len(row.seeds) for row in pictured})
    seeds = f"{n[0]} seeds" if n[0] == n[-1] else f"{n[0]} to {n[-1]} seeds"
    return dot_plot(f"{stream}: embedded tier, {seeds}", "Last-Acc in percent, mean and 95% interval", groups)
