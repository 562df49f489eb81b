"""Avalanche benchmarks of others' making as streams: what they serve, held against what a run needs."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset

REMEDY = "return an Avalanche benchmark for classification, such as nc_benchmark(...)"


@dataclass(frozen=True)
class Served:
    """What a benchmark serves, in the form that a run needs: classes numbered in order of appearance, one test
    experience for each training experience.

    :ivar name: of the benchmark, for messages.
    :ivar classes: the benchmark's own class ids, in order of appearance.
    :ivar sizes: number of new classes in each experience; 0 if all were there before.
    :ivar train: the images of each experience.
    :ivar test: the same of the test images.
    :ivar shape: of an image, such as (3, 32, 32).
    """

    name: str
    classes: tuple[int, ...]
    sizes: tuple[int, ...]
    train: tuple[Items, ...]
    test: tuple[Items, ...]
    shape: tuple[int, ...]

    @cached_property
    def sha256(self) -> str:
        """SHA-256, in hex, of every image as it is evaluated on and its class, by part and experience. Reads all
        images; a random transform draws from a fixed seed.

        :raises ValueError: an image is of another shape or class than the benchmark says.
        """
        digest = hashlib.sha256()
        with seeded(0):
            for part, experiences in (("train", self.train), ("test", self.test)):
                for t, items in enumerate(experiences):
                    for i in range(len(items)):
                        image, label = items.read(i, "eval")
                        where = f"item {i} of the {part} experience {t} of {self.name}"
                        _require_image(where, image, self.shape)
                        found = class_of(label, where)
                        if found != items.own_classes[i]:
                            raise ValueError(
                                f"{where} has class {found}, but its dataset's targets say {items.own_classes[i]}: "
                                f"let them agree"
                            )
                        digest.update(f"{part} {t} {found} {image.dtype} {tuple(image.shape)}\0".encode())
                        digest.update(image.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def benchmark(self, joint: bool = False) -> Any:
        """The benchmark for a run.

        ``experience.dataset.eval()`` gives the training images as they are evaluated on.

        :param joint: all experiences as one.
        """
        from avalanche.benchmarks import dataset_benchmark  # seconds that naming streams should not cost
        from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset

        def dataset(items: Items, group: str) -> Any:
            return _make_taskaware_classification_dataset(
                items,
                transform_groups={"train": (View(items, "train"), None), "eval": (View(items, "eval"), None)},
                initial_transform_group=group,
                task_labels=0,
                targets=items.targets,
            )

        parts = [(self.train, "train"), (self.test, "eval")]
        return dataset_benchmark(
            *(
                [dataset(items, group) for items in ([_together(of_part)] if joint else of_part)]
                for of_part, group in parts
            )
        )


class Items(Dataset[tuple[int, int]]):
    """The images of an experience: item ``i`` is its number, from which :class:`View` makes the image, and its class.

    A checkpoint refers to this object by number: neither its images nor the foreign dataset are written into it.

    :param sources: foreign datasets for training and for evaluation, and the places in them.
    :param own_classes: the class of each image as the benchmark numbers it.
    :param targets: the same in order of appearance.
    """

    def __init__(
        self,
        sources: tuple[Any, Any],
        places: Sequence[int],
        own_classes: Sequence[int],
        targets: Sequence[int],
    ) -> None:
        self.sources, self.places = sources, list(places)
        self.own_classes, self.targets = list(own_classes), list(targets)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> tuple[int, int]:
        return i, self.targets[i]

    def read(self, i: int, group: str) -> tuple[Any, Any]:
        """Image and class as the foreign dataset gives them, transformed for training ("train") or evaluation."""
        item = self.sources[group == "eval"][self.places[i]]
        return item[0], item[1]


@dataclass(frozen=True)
class View:
    """Avalanche's transform of a number into the image."""

    items: Items
    group: str

    def __call__(self, i: int) -> Any:
        return self.items.read(i, self.group)[0]


def serve(benchmark: Any, name: str) -> Served:
    """What a benchmark serves. Looks at one image; for all, see :attr:`Served.sha256`.

    A test stream of another length is divided by class: each experience is tested on the classes that it brought.

    :param name: of the benchmark, for messages.
    :raises ValueError: it is no benchmark for classification, or its test images do not fit its experiences.
    """
    if not is_benchmark(benchmark):
        raise ValueError(f"{name} returns {type(benchmark).__name__}, without train_stream and test_stream: {REMEDY}")
    streams = {part: list(getattr(benchmark, f"{part}_stream")) for part in ("train", "test")}
    labels: dict[str, list[list[int]]] = {"train": [], "test": []}
    for part, experiences in streams.items():
        if not experiences:
            raise ValueError(f"the {part}_stream of {name} has no experience: {REMEDY}")
        for t, experience in enumerate(experiences):
            where = f"the {part} experience {t} of {name}"
            dataset = getattr(experience, "dataset", None)
            if dataset is None or not hasattr(dataset, "__len__"):
                raise ValueError(f"{where} has no dataset with a length: {REMEDY}")
            if not len(dataset):
                raise ValueError(f"{where} has no images: leave it out")
            labels[part].append(_classes_of(dataset, where))
    classes = list(dict.fromkeys(c for of_experience in labels["train"] for c in sorted(set(of_experience))))
    number = {c: i for i, c in enumerate(classes)}
    if strange := sorted({c for of_experience in labels["test"] for c in of_experience} - number.keys()):
        raise ValueError(
            f"the test_stream of {name} has classes that are never trained on: {_some(strange)}: leave them out"
        )
    if len(classes) < 2:
        raise ValueError(f"{name} has one class, {classes[0]}: there is nothing to tell apart")
    first: dict[int, int] = {}
    for t, of_experience in enumerate(labels["train"]):
        for c in of_experience:
            first.setdefault(c, t)
    sizes = [sum(when == t for when in first.values()) for t in range(len(streams["train"]))]

    items = {
        part: [
            Items(_modes(e.dataset), range(len(own)), own, [number[c] for c in own])
            for e, own in zip(experiences, labels[part], strict=True)
        ]
        for part, experiences in streams.items()
    }
    if len(items["test"]) != len(items["train"]):
        items["test"] = _by_class(_together(items["test"]), first, labels["train"], len(items["test"]), name)
    image, _ = items["train"][0].read(0, "eval")
    _require_image(f"item 0 of the train experience 0 of {name}", image)
    return Served(name, tuple(classes), tuple(sizes), tuple(items["train"]), tuple(items["test"]), tuple(image.shape))


