"""Whether a record is sound: whether its numbers can be true of the configuration and stream that it names."""

from __future__ import annotations

import base64
import functools
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from ..config import QUICKDRAW_VIT, Component, Config, from_dict, shown
from ..data.canvases import SIDE
from ..data.drawings import DOWNSTREAM_CLASSES, downstream_identity
from ..data.streams import (
    CANVASES,
    DENSE,
    EMBEDDED,
    OWN,
    PAPER_STREAMS,
    STREAMS,
    Stream,
    class_order,
    find_stream,
    in_words,
)
from ..papers.protocols import covered_runs
from ..recipes import RECIPES, Recipe, weights_sha256
from ..records.metrics import OF_TASK, SHOWN_CANVASES
from ..records.provenance import PACKAGES
from ..records.record import Record, plain


def problems(record: Record) -> Iterator[str]:
    """What cannot be true of it, beyond the schema of records."""
    result, provenance = record.result, record.provenance
    if result.get("rehearsal"):
        yield "it is a rehearsal, a few steps on synthetic images: no leaderboard shows one, make the run itself"
    if missing := [package for package in PACKAGES if not isinstance(provenance.get(package), str)]:
        yield f"provenance lacks the versions of {', '.join(missing)}: without them nobody can repeat the run"
    yield from _of_the_origin(record)
    if record.dense:
        yield from _of_canvases(record)
        return
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
    known, unknown = result["accuracy_task_known"][0][0], result["accuracy"][0][0]
    # DER++ has the classes to come in its head from the start; what code from outside has is not known
    if known > unknown and not config.external and not (config.memory and config.memory.method == "der++"):
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
        stream = stream_of(record)
    except ValueError as error:
        yield str(error)
        return
    yield from _against_stream(result, config, stream)


def misplaced(record: Record) -> str | None:
    """The first thing that cannot be true of the images and the seed that it names; what a record of our recipes must
    pass to be counted.
    """
    result = record.result
    try:
        config, stream = from_dict(result["config"]), stream_of(record)
    except (ValueError, TypeError, OverflowError) as error:
        return f"result.config or result.stream is not one of this version: {error}"
    if record.dense:
        return next(_of_canvases(record), None)
    sizes = (stream.joined() if config.joint else stream).sizes
    problems_of_both = (_against_order(result, config, stream), _against_images(result, config, stream, sizes))
    return next(itertools.chain(*problems_of_both), None)


def _of_the_origin(record: Record) -> Iterator[str]:
    """What cannot be true of where its settings come from."""
    try:
        config = from_dict(record.result["config"])
    except (ValueError, TypeError, OverflowError):  # which others say
        return
    recipe, stated = _recipe(record), record.result["hyperparameters_from"]
    # our choices were made on our drawings: what counts as chosen on somebody's own images is theirs to say
    origin = recipe.origin_of(config) if recipe and "own_stream" not in record.result else stated
    if stated != origin and (stated, origin) != ("validation", "given"):  # which an earlier choice is now
        yield f"result.hyperparameters_from is {stated!r}: for {record.recipe} with this configuration it is {origin!r}"


