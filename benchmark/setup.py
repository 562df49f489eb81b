"""Where a run is made, and of what: nothing here tells one run from another, so nothing here is in a configuration's hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setup:
    """The surroundings of a run.

    :ivar device: a torch device.
    :ivar root: folder of the data sets, as `reclaim data` has it.
    :ivar cache: folder of their decoded copies (`reclaim data cache`): images are then transformed as whole batches on the device.
    :ivar weights: a file for a backbone whose name has a tag, instead of timm's hub.
    :ivar workers: processes that load images; their number, not their speed, changes which random crops an image gets.
    :ivar threads: of torch on the CPU.
    """

    device: str = "cpu"
    root: Path | None = None
    cache: Path | None = None
    weights: Path | None = None
    workers: int = 0
    threads: int = 1


HERE = Setup()
"""The CPU, and nothing that does not ship with the package."""
