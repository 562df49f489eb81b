"""One run: a configuration, a stream and a seed become a record."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from reclaim.strategies.backbones import fingerprint

from .arithmetic import cpu_arithmetic
from .build import make_backbone, make_model, make_strategy, prepared
from .config import Config
from .datasets import downstream
from .image_folders import read_images
from .metrics import pack_bits
from .records import SCHEMA, Record, config_hash, provenance
from .setup import HERE, Setup
from .streams import EMBEDDED, Stream, class_order, make_benchmark, make_image_benchmark

Progress = Callable[[int, int], None]
"""Called with the number of experiences finished and their total."""


def run(
    recipe: str,
    config: Config,
    stream: Stream,
    seed: int,
    *,
    hyperparameters_from: str = "given",
    setup: Setup = HERE,
    progress: Progress | None = None,
) -> Record:
    """Train and evaluate once.

    On the embedded tier on one thread: small tensors gain nothing from more, and the result must not depend on the number of cores.

    :param recipe: the name under which the run is recorded.
    :param hyperparameters_from: "paper", "validation" or "given".
    :raises FloatingPointError: the loss became NaN or infinite.
    :raises ValueError: the configuration is not one for the stream, or images or weights are missing.
    """
    started, processor = datetime.now(timezone.utc), time.process_time()
    order = class_order(stream.n_classes, None if config.seeding == "initialisation" else seed)
    taught = stream.joined() if config.joint else stream
    benchmark, data_sha256 = _read(taught, order, config, setup)
    torch_seed = 1 if config.seeding == "class_order" else seed  # F2
    observer = Observer()
    with cpu_arithmetic(setup.threads):
        torch.manual_seed(torch_seed)
        backbone = make_backbone(config, setup.weights)
        weights_sha256 = fingerprint(backbone)
        strategy = make_strategy(config, make_model(config, backbone, stream.n_classes), torch_seed, [observer], setup.device)
        for t, experience in enumerate(benchmark.train_stream):
            strategy.train(experience, eval_streams=[], drop_last=config.drop_last, num_workers=setup.workers)
            strategy.eval(benchmark.test_stream[: t + 1], num_workers=setup.workers)
            if progress:
                progress(t + 1, len(benchmark.train_stream))
        ended = datetime.now(timezone.utc)
        where = provenance(started, ended, (ended - started).total_seconds(), setup.device, time.process_time() - processor)

    keepers = [strategy, *strategy.plugins, strategy.optimizer]
    values = config.as_dict()
    result = {
        "schema": SCHEMA,
        "recipe": recipe,
        "stream": stream.name,
        "seed": seed,
        "config": values,
        "config_hash": config_hash(values),
        "varied": config.seeding,
        "accuracy": observer.accuracy,
        "accuracy_task_known": observer.accuracy_task_known,
        "test_counts": [len(e.dataset) for e in benchmark.test_stream],
        "correct": pack_bits(observer.correct),
        "entropy": observer.entropy,
        "train_loss": observer.train_loss,
        "class_order": order,
        "data_sha256": data_sha256,
        "weights_sha256": weights_sha256,
        "trained_parameters": observer.trained_parameters,
        "bytes_kept": sum(int(getattr(p, "bytes_kept", 0)) for p in keepers),
        "hyperparameters_from": hyperparameters_from,
    }
    return Record(result, where)


def _read(stream: Stream, order: list[int], config: Config, setup: Setup) -> tuple[Any, str]:
    """The Avalanche benchmark of a stream of either tier, and the SHA-256 of its images or of their index."""
    photographs, which = stream.tier != EMBEDDED, "photographs" if stream.tier != EMBEDDED else "drawings"
    if photographs != (config.images is not None):
        remedy = "say how they are prepared, such as images.protocol=slca" if photographs else "set images to null"
        raise ValueError(f"{stream.name} is made of {which}, and the configuration is for others: {remedy}")
    if config.images is None:
        return make_benchmark(stream, order, config.part), downstream(config.part).sha256
    if setup.root is None:
        raise ValueError(f"{stream.name} needs the images of {stream.dataset}: give the folder of the data sets with --root")
    data = read_images(stream.dataset, setup.root)
    transforms = prepared(config.images, stream.dataset)
    benchmark = make_image_benchmark(stream, order, data, transforms, config.part, config.images.hold_out, setup.cache, setup.device)
    return benchmark, data.sha256


class Observer(SupervisedPlugin[Any]):
    """Collects what a record holds: accuracies in percent with and without the task known, training loss and entropy per epoch.

    The entropy (nats) is that of the softmax over the current experience's classes on the training batches, as in aEPG's figures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy: list[list[float]] = []
        self.accuracy_task_known: list[list[float]] = []
        self.entropy: list[float] = []
        self.train_loss: list[float] = []
        self.correct: list[bool] = []
        self._trained: dict[str, int] = {}

    @property
    def trained_parameters(self) -> int:
        """Number of weights that required a gradient in some epoch."""
        return sum(self._trained.values())

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._trained |= {name: p.numel() for name, p in strategy.model.named_parameters() if p.requires_grad}
        self._sums = np.zeros(3)
        self._classes = sorted(strategy.experience.classes_in_this_experience)

    @torch.no_grad()
    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        log_p = torch.log_softmax(strategy.mb_output[:, self._classes].float(), dim=1)
        n, loss = len(log_p), float(strategy.loss)
        if not np.isfinite(loss):
            where = f"experience {strategy.clock.train_exp_counter}, epoch {strategy.clock.train_exp_epochs}"
            raise FloatingPointError(f"the loss became {loss} in {where}: lower the learning rate")
        self._sums += [n, n * loss, -float((log_p.exp() * log_p).sum())]

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        n, loss, entropy = self._sums
        self.train_loss.append(float(loss / n))
        self.entropy.append(float(entropy / n))

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.accuracy.append([])
        self.accuracy_task_known.append([])
        self.correct = []

    def before_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._eval_classes = torch.tensor(sorted(strategy.experience.classes_in_this_experience), device=strategy.device)
        self._hits: list[bool] = []
        self._hits_task_known: list[bool] = []

    def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        logits, targets = strategy.mb_output, strategy.mb_y
        # what the last step or the alignment broke shows here first; argmax would make an accuracy of it
        if not torch.isfinite(logits).all():
            seen = strategy.clock.train_exp_counter
            raise FloatingPointError(f"a logit is NaN or infinite when evaluated after {seen} experience(s): lower the learning rate")
        self._hits += (logits.argmax(1) == targets).tolist()
        self._hits_task_known += (self._eval_classes[logits[:, self._eval_classes].argmax(1)] == targets).tolist()

    def after_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.correct += self._hits
        self.accuracy[-1].append(100 * float(np.mean(self._hits)))
        self.accuracy_task_known[-1].append(100 * float(np.mean(self._hits_task_known)))
