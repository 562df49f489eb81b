"""One thing in full, as text: what `reclaim show NAME` prints."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence

from ..config import flatten, shown
from ..data.streams import Stream
from ..papers.facts import FACTS, Switch
from ..papers.kinds import UNKNOWN, kind_of, together
from ..papers.protocols import Protocol, Uncovered, commands, find_run, protocol_of, run_of
from ..papers.published import CLAIMS, Claim, cells, claims
from ..papers.sources import NATURAL
from ..recipes import Recipe
from ..records.metrics import AVERAGED, METRICS
from ..records.record import Record, metric_of, metrics_of
from ..stats.estimates import mean_interval
from ..verdicts.cells import check_cells
from ..verdicts.claims import judge_claims
from .tables import table


def show_recipe(recipe: Recipe, records: Sequence[Record], width: int | None = None) -> str:
    """Settings, scores on record and the verdicts of the claims about a recipe.

    :param records: those that count (:func:`~reclaim.benchmark.verdicts.counting.current`).
    :param width: of the tables.
    """
    chosen = "nothing to choose"
    if recipe.grid:
        chosen = f"{recipe.hyperparameters_from}; grid {json.dumps(dict(recipe.grid))}"
    if recipe.tuned_as:
        chosen = f"those of {recipe.tuned_as}"
    settings = [(key, shown(value)) for key, value in flatten(recipe.config.as_dict()).items()]
    own: dict[str, list[Record]] = {}
    for record in records:
        if record.recipe == recipe.name:
            own.setdefault(record.stream, []).append(record)
    scores = [f"{scores_table(runs, width)}\n{_kind_of_runs(runs)}" for runs in own.values()]
    return "\n".join(
        [
            f"{recipe.name}: {recipe.title}",
            recipe.description,
            f"tier: {recipe.tier}",
            f"home stream: {recipe.home}",
            f"hyper-parameters: {chosen}",
            "",
            table(settings, ("setting", "value"), width),
            "",
            "\n\n".join(scores) or "no record of its present configuration in the store",
            *(["", verdicts] if (verdicts := _verdicts(recipe, records, width)) else []),
        ]
    )


def _kind_of_runs(records: Sequence[Record]) -> str:
    """What the numbers of a table of scores are."""
    if records[0].dense:
        return "mean over the classes, on all test canvases"
    over: dict[str, list[str]] = {}
    for metric, averaged in AVERAGED.items():
        if not math.isnan(metric_of(records[0], metric)):
            over.setdefault(averaged, []).append(metric)
    kind = together(kind_of(record, METRICS[0]) for record in records)
    means = "; ".join(f"mean over {averaged}: {', '.join(metrics)}" for averaged, metrics in over.items())
    return f"{str(kind).replace(f'; mean over {kind.averaged}', '')}; {means}"


def scores_table(records: Sequence[Record], width: int | None = None) -> str:
    """Mean, sample standard deviation and 95% t interval of every metric; percent, points or nats.

    :param records: of one recipe on one stream.
    """
    rows = []
    for metric in metrics_of(records):
        values = [metric_of(record, metric) for record in records]
        if any(map(math.isnan, values)):  # no entropy where nothing is trained
            continue
        summary = mean_interval(values)
        interval = "none (one run)"
        if summary.interval:
            interval = f"{summary.interval[0]:.2f} to {summary.interval[1]:.2f}"
        std = "-" if summary.std is None else f"{summary.std:.2f}"
        rows.append((metric, f"{summary.mean:.2f}", std, interval))
    title = f"{records[0].recipe} on {records[0].stream}, n = {len(records)}"
    return table(rows, (title, "mean", "std", "95% interval"), width)


def show_cells(run: str, records: Sequence[Record], width: int | None = None) -> str:
    """The published values of a paper's run beside those of these records, and the verdicts.

    :param run: its name (:func:`~reclaim.benchmark.papers.protocols.run_of`).
    :param records: of that run.
    """
    judged = check_cells(records, papers=[run.partition("/")[0]])
    checks = [judged[cell.id] for cell in cells() if run_of(cell) == run]
    if not checks:
        return f"{run}: no published value to compare with"
    rows = []
    about: dict[str, list[str]] = {}
    for check in checks:
        _, ours, published, _, margin, verdict, _, predicted = check.row()
        rows.append((check.cell.metric, ours, published, margin, verdict, predicted))
        for note in filter(None, (*check.sides, check.problem, *check.remarks)):
            about.setdefault(note, []).append(check.cell.metric)
    header = (run, "ours", "published", "margin", "verdict", "prediction interval")
    known = {remark for record in records for remark in record.result.get("remarks", ())}  # named with the scores
    notes = [
        f"note: {note}" if len(metrics) == len(checks) else f"note: {', '.join(metrics)}: {note}"
        for note, metrics in about.items()
        if note not in known
    ]
    return "\n".join([table(rows, header, width), *notes])


def _verdicts(recipe: Recipe, records: Sequence[Record], width: int | None) -> str:
    rows = [
        (verdict.claim.id, str(verdict.claim), verdict.claim.stream, verdict.outcome, str(verdict))
        for tier in CLAIMS
        for verdict in judge_claims(records, tier)
        if recipe.name in (verdict.claim.better, verdict.claim.worse)
    ]
    return table(rows, ("claim", "says", "stream", "verdict", "difference"), width) if rows else ""


def show_stream(stream: Stream) -> str:
    """Classes and tier of a stream."""
    sizes = ", ".join(map(str, stream.sizes))
    return f"{stream.name}: {stream.description}\nclasses per experience: {sizes}\ntier: {stream.tier}"


def show_claim(name: str, records: Sequence[Record], width: int | None = None) -> str:
    """A claim as it was written down, and its verdict over the records that count."""
    (claim,) = (claim for tier in CLAIMS for claim in claims(tier) if claim.id == name)
    (verdict,) = (verdict for verdict in judge_claims(records, claim.tier) if verdict.claim.id == name)
    return table([*_fields(claim), ("verdict", verdict.outcome), ("difference", str(verdict))], width=width)


def _fields(claim: Claim) -> list[tuple[str, object]]:
    return [(key, value) for key, value in vars(claim).items() if value not in (None, "")]


def show_run(name: str, width: int | None = None) -> str:
    """A paper's run, or the run of a cell: the published numbers, the protocol with its sources, how to run it.

    :raises ValueError: there is none of that name.
    """
    run = find_run(name)
    protocol, numbers = protocol_of(run), [cell for cell in cells() if run_of(cell) == run]
    lines = []
    for cell in numbers:
        spread = "" if cell.published.std is None else f" +- {cell.published.std:g}"
        runs = cell.published.n or "not known"
        lines.append(
            f"published: {cell.metric} {cell.published.mean:g}{spread}, n = {runs}; margin {cell.table.margin:g}"
        )
        lines.append(f"  {cell.kind}{', its hash unknown' if cell.kind.split_sha256 == UNKNOWN else ''}")
        lines += [f"{again.kind}: {cell.metric} {again.value:g} ({again.source})" for again in cell.reruns]
    lines += [] if numbers else ["published: no number here"]
    if isinstance(protocol, Uncovered):
        return "\n".join([run, *lines, f"cannot be run: {protocol.reason}"])
    recipe, stream = protocol.recipe, protocol.stream
    rows = [(key, shown(value), source) for key, (value, source) in protocol.settings.items()]
    return "\n".join(
        [
            f"{run}: {recipe.title}",
            f"{stream.name}: {stream.description}",
            *lines,
            f"the paper's seeds: {', '.join(map(str, protocol.seeds)) or 'not known'}",
            f"recorded as: {recipe.name}",
            *([f"setting: {NATURAL}, for the paper states none"] if protocol.natural else []),
            "",
            table(rows, ("setting", "value", "source"), width),
            "",
            *(f"note: {remark}" for remark in protocol.remarks),
            *(line for fact in protocol.facts for line in _fact(fact, protocol)),
            "",
            *(f"run it: {command}" for command in commands(run)),
        ]
    )


def _fact(fact: str, protocol: Protocol) -> list[str]:
    """An entry of docs/fidelity.md, and which of its settings this protocol has."""
    entry = next(entry for entry in FACTS if entry.id == fact)
    if not isinstance(entry, Switch):
        return [f"{fact}: {entry.text}"]
    here = [
        f"{key}={shown(value)}"
        for key, (value, source) in protocol.settings.items()
        if re.search(rf"\b{fact}\b", source)
    ]
    return [
        f"{fact}, {entry.title}",
        f"  text: {entry.text}",
        f"  code: {entry.code}",
        f"  here: {', '.join(here) or 'see the notes'}",
    ]
