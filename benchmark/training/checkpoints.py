"""Checkpoints: a killed run resumes from its last checkpoint and, on the CPU,
gives the same bits as an uninterrupted one.

A checkpoint contains the whole strategy between two epochs or experiences (model, optimizer, all state of plugins,
Avalanche's clock) and the states of the random number generators, as JSON and tensors (:mod:`.states`): shared objects
stay shared, the optimizer refers to the model's parameters. There is no code in it, and none of it is run: it names
classes and functions that the resumed run holds itself. The benchmark and its images are not included, either. The
resumed run makes its own, and the checkpoint refers to them by number.

File format: a line that identifies the format, a line of JSON that identifies the run, the objects as JSON, the bytes
of the tensors, and the SHA-256 of all that. A file that is damaged or belongs to another run is reported and not used.
The checkpoint before the last one is kept, and used when the last one cannot be.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin

from ..files import replacing
from ..records.provenance import MACHINE, PACKAGES, provenance
from .runtime import is_lack_of_memory, previous, process, set_aside, unfinished
from .states import StateError, code_in, decode, encode

MAGIC = b"reclaim checkpoint 2\n"


class Checkpoint(SupervisedPlugin[Any]):
    """The checkpoint of one run. Append it to the strategy's ``plugins``, so that it runs last,
    after Avalanche's clock.

    It writes after an epoch if the last checkpoint is old enough. The caller calls :meth:`save` after each experience.
    A new file is written next to the old one and replaces it when complete; the old one is kept as the previous one. If
    writing fails, it warns and the run continues without a checkpoint.

    :param path: of the file, see :meth:`~reclaim.benchmark.training.runtime.Setup.checkpoint_of`; ``None``: nothing is
        written or read.
    :param run: JSON that distinguishes this run from all others. Versions, code and machine are added here.
    :param benchmark: Avalanche's benchmark, made in the same way as for the checkpoint; likewise ``held_out``, if a
        separate one is used to choose an epoch.
    :param minutes: minimum time between two checkpoints within an experience.
    :param outside: what is in the strategy and not in its checkpoints: the resumed run has its own.
    """

    def __init__(
        self,
        path: Path | None,
        run: Mapping[str, Any],
        benchmark: Any,
        device: str = "cpu",
        minutes: float = 5.0,
        held_out: Any = None,
        outside: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.path, self.minutes = path, minutes
        self._device = torch.empty(0, device=device).device  # "cuda" is "cuda:0"
        self._run: dict[str, Any] = {}
        self._landmarks: list[Any] = []
        self._experiences: list[Any] = []
        self._code: Mapping[str, Any] = {}
        if path:
            self._run = json.loads(json.dumps({**run, "device": str(self._device), **_surroundings(device)}))
            benchmarks = [benchmark] if held_out is None else [benchmark, held_out]
            images = [thing for b in benchmarks for thing in (b, *b.streams.values(), *_images(b))]
            self._landmarks = [self, *outside, *images]
            self._experiences = [e for b in benchmarks for s in b.streams.values() for e in s]
        self._written = time.monotonic()

    def load(self, strategy: Any) -> Any:
        """The strategy as saved, including this plugin; also restores the random number generators. Without a
        checkpoint, or with unusable ones, the strategy as it was given.

        It warns of files that are damaged or belong to another run, and keeps each of them under another name.

        :param strategy: made anew, with this plugin. A checkpoint may name the classes and functions of it and
            of the experiences.
        :raises OSError: a file cannot be read. Nothing is lost; try again.
        :raises MemoryError, RuntimeError: there is not enough memory for it, likewise.
        """
        if self.path is None:
            return strategy
        try:
            self._code = code_in((strategy, self._experiences, _random_states(self._device)), self._landmarks)
        except StateError as error:
            self._give_up(error)
            return strategy
        for path, otherwise in (
            (self.path, "the one before it is used, if there is one"),
            (previous(self.path), "the run starts from the beginning"),
        ):
            if not path.exists():
                continue
            try:
                saved, states = self._read(path)
                _set_random_states(states, self._device)
            except (OSError, MemoryError):
                raise  # may be temporary; the checkpoint may be good
            except Exception as error:  # what a file holds can be wrong in any way
                if is_lack_of_memory(error):
                    raise
                reason = (
                    str(error)
                    if isinstance(error, _UnusableError)
                    else f"cannot be read ({type(error).__name__}: {error})"
                )
                aside = set_aside(self.path)
                os.replace(path, aside)
                if path == self.path and not previous(path).exists():
                    otherwise = "the run starts from the beginning"
                warnings.warn(
                    f"the checkpoint {path} {reason}: {otherwise}; the file is now {aside.name}", stacklevel=2
                )
            else:
                return saved
        return strategy

    def save(self, strategy: Any) -> None:
        """Write the strategy and the random number generators. Call it between epochs or experiences.

        For one that cannot be written, because it holds a lambda for instance, it warns once, and no checkpoint is
        written.
        """
        if self.path is None or process()[0]:
            return
        # drop the last batch: its images and graph
        strategy.mbatch = strategy.mb_output = None
        strategy.loss = strategy._make_empty_loss()
        try:
            nodes, storages = encode((strategy, _random_states(self._device)), self._landmarks, self._code)
        except StateError as error:
            self._give_up(error)
            return
        objects = json.dumps(nodes, separators=(",", ":")).encode()
        header = {"run": self._run, "objects": len(objects), "tensors": [[s.nbytes(), str(s.device)] for s in storages]}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path, unfinished(self.path)) as file:
                digest = hashlib.sha256()
                for part in (MAGIC, json.dumps(header).encode() + b"\n", objects, *map(_bytes_of, storages)):
                    file.write(part)
                    digest.update(part)
                file.write(digest.digest())
                if self.path.exists():
                    os.replace(self.path, previous(self.path))  # killed after this: load() takes that one
        except OSError as error:
            warnings.warn(
                f"cannot write the checkpoint {self.path} ({error}): the run continues without it", stacklevel=2
            )
        self._written = time.monotonic()

    def _give_up(self, error: StateError) -> None:
        assert self.path
        warnings.warn(
            f"{self.path.stem} cannot be checkpointed ({error}): the run continues without checkpoints; keep only data "
            "and named functions in plugins, losses and models",
            stacklevel=3,
        )
        self.path = None

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if time.monotonic() - self._written >= 60 * self.minutes:
            self.save(strategy)

    def _read(self, path: Path) -> Any:
        with open(path, "rb") as file:
            lines = file.readline(1000), file.readline()
            if lines[0] != MAGIC:
                raise _UnusableError("was not written by this version of reclaim")
            header = json.loads(lines[1])
            differing = [
                key for key in sorted({*self._run, *header["run"]}) if self._run.get(key) != header["run"].get(key)
            ]
            if differing:
                was = ", ".join(
                    f"{key} was {header['run'].get(key)!r} and is {self._run.get(key)!r}" for key in differing
                )
                raise _UnusableError(f"belongs to another run ({was})")
            digest = hashlib.sha256(b"".join(lines))
            sizes = [header["objects"], *(size for size, _ in header["tensors"])]
            if path.stat().st_size != file.tell() + sum(sizes) + digest.digest_size:
                raise _UnusableError("is damaged (its length is wrong)")
            # Allocate with torch: the alignment of its memory may decide which kernels are used, and so the last bits.
            parts = [torch.empty(size, dtype=torch.uint8) for size in sizes]
            views: list[Any] = [part.numpy() for part in parts]
            for view in views:
                file.readinto(view)
                digest.update(view)
            if file.read() != digest.digest():
                raise _UnusableError("is damaged (its SHA-256 is wrong)")
        storages = [
            part.to(device).untyped_storage() for part, (_, device) in zip(parts[1:], header["tensors"], strict=True)
        ]
        return decode(json.loads(views[0].tobytes()), storages, self._landmarks, self._code)


def train(strategy: Any, experience: Any, **kwargs: Any) -> None:
    """Train on an experience without evaluation. A strategy from a checkpoint within an experience trains
    its remaining epochs.

    :param kwargs: arguments of ``strategy.train``. They must be the same when resuming.
    """
    if strategy.experience is None:
        strategy.train(experience, eval_streams=[], **kwargs)
        return
    # the rest of Avalanche's train(), which cannot resume within an experience
    for _ in range(strategy.clock.train_exp_epochs, strategy.train_epochs):
        strategy._before_training_epoch(**kwargs)
        if strategy._stop_training:
            break
        strategy.training_epoch(**kwargs)
        strategy._after_training_epoch(**kwargs)
    strategy._after_training_exp(**kwargs)
    strategy._after_training(**kwargs)
    strategy._train_cleanup()


class _UnusableError(Exception):
    """Why a file cannot be used as this run's checkpoint."""


