"""What tests of the harness share: runs of a quarter of a second on a few real drawings,
and records that nobody had to run.
"""

from __future__ import annotations

import base64
import functools
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from reclaim.benchmark.config import LITE0, Config, Part, config_hash
from reclaim.benchmark.data import drawings as all_drawings
from reclaim.benchmark.data.canvases import SIDE
from reclaim.benchmark.data.drawings import Drawings, downstream_identity
from reclaim.benchmark.data.streams import CANVASES, LISTED, PAPER_STREAMS, STREAMS, Stream, class_order
from reclaim.benchmark.recipes import RECIPES, weights_sha256
from reclaim.benchmark.records.metrics import OF_TASK, SHOWN_CANVASES, pack_bits
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.training import jobs
from reclaim.benchmark.training.jobs import Job, Tick

SMALL = Stream("small", (3, 2, 1), "six classes, eight training and four test drawings each")
SETTINGS = ("epochs=2", "batch_size=16")

_make = jobs._make


@functools.cache
def drawings(part: Part = "test") -> Drawings:
    """Six classes of the downstream drawings, eight to train and four to test."""
    whole = all_drawings.downstream(part)
    return Drawings(whole.train[:6, :8].contiguous(), whole.test[:6, :4].contiguous(), whole.names[:6], whole.sha256)


def shrink(patch: pytest.MonkeyPatch) -> None:
    """Make :func:`drawings` all there is, and :data:`SMALL` a stream by name."""
    patch.setattr("reclaim.benchmark.data.experiences.downstream", drawings)
    patch.setattr(
        "reclaim.benchmark.training.run.downstream", drawings
    )  # named, not imported: Avalanche takes seconds to import
    patch.setitem(STREAMS, SMALL.name, SMALL)


def make_small(job: Job, advance: Callable[[Tick], Any]) -> Record:
    """A run on the small drawings, also in another process: stands in for ``jobs._make``."""
    with pytest.MonkeyPatch.context() as patch:
        shrink(patch)
        return _make(job, advance)


@functools.cache
def few_drawings(part: Part = "test") -> Drawings:
    """All downstream classes with all drawings to test on, but four to train on; of the validation part, which no board
    shows, two to test on.
    """
    whole = all_drawings.downstream(part)
    test = whole.test if part == "test" else whole.test[:, :2].contiguous()
    return Drawings(whole.train[:, :4].contiguous(), test, whole.names, whole.sha256)


@functools.cache
def tiny_drawings(part: Part = "test") -> Drawings:
    """All downstream classes, four drawings to train on and two to test on."""
    whole = all_drawings.downstream(part)
    return Drawings(whole.train[:, :4].contiguous(), whole.test[:, :2].contiguous(), whole.names, whole.sha256)


def make_few(job: Job, advance: Callable[[Tick], Any]) -> Record:
    """A run that trains on few drawings, on the streams as they are: stands in for ``jobs._make``."""
    return _make_on(few_drawings, job, advance)


def make_tiny(job: Job, advance: Callable[[Tick], Any]) -> Record:
    """The same, on few drawings to test on as well: no board would show its record."""
    return _make_on(tiny_drawings, job, advance)


def _make_on(drawings: Callable[[Part], Drawings], job: Job, advance: Callable[[Tick], Any]) -> Record:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reclaim.benchmark.data.experiences.downstream", drawings)
        patch.setattr("reclaim.benchmark.training.run.downstream", drawings)
        return _make(job, advance)


def make_few_isolated(job: Job, advance: Callable[[Tick], Any]) -> Record:
    """The same of a run with code from outside: stands in for ``jobs._make_isolated``."""
    from reclaim.benchmark.training.isolation import isolated  # imports torch, which not all tests need

    with isolated(job.external, jobs.log_of(job)):
        return make_few(job, advance)


def small_settings(recipe: str) -> list[str]:
    """What makes a recipe's configuration one of few epochs and samples."""
    config = RECIPES[recipe].config
    parts = ["alignment.epochs=1", "alignment.samples_per_class=8"] if config.alignment else []
    parts += [f"{name}.frozen_epochs=1" for name in ("lora", "adapter", "prefix") if getattr(config, name)]
    parts += ["batch_size=5"] if config.drop_last else []  # the smallest experience has eight
    parts += ["memory.size=24", "memory.held_out=0.25"] if config.memory else []
    return [*(SETTINGS if config.epochs else SETTINGS[1:]), *parts]


