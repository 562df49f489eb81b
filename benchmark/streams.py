"""Streams by name: Avalanche benchmarks whose experiences bring the classes one group after another."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from .config import QUICKDRAW_VIT
from .datasets import Part, downstream, shared_classes

EMBEDDED = "embedded"


@dataclass(frozen=True)
class Stream:
    """What a stream's name stands for.

    :ivar sizes: number of classes in each experience.
    :ivar tier: ``"embedded"``: real drawings that ship with the package.
    """

    name: str
    sizes: tuple[int, ...]
    description: str
    tier: str = EMBEDDED

    @property
    def n_classes(self) -> int:
        return sum(self.sizes)

    def joined(self) -> Stream:
        """The same classes in one experience: what joint training sees."""
        return replace(self, sizes=(self.n_classes,))


def _embedded(name: str, sizes: Sequence[int]) -> Stream:
    even = len(set(sizes)) == 1
    shape = f"{len(sizes)} x {sizes[0]}" if even else " + ".join(map(str, sizes))
    return Stream(name, tuple(sizes), f"100 downstream classes of Quick, Draw!, {shape}; 80 training and 20 test drawings a class")


STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        _embedded("split-quickdraw-5", [20] * 5),
        _embedded("split-quickdraw-10", [10] * 10),
        _embedded("split-quickdraw-20", [5] * 20),
        _embedded("split-quickdraw-uneven", [10] * 9 + [6, 4]),
        _embedded("quickdraw-1", [100]),
    )
}


def find_stream(name: str) -> Stream:
    """The stream of that name.

    :raises ValueError: there is none; the message names similar ones.
    """
    if name not in STREAMS:
        similar = difflib.get_close_matches(name, STREAMS, n=3, cutoff=0.3) or list(STREAMS)
        raise ValueError(f"unknown stream {name!r}: did you mean {', '.join(similar)}? (`reclaim list streams` shows all)")
    return STREAMS[name]


def pretraining_overlap(stream: Stream, backbone: str) -> str:
    """How many of the stream's classes the backbone was pretrained on: a number, or "unknown"."""
    return str(shared_classes()) if stream.tier == EMBEDDED and backbone == QUICKDRAW_VIT else "unknown"


def class_order(n_classes: int, seed: int) -> list[int]:
    """SLCA's class order: ``numpy.random.seed(seed); numpy.random.permutation(n_classes)``."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), got {seed}")
    return [int(c) for c in np.random.RandomState(seed).permutation(n_classes)]


def make_benchmark(stream: Stream, order: Sequence[int], part: Part = "test") -> Any:
    """An Avalanche benchmark of a stream; labels are renumbered in the order of appearance.

    :param order: the dataset's class ids in their order of appearance.
    :param part: what ``test_stream`` holds: the test drawings, or the validation part of the training drawings.
    """
    if sorted(order) != list(range(stream.n_classes)):
        raise ValueError(f"the class order of {stream.name} must be a permutation of 0..{stream.n_classes - 1}, got {list(order)}")
    from avalanche.benchmarks import nc_benchmark  # seconds that naming streams should not cost

    data = downstream(part)
    train, test = (_tensor_dataset(images) for images in (data.train, data.test))
    return nc_benchmark(
        train,
        test,
        n_experiences=len(stream.sizes),
        task_labels=False,
        fixed_class_order=list(order),
        per_exp_classes=dict(enumerate(stream.sizes)),
        class_ids_from_zero_from_first_exp=True,
    )


def _tensor_dataset(images: torch.Tensor) -> TensorDataset:
    """Images (classes, n, ...) as a dataset of (image, class id), with the ``targets`` that Avalanche splits by."""
    labels = torch.arange(len(images)).repeat_interleave(images.shape[1])
    dataset = TensorDataset(images.flatten(0, 1), labels)
    dataset.targets = labels.tolist()  # type: ignore[attr-defined]
    return dataset
