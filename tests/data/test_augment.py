"""Augmentation of whole batches: what a warp may do to a drawing, and where its randomness comes from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from reclaim.benchmark.data.augment import Warp, warp_batch
from reclaim.benchmark.training.pretrain import WARP
from torch import Tensor

STILL = Warp(degrees=0, scale=(1, 1), translate=0, shear=0, elastic=0, flip=0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blob(row: float = 13.5, column: float = 13.5, n: int = 64) -> Tensor:
    """n copies of one smooth spot, (n, 1, 28, 28)."""
    grid = torch.arange(28.0)
    spot = torch.exp(-((grid[:, None] - row) ** 2 + (grid[None, :] - column) ** 2) / 8)
    return spot.expand(n, 1, 28, 28)


def centres(images: Tensor) -> Tensor:
    """Row and column of each image's centre of mass, (N, 2)."""
    grid = torch.arange(28.0)
    mass = images.sum((1, 2, 3))
    return torch.stack([(images.sum((1, 3)) * grid).sum(1) / mass, (images.sum((1, 2)) * grid).sum(1) / mass], 1)


@pytest.mark.parametrize("warp", [Warp(), WARP], ids=["runs", "pretraining"])
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 3, 20, 32), (1, 1, 28, 28)], ids=str)
def test_shape_range_and_type_stay(warp: Warp, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.float64):
        images = torch.rand(shape, generator=seeded(), dtype=dtype)
        before = images.clone()
        warped = warp_batch(images, warp, seeded(1))
        assert warped.shape == images.shape
        assert warped.dtype == dtype
        assert warped.min() >= 0
        assert warped.max() <= 1
        assert not torch.equal(warped, images)
        assert torch.equal(images, before)  # the batch itself is left alone


def test_the_generator_decides() -> None:
    images = torch.rand(8, 1, 28, 28, generator=seeded())
    assert torch.equal(warp_batch(images, WARP, seeded(1)), warp_batch(images, WARP, seeded(1)))
    assert not torch.equal(warp_batch(images, WARP, seeded(1)), warp_batch(images, WARP, seeded(2)))
    state = torch.get_rng_state()
    warp_batch(images, WARP, seeded(1))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_a_generator_the_global_one_decides() -> None:
    images = torch.rand(8, 1, 28, 28, generator=seeded())
    torch.manual_seed(5)
    first = warp_batch(images, WARP)
    torch.manual_seed(5)
    assert torch.equal(warp_batch(images, WARP), first)
    assert not torch.equal(warp_batch(images, WARP), first)


def test_a_warp_that_moves_nothing_is_the_identity() -> None:
    images = torch.rand(4, 2, 28, 20, generator=seeded())
    torch.testing.assert_close(warp_batch(images, STILL, seeded()), images, atol=1e-5, rtol=0)


def test_flip() -> None:
    images = torch.rand(200, 1, 28, 28, generator=seeded())
    flipped = images.flip(3)
    torch.testing.assert_close(warp_batch(images, replace(STILL, flip=1), seeded()), flipped, atol=1e-5, rtol=0)
    some = warp_batch(images, replace(STILL, flip=0.5), seeded())
    is_flipped = (some - flipped).abs().amax((1, 2, 3)) < 1e-4
    is_same = (some - images).abs().amax((1, 2, 3)) < 1e-4
    assert (is_flipped ^ is_same).all()
    assert 60 < int(is_flipped.sum()) < 140


@pytest.mark.parametrize(
    "warp",
    [
        replace(STILL, degrees=20),
        replace(STILL, scale=(0.7, 1.3)),
        replace(STILL, translate=0.1),
        replace(STILL, shear=0.3),
        replace(STILL, elastic=0.1),
    ],
    ids=["degrees", "scale", "translate", "shear", "elastic"],
)
def test_every_part_works_and_each_image_has_its_own_warp(warp: Warp) -> None:
    images = torch.rand(1, 1, 28, 28, generator=seeded()).expand(6, 1, 28, 28)
    warped = warp_batch(images, warp, seeded())
    assert not torch.allclose(warped[0], images[0], atol=1e-3)
    for i in range(6):
        for j in range(i):
            assert not torch.allclose(warped[i], warped[j], atol=1e-4)


def test_translation_stays_within_its_share_of_the_side() -> None:
    moved = centres(warp_batch(blob(), replace(STILL, translate=0.1), seeded())) - 13.5
    assert moved.abs().max() < 2.8 + 0.05
    assert (moved.abs().amax(0) > 2).all()  # both ways, and nearly as far as allowed
    assert (moved.amin(0) < 0).all()
    assert (moved.amax(0) > 0).all()


def test_zoom_scales_the_drawing_about_its_centre() -> None:
    for factor in (0.5, 1.5):
        scaled = warp_batch(blob(), replace(STILL, scale=(factor, factor)), seeded())
        torch.testing.assert_close(
            scaled.sum((1, 2, 3)) / blob().sum((1, 2, 3)), torch.full((64,), factor**2), atol=0.05, rtol=0
        )
        torch.testing.assert_close(centres(scaled), torch.full((64, 2), 13.5), atol=0.05, rtol=0)


def test_rotation_stays_within_its_degrees() -> None:
    offsets = centres(warp_batch(blob(column=21.5), replace(STILL, degrees=30), seeded())) - 13.5
    angles = torch.rad2deg(torch.atan2(offsets[:, 0], offsets[:, 1]))
    torch.testing.assert_close(offsets.norm(dim=1), torch.full((64,), 8.0), atol=0.05, rtol=0)
    assert angles.abs().max() < 30.5
    assert angles.min() < -20
    assert angles.max() > 20


def test_shear_moves_rows_sideways_alone() -> None:
    offsets = centres(warp_batch(blob(row=19.5), replace(STILL, shear=0.5), seeded())) - 13.5
    torch.testing.assert_close(offsets[:, 0], torch.full((64,), 6.0), atol=0.1, rtol=0)
    assert offsets[:, 1].abs().max() < 0.5 * 6 + 0.1
    assert offsets[:, 1].abs().max() > 2


def test_what_comes_from_outside_is_empty() -> None:
    shrunk = warp_batch(torch.ones(2, 1, 28, 28), replace(STILL, scale=(0.5, 0.5)), seeded())
    assert shrunk[:, :, :5].abs().max() == 0
    assert shrunk[:, :, 10:18, 10:18].min() == 1
