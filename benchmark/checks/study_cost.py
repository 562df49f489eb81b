"""What the runs of all published cells cost on one device, and how long they take on several: `make study-cost` reads
the store of `reclaim rehearse` and writes the tables and the picture of docs/scaling.md. It runs nothing.

Runs of other data sets, losses, epochs and batch sizes are projected from a timed rehearsal of their kind.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ..config import Config
from ..data.streams import Stream
from ..files import write_text
from ..papers.protocols import covered_runs
from ..records.record import Record
from ..records.store import RecordStore
from ..verdicts.study import count
from .scaling import pyplot
from .speed_table import put

DEVICES = (1, 8, 64)
PICTURE = "study-makespan.svg"
BEGIN, END = "<!-- make study-cost: begin -->", "<!-- make study-cost: end -->"


@dataclass(frozen=True)
class Cost:
    """What a run with one seed takes on one device.

    :ivar hours: the least and the most; None: not known, ``unknown`` says why.
    """

    paper: str
    run: str
    stream: str
    seeds: int
    hours: tuple[float, float] | None
    unknown: str = ""


def costs(rehearsals: Sequence[Record]) -> list[Cost]:
    """Of each run of a published cell, for as many seeds as its paper has."""
    from ..training.rehearsal import kind, project  # imported late: it needs torch

    measured: dict[tuple[Any, ...], list[Record]] = {}
    for record in rehearsals:
        if "steps" not in record.provenance["rehearsal"]:
            continue
        measured.setdefault(kind(record.result["config"]), []).append(record)

    def cost(name: str, config: Config, stream: Stream, seeds: int) -> Cost:
        alike = measured.get(kind(config.as_dict()), [])
        own = sorted(alike, key=lambda record: record.stream != stream.name)  # of the same data set, if there is one
        reason = "nothing of its kind was rehearsed"
        for record in own:
            projection = project(record.provenance["rehearsal"], config, stream)
            if projection.seconds:
                least, most = (seconds / 3600 for seconds in projection.seconds)
                return Cost(name.partition(".")[0], name, stream.name, seeds, (least, most))
            reason = projection.unknown
        return Cost(name.partition(".")[0], name, stream.name, seeds, None, reason)

    runs = {(recipe.name, stream.name): (recipe, stream, seeds) for recipe, stream, seeds in covered_runs()}
    return [cost(recipe.name, recipe.config, stream, max(1, len(seeds))) for recipe, stream, seeds in runs.values()]


def makespan(hours: Sequence[float], devices: int) -> float:
    """Hours until the last run ends, if the longest begin first and each device takes the next when it is free."""
    free_at = [0.0] * devices
    for run in sorted(hours, reverse=True):
        heapq.heapreplace(free_at, free_at[0] + run)
    return max(free_at)


def page(found: Sequence[Cost], device: str) -> str:
    """Markdown: what each paper costs, how it is laid out, and what is not known."""
    known = [cost for cost in found if cost.hours]
    rows = []
    for paper in dict.fromkeys(cost.paper for cost in found):
        own = [cost for cost in known if cost.paper == paper]
        runs = f"{sum(cost.seeds for cost in own)} of {sum(cost.seeds for cost in found if cost.paper == paper)}"
        least, most = (sum(cost.seeds * cost.hours[i] for cost in own if cost.hours) for i in (0, 1))
        longest = max((math.fsum(cost.hours) / 2 for cost in own if cost.hours), default=0.0)
        rows.append([paper, runs, f"{least:,.0f} to {most:,.0f}", f"{longest:,.0f}"])
    each = hours_of_runs(known)
    layout = []
    for devices in DEVICES:
        span = makespan(each, devices)
        layout.append([devices, f"{span:,.0f}", f"{span / 24:,.1f}", f"{sum(each) / devices / span:.0%}"])
    text = [
        tabulate(rows, ["paper", "runs, by seeds", "hours", "longest run, hours"], "pipe", disable_numparse=True),
        f"On one device: {device}. Hours as projected, the least and the most. Laid out over several, by their middle:",
        tabulate(layout, ["devices", "hours", "days", "busy"], "pipe", disable_numparse=True),
        f"![Hours until the last run ends, against the number of devices]({PICTURE})",
    ]
    for reason in dict.fromkeys(cost.unknown for cost in found if not cost.hours):
        streams: dict[str, list[str]] = {}
        for cost in found:
            if cost.unknown == reason:
                streams.setdefault(cost.run, []).append(cost.stream)
        named = [f"{run} on {', '.join(on)}" for run, on in streams.items()]
        text.append(f"Not known ({reason}): {'; '.join(named)}.")
    return "\n\n".join(text)


def hours_of_runs(known: Sequence[Cost]) -> list[float]:
    """The middle of what each run takes, a number for each seed."""
    return [math.fsum(cost.hours) / 2 for cost in known if cost.hours for _ in range(cost.seeds)]


def draw(hours: Sequence[float], target: Path) -> None:
    """The picture, an SVG."""
    numbers = [2**n for n in range(11)]
    figure, axes = pyplot().subplots(figsize=(5.4, 3.6))
    axes.loglog(numbers, [sum(hours) / n for n in numbers], "--", color="0.6", label="all devices busy")
    axes.loglog(numbers, [makespan(hours, n) for n in numbers], "o-", label="longest runs first")
    axes.axhline(max(hours), color="0.6", linestyle=":", label="the longest run")
    axes.set_xlabel("devices")
    axes.set_ylabel("hours")
    axes.legend()
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def _processor(provenance: Mapping[str, Any]) -> str:
    return f"{provenance['cpu_model']}, {count(provenance['threads'], 'thread')}"


def main(store: Path, target: Path) -> None:
    """Read the rehearsals, and write into a page and a picture beside it.

    :raises ValueError: the store holds no rehearsal, those of several devices, or none that a time is known of.
    """
    records = [record for record in RecordStore(store).load()[0] if record.result.get("rehearsal")]
    devices = sorted({r.provenance["accelerator"] or _processor(r.provenance) for r in records})
    if len(devices) != 1:
        raise ValueError(
            f"{store} has rehearsals of {len(devices)} kinds of device{': ' if devices else ''}"
            f"{'; '.join(devices)}: give the --records of one `reclaim rehearse`"
        )
    found = costs(records)
    known = [cost for cost in found if cost.hours]
    if not known:
        raise ValueError(f"no time can be projected from {store}: {'; '.join({cost.unknown for cost in found})}")
    draw(hours_of_runs(known), target.parent / PICTURE)
    write_text(target, put(target.read_text("utf-8"), page(found, devices[0]), (BEGIN, END)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
