"""Decoded images in one memory-mapped file: images are decoded once, and transformed on the training device, which
keeps small images of one size.

:class:`CachedImages` is a dataset of such images.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from ..files import replacing
from .images import ImageData, ImageList

PIXELS, INDEX = "pixels.u8", "index.npz"
RESIDENT = 2 * 2**30
"""Bytes of images of one size that are kept on an accelerator. CIFAR's training images take 154 MB."""


@dataclass(frozen=True)
class ImageCache:
    """The decoded images of one part of a data set, in the order of its
    :class:`~reclaim.benchmark.data.images.ImageList`.

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
        """Image ``i``, (height, width, 3) uint8: a view, so nothing is read from disk until it is used."""
        height, width = self.sizes[i]
        start = self.offsets[i]
        return self.pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        # when pickled for another process, map the file again instead of copying its bytes
        return _mapped, (self.pixels.filename, self.offsets, self.sizes, self.labels)

    def resident(self, device: torch.device) -> Tensor | None:
        """All images on a device, (n, height, width, 3) uint8. None if their sizes differ, or they take more than
        :data:`RESIDENT` bytes.
        """
        if not len(self) or self.pixels.size > RESIDENT or (self.sizes != self.sizes[0]).any():
            return None
        return torch.tensor(self.pixels.reshape(len(self), *self.sizes[0], 3), device=device)

    def batch(self, indices: Sequence[int]) -> list[np.ndarray]:
        """Images in the form that :meth:`~reclaim.benchmark.data.transforms.ImageTransform.on_batch` takes."""
        return [self[i] for i in indices]


class BatchTransform(Protocol):
    """Interface of the transforms in :mod:`reclaim.benchmark.data.transforms`:
    one for a PIL image, and the same for whole batches.

    :ivar size: pixels of a side of what they make.
    """

    @property
    def size(self) -> int: ...

    def reference(self) -> Callable[[Any], Tensor]: ...

    def on_batch(self, images: Sequence[np.ndarray] | Tensor, device: str | torch.device = "cpu") -> Tensor: ...


@dataclass(frozen=True)
class Pending:
    """An image that is transformed later, together with its batch.

    :ivar pixels: (height, width, 3) uint8, or its place among those that are on the device.
    """

    pixels: np.ndarray | int
    transform: BatchTransform


@dataclass(frozen=True)
class Postponed:
    """Avalanche's transform of one image, for :class:`CachedImages`: only records which transform to apply."""

    transform: BatchTransform

    def __call__(self, pixels: np.ndarray | int) -> Pending:
        return Pending(pixels, self.transform)


class CachedImages(Dataset[tuple[Any, int]]):
    """Cached images as a torch dataset, with the ``targets`` that Avalanche uses for splitting and its ``collate_fn``.

    Your own data loader needs that ``collate_fn``, too: a sample contains a :class:`Pending` image.

    :param places: indices of the images in the cache.
    :param device: where batches are made. If it is not the CPU, only the training process can make them.
    :param whole: transform whole batches with ``on_batch``. This is the default on an accelerator, which keeps images
        of one size in its memory if they fit (:data:`RESIDENT`). On the CPU Pillow is faster image by image, and gives
        exactly the pixels of images read from their files.
    """

    def __init__(
        self, cache: ImageCache, places: Sequence[int], device: str | torch.device = "cpu", whole: bool | None = None
    ) -> None:
        self.cache, self.places, self.device = cache, list(places), torch.device(device)
        self.whole = self.device.type != "cpu" if whole is None else whole
        self.resident = cache.resident(self.device) if self.whole else None
        self.targets = [int(cache.labels[place]) for place in self.places]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> tuple[np.ndarray | int, int]:
        place = self.places[i]
        return place if self.resident is not None else self.cache[place], self.targets[i]

    def collate_fn(self, samples: Sequence[tuple[Any, ...]]) -> list[Tensor]:
        """Collate samples (:class:`Pending`, label, ...) into one batch.

        :raises ValueError: the images have different transforms, or a worker process would need a device that it cannot
            use.
        """
        if self.device.type != "cpu" and get_worker_info() is not None:
            raise ValueError(
                f"decoded images are transformed on {self.device}, which worker processes cannot use: set workers to 0"
            )
        pixels = [sample[0].pixels for sample in samples]
        transform = samples[0][0].transform
        if any(sample[0].transform != transform for sample in samples):
            raise ValueError(
                "this batch of decoded images mixes training and test transforms: "
                "all its images need the same transform"
            )
        if self.resident is not None:
            chosen = torch.tensor(pixels).to(self.device, non_blocking=True)
            images = transform.on_batch(self.resident[chosen], self.device)
        elif self.whole:
            images = transform.on_batch(pixels, self.device)
        else:
            of_one = transform.reference()
            images = torch.stack([of_one(Image.fromarray(image)) for image in pixels]).to(self.device)
        return [images, *default_collate([sample[1:] for sample in samples])]


def open_cache(data: ImageData, part: str, folder: Path | str) -> ImageCache:
    """The cache of ``data.parts[part]`` in ``folder``.

    :raises ValueError: there is no cache, it is unfinished or damaged, or it was made from other images.
    """
    target = Path(folder) / data.name / part
    remedy = f"make it with `reclaim data cache {data.name}`"
    if not (target / INDEX).is_file():
        raise ValueError(f"{target} has no finished cache: {remedy}")
    try:
        with np.load(target / INDEX) as index:
            sha256, sizes, labels = str(index["sha256"]), index["sizes"], index["labels"]
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, BadZipFile) as error:
        raise ValueError(f"{target / INDEX} cannot be read ({error}): move {target} away and {remedy}") from None
    if sha256 != data.sha256:
        raise ValueError(f"{target} is a cache of other images, or of another split: move it away and {remedy}")
    offsets = _offsets(sizes)
    if (target / PIXELS).stat().st_size != offsets[-1]:
        raise ValueError(f"the length of {target / PIXELS} does not match its index: move {target} away and {remedy}")
    return _mapped(target / PIXELS, offsets[:-1], sizes, labels)


def _mapped(path: Path, offsets: np.ndarray, sizes: np.ndarray, labels: np.ndarray) -> ImageCache:
    return ImageCache(np.memmap(path, np.uint8, "r"), offsets, sizes, labels)


def make_cache(data: ImageData, folder: Path | str, progress: Callable[[int], object] | None = None) -> list[Path]:
    """Decode every image of every part into ``folder``. Existing parts are kept.

    :param progress: called with 1 after each image.
    :return: the folder of each part.
    :raises ValueError: an image cannot be decoded, the disk is too small (3 bytes per pixel), or a cache of other
        images exists.
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
        raise ValueError(
            f"{target} needs {offsets[-1] / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free: "
            f"choose a folder on another disk"
        )
    # under a name of its own until it is whole: another process may be decoding, too
    with replacing(target / PIXELS) as file:
        for i in range(len(part)):
            file.write(np.asarray(part.load(i)).tobytes())
            if progress:
                progress(1)
    with replacing(target / INDEX) as file:  # the index is written last: a cache without it counts as unfinished
        np.savez(file, sha256=sha256, sizes=sizes, labels=np.array(part.labels))


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
        raise ValueError(f"{path} cannot be decoded as an image ({error}): replace it with a fresh copy") from error
