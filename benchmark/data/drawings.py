"""The embedded drawings: upstream classes (pretraining), downstream classes (streams), and their parts."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..config import Part

if TYPE_CHECKING:  # seconds that names and records should not cost
    from torch import Tensor
from ..files import asset

UPSTREAM_CLASSES = 245
DOWNSTREAM_CLASSES = 100
DRAWINGS_PER_CLASS = 100
UPSTREAM_TRAIN = 90
DOWNSTREAM_TRAIN = 80
DOWNSTREAM_VALIDATION = 16  # of the 80: the last ones


@dataclass(frozen=True)
class Drawings:
    """Drawings and their class names.

    :ivar train: (classes, n, 1, 28, 28) float32 in [0, 1], stroke = 1.
    :ivar test: (classes, m, 1, 28, 28), likewise.
    :ivar names: names of the classes, in order.
    :ivar sha256: of both arrays as uint8, in hex.
    """

    train: Tensor
    test: Tensor
    names: tuple[str, ...]
    sha256: str


@functools.cache
def _archive() -> tuple[np.ndarray, np.ndarray]:
    with np.load(asset("quickdraw345.npz")) as archive:
        return archive["X"], archive["names"]


def _arrays(classes: np.ndarray, *parts: slice) -> tuple[list[np.ndarray], str]:
    """Drawings of each part, uint8, and the SHA-256 of all."""
    images, _ = _archive()
    arrays = [np.ascontiguousarray(images[classes, part]) for part in parts]
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(array.tobytes())
    return arrays, digest.hexdigest()


def _drawings(classes: np.ndarray, train: slice, test: slice) -> Drawings:
    import torch

    arrays, sha256 = _arrays(classes, train, test)
    tensors = [torch.from_numpy(array).unsqueeze(2).float() / 255 for array in arrays]
    return Drawings(tensors[0], tensors[1], tuple(str(n) for n in _archive()[1][classes]), sha256)


def _class_split() -> tuple[np.ndarray, np.ndarray]:
    order = np.random.RandomState(0).permutation(len(_archive()[0]))
    return order[:UPSTREAM_CLASSES], order[UPSTREAM_CLASSES:]


def shared_classes() -> int:
    """Number of classes that occur both in pretraining and in the streams."""
    pretrained, streams = _class_split()
    return len(np.intersect1d(pretrained, streams))


def upstream() -> Drawings:
    """The 245 classes that the embedded backbone is pretrained on: 90 training and 10 held-out drawings per class."""
    return _drawings(_class_split()[0], slice(0, UPSTREAM_TRAIN), slice(UPSTREAM_TRAIN, DRAWINGS_PER_CLASS))


def downstream(part: Part = "test") -> Drawings:
    """The 100 classes of the streams.

    :param part: ``"test"``: 80 training and 20 test drawings per class. ``"validation"``, for choosing
        hyper-parameters: 64 of these 80 for training, 16 for validation; test drawings are not used.
    """
    return _drawings(_class_split()[1], *_split(part))


@functools.cache
def downstream_identity(part: Part = "test") -> tuple[int, str]:
    """Number of test drawings of a class, and the SHA-256, of :func:`downstream`; without torch."""
    (_, test), sha256 = _arrays(_class_split()[1], *_split(part))
    return test.shape[1], sha256


def _split(part: Part) -> tuple[slice, slice]:
    if part == "test":
        return slice(0, DOWNSTREAM_TRAIN), slice(DOWNSTREAM_TRAIN, DRAWINGS_PER_CLASS)
    if part == "validation":
        border = DOWNSTREAM_TRAIN - DOWNSTREAM_VALIDATION
        return slice(0, border), slice(border, DOWNSTREAM_TRAIN)
    raise ValueError(f"part must be 'test' or 'validation', got {part!r}")
