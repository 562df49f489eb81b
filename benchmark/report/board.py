"""Rows of a leaderboard: a recipe on a stream over its seeds, and its rank among those of the same group."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..config import EXECUTION, QUICKDRAW_VIT, Config, differences, from_dict, shown
from ..data.streams import DENSE, LISTED, MIDDLE, OWN, STREAMS, Stream, pretraining_overlap
from ..recipes import RECIPES
from ..records.record import Record, image_sets, metric_of, plain
from ..stats.estimates import MeanInterval, mean_interval
from ..stats.ranking import RankInterval, rank_intervals
from ..verdicts.comparison import median_time
from ..verdicts.counting import OTHER_WEIGHTS
from ..verdicts.outside import drawn_at_random
from ..verdicts.soundness import stream_of

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
MIDDLE_NOT_COMPARABLE = (
    "Middle tier: a part of the images of CIFAR-10 and a small CNN, which no paper reports on: no number here is "
    "comparable with any paper's number, nor with one of another tier."
)
DENSE_NOT_COMPARABLE = (
    "Detection and segmentation on canvases made of drawings, which no paper reports on: no number here is comparable "
    "with any paper's number, nor with one of another tier."
)
OF_ONES_OWN = (
    "Somebody's own images or benchmark, which nobody here has seen: no number here is comparable with any paper's "
    "number, nor with one of another stream."
)
EXTERNAL = (
    '"External" marks a recipe that is not one of this project\'s: its records are shown as they state, and nothing of '
    "it was run here."
)
NOT_SEPARATED = (
    '"Not separated" means: paired t tests, after Holm\'s correction for all comparisons of pairs of the group, leave '
    "open which of the two is better. It says nothing of a claim, which is tested in a family of its own."
)
RANKS = (
    "Ranks are by mean Last-Acc, each with the 95% interval of a bootstrap over seeds, and only within a "
    "group: the same stream, backbone, number of epochs and what seeds vary. Joint training is a "
    "reference and has no rank."
)

OF_FEATURES = "A frozen backbone's features of photographs are left out: one run of a process computes them for all."


def tier_name(tier: str) -> str:
    """What a tier is called in a sentence."""
    return {OWN: "somebody's own images", DENSE: "detection and segmentation"}.get(tier, f"{tier} tier")


USUALLY_VARIED = Config().seeding
"""What the seeds of most recipes vary; those of others cannot be paired with them."""


@dataclass(frozen=True)
class Group:
    """What recipes must share to be ranked with each other; the stream brings its tier."""

    stream: str
    backbone: str
    epochs: int
    varied: str

    def __str__(self) -> str:
        trained = {0: "nothing trained", 1: "1 epoch on each experience"}.get(
            self.epochs, f"{self.epochs} epochs on each experience"
        )
        seeds = "" if self.varied == USUALLY_VARIED else f", seeds vary the {self.varied.replace('_', ' ')} alone"
        return f"{trained}, {self.backbone}{seeds}"


@dataclass(frozen=True)
class Row:
    """A recipe on a stream, over its seeds.

    :ivar stream: name of its board: that of ``definition``.
    :ivar key: tells the row from others of its stream: the recipe's name, with a hash for a variant and for one of
        several configurations of a recipe that has no rule which of them counts.
    :ivar outside: the recipe is not one of this project's.
    :ivar external: import paths of the code from outside that took part.
    :ivar told: how it differs from other rows of its recipe, or from our recipe, such as ("lr=0.1",).
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
    definition: Stream
    key: str
    outside: bool
    external: tuple[str, ...]
    told: tuple[str, ...]
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
    varied: str
    config_hash: str
    curves: dict[str, tuple[MeanInterval, ...]]
    matrices: dict[str, list[list[float]]]
    rank: RankInterval | None = None
    ranked: int = 0

    @property
    def title(self) -> str:
        """The recipe's, or the name of one that is not ours, marked; with what it changes where it must be told from
        others.
        """
        known = RECIPES.get(self.recipe)
        marks = [*(["external"] if self.outside else []), *([", ".join(self.told)] if self.told else [])]
        if self.variant:
            marks = [f"variant: {', '.join(self.variant)}"]
        title = known.title if known else plain(self.recipe, 60)
        return f"{title} ({': '.join(marks)})" if marks else title

    @property
    def stream(self) -> str:
        return self.definition.name

    @property
    def note(self) -> str:
        """What its numbers are not comparable with."""
        return {OWN: OF_ONES_OWN, MIDDLE: MIDDLE_NOT_COMPARABLE}.get(self.definition.tier, NOT_COMPARABLE)

    @property
    def own(self) -> bool:
        """Whether its stream is somebody's own."""
        return self.definition.tier == OWN

    @property
    def folder(self) -> str:
        """Where its records are, in their store."""
        return f"{self.recipe}/{self.stream.partition('@')[0]}/{self.config_hash}/"

    @property
    def group(self) -> Group:
        return Group(self.stream, self.backbone, self.epochs, self.varied)