def _bytes_of(storage: torch.UntypedStorage) -> Any:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).cpu().numpy()  # type: ignore[call-overload]


def _images(benchmark: Any) -> list[Any]:
    """The datasets at the leaves of Avalanche's trees of subsets, in a fixed order."""

    def leaves(dataset: Any) -> Iterator[Any]:
        branches = getattr(getattr(dataset, "_flat_data", dataset), "_datasets", None)
        if branches is None:
            yield dataset
        for branch in branches or ():
            yield from leaves(branch)

    found = {id(leaf): leaf for stream in benchmark.streams.values() for e in stream for leaf in leaves(e.dataset)}
    return list(found.values())


def _surroundings(device: str) -> dict[str, Any]:
    """What the bits of a result depend on besides the run: versions, machine and code."""
    now = datetime.now(timezone.utc)
    here = provenance(now, now, 0.0, device)
    # with an accelerator, a different CPU is not a reason to lose hours of work
    machine = MACHINE if here["accelerator"] is None else ("accelerator",)
    return {key: here[key] for key in (*PACKAGES, "python", *machine)} | {"code": _code()}


@functools.cache
def _code() -> str:
    """SHA-256 of the sources of both packages. A checkpoint contains the state of objects of their classes,
    which other code may interpret differently.
    """
    digest = hashlib.sha256()
    for package in ("reclaim.benchmark", "reclaim.strategies"):
        for source in sorted(Path(str(resources.files(package))).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _random_states(device: torch.device) -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"torch": torch.get_rng_state(), "cuda": cuda, "numpy": np.random.get_state(), "python": random.getstate()}


def _set_random_states(states: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None:
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)
    np.random.set_state(states["numpy"])
    random.setstate(states["python"])
