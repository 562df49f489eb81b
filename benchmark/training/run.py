"""Makes one run: from a configuration, a stream and a seed to a record."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import torch
from reclaim.strategies.backbones import fingerprint, other_weights, require_backbone

from ..config import QUICKDRAW_VIT, Config, config_hash
from ..data.drawings import downstream
from ..data.experiences import make_benchmark, make_image_benchmark
from ..data.streams import EMBEDDED, Stream, class_order
from ..data.transforms import transforms_of
from ..data.verify import read_images
from ..records.metrics import pack_bits
from ..records.provenance import provenance
from ..records.record import SCHEMA, UNVERIFIED, Record
from .build import make_backbone, make_model, make_strategy, prepared
from .checkpoints import Checkpoint, train
from .kernels import arithmetic
from .observer import Observer, Ticker
from .rehearsal import Stopwatch
from .runtime import HERE, Setup
from .step import compile_backbone

Progress = Callable[[int, int], None]
"""Called with the number of epochs finished and their total; an experience without epochs counts as one."""


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

    The embedded tier uses one thread: small tensors do not benefit from more, and the result must not depend on the
    number of cores.

    With ``setup.checkpoints`` it resumes from the checkpoint of the same run, if there is one. The last checkpoint is
    kept. When the record is safely stored, call ``setup.discard_checkpoint``, as
    :mod:`~reclaim.benchmark.training.jobs` does.

    :param recipe: the name under which the run is recorded.
    :param hyperparameters_from: "paper", "validation" or "given".
    :raises FloatingPointError: the loss became NaN or infinite.
    :raises ValueError: the configuration does not fit the stream, or images or weights are missing.
    """
    observer = Observer()  # starts the clock
    order = class_order(stream.n_classes, None if config.seeding == "initialisation" else seed)
    taught = stream.joined() if config.joint else stream
    stopwatch = Stopwatch(len(taught.sizes))
    watching: list[Any] = [observer, stopwatch] if setup.rehearsal else [observer]
    _require_fitting(taught, config, setup)
    torch_seed = 1 if config.seeding == "class_order" else seed  # F2 (docs/fidelity.md)
    values = config.as_dict()
    with arithmetic(setup.threads, setup.device):
        torch.manual_seed(torch_seed)
        size = _image_size(config, taught)
        backbone = make_backbone(config, setup.weights, setup.rehearsal, size)  # wrong weights fail before images
        with torch.random.fork_rng(devices=[]):  # what reading images draws is not missing in training
            benchmark, of_images = _read(taught, order, config, setup)
            on_validation = replace(config, part="validation")
            held_out = _read(taught, order, on_validation, setup)[0] if config.keep == "best" else None
        for t, experience in enumerate(benchmark.train_stream if config.drop_last else ()):
            if (n := len(experience.dataset)) < config.batch_size:
                what = f"experience {t} of {stream.name} has {n} images, less than a batch, and all would be dropped"
                raise ValueError(f"{what}: set drop_last=false, or a batch_size below {config.batch_size}")
        weights_sha256 = fingerprint(backbone)
        if other := None if setup.rehearsal else other_weights(config.backbone, weights_sha256, size):
            warnings.warn(other, UserWarning, stacklevel=2)
            of_images["remarks"] = [*of_images.get("remarks", ()), other]
        sources = {"sizes": taught.sizes, "data": of_images["data_sha256"], "weights": weights_sha256}
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
                compile_backbone(strategy.model)  # compiled code is not pickled
        # images transformed on the device are already there and cannot be pinned
        loading = {"num_workers": setup.workers, "pin_memory": False if setup.cache else None}
        epochs = max(1, config.epochs)  # of an experience
        strategy.plugins[:] = [plugin for plugin in strategy.plugins if not isinstance(plugin, Ticker)]
        ticker = Ticker(progress or (lambda done, total: None), epochs * len(benchmark.train_stream))
        within = 0 if strategy.experience is None else strategy.clock.train_exp_epochs  # of one that was begun
        ticker.reach(epochs * strategy.clock.train_exp_counter + within)
        strategy.plugins.append(ticker)
        for t, experience in enumerate(benchmark.train_stream):
            if t == strategy.clock.train_exp_counter:
                train(strategy, experience, drop_last=config.drop_last, **loading)
                strategy.eval(benchmark.test_stream[: t + 1], **loading)
                checkpoint.save(strategy)
            ticker.reach(epochs * (t + 1))
        effort = observer.effort
        where = provenance(
            effort.started, datetime.now(timezone.utc), effort.wall_seconds, setup.device, effort.cpu_seconds
        )

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
        **of_images,
        "weights_sha256": weights_sha256,
        "trained_parameters": observer.trained_parameters,
        "bytes_kept": sum(int(getattr(p, "bytes_kept", 0)) for p in keepers),
        "hyperparameters_from": hyperparameters_from,
        **({"rehearsal": True} if setup.rehearsal else {}),
    }
    return Record(result, where)


