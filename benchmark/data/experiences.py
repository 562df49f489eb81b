"""Streams with their images: Avalanche benchmarks whose experiences introduce groups of classes one after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ..config import Part
from .cache import BatchTransform, CachedImages, Postponed, open_cache
from .drawings import downstream
from .images import ImageData, ImageDataset, Selection, first_of_each_class, hold_out
from .streams import EMBEDDED, Stream


def make_benchmark(stream: Stream, order: Sequence[int], part: Part = "test") -> Any:
    """An Avalanche benchmark of a stream of the embedded tier. Labels are renumbered in order of appearance.

    :param order: the data set's class ids in order of appearance.
    :param part: content of ``test_stream``: the test drawings, or the validation part of the training drawings.
    """
    if stream.tier != EMBEDDED:
        raise ValueError(
            f"the images of {stream.name} do not ship with the package: use read_images() and make_image_benchmark()"
        )
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
    per_class: tuple[int | None, int | None] = (None, None),
) -> Any:
    """An Avalanche benchmark of a stream of the paper tier. Labels are renumbered in order of appearance.

    ``experience.dataset.eval()`` gives the training images with the test transform, as SLCA's alignment needs them.

    :param data: from :func:`~reclaim.benchmark.data.verify.read_images`.
    :param transforms: for training and testing, from :func:`~reclaim.benchmark.data.transforms.transforms_of`.
    :param part: ``"validation"``: ``test_stream`` has the validation part, which is then excluded from training; see
        :func:`~reclaim.benchmark.data.images.hold_out`.
    :param hold_out_validation: exclude the validation part from training when testing, too, as OLOR does.
    :param cache: folder of decoded images (`reclaim data cache`). On an accelerator they are transformed there, as
        whole batches.
    :param per_class: training and test images of each class, see
        :func:`~reclaim.benchmark.data.images.first_of_each_class`; the validation part is a part of these training
        images. None: all.
    """
    _check_order(stream, order)
    if data.name != stream.dataset or len(data.names) != stream.n_classes:
        raise ValueError(
            f"{stream.name} needs the {stream.n_classes} classes of {stream.dataset}, "
            f"got {len(data.names)} of {data.name}"
        )
    if part not in ("test", "validation"):
        raise ValueError(f"part must be 'test' or 'validation', got {part!r}")
    kept = first_of_each_class(data, "train", per_class[0])
    train: Selection = ("train", range(len(kept)))
    test: Selection = ("test", first_of_each_class(data, "test", per_class[1]))
    if part == "validation" or hold_out_validation:
        train, held_out = hold_out(replace(data, train=data.train.take(kept)))
        test = held_out if part == "validation" else test
    train, test = ((name, [kept[i] for i in places] if name == "train" else places) for name, places in (train, test))
    datasets: list[Any]
    calls: list[Callable[[Any], Any]]
    if cache is None:
        datasets = [ImageDataset(data.parts[name].take(places)) for name, places in (train, test)]
        calls = [transform.reference() for transform in transforms]
    else:
        datasets = [CachedImages(open_cache(data, name, cache), places, device) for name, places in (train, test)]
        calls = [Postponed(transform) for transform in transforms]
    return _class_incremental(stream, order, *datasets, train_transform=calls[0], eval_transform=calls[1])


def of_tensors(
    sizes: Sequence[int], order: Sequence[int], train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> Any:
    """An Avalanche benchmark of what is in memory, inputs (n, ...) and labels (n,) for training and for testing.

    :param sizes: number of classes of each experience.
    :param order: the labels in order of appearance, by which they are renumbered.
    """
    return _class_incremental(Stream("", tuple(sizes), ""), order, _labelled(*train), _labelled(*test))


class Mixed:
    """The images of several test experiences in one shuffled order, as one experience.

    :ivar classes_of: the classes of each experience.
    :ivar part_of: for each image, the experience that it is of, and its ``place`` in there.
    :param experiences: with a ``dataset`` and ``classes_in_this_experience``.
    :param seed: of the order.
    """

    def __init__(self, experiences: Sequence[Any], seed: int | Sequence[int]) -> None:
        sizes = [len(experience.dataset) for experience in experiences]
        order = np.random.default_rng(seed).permutation(sum(sizes))
        first, *others = (experience.dataset for experience in experiences)
        for other in others:
            first = first.concat(other)
        self.dataset = first.subset(order.tolist())
        self.classes_of = [sorted(experience.classes_in_this_experience) for experience in experiences]
        self.classes_in_this_experience = sorted(c for classes in self.classes_of for c in classes)
        self.part_of = np.repeat(np.arange(len(sizes)), sizes)[order]
        self.place = np.concatenate([np.arange(size) for size in sizes])[order]

    def logging(self) -> Mixed:
        """As Avalanche's experiences have it, for metrics: what they may see. Here nothing is hidden."""
        return self


def _check_order(stream: Stream, order: Sequence[int]) -> None:
    if sorted(order) != list(range(stream.n_classes)):
        raise ValueError(
            f"the class order of {stream.name} must be a permutation of 0..{stream.n_classes - 1}, got {list(order)}"
        )


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


def _tensor_dataset(images: Tensor) -> TensorDataset:
    """Images (classes, n, ...) as a dataset of (image, class id)."""
    return _labelled(images.flatten(0, 1), torch.arange(len(images)).repeat_interleave(images.shape[1]))


def _labelled(inputs: Tensor, labels: Tensor) -> TensorDataset:
    """Inputs and labels as a dataset, with the ``targets`` that Avalanche uses for splitting."""
    dataset = TensorDataset(inputs, labels)
    dataset.targets = labels.tolist()  # type: ignore[attr-defined]
    return dataset