def _of_canvases(record: Record) -> Iterator[str]:
    """What cannot be true of a run on canvases."""
    result = record.result
    try:
        config, stream = from_dict(result["config"]), find_stream(record.stream)
    except (ValueError, TypeError, OverflowError) as error:
        yield f"result.config or result.stream is not one of this version: {error}"
        return
    if stream.tier != DENSE or config.dense is None:
        yield f"result has scores, which runs on {CANVASES.name} have, not those on {stream.name}"
        return
    if result["varied"] != config.seeding:
        yield f"result.varied is {result['varied']!r} and the configuration's seeding {config.seeding!r}"
    task, wanted = config.dense.task, OF_TASK[config.dense.task]
    if set(result["class_scores"]) != set(wanted) or not set(wanted) <= set(result["scores"]):
        yield f"result.scores are {', '.join(result['scores'])}: of dense.task={task} they are {', '.join(wanted)}"
    classes = stream.n_classes + (task == "semantic")  # and the background
    if wrong := [metric for metric, scores in result["class_scores"].items() if len(scores) != classes]:
        yield f"result.class_scores.{wrong[0]} has {len(result['class_scores'][wrong[0]])} entries: there are {classes}"
    yield from _of_predictions(result["predictions"], task, config.dense.test_canvases)
    if result["test_counts"] != [config.dense.test_canvases]:
        yield f"result.test_counts is {result['test_counts']}, and dense.test_canvases {config.dense.test_canvases}"
    if len(result["class_order"]) != stream.n_classes:
        yield f"result.class_order has {len(result['class_order'])} classes: {stream.name} has {stream.n_classes}"
    else:
        yield from _not_the_order(result, config, DOWNSTREAM_CLASSES)
    if result["data_sha256"] != (drawings := downstream_identity(config.part)[1]):
        yield f"result.data_sha256 is {result['data_sha256'][:12]}...: the drawings of this version are {drawings[:12]}"


_OF_PREDICTIONS = {
    "semantic": {"semantic"},
    "detection": {"boxes", "labels"},
    "instances": {"boxes", "labels", "masks"},
}


def _of_predictions(predictions: list[dict[str, Any]], task: str, canvases: int) -> Iterator[str]:
    """What cannot be drawn of the predictions that a record shows."""
    if len(predictions) != min(SHOWN_CANVASES, canvases):
        yield f"result.predictions has {len(predictions)} entries: {min(SHOWN_CANVASES, canvases)} canvases are shown"
    for i, found in enumerate(predictions):
        where = f"result.predictions[{i}]"
        if found.keys() != _OF_PREDICTIONS[task]:
            yield f"{where} has {', '.join(sorted(map(plain, found)))}: of dense.task={task} {_OF_PREDICTIONS[task]}"
            continue
        objects = 1
        if task != "semantic":
            boxes, labels = found["boxes"], found["labels"]
            if not (_are_lists_of_integers(boxes, 4) and _are_lists_of_integers([labels])):
                yield f"{where} has boxes or labels that are no lists of integers, four a box"
                continue
            objects = len(boxes)
            if len(labels) != objects:
                yield f"{where} has {objects} boxes and {len(labels)} labels"
        for key in found.keys() & {"semantic", "masks"}:
            if _unpacked_size(found[key], objects * SIDE * SIDE) != objects * SIDE * SIDE:
                yield f"{where}.{key} is not {objects} x {SIDE} x {SIDE} pixels of a byte each, by zlib in base64"


def _are_lists_of_integers(value: Any, length: int | None = None) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and length in (None, len(row)) and all(type(number) is int for number in row)
        for row in value
    )


def _unpacked_size(packed: Any, most: int) -> int | None:
    """Bytes in it, one more than ``most`` if there are more; None if it is no zlib in base64."""
    try:
        unpacking = zlib.decompressobj()
        size = len(unpacking.decompress(base64.b64decode(packed, validate=True), most + 1))
        return size if size > most or unpacking.eof else None
    except (TypeError, ValueError, zlib.error):
        return None


