"""A record of one run, its schema, and the comparison of two runs of the same configuration and seed."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config import config_hash
from .metrics import DENSE_SCORES, METRICS, metrics, unpack_bits
from .provenance import same_kind_of_machine

SCHEMA = 1

UNVERIFIED = "the images were not held against the published numbers and checksums"
"""Remark of a run with unverified images (``--unverified``)."""

TOLERANCE = 0.5
"""Allowed difference in accuracy between kinds of machine, in points, in addition to the weight of one test image."""

DENSE_TOLERANCE = 2.0
"""Allowed difference in a score of a run on canvases between kinds of machine, in points. Which proposals a detector
keeps hangs on the last bits of their scores: from AVX-512 to AVX2 seed 0 of full fine-tuning differed by 0.6 points
(instances), 0.1 (detection) and 0.001 (semantic segmentation).
"""


class RecordError(ValueError):
    """A record, or its folder, is invalid. The message names it, its value and the remedy."""


@dataclass(frozen=True)
class Record:
    """One run. ``result`` has the keys of ``RESULT_KEYS``, on canvases those of ``DENSE_KEYS``.
    ``provenance`` has no fixed schema, see :func:`provenance`.
    """

    result: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def recipe(self) -> str:
        return str(self.result["recipe"])

    @property
    def stream(self) -> str:
        return str(self.result["stream"])

    @property
    def seed(self) -> int:
        return int(self.result["seed"])

    @property
    def config_hash(self) -> str:
        return str(self.result["config_hash"])

    @property
    def images(self) -> frozenset[str]:
        """Every identity under which the images of this run are known. Two runs that share one have the same images."""
        return frozenset({self.result["data_sha256"], *self.result.get("data_aliases", ())})

    @property
    def external(self) -> tuple[str, ...]:
        """Import paths of the code from outside this project that took part; empty for a run of ours.

        They are text: nothing that a record names is imported.
        """
        parts = self.result["config"].get("external") or {}
        named = [*parts.get("plugins", ()), *(parts[kind] for kind in _EXTERNAL_KINDS if kind in parts)]
        made_by = self.result.get("own_stream", {}).get("made_by")
        return tuple(component["path"] for component in (*named, *filter(None, [made_by])))

    @property
    def dense(self) -> bool:
        """Whether it is of a run on canvases: it has scores in place of accuracies."""
        return "scores" in self.result

    def metrics(self) -> dict[str, float]:
        """Metrics of the accuracy matrix, in percent or points (:func:`reclaim.benchmark.records.metrics.metrics`); on
        canvases the scores, in percent.
        """
        if self.dense:
            return dict(self.result["scores"])
        return metrics(self.result["accuracy"], self.result["test_counts"])

    def metrics_task_known(self) -> dict[str, float]:
        """The same for the matrix measured with the task known: classes of other tasks do not compete."""
        return metrics(self.result["accuracy_task_known"], self.result["test_counts"])

    def correct(self) -> NDArray[np.bool_]:
        """Whether each test image is classified correctly after the last task, in task order;
        shape (sum of the test counts,).
        """
        return unpack_bits(self.result["correct"], sum(self.result["test_counts"]))


# --- the schema check ---


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_count(value: Any) -> bool:
    # what does not fit into 64 bits is no count of anything, and beyond the range of float cannot be shown
    return _is_int(value) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    # an int beyond the range of float cannot be computed with
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _list_of(check: Callable[[Any], bool], least: int = 0) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and len(value) >= least and all(check(item) for item in value)


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _one_of(*choices: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in choices


def _is_percent(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 100


def _is_lower_triangular(value: Any) -> bool:
    return _list_of(_list_of(_is_percent), least=1)(value) and [len(row) for row in value] == list(
        range(1, len(value) + 1)
    )


def _is_config(value: Any) -> bool:
    """A dict that survives JSON unchanged (a tuple or an integer key would not) and has an integer ``numerics``; code
    from outside is named by components.
    """
    try:
        unchanged = isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False
    return unchanged and _is_int(value.get("numerics")) and _names_components(value.get("external"))


def _names_components(external: Any) -> bool:
    if external is None:
        return True
    if not isinstance(external, dict) or not isinstance(external.get("plugins", []), list):
        return False
    return all(
        map(_is_component, (*external.get("plugins", ()), *(v for k, v in external.items() if k in _EXTERNAL_KINDS)))
    )


_EXTERNAL_KINDS = ("loss", "optimizer", "strategy", "backbone")


def _is_component(value: Any) -> bool:
    """An import path, its arguments and the SHA-256 of its source (:class:`reclaim.benchmark.config.Component`)."""
    if not isinstance(value, dict) or not set(value) <= {"path", "arguments", "sha256"}:
        return False
    path, arguments = value.get("path"), value.get("arguments", {})
    return _matches(r"[\w.]+:[\w.]+")(path) and isinstance(arguments, dict) and _is_sha256(value.get("sha256"))


def _is_own_stream(value: Any) -> bool:
    counts = _list_of(lambda count: _is_count(count) and count > 0, least=1)
    return (
        isinstance(value, dict)
        and {"sizes", "train_counts"} <= set(value) <= {"sizes", "train_counts", "made_by", "split"}
        and _list_of(_is_count, least=1)(value["sizes"])
        and counts(value["train_counts"])
        and len(value["sizes"]) == len(value["train_counts"])
        and ("made_by" not in value or _is_component(value["made_by"]))
        and isinstance(value.get("split", {}), dict)
    )


def _are_distinct_classes(value: Any) -> bool:
    return _list_of(_is_count, least=1)(value) and len(set(value)) == len(value)


# A name becomes a folder: no separators, not hidden, no path out of the store.
is_name = _matches(r"[A-Za-z0-9][A-Za-z0-9._+@-]*")
NAME = "a name of letters, digits, '.', '_', '+', '-', '@' that starts with a letter or digit"
_is_sha256 = _matches(r"[0-9a-f]{64}")
_MATRIX = "lists of 1, 2, ..., T percentages (0..100)"
_COUNT = "an integer that is not negative and below 2^63"

MOST_NATS = 44
"""An entropy over fewer than 2^63 classes is below it."""

MOST_SECONDS = 1e9
"""Of a run: 30 years."""

RESULT_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "schema": (
        lambda value: _is_int(value) and value == SCHEMA,
        f"{SCHEMA}, the schema that this version of reclaim reads",
    ),
    "recipe": (is_name, NAME),
    "stream": (is_name, NAME),
    "seed": (_is_count, _COUNT),
    "config": (_is_config, "a dict of JSON values with an integer 'numerics'"),
    "config_hash": (_matches(r"[0-9a-f]{12}"), "12 hex digits"),
    "varied": (
        _one_of("class_order", "class_order+initialisation", "initialisation"),
        "'class_order', 'class_order+initialisation' or 'initialisation'",
    ),
    "accuracy": (_is_lower_triangular, _MATRIX),
    "accuracy_task_known": (_is_lower_triangular, _MATRIX),
    "test_counts": (
        _list_of(lambda count: _is_count(count) and count > 0, least=1),
        "a list of positive integers below 2^63, one per task",
    ),
    "correct": (_matches(r"[A-Za-z0-9+/]*={0,2}"), "base64 of one bit per test image"),
    # the mean of float32 entropies may be slightly below 0
    "entropy": (
        _list_of(lambda nats: _is_number(nats) and -1e-3 < nats < MOST_NATS),
        f"a list of entropies in nats, below {MOST_NATS}, one per epoch",
    ),
    "train_loss": (_list_of(_is_number), "a list of finite numbers, one per epoch"),
    "class_order": (_are_distinct_classes, "a list of distinct class numbers"),
    "data_sha256": (_is_sha256, "64 hex digits"),
    "weights_sha256": (_is_sha256, "64 hex digits"),
    "trained_parameters": (_is_count, _COUNT),
    "bytes_kept": (_is_count, _COUNT),
    "hyperparameters_from": (_one_of("paper", "validation", "given"), "'paper', 'validation' or 'given'"),
}
"""Required keys of ``result``: the check and a description of valid values."""


def _are_scores(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and len(value) > 0
        and set(value) <= {*DENSE_SCORES}
        and all(map(_is_percent, value.values()))
    )


def _are_class_scores(value: Any) -> bool:
    of_classes = _list_of(lambda percent: percent is None or _is_percent(percent), least=1)
    return isinstance(value, dict) and set(value) <= {*DENSE_SCORES} and all(map(of_classes, value.values()))


_OF_CLASSIFICATION = ("accuracy", "accuracy_task_known", "correct", "entropy")

DENSE_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    **{key: check for key, check in RESULT_KEYS.items() if key not in _OF_CLASSIFICATION},
    "scores": (_are_scores, f"a dict from one or more of {', '.join(DENSE_SCORES)} to percentages"),
    "class_scores": (_are_class_scores, "a dict from metrics to lists of percentages, or null, one per class"),
    "predictions": (_list_of(lambda one: isinstance(one, dict)), "a list of dicts, one per canvas shown"),
}
"""Required keys of ``result`` of a run on canvases. ``predictions``: on the first test canvases, to be shown."""

OPTIONAL_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "rehearsal": (lambda value: value is True, "true, or absent"),
    "remarks": (_list_of(lambda remark: isinstance(remark, str)), "a list of texts"),
    "data_aliases": (_list_of(_is_sha256), "a list of texts of 64 hex digits"),
    "own_stream": (_is_own_stream, "the sizes and train_counts of the experiences, and made_by or split"),
}
"""Optional keys of ``result``. ``rehearsal``: the run does not count (``rehearsal.py``). ``remarks``: how its images
differ, or may differ, from the paper's. ``data_aliases``: what earlier versions recorded as ``data_sha256`` for the
same images. ``own_stream``: of a stream that is not this project's, the number of new classes and of training images in
each experience (0 new classes where they are those of before), and the component that made it (``made_by``) or how its
images were split (``split``).
"""

OF_THE_FOLDER = frozenset({"remarks", "data_aliases"})
"""Keys of ``result`` that depend on the layout in which the images lay, not on the images."""

MEASURED = frozenset(
    {"accuracy", "accuracy_task_known", "correct", "entropy", "train_loss", "scores", "class_scores", "predictions"}
)
"""Keys of ``result`` that floating-point arithmetic may change between kinds of machine."""


def validate(document: Any) -> None:
    """Check that a document (parsed JSON) is a complete, valid record.

    :raises RecordError: names the key, its value and the remedy.
    """
    _exact_keys("the record", document, {"result", "provenance"})
    result, provenance = document["result"], document["provenance"]
    dense = isinstance(result, dict) and "scores" in result
    keys = DENSE_KEYS if dense else RESULT_KEYS
    _exact_keys("result", result, set(keys), set(OPTIONAL_KEYS))
    for key, (check, wanted) in {**keys, **OPTIONAL_KEYS}.items():
        if key in result and not check(result[key]):
            raise _wrong(f"result.{key}", result[key], wanted)
    if dense:
        lengths: tuple[tuple[str, int, str], ...] = (
            ("test_counts", 1, "task"),
            ("train_loss", result["config"].get("epochs", 0), "epoch"),
        )
    else:
        tasks = len(result["accuracy"])
        lengths = (
            ("accuracy_task_known", tasks, "task"),
            ("test_counts", tasks, "task"),
            ("train_loss", len(result["entropy"]), "epoch"),
        )
    for key, length, unit in lengths:
        if len(result[key]) != length:
            raise _wrong(f"result.{key}", result[key], f"{length} entries, one per {unit}, not {len(result[key])}")
    if result["config_hash"] != config_hash(result["config"]):
        raise _wrong(
            "result.config_hash", result["config_hash"], f"{config_hash(result['config'])}, the hash of result.config"
        )
    if dense != ("dense" in result["config"]):
        wanted = "a configuration with a part 'dense', whose runs alone have scores"
        raise _wrong("result.config", result["config"], wanted)
    if not dense:
        _check_bits(result)

    if not isinstance(provenance, dict):
        raise _wrong("provenance", provenance, "a dict")
    for key in ("torch", "platform"):
        if not isinstance(provenance.get(key), str):
            raise _wrong(f"provenance.{key}", provenance.get(key), "a string")
    for key in ("cpu_seconds", "wall_seconds"):
        seconds = provenance.get(key)
        if seconds is not None and not (_is_number(seconds) and 0 <= seconds <= MOST_SECONDS):
            raise _wrong(f"provenance.{key}", seconds, f"a number from 0 to {MOST_SECONDS:.0e}, or null")
    try:
        json.dumps(provenance, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise _wrong("provenance", provenance, f"JSON values ({error})") from None


def _check_bits(result: Mapping[str, Any]) -> None:
    """The bits of each task must add up to its accuracy after the last task."""
    counts, last = result["test_counts"], result["accuracy"][-1]
    try:
        bits = unpack_bits(result["correct"], sum(counts))
    except ValueError as error:
        raise _wrong("result.correct", result["correct"], f"the bits of {sum(counts)} test images ({error})") from None
    for task, (part, count, accuracy) in enumerate(
        zip(np.split(bits, np.cumsum(counts)[:-1]), counts, last, strict=True)
    ):
        # the tolerance of 0.01 images allows for accuracies computed in float32
        if abs(int(part.sum()) - accuracy / 100 * count) > 0.01:
            wanted = (
                f"bits that add up to accuracy[{len(last) - 1}][{task}] = {accuracy}% of {count} images, "
                f"not to {int(part.sum())} right"
            )
            raise _wrong("result.correct", result["correct"], wanted)


def _exact_keys(what: str, value: Any, keys: set[str], optional: Set[str] = frozenset()) -> None:
    if not isinstance(value, dict):
        raise _wrong(what, value, f"a dict with the keys {', '.join(sorted(keys))}")
    if missing := keys - value.keys():
        raise RecordError(f"{what} lacks {', '.join(sorted(missing))}: run it again, or delete the file")
    if unknown := value.keys() - keys - optional:
        raise RecordError(
            f"{what} has unknown keys {', '.join(sorted(map(str, unknown)))}: run it again, or delete the file"
        )


def _wrong(key: str, value: Any, wanted: str) -> RecordError:
    return RecordError(f"{key} is {_short(value)}, wanted {wanted}: run it again, or delete the file")


def plain(text: str, most: int = 80) -> str:
    """Somebody else's text on one line that does nothing to a terminal: what cannot be printed is escaped, and what is
    longer than ``most`` characters is cut.
    """
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    return escaped if len(escaped) <= most else f"{escaped[: most - 3]}..."


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True)
class Comparison:
    """Comparison of two runs of the same configuration and seed.

    ``exact`` says which rule applied, ``same_crops`` whether accuracies were compared at all. ``differing`` lists the
    keys of ``result`` that differ. ``largest`` is the largest difference between two entries of the accuracy matrices,
    in points, at ``where``. ``failures`` lists what breaks the rule; empty means the runs agree.
    """

    exact: bool
    differing: tuple[str, ...]
    largest: float
    where: str | None
    failures: tuple[str, ...]
    same_crops: bool = True

    @property
    def agree(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        rule = (
            "to the last bit"
            if self.exact
            else f"within {TOLERANCE} point and one image"
            if self.same_crops
            else "but for the crops"
        )
        deviation = f"largest deviation {self.largest:.2f} points at {self.where}" if self.where else "same accuracies"
        return (
            f"agree {rule}, {deviation}"
            if self.agree
            else f"do not agree {rule}, {deviation}: {'; '.join(self.failures)}"
        )


def compare(a: Record, b: Record) -> Comparison:
    """Compare two runs of the same configuration and seed.

    - On the same kind of machine, on its CPU, every key of ``result`` must be equal, but for what says in which layout
      the images lay (:data:`OF_THE_FOLDER`).
    - On different kinds of machine, on an accelerator (whose sums have no fixed order), or if one passed fewer images
      at a time for want of memory, every accuracy may differ by half a point plus the weight of one test image of its
      task. Accuracies change in steps of one image, which in a small task is more than half a point, and a single
      borderline image does not indicate a changed method. Keys that are not measured (:data:`MEASURED`) must be equal.
    - If the images were loaded by different numbers of processes, the runs used different random crops: they are two
      samples of one configuration. Then only the keys that are not measured must be equal.

    :raises RecordError: the two are not runs of the same configuration and seed.
    """
    for key in ("recipe", "stream", "config_hash", "seed"):
        if a.result[key] != b.result[key]:
            raise RecordError(
                f"{key} is {a.result[key]!r} in one run and {b.result[key]!r} in the other: "
                f"compare runs of one configuration and seed"
            )
    same_crops = a.provenance.get("loading") == b.provenance.get("loading")
    same_passes = a.provenance.get("at_a_time") == b.provenance.get("at_a_time")
    exact = (
        same_crops
        and same_passes
        and same_kind_of_machine(a.provenance, b.provenance)
        and a.provenance["accelerator"] is None
    )
    differing = tuple(
        key
        for key in dict.fromkeys((*RESULT_KEYS, *DENSE_KEYS, *OPTIONAL_KEYS))
        if key not in OF_THE_FOLDER
        and a.result.get(key) != b.result.get(key)
        and not (key == "data_sha256" and a.images & b.images)
    )
    failures = [f"{key} differs" for key in differing if exact or key not in MEASURED]

    deviations = []
    if a.dense:  # of one configuration, so both are
        for metric in {*a.metrics()} & {*b.metrics()}:
            left, right = a.metrics()[metric], b.metrics()[metric]
            deviations.append((abs(left - right), f"scores.{metric}"))
            if not exact and abs(left - right) > DENSE_TOLERANCE:
                failures.append(
                    f"{metric} is {left} in one run and {right} in the other, {DENSE_TOLERANCE} points are allowed"
                )
    elif a.result["test_counts"] == b.result["test_counts"]:
        for key in ("accuracy", "accuracy_task_known"):
            for t, (row, other) in enumerate(zip(a.result[key], b.result[key], strict=True)):
                for i, (left, right) in enumerate(zip(row, other, strict=True)):
                    deviations.append((abs(left - right), f"{key}[{t}][{i}]"))
                    allowed = TOLERANCE + 100 / a.result["test_counts"][i]
                    # 1e-9 points for the rounding error of the subtraction
                    if same_crops and not exact and abs(left - right) > allowed + 1e-9:
                        failures.append(
                            f"{key}[{t}][{i}] is {left} in one run and {right} in the other, "
                            f"{allowed:.2f} points are allowed"
                        )
    largest, where = max(deviations, key=lambda deviation: deviation[0], default=(0.0, None))
    return Comparison(exact, differing, largest, where if largest > 0 else None, tuple(failures), same_crops)


def image_sets(records: Iterable[Record]) -> list[frozenset[str]]:
    """The different sets of images that records are of, each with all the identities under which it is known."""
    sets: list[frozenset[str]] = []
    for record in records:
        same = [known for known in sets if known & record.images]
        sets = [*(known for known in sets if known not in same), record.images.union(*same)]
    return sets


def metrics_of(records: Iterable[Record]) -> tuple[str, ...]:
    """The names of the metrics that :func:`metric_of` knows of any of these records, in the order of
    :data:`~reclaim.benchmark.records.metrics.METRICS` and :data:`~reclaim.benchmark.records.metrics.DENSE_SCORES`.
    """
    records = list(records)
    of_dense = {metric for record in records if record.dense for metric in record.metrics()}
    of_others = () if records and all(record.dense for record in records) else METRICS
    return (*of_others, *(metric for metric in DENSE_SCORES if metric in of_dense))


def metric_of(record: Record, metric: str) -> float:
    """Value of a metric in :data:`~reclaim.benchmark.records.metrics.METRICS`: percent, points, or nats; of a run on
    canvases, of one in :data:`~reclaim.benchmark.records.metrics.DENSE_METRICS`.

    ``final_entropy`` is the entropy of the training predictions in the last epoch of each experience, averaged over
    experiences; NaN if there was no epoch.
    """
    if metric == "final_entropy" and not record.dense:
        entropy = record.result["entropy"]
        epochs = len(entropy) // len(record.result["accuracy"])  # of an experience
        last = entropy[epochs - 1 :: epochs] if epochs else []
        return sum(last) / len(last) if last else math.nan
    known = record.metrics()
    if metric not in known:
        raise ValueError(
            f"{record.recipe} on {record.stream} has no metric {metric!r}: choose one of {', '.join(known)}"
        )
    return known[metric]
