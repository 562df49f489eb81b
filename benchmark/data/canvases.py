"""Canvases: several drawings on one grey image, whose pixels' classes, boxes and masks are known by construction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import binary_fill_holes, zoom

from ..config import Part
from .drawings import downstream

if TYPE_CHECKING:  # seconds that names and records should not cost
    from torch import Tensor

SIDE = 84
"""Height and width of a canvas in pixels: three drawings'."""
OBJECTS = (2, 5)
"""Fewest and most drawings on a canvas."""
SCALES = (0.75, 1.5)
"""Smallest and largest size of a drawing: 21 to 42 pixels."""
VISIBLE = 0.6
"""Least part of each object that the ones above it leave visible."""
TRIES = 1000
"""Places that are tried for a drawing before it is left out."""
INK = 0.25
"""Pixels of a scaled drawing at least as dark as this are its stroke."""


class CanvasError(ValueError):
    """A canvas that no detector or segmenter can be trained on. The message names it, its value and the remedy."""


@dataclass(frozen=True)
class Canvases:
    """Canvases, from the first that is drawn to the last. Each has one object or more.

    :ivar images: (n, 1, H, W) float32 in [0, 1], stroke = 1.
    :ivar boxes: of each canvas (objects, 4) float32: left, top, right, bottom in pixels, of what is visible; right and
        bottom are those of the first column and row behind it.
    :ivar labels: of each canvas (objects,) int64, from 1; 0 is the background.
    :ivar masks: of each canvas (objects, H, W) uint8: 1 where the object is visible.
    :raises CanvasError: a canvas has no object, a box no area, a mask is not within its box up to its edges, masks
        overlap, or something is missing, of another shape or kind, or out of range.
    """

    images: Tensor
    boxes: list[Tensor]
    labels: list[Tensor]
    masks: list[Tensor]

    def __post_init__(self) -> None:
        _require_tensor("images", self.images)
        if self.images.ndim != 4:
            raise CanvasError(f"images have {_kind(self.images)}: give (canvases, channels, H, W)")
        counts = {name: len(getattr(self, name)) for name in ("images", "boxes", "labels", "masks")}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{n} {name}" for name, n in counts.items())
            raise CanvasError(f"there are {told}: give one of each for every canvas")
        if not counts["images"]:
            raise CanvasError("there is no canvas: give one or more")
        for i, (image, boxes, labels, masks) in enumerate(
            zip(self.images, self.boxes, self.labels, self.masks, strict=True)
        ):
            require_sound(i, image, boxes, labels, masks)

    def __len__(self) -> int:
        return len(self.images)

    def semantic(self) -> Tensor:
        """The class of each pixel, 0 for the background; (n, H, W) int64."""
        import torch

        return torch.stack(
            [
                (masks.long() * labels[:, None, None]).sum(0)
                for masks, labels in zip(self.masks, self.labels, strict=True)
            ]
        )