def stream_of(record: Record) -> Stream:
    """The stream that a record is of: one of this project's, or somebody's own by what the record says of it.

    :raises ValueError: there is none of that name, or images of one's own go by the name of one of this project's.
    """
    own = record.result.get("own_stream")
    if own is None:
        return find_stream(record.stream)
    ours = {name.casefold(): name for name in (*STREAMS, *PAPER_STREAMS)}.get(record.stream.casefold())
    if ours:
        raise ValueError(
            f"result.own_stream is present and result.stream is {record.stream!r}: {ours} is a stream of this project, "
            "images of one's own need a name of their own"
        )
    made_by = Component(**own["made_by"]) if "made_by" in own else None
    sizes = tuple(own["sizes"])
    source = f"made by {plain(made_by.path)}, source {made_by.sha256[:12]}" if made_by else "a folder of images"
    split = ", ".join(f"{plain(key)} {plain(shown(value))}" for key, value in sorted(own.get("split", {}).items()))
    experiences = f"{sum(sizes)} classes in {len(sizes)} experience{'s' * (len(sizes) > 1)} ({in_words(sizes)})"
    described = f"{experiences}, {source}{f', split by {split}' if split else ''}"
    return Stream(record.stream, sizes, described, OWN, made_by=made_by)


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
    trained = 1 if config.train_in == "first" else len(sizes)
    if len(result["entropy"]) != config.epochs * trained:
        expected = f"{config.epochs} epochs on {trained} experiences are {config.epochs * trained}"
        yield f"result.entropy has {len(result['entropy'])} entries: {expected}"
    else:
        for epoch, nats in enumerate(result["entropy"]):
            experience = epoch // config.epochs
            # of a stream of others' making, where earlier classes may come back, all so far
            classes = max(1, sum(sizes[: experience + 1])) if stream.made_by else sizes[experience]
            # the room for rounding that a record has below 0
            if nats > math.log(classes) + 1e-3:
                yield f"result.entropy[{epoch}] is {nats}: over {classes} classes it is {math.log(classes):.4f} at most"
    yield from _against_images(result, config, stream, sizes)


def _against_images(result: dict[str, Any], config: Config, stream: Stream, sizes: tuple[int, ...]) -> Iterator[str]:
    if stream.tier == OWN:
        if result["data_sha256"] in _drawings():
            yield f"result.data_sha256 is that of this project's drawings: {stream.name} is a stream of one's own"
    elif (config.images is None) != (stream.tier == EMBEDDED):
        yield (
            f"result.config is for {'drawings' if config.images is None else 'photographs'}, which "
            f"{stream.name} is not made of"
        )
    elif stream.tier == EMBEDDED:
        of_a_class, drawings = downstream_identity(config.part)
        counts = [of_a_class * size for size in sizes]
        if result["test_counts"] != counts:
            yield f"result.test_counts is {result['test_counts']}: {stream.name} has {counts}"
        if result["data_sha256"] != drawings:
            yield (
                f"result.data_sha256 is {result['data_sha256'][:12]}...: the drawings of this "
                f"version are {drawings[:12]}..."
            )
    else:
        if result["data_sha256"] in _drawings():
            yield f"result.data_sha256 is that of the drawings: {stream.name} is made of photographs"
        if config.backbone != QUICKDRAW_VIT and result["weights_sha256"] == weights_sha256(Config()):
            yield f"result.weights_sha256 is that of {QUICKDRAW_VIT}: the configuration's backbone is {config.backbone}"


@functools.cache
def _drawings() -> frozenset[str]:
    return frozenset(downstream_identity(part)[1] for part in ("test", "validation"))


def _against_order(result: dict[str, Any], config: Config, stream: Stream) -> Iterator[str]:
    if stream.made_by:  # which may have class numbers and an order of its own
        if len(result["class_order"]) != stream.n_classes:
            yield f"result.class_order has {len(result['class_order'])} classes: {stream.name} has {stream.n_classes}"
        return
    if sorted(result["class_order"]) != list(range(stream.n_classes)):
        yield f"result.class_order is no permutation of the {stream.n_classes} classes of {stream.name}"
        return
    yield from _not_the_order(result, config, stream.n_classes)


def _not_the_order(result: Mapping[str, Any], config: Config, n_classes: int) -> Iterator[str]:
    """The stream's classes are the first of the order of ``n_classes``."""
    try:
        expected = expected_order(result, config, n_classes)[: len(result["class_order"])]
    except ValueError as error:
        yield f"result.seed is {result['seed']}: {error}"
        return
    if result["class_order"] != expected:
        origin = "the data set" if config.seeding == "initialisation" else f"seed {result['seed']}"
        yield f"result.class_order is not the one of {origin}"


def expected_order(result: Mapping[str, Any], config: Config, n_classes: int) -> list[int]:
    """The order of the classes that the seed gives.

    :raises ValueError: it is no seed.
    """
    return class_order(n_classes, None if config.seeding == "initialisation" else result["seed"])
