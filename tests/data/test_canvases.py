"""Canvases: what is on them is known by construction, and no drawing is on canvases of both parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from reclaim.benchmark.data import canvases
from reclaim.benchmark.data.canvases import OBJECTS, SIDE, VISIBLE, CanvasError, Canvases, draw_canvases
from reclaim.benchmark.data.drawings import downstream
from torch import Tensor

CLASSES = list(range(10, 16))


@pytest.fixture(scope="module")
def drawn() -> tuple[Canvases, Canvases]:
    return draw_canvases(CLASSES, 30, 20, seed=3)


def test_shapes_and_ranges(drawn: tuple[Canvases, Canvases]) -> None:
    for part, n in zip(drawn, (30, 20), strict=True):
        assert part.images.shape == (n, 1, SIDE, SIDE)
        assert 0 <= float(part.images.min()) < float(part.images.max()) <= 1
        for boxes, labels, masks in zip(part.boxes, part.labels, part.masks, strict=True):
            assert OBJECTS[0] <= len(boxes) <= OBJECTS[1]
            assert len(set(labels.tolist())) == len(labels)
            assert set(labels.tolist()) <= set(range(1, len(CLASSES) + 1))
            assert masks.shape == (len(boxes), SIDE, SIDE)
            assert int(masks.sum(0).max()) == 1
    assert {c for labels in drawn[0].labels for c in labels.tolist()} == set(range(1, len(CLASSES) + 1))


def test_nothing_is_drawn_outside_of_the_masks(drawn: tuple[Canvases, Canvases]) -> None:
    train, _ = drawn
    for image, masks, classes in zip(train.images, train.masks, train.semantic(), strict=True):
        assert torch.equal(classes > 0, masks.any(0))
        assert not image[0][classes == 0].any()


def test_pixels_are_those_of_a_drawing_of_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """At scale 1 a lone canvas holds drawings unchanged: of the uppermost object every pixel is the drawing's."""
    monkeypatch.setattr(canvases, "SCALES", (1.0, 1.0))
    train, test = draw_canvases(CLASSES, 5, 5, seed=0)
    data = downstream()
    for part, drawings, others in ((train, data.train, data.test), (test, data.test, data.train)):
        for i in range(len(part)):
            of_class = CLASSES[int(part.labels[i][-1]) - 1]
            assert _is_on(part.images[i, 0], part.masks[i][-1], drawings[of_class])
            assert not _is_on(part.images[i, 0], part.masks[i][-1], others[of_class])