def start(stream: Stream, config: Config, setup: Setup) -> dict[str, tuple[str, ...]]:
    """The ``data_sha256`` and ``weights_sha256`` that a run could have recorded that started from the ``root`` and
    ``weights`` that the setup names; of each the present one first.
    """
    known: dict[str, tuple[str, ...]] = {}
    if setup.weights:
        known["weights_sha256"] = (
            fingerprint(make_backbone(config, setup.weights, img_size=_image_size(config, stream))),
        )
    if setup.root:
        data = read_images(stream.dataset, setup.root, verify=not setup.unverified)
        known["data_sha256"] = (data.sha256, *data.aliases)
    return known


def _image_size(config: Config, stream: Stream) -> int | None:
    """Side in pixels of the images that the backbone gets; None: drawings, which have the one size."""
    return transforms_of(config.images.protocol, stream.dataset)[1].size if config.images else None


def _require_fitting(stream: Stream, config: Config, setup: Setup) -> None:
    """Refuse what can be refused without looking at weights or images.

    :raises ValueError: the configuration does not fit the stream, or the setup does not fit either.
    """
    photographs, which = stream.tier != EMBEDDED, "photographs" if stream.tier != EMBEDDED else "drawings"
    if photographs != (config.images is not None):
        remedy = "choose their transforms, such as images.protocol=slca" if photographs else "set images to null"
        raise ValueError(f"{stream.name} consists of {which}, but the configuration is for other images: {remedy}")
    if config.images is None:
        own = config.external and config.external.backbone
        require_backbone(config.backbone)
        if stream.tier == EMBEDDED and config.backbone != QUICKDRAW_VIT and not own:
            raise ValueError(
                f"the drawings of {stream.name} are 28 x 28 with one channel, which {config.backbone!r} does not take: "
                f"leave the backbone at {QUICKDRAW_VIT}, or take a recipe and a stream of photographs"
            )
        return
    if setup.root is None:
        raise ValueError(
            f"{stream.name} needs the images of {stream.dataset}: give the folder of the data sets with --root"
        )
    if setup.cache and config.memory and config.memory.method == "der++":
        raise ValueError(f"Avalanche's DER++ cannot read decoded images: leave out the cache {setup.cache}")
    if setup.cache and setup.workers and setup.device != "cpu":
        raise ValueError(
            f"decoded images are transformed on {setup.device} itself: leave out the {setup.workers} workers, "
            f"or the cache"
        )
    prepared(config.images, stream.dataset)


def _read(stream: Stream, order: list[int], config: Config, setup: Setup) -> tuple[Any, dict[str, Any]]:
    """The Avalanche benchmark of a stream of either tier, and what a record says of its images."""
    if config.images is None:
        return make_benchmark(stream, order, config.part), {"data_sha256": downstream(config.part).sha256}
    assert setup.root is not None  # _require_fitting
    verify = not (setup.unverified or setup.rehearsal)
    data = read_images(stream.dataset, setup.root, verify=verify)
    transforms = prepared(config.images, stream.dataset)
    benchmark = make_image_benchmark(
        stream, order, data, transforms, config.part, config.images.hold_out, setup.cache, setup.device
    )
    remarks = [*data.remarks, *([] if verify else [UNVERIFIED])]
    said = {"remarks": remarks} if remarks else {}
    return benchmark, {"data_sha256": data.sha256, "data_aliases": list(data.aliases), **said}
