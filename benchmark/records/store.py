"""The record store: one JSON file per run, ``<recipe>/<stream>/<config hash>/<seed>.json``.

Files are written under a temporary name and then renamed, so a crash leaves either the old or the new file. Reading
checks them with :func:`~reclaim.benchmark.records.record.validate`. Invalid files are reported and skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import require_writable, write_text
from .record import NAME, Record, RecordError, is_name, validate


@dataclass(frozen=True)
class Problem:
    """A file in the store that could not be used, and the reason."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


ROOM = 64 * 2**20
"""Bytes that must be free before a run starts. A record has a hundredth of that; checkpoints, which a run can do
without, may need more.
"""

# --- the store ---


class RecordStore:
    """The records in one folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise RecordError(f"the records folder {self.root} is a file: name a folder instead")

    def path_of(self, recipe: str, stream: str, config_hash: str, seed: int) -> Path:
        """Path of this run's record, whether or not it exists.

        :raises RecordError: the recipe, stream or hash cannot be a folder name.
        """
        for key, name in (("recipe", recipe), ("stream", stream), ("config_hash", config_hash)):
            if not is_name(name):
                raise RecordError(f"{key} is {name!r}, wanted {NAME}")
        return self.root / recipe / stream / config_hash / f"{seed}.json"

    def require_writable(self) -> None:
        """Create the folder and a test file in it: a missing permission or a full disk is found before a run, not
        after it.

        :raises RecordError: either fails, or less than :data:`ROOM` is free; names the folder.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            require_writable(self.root)
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise _not_writable(self.root, error) from error
        if free < ROOM:
            raise RecordError(
                f"the disk of {self.root} is full: {free / 2**20:.1f} MiB are free, wanted {ROOM / 2**20:.0f} MiB for "
                "records: make room or choose another folder with --records"
            )

    def written(self, recipe: str, stream: str, config_hash: str, seed: int) -> int | None:
        """When this run's record was written, in nanoseconds; None if there is none that can be read."""
        try:
            return self.path_of(recipe, stream, config_hash, seed).stat().st_mtime_ns
        except OSError:
            return None

    def write(self, record: Record) -> Path:
        """Check a record and write it, replacing an older one.
        A crash leaves the old or the new file, never part of one.

        :raises RecordError: the record is invalid, or its folder is not writable.
        """
        document = {"result": record.result, "provenance": record.provenance}
        validate(document)
        path = self.path_of(record.recipe, record.stream, record.config_hash, record.seed)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, _text(document))
        except OSError as error:
            raise _not_writable(path.parent, error) from error
        return path

    def get(self, recipe: str, stream: str, config_hash: str, seed: int) -> Record | None:
        """The record of this run; None if there is none.

        :raises RecordError: it exists but is damaged; names the file. Damaged files are neither used nor replaced
            silently.
        """
        path = self.path_of(recipe, stream, config_hash, seed)
        if not path.exists():
            return None
        try:
            return self._read(path)
        except RecordError as error:
            raise RecordError(f"{path}: {error}") from None

    def alike(self, recipe: str, stream: str, config_hash: str) -> list[Record]:
        """The sound records of one configuration, whatever their seeds."""
        found = []
        for path in self.path_of(recipe, stream, config_hash, 0).parent.glob("*.json"):
            with contextlib.suppress(RecordError):
                found.append(self._read(path))
        return found

    def load(self) -> tuple[list[Record], list[Problem]]:
        """All records, sorted by (recipe, stream, config hash, seed),
        and every file that is not a valid record, sorted by path.
        """
        records, problems = [], []
        for path in sorted(path for path in self.root.rglob("*") if not path.is_dir()):
            try:
                records.append(self._read(path))
            except RecordError as error:
                problems.append(Problem(path, str(error)))
        return sorted(records, key=lambda r: (r.recipe, r.stream, r.config_hash, r.seed)), problems

    def _read(self, path: Path) -> Record:
        if path.suffix == ".tmp":
            raise RecordError(
                "left over from a write that is running or was interrupted: delete it when nothing is running"
            )
        if path.suffix != ".json":
            raise RecordError("not a record (.json): move it elsewhere")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RecordError(f"cannot be read ({error}): run it again, or delete the file") from None
        # a file truncated by a single byte lacks the final newline
        if not text.endswith("\n"):
            raise RecordError("is cut short, its last line is incomplete: run it again, or delete the file")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RecordError(f"is not JSON ({error}): run it again, or delete the file") from None
        validate(document)
        record = Record(document["result"], document["provenance"])
        if path != (place := self.path_of(record.recipe, record.stream, record.config_hash, record.seed)):
            raise RecordError(f"is in the wrong place, its content belongs at {place}: move it there, or delete it")
        return record


def _not_writable(folder: Path, error: OSError) -> RecordError:
    reason = error.strerror or str(error)
    return RecordError(
        f"cannot write into {folder} ({reason}): make it writable or choose another folder with --records"
    )


def named_store(folder: Path | str, option: str = "--records") -> RecordStore:
    """The store in a folder that the user named, for reading.

    :raises RecordError: there is no such folder.
    """
    if not Path(folder).exists():
        raise RecordError(f"there is no folder {folder}: name a record store with {option}")
    return RecordStore(folder)


def default_store(option: str = "--records") -> RecordStore:
    """The store in ``leaderboards/records`` of the working directory.

    :raises RecordError: there is no such folder.
    """
    folder = Path("leaderboards") / "records"
    if not folder.is_dir():
        raise RecordError(
            f"there is no folder {folder} in {Path.cwd()}: go to a checkout of reclaim, or name a folder with {option}"
        )
    return RecordStore(folder)


def _text(document: Mapping[str, Mapping[str, Any]]) -> str:
    """JSON with one line per key of either part, so that a diff of two versions of a file shows which key changed."""
    parts = []
    for part, content in document.items():
        lines = ",\n".join(
            f"    {json.dumps(key)}: {json.dumps(content[key], sort_keys=True, allow_nan=False)}" for key in content
        )
        parts.append(f"  {json.dumps(part)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
