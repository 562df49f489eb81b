"""Decoded images in one file, memory-mapped: decoding costs more than all transforms together, and is done once.

:class:`CachedImages` is the dataset made of it, whose batches are transformed as a whole, on the device.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from .image_folders import ImageData, ImageList

PIXELS, INDEX = "pixels.u8", "index.npz"


@dataclass(frozen=True)
class ImageCache:
    """The decoded images of one part of a data set, in the order of its :class:`~reclaim.benchmark.image_folders.ImageList`.

    :ivar sizes: (n, 2) height and width.
    :ivar labels: (n,) class ids.
    """

    pixels: np.memmap
    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> np.ndarray:
        """Image ``i``, (height, width, 3) uint8: a view, nothing is read before it is used."""
        height, width = self.sizes[i]
        start = self.offsets[i]
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def batch(self, indices: Sequence[int]) -> list[np.ndarray]:
        """What :meth:`~reclaim.benchmark.transforms.ImageTransform.on_batch` takes."""
        return [self[i] for i in indices]


class BatchTransform(Protocol):
    """What :mod:`reclaim.benchmark.transforms` has: a transform of one PIL image, and the same of whole batches."""

    def reference(self) -> Callable[[Any], Tensor]: ...

    def on_batch(self, images: Sequence[np.ndarray], device: str | torch.device = "cpu") -> Tensor: ...


@dataclass(frozen=True)
class Pending:
    """An image whose transform waits until its batch is together."""

    pixels: np.ndarray
    transform: BatchTransform


@dataclass(frozen=True)
class Postponed:
    """Avalanche's transform of one image, for :class:`CachedImages`: keeps in mind which one it is."""

    transform: BatchTransform

    def __call__(self, pixels: np.ndarray) -> Pending:
        return Pending(pixels, self.transform)


class CachedImages(Dataset[tuple[Any, int]]):
    """Images of a cache as a torch dataset, with the ``targets`` that Avalanche splits by and the ``collate_fn`` that it loads with.

    :param places: of the images in the cache.
    :param device: where batches are transformed; load them in the process that trains.
    """

    def __init__(self, cache: ImageCache, places: Sequence[int], device: str | torch.device = "cpu") -> None:
        self.cache, self.places, self.device = cache, list(places), device
        self.targets = [int(cache.labels[place]) for place in self.places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.cache[self.places[i]], self.targets[i]

    def collate_fn(self, samples: Sequence[tuple[Any, ...]]) -> list[Tensor]:
        """Samples (:class:`Pending`, label, ...) to one batch."""
        pending = [sample[0] for sample in samples]
        images = pending[0].transform.on_batch([image.pixels for image in pending], self.device)
        return [images, *default_collate([sample[1:] for sample in samples])]


def open_cache(data: ImageData, part: str, folder: Path | str) -> ImageCache:
    """The cache of ``data.parts[part]`` in ``folder``.

    :raises ValueError: there is none, it is unfinished, or it is of other images.
    """
    target = Path(folder) / data.name / part
    remedy = f"make it with `reclaim data cache {data.name}`"
    if not (target / INDEX).is_file():
        raise ValueError(f"{target} holds no finished cache: {remedy}")
    with np.load(target / INDEX) as index:
        sha256, sizes, labels = str(index["sha256"]), index["sizes"], index["labels"]
    if sha256 != data.sha256:
        raise ValueError(f"{target} is the cache of other images, or of another split: move it away and {remedy}")
    offsets = _offsets(sizes)
    if (target / PIXELS).stat().st_size != offsets[-1]:
        raise ValueError(f"{target / PIXELS} is not as long as its index says: move {target} away and {remedy}")
    return ImageCache(np.memmap(target / PIXELS, np.uint8, "r"), offsets[:-1], sizes, labels)


def make_cache(data: ImageData, folder: Path | str, progress: Callable[[int], object] | None = None) -> list[Path]:
    """Decode every image of every part into ``folder``; parts that are there already are kept.

    :param progress: called with 1 after each image.
    :return: the folder of each part.
    :raises ValueError: an image cannot be decoded, the disk is too small (3 bytes a pixel), or a cache of other images is in the way.
    """
    targets = []
    for name, part in data.parts.items():
        target = Path(folder) / data.name / name
        targets.append(target)
        if (target / INDEX).exists():
            open_cache(data, name, folder)
        else:
            _decode(part, target, data.sha256, progress)
    return targets


def _decode(part: ImageList, target: Path, sha256: str, progress: Callable[[int], object] | None) -> None:
    target.mkdir(parents=True, exist_ok=True)
    sizes = np.array([_size(part, i) for i in range(len(part))], np.int64).reshape(-1, 2)
    offsets = _offsets(sizes)
    free = shutil.disk_usage(target).free
    if offsets[-1] > free:
        raise ValueError(f"{target} needs {offsets[-1] / 2**30:.1f} GiB, and {free / 2**30:.1f} are free: give a folder on another disk")
    pixels = np.memmap(target / PIXELS, np.uint8, "w+", shape=(int(offsets[-1]),))
    for i in range(len(part)):
        pixels[offsets[i] : offsets[i + 1]] = np.asarray(part.load(i)).reshape(-1)
        if progress:
            progress(1)
    pixels.flush()
    unfinished = target / f"unfinished-{INDEX}"
    np.savez(unfinished, sha256=sha256, sizes=sizes, labels=np.array(part.labels))
    os.replace(unfinished, target / INDEX)  # the index comes last: without it the cache counts as unfinished


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(3 * sizes.prod(1))])


def _size(part: ImageList, i: int) -> tuple[int, int]:
    """Height and width of image ``i``, without decoding it."""
    path = part.path(i)
    if path is None:
        image = part.images[i]
        return image.shape[0], image.shape[1]  # type: ignore[union-attr]
    try:
        with Image.open(path) as header:
            return header.height, header.width
    except Exception as error:  # as in ImageList.load
        raise ValueError(f"{path} is no image that can be decoded ({error}): put a fresh copy there") from error