@dataclass(frozen=True)
class _Runs:
    """What becomes a row: the runs of one configuration on one board, and what tells it from others of its recipe."""

    definition: Stream
    key: str
    records: list[Record]
    backbone: str
    told: tuple[str, ...] = ()
    variant: tuple[str, ...] = ()


def rows(records: Sequence[Record], variants: Sequence[Record] = (), outside: Sequence[Record] = ()) -> list[Row]:
    """One row per recipe and stream: by stream, then group (that of most rows first), then falling Last-Acc.

    :param variants: records of other configurations or starting weights than the recipe's; each gets rows of its own,
        without a rank.
    :param outside: sound records from outside (:mod:`reclaim.benchmark.verdicts.outside`): of recipes that are not ours
        on our streams, ranked with ours; and of any recipe on streams of one's own, each of which has a board of its
        own. Every configuration has a row of its own.
    """
    runs: dict[tuple[str, str], list[Record]] = {}
    for record in sorted(records, key=lambda r: r.seed):
        runs.setdefault((record.stream, record.recipe), []).append(record)
    for record in sorted(variants, key=lambda r: r.seed):
        runs.setdefault((record.stream, _key_of_variant(record)), []).append(record)
    found = [
        _Runs(LISTED[stream], key, same, same[0].result["config"]["backbone"], variant=_variant(key, same[0]))
        for (stream, key), same in runs.items()
    ]
    for definition, on_board in _boards(outside):
        found += _apart(definition, on_board)
    groups: dict[Group, list[Row]] = {}
    values: dict[tuple[str, str], dict[int, float]] = {}
    for row_of in found:
        row = _row(row_of)
        values[row.stream, row.key] = {record.seed: metric_of(record, "last_acc") for record in row_of.records}
        groups.setdefault(row.group, []).append(row)
    boards = list(dict.fromkeys((*LISTED, *(row_of.definition.name for row_of in found))))
    ranked = []
    for group in sorted(
        groups, key=lambda p: (boards.index(p.stream), -len(groups[p]), p.epochs, p.backbone, p.varied)
    ):
        members = sorted(groups[group], key=lambda r: (-r.numbers["last_acc"].mean, r.key))
        rivals = {row.key: values[row.stream, row.key] for row in members if not row.joint and not row.variant}
        ranks = rank_intervals(rivals) if len(rivals) > 1 else {}
        ranked += [replace(row, rank=ranks.get(row.key), ranked=len(ranks)) for row in members]
    return ranked


# --- records from outside ---

TOLD = 3
"""Most settings that a title names."""
_RESERVED = ("embedded", "middle", "index")
"""Names of pages that no stream may take."""


