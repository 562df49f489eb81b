"""One run: a configuration, a stream and a seed become a record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from reclaim.strategies.backbones import fingerprint

from .arithmetic import arithmetic
from .build import make_backbone, make_model, make_strategy, prepared
from .checkpoints import Checkpoint, train
from .config import Config
from .data.drawings import downstream
from .data.experiences import make_benchmark, make_image_benchmark
from .data.streams import EMBEDDED, Stream, class_order
from .data.verify import read_images
from .execution import compile_backbone
from .metrics import pack_bits
from .records import SCHEMA, UNVERIFIED, Record, config_hash, provenance
from .rehearsal import Stopwatch
from .setup import HERE, Setup

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

    With ``setup.checkpoints`` it goes on from the checkpoint of the same run, if one lies there. The last one stays: whoever has put the
    record in a safe place calls ``setup.discard_checkpoint``, as :mod:`~reclaim.benchmark.engines` does.

    :param recipe: the name under which the run is recorded.
    :param hyperparameters_from: "paper", "validation" or "given".
    :raises FloatingPointError: the loss became NaN or infinite.
    :raises ValueError: the configuration is not one for the stream, or images or weights are missing.
    """
    observer = Observer()  # its clock runs from here
    stopwatch = Stopwatch()
    watching: list[Any] = [observer, stopwatch] if setup.rehearsal else [observer]
    order = class_order(stream.n_classes, None if config.seeding == "initialisation" else seed)
    taught = stream.joined() if config.joint else stream
    benchmark, data_sha256, remarks = _read(taught, order, config, setup)
    held_out = _read(taught, order, replace(config, part="validation"), setup)[0] if config.keep == "best" else None
    for t, experience in enumerate(benchmark.train_stream if config.drop_last else ()):
        if (n := len(experience.dataset)) < config.batch_size:
            what = f"experience {t} of {stream.name} has {n} images, less than a batch, and all would be left out"
            raise ValueError(f"{what}: set drop_last=false, or a batch_size below {config.batch_size}")
    torch_seed = 1 if config.seeding == "class_order" else seed  # F2
    values = config.as_dict()
    with arithmetic(setup.threads, setup.device):
        torch.manual_seed(torch_seed)
        backbone = make_backbone(config, setup.weights, random=setup.rehearsal)
        weights_sha256 = fingerprint(backbone)
        sources = {"sizes": taught.sizes, "data": data_sha256, "weights": weights_sha256}
        which = {**sources, "workers": setup.workers, "cache": bool(setup.cache)}
        path = setup.checkpoint_of(recipe, stream.name, config_hash(values), seed)
        checkpoint = Checkpoint(path, which, benchmark, setup.device, setup.checkpoint_minutes, held_out)
        strategy = checkpoint.load()
        if strategy is None:
            strategy = make_strategy(
                config,
                make_model(config, backbone, stream.n_classes),
                torch_seed,
                watching,
                setup.device,
                held_out and held_out.test_stream,
            )
            strategy.plugins.append(checkpoint)
        else:
            (observer,) = (plugin for plugin in strategy.plugins if isinstance(plugin, Observer))
            if config.compile:
                compile_backbone(strategy.model)  # what is compiled is not pickled
        # what was transformed on the device is there already, and cannot be pinned
        loading = {"num_workers": setup.workers, "pin_memory": False if setup.cache else None}
        for t, experience in enumerate(benchmark.train_stream):
            if t == strategy.clock.train_exp_counter:
                train(strategy, experience, drop_last=config.drop_last, **loading)
                strategy.eval(benchmark.test_stream[: t + 1], **loading)
                checkpoint.save(strategy)
            if progress:
                progress(t + 1, len(benchmark.train_stream))
        effort = observer.effort
        where = provenance(effort.started, datetime.now(timezone.utc), effort.wall_seconds, setup.device, effort.cpu_seconds)

    if setup.rehearsal:
        where["rehearsal"] = stopwatch.as_dict()
    if config.images and (setup.workers or setup.cache):
        where["loading"] = {"workers": setup.workers, "cache": bool(setup.cache)}
    keepers = [strategy, *strategy.plugins, strategy.optimizer]
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
        "test_counts": observer.test_counts,
        "correct": pack_bits(observer.correct),
        "entropy": observer.entropy,
        "train_loss": observer.train_loss,
        "class_order": order,
        "data_sha256": data_sha256,
        "weights_sha256": weights_sha256,
        "trained_parameters": observer.trained_parameters,
        "bytes_kept": sum(int(getattr(p, "bytes_kept", 0)) for p in keepers),
        "hyperparameters_from": hyperparameters_from,
        **({"remarks": list(remarks)} if remarks else {}),
        **({"rehearsal": True} if setup.rehearsal else {}),
    }
    return Record(result, where)


