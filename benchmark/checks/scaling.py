"""How time and memory of classifier alignment grow with classes, tasks and features: `make scaling` measures it, in a
process for each size, and writes the table and the picture of docs/performance.md.
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from ..files import write_text
from .speed_table import put

SAMPLES = 8
"""Features drawn of each class: one epoch of few, for time grows with their number and memory does not."""
IMAGES = 20
"""Of each class, whose statistics are fitted."""
PICTURE = "alignment-scaling.svg"
BEGIN, END = "<!-- make scaling: begin -->", "<!-- make scaling: end -->"


@dataclass(frozen=True)
class Size:
    classes: int
    tasks: int
    features: int
    covariance: str


AXES: dict[str, list[Size]] = {
    "classes": [
        *(Size(n, 10, 768, "full") for n in (10, 30, 100, 300, 1000)),
        *(Size(n, 10, 768, "shared") for n in (10, 100, 1000, 10_000)),
        *(Size(n, 10, 768, "low-rank") for n in (10, 100, 1000, 10_000)),
    ],
    "tasks": [Size(200, n, 768, "full") for n in (2, 5, 10, 20, 50, 100)],
    "features": [Size(100, 10, n, "full") for n in (64, 128, 256, 512, 1024, 2048)],
}
"""What grows -> sizes at which it is measured."""


@dataclass(frozen=True)
class Cost:
    """Of fitting the statistics and of one epoch of alignment.

    :ivar fit_seconds, align_seconds: processor time.
    :ivar peak_bytes: the most memory, less what the process had before.
    """

    fit_seconds: float
    align_seconds: float
    peak_bytes: int


def measure(size: Size) -> Cost:
    """The cost in this process, on one thread."""
    import torch  # a page that is written needs none of it
    from reclaim.strategies.gaussians import ClassGaussians
    from reclaim.strategies.heads import TaskHeads
    from reclaim.strategies.slca import align_heads

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    before = _peak()
    heads, gaussians = TaskHeads(size.features), ClassGaussians(covariance=size.covariance)  # type: ignore[arg-type]
    bounds = np.linspace(0, size.classes, size.tasks + 1).astype(int)
    fitting = 0.0
    for task, (first, last) in enumerate(pairwise(bounds)):
        if first == last:
            continue
        heads.add_head(range(first, last))
        targets = torch.arange(first, last).repeat_interleave(IMAGES)
        features = torch.randn(len(targets), size.features, generator=generator)
        start = time.process_time()
        gaussians.fit(features, targets, task)
        fitting += time.process_time() - start
    start = time.process_time()
    align_heads(heads, gaussians, epochs=1, samples_per_class=SAMPLES, generator=generator)
    return Cost(fitting, time.process_time() - start, _peak() - before)


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """b of values = a sizes^b, by least squares of the logarithms over the larger half, where constants matter less."""
    half = len(sizes) // 2
    return float(np.polyfit(np.log(sizes[half:]), np.log(values[half:]), 1)[0])


def page(found: dict[str, list[tuple[Size, Cost]]]) -> str:
    """Markdown: a row for each axis and kind of covariance."""
    rows = []
    for axis, measured in found.items():
        for kind in dict.fromkeys(size.covariance for size, _ in measured):
            chosen = [(getattr(s, axis), s, c) for s, c in measured if s.covariance == kind]
            values, sizes, costs = zip(*chosen, strict=True)
            fixed = ", ".join(f"{v} {k}" for k, v in asdict(sizes[0]).items() if k not in (axis, "covariance"))
            rows.append(
                [
                    f"{axis} {values[0]} to {values[-1]}; {fixed}",
                    kind,
                    f"{exponent(values, [c.fit_seconds for c in costs]):.2f}",
                    f"{exponent(values, [c.align_seconds for c in costs]):.2f}",
                    f"{exponent(values, [max(c.peak_bytes, 1) for c in costs]):.2f}",
                    f"{costs[-1].fit_seconds:.1f} s, {costs[-1].align_seconds:.1f} s, "
                    f"{costs[-1].peak_bytes / 2**30:.2f} GiB",
                ]
            )
    header = ["what grows", "covariance", "fitting ~", "aligning ~", "memory ~", "at the largest"]
    where = f"{platform.machine()}, one thread, {date.today()}."
    picture = f"![Time and memory of alignment against classes, tasks and features]({PICTURE})"
    return f"{tabulate(rows, header, tablefmt='pipe', disable_numparse=True)}\n\n{where}\n\n{picture}"


def pyplot() -> Any:
    """matplotlib's, for files alone: the same numbers give the same SVG. Needs the extra ``figures``."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "reclaim"
    from matplotlib import pyplot

    return pyplot


def draw(found: dict[str, list[tuple[Size, Cost]]], target: Path) -> None:
    """The picture, an SVG."""
    figure, panels = pyplot().subplots(2, len(found), figsize=(3.6 * len(found), 5.4), sharey="row", squeeze=False)
    for column, (axis, measured) in enumerate(found.items()):
        for kind in dict.fromkeys(size.covariance for size, _ in measured):
            chosen = [(getattr(s, axis), c) for s, c in measured if s.covariance == kind]
            values = [value for value, _ in chosen]
            panels[0][column].loglog(values, [c.fit_seconds + c.align_seconds for _, c in chosen], "o-", label=kind)
            panels[1][column].loglog(values, [max(c.peak_bytes, 1) / 2**30 for _, c in chosen], "o-", label=kind)
        panels[1][column].set_xlabel(axis)
        panels[0][column].legend()
    panels[0][0].set_ylabel("processor time, s")
    panels[1][0].set_ylabel("memory, GiB")
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


def main(target: Path) -> None:
    """Measure everything and write it into a page and a picture beside it."""
    found: dict[str, list[tuple[Size, Cost]]] = {axis: [] for axis in AXES}
    with tqdm(total=sum(map(len, AXES.values())), unit="size") as bar:
        for axis, sizes in AXES.items():
            for size in sizes:
                command = [sys.executable, "-m", __spec__.name, json.dumps(asdict(size))]
                said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[axis].append((size, Cost(**json.loads(said.splitlines()[-1]))))
                bar.update()
    draw(found, target.parent / PICTURE)
    write_text(target, put(target.read_text("utf-8"), page(found), (BEGIN, END)))


if __name__ == "__main__":
    if sys.argv[1].startswith("{"):
        print(json.dumps(asdict(measure(Size(**json.loads(sys.argv[1]))))))
    else:
        main(Path(sys.argv[1]))
