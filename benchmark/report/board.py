"""Rows of a leaderboard: a recipe on a stream over its seeds, and its rank among those of the same group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np

from ..config import QUICKDRAW_VIT, differences
from ..data.streams import STREAMS, pretraining_overlap
from ..recipes import RECIPES
from ..records.record import Record, metric_of
from ..stats.estimates import MeanInterval, mean_interval
from ..stats.ranking import RankInterval, rank_intervals
from ..verdicts.counting import OTHER_WEIGHTS

COLUMNS = (
    "last_acc",
    "inc_acc",
    "task_avg_last_acc",
    "task_avg_inc_acc",
    "forgetting",
    "task_known_last_acc",
    "final_entropy",
)
SHOWN = {
    "last_acc": "Last-Acc",
    "inc_acc": "Inc-Acc",
    "forgetting": "Forgetting",
    "task_known_last_acc": "Last-Acc, task known",
}
METRICS = {
    **SHOWN,
    "task_avg_last_acc": "Last-Acc, averaged over tasks",
    "task_avg_inc_acc": "Inc-Acc, averaged over tasks",
    "final_entropy": "Entropy in the last epochs",
}
"""What the metrics are called; :data:`SHOWN` are those with a column in every table."""

NOT_COMPARABLE = (
    "Embedded tier: nothing here was measured on a paper's data, and no number here is comparable "
    "with any paper's number."
)
RANKS = (
    "Ranks are by mean Last-Acc, each with the 95% interval of a bootstrap over seeds, and only within a "
    "group: the same stream, backbone and number of epochs. Each group has its own table. Joint training is a "
    "reference and has no rank."
)


@dataclass(frozen=True)
class Group:
    """What recipes must share to be ranked with each other; the stream brings its tier."""

    stream: str
    backbone: str
    epochs: int

    def __str__(self) -> str:
        trained = {0: "nothing trained", 1: "1 epoch on each experience"}.get(
            self.epochs, f"{self.epochs} epochs on each experience"
        )
        return f"{trained}, {self.backbone}"


@dataclass(frozen=True)
class Row:
    """A recipe on a stream, over its seeds.

    :ivar key: tells the row from others of its stream: the recipe's name, with a hash for a variant.
    :ivar variant: how another configuration differs from the recipe's, such as ("lr=0.1 instead of 0.01",).
    :ivar numbers: by column; without the entropy of what is not trained.
    :ivar seconds: median time of a run, evaluation included.
    :ivar clock: "processor" or, of records that have no processor time, "wall"; "" without seconds.
    :ivar pretraining_overlap: number of the stream's classes that the backbone was pretrained on.
    :ivar curves: ``accuracy`` and ``accuracy_task_known`` over the images of the tasks seen, after each task, in
        percent; ``entropy`` in each epoch, in nats.
    :ivar matrices: ``accuracy`` and ``accuracy_task_known``, the means over seeds; row t holds the accuracies after
        task t, in percent.
    :ivar rank: by mean Last-Acc among the ``ranked`` rows of the group; None for joint training, or where there is
        only one, or for a variant.
    """

    recipe: str
    stream: str
    key: str
    variant: tuple[str, ...]
    joint: bool
    config: dict[str, Any]
    seeds: tuple[int, ...]
    numbers: dict[str, MeanInterval]
    trained_parameters: int
    bytes_kept: int
    seconds: float | None
    clock: str
    epochs: int
    hyperparameters: str
    pretraining_overlap: str
    backbone: str
    config_hash: str
    curves: dict[str, tuple[MeanInterval, ...]]
    matrices: dict[str, list[list[float]]]
    rank: RankInterval | None = None
    ranked: int = 0

    @property
    def title(self) -> str:
        """The recipe's; of a variant with what it changes."""
        title = RECIPES[self.recipe].title
        return f"{title} (variant: {', '.join(self.variant)})" if self.variant else title

    @property
    def group(self) -> Group:
        return Group(self.stream, self.backbone, self.epochs)


def rows(records: Sequence[Record], variants: Sequence[Record] = ()) -> list[Row]:
    """One row per recipe and stream: by stream, then group (that of most rows first), then falling Last-Acc.

    :param variants: records of other configurations or starting weights than the recipe's; each gets rows of its own,
        without a rank.
    """
    runs: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda r: r.seed):
        runs.setdefault((record.stream, record.recipe), []).append(record)
    for record in sorted(variants, key=lambda r: r.seed):
        runs.setdefault((record.stream, _key_of_variant(record)), []).append(record)
    groups: dict[Group, list[Row]] = {}
    for (_, key), same in runs.items():
        row = _row(key, same)
        groups.setdefault(row.group, []).append(row)
    streams = list(STREAMS)
    found = []
    for group in sorted(groups, key=lambda p: (streams.index(p.stream), -len(groups[p]), p.epochs, p.backbone)):
        members = sorted(groups[group], key=lambda r: (-r.numbers["last_acc"].mean, r.key))
        rivals = {
            row.recipe: {record.seed: metric_of(record, "last_acc") for record in runs[row.stream, row.key]}
            for row in members
            if not row.joint and not row.variant
        }
        ranks = rank_intervals(rivals) if len(rivals) > 1 else {}
        found += [replace(row, rank=ranks.get(row.key), ranked=len(ranks)) for row in members]
    return found


