"""Checkpoints: a run that was killed goes on from the last one and, on the CPU, ends with the bits of one that was not.

A checkpoint holds the whole strategy as it stands between two epochs or experiences (model, optimizer, all that plugins keep, Avalanche's
clock) and the states of the random number generators. It is one pickle, so that what was one object is one object again: the optimizer
holds the model's parameters, and tensors that shared memory share it. The benchmark and its images are not in it: the
run that goes on has its own, and names stand for them.

The file: a line that says what it is, a line of JSON that says of which run, the pickle, the tensors' bytes, and the SHA-256 of all that.
What is another run's or damaged is reported and not unpickled. The hash protects from accidents alone: **unpickling runs what is in the
file**, so keep the folder as you keep your own code, and put nobody else's files there.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import pickle
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
from torch import Tensor

from ..files import replacing
from ..records.provenance import MACHINE, PACKAGES, provenance
from .runtime import set_aside, unfinished

MAGIC = b"reclaim checkpoint 1\n"


class Checkpoint(SupervisedPlugin[Any]):
    """The checkpoint of one run. Append it to the strategy's ``plugins``, so that it runs last, even after Avalanche's clock.

    It writes after an epoch, if the last time was long enough ago; :meth:`save` after each experience is the caller's. A file is written
    beside the old one and takes its name when it is whole. What cannot be written is a warning: the run goes on without.

    :param path: of the file, see :meth:`~reclaim.benchmark.training.runtime.Setup.checkpoint_of`; ``None``: nothing is written or read.
    :param run: JSON that tells this run from all others; versions, code and machine are added here.
    :param benchmark: Avalanche's, made as when the checkpoint was; ``held_out`` likewise, where another one serves to choose an epoch.
    :param minutes: the least time between two checkpoints within an experience.
    """

    def __init__(
        self,
        path: Path | None,
        run: Mapping[str, Any],
        benchmark: Any,
        device: str = "cpu",
        minutes: float = 5.0,
        held_out: Any = None,
    ) -> None:
        super().__init__()
        self.path, self.minutes = path, minutes
        self._device = torch.empty(0, device=device).device  # "cuda" is "cuda:0"
        self._run: dict[str, Any] = {}
        self._landmarks: list[Any] = []
        if path:
            self._run = json.loads(json.dumps({**run, "device": str(self._device), **_surroundings(device)}))
            benchmarks = [benchmark] if held_out is None else [benchmark, held_out]
            self._landmarks = [self, *(thing for b in benchmarks for thing in (b, *b.streams.values(), *_images(b)))]
        self._written = time.monotonic()

    def load(self) -> Any | None:
        """The strategy as it was, with this plugin in it, and the random number generators set; ``None`` where there is no checkpoint.

        A file that is damaged or of another run is a warning, and counts as none; it is kept under another name.

        :raises OSError: the file cannot be read, or there is not the memory for it: nothing is lost, try again.
        """
        if self.path is None or not self.path.exists():
            return None
        try:
            strategy, states = self._read(self.path)
            _set_random_states(states, self._device)
        except (OSError, MemoryError, torch.OutOfMemoryError):
            raise  # which may pass; the checkpoint may be good
        except Exception as error:  # a pickle can fail in any way
            reason = (
                str(error) if isinstance(error, _UnusableError) else f"cannot be read ({type(error).__name__}: {error})"
            )
            aside = set_aside(self.path)
            os.replace(self.path, aside)
            warnings.warn(
                f"the checkpoint {self.path} {reason}: the run starts from the beginning; it is now {aside.name}",
                stacklevel=2,
            )
            return None
        return strategy

    def save(self, strategy: Any) -> None:
        """Write the strategy and the random number generators. Call it between two epochs or experiences."""
        if self.path is None:
            return
        # the last batch: images, and a graph
        strategy.mbatch = strategy.mb_output = None
        strategy.loss = strategy._make_empty_loss()
        stream = io.BytesIO()
        pickler = _Pickler(stream, self._landmarks)
        pickler.dump((strategy, _random_states(self._device)))
        header = {
            "run": self._run,
            "pickle": stream.tell(),
            "tensors": [[s.nbytes(), str(s.device)] for s in pickler.storages],
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path, unfinished(self.path)) as file:
                digest = hashlib.sha256()
                for part in (
                    MAGIC,
                    json.dumps(header).encode() + b"\n",
                    stream.getbuffer(),
                    *map(_bytes_of, pickler.storages),
                ):
                    file.write(part)
                    digest.update(part)
                file.write(digest.digest())
        except OSError as error:
            warnings.warn(
                f"cannot write the checkpoint {self.path} ({error}): the run goes on without it", stacklevel=2
            )
        self._written = time.monotonic()

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if time.monotonic() - self._written >= 60 * self.minutes:
            self.save(strategy)

    def _read(self, path: Path) -> Any:
        with open(path, "rb") as file:
            lines = file.readline(1000), file.readline()
            if lines[0] != MAGIC:
                raise _UnusableError("is none of this version of reclaim")
            header = json.loads(lines[1])
            differing = [
                key for key in sorted({*self._run, *header["run"]}) if self._run.get(key) != header["run"].get(key)
            ]
            if differing:
                was = ", ".join(
                    f"{key} was {header['run'].get(key)!r} and is {self._run.get(key)!r}" for key in differing
                )
                raise _UnusableError(f"is of another run ({was})")
            digest = hashlib.sha256(b"".join(lines))
            sizes = [header["pickle"], *(size for size, _ in header["tensors"])]
            if path.stat().st_size != file.tell() + sum(sizes) + digest.digest_size:
                raise _UnusableError("is damaged (its length is wrong)")
            # torch's own memory: its alignment may decide which kernels are used, and so the last bits
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
        return _Unpickler(io.BytesIO(views[0]), self._landmarks, storages).load()


def train(strategy: Any, experience: Any, **kwargs: Any) -> None:
    """Train on an experience without evaluating; a strategy from a checkpoint within an experience trains the epochs that are left of it.

    :param kwargs: of ``strategy.train``. When going on they have to be the same.
    """
    if strategy.experience is None:
        strategy.train(experience, eval_streams=[], **kwargs)
        return
    # what Avalanche's train() does from here on: it cannot enter an experience halfway
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
    """What a file is instead of this run's checkpoint."""


