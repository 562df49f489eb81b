"""Images and their labels: lists of files or pixels, torch datasets made from them, and the validation split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FOLDS, FOLD_SEED = 10, 1  # OLOR


@dataclass(frozen=True)
class ImageList:
    """Images and their labels, in a fixed order.

    :ivar folder: folder of the data set.
    :ivar images: paths relative to ``folder`` with forward slashes, or all pixels, (n, height, width, 3) uint8.
    :ivar labels: n class ids, starting at 0.
    """

    folder: Path
    images: tuple[str, ...] | np.ndarray
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, i: int) -> Path | None:
        """Path of image ``i``; ``None`` if the images are pixels."""
        return None if isinstance(self.images, np.ndarray) else self.folder / self.images[i]

    def load(self, i: int) -> Image.Image:
        """Image ``i`` in RGB.

        :raises ValueError: it cannot be decoded; names the file.
        """
        if isinstance(self.images, np.ndarray):
            return Image.fromarray(self.images[i])
        path = self.folder / self.images[i]
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except Exception as error:  # Pillow's decoders raise a dozen kinds of errors for damaged files
            raise ValueError(f"{path} cannot be decoded as an image ({error}): replace it with a fresh copy") from error

    def take(self, indices: Iterable[int]) -> ImageList:
        """The images at ``indices``, in the given order."""
        chosen = list(indices)
        images = self.images[chosen] if isinstance(self.images, np.ndarray) else tuple(self.images[i] for i in chosen)
        return ImageList(self.folder, images, tuple(self.labels[i] for i in chosen))

    def names(self) -> list[str]:
        """An identifier of each image: its path, or the SHA-256 of its pixels."""
        if isinstance(self.images, np.ndarray):
            return [hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in self.images]
        return list(self.images)


@dataclass(frozen=True)
class ImageData:
    """A data set.

    :ivar names: of the classes; a label is an index into it.
    :ivar validation: the official validation part, if there is one.
    :ivar remarks: how the split differs, or may differ, from the papers'.
    """

    name: str
    names: tuple[str, ...]
    train: ImageList
    test: ImageList
    validation: ImageList | None = None
    remarks: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, ImageList]:
        parts = {"train": self.train, "test": self.test, "validation": self.validation}
        return {name: part for name, part in parts.items() if part is not None}

    @cached_property
    def sha256(self) -> str:
        """SHA-256, in hex, of the sorted index (part, label, path or hash of the pixels) and the class names."""
        lines = [f"class\t{label}\t{name}" for label, name in enumerate(self.names)]
        for part, images in self.parts.items():
            lines += [f"{part}\t{label}\t{name}" for label, name in zip(images.labels, images.names(), strict=True)]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


class ImageDataset(Dataset[tuple[Any, int]]):
    """An :class:`ImageList` as a torch dataset of (PIL image, label),
    with the ``targets`` that Avalanche uses for splitting.
    """

    def __init__(self, images: ImageList) -> None:
        self.images = images
        self.targets = list(images.labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return self.images.load(i), self.images.labels[i]


Selection = tuple[str, Sequence[int]]
"""Name of a part of a data set, and indices into it."""


def hold_out(data: ImageData) -> tuple[Selection, Selection]:
    """The training images without a validation part, and that part.

    It is the official validation part if there is one: F16 (docs/fidelity.md). Otherwise it is the first of OLOR's ten
    stratified folds (shuffled, random state 1). OLOR splits lists in the order in which the file system returned the
    files, so its folds have the same size but other images.
    """
    if data.validation is not None:
        return ("train", range(len(data.train))), ("validation", range(len(data.validation)))
    from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=FOLD_SEED).split(
        np.zeros(len(data.train)), data.train.labels
    )
    kept, held = next(folds)
    return ("train", kept.tolist()), ("train", held.tolist())


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