def start(stream: Stream, config: Config, setup: Setup) -> dict[str, str]:
    """The ``data_sha256`` and ``weights_sha256`` that a run would record, of what the setup names: ``root`` and ``weights``."""
    known = {}
    if setup.root:
        known["data_sha256"] = read_images(stream.dataset, setup.root, verify=not setup.unverified).sha256
    if setup.weights:
        known["weights_sha256"] = fingerprint(make_backbone(config, setup.weights))
    return known


def _read(stream: Stream, order: list[int], config: Config, setup: Setup) -> tuple[Any, str, tuple[str, ...]]:
    """The Avalanche benchmark of a stream of either tier, the SHA-256 of its images or of their index, and what is to be said of them."""
    photographs, which = stream.tier != EMBEDDED, "photographs" if stream.tier != EMBEDDED else "drawings"
    if photographs != (config.images is not None):
        remedy = "say how they are prepared, such as images.protocol=slca" if photographs else "set images to null"
        raise ValueError(f"{stream.name} is made of {which}, and the configuration is for others: {remedy}")
    if config.images is None:
        return make_benchmark(stream, order, config.part), downstream(config.part).sha256, ()
    if setup.root is None:
        raise ValueError(f"{stream.name} needs the images of {stream.dataset}: give the folder of the data sets with --root")
    if setup.cache and config.memory and config.memory.method == "der++":
        raise ValueError(f"Avalanche's DER++ cannot read decoded images: leave out the cache {setup.cache}")
    if setup.cache and setup.workers and setup.device != "cpu":
        raise ValueError(f"decoded images are transformed on {setup.device} itself: leave out the {setup.workers} workers, or the cache")
    verify = not (setup.unverified or setup.rehearsal)
    data = read_images(stream.dataset, setup.root, verify=verify)
    transforms = prepared(config.images, stream.dataset)
    benchmark = make_image_benchmark(stream, order, data, transforms, config.part, config.images.hold_out, setup.cache, setup.device)
    return benchmark, data.sha256, data.remarks if verify else (*data.remarks, UNVERIFIED)


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
        self.test_counts: list[int] = []
        self.effort = Effort()
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
        self.correct, self.test_counts = [], []

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
        self.test_counts.append(len(self._hits))
        self.accuracy[-1].append(100 * float(np.mean(self._hits)))
        self.accuracy_task_known[-1].append(100 * float(np.mean(self._hits_task_known)))


class Effort:
    """When a run started, and what it took: of one that was interrupted and goes on, the time before the checkpoint as well."""

    def __init__(self) -> None:
        self.started = datetime.now(timezone.utc)
        self.__setstate__({"started": self.started, "seconds": (0.0, 0.0)})

    @property
    def wall_seconds(self) -> float:
        return time.monotonic() - self._zero[0]

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self._zero[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"started": self.started, "seconds": (self.wall_seconds, self.cpu_seconds)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.started = state["started"]
        wall, cpu = state["seconds"]
        self._zero = time.monotonic() - wall, time.process_time() - cpu
