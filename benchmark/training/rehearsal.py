"""Rehearsals: a run of the paper tier, whole but for its length, on synthetic images; and what the real run will take.

Backbone, modules, heads, numbers of experiences and classes, image sizes, file formats, optimizer and schedule are the real ones. Weights
are random, each experience is trained for one step of a few images (the first for two: the first of all is slow) and tested on one image
of each experience so far; on an accelerator on real batches. The record is marked, and no check counts it. What the steps took is
projected to the length of the real run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
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

STEP_IMAGES = 2
"""Images of a step on the CPU; an accelerator is only busy with a whole batch, or with what of it passes at a time."""

ALIGNED_IMAGES = 2  # of a class: the fewest that have a covariance


def shortened(config: Config, stream: Stream, root: Path, setup: Setup) -> tuple[Config, Setup]:
    """Configuration and setup of the rehearsal of a run; writes the synthetic images that it needs below ``root``.

    :param config: of the real run.
    :param setup: device and threads. Images are loaded by the process itself: :func:`project` takes the number of workers.
    :raises ValueError: a folder of other images is in the way.
    """
    at_a_time = min(config.batch_size, config.micro_batch or config.batch_size)
    config = replace(
        config, batch_size=min(STEP_IMAGES, at_a_time) if setup.device == "cpu" else at_a_time, micro_batch=None
    )
    per_class = max(ALIGNED_IMAGES, -(-config.batch_size // min(stream.sizes)))
    if config.images and config.images.hold_out:  # a fold fewer to train on
        per_class = max(FOLDS, -(-per_class * FOLDS // (FOLDS - 1)) + 1)
    folder = root / f"{per_class}-a-class"
    write_dataset(stream.dataset, folder, train_per_class=per_class)
    return config, replace(setup, root=folder, workers=0, rehearsal=True)


class Stopwatch(SupervisedPlugin[Any]):
    """Ends the training of each experience after one step, of the first after two, and on the CPU tests on its first image alone; measures
    the time and memory that takes. Put it behind a plugin that reads the loss and the logits, so that the device has finished."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[float]] = []  # seconds of each, without loading, by experience
        self.image_seconds: list[float] = []  # tested
        self.load_seconds: list[float] = []  # of an image
        self.closing_seconds: list[float] = []  # from the last step to the evaluation: what alignment takes
        self.activation_bytes: dict[int, int] = {}  # by number of images
        self.fixed_bytes = 0

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.steps.append([])

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._mark = time.perf_counter()

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if not self.activation_bytes:
            self._measure_activations(strategy.model, strategy.mb_x)
        else:  # the first batch takes what no other takes
            self.load_seconds.append((time.perf_counter() - self._mark) / len(strategy.mb_x))
        self._mark = time.perf_counter()

    def _measure_activations(self, model: nn.Module, images: Tensor) -> None:
        """What forward passes keep, of all images and of half of them: the copies of weights that lower precisions need do not grow."""
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        for part in (images, images[: max(1, len(images) // 2)].clone()):
            with _storages_saved() as storages:
                model(part)
            self.activation_bytes[len(part)] = sum(n for pointer, n in storages.items() if pointer not in own)

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.steps[-1].append(now - self._mark)
        self._mark = now
        parameters = list(strategy.model.parameters())
        states = [t for state in strategy.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        gradients = [p.grad for p in parameters if p.grad is not None]
        kept = sum(
            int(getattr(keeper, "bytes_kept", 0)) for keeper in (strategy, *strategy.plugins, strategy.optimizer)
        )
        self.fixed_bytes = max(self.fixed_bytes, sum(t.nbytes for t in (*parameters, *gradients, *states)) + kept)
        if len(self.steps[-1]) == (2 if len(self.steps) == 1 else 1):
            strategy.stop_training()

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.closing_seconds.append(time.perf_counter() - self._mark)

    def after_eval_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if strategy.device.type == "cpu":
            strategy.adapted_dataset = strategy.adapted_dataset.subset([0])

    def before_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._mark = time.perf_counter()

    def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.image_seconds.append((time.perf_counter() - self._mark) / len(strategy.mb_x))

    def as_dict(self) -> dict[str, float]:
        """What :func:`project` takes. The step is the second of the first experience, in which all that ever trains does; the later one is
        the median of the other experiences' first."""
        first, *later = (seconds[-1] for seconds in self.steps)
        (images, whole), *half = self.activation_bytes.items()
        per_image = (whole - half[0][1]) / (images - half[0][0]) if half else whole / images
        return {
            "step_seconds": first,
            "later_step_seconds": median(later or [first]),
            "step_images": images,
            "load_seconds": median(self.load_seconds),
            "test_image_seconds": median(self.image_seconds),
            "closing_seconds": sum(self.closing_seconds),
            "activation_bytes_per_image": per_image,
            "fixed_bytes": self.fixed_bytes + whole - per_image * images,
        }


@contextmanager
def _storages_saved() -> Iterator[dict[int, int]]:
    """Address and bytes of the memory that would be kept for backward passes; there is no going backward from what is computed within."""
    found: dict[int, int] = {}
    alive = []  # or an address might be given out twice

    def count(tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        alive.append(storage)

    def refuse(_: None) -> Tensor:
        raise RuntimeError("what was saved here was counted only")

    # were the tensor itself returned, an operation that saves its own result would never be freed
    with saved_tensors_hooks(count, refuse):
        yield found


def project(measured: Mapping[str, float], config: Config, stream: Stream, workers: int = 0) -> tuple[float, float]:
    """Seconds and bytes that the real run takes on this machine: training, alignment and all tests; weights, gradients, optimizer state,
    what methods keep, and the activations of a batch. Synthetic images decode faster than photographs.

    :param measured: by a :class:`Stopwatch`.
    :param config: of the real run.
    :param workers: processes that load images beside the one that computes; 0: it loads them itself, and waits.
    """
    entry = find_dataset(stream.dataset)
    sizes = stream.joined().sizes if config.joint else stream.sizes
    held = config.images is not None and config.images.hold_out and entry.validation is None
    train, test = (entry.train or 0) * (1 - 1 / FOLDS if held else 1), entry.test or 0
    tested = test * float(np.cumsum(sizes).sum()) / stream.n_classes

    def phase(images: float, seconds: float) -> float:
        loading = images * measured["load_seconds"]
        return max(loading / workers, seconds) if workers else loading + seconds

    first = train * sizes[0] / stream.n_classes
    step, later = (
        measured["step_seconds"] / measured["step_images"],
        measured["later_step_seconds"] / measured["step_images"],
    )
    frozen = (
        min(config.epochs, config.peft.frozen_epochs) if config.peft else config.epochs
    )  # epochs that cost as the later step did
    of_later = frozen * later + (config.epochs - frozen) * step
    trained = phase(config.epochs * train, first * config.epochs * step + (train - first) * of_later)
    evaluated = tested + (train if config.alignment else 0)  # alignment starts from the features of all training images
    seconds = trained + phase(evaluated, evaluated * measured["test_image_seconds"]) + measured["closing_seconds"]
    at_a_time = min(config.batch_size, config.micro_batch or config.batch_size)
    return seconds, measured["fixed_bytes"] + measured["activation_bytes_per_image"] * at_a_time
