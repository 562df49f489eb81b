"""Rehearsals: a run of the paper tier, whole but for its length, on synthetic images; and what the real run will take.

Backbone, modules, heads, numbers of experiences and classes, image sizes, file formats, optimizer and schedule are the real ones. Weights
are random, each experience is trained for one step of a few images and tested on one image of each experience so far. The record is marked,
and no check counts it. What the step took is projected to the length of the real run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .catalogue import find_dataset
from .config import Config
from .image_folders import FOLDS
from .setup import Setup
from .streams import Stream
from .synthetic import write_dataset

STEP_IMAGES = 2
"""Images of a step on the CPU; on an accelerator, which is only busy with a whole batch, a step has the real number."""

ALIGNED_IMAGES = 2  # of a class: the fewest that have a covariance


def shortened(config: Config, stream: Stream, root: Path, setup: Setup) -> tuple[Config, Setup]:
    """Configuration and setup of the rehearsal of a run; writes the synthetic images that it needs below ``root``.

    :param config: of the real run.
    :param setup: device, workers and threads.
    :raises ValueError: a folder of other images is in the way.
    """
    if setup.device == "cpu":
        config = replace(config, batch_size=min(STEP_IMAGES, config.batch_size), micro_batch=None)
    per_class = max(ALIGNED_IMAGES, -(-config.batch_size // min(stream.sizes)))
    if config.images and config.images.hold_out:
        per_class = max(per_class, FOLDS)
    folder = root / f"{per_class}-a-class"
    write_dataset(stream.dataset, folder, train_per_class=per_class)
    return config, replace(setup, root=folder, rehearsal=True)


class Stopwatch(SupervisedPlugin[Any]):
    """Ends the training of each experience after one step and tests on its first image alone; measures the time and memory that takes."""

    def __init__(self) -> None:
        super().__init__()
        self.step_seconds: list[float] = []
        self.image_seconds: list[float] = []
        self.closing_seconds: list[float] = []  # from the last step to the evaluation: what alignment takes
        self.activation_bytes = 0
        self.fixed_bytes = 0
        self.batch = 0

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        own = {p.untyped_storage().data_ptr() for p in strategy.model.parameters()}
        storages: dict[int, int] = {}

        def count(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        self._saved = storages
        self._counting = ExitStack()
        self._counting.enter_context(saved_tensors_hooks(count, lambda tensor: tensor))

    def after_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._counting.close()
        self.activation_bytes = max(self.activation_bytes, sum(self._saved.values()))
        self.batch = max(self.batch, len(strategy.mb_x))

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._end = time.perf_counter()
        self.step_seconds.append(self._end - self._start)
        parameters = list(strategy.model.parameters())
        kept = [t for state in strategy.optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
        gradients = [p.grad for p in parameters if p.grad is not None]
        self.fixed_bytes = max(self.fixed_bytes, sum(t.nbytes for t in (*parameters, *gradients, *kept)))
        strategy.stop_training()

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.closing_seconds.append(time.perf_counter() - self._end)

    def after_eval_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.adapted_dataset = strategy.adapted_dataset.subset([0])

    def before_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def after_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.image_seconds.append(time.perf_counter() - self._start)

    def as_dict(self) -> dict[str, float]:
        """Medians over experiences in seconds, and bytes; what :func:`project` takes."""
        return {
            "step_seconds": median(self.step_seconds),
            "step_images": self.batch,
            "test_image_seconds": median(self.image_seconds),
            "closing_seconds": sum(self.closing_seconds),
            "activation_bytes": self.activation_bytes,
            "fixed_bytes": self.fixed_bytes,
        }


def project(measured: Mapping[str, float], config: Config, stream: Stream) -> tuple[float, float]:
    """Seconds and bytes that the real run takes on this machine: training, alignment and all tests; weights, gradients, optimizer state and
    the activations of a batch. Loading is in it as it went here: synthetic images decode faster than photographs.

    :param measured: by a :class:`Stopwatch`.
    :param config: of the real run.
    """
    entry = find_dataset(stream.dataset)
    held = config.images is not None and config.images.hold_out and entry.validation is None
    train, test = (entry.train or 0) * (1 - 1 / FOLDS if held else 1), entry.test or 0
    image = measured["test_image_seconds"]
    tested = test * float(np.cumsum(stream.sizes).sum()) / stream.n_classes
    seconds = config.epochs * train * measured["step_seconds"] / measured["step_images"] + tested * image + measured["closing_seconds"]
    if config.alignment:  # starts from the features of all training images
        seconds += train * image
    at_a_time = min(config.batch_size, config.micro_batch or config.batch_size)
    return seconds, measured["fixed_bytes"] + measured["activation_bytes"] / measured["step_images"] * at_a_time
