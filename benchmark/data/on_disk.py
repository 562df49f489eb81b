"""What must lie on disk: files that exist, and those of a published checksum."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

_BLOCK = 2**20  # bytes


def digest_of(path: Path, algorithm: str) -> str:
    """Checksum of a file, in hex; ``algorithm`` as hashlib calls it."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def require_there(path: Path, directory: bool = False) -> Path:
    """The path.

    :raises ValueError: it does not exist.
    """
    if not (path.is_dir() if directory else path.is_file()):
        raise ValueError(
            f"{path} is missing: unfinished download or unpacking, or another layout than `reclaim data list` shows"
        )
    return path


def require_md5(files: Sequence[tuple[Path, str | None]], name: str) -> None:
    """Check that the files of a data set exist and have their published MD5; None: it does not matter.

    :raises ValueError: one is missing, or some are damaged; names all of these.
    """
    expected = {require_there(path): md5 for path, md5 in files}
    found = {path: md5 and digest_of(path, "md5") for path, md5 in expected.items()}
    damaged = [
        f"{path} is damaged or unfinished (MD5 {found[path]}, not {md5}): move it away and fetch {name} again"
        for path, md5 in expected.items()
        if found[path] != md5
    ]
    if damaged:
        raise ValueError("\n".join(damaged))
