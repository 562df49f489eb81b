"""Files that ship with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def asset(name: str) -> Path:
    """Path of a file in ``reclaim.benchmark``'s assets."""
    return Path(str(resources.files("reclaim.benchmark") / "assets" / name))