def _is_on(image: Tensor, mask: Tensor, drawings: Tensor) -> bool:
    """Whether one of the drawings (n, 1, 28, 28), where it is inked, is what the mask shows at some place."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    top, left = int(rows[0]), int(columns[0])
    shown = torch.where(mask.bool(), image, 0.0)
    for drawing in drawings[:, 0]:
        inked = drawing >= canvases.INK
        across, down = inked.any(0).nonzero(), inked.any(1).nonzero()
        y, x = top - int(down[0]), left - int(across[0])
        if 0 <= y <= SIDE - 28 and 0 <= x <= SIDE - 28:
            there = shown[y : y + 28, x : x + 28]
            if torch.allclose(there[inked], drawing[inked]) and not (there[~inked] >= canvases.INK).any():
                return True
    return False


def test_the_same_seed_makes_the_same_canvases_and_another_others() -> None:
    (one, _), (same, _), (other, _) = (draw_canvases(CLASSES, 6, 1, seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, same.images)
    assert torch.equal(one.semantic(), same.semantic())
    assert not torch.equal(one.images, other.images)


def test_more_canvases_begin_with_the_fewer_and_the_parts_differ() -> None:
    few, _ = draw_canvases(CLASSES, 3, 1, 0)
    many, _ = draw_canvases(CLASSES, 6, 1, 0)
    held, _ = draw_canvases(CLASSES, 3, 1, 0, "validation")
    assert torch.equal(few.images, many.images[:3])
    assert not torch.equal(few.images, held.images)


def test_objects_stay_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    wholes: list[int] = []
    scaled = canvases._scaled

    def remember(*args: Any) -> Any:
        drawing, shape = scaled(*args)
        wholes.append(int(shape.sum()))
        return drawing, shape

    monkeypatch.setattr(canvases, "_scaled", remember)
    train, test = draw_canvases(CLASSES, 20, 1, 5)
    seen = [int(mask.sum()) for part in (train, test) for masks in part.masks for mask in masks]
    assert len(seen) == len(wholes)
    assert all(VISIBLE * whole <= visible <= whole for visible, whole in zip(seen, wholes, strict=True))
    assert any(visible < whole for visible, whole in zip(seen, wholes, strict=True))


def test_a_drawing_without_a_place_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canvases, "VISIBLE", 1.01)  # none may be above another, nor even beside
    monkeypatch.setattr(canvases, "TRIES", 2)
    train, _ = draw_canvases(CLASSES, 3, 1, 0)
    assert [len(boxes) for boxes in train.boxes] == [1, 1, 1]


def one(**changes: Any) -> dict[str, Any]:
    mask = torch.zeros(1, 8, 8, dtype=torch.uint8)
    mask[0, 2:5, 3:7] = 1
    sound = {
        "images": torch.zeros(1, 1, 8, 8),
        "boxes": [torch.tensor([[3.0, 2.0, 7.0, 5.0]])],
        "labels": [torch.tensor([1])],
        "masks": [mask],
    }
    return {**sound, **changes}


TWICE = torch.ones(2, 8, 8, dtype=torch.uint8)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no object": (
        one(boxes=[torch.zeros(0, 4)], labels=[torch.zeros(0, dtype=torch.int64)], masks=[TWICE[:0]]),
        "canvas 0 has no object",
    ),
    "no area": (
        one(boxes=[torch.tensor([[3.0, 2.0, 3.0, 5.0]])]),
        r"box 0 of canvas 0 is \[3.0, 2.0, 3.0, 5.0\].*no area",
    ),
    "NaN box": (one(boxes=[torch.tensor([[3.0, 2.0, float("nan"), 5.0]])]), "no area"),
    "another box": (one(boxes=[torch.tensor([[3.0, 2.0, 7.0, 6.0]])]), r"its mask reaches over \[3, 2, 7, 5\]"),
    "empty mask": (one(masks=[TWICE[:1] * 0]), "mask 0 of canvas 0 is empty"),
    "background": (one(labels=[torch.tensor([0])]), "0 is the background"),
    "NaN": (one(images=torch.full((1, 1, 8, 8), float("nan"))), "pixels that are NaN"),
    "a mask missing": (one(masks=[TWICE[:0]]), "1 boxes, 1 labels and 0 masks"),
    "a canvas missing": (one(masks=[]), "1 images, 1 boxes, 1 labels, 0 masks"),
    "no canvas": ({"images": torch.zeros(0, 1, 8, 8), "boxes": [], "labels": [], "masks": []}, "there is no canvas"),
    "masks of a PNG": (one(masks=[255 * one()["masks"][0]]), "the masks of canvas 0 hold 0, 255: give 0 and 1"),
    "masks of halves": (one(masks=[0.5 * one()["masks"][0]]), "hold 0, 0.5: give 0 and 1"),
    "smaller masks": (one(masks=[one()["masks"][0][:, :7, :7]]), r"have shape \(1, 7, 7\) .*, its image is 8 x 8"),
    "labels of floats": (one(labels=[torch.tensor([1.5])]), r"labels of canvas 0 have shape \(1,\) and type float32"),
    "boxes of integers": (one(boxes=[one()["boxes"][0].long()]), "boxes of canvas 0 have .* type int64"),
    "boxes of five": (one(boxes=[torch.zeros(1, 5)]), r"boxes of canvas 0 have shape \(1, 5\)"),
    "no tensors": (one(labels=[[1]]), "labels of canvas 0 is of type list: give a tensor"),
    "single numbers": (one(boxes=[torch.tensor(1.0)]), "boxes of canvas 0 is a single number"),
    "images in a list": (one(images=[torch.zeros(1, 8, 8)]), "images is of type list: give a tensor"),
    "no images": (one(images=None), "images is of type NoneType"),
    "images without channels": (one(images=torch.zeros(1, 8, 8)), r"images have shape \(1, 8, 8\)"),
    "pixels of 8 bits": (one(images=torch.full((1, 1, 8, 8), 255.0)), "pixels from 255 to 255: .* divided by 255"),
    "images of integers": (one(images=torch.zeros(1, 1, 8, 8, dtype=torch.uint8)), "the image of canvas 0 has shape"),
    "overlap": (
        one(boxes=[torch.tensor([[0.0, 0.0, 8.0, 8.0]] * 2)], labels=[torch.tensor([1, 2])], masks=[TWICE]),
        "masks that overlap",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_canvases_are_named(name: str) -> None:
    values, message = BAD[name]
    with pytest.raises(CanvasError, match=message):
        Canvases(**values)


def test_sound_canvases_are_taken() -> None:
    canvas = Canvases(**one())
    assert int(canvas.semantic().sum()) == 12
    with pytest.raises(CanvasError):
        replace(canvas, labels=[torch.tensor([-1])])


@pytest.mark.parametrize(
    ("classes", "n"),
    [([0, 1, 2, 3], 1), ([0, 0, 1, 2, 3, 4], 1), (CLASSES, 0), ([-1, 0, 1, 2, 3], 1), ([0, 1, 2, 3, 500], 1)],
)
def test_too_little_is_refused(classes: list[int], n: int) -> None:
    with pytest.raises(ValueError, match=r"different ones|at least one|none of the 100 downstream classes"):
        draw_canvases(classes, n, 1, 0)
