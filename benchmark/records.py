"""One JSON file per run, and the store that writes and reads them.

``records/<recipe>/<stream>/<config hash>/<seed>.json`` holds ``result``, which is what runs are compared by, and ``provenance``, which
says where and when it came about. A file is written under a temporary name and renamed, so that a crash leaves the old file or the new
one, and read back through :func:`validate`: what does not pass is reported by name and skipped.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .metrics import metrics, unpack_bits

SCHEMA = 1
PACKAGES = ("torch", "torchvision", "timm", "avalanche-lib", "numpy", "reclaim")
MACHINE = ("torch", "cpu_capability", "cpu_model", "threads", "accelerator")
"""Provenance that decides whether two machines must agree to the last bit."""

UNVERIFIED = "the images were not held against the published numbers and checksums"
"""Remark of a run on a data set taken as it lies."""

TOLERANCE = 0.5
"""Points by which an accuracy may differ between kinds of machine, beside the weight of one test image."""


class RecordError(ValueError):
    """A record, or the place to keep it, is not what it should be; the message names it, its value and the remedy."""


@dataclass(frozen=True)
class Record:
    """One run. ``result`` has the keys of ``RESULT_KEYS``; ``provenance`` is free, see :func:`provenance`."""

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

    def metrics(self) -> dict[str, float]:
        """Metrics of the accuracy matrix, in percent or points (:func:`reclaim.benchmark.metrics.metrics`)."""
        return metrics(self.result["accuracy"], self.result["test_counts"])

    def metrics_task_known(self) -> dict[str, float]:
        """The same of the matrix measured with the task known: classes of other tasks do not compete."""
        return metrics(self.result["accuracy_task_known"], self.result["test_counts"])

    def correct(self) -> NDArray[np.bool_]:
        """Right or wrong for each test image after the last task, in task order; shape (sum of the test counts,)."""
        return unpack_bits(self.result["correct"], sum(self.result["test_counts"]))


@dataclass(frozen=True)
class Problem:
    """A file in the store that was not read, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def config_hash(config: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the configuration as canonical JSON (sorted keys, no spaces).

    What does not change the numbers (device, jobs, paths) is left out by the caller. 1 and 1.0 are different values.

    :raises RecordError: when a value is not JSON, NaN and infinities included.
    """
    try:
        canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RecordError(f"config is {_short(config)}: not JSON ({error}); use numbers, strings, booleans, lists and dicts") from None
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


# --- the schema check ---


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_number(value: Any) -> bool:
    # an int beyond every float is one that nothing can be computed with
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
    return _list_of(_list_of(_is_percent), least=1)(value) and [len(row) for row in value] == list(range(1, len(value) + 1))


def _is_config(value: Any) -> bool:
    """A dict that survives JSON unchanged (a tuple or an integer key would not) and holds an integer ``numerics``."""
    try:
        unchanged = isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False
    return unchanged and _is_int(value.get("numerics"))


def _are_distinct_classes(value: Any) -> bool:
    return _list_of(lambda c: _is_int(c) and c >= 0, least=1)(value) and len(set(value)) == len(value)


# A name is a folder: no separators, nothing hidden, nothing that leads out of the store.
_is_name = _matches(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_NAME = "a name of letters, digits, '.', '_', '+', '-' that starts with a letter or digit"
_is_sha256 = _matches(r"[0-9a-f]{64}")
_MATRIX = "lists of 1, 2, ..., T percentages (0..100)"

RESULT_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "schema": (lambda value: _is_int(value) and value == SCHEMA, f"{SCHEMA}, the schema that this version of reclaim reads"),
    "recipe": (_is_name, _NAME),
    "stream": (_is_name, _NAME),
    "seed": (lambda value: _is_int(value) and value >= 0, "an integer that is not negative"),
    "config": (_is_config, "a dict of JSON values with an integer 'numerics'"),
    "config_hash": (_matches(r"[0-9a-f]{12}"), "12 hex digits"),
    "varied": (
        _one_of("class_order", "class_order+initialisation", "initialisation"),
        "'class_order', 'class_order+initialisation' or 'initialisation'",
    ),
    "accuracy": (_is_lower_triangular, _MATRIX),
    "accuracy_task_known": (_is_lower_triangular, _MATRIX),
    "test_counts": (_list_of(lambda count: _is_int(count) and count > 0, least=1), "a list of positive integers, one per task"),
    "correct": (_matches(r"[A-Za-z0-9+/]*={0,2}"), "base64 of one bit per test image"),
    # a mean of float32 entropies may fall short of 0 by its rounding
    "entropy": (_list_of(lambda nats: _is_number(nats) and nats > -1e-3), "a list of entropies in nats, one per epoch"),
    "train_loss": (_list_of(_is_number), "a list of finite numbers, one per epoch"),
    "class_order": (_are_distinct_classes, "a list of distinct class numbers"),
    "data_sha256": (_is_sha256, "64 hex digits"),
    "weights_sha256": (_is_sha256, "64 hex digits"),
    "trained_parameters": (lambda value: _is_int(value) and value >= 0, "an integer that is not negative"),
    "bytes_kept": (lambda value: _is_int(value) and value >= 0, "an integer that is not negative"),
    "hyperparameters_from": (_one_of("paper", "validation", "given"), "'paper', 'validation' or 'given'"),
}
"""Every key that ``result`` must have: its check, and what passes."""

OPTIONAL_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "rehearsal": (lambda value: value is True, "true, or absent"),
    "remarks": (_list_of(lambda remark: isinstance(remark, str)), "a list of texts"),
}
"""Keys that ``result`` may have: that it counts for nothing (``rehearsal.py``), and in what its images are, or may be, not the paper's."""

MEASURED = frozenset({"accuracy", "accuracy_task_known", "correct", "entropy", "train_loss"})
"""Keys of ``result`` that floating-point arithmetic may change from one kind of machine to another."""


def validate(document: Any) -> None:
    """Check that a document (as read from JSON) is a whole, sound record.

    :raises RecordError: naming the key, its value and the remedy.
    """
    _exact_keys("the record", document, {"result", "provenance"})
    result, provenance = document["result"], document["provenance"]
    _exact_keys("result", result, set(RESULT_KEYS), set(OPTIONAL_KEYS))
    for key, (check, wanted) in {**RESULT_KEYS, **OPTIONAL_KEYS}.items():
        if key in result and not check(result[key]):
            raise _wrong(f"result.{key}", result[key], wanted)

    tasks, epochs = len(result["accuracy"]), len(result["entropy"])
    for key, length, unit in (("accuracy_task_known", tasks, "task"), ("test_counts", tasks, "task"), ("train_loss", epochs, "epoch")):
        if len(result[key]) != length:
            raise _wrong(f"result.{key}", result[key], f"{length} entries, one per {unit}, not {len(result[key])}")
    if result["config_hash"] != config_hash(result["config"]):
        raise _wrong("result.config_hash", result["config_hash"], f"{config_hash(result['config'])}, the hash of result.config")
    _check_bits(result)

    if not isinstance(provenance, dict):
        raise _wrong("provenance", provenance, "a dict")
    for key in ("torch", "platform"):
        if not isinstance(provenance.get(key), str):
            raise _wrong(f"provenance.{key}", provenance.get(key), "a string")
    for key in ("cpu_seconds", "wall_seconds"):
        seconds = provenance.get(key)
        if seconds is not None and not (_is_number(seconds) and seconds >= 0):
            raise _wrong(f"provenance.{key}", seconds, "a finite number that is not negative, or null")
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
    for task, (part, count, accuracy) in enumerate(zip(np.split(bits, np.cumsum(counts)[:-1]), counts, last, strict=True)):
        # a hundredth of an image leaves room for an accuracy that was computed in float32
        if abs(int(part.sum()) - accuracy / 100 * count) > 0.01:
            wanted = (
                f"bits that add up to accuracy[{len(last) - 1}][{task}] = {accuracy}% of {count} images, not to {int(part.sum())} right"
            )
            raise _wrong("result.correct", result["correct"], wanted)


def _exact_keys(what: str, value: Any, keys: set[str], optional: Set[str] = frozenset()) -> None:
    if not isinstance(value, dict):
        raise _wrong(what, value, f"a dict with the keys {', '.join(sorted(keys))}")
    if missing := keys - value.keys():
        raise RecordError(f"{what} lacks {', '.join(sorted(missing))}: run it again, or delete the file")
    if unknown := value.keys() - keys - optional:
        raise RecordError(f"{what} has unknown keys {', '.join(sorted(map(str, unknown)))}: run it again, or delete the file")


def _wrong(key: str, value: Any, wanted: str) -> RecordError:
    return RecordError(f"{key} is {_short(value)}, wanted {wanted}: run it again, or delete the file")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


# --- the store ---


class RecordStore:
    """The records under one folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise RecordError(f"the records folder {self.root} is a file: name a folder with --records")

    def path_of(self, recipe: str, stream: str, config_hash: str, seed: int) -> Path:
        """Where the record of this run lies, present or not.

        :raises RecordError: for a recipe or stream name that cannot be a folder.
        """
        for key, name in (("recipe", recipe), ("stream", stream), ("config_hash", config_hash)):
            if not _is_name(name):
                raise RecordError(f"{key} is {name!r}, wanted {_NAME}")
        return self.root / recipe / stream / config_hash / f"{seed}.json"

    def require_writable(self) -> None:
        """Make the folder and a file in it: what cannot be written should be known before a run, not after.

        :raises RecordError: naming the folder, when either fails.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise _not_writable(self.root, error) from error

    def write(self, record: Record) -> Path:
        """Check a record and put it in its place, replacing an older one; a crash leaves the old file or the new one, whole.

        :raises RecordError: when the record is not sound, or its folder cannot be written.
        """
        document = {"result": record.result, "provenance": record.provenance}
        validate(document)
        path = self.path_of(record.recipe, record.stream, record.config_hash, record.seed)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(temporary, "x", encoding="utf-8", newline="\n") as file:
                    file.write(_text(document))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        except OSError as error:
            raise _not_writable(path.parent, error) from error
        return path

    def get(self, recipe: str, stream: str, config_hash: str, seed: int) -> Record | None:
        """The record of this run, None when there is none.

        :raises RecordError: naming the file, when it is there but damaged: it is neither used nor silently replaced.
        """
        path = self.path_of(recipe, stream, config_hash, seed)
        if not path.exists():
            return None
        try:
            return self._read(path)
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from None

    def load(self) -> tuple[list[Record], list[Problem]]:
        """All records in order of (recipe, stream, config hash, seed), and every file that is not one, in order of path."""
        records, problems = [], []
        for path in sorted(path for path in self.root.rglob("*") if not path.is_dir()):
            try:
                records.append(self._read(path))
            except RecordError as error:
                problems.append(Problem(path, str(error)))
        return sorted(records, key=lambda r: (r.recipe, r.stream, r.config_hash, r.seed)), problems

    def _read(self, path: Path) -> Record:
        if path.suffix == ".tmp":
            raise RecordError("left by a write that is under way or was interrupted: delete it when nothing is running")
        if path.suffix != ".json":
            raise RecordError("not a record (.json): move it elsewhere")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"cannot be read ({error}): run it again, or delete the file") from None
        # the closing newline is what a file cut by its last byte lacks
        if not text.endswith("\n"):
            raise RecordError("is cut short, its last line has no end: run it again, or delete the file")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"is not JSON ({error}): run it again, or delete the file") from None
        validate(document)
        record = Record(document["result"], document["provenance"])
        if path != (place := self.path_of(record.recipe, record.stream, record.config_hash, record.seed)):
            raise RecordError(f"lies in the wrong place, its content belongs at {place}: move it there, or delete it")
        return record