def is_benchmark(thing: Any) -> bool:
    return hasattr(thing, "train_stream") and hasattr(thing, "test_stream")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The generators of torch, NumPy and Python begin at ``seed`` in the block, and go on after it as if nothing had
    been drawn.
    """
    states = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(states[0])
            random.setstate(states[1])


def class_of(label: Any, where: str) -> int:
    """A class id.

    :raises ValueError: it is none: says of what kind of benchmark it is.
    """
    if isinstance(label, Tensor | np.ndarray) and label.ndim == 0:
        label = label.item()
    if isinstance(label, int | np.integer) and not isinstance(label, bool):
        if label < 0:
            raise ValueError(f"{where} has class {label}: number classes from 0")
        return int(label)
    kind = (
        "detection or segmentation"
        if isinstance(label, dict)
        else "regression"
        if isinstance(label, float | np.floating)
        else "several labels"
        if isinstance(label, Tensor | np.ndarray | list | tuple)
        else f"{type(label).__name__} labels"
    )
    raise ValueError(f"{where} has no class but {_short(label)}: runs are of classification, not of {kind}; {REMEDY}")


def _classes_of(dataset: Any, where: str) -> list[int]:
    """The class of each image, from the dataset's targets or, without them, from the images."""
    given = getattr(dataset, "targets", None)
    labels: Any = given if given is not None else (dataset[i][1] for i in range(len(dataset)))
    with seeded(0):
        found = [class_of(label, f"item {i} of {where}") for i, label in enumerate(labels)]
    if len(found) != len(dataset):
        raise ValueError(f"{where} has {len(dataset):,} images, but {len(found):,} targets: let them agree")
    return found


def _modes(dataset: Any) -> tuple[Any, Any]:
    """The dataset as it is trained on, and as it is evaluated on."""
    modes: list[Callable[[], Any]] = [getattr(dataset, mode, lambda: dataset) for mode in ("train", "eval")]
    return tuple(mode() if callable(mode) else dataset for mode in modes)  # type: ignore[return-value]


def _together(parts: Sequence[Items]) -> Items:
    """Several experiences as one."""
    train, evaluation = (ConcatDataset[Any]([_At(items, mode) for items in parts]) for mode in ("train", "eval"))
    own = [c for items in parts for c in items.own_classes]
    return Items((train, evaluation), range(len(own)), own, [c for items in parts for c in items.targets])


class _At(Dataset[tuple[Any, Any]]):
    def __init__(self, items: Items, group: str) -> None:
        self.items, self.group = items, group

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        return self.items.read(i, self.group)


def _by_class(
    test: Items, first: dict[int, int], trained: Sequence[Sequence[int]], found: int, name: str
) -> list[Items]:
    """The test images of the classes that each experience brought."""
    n = len(trained)
    what = f"{name} has {n} training experiences and {found} for testing"
    if again := sorted({c for t, of_experience in enumerate(trained) for c in of_experience if first[c] != t}):
        raise ValueError(
            f"{what}, and its classes occur in several (class {again[0]}): give one test experience for each training "
            f"experience"
        )
    places: list[list[int]] = [[] for _ in range(n)]
    for i, c in enumerate(test.own_classes):
        places[first[c]].append(i)
    if empty := [t for t, of_experience in enumerate(places) if not of_experience]:
        raise ValueError(f"{what}, and none tests the classes of experience {empty[0]}: add their test images")
    return [
        Items(
            test.sources,
            [test.places[i] for i in of_experience],
            [test.own_classes[i] for i in of_experience],
            [test.targets[i] for i in of_experience],
        )
        for of_experience in places
    ]


def _require_image(where: str, image: Any, shape: tuple[int, ...] | None = None) -> None:
    if not isinstance(image, Tensor):
        raise ValueError(
            f"{where} is a {type(image).__name__}, not a tensor: give the benchmark train_transform and "
            f"eval_transform that end in ToTensor()"
        )
    if image.ndim != 3 or not image.is_floating_point():
        raise ValueError(
            f"{where} is a tensor of shape {tuple(image.shape)} and {image.dtype}, not an image of (channels, height, "
            f"width) in floating point: give the benchmark transforms that make such images"
        )
    if shape is not None and tuple(image.shape) != shape:
        raise ValueError(
            f"{where} has shape {tuple(image.shape)}, others have {shape}: give the benchmark transforms that make "
            f"images of one size"
        )
    if not torch.isfinite(image).all():
        raise ValueError(f"{where} holds NaN or infinite values: leave it out, or mend the transforms")


def _some(values: Sequence[int]) -> str:
    return ", ".join(map(str, values[:5])) + f" and {len(values) - 5} more" * (len(values) > 5)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."
