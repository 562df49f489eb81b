"""A record from elsewhere: whether it is sound and fits the recipe and stream that it names, and whether a leaderboard
would show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import QUICKDRAW_VIT, Config, config_hash, differences, from_dict
from ..data.drawings import downstream
from ..data.streams import EMBEDDED, STREAMS, Stream, class_order, find_stream
from ..papers.protocols import covered_runs
from ..papers.published import cells
from ..recipes import CHOICE_SEEDS, RECIPES, Recipe, weights_sha256
from ..records.provenance import PACKAGES
from ..records.record import Comparison, Record, RecordError, compare
from ..records.store import RecordStore
from .counting import current, not_counted

BACKED = (
    "of its accuracies only the last row of result.accuracy is backed by bits, one per test image: "
    "the others are as stated"
)


@dataclass(frozen=True)
class Submission:
    """What there is to say of a file.

    :ivar problems: why it cannot be merged; none means that it can.
    :ivar notes: why the leaderboard would not show it although it is sound.
    :ivar place: where it belongs, None for what is no record.
    :ivar on_record: how it agrees with the record already in its place; None where there is none.
    """

    path: Path
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    place: Path | None = None
    on_record: Comparison | None = None

    def __str__(self) -> str:
        if self.problems:
            return "\n".join([f"{self.path}: not a record to merge", *(f"  {problem}" for problem in self.problems)])
        todo = (
            f"already on record, {self.place}: they {self.on_record}" if self.on_record else f"copy it to {self.place}"
        )
        shown = "not shown on the leaderboard" if self.notes else "shown on the leaderboard"
        return "\n".join([f"{self.path}: sound; {todo}; {shown}", *(f"  {note}" for note in (*self.notes, BACKED))])


class _Inbox(RecordStore):
    """Reads a file as a store does, wherever it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.parent)
        self.path = path

    def path_of(self, *_: Any, **__: Any) -> Path:
        return self.path

    def read(self) -> Record:
        return self._read(self.path)


def check(path: Path, store: RecordStore | None = None) -> Submission:
    """Read a JSON file as a record store would and hold it against what this version knows.

    :param store: that it would be copied into: held against its records, too. None where there is none:
        leaderboards/records is named.
    """
    try:
        record = _Inbox(path).read()
    except (RecordError, OverflowError) as error:
        return Submission(path, (str(error),))
    run = record.recipe, record.stream, record.config_hash, record.seed
    place = (store or RecordStore(Path("leaderboards", "records"))).path_of(*run)
    problems, on_record = list(_problems(record)), None
    if store:
        problems += _against_alike(record, store, place)
        try:
            on_record = compare(known, record) if (known := store.get(*run)) else None
        except RecordError as error:  # a damaged file is not to be overwritten, either
            problems.append(str(error))
    if on_record and not on_record.agree:
        problems.append(f"copying {path} would overwrite another record, {place}: they {on_record}")
    return Submission(path, tuple(problems), () if problems else tuple(_notes(record)), place, on_record)


def _against_alike(record: Record, store: RecordStore, place: Path) -> Iterator[str]:
    """What runs of one configuration on one stream have alike, whatever their seed."""
    config = record.result["config"]
    # how many photographs a memory holds may depend on the order of classes of unequal sizes, their bytes on how they
    # were loaded
    alike = (
        ["trained_parameters"]
        if config.get("memory") and config.get("images")
        else ["trained_parameters", "bytes_kept"]
    )
    for path in sorted(store.root.glob(f"*/{record.stream}/{record.config_hash}/*.json")):
        try:
            other = _Inbox(path).read().result
        except RecordError:
            continue
        differing = [key for key in alike if path != place and other[key] != record.result[key]]
        if differing:
            yield from (
                f"result.{key} is {record.result[key]}: {path}, of the same configuration, has {other[key]}"
                for key in differing
            )
            return


def _problems(record: Record) -> Iterator[str]:
    result, provenance = record.result, record.provenance
    if result.get("rehearsal"):
        yield "it is a rehearsal, a few steps on synthetic images: no leaderboard shows one, make the run itself"
    if missing := [package for package in PACKAGES if not isinstance(provenance.get(package), str)]:
        yield f"provenance lacks the versions of {', '.join(missing)}: without them nobody can repeat the run"
    for key in ("accuracy", "accuracy_task_known"):
        for t, row in enumerate(result[key]):
            for i, percent in enumerate(row):
                images = percent / 100 * result["test_counts"][i]
                # as in the check of the bits: room for what was computed in float32
                if abs(images - round(images)) > 0.01:
                    yield (
                        f"result.{key}[{t}][{i}] is {percent}: that is {images:.2f} of "
                        f"{result['test_counts'][i]} images"
                    )
    for t, (unknown, known) in enumerate(zip(result["accuracy"], result["accuracy_task_known"], strict=True)):
        for i, (harder, easier) in enumerate(zip(unknown, known, strict=True)):
            if easier < harder:
                yield (
                    f"accuracy_task_known[{t}][{i}] is {easier}, below {harder} without knowing "
                    "the task, which cannot be"
                )
    try:
        config = from_dict(result["config"])
    except (ValueError, TypeError, OverflowError) as error:
        yield f"result.config is not one of this version: {error}"
        return
    recipe, stated = _recipe(record), result["hyperparameters_from"]
    origin = recipe.origin_of(config) if recipe else stated
    if stated != origin and (stated, origin) != ("validation", "given"):  # which an earlier choice is now
        yield f"result.hyperparameters_from is {stated!r}: for {record.recipe} with this configuration it is {origin!r}"
    known, unknown = result["accuracy_task_known"][0][0], result["accuracy"][0][0]
    # DER++ has the classes to come in its head from the start
    if known > unknown and not (config.memory and config.memory.method == "der++"):
        yield (
            f"accuracy_task_known[0][0] is {known}, accuracy[0][0] {unknown}: there are no other "
            "classes yet, they must be equal"
        )
    if result["varied"] != config.seeding:
        yield (
            f"result.varied is {result['varied']!r} and the configuration's seeding "
            f"{config.seeding!r}: one of them is wrong"
        )
    try:
        stream = find_stream(record.stream)
    except ValueError as error:
        yield str(error)
        return
    yield from _against_stream(result, config, stream)


