"""What the runs of all published cells cost on one device, and how long they take on several: `make study-cost` writes
the tables and the pictures of docs/scaling.md. It runs nothing.

Of a GPU that timm's authors measured, by the number of images alone. Of one's own device, from the store of
`reclaim rehearse`: runs of other data sets, losses, epochs and batch sizes are projected from a timed rehearsal of
their kind.
"""

from __future__ import annotations

import heapq
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reclaim.strategies.backbones import RESNET50_CIFAR
from tabulate import tabulate

from ..config import Config
from ..data.streams import Stream
from ..files import write_text
from ..papers.protocols import covered_runs
from ..records.record import Record
from ..records.store import RecordStore
from ..training.rehearsal import Projection, kind, project
from ..verdicts.study import count
from .scaling import pyplot
from .speed_table import put

DEVICES = (1, 8, 64)
PICTURE, GPU_PICTURE = "study-makespan.svg", "study-makespan-gpu.svg"
BEGIN, END = "<!-- make study-cost: begin -->", "<!-- make study-cost: end -->"
GPU_BEGIN, GPU_END = "<!-- make study-cost, GPU: begin -->", "<!-- make study-cost, GPU: end -->"

GPU = "RTX 3090, by timm's throughput"
_RESNET_SMALLER = 4.11 / 1.30  # GMACs of an image of 224 x 224 in timm's ResNet-50, and of 32 x 32 in ours
GPU_RATES = {
    "vit_base_patch16_224": (390.86, 1209.0),
    RESNET50_CIFAR: (826.06 * _RESNET_SMALLER, 3025.4 * _RESNET_SMALLER),
}
"""Images a second, trained and tested, of a backbone whose name begins so. timm publishes them for an RTX 3090 in mixed
precision, in its results/: ``benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv`` and
``benchmark-infer-amp-nchw-pt113-cu117-rtx3090.csv``. Those of its ResNet-50 are multiplied by its work over ours.
"""


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
    """Of each run of a published cell, on the device of the rehearsals."""
    measured: dict[tuple[Any, ...], list[Record]] = {}
    for record in rehearsals:
        if "steps" not in record.provenance["rehearsal"]:
            continue
        measured.setdefault(kind(record.result["config"]), []).append(record)

    def projection(config: Config, stream: Stream) -> Projection:
        found = Projection(None, "nothing of its kind was rehearsed", 0.0)
        alike = measured.get(kind(config.as_dict()), [])
        for record in sorted(alike, key=lambda record: record.stream != stream.name):  # of the same data set first
            found = project(record.provenance["rehearsal"], config, stream)
            if found.seconds:
                break
        return found

    return _of_each_run(projection)


def gpu_costs() -> list[Cost]:
    """Of each run of a published cell, if the GPU does nothing but pass all images through a plain backbone."""

    def steps(rate: float) -> list[tuple[int, float]]:
        return [(images, images / rate) for images in (2, 1)]

    def projection(config: Config, stream: Stream) -> Projection:
        rates = next((rates for name, rates in GPU_RATES.items() if config.backbone.startswith(name)), None)
        if rates is None:
            return Projection(None, f"no throughput of {config.backbone} is known", 0.0)
        measured: dict[str, Any] = {
            "steps": steps(rates[0]),
            "later_steps": steps(rates[0]),
            "tests": steps(rates[1]),
            **dict.fromkeys(("load_seconds", "closing_seconds", "activation_bytes_per_image", "fixed_bytes"), 0.0),
        }
        return project(measured, config, stream)

    return _of_each_run(projection)


def _of_each_run(projection: Callable[[Config, Stream], Projection]) -> list[Cost]:
    """For as many seeds as its paper has."""
    found = []
    runs = {(recipe.name, stream.name): (recipe, stream, seeds) for recipe, stream, seeds in covered_runs()}
    for recipe, stream, seeds in runs.values():
        of_run = projection(recipe.config, stream)
        hours = of_run.seconds and (of_run.seconds[0] / 3600, of_run.seconds[1] / 3600)
        paper = recipe.name.partition(".")[0]
        found.append(Cost(paper, recipe.name, stream.name, max(1, len(seeds)), hours, of_run.unknown))
    return found