class _Pickler(pickle.Pickler):
    """Pickles numbers in place of landmarks, and in place of the memory of tensors, which it collects in ``storages``."""

    def __init__(self, stream: io.BytesIO, landmarks: Sequence[Any]) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self._landmarks = {id(landmark): number for number, landmark in enumerate(landmarks)}
        self._places: dict[tuple[torch.device, int], int] = {}
        self.storages: list[torch.UntypedStorage] = []

    def persistent_id(self, thing: Any) -> tuple[str, int] | None:
        if id(thing) in self._landmarks:
            return "landmark", self._landmarks[id(thing)]
        if isinstance(thing, torch.UntypedStorage):
            place = thing.device, thing.data_ptr()
            if place not in self._places:
                self._places[place] = len(self.storages)
                self.storages.append(thing)
            return "storage", self._places[place]
        return None

    def reducer_override(self, thing: Any) -> Any:
        if (
            type(thing) is not Tensor
            or thing.layout is not torch.strided
            or thing.is_complex()
            or thing.is_quantized
            or vars(thing)
        ):
            return NotImplemented  # pickled as torch does it
        layout = thing.storage_offset(), tuple(thing.shape), thing.stride()
        return _tensor, (thing.untyped_storage(), thing.dtype, layout, thing.requires_grad)


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, landmarks: Sequence[Any], storages: Sequence[torch.UntypedStorage]) -> None:
        super().__init__(stream)
        self._known = {"landmark": landmarks, "storage": storages}

    def persistent_load(self, number: tuple[str, int]) -> Any:
        return self._known[number[0]][number[1]]


def _tensor(
    storage: torch.UntypedStorage, dtype: torch.dtype, layout: tuple[Any, Any, Any], requires_grad: bool
) -> Tensor:
    return torch.empty(0, dtype=dtype, device=storage.device).set_(storage, *layout).requires_grad_(requires_grad)  # type: ignore[call-overload]


def _bytes_of(storage: torch.UntypedStorage) -> Any:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).cpu().numpy()  # type: ignore[call-overload]


def _images(benchmark: Any) -> list[Any]:
    """The datasets at the bottom of the trees of subsets that Avalanche makes of them, in a fixed order."""

    def leaves(dataset: Any) -> Iterator[Any]:
        branches = getattr(getattr(dataset, "_flat_data", dataset), "_datasets", None)
        if branches is None:
            yield dataset
        for branch in branches or ():
            yield from leaves(branch)

    found = {id(leaf): leaf for stream in benchmark.streams.values() for e in stream for leaf in leaves(e.dataset)}
    return list(found.values())


def _surroundings(device: str) -> dict[str, Any]:
    """What the bits of a result depend on beside the run: versions, machine, and code."""
    now = datetime.now(timezone.utc)
    here = provenance(now, now, 0.0, device)
    # beside an accelerator another processor is no reason to lose hours of work
    machine = MACHINE if here["accelerator"] is None else ("accelerator",)
    return {key: here[key] for key in (*PACKAGES, "python", *machine)} | {"code": _code()}


@functools.cache
def _code() -> str:
    """SHA-256 of the two packages' sources: a pickle holds objects of their classes, and other code may make other things of them."""
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