def _not_writable(folder: Path, error: OSError) -> RecordError:
    reason = error.strerror or str(error)
    return RecordError(f"cannot write into {folder} ({reason}): make it writable or choose another folder with --records")


def named_store(folder: Path | str) -> RecordStore:
    """The store in a folder that is named to be read.

    :raises RecordError: when there is no such folder.
    """
    if not Path(folder).exists():
        raise RecordError(f"there is no folder {folder}: name a record store with --records")
    return RecordStore(folder)


def default_store() -> RecordStore:
    """The store in ``leaderboards/records`` of the working directory.

    :raises RecordError: when there is no such folder.
    """
    folder = Path("leaderboards") / "records"
    if not folder.is_dir():
        raise RecordError(f"there is no folder {folder} in {Path.cwd()}: go to a checkout of reclaim, or name a folder with --records")
    return RecordStore(folder)


def _text(document: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with one line per key of either part, so that a difference between two versions of a file shows which key changed."""
    parts = []
    for part, content in document.items():
        lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(content[key], sort_keys=True, allow_nan=False)}" for key in content)
        parts.append(f"  {json.dumps(part)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder last through a power cut, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- provenance and comparison ---


def provenance(
    started: datetime, ended: datetime, wall_seconds: float, device: str = "cpu", cpu_seconds: float | None = None
) -> dict[str, Any]:
    """Where and when a run came about: versions, commit, machine, times, peak memory.

    None of it is compared; :data:`MACHINE` only chooses the rule of :func:`compare`.

    :param started: time zone aware; written as UTC.
    :param device: torch device of the run; its name goes under ``accelerator``, which is None on the CPU.
    :param cpu_seconds: processor time of the run: what ``wall_seconds`` would be on a core of its own.
    """
    import torch  # reading records and making leaderboards must not wait for it

    return {
        **{package: _version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        **dict(zip(("commit", "dirty"), _commit(), strict=True)),
        "cpu_model": _cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "accelerator": _accelerator(device),
        "threads": torch.get_num_threads(),
        "started": started.astimezone(timezone.utc).isoformat(),
        "ended": ended.astimezone(timezone.utc).isoformat(),
        "wall_seconds": wall_seconds,
        "cpu_seconds": cpu_seconds,
        "peak_memory_bytes": _peak_memory(),
        **({"peak_device_memory_bytes": torch.cuda.max_memory_allocated(device)} if torch.device(device).type == "cuda" else {}),
    }


def _version(package: str) -> str | None:
    # torch's own string tells its build (+cpu, +cu126) apart, which the metadata of some wheels does not
    if package == "torch":
        import torch

        return str(torch.__version__)
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> tuple[str | None, bool | None]:
    """Commit of the working directory and whether tracked or new files differ from it; (None, None) outside a checkout.

    The records are left out: a sweep writes them, and would call itself dirty after its first run.
    """
    commands = (["rev-parse", "HEAD"], ["status", "--porcelain", "--", ":(top)", ":(top,exclude)leaderboards/records"])
    try:
        head, status = (subprocess.run(["git", *c], capture_output=True, text=True, check=True, timeout=30).stdout for c in commands)
    except (OSError, subprocess.SubprocessError):
        return None, None
    return head.strip(), bool(status.strip())


def _cpu_model() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def _accelerator(device: str) -> str | None:
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        return None
    return torch.cuda.get_device_name(device) if kind == "cuda" else kind


def _peak_memory() -> int | None:
    """Largest resident memory of this process so far, in bytes; None where the system does not count it."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def same_kind_of_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two provenances name the same torch, instruction set, processor, threads and accelerator; all must be there."""
    return all(key in a and key in b and a[key] == b[key] for key in MACHINE)


@dataclass(frozen=True)
class Comparison:
    """Two runs of one configuration and seed, held against each other.

    ``exact`` says which rule applied, ``same_crops`` whether accuracies were held against each other at all. ``differing`` are the keys of
    ``result`` that are not equal. ``largest`` is the largest difference between two entries of the accuracy matrices, in points, at
    ``where``. ``failures`` says what breaks the rule; none means the runs agree.
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
        rule = "to the last bit" if self.exact else f"within {TOLERANCE} point and one image" if self.same_crops else "but for the crops"
        deviation = f"largest deviation {self.largest:.2f} points at {self.where}" if self.where else "same accuracies"
        return f"agree {rule}, {deviation}" if self.agree else f"do not agree {rule}, {deviation}: {'; '.join(self.failures)}"


def compare(a: Record, b: Record) -> Comparison:
    """Hold a run against another of the same configuration and seed.

    On the same kind of machine and on its CPU every key of ``result`` must be equal. On another kind, or on an accelerator, whose sums
    have no fixed order, every accuracy may differ by half a point and the weight of one test image of its task: an accuracy moves in
    steps of one image, which in a small task is more than half a point, and one image on the edge is no sign of a changed method. What is
    not measured (:data:`MEASURED`) must be equal. That alone is asked of runs whose images were loaded by other numbers of processes, which
    draw other crops: these are two samples of one configuration.

    :raises RecordError: when the two are not runs of the same configuration and seed.
    """
    for key in ("recipe", "stream", "config_hash", "seed"):
        if a.result[key] != b.result[key]:
            raise RecordError(
                f"{key} is {a.result[key]!r} in one run and {b.result[key]!r} in the other: compare runs of one configuration and seed"
            )
    same_crops = a.provenance.get("loading") == b.provenance.get("loading")
    exact = same_crops and same_kind_of_machine(a.provenance, b.provenance) and a.provenance["accelerator"] is None
    differing = tuple(key for key in (*RESULT_KEYS, *OPTIONAL_KEYS) if a.result.get(key) != b.result.get(key))
    failures = [f"{key} differs" for key in differing if exact or key not in MEASURED]

    deviations = []
    if a.result["test_counts"] == b.result["test_counts"]:
        for key in ("accuracy", "accuracy_task_known"):
            for t, (row, other) in enumerate(zip(a.result[key], b.result[key], strict=True)):
                for i, (left, right) in enumerate(zip(row, other, strict=True)):
                    deviations.append((abs(left - right), f"{key}[{t}][{i}]"))
                    allowed = TOLERANCE + 100 / a.result["test_counts"][i]
                    # a billionth of a point for the rounding of the subtraction itself
                    if same_crops and not exact and abs(left - right) > allowed + 1e-9:
                        failures.append(f"{key}[{t}][{i}] is {left} in one run and {right} in the other, {allowed:.2f} points are allowed")
    largest, where = max(deviations, key=lambda deviation: deviation[0], default=(0.0, None))
    return Comparison(exact, differing, largest, where if largest > 0 else None, tuple(failures), same_crops)