def _boards(outside: Sequence[Record]) -> list[tuple[Stream, list[Record]]]:
    """The records by board: one for each stream of ours, and one for each set of images, split and shape under the name
    of a stream of one's own. Those that share a name are told apart by a hash after an ``@``, which no name has.
    """
    ours: dict[str, list[Record]] = {}
    own: dict[tuple[str, str, str, tuple[int, ...]], list[Record]] = {}
    on_own = [record for record in outside if "own_stream" in record.result]
    sets = {name: image_sets(r for r in on_own if r.stream == name) for name in {r.stream for r in on_own}}
    # joint training, whose record may have the shape of a single experience, comes after those it is a reference of
    for record in sorted(outside, key=lambda r: (r.result["config"].get("joint", False), r.seed)):
        if "own_stream" not in record.result:
            ours.setdefault(record.stream, []).append(record)
            continue
        shape = record.result["own_stream"]
        sizes, split = tuple(shape["sizes"]), json.dumps(shape.get("split", {}), sort_keys=True)
        images = min(next(known for known in sets[record.stream] if record.images & known))
        if record.result["config"].get("joint"):
            alike = (place[3] for place in own if place[:3] == (record.stream, images, split))
            sizes = next((known for known in alike if sum(known) == sum(sizes)), sizes)
        own.setdefault((record.stream, images, split, sizes), []).append(record)
    known = Counter(place[0].casefold() for place in own)
    boards = [(STREAMS[name], members) for name, members in ours.items()]
    for place, members in sorted(own.items()):
        name = place[0]
        alone = known[name.casefold()] == 1 and name.casefold() not in _RESERVED
        board = name if alone else f"{name}@{hashlib.sha256(json.dumps(place).encode()).hexdigest()[:12]}"
        stream = stream_of(members[0])
        also = "" if alone else ". Others of this name have other images, another split or other experiences"
        described = f"{stream.description}, images {members[0].result['data_sha256'][:12]}{also}"
        boards.append((replace(stream, name=board, description=described), members))
    return boards


def _apart(definition: Stream, members: Sequence[Record]) -> list[_Runs]:
    """The records of a board by recipe, configuration and starting weights, each with what tells it from the others."""
    runs: dict[str, dict[tuple[str, str], list[Record]]] = {}
    weights: dict[str, set[str]] = {}
    for record in members:
        start = _start(record)
        runs.setdefault(record.recipe, {}).setdefault((record.config_hash, start), []).append(record)
        weights.setdefault(_backbone(record), set()).add(start)
    found = []
    for recipe, parts in runs.items():
        settings = [_leaves(same[0].result["config"]) | {"weights": start} for (_, start), same in parts.items()]
        keys = sorted({key for leaves in settings for key in leaves})
        apart = [key for key in keys if len({leaves.get(key) for leaves in settings}) > 1]
        for ((config, start), same), leaves in zip(parts.items(), settings, strict=True):
            told = _few([f"{plain(key, 60)}={leaves.get(key, 'null')}" for key in apart])
            if not told:
                told = _few(_changed(same[0]) if recipe in RECIPES else _execution(same[0]))
            alone = len(parts) == 1
            of_start = f"-{start}" if sum(config == other for other, _ in parts) > 1 else ""
            backbone = _backbone(same[0])
            mixed = len(weights[backbone]) > 1
            found.append(
                _Runs(
                    definition,
                    recipe if alone else f"{recipe}@{config}{of_start}",
                    same,
                    f"{backbone}, weights {start or 'drawn at random'}" if mixed else backbone,
                    told,
                )
            )
    return found


def _start(record: Record) -> str:
    """The first digits of the starting weights; empty if every seed has its own."""
    random = drawn_at_random(from_dict(record.result["config"]))
    return "" if random else record.result["weights_sha256"][:12]


def _backbone(record: Record) -> str:
    return plain(record.result["config"]["backbone"])


def _changed(record: Record) -> list[str]:
    """Settings of a recipe of ours that a run on one's own images changes, beyond what other images need."""
    changed = differences(record.result["config"], RECIPES[record.recipe].config)
    return [plain(text, 60) for key, text in changed.items() if key.split(".")[0] not in ("images", "backbone")]


