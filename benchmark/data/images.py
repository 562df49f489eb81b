"""Images and their labels: lists of files or pixels, torch datasets made from them, and the validation split."""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import Dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FOLDS, FOLD_SEED = 10, 1  # OLOR

_OF_LAYOUTS = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validation", "images"}
    | {"car_ims", "cars_train", "cars_test"}
)
"""Folders of a layout, in any case, which are not part of an image's name."""
SYSTEM_FOLDERS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
"""What archives and file systems leave beside folders of images; hidden ones are left out, too."""


def is_of_system(folder: str) -> bool:
    """Whether a folder of this name is nobody's class."""
    return folder.startswith(".") or folder in SYSTEM_FOLDERS


_BLOCK = 4096  # bytes
_OF_16_BITS = ("PNG", "PPM")  # formats whose 16 bits some versions of Pillow hold in 32


@dataclass(frozen=True)
class ImageList:
    """Images and their labels, in a fixed order.

    :ivar folder: folder of the data set.
    :ivar images: paths relative to ``folder`` with forward slashes, or all pixels, (n, height, width, 3) uint8.
    :ivar labels: n class ids, starting at 0.
    :ivar sources: of pixels, where below ``folder`` each image is from, for messages; or none.
    """

    folder: Path
    images: tuple[str, ...] | np.ndarray
    labels: tuple[int, ...]
    sources: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, i: int) -> Path | None:
        """Path of image ``i``; ``None`` if the images are pixels."""
        return None if isinstance(self.images, np.ndarray) else self.folder / self.images[i]

    def load(self, i: int) -> Image.Image:
        """Image ``i`` in RGB.

        Of 16 bits a pixel the upper eight are taken. Transparency is dropped, the orientation of a photograph's EXIF
        data is not applied, and of several frames the first is taken, all as torchvision does.

        :raises ValueError: it cannot be decoded, or its brightness has no known range; names the file.
        """
        if isinstance(self.images, np.ndarray):
            return Image.fromarray(self.images[i])
        path = self.folder / self.images[i]
        try:
            with Image.open(path) as image:
                return _eight_bits(image).convert("RGB")
        except Exception as error:  # Pillow's decoders raise a dozen kinds of errors for damaged files
            raise ValueError(f"{path} cannot be decoded as an image ({error}): replace it with a fresh copy") from error

    def take(self, indices: Iterable[int]) -> ImageList:
        """The images at ``indices``, in the given order."""
        chosen = list(indices)
        images = self.images[chosen] if isinstance(self.images, np.ndarray) else tuple(self.images[i] for i in chosen)
        sources = tuple(self.sources[i] for i in chosen) if self.sources else ()
        return ImageList(self.folder, images, tuple(self.labels[i] for i in chosen), sources)

    @cached_property
    def contents(self) -> tuple[str, ...]:
        """What tells the content of each image: the SHA-256, in hex, of its pixels, or of its file's size and its first
        and last 4,096 bytes. Reads every file.

        :raises OSError: a file is missing.
        """
        if isinstance(self.images, np.ndarray):
            return tuple(hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest() for image in self.images)
        with ThreadPoolExecutor(8) as pool:  # a network drive answers several at a time
            return tuple(pool.map(_ends_of, (self.folder / image for image in self.images)))


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
        """The identity of the data set: SHA-256, in hex, of its classes and of the sorted (part, class, name, content)
        of its images.

        It does not depend on the layout (an image's name leaves out the folders of parts and classes) or on the order
        of lists. For the content see :attr:`ImageList.contents`. Reads every file.
        """
        classes = [unicodedata.normalize("NFC", name) for name in self.names]
        lines = [f"class\0{label}\0{name}" for label, name in enumerate(classes)]
        for part, images in self.parts.items():
            names = self.image_names(part)
            rows = zip(images.labels, names, images.contents, strict=True)
            lines += [f"image\0{part}\0{label}\0{name}\0{content}" for label, name, content in rows]
        return _digest(lines)

    @cached_property
    def split_sha256(self) -> str:
        """SHA-256, in hex, of the sorted (part, class, name) of its images: of the split alone. Reads no file."""
        return _digest(
            f"{part}\0{unicodedata.normalize('NFC', self.names[label])}\0{name}"
            for part, images in self.parts.items()
            for label, name in zip(images.labels, self.image_names(part), strict=True)
        )

    @cached_property
    def aliases(self) -> tuple[str, ...]:
        """The identities that earlier versions recorded for these images: the SHA-256 of the sorted index (part, label,
        path in this layout or pixels) and the class names.
        """
        lines = [f"class\t{label}\t{name}" for label, name in enumerate(self.names)]
        for part, images in self.parts.items():
            which = images.contents if isinstance(images.images, np.ndarray) else images.images
            lines += [f"{part}\t{label}\t{name}" for label, name in zip(images.labels, which, strict=True)]
        return (hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest(),)

    def image_names(self, part: str) -> list[str]:
        """Name of each image of a part within its class, the same in every layout; "" for pixels."""
        images = self.parts[part]
        if isinstance(images.images, np.ndarray):
            return [""] * len(images)
        return [_name_within(path, self.names[label]) for path, label in zip(images.images, images.labels, strict=True)]

    def in_order(self) -> ImageData:
        """The same images, each part ordered by class and name (pixels: by content): training does not depend on the
        layout, or on the order of lists.

        :raises ValueError: an image is listed twice, in one part or in two.
        """
        self._refuse_repeated()
        ordered: dict[str, Any] = {}
        for part, images in self.parts.items():
            pixels = isinstance(images.images, np.ndarray)
            names = images.contents if pixels else self.image_names(part)
            paths = names if pixels else images.images
            ordered[part] = images.take(
                sorted(range(len(images)), key=lambda i: (images.labels[i], names[i], paths[i]))
            )
        return replace(self, **ordered)

    def _refuse_repeated(self) -> None:
        parts_of: dict[str, list[str]] = {}
        for part, images in self.parts.items():
            if not isinstance(images.images, np.ndarray):
                for path in images.images:
                    parts_of.setdefault(path, []).append(part)
        repeated = {path: parts for path, parts in parts_of.items() if len(parts) > 1}
        if repeated:
            path, parts = min(repeated.items())
            where = " and ".join(f"{n} times in {part}" for part, n in Counter(parts).items())
            raise ValueError(
                f"{self.name}: {len(repeated):,} images are listed more than once, the first is "
                f"{self.train.folder / path}, {where}: list every image once, in one part"
            )


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image at eight bits a pixel. Pillow's conversion would cut all that is brighter than 255 off, which leaves of
    16 bits a white area.

    :raises ValueError: its pixels are floats, or integers of 32 bits.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in _OF_16_BITS):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel in Pillow's mode {image.mode}, whose range is not known: save it in 8 or 16")
    return image