def _recipe(record: Record) -> Recipe | None:
    """The recipe of the record's name on its stream."""
    if recipe := RECIPES.get(record.recipe):
        return recipe
    place = record.recipe, record.stream
    return next(
        (recipe for recipe, stream, _ in covered_runs(everything=True) if place == (recipe.name, stream.name)), None
    )


def _against_stream(result: dict[str, Any], config: Config, stream: Stream) -> Iterator[str]:
    taught = stream.joined() if config.joint else stream
    sizes = taught.sizes
    if len(result["accuracy"]) != len(sizes):
        yield f"result.accuracy has {len(result['accuracy'])} rows: {stream.name} has {len(sizes)} experiences"
        return
    yield from _against_order(result, config, stream)
    if len(result["entropy"]) != config.epochs * len(sizes):
        expected = f"{config.epochs} epochs on {len(sizes)} experiences are {config.epochs * len(sizes)}"
        yield f"result.entropy has {len(result['entropy'])} entries: {expected}"
    else:
        for epoch, nats in enumerate(result["entropy"]):
            classes = sizes[epoch // config.epochs]
            # the room for rounding that a record has below 0
            if nats > math.log(classes) + 1e-3:
                yield f"result.entropy[{epoch}] is {nats}: over {classes} classes it is {math.log(classes):.4f} at most"
    if (config.images is None) != (stream.tier == EMBEDDED):
        yield (
            f"result.config is for {'drawings' if config.images is None else 'photographs'}, which "
            f"{stream.name} is not made of"
        )
    elif stream.tier == EMBEDDED:
        data = downstream(config.part)
        counts = [data.test.shape[1] * size for size in sizes]
        if result["test_counts"] != counts:
            yield f"result.test_counts is {result['test_counts']}: {stream.name} has {counts}"
        if result["data_sha256"] != data.sha256:
            yield (
                f"result.data_sha256 is {result['data_sha256'][:12]}...: the drawings of this "
                f"version are {data.sha256[:12]}..."
            )
    else:
        if result["data_sha256"] in {downstream(part).sha256 for part in ("test", "validation")}:
            yield f"result.data_sha256 is that of the drawings: {stream.name} is made of photographs"
        if config.backbone != QUICKDRAW_VIT and result["weights_sha256"] == weights_sha256(Config()):
            yield f"result.weights_sha256 is that of {QUICKDRAW_VIT}: the configuration's backbone is {config.backbone}"


def _against_order(result: dict[str, Any], config: Config, stream: Stream) -> Iterator[str]:
    if sorted(result["class_order"]) != list(range(stream.n_classes)):
        yield f"result.class_order is no permutation of the {stream.n_classes} classes of {stream.name}"
        return
    sequential = config.seeding == "initialisation"
    try:
        order = class_order(stream.n_classes, None if sequential else result["seed"])
    except ValueError as error:
        yield f"result.seed is {result['seed']}: {error}"
        return
    if result["class_order"] != order:
        yield f"result.class_order is not the one of {'the data set' if sequential else 'seed ' + str(result['seed'])}"


def _notes(record: Record) -> Iterator[str]:
    """Why neither the boards of the embedded tier nor the table of published cells would show it."""
    result, recipe = record.result, RECIPES.get(record.recipe)
    if (record.recipe, record.stream) in {(cell.recipe, cell.stream) for cell in cells()}:
        yield from not_counted([record])
    elif recipe is None:
        yield (
            f"no recipe is called {record.recipe!r} here, and no published cell on "
            f"{record.stream}: add the recipe to recipes.toml, too"
        )
    elif record.stream not in STREAMS:
        yield (
            f"a recipe is shown on the embedded tier: on {record.stream} only runs under the name "
            "of a published cell are"
        )
    elif current([record]):
        if recipe.fact:
            yield f"{record.recipe} turns the switch {recipe.fact}: it is shown in docs/fidelity.md"
    else:
        if record.seed >= min(CHOICE_SEEDS):
            yield (
                f"seed {record.seed} is one of those that choose hyper-parameters: leaderboards "
                f"use 0 to {min(CHOICE_SEEDS) - 1}"
            )
        if record.config_hash != (present := config_hash(recipe.config.as_dict())):
            changed = ", ".join(differences(result["config"], recipe.config).values())
            yield f"config is {record.config_hash}, that of {record.recipe} is {present}: {changed}"
        if result["weights_sha256"] != (weights := weights_sha256(recipe.config)):
            yield (
                f"it starts from the weights {result['weights_sha256'][:12]}..., the recipe from {str(weights)[:12]}..."
            )