def _key_of_variant(record: Record) -> str:
    key = f"{record.recipe}@{record.config_hash}"
    # drawn at random, weights are others for every seed
    of_file = record.result["config"].get("backbone") == QUICKDRAW_VIT
    return f"{key}-{record.result['weights_sha256'][:12]}" if of_file else key


def headline(table: Sequence[Row], most: int) -> list[Row]:
    """The rows of one stream whose curves are drawn unless others are asked for: the headline recipes, else the first
    rows.
    """
    drawn = [row for row in table if not row.joint and not row.variant]
    return ([row for row in drawn if RECIPES[row.recipe].headline] or drawn)[:most]


def label(row: Row, table: Sequence[Row]) -> str:
    """The row's name next to a curve, with its epochs where the rows of the table differ in them."""
    mixed = len({other.group for other in table}) > 1
    return row.title + (f" ({row.epochs} epochs)" if mixed else "")


def ends_of_grids(recipes: Iterable[str]) -> str:
    """A sentence on which of the choices that these recipes rest on are at an end of their grid; empty if none was
    made.
    """
    tuned = [
        RECIPES[name] for name in sorted({RECIPES[name].tuned_as or name for name in recipes}) if RECIPES[name].choice
    ]
    several = {r.name: {key: values for key, values in r.grid.items() if len(values) > 2} for r in tuned}
    settings = {r.name: r.choice["settings"] for r in tuned if r.choice}
    of_two = [name for name, grid in several.items() if not grid]
    inside = [name for name, grid in several.items() if grid]
    at_end = [
        name
        for name in inside
        if any(settings[name][key] in (values[0], values[-1]) for key, values in several[name].items())
    ]
    parts = []
    if inside:
        named = f" ({_names(at_end)})" if at_end else ""
        parts.append(f"{len(at_end)} of the {len(inside)} with more than two values of a setting{named}")
    if of_two:
        parts.append(f"the {len(of_two)} with only two values of each, where nothing is in between ({_names(of_two)})")
    return f"Recipes whose choice is at an end of their grid: {', and '.join(parts)}." if parts else ""


def _names(recipes: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in recipes)


def by_group(table: Sequence[Row]) -> list[tuple[Group, list[Row]]]:
    return [(group, [r for r in table if r.group == group]) for group in dict.fromkeys(row.group for row in table)]


def _row(key: str, group: Sequence[Record]) -> Row:
    recipe, stream, result = group[0].recipe, group[0].stream, group[0].result
    variant: tuple[str, ...] = ()
    if key != recipe:
        changed = differences(result["config"], RECIPES[recipe].config)
        variant = tuple(changed.values()) or (OTHER_WEIGHTS,)
    columns = {column: [_number(record, column) for record in group] for column in COLUMNS}
    matrices = ("accuracy", "accuracy_task_known")
    curves = {key: [_after_each_task(r.result[key], r.result["test_counts"]) for r in group] for key in matrices}
    curves["entropy"] = [record.result["entropy"] for record in group]
    seconds, clock = _time(group)
    return Row(
        recipe=recipe,
        stream=stream,
        key=key,
        variant=variant,
        joint=result["config"].get("joint", False),
        config=result["config"],
        seeds=tuple(record.seed for record in group),
        numbers={
            column: mean_interval(values) for column, values in columns.items() if not any(map(math.isnan, values))
        },
        trained_parameters=result["trained_parameters"],
        bytes_kept=result["bytes_kept"],
        seconds=seconds,
        clock=clock,
        epochs=result["config"]["epochs"],
        hyperparameters=_origin(recipe, stream, result["hyperparameters_from"]),
        pretraining_overlap=pretraining_overlap(STREAMS[stream], result["config"]["backbone"]),
        backbone=result["config"]["backbone"],
        config_hash=group[0].config_hash,
        curves={
            key: tuple(mean_interval(values) for values in zip(*runs, strict=True)) for key, runs in curves.items()
        },
        matrices={
            key: [
                [float(np.mean(seeds)) for seeds in zip(*at, strict=True)]
                for at in zip(*(r.result[key] for r in group), strict=True)
            ]
            for key in matrices
        },
    )


def _after_each_task(matrix: Sequence[Sequence[float]], counts: Sequence[int]) -> list[float]:
    """Percent right of the test images of all tasks seen, after each task."""
    return [float(np.average(row, weights=counts[: len(row)])) for row in matrix]


def _origin(recipe: str, stream: str, origin: str) -> str:
    """How the hyper-parameters came about, with the recipe or the stream that they were chosen for if that is not this
    row's.
    """
    found = RECIPES[recipe]
    others = [f"as `{found.tuned_as}`"] if found.tuned_as else []
    others += [f"on {found.home}"] if stream != found.home else []
    return f"{origin} ({', '.join(others)})" if others and origin == "validation" else origin


def _time(group: Sequence[Record]) -> tuple[float | None, str]:
    """Median processor time of the records that have it, or else wall time, which the first ones have alone; and which
    of them it is.
    """
    for clock, key in (("processor", "cpu_seconds"), ("wall", "wall_seconds")):
        if known := [seconds for r in group if (seconds := r.provenance.get(key))]:
            return median(known), clock
    return None, ""


def time_in_words(row: Row) -> str:
    """Such as "41", or "82 (wall)"; "-" where no record says."""
    return "-" if row.seconds is None else f"{row.seconds:.0f}{' (wall)' if row.clock == 'wall' else ''}"


def _number(record: Record, column: str) -> float:
    return record.metrics_task_known()["last_acc"] if column == "task_known_last_acc" else metric_of(record, column)
