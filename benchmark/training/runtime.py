"""The environment of a run: device, files, processes.
It does not distinguish runs and is not part of a configuration's hash.
"""

from __future__ import annotations

import contextlib
import glob
import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Setup:
    """The environment of a run.

    :ivar device: a torch device.
    :ivar root: folder of the data sets, as in `reclaim data`.
    :ivar cache: folder of their decoded copies (`reclaim data cache`). On an accelerator the images are then
        transformed there, in batches.
    :ivar weights: a file for a backbone whose name has a tag, instead of timm's hub.
    :ivar workers: number of processes that load images. It (but not their speed) affects which random crops an image
        gets.
    :ivar threads: number of torch's CPU threads.
    :ivar at_a_time: the most images that pass through the backbone at a time, whatever the configuration's micro-batch
        and batches say: less memory, the same gradient up to rounding. ``None``: as the configuration says.
    :ivar checkpoints: folder for checkpoints, from which an interrupted run resumes; ``None``: no checkpoints.
    :ivar checkpoint_minutes: minimum time between two checkpoints within an experience. After each experience there is
        one, too.
    :ivar unverified: use data sets without verification, such as small ones of your own: without counting, and without
        checksums. The record says so.
    :ivar rehearsal: random weights, a few steps and test images per experience, small synthetic data: see
        ``rehearsal.py``. ``timed``: its steps are, otherwise one is made in each experience.
    """

    device: str = "cpu"
    root: Path | None = None
    cache: Path | None = None
    weights: Path | None = None
    workers: int = 0
    threads: int = 1
    at_a_time: int | None = None
    checkpoints: Path | None = None
    checkpoint_minutes: float = 5.0
    unverified: bool = False
    rehearsal: bool = False
    timed: bool = True

    def checkpoint_of(self, recipe: str, stream: str, config_hash: str, seed: int) -> Path | None:
        """Path of this run's checkpoint, whether or not it exists; ``None`` without a folder for checkpoints."""
        return self.checkpoints and self.checkpoints / f"{recipe}.{stream}.{config_hash}.{seed}.checkpoint"

    def discard_checkpoint(self, recipe: str, stream: str, config_hash: str, seed: int) -> None:
        """Delete this run's checkpoints, including unfinished and unusable ones.
        Call it when the record is safely stored.
        """
        path = self.checkpoint_of(recipe, stream, config_hash, seed)
        if path:
            with contextlib.suppress(OSError):  # a remaining file does no harm
                for file in (path, previous(path), unfinished(path), *all_set_aside(path)):
                    file.unlink(missing_ok=True)


def process() -> tuple[int, int]:
    """Number of this process among those that ``torchrun`` started for one run, and how many they are; else (0, 1).

    Clusters set RANK and WORLD_SIZE for other purposes, too: they count where torchrun has given the run an id.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return 0, 1
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def unfinished(checkpoint: Path) -> Path:
    """Name of a checkpoint while it is being written."""
    return checkpoint.with_suffix(".unfinished")


def previous(checkpoint: Path) -> Path:
    """Name of the checkpoint before the last one."""
    return checkpoint.with_suffix(".previous")


def set_aside(checkpoint: Path) -> Path:
    """A name that no file has yet for a checkpoint that could not be used: it may be good for another run."""
    number = 1 + len(all_set_aside(checkpoint))
    while (path := checkpoint.with_suffix(f".unusable-{number}")).exists():
        number += 1
    return path


def all_set_aside(checkpoint: Path) -> list[Path]:
    """The files of this run that have such a name."""
    return sorted(checkpoint.parent.glob(f"{glob.escape(checkpoint.stem)}.unusable-*"))


HERE = Setup()
"""The CPU, and only files that ship with the package."""


_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_STATUS_ALLOC_FAILED")
"""What torch says: on accelerators, on a CPU, on Windows, and in cuDNN and cuBLAS."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether torch was refused memory."""
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY)