def _execution(record: Record) -> list[str]:
    """How a run of others' making does its arithmetic otherwise than is usual."""
    config, usual = record.result["config"], Config()
    return [
        f"{k}={plain(shown(config[k]))}" for k in EXECUTION if config.get(k, getattr(usual, k)) != getattr(usual, k)
    ]


def _paths(config: Mapping[str, Any]) -> tuple[str, ...]:
    external = from_dict(dict(config)).external if config.get("external") else None
    return tuple(part.path for part in external.components.values()) if external else ()


def _leaves(values: Any, name: str = "") -> dict[str, str]:
    """Setting -> value, however deep; of a hash the first digits."""
    parts: Iterable[tuple[str, Any]] = ()
    if isinstance(values, Mapping) and values:
        parts = ((f"{name}.{key}" if name else str(key), value) for key, value in values.items())
    elif isinstance(values, list) and any(isinstance(value, Mapping) for value in values):
        parts = ((f"{name}[{i}]", value) for i, value in enumerate(values))
    else:
        return {name: values[:12] if name.endswith(".sha256") else plain(shown(values), 40)}
    return {key: text for part, value in parts for key, text in _leaves(value, part).items()}


def _few(texts: Sequence[str]) -> tuple[str, ...]:
    return (*texts[:TOLD], *([f"and {len(texts) - TOLD} more"] if len(texts) > TOLD else []))


def _variant(key: str, record: Record) -> tuple[str, ...]:
    if key == record.recipe:
        return ()
    changed = differences(record.result["config"], RECIPES[record.recipe].config)
    return tuple(changed.values()) or (OTHER_WEIGHTS,)


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
    return ([row for row in drawn if row.outside or RECIPES[row.recipe].headline] or drawn)[:most]


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


def _row(runs: _Runs) -> Row:
    group, recipe, result = runs.records, runs.records[0].recipe, runs.records[0].result
    columns = {column: [_number(record, column) for record in group] for column in COLUMNS}
    matrices = ("accuracy", "accuracy_task_known")
    curves = {key: [_after_each_task(r.result[key], r.result["test_counts"]) for r in group] for key in matrices}
    curves["entropy"] = [record.result["entropy"] for record in group]
    seconds, clock = median_time(group)
    return Row(
        recipe=recipe,
        definition=runs.definition,
        key=runs.key,
        outside=recipe not in RECIPES,
        external=_paths(result["config"]),
        told=runs.told,
        variant=runs.variant,
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
        hyperparameters=_origin(recipe, runs.definition.name, result["hyperparameters_from"]),
        pretraining_overlap=pretraining_overlap(runs.definition, runs.backbone),
        backbone=runs.backbone,
        varied=result["varied"],
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
    if recipe not in RECIPES:
        return f"{origin} (as stated)"
    found = RECIPES[recipe]
    others = [f"as `{found.tuned_as}`"] if found.tuned_as else []
    others += [f"on {found.home}"] if stream != found.home else []
    return f"{origin} ({', '.join(others)})" if others and origin == "validation" else origin


def ties(row: Row, members: Sequence[Row]) -> str:
    """The ranks of those that the row is not separated from, such as "1, 3-5"; a shared place appears once; "-" for
    none.
    """
    places = sorted(
        {other.rank.rank for other in members if row.rank and other.rank and other.key in row.rank.tied_with}
    )
    spans = [
        [p for _, p in span] for _, span in itertools.groupby(enumerate(places), key=lambda pair: pair[1] - pair[0])
    ]
    return ", ".join(f"{span[0]}-{span[-1]}" if len(span) > 1 else str(span[0]) for span in spans) or "-"


def time_in_words(row: Row) -> str:
    """Such as "41", or "82 (wall)"; "-" where no record says."""
    return "-" if row.seconds is None else f"{row.seconds:.0f}{' (wall)' if row.clock == 'wall' else ''}"


def _number(record: Record, column: str) -> float:
    return record.metrics_task_known()["last_acc"] if column == "task_known_last_acc" else metric_of(record, column)