def makespan(hours: Sequence[float], devices: int) -> float:
    """Hours until the last run ends, if the longest begin first and each device takes the next when it is free."""
    free_at = [0.0] * devices
    for run in sorted(hours, reverse=True):
        heapq.heapreplace(free_at, free_at[0] + run)
    return max(free_at)


def page(found: Sequence[Cost], device: str, picture: str) -> str:
    """Markdown: what each paper costs, how it is laid out, and what is not known."""
    known = [cost for cost in found if cost.hours]
    rows = []
    for paper in dict.fromkeys(cost.paper for cost in found):
        own = [cost for cost in known if cost.paper == paper]
        runs = f"{sum(cost.seeds for cost in own)} of {sum(cost.seeds for cost in found if cost.paper == paper)}"
        least, most = (sum(cost.seeds * cost.hours[i] for cost in own if cost.hours) for i in (0, 1))
        longest = max((math.fsum(cost.hours) / 2 for cost in own if cost.hours), default=0.0)
        hours = _hours(least) if math.isclose(least, most) else f"{_hours(least)} to {_hours(most)}"
        rows.append([paper, runs, hours, _hours(longest)])
    each = hours_of_runs(known)
    layout = []
    for devices in DEVICES:
        span = makespan(each, devices)
        layout.append([devices, _hours(span), f"{span / 24:,.1f}", f"{sum(each) / devices / span:.0%}"])
    text = [
        tabulate(rows, ["paper", "runs, by seeds", "hours", "longest run, hours"], "pipe", disable_numparse=True),
        f"On one device: {device}. Hours as projected. Laid out over several, by the middle of the least and the most:",
        tabulate(layout, ["devices", "hours", "days", "busy"], "pipe", disable_numparse=True),
        f"![Hours until the last run ends, against the number of devices]({picture})",
    ]
    for reason in dict.fromkeys(cost.unknown for cost in found if not cost.hours):
        streams: dict[str, list[str]] = {}
        for cost in found:
            if cost.unknown == reason:
                streams.setdefault(cost.run, []).append(cost.stream)
        named = [f"{run} on {', '.join(on)}" for run, on in streams.items()]
        text.append(f"Not known ({reason}): {'; '.join(named)}.")
    return "\n\n".join(text)


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}"


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


def _write(target: Path, found: Sequence[Cost], device: str, picture: str, marks: tuple[str, str]) -> None:
    draw(hours_of_runs([cost for cost in found if cost.hours]), target.parent / picture)
    write_text(target, put(target.read_text("utf-8"), page(found, device, picture), marks))


def main(target: Path, store: Path | None = None) -> None:
    """Write into a page, and pictures beside it.

    :param store: of rehearsals; None: what they say stays as it is.
    :raises ValueError: the store holds no rehearsal, those of several devices, or none that a time is known of.
    """
    if store is not None:
        found, device = _rehearsed(store)
        _write(target, found, device, PICTURE, (BEGIN, END))
    _write(target, gpu_costs(), GPU, GPU_PICTURE, (GPU_BEGIN, GPU_END))


def _rehearsed(store: Path) -> tuple[list[Cost], str]:
    """What the rehearsals of a store say, and the device that made them."""
    records = [record for record in RecordStore(store).load()[0] if record.result.get("rehearsal")]
    devices = sorted({r.provenance["accelerator"] or _processor(r.provenance) for r in records})
    if len(devices) != 1:
        raise ValueError(
            f"{store} has rehearsals of {len(devices)} kinds of device{': ' if devices else ''}"
            f"{'; '.join(devices)}: give the --records of one `reclaim rehearse`"
        )
    found = costs(records)
    if not any(cost.hours for cost in found):
        raise ValueError(f"no time can be projected from {store}: {'; '.join({cost.unknown for cost in found})}")
    return found, devices[0]


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
