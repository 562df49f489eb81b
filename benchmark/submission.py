"""A record from elsewhere: whether it is sound and fits the recipe and stream that it names, and whether a leaderboard would show it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import from_dict
from .datasets import downstream
from .paper_check import current
from .recipes import RECIPES, weights_sha256
from .records import PACKAGES, Record, RecordError, config_hash, validate
from .streams import EMBEDDED, Stream, class_order, find_stream
from .tuning import SEEDS


@dataclass(frozen=True)
class Submission:
    """What there is to say of a file.

    :ivar problems: why it cannot be merged; none means that it can.
    :ivar notes: why the leaderboard would not show it although it is sound.
    :ivar place: where it belongs in a record store, None for what is no record.
    """

    path: Path
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    place: str | None = None

    def __str__(self) -> str:
        if self.problems:
            return "\n".join([f"{self.path}: not a record to merge", *(f"  {problem}" for problem in self.problems)])
        shown = "not shown on the leaderboard" if self.notes else "shown on the leaderboard"
        return "\n".join([f"{self.path}: sound; copy it to leaderboards/records/{self.place}; {shown}", *(f"  {n}" for n in self.notes)])


def check(path: Path) -> Submission:
    """Read a file of any name as a record and hold it against what this version knows."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        validate(document)
    except (OSError, UnicodeDecodeError) as error:
        return Submission(path, (f"cannot be read: {error}",))
    except RecordError as error:
        return Submission(path, (str(error),))
    except (ValueError, RecursionError) as error:
        return Submission(path, (f"is not JSON: {error}",))
    record = Record(document["result"], document["provenance"])
    place = f"{record.recipe}/{record.stream}/{record.config_hash}/{record.seed}.json"
    return Submission(path, tuple(_problems(record)), tuple(_notes(record)), place)


def _problems(record: Record) -> Iterator[str]:
    result, provenance = record.result, record.provenance
    if missing := [package for package in PACKAGES if not isinstance(provenance.get(package), str)]:
        yield f"provenance lacks the versions of {', '.join(missing)}: without them nobody can repeat the run"
    if result["varied"] != result["config"].get("seeding", result["varied"]):
        yield f"result.varied is {result['varied']!r} and the configuration's seeding {result['config']['seeding']!r}: one of them is wrong"
    for key in ("accuracy", "accuracy_task_known"):
        for t, row in enumerate(result[key]):
            for i, percent in enumerate(row):
                images = percent / 100 * result["test_counts"][i]
                # as in the check of the bits: room for what was computed in float32
                if abs(images - round(images)) > 0.01:
                    yield f"result.{key}[{t}][{i}] is {percent}: that is {images:.2f} of {result['test_counts'][i]} images"
    for t, (unknown, known) in enumerate(zip(result["accuracy"], result["accuracy_task_known"], strict=True)):
        for i, (harder, easier) in enumerate(zip(unknown, known, strict=True)):
            if easier < harder:
                yield f"accuracy_task_known[{t}][{i}] is {easier}, below {harder} without knowing the task, which cannot be"
    try:
        stream = find_stream(record.stream)
    except ValueError as error:
        yield str(error)
        return
    yield from _against_stream(result, stream)


def _against_stream(result: dict[str, Any], stream: Stream) -> Iterator[str]:
    config = result["config"]
    sizes = stream.joined().sizes if config.get("joint") else stream.sizes
    if len(result["accuracy"]) != len(sizes):
        yield f"result.accuracy has {len(result['accuracy'])} rows: {stream.name} has {len(sizes)} experiences"
        return
    if sorted(result["class_order"]) != list(range(stream.n_classes)):
        yield f"result.class_order is no permutation of the {stream.n_classes} classes of {stream.name}"
    elif stream.tier == EMBEDDED and result["class_order"] != class_order(stream.n_classes, result["seed"]):
        yield f"result.class_order is not the one of seed {result['seed']}"
    epochs = config.get("epochs", 0) * len(sizes)
    if len(result["entropy"]) != epochs:
        yield f"result.entropy has {len(result['entropy'])} entries: {config.get('epochs')} epochs on {len(sizes)} experiences are {epochs}"
    if stream.tier == EMBEDDED and config.get("part") in ("test", "validation"):
        data = downstream(config["part"])
        counts = [data.test.shape[1] * size for size in sizes]
        if result["test_counts"] != counts:
            yield f"result.test_counts is {result['test_counts']}: {stream.name} has {counts}"
        if result["data_sha256"] != data.sha256:
            yield f"result.data_sha256 is {result['data_sha256'][:12]}...: the drawings of this version are {data.sha256[:12]}..."


def _notes(record: Record) -> Iterator[str]:
    """Why :func:`reclaim.benchmark.paper_check.current` leaves it out."""
    result = record.result
    recipe = RECIPES.get(record.recipe)
    if current([record]):
        if recipe and recipe.fact:
            yield f"{record.recipe} turns the switch {recipe.fact}: it is shown in docs/fidelity.md"
        return
    if recipe is None:
        yield f"no recipe and no published cell is called {record.recipe!r} here: add the recipe to recipes.py, too"
        return
    if record.seed >= min(SEEDS):
        yield f"seed {record.seed} is one of those that choose hyper-parameters: leaderboards use 0 to {min(SEEDS) - 1}"
    if record.config_hash != (present := config_hash(recipe.config.as_dict())):
        differences = "; ".join(_differences(result["config"], recipe.config.as_dict()))
        yield f"config is {record.config_hash}, that of {record.recipe} is {present}: {differences}"
    if result["weights_sha256"] != (weights := weights_sha256(recipe.config)):
        yield f"it starts from the weights {result['weights_sha256'][:12]}..., the recipe from {str(weights)[:12]}..."


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    try:
        from_dict(theirs)
    except (ValueError, TypeError) as error:
        return [str(error)]
    keys = [key for key in sorted(theirs.keys() | ours.keys()) if theirs.get(key) != ours.get(key)]
    return [f"{key} is {json.dumps(theirs.get(key))} instead of {json.dumps(ours.get(key))}" for key in keys]