def require_sound(canvas: int, image: Tensor, boxes: Tensor, labels: Tensor, masks: Tensor) -> None:
    """Refuse a canvas that cannot be trained on or judged.

    :param canvas: its number, for the message.
    :raises CanvasError: see :class:`Canvases`.
    """
    where = f"canvas {canvas}"
    of = {"image": image, "boxes": boxes, "labels": labels, "masks": masks}
    for name, value in of.items():
        _require_tensor(f"{name} of {where}", value)
        if not value.ndim:
            raise CanvasError(f"{name} of {where} is a single number: give a list of them, as a tensor")
    if image.ndim != 3 or not image.is_floating_point():
        raise CanvasError(f"the image of {where} has {_kind(image)}: give (channels, H, W) of floating-point numbers")
    if not bool(image.isfinite().all()):
        raise CanvasError(f"{where} has pixels that are NaN or infinite: give finite ones")
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise CanvasError(
            f"{where} has pixels from {float(image.min()):g} to {float(image.max()):g}: give values from 0 to 1, such "
            f"as those of an 8-bit image divided by 255"
        )
    if not len(boxes):
        raise CanvasError(f"{where} has no object: put one on it, or leave it out")
    if not len(boxes) == len(labels) == len(masks):
        raise CanvasError(
            f"{where} has {len(boxes)} boxes, {len(labels)} labels and {len(masks)} masks: give each object one of each"
        )
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise CanvasError(f"the boxes of {where} have {_kind(boxes)}: give (objects, 4) of floating-point numbers")
    if labels.ndim != 1 or labels.is_floating_point() or str(labels.dtype) == "torch.bool":
        raise CanvasError(f"the labels of {where} have {_kind(labels)}: give (objects,) of integers")
    if masks.ndim != 3 or masks.shape[1:] != image.shape[1:]:
        size = " x ".join(map(str, image.shape[1:]))
        raise CanvasError(f"the masks of {where} have {_kind(masks)}, its image is {size}: give (objects, H, W) of it")
    if not bool(((masks == 0) | (masks == 1)).all()):
        raise CanvasError(f"the masks of {where} hold {_some_values(masks)}: give 0 and 1, or False and True")
    if not bool((labels >= 1).all()):
        raise CanvasError(f"{where} has labels {labels.tolist()}: 0 is the background, give objects labels from 1")
    if len(boxes) > 1 and int(masks.long().sum(0).max()) > 1:
        raise CanvasError(f"{where} has masks that overlap: of each pixel, give the object that is visible")
    for i, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
        left, top, right, bottom = box.tolist()
        if not (left < right and top < bottom):  # written this way so that NaN is refused, too
            raise CanvasError(
                f"box {i} of {where} is {box.tolist()}, which has no area: give left < right and top < bottom"
            )
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if not len(rows):
            raise CanvasError(f"mask {i} of {where} is empty, but its box is {box.tolist()}: leave the object out")
        around = [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
        if around != box.tolist():
            raise CanvasError(
                f"box {i} of {where} is {box.tolist()}, but its mask reaches over {around}: make the box of the mask"
            )


def _require_tensor(name: str, value: object) -> None:
    if not (hasattr(value, "is_floating_point") and hasattr(value, "ndim")):
        raise CanvasError(f"{name} is of type {type(value).__name__}: give a tensor")


def _kind(value: Tensor) -> str:
    return f"shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"


def _some_values(value: Tensor) -> str:
    return ", ".join(f"{float(x):g}" for x in value.unique()[:4])


def draw_canvases(
    classes: Sequence[int], n_train: int, n_test: int, seed: int, part: Part = "test"
) -> tuple[Canvases, Canvases]:
    """Canvases for training, and canvases for testing on which no drawing of the first is.

    Drawings of different classes, two to five, are put one above the other at random places and sizes. A drawing is
    opaque: strokes and what they enclose are its mask, and hide what is below.

    :param classes: downstream classes; the first has the label 1.
    :param seed: of everything that is random.
    :param part: ``"test"``: from the 80 training and the 20 test drawings of each class. ``"validation"``: from 64
        and 16 of the 80; test drawings are not used.
    :raises ValueError: fewer classes than a canvas may have objects, or no canvases.
    """
    if len(set(classes)) != len(classes) or len(classes) < OBJECTS[1]:
        raise ValueError(f"classes are {list(classes)}: give {OBJECTS[1]} different ones or more")
    if n_train < 1 or n_test < 1:
        raise ValueError(f"got {n_train} training and {n_test} test canvases: make at least one of each")
    data = downstream(part)
    if outside := [c for c in classes if not 0 <= c < len(data.names)]:
        raise ValueError(
            f"class {outside[0]} is none of the {len(data.names)} downstream classes, 0 to {len(data.names) - 1}"
        )
    train, test = (
        _draw(drawings[list(classes), :, 0].numpy(), n, np.random.default_rng((seed, which)))
        for which, (drawings, n) in enumerate(((data.train, n_train), (data.test, n_test)))
    )
    return train, test


def _draw(drawings: np.ndarray, n: int, rng: np.random.Generator) -> Canvases:
    import torch

    drawn = [_canvas(drawings, rng) for _ in range(n)]
    return Canvases(
        torch.from_numpy(np.stack([image for image, _, _ in drawn])).unsqueeze(1),
        [torch.from_numpy(np.stack([_box(mask) for mask in masks])) for _, masks, _ in drawn],
        [torch.tensor(labels) for _, _, labels in drawn],
        [torch.from_numpy(np.stack(masks).astype(np.uint8)) for _, masks, _ in drawn],
    )


def _canvas(drawings: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray], list[int]]:
    """Image (SIDE, SIDE), visible masks, and labels.

    :param drawings: (classes, n, 28, 28) in [0, 1].
    """
    image = np.zeros((SIDE, SIDE), np.float32)
    masks: list[np.ndarray] = []
    wholes: list[int] = []
    labels: list[int] = []
    for c in rng.choice(len(drawings), rng.integers(OBJECTS[0], OBJECTS[1] + 1), replace=False):
        drawing, shape = _scaled(drawings[c, rng.integers(drawings.shape[1])], rng.uniform(*SCALES))
        side = len(shape)
        for _ in range(TRIES):
            top, left = rng.integers(0, SIDE - side + 1, 2)
            mask = np.zeros((SIDE, SIDE), bool)
            mask[top : top + side, left : left + side] = shape
            below = [other & ~mask for other in masks]
            if all(part.sum() >= VISIBLE * whole for part, whole in zip(below, wholes, strict=True)):
                break
        else:
            continue  # it is left out; two always find a place, since one corner is at most a quarter of the other
        here = image[top : top + side, left : left + side]
        here[shape] = drawing[shape]
        masks = [*below, mask]
        wholes.append(int(mask.sum()))
        labels.append(int(c) + 1)
    return image, masks, labels


def _scaled(drawing: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """A drawing at another size, and its shape: the strokes and what they enclose."""
    larger = np.clip(zoom(drawing, scale, order=1), 0, 1)
    shape = binary_fill_holes(larger >= INK)
    return larger, np.asarray(shape)


def _box(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