def _ends_of(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        digest = hashlib.sha256(f"{size}\0".encode())
        for start in (0, max(_BLOCK, size - _BLOCK)):
            file.seek(start)
            digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _name_within(path: str, class_name: str) -> str:
    """The path of an image without the folders of its layout, its part and its class."""
    *folders, file = path.split("/")
    of_class = plain_name(class_name)
    own = [f for f in folders if plain_name(f) != of_class and f.casefold() not in _OF_LAYOUTS]
    return unicodedata.normalize("NFC", "/".join([*own, file]))


@functools.cache
def plain_name(name: str) -> str:
    """A class name without differences of case, spaces and hyphens, and of how a system writes accents; names of signs
    alone stay as they are.
    """
    composed = unicodedata.normalize("NFC", name)
    return "".join(c for c in composed.lower() if c.isalnum()) or composed


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()


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
    stratified folds (shuffled, random state 1), of the images in the order of their names. OLOR splits lists in the
    order in which the file system returned the files, so its folds have the same size but other images.
    """
    if data.validation is not None:
        return ("train", range(len(data.train))), ("validation", range(len(data.validation)))
    from sklearn.model_selection import StratifiedKFold  # type: ignore[import-untyped]

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=FOLD_SEED).split(
        np.zeros(len(data.train)), data.train.labels
    )
    kept, held = next(folds)
    return ("train", kept.tolist()), ("train", held.tolist())


def first_of_each_class(data: ImageData, part: str, count: int | None) -> Sequence[int]:
    """Places of the first ``count`` images of each class, in the order of the data set; None: of all images.

    :raises ValueError: a class has fewer.
    """
    labels = data.parts[part].labels
    if count is None:
        return range(len(labels))
    places, seen = [], [0] * len(data.names)
    for place, label in enumerate(labels):
        seen[label] += 1
        if seen[label] <= count:
            places.append(place)
    for label, found in enumerate(seen):
        if found < count:
            raise ValueError(
                f"{data.name} has {found} {part} images of class {data.names[label]!r}, fewer than "
                f"images.{part}_per_class={count}: set it to null for all images, or to at most {min(seen)}"
            )
    return places


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
