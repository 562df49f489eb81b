"""Makes one run: from a configuration, a stream and a seed to a record."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from reclaim.strategies.backbones import fingerprint, other_weights, require_backbone
from reclaim.strategies.frozen_batch_norm import moving_batch_norms
from torch import nn

from ..config import QUICKDRAW_VIT, Config, config_hash
from ..data.drawings import downstream
from ..data.experiences import Mixed, make_benchmark, make_image_benchmark
from ..data.folders import read_own_images, require_enough_to_hold_out
from ..data.images import ImageData
from ..data.served import Served
from ..data.streams import DENSE, EMBEDDED, OWN, Stream, class_order
from ..data.verify import read_images
from ..records.metrics import pack_bits
from ..records.provenance import provenance
from ..records.record import SCHEMA, UNVERIFIED, Record
from .build import make_backbone, make_model, make_strategy, prepared
from .checkpoints import Checkpoint, train
from .data_parallel import Replicas, first_process_first, require_alike, require_divisible
from .frozen_features import never_changes, with_features
from .kernels import arithmetic
from .observer import Observer, Ticker
from .own_streams import serve_component
from .rehearsal import Stopwatch
from .runtime import HERE, Setup, process
from .step import compile_backbone

Progress = Callable[[float, int], None]
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
    taught = stream.joined() if config.joint else stream
    stopwatch = Stopwatch(len(taught.sizes), setup.timed)
    watching: list[Any] = [observer, stopwatch] if setup.rehearsal else [observer]
    _require_fitting(taught, config, setup)
    torch_seed = 1 if config.seeding == "class_order" else seed  # F2 (docs/fidelity.md)
    values = config.as_dict()
    if setup.at_a_time:
        config = config.passing(setup.at_a_time)
    with arithmetic(setup.threads, setup.device):
        torch.manual_seed(torch_seed)
        served = serve_component(stream, config, seed) if stream.made_by else None  # says the size of its images
        shape = served.shape if served else _shape(config, taught)
        backbone = make_backbone(config, setup.weights, setup.rehearsal, shape)  # wrong weights fail before images
        if process()[1] > 1:
            require_divisible(config, backbone)
        with torch.random.fork_rng(devices=[]):  # what reading images draws is not missing in training
            if served:
                order, (benchmark, of_images) = list(served.classes), _of_served(stream, served, config)
            else:
                order = class_order(stream.n_classes, None if config.seeding == "initialisation" else seed)
                benchmark, of_images = _read(taught, order, config, setup)
            on_validation = replace(config, part="validation")
            held_out = _read(taught, order, on_validation, setup)[0] if config.keep == "best" else None
        for t, experience in enumerate(benchmark.train_stream if config.drop_last else ()):
            if (n := len(experience.dataset)) < config.batch_size:
                what = f"experience {t} of {stream.name} has {n} images, less than a batch, and all would be dropped"
                raise ValueError(f"{what}: set drop_last=false, or a batch_size below {config.batch_size}")
        weights_sha256 = fingerprint(backbone)
        if (
            other := None
            if setup.rehearsal
            else other_weights(config.backbone, weights_sha256, shape[-1] if shape else None)
        ):
            warnings.warn(other, UserWarning, stacklevel=2)
            of_images["remarks"] = [*of_images.get("remarks", ()), other]
        _warn_of_batch_norm(config, backbone)
        if never_changes(config) and not setup.rehearsal:
            together, as_numbered = taught.joined(), list(range(stream.n_classes))
            benchmark, backbone = with_features(
                lambda: _read(together, as_numbered, config, setup)[0],
                (taught.dataset, of_images["data_sha256"], weights_sha256),
                taught.sizes,
                order,
                backbone,
                config,
                setup.device,
                setup.workers,
            )
            setup = replace(setup, workers=0, cache=None)  # which are of images
        sources = {"sizes": taught.sizes, "data": of_images["data_sha256"], "weights": weights_sha256}
        which = {**sources, "workers": setup.workers, "cache": bool(setup.cache)}
        path = setup.checkpoint_of(recipe, stream.name, config_hash(values), seed)
        epochs = max(1, config.epochs)  # of an experience
        ticker = Ticker(progress or (lambda done, total: None), epochs * len(benchmark.train_stream))
        replicas = Replicas() if process()[1] > 1 else None
        outside = [ticker, *([replicas] if replicas else [])]
        checkpoint = Checkpoint(path, which, benchmark, setup.device, setup.checkpoint_minutes, held_out, outside)
        model = make_model(config, backbone, stream.n_classes)
        validation = held_out and held_out.test_stream
        strategy = make_strategy(config, model, torch_seed, watching, setup.device, validation, replicas)
        strategy.plugins += [checkpoint, ticker]
        with first_process_first():  # which puts unusable files aside
            strategy = checkpoint.load(strategy)
        if setup.at_a_time:  # and not what memory had to hold when the checkpoint was written
            strategy.micro_batch, strategy.eval_mb_size = config.micro_batch, config.eval_batch_size
        require_alike(strategy)
        (observer,) = (plugin for plugin in strategy.plugins if isinstance(plugin, Observer))
        if config.compile:
            compile_backbone(strategy.model)
        # images transformed on the device are already there and cannot be pinned
        loading = {"num_workers": setup.workers, "pin_memory": False if setup.cache else None}
        within = 0 if strategy.experience is None else strategy.clock.train_exp_epochs  # of one that was begun
        ticker.reach(epochs * strategy.clock.train_exp_counter + within)
        for t, experience in enumerate(benchmark.train_stream):
            if t == strategy.clock.train_exp_counter:
                train(strategy, experience, drop_last=config.drop_last, **loading)
                tests = benchmark.test_stream[: t + 1]
                shuffled = config.test_order == "shuffled"
                strategy.eval([Mixed(tests, (seed, t))] if shuffled else tests, **loading)
                checkpoint.save(strategy)
            ticker.reach(epochs * (t + 1))
        effort = observer.effort
        where = provenance(
            effort.started, datetime.now(timezone.utc), effort.wall_seconds, setup.device, effort.cpu_seconds
        )

    if replicas:
        where["processes"] = process()[1]
    if setup.rehearsal:
        where["rehearsal"] = stopwatch.as_dict()
    if config.images and (setup.workers or setup.cache):
        where["loading"] = {"workers": setup.workers, "cache": bool(setup.cache)}
    if setup.at_a_time:
        where["at_a_time"] = setup.at_a_time
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
        known["weights_sha256"] = (fingerprint(make_backbone(config, setup.weights, shape=_shape(config, stream))),)
    if setup.root:
        data = _images(stream, setup.root, verify=not setup.unverified)
        known["data_sha256"] = (data.sha256, *(() if stream.tier == OWN else data.aliases))
    return known


def _shape(config: Config, stream: Stream) -> tuple[int, ...] | None:
    """Of the images that the backbone gets; None: drawings, which have the one size."""
    if config.images is None:
        return None
    size = prepared(config, stream.dataset)[1].size
    return 3, size, size


def _warn_of_batch_norm(config: Config, backbone: nn.Module) -> None:
    """Of a pretrained backbone that is fine-tuned on the statistics of one experience after another."""
    tuned = config.trainable == "all" and config.epochs and config.batch_norm == "train"
    if config.starts_pretrained and tuned and moving_batch_norms(backbone):
        warnings.warn(
            f"the statistics of the batch normalisation of {config.backbone} are estimated anew on each experience, "
            f"which alone can cost most of what pretraining gave: --set batch_norm=frozen keeps them",
            UserWarning,
            stacklevel=3,
        )


def _require_fitting(stream: Stream, config: Config, setup: Setup) -> None:
    """Refuse what can be refused without looking at weights or images.

    :raises ValueError: the configuration does not fit the stream, or the setup does not fit either.
    """
    if stream.tier == DENSE:
        raise ValueError(f"{stream.name} consists of canvases: choose a recipe for them, such as dense-sem-olor")
    if config.coda and len(stream.sizes) > config.coda.experiences:
        raise ValueError(
            f"CODA-Prompt's components are shared by {config.coda.experiences} experiences, and {stream.name} has "
            f"{len(stream.sizes)}: --set coda.experiences={len(stream.sizes)}"
        )
    if stream.made_by:
        _require_served(stream, config, setup)
        return
    photographs, which = stream.tier != EMBEDDED, "photographs" if stream.tier != EMBEDDED else "drawings"
    if photographs != (config.images is not None):
        protocol = "own" if stream.tier == OWN else "slca"
        remedy = f"choose their transforms, such as images.protocol={protocol}" if photographs else "set images to null"
        raise ValueError(f"{stream.name} consists of {which}, but the configuration is for other images: {remedy}")
    if config.images is None:
        if config.external and config.external.backbone:
            return
        require_backbone(config.backbone)
        if stream.tier == EMBEDDED and config.backbone != QUICKDRAW_VIT:
            raise ValueError(
                f"the drawings of {stream.name} are 28 x 28 with one channel, which {config.backbone!r} does not take: "
                f"leave the backbone at {QUICKDRAW_VIT}, or take a recipe and a stream of photographs"
            )
        return
    if setup.root is None:
        what = "their folder with --images" if stream.tier == OWN else "the folder of the data sets with --root"
        raise ValueError(f"{stream.name} needs the images of {stream.dataset}: give {what}")
    if stream.tier == OWN and config.images.protocol not in ("own", "olor"):
        raise ValueError(
            f"images.protocol={config.images.protocol} is for data sets of papers, not for {stream.dataset}: use "
            f"images.protocol=own"
        )
    if setup.cache and config.memory and config.memory.method == "der++":
        raise ValueError(f"Avalanche's DER++ cannot read decoded images: leave out the cache {setup.cache}")
    if setup.cache and setup.workers and setup.device != "cpu":
        raise ValueError(
            f"decoded images are transformed on {setup.device} itself: leave out the {setup.workers} workers, "
            f"or the cache"
        )
    prepared(config, stream.dataset)


def _require_served(stream: Stream, config: Config, setup: Setup) -> None:
    if config.images:
        raise ValueError(f"{stream.name} brings its images transformed: set images to null")
    if config.part != "test":
        raise ValueError(f"{stream.name} has no validation part: set part to test")
    if setup.cache:
        raise ValueError(f"{stream.name} brings its images decoded: leave out the cache {setup.cache}")


def _of_served(stream: Stream, served: Served, config: Config) -> tuple[Any, dict[str, Any]]:
    """The Avalanche benchmark of a stream of others' making, and what a record says of its images."""
    benchmark = served.benchmark(config.joint)
    assert stream.made_by
    said = {"sizes": [sum(served.sizes)] if config.joint else list(served.sizes), **_counts(benchmark)}
    return benchmark, {"data_sha256": served.sha256, "own_stream": {**said, "made_by": stream.made_by.as_dict()}}


