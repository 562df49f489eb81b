"""Rehearsals: shortened runs of the paper tier on synthetic images,
and estimates of the time and memory of the real runs.

Backbone, modules, heads, numbers of experiences and classes, image sizes, file formats, optimizer and schedule are the
real ones. The weights are random. Each experience is trained for one step of a few images (the first experience for two
steps, because its first step is slow) and tested on one image of each experience so far; on an accelerator, on real
batches. The record is marked as a rehearsal, and no check counts it. The measured times are extrapolated to the length
of the real run.
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
"""Images per step on the CPU. An accelerator is only busy with a whole batch (or micro-batch),
so there the real size is used.
"""

ALIGNED_IMAGES = 2  # per class: the smallest number that has a covariance


def shortened(config: Config, stream: Stream, root: Path, setup: Setup) -> tuple[Config, Setup]:
    """Configuration and setup of the rehearsal of a run. Writes the synthetic images that it needs below ``root``.

    :param config: of the real run.
    :param setup: device and threads. The process loads images itself; the number of workers is an argument of
        :func:`project`.
    :raises ValueError: a folder with other images exists.
    """
    at_a_time = min(config.batch_size, config.micro_batch or config.batch_size)
    config = replace(
        config, batch_size=min(STEP_IMAGES, at_a_time) if setup.device == "cpu" else at_a_time, micro_batch=None
    )
    per_class = max(ALIGNED_IMAGES, -(-config.batch_size // min(stream.sizes)))
    if config.images and config.images.hold_out:  # one fold is not trained on
        per_class = max(FOLDS, -(-per_class * FOLDS // (FOLDS - 1)) + 1)
    folder = root / f"{per_class}-a-class"
    write_dataset(stream.dataset, folder, train_per_class=per_class)
    return config, replace(setup, root=folder, workers=0, rehearsal=True)


class Stopwatch(SupervisedPlugin[Any]):
    """Shortens a run, and measures its time and memory.

    Ends the training of each experience after one step (of the first after two) and, on the CPU, tests on its first
    image only. Append it after a plugin that reads the loss and the logits, so that the device has finished.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list[float]] = []  # seconds per step, without loading, by experience
        self.image_seconds: list[float] = []  # per test image
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
        self._mark = time.perf_counter()

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
        """The measurements that :func:`project` needs.

        The step is the second one of the first experience, in which everything that ever trains does. The later step is
        the median of the other experiences' first steps.
        """
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


def project(measured: Mapping[str, float], config: Config, stream: Stream, workers: int = 0) -> tuple[float, float]:
    """Estimated seconds and bytes of the real run on this machine.

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