def small_config(recipe: str, *settings: str) -> Config:
    """A recipe's configuration with few epochs and samples, and other settings on top."""
    return RECIPES[recipe].config.set([*small_settings(recipe), *settings])


def synthetic_record(
    recipe: str,
    stream: str = "split-quickdraw-10",
    seed: int = 0,
    last_acc: float = 50.0,
    entropy: float = 1.0,
    config: Config | None = None,
) -> Record:
    """A sound record of a recipe's present configuration, with the accuracy (percent) and final entropy
    (nats) that are asked for.
    """
    config = config or (RECIPES[recipe].config if recipe in RECIPES else Config())
    if config.dense:
        return _synthetic_dense(synthetic_record("full-1", "quickdraw-1", seed), recipe, config, last_acc)
    known = {**PAPER_STREAMS, **LISTED}.get(stream)
    sizes = known.sizes if known else (50, 50)
    if config.joint:
        sizes = (sum(sizes),)
    counts = [20 * size for size in sizes]
    so_far = [round(last_acc / 100 * sum(counts[: t + 1])) for t in range(len(counts))]  # of all, to an image
    right = [after - before for before, after in zip([0, *so_far], so_far, strict=False)]
    accuracies = [100 * r / count for r, count in zip(right, counts, strict=True)]
    matrix = [accuracies[: t + 1] for t in range(len(sizes))]
    values = config.as_dict()
    published = None
    if config.backbone == LITE0:
        from reclaim.strategies.backbones import KNOWN_BACKBONES  # imports timm, which takes seconds

        published = KNOWN_BACKBONES[LITE0].fingerprint
    return Record(
        {
            "schema": 1,
            "recipe": recipe,
            "stream": stream,
            "seed": seed,
            "config": values,
            "config_hash": config_hash(values),
            "varied": config.seeding,
            "accuracy": matrix,
            "accuracy_task_known": matrix,
            "test_counts": counts,
            "correct": pack_bits([i < r for r, count in zip(right, counts, strict=True) for i in range(count)]),
            # only the last epoch of an experience counts as final
            "entropy": [*[9.0] * (config.epochs - 1), entropy] * len(sizes),
            "train_loss": [1.0] * config.epochs * len(sizes),
            "class_order": class_order(sum(sizes), None if config.seeding == "initialisation" else seed),
            "data_sha256": downstream_identity(config.part)[1] if stream in STREAMS else "0" * 64,
            "weights_sha256": weights_sha256(config) or published or "f" * 64,
            "trained_parameters": 1234,
            "bytes_kept": 56,
            "hyperparameters_from": "given",
        },
        {
            "torch": "2.6.0",
            "platform": "Linux",
            "cpu_capability": "AVX2",
            "cpu_model": "a processor",
            "threads": 1,
            "accelerator": None,
        },
    )


def _synthetic_dense(like: Record, recipe: str, config: Config, percent: float) -> Record:
    """The same on canvases: every score is the percentage."""
    if not config.dense:
        raise ValueError(f"{recipe} has no scores")
    values, scores = config.as_dict(), dict.fromkeys(OF_TASK[config.dense.task], percent)
    of_classification = ("accuracy", "accuracy_task_known", "correct", "entropy")
    result = {
        **{key: value for key, value in like.result.items() if key not in of_classification},
        "recipe": recipe,
        "stream": CANVASES.name,
        "config": values,
        "config_hash": config_hash(values),
        "scores": scores,
        "class_scores": {metric: [percent] * (20 + (config.dense.task == "semantic")) for metric in scores},
        "predictions": [_synthetic_prediction(config.dense.task)] * SHOWN_CANVASES,
        "test_counts": [200],
        "train_loss": [1.0] * config.epochs,
        "class_order": like.result["class_order"][:20],
    }
    return Record(result, like.provenance)


def _synthetic_prediction(task: str) -> dict[str, Any]:
    """Nothing is found on a canvas."""
    if task == "semantic":
        return {"semantic": base64.b64encode(zlib.compress(bytes(SIDE * SIDE))).decode()}
    masks = {"masks": base64.b64encode(zlib.compress(b"")).decode()} if task == "instances" else {}
    return {"boxes": [], "labels": [], **masks}


def make_small_isolated(job: Job, advance: Callable[[Tick], Any]) -> Record:
    """The same of a run with code from outside: stands in for ``jobs._make_isolated``."""
    from reclaim.benchmark.training.isolation import isolated  # imports torch, which not all tests need

    with isolated(job.external, jobs.log_of(job)):
        return make_small(job, advance)
