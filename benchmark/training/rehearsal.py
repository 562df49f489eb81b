"""Rehearsals: shortened runs of the paper tier on synthetic images,
and estimates of the time and memory of the real runs.

Backbone, modules, heads, numbers of experiences and classes, image sizes, file formats, optimizer and schedule are the
real ones. The weights are random. The first two experiences are trained for a few steps of two sizes, the others for
one, and each is tested on one image of each experience so far; the last test is of a few batches of two sizes. The
record is marked as a rehearsal, and no check counts it.

A step costs something whatever its size: the optimizer, copies of the weights in lower precision. So the time of a real
step is on the line through those of two sizes. Neighbouring steps make a pair, and every pair has a line: their spread
is the range that is printed.

Runs of one kind (:func:`kind`) differ in data sets, losses, epochs and batch sizes, not in what a step of so many
images costs. Of many runs one of each kind is timed, and the others make a single step in each experience.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from ..config import Config
from ..data.catalogue import find_dataset
from ..data.images import FOLDS
from ..data.streams import Stream
from ..data.synthetic import write_dataset
from .runtime import Setup

STEP_IMAGES = 4
"""Images per step on the CPU. An accelerator is only busy with a whole batch (or micro-batch),
so there the real size is used. Every other step has a quarter of the images.
"""

PAIRS = 3
"""Timed pairs of a step and a smaller one."""

STEPS = 2 + 2 * PAIRS
"""Of the first two experiences, and batches of the last test. The first of each size is slow, and not timed."""

NOISY = 2.0
"""Times that the slowest of like steps may take as long as the fastest. Above it, nothing is projected."""

Timings = Sequence[tuple[int, float]]
"""Images and seconds of steps, in their order: the larger and the smaller size by turns."""


CHEAP = ("images", "loss", "annealing")
"""Parts of a configuration without which a step costs as much."""

PASSES = ("ewc", "lwf")
"""Settings that are numbers, and make passes of their own."""


def kind(config: Mapping[str, Any]) -> tuple[Any, ...]:
    """What decides how long a step and a test of an image take.

    :param config: a configuration as a record has it.
    """
    memory = config.get("memory")
    parts = sorted(k for k, v in config.items() if k in PASSES or (isinstance(v, dict) and k not in CHEAP))
    arithmetic = (config.get("precision"), config.get("compile"))
    return config["backbone"], arithmetic, config.get("trainable"), tuple(parts), memory and memory["method"]


def shortened(config: Config, stream: Stream, root: Path, setup: Setup, timed: bool = True) -> tuple[Config, Setup]:
    """Configuration and setup of the rehearsal of a run. Writes the synthetic images that it needs below ``root``.

    :param config: of the real run.
    :param setup: device and threads. The process loads images itself; the number of workers is an argument of
        :func:`project`.
    :param timed: otherwise each experience has one step, and alignment one epoch: the run is shown to be possible, and
        its time is projected from another of its kind.
    :raises ValueError: a folder with other images exists.
    """
    if config.alignment and not timed:
        config = replace(config, alignment=replace(config.alignment, epochs=1))
    at_a_time = min(config.batch_size, config.micro_batch or config.batch_size)
    size = min(STEP_IMAGES, at_a_time) if setup.device == "cpu" else at_a_time
    config = replace(config, batch_size=size, micro_batch=None, drop_last=True)
    steps = STEPS if timed else 1
    batches = -(-steps // max(1, _epochs_alike(config)))  # an epoch's, so that all timed steps train the same weights
    per_class = -(-batches * size // min(stream.sizes))  # one is enough for the statistics of classes
    if config.memory and config.memory.method == "bic":  # its first classes share what it holds out of all
        held_out = int(config.memory.held_out * config.memory.size)
        per_class = max(per_class, -(-held_out // stream.sizes[0]) + 1)
    if config.images and config.images.hold_out:  # one fold is not trained on
        per_class = max(FOLDS, -(-per_class * FOLDS // (FOLDS - 1)) + 1)
    folder = root / f"{per_class}-a-class"
    write_dataset(stream.dataset, folder, train_per_class=per_class)
    return config, replace(setup, root=folder, workers=0, rehearsal=True, timed=timed)


def _epochs_alike(config: Config) -> int:
    """Epochs from the start of an experience in which the same weights are trained."""
    return min(config.epochs, config.frozen_epochs or config.epochs)


def _part_of(size: int) -> int:
    """Images of the smaller steps."""
    return max(1, size // 4)


class Stopwatch(SupervisedPlugin[Any]):
    """Shortens a run, and measures its time and memory.

    Ends the training of the first two experiences after :data:`STEPS` steps and that of others after one, and tests on
    one image of an experience, or on copies of it to be timed. Append it after a plugin that reads the loss and the
    logits, so that the device has finished.

    :param experiences: number of experiences of the run.
    :param timed: otherwise every experience ends after one step, and only memory is measured.
    """

    def __init__(self, experiences: int, timed: bool = True) -> None:
        super().__init__()
        self._experiences, self._measures = experiences, timed
        self.steps: list[list[tuple[int, float]]] = []  # images and seconds, without loading, by experience
        self.tests: list[tuple[int, float]] = []  # the same of the last test's batches
        self.load_seconds: list[float] = []  # per image
        self.closing_seconds: list[float] = []  # from the last step to the evaluation: mainly alignment
        self.activation_bytes: dict[int, int] = {}  # by number of images
        self.fixed_bytes = 0

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.steps.append([])

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._mark = time.perf_counter()

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if not self.activation_bytes:
            self._measure_activations(strategy.model, strategy.mb_x)
        else:  # the first batch is not representative
            self.load_seconds.append((time.perf_counter() - self._mark) / len(strategy.mb_x))
        size, taken = len(strategy.mb_x), len(self.steps[-1])
        _keep_first(strategy, size if self._timed and taken % 2 == 0 else _part_of(size))
        self._mark = time.perf_counter()

    @property
    def _timed(self) -> bool:
        return self._measures and len(self.steps) <= 2

    def _measure_activations(self, model: nn.Module, images: Tensor) -> None:
        """Memory kept by forward passes of all images and of half of them. Weight copies for lower precisions do not
        grow with the batch.
        """
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        for part in (images, images[: max(1, len(images) // 2)].clone()):
            with _storages_saved() as storages:
                model(part)
            self.activation_bytes[len(part)] = sum(n for pointer, n in storages.items() if pointer not in own)

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.steps[-1].append((len(strategy.mb_x), now - self._mark))
        self._mark = now
        parameters = list(strategy.model.parameters())
        states = [t for state in strategy.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        gradients = [p.grad for p in parameters if p.grad is not None]
        kept = sum(
            int(getattr(keeper, "bytes_kept", 0)) for keeper in (strategy, *strategy.plugins, strategy.optimizer)
        )
        self.fixed_bytes = max(self.fixed_bytes, sum(t.nbytes for t in (*parameters, *gradients, *states)) + kept)
        if len(self.steps[-1]) == (STEPS if self._timed else 1):
            strategy.stop_training()

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.closing_seconds.append(time.perf_counter() - self._mark)

    def after_eval_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._last_test = strategy.experience.current_experience == self._experiences - 1
        copies = STEPS * strategy.eval_mb_size if self._last_test and self._measures else 1
        strategy.adapted_dataset = strategy.adapted_dataset.subset([0] * copies)

    def before_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._last_test and len(self.tests) % 2:
            _keep_first(strategy, _part_of(strategy.eval_mb_size))
        self._mark = time.perf_counter()

    def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._last_test:
            self.tests.append((len(strategy.mb_x), time.perf_counter() - self._mark))

    def as_dict(self) -> dict[str, Any]:
        """The measurements that :func:`project` needs, without the first step of each size; of a run that is not timed
        those of memory.

        In the first experience everything trains that ever does; the second stands for all later ones.
        """
        (images, whole), *half = self.activation_bytes.items()
        per_image = (whole - half[0][1]) / (images - half[0][0]) if half else whole / images
        memory = {
            "activation_bytes_per_image": per_image,
            "fixed_bytes": self.fixed_bytes + whole - per_image * images,
        }
        if not self._measures:
            return memory
        first, later = self.steps[0], self.steps[min(1, len(self.steps) - 1)]
        return {
            "steps": first[2:],
            "later_steps": later[2:],
            "tests": self.tests[2:],
            "load_seconds": median(self.load_seconds),
            "closing_seconds": sum(self.closing_seconds),
            **memory,
        }


def _keep_first(strategy: Any, images: int) -> None:
    strategy.mbatch = [part[:images] for part in strategy.mbatch]


@contextmanager
def _storages_saved() -> Iterator[dict[int, int]]:
    """Address and size in bytes of the memory kept for backward passes.
    The backward pass of what is computed inside is impossible.
    """
    found: dict[int, int] = {}
    alive = []  # keeps the memory allocated, otherwise an address could be reused

    def count(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        alive.append(storage)

    def refuse(_: None) -> Tensor:
        raise RuntimeError("tensors saved here were only counted: no backward pass is possible")

    # If we returned the tensor itself, an operation that saves its own result would never be freed.
    with saved_tensors_hooks(count, refuse):
        yield found


@dataclass(frozen=True)
class Projection:
    """What a real run takes on this machine.

    :ivar seconds: the least and the most; None if it cannot be known.
    :ivar unknown: why not.
    :ivar bytes: of memory.
    """

    seconds: tuple[float, float] | None
    unknown: str
    bytes: float

    def __str__(self) -> str:
        """The time, in hours."""
        if not self.seconds:
            return f"not known: {self.unknown}"
        least, most = (f"{seconds / 3600:.1f}" for seconds in self.seconds)
        return f"{least} h" if least == most else f"{least} to {most} h"


class UnknownTimeError(ValueError):
    """No time can be projected from these steps; the message says why."""


def batch_seconds(timings: Timings, images: int) -> tuple[float, float]:
    """The least and the most seconds of a batch of ``images``, on the lines through neighbouring steps of two sizes.

    :raises UnknownTimeError: like steps took very different times, or, for a batch larger than they were, the larger
        ones took no longer than the smaller ones.
    """
    for size in sorted({n for n, _ in timings}):
        alike = [seconds for n, seconds in timings if n == size]
        if max(alike) > NOISY * min(alike):
            raise UnknownTimeError(
                f"{size} images took {min(alike):.2g} s and {max(alike):.2g} s, {max(alike) / min(alike):.1f} times as "
                f"long: try again on an idle machine"
            )
    estimates = []
    for (whole, longer), (part, shorter) in zip(timings[::2], timings[1::2], strict=True):
        if images > whole and (whole == part or longer <= shorter):
            raise UnknownTimeError(
                f"{whole} images took {longer:.2g} s, {part} took {shorter:.2g} s: no line leads from these to {images}"
            )
        slope = (longer - shorter) / (whole - part) if whole != part else 0.0
        estimates.append(longer + slope * (images - whole))
    return min(estimates), max(estimates)


def project(measured: Mapping[str, Any], config: Config, stream: Stream, workers: int = 0) -> Projection:
    """Estimated time and memory of the real run on this machine.

    The time covers training, alignment and all tests. The memory covers weights, gradients, optimizer state, the state
    of methods, and the activations of a batch. Synthetic images decode faster than photographs.

    :param measured: by a :class:`Stopwatch`.
    :param config: of the real run.
    :param workers: number of processes that load images in parallel to training; 0: the training process loads them
        itself, and waits.
    """
    entry = find_dataset(stream.dataset)
    sizes = stream.joined().sizes if config.joint else stream.sizes
    held = config.images is not None and config.images.hold_out and entry.validation is None
    train, test = (entry.train or 0) * (1 - 1 / FOLDS if held else 1), entry.test or 0
    tested = test * float(np.cumsum(sizes).sum()) / stream.n_classes
    evaluated = tested + (train if config.alignment else 0)  # alignment starts from the features of all training images
    first = train * sizes[0] / stream.n_classes
    alike = _epochs_alike(config)  # in which a later experience's steps cost what they did
    at_a_time = min(config.batch_size, config.micro_batch or config.batch_size)

    def phase(images: float, seconds: float) -> float:
        loading = images * measured["load_seconds"]
        return max(loading / workers, seconds) if workers else loading + seconds

    def total(step: float, later: float, tests: float) -> float:
        """Seconds, from those per image."""
        if at_a_time < config.batch_size:  # micro-batches pass twice through the backbone
            step, later = step + tests, later + tests
        of_later = alike * later + (config.epochs - alike) * step
        trained = phase(config.epochs * train, first * config.epochs * step + (train - first) * of_later)
        return trained + phase(evaluated, evaluated * tests) + float(measured["closing_seconds"])

    seconds, unknown = None, ""
    try:
        costs = [batch_seconds(measured[key], config.batch_size) for key in ("steps", "later_steps", "tests")]
        least, most = (total(*(cost / config.batch_size for cost in bounds)) for bounds in zip(*costs, strict=True))
        seconds = least, most
    except UnknownTimeError as error:
        unknown = str(error)
    return Projection(seconds, unknown, measured["fixed_bytes"] + measured["activation_bytes_per_image"] * at_a_time)
