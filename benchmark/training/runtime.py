"""Where a run is made, and of what: nothing here tells one run from another, so nothing here is in a configuration's hash."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setup:
    """The surroundings of a run.

    :ivar device: a torch device.
    :ivar root: folder of the data sets, as `reclaim data` has it.
    :ivar cache: folder of their decoded copies (`reclaim data cache`); on an accelerator images are then transformed there, batch by batch.
    :ivar weights: a file for a backbone whose name has a tag, instead of timm's hub.
    :ivar workers: processes that load images; their number, not their speed, changes which random crops an image gets.
    :ivar threads: of torch on the CPU.
    :ivar checkpoints: folder for checkpoints, from which an interrupted run goes on; ``None`` makes none.
    :ivar checkpoint_minutes: the least time between two of them within an experience; there is one after each experience, too.
    :ivar unverified: take data sets as they lie, small or made by oneself: without counting, and without the checksums of files that can
        run code (CIFAR's are pickles). The record says so.
    :ivar rehearsal: random weights, one step and one test image per experience, small synthetic data: see ``rehearsal.py``.
    """

    device: str = "cpu"
    root: Path | None = None
    cache: Path | None = None
    weights: Path | None = None
    workers: int = 0
    threads: int = 1
    checkpoints: Path | None = None
    checkpoint_minutes: float = 5.0
    unverified: bool = False
    rehearsal: bool = False

    def checkpoint_of(self, recipe: str, stream: str, config_hash: str, seed: int) -> Path | None:
        """Where the checkpoint of this run lies, present or not; ``None`` without a folder for it."""
        return self.checkpoints and self.checkpoints / f"{recipe}.{stream}.{config_hash}.{seed}.checkpoint"

    def discard_checkpoint(self, recipe: str, stream: str, config_hash: str, seed: int) -> None:
        """Delete the checkpoint of this run, one that was not finished and one set aside; for when its record is safe."""
        path = self.checkpoint_of(recipe, stream, config_hash, seed)
        if path:
            with contextlib.suppress(OSError):  # one that stays does no harm
                path.unlink(missing_ok=True)
                unfinished(path).unlink(missing_ok=True)
                set_aside(path).unlink(missing_ok=True)


def unfinished(checkpoint: Path) -> Path:
    """The name of a checkpoint while it is written."""
    return checkpoint.with_suffix(".unfinished")


def set_aside(checkpoint: Path) -> Path:
    """The name of a checkpoint that could not be used."""
    return checkpoint.with_suffix(".unusable")


HERE = Setup()
"""The CPU, and nothing that does not ship with the package."""