def _read(stream: Stream, order: list[int], config: Config, setup: Setup) -> tuple[Any, dict[str, Any]]:
    """The Avalanche benchmark of a stream of either tier, and what a record says of its images."""
    if config.images is None:
        return make_benchmark(stream, order, config.part), {"data_sha256": downstream(config.part).sha256}
    assert setup.root is not None  # _require_fitting
    verify = not (setup.unverified or setup.rehearsal)
    data = _images(stream, setup.root, verify)
    if stream.tier == OWN and (config.part == "validation" or config.images.hold_out):
        require_enough_to_hold_out(data)
    transforms = prepared(config, stream.dataset)
    benchmark = make_image_benchmark(
        stream,
        order,
        data,
        transforms,
        config.part,
        config.images.hold_out,
        setup.cache,
        setup.device,
        (config.images.train_per_class, config.images.test_per_class),
    )
    remarks = [*data.remarks, *([] if verify else [UNVERIFIED])]
    said: dict[str, Any] = {"data_sha256": data.sha256, **({"remarks": remarks} if remarks else {})}
    if stream.tier == OWN:
        return benchmark, {**said, "own_stream": _own(stream, benchmark)}
    return benchmark, {**said, "data_aliases": list(data.aliases)}


def _images(stream: Stream, root: Path, verify: bool) -> ImageData:
    if stream.tier == OWN:
        return read_own_images(stream, root, verify=verify)
    return read_images(stream.dataset, root, verify=verify)


def _own(stream: Stream, benchmark: Any) -> dict[str, Any]:
    """What a record says of a stream that is not this project's."""
    return {
        "sizes": list(stream.sizes),
        **_counts(benchmark),
        **({"split": dict(stream.split)} if stream.split else {}),
    }


def _counts(benchmark: Any) -> dict[str, Any]:
    return {"train_counts": [len(experience.dataset) for experience in benchmark.train_stream]}
