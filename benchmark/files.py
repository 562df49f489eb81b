"""Files: those that ship, and atomic writes: a crash leaves either the old or the new file, never part of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import IO


def asset(name: str) -> Path:
    """Path of a file that ships in ``reclaim.benchmark``'s assets."""
    return Path(str(resources.files("reclaim.benchmark") / "assets" / name))


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[IO[bytes]]:
    """A file to write into. At the end of the block it is synced to disk and replaces ``path``.
    After an error it is deleted.

    :param temporary: its name until then; by default a hidden name next to ``path``, unique to each writer.
    :raises OSError: it cannot be written; ``path`` is unchanged.
    """
    temporary = temporary or path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        if temporary.is_file():
            temporary.unlink()
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` with a text in UTF-8."""
    with replacing(path) as file:
        file.write(text.encode())


def _sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut, where the system supports it: the file is there already."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_writable(folder: Path) -> None:
    """Make a file in a folder and take it away: what cannot be written is found before the work, not after it.

    :raises OSError: it cannot be made.
    """
    with tempfile.TemporaryFile(dir=folder):
        pass
