"""Streams by name: Avalanche benchmarks whose experiences bring the classes one group after another."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from .catalogue import find_dataset
from .config import QUICKDRAW_VIT
from .datasets import Part, downstream, shared_classes
from .image_cache import BatchTransform, CachedImages, Postponed, open_cache
from .image_folders import ImageData, ImageDataset, Selection, hold_out

EMBEDDED = "embedded"
PAPER = "paper"


@dataclass(frozen=True)
class Stream:
    """What a stream's name stands for.

    :ivar sizes: number of classes in each experience.
    :ivar tier: ``"embedded"``: real drawings that ship with the package. ``"paper"``: a data set of the papers, which the user brings.
    :ivar dataset: of the paper tier: its name in the catalogue.
    """

    name: str
    sizes: tuple[int, ...]
    description: str
    tier: str = EMBEDDED
    dataset: str = ""

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


def _paper(dataset: str, sizes: Sequence[int], name: str | None = None, remark: str = "") -> Stream:
    entry = find_dataset(dataset)
    name = name or (f"split-{dataset}-{len(sizes)}" if len(sizes) > 1 else f"{dataset}-1")
    return Stream(name, tuple(sizes), f"{entry.classes} classes of {entry.title}, {_shape(sizes)}{remark}", PAPER, dataset)


def _shape(sizes: Sequence[int]) -> str:
    counts = [(sizes.count(size), size) for size in dict.fromkeys(sizes)]
    return " + ".join(f"{n} x {size}" if n > 1 else str(size) for n, size in counts)


# those of the papers' tables, and CIFAR and OLOR's data sets as one experience
PAPER_STREAMS: dict[str, Stream] = {
    stream.name: stream
    for stream in (
        _paper("cifar100", [10] * 10),
        _paper("cifar100", [5] * 20),
        _paper("cifar100", [100]),
        _paper("cifar10", [2] * 5),
        _paper("cifar10", [10]),
        _paper("imagenet-r", [40] * 5),
        _paper("imagenet-r", [20] * 10),
        _paper("imagenet-r", [10] * 20),
        _paper("cub200", [20] * 10),
        _paper("cub200", [200]),
        _paper("cars196", [20] * 9 + [16]),
        _paper("cars196", [196]),
        _paper("food101", [10] * 9 + [11], remark="; the paper does not say how 101 classes make 10 experiences: our reading"),
        _paper("clrs25", [5] * 5, "clrs25-5"),
        _paper("svhn", [10]),
        _paper("places-lt", [365]),
        _paper("ip102", [102]),
        _paper("officehome", [65]),
        _paper("pacs", [7]),
    )
}


def find_stream(name: str) -> Stream:
    """The stream of that name, of either tier.

    :raises ValueError: there is none; the message names similar ones.
    """
    streams = STREAMS | PAPER_STREAMS
    if name not in streams:
        similar = difflib.get_close_matches(name, streams, n=3, cutoff=0.3) or list(streams)
        raise ValueError(f"unknown stream {name!r}: did you mean {', '.join(similar)}? (`reclaim list streams` shows all)")
    return streams[name]


def pretraining_overlap(stream: Stream, backbone: str) -> str:
    """How many of the stream's classes the backbone was pretrained on: a number, or "unknown"."""
    return str(shared_classes()) if stream.tier == EMBEDDED and backbone == QUICKDRAW_VIT else "unknown"


def class_order(n_classes: int, seed: int | None) -> list[int]:
    """SLCA's class order: ``numpy.random.seed(seed); numpy.random.permutation(n_classes)``; without a seed LAE's, which is sequential."""
    if seed is None:
        return list(range(n_classes))
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), got {seed}")
    return [int(c) for c in np.random.RandomState(seed).permutation(n_classes)]


def make_benchmark(stream: Stream, order: Sequence[int], part: Part = "test") -> Any:
    """An Avalanche benchmark of a stream of the embedded tier; labels are renumbered in the order of appearance.

    :param order: the dataset's class ids in their order of appearance.
    :param part: what ``test_stream`` holds: the test drawings, or the validation part of the training drawings.
    """
    if stream.tier != EMBEDDED:
        raise ValueError(f"the images of {stream.name} do not ship with the package: use read_images() and make_image_benchmark()")
    _check_order(stream, order)
    data = downstream(part)
    return _class_incremental(stream, order, _tensor_dataset(data.train), _tensor_dataset(data.test))


def make_image_benchmark(
    stream: Stream,
    order: Sequence[int],
    data: ImageData,
    transforms: tuple[BatchTransform, BatchTransform],
    part: Part = "test",
    hold_out_validation: bool = False,
    cache: Path | None = None,
    device: str = "cpu",
) -> Any:
    """An Avalanche benchmark of a stream of the paper tier; labels are renumbered in the order of appearance.

    ``experience.dataset.eval()`` gives the training images under the test transform, as SLCA's alignment wants them.

    :param data: from :func:`~reclaim.benchmark.image_folders.read_images`.
    :param transforms: for training and for testing, from :func:`~reclaim.benchmark.transforms.protocol`.
    :param part: ``"validation"``: ``test_stream`` holds the validation part, which is then not trained on; see
        :func:`~reclaim.benchmark.image_folders.hold_out`.
    :param hold_out_validation: do not train on the validation part when testing, either, as OLOR.
    :param cache: folder of decoded images (`reclaim data cache`); on an accelerator they are transformed there, as whole batches.
    """
    _check_order(stream, order)
    if data.name != stream.dataset or len(data.names) != stream.n_classes:
        raise ValueError(f"{stream.name} needs the {stream.n_classes} classes of {stream.dataset}, got {len(data.names)} of {data.name}")
    if part not in ("test", "validation"):
        raise ValueError(f"part must be 'test' or 'validation', got {part!r}")
    train: Selection = ("train", range(len(data.train)))
    test: Selection = ("test", range(len(data.test)))
    if part == "validation":
        train, test = hold_out(data)
    elif hold_out_validation:
        train, _ = hold_out(data)
    datasets: list[Any]
    calls: list[Callable[[Any], Any]]
    if cache is None:
        datasets = [ImageDataset(data.parts[name].take(places)) for name, places in (train, test)]
        calls = [transform.reference() for transform in transforms]
    else:
        datasets = [CachedImages(open_cache(data, name, cache), places, device) for name, places in (train, test)]
        calls = [Postponed(transform) for transform in transforms]
    return _class_incremental(stream, order, *datasets, train_transform=calls[0], eval_transform=calls[1])


def _check_order(stream: Stream, order: Sequence[int]) -> None:
    if sorted(order) != list(range(stream.n_classes)):
        raise ValueError(f"the class order of {stream.name} must be a permutation of 0..{stream.n_classes - 1}, got {list(order)}")


def _class_incremental(stream: Stream, order: Sequence[int], train: Any, test: Any, **transforms: Any) -> Any:
    from avalanche.benchmarks import nc_benchmark  # seconds that naming streams should not cost

    return nc_benchmark(
        train,
        test,
        n_experiences=len(stream.sizes),
        task_labels=False,
        fixed_class_order=list(order),
        per_exp_classes=dict(enumerate(stream.sizes)),
        class_ids_from_zero_from_first_exp=True,
        **transforms,
    )


def _tensor_dataset(images: torch.Tensor) -> TensorDataset:
    """Images (classes, n, ...) as a dataset of (image, class id), with the ``targets`` that Avalanche splits by."""
    labels = torch.arange(len(images)).repeat_interleave(images.shape[1])
    dataset = TensorDataset(images.flatten(0, 1), labels)
    dataset.targets = labels.tolist()  # type: ignore[attr-defined]
    return dataset
