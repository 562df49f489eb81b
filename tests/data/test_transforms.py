"""The papers' transforms, the batched ones beside torchvision's, and the cache of decoded images that feeds them."""

from __future__ import annotations

import io
import math
import pickle
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reclaim.benchmark.data import transforms
from reclaim.benchmark.data.cache import make_cache, open_cache
from reclaim.benchmark.data.images import ImageData, ImageList
from reclaim.benchmark.data.transforms import IMAGENET, ImageTransform, OlorTransform, transforms_of
from torch.nn import functional as F

SHAPES = [(61, 47), (40, 90), (33, 33), (150, 40)]


def photographs(shapes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Smooth structure, hard edges that make a cubic overshoot, and noise."""
    generator = np.random.default_rng(0)
    images = []
    for height, width in shapes:
        y, x = np.mgrid[:height, :width]
        smooth = 127 + 120 * np.sin(x / 7)[..., None] * np.cos(y / np.array([5, 9, 13]).reshape(3, 1, 1)).transpose(
            1, 2, 0
        )
        smooth[height // 3 : height // 2, width // 4 :] = 255
        images.append(np.clip(smooth + generator.normal(0, 10, smooth.shape), 0, 255).astype(np.uint8))
    return images


CASES = {
    "random-resized-crop": ImageTransform("random-resized-crop", 32, flip=0.5),
    "bilinear": ImageTransform("random-resized-crop", 32, scale=(0.05, 1.0), interpolation="bilinear", flip=0.5),
    "enlarging": ImageTransform("random-resized-crop", 120, flip=0.5),
    "resize-random-crop": ImageTransform("resize-random-crop", 32, resize=43, flip=0.5),
    "resize-center-crop": ImageTransform("resize-center-crop", 32, resize=37),
    "bilinear-center": ImageTransform("resize-center-crop", 32, resize=37, interpolation="bilinear"),
    "pad-random-crop": ImageTransform("pad-random-crop", 33, flip=0.5, interpolation="bilinear"),
    "as-is": ImageTransform("as-is", 33),
    "brightness": ImageTransform("random-resized-crop", 32, flip=0.5, brightness=63 / 255),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [transforms.CHUNK, 1])
def test_a_batch_is_transformed_as_torchvision_does_image_by_image(
    case: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "CHUNK", chunk)
    transform = CASES[case]
    fixed = transform.geometry in ("pad-random-crop", "as-is")
    images = photographs([(33, 33)] * 4 if fixed else SHAPES)
    reference = transform.reference()
    torch.manual_seed(5)
    expected = torch.stack([reference(Image.fromarray(image)) for image in images])
    after = torch.rand(1)
    torch.manual_seed(5)
    batch = transform.on_batch(images)
    assert torch.rand(1) == after  # as many random numbers were drawn: the boxes are the same
    assert batch.shape == (4, 3, transform.size, transform.size)
    levels = 255 * (batch - expected).abs()
    # Pillow rounds between its two passes, and not every version makes them in the same order
    assert levels.max() < 8
    assert levels.mean() < 0.5
    assert levels.median() < 1.01


@pytest.mark.parametrize("transform", [*CASES.values(), OlorTransform(True, size=24), OlorTransform(False, size=24)])
@pytest.mark.parametrize("chunk", [transforms.CHUNK, 1])
def test_images_of_one_size_may_be_one_tensor(
    transform: ImageTransform | OlorTransform, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transforms, "CHUNK", chunk)
    images = photographs([(33, 33)] * 5)
    batches, numbers = [], []
    for form in (images, torch.from_numpy(np.stack(images))):
        torch.manual_seed(3)
        batches.append(transform.on_batch(form))
        numbers.append(float(torch.rand(1)))
    assert numbers[0] == numbers[1]
    # sums of other lengths may round one level up or down, of 255; the standard deviation is 0.22 at least
    torch.testing.assert_close(batches[0], batches[1], rtol=0, atol=1.01 / 255 / 0.22)
    assert (batches[0] == batches[1]).float().mean() > 0.98


def test_other_random_numbers_make_another_batch_and_normalisation_is_torchvisions() -> None:
    images = photographs(SHAPES)
    transform = replace(CASES["random-resized-crop"], normalisation=IMAGENET)
    torch.manual_seed(5)
    expected = torch.stack([transform.reference()(Image.fromarray(image)) for image in images])
    torch.manual_seed(5)
    assert (transform.on_batch(images) - expected).abs().max() < 8 / 255 / min(IMAGENET[1])
    assert (transform.on_batch(images) - expected).abs().max() > 0.5


def test_images_of_a_wrong_size_are_refused() -> None:
    with pytest.raises(ValueError, match="'as-is' needs images of 33 x 33, got 61 x 47"):
        CASES["as-is"].on_batch(photographs(SHAPES[:1]))


def test_the_protocols() -> None:
    train, test = transforms_of("slca", "cifar100")
    assert isinstance(train, ImageTransform)
    assert (train.geometry, train.size, train.scale, train.interpolation) == (
        "random-resized-crop",
        224,
        (0.08, 1.0),
        "bicubic",
    )
    assert (train.flip, train.brightness, train.normalisation) == (
        0.5,
        63 / 255,
        ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    )
    assert test == ImageTransform("resize-center-crop", 224, 256, normalisation=train.normalisation)
    assert transforms_of("slca", "imagenet-r")[0] == replace(train, brightness=0.0, normalisation=IMAGENET)
    birds = ImageTransform("resize-random-crop", 224, 300, flip=0.5, normalisation=IMAGENET)
    assert transforms_of("slca", "cub200")[0] == transforms_of("slca", "cars196")[0] == birds
    for dataset in ("imagenet-r", "food101", "cub200", "clrs25"):
        train, test = transforms_of("aepg", dataset)
        assert train == ImageTransform("random-resized-crop", scale=(0.05, 1.0), interpolation="bilinear", flip=0.5)
        assert test == ImageTransform("resize-center-crop", interpolation="bilinear")
    assert transforms_of("aepg", "cifar10")[0] == ImageTransform(
        "pad-random-crop", 32, padding=4, flip=0.5, interpolation="bilinear"
    )
    assert transforms_of("olor", "pacs") == (OlorTransform(train=True), OlorTransform(train=False))
    for dataset in ("cifar100", "imagenet-r", "cub200", "cars196"):  # F35
        train, test = transforms_of("l2p", dataset)
        assert train == ImageTransform("random-resized-crop", scale=(0.05, 1.0), flip=0.5, interpolation="bilinear")
        assert test == ImageTransform("resize-center-crop", 224, resize=256, interpolation="bicubic")
        assert train.normalisation is test.normalisation is None
    for dataset, resize in (("cifar100", 224), ("imagenet-r", 256)):  # F54
        train, test = transforms_of("inflora", dataset)
        assert train == ImageTransform("random-resized-crop", scale=(0.08, 1.0), flip=0.5, interpolation="bilinear")
        assert test == ImageTransform("resize-center-crop", 224, resize=resize, interpolation="bilinear")
    train, test = transforms_of("lite", "cifar100")
    half = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
    assert transforms_of("lite", "cifar10") == (train, test)
    assert train == ImageTransform(
        "random-resized-crop", 96, scale=(0.5, 1.0), interpolation="bicubic", flip=0.5, normalisation=half
    )
    assert test == ImageTransform("resize-center-crop", 96, resize=96, normalisation=half)
    assert test.on_batch(photographs([(32, 32)])).shape == (1, 3, 96, 96)
    larger = transforms_of("lite", "cifar10", 128)
    assert [t.on_batch(photographs([(32, 32)])).shape for t in larger] == [(1, 3, 128, 128)] * 2
    with pytest.raises(ValueError, match="'lite' has no experiment on 'cub200'"):
        transforms_of("lite", "cub200")
    with pytest.raises(ValueError, match="'slca' has no experiment on 'food101'"):
        transforms_of("slca", "food101")


def test_slcas_transforms_as_others_have_them() -> None:
    for dataset in ("cifar100", "imagenet-r"):
        train, test = transforms_of("pilot", dataset)
        assert train == ImageTransform("random-resized-crop", scale=(0.05, 1.0), interpolation="bilinear", flip=0.5)
        assert test == ImageTransform("resize-center-crop", 224, 256)
    (train, test), (ours, tested) = transforms_of("mammoth", "cifar100"), transforms_of("slca", "cifar100")
    assert isinstance(ours, ImageTransform)
    assert (train, test) == (replace(ours, interpolation="bilinear"), tested)
    (train, test), (ours, tested) = transforms_of("mammoth", "imagenet-r"), transforms_of("slca", "imagenet-r")
    assert isinstance(ours, ImageTransform)
    assert isinstance(tested, ImageTransform)
    assert (train, test) == (replace(ours, normalisation=None), replace(tested, normalisation=None))
    with pytest.raises(ValueError, match="'mammoth' has no experiment on 'cub200'"):
        transforms_of("mammoth", "cub200")


def pixels_of(transform: OlorTransform, image: Image.Image) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    return transform(image) * std + mean


def test_olor_changes_half_of_the_images_and_moves_half() -> None:
    white = Image.new("RGB", (30, 20), (255, 255, 255))
    grey = Image.new("RGB", (30, 20), (128, 128, 128))
    assert torch.allclose(pixels_of(OlorTransform(False, size=16), white), torch.ones(3, 16, 16), atol=1e-5)
    changed = moved = 0
    for seed in range(200):
        torch.manual_seed(seed)
        _, change, move = (torch.rand(3) < 0.5).tolist()
        contrast, brightness, _, _, zoom, _ = torch.empty(6).uniform_(-1, 1).tolist()
        torch.manual_seed(seed)
        pixels = pixels_of(OlorTransform(True, size=16), grey)
        middle = 128 / 255 * (1 + 0.1 * contrast) + 0.1 * brightness if change else 128 / 255
        assert float(pixels[0, 8, 8]) == pytest.approx(middle, abs=1e-4)
        if move and zoom < -0.5:
            assert float(pixels[:, 0, 0].max()) < 0.6 * middle  # smaller: black beside it
        if not move or zoom > 0.95:
            assert torch.allclose(pixels, torch.full((), middle), atol=1e-4)
        torch.manual_seed(seed)
        clipped = pixels_of(OlorTransform(True, clipped=True, size=16), grey)
        assert float(clipped[0, 8, 8]) == pytest.approx(1 / 255 if change else 128 / 255, abs=1e-4)  # F15: almost black
        changed, moved = changed + change, moved + move
    assert 75 < changed < 125
    assert 75 < moved < 125


def test_olor_flips() -> None:
    half = Image.fromarray(np.repeat([[[255, 255, 255]] * 8 + [[0, 0, 0]] * 8], 16, axis=0).astype(np.uint8))
    for seed in range(20):
        torch.manual_seed(seed)
        flip = bool(torch.rand(3)[0] < 0.5)
        torch.manual_seed(seed)
        pixels = pixels_of(OlorTransform(True, size=16), half)
        assert bool(pixels[0, 8, 12] > pixels[0, 8, 3]) == flip


def olor_by_hand(transform: OlorTransform, image: np.ndarray) -> torch.Tensor:
    """One image, step by step, with Python's numbers."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, (transform.size, transform.size), mode="bilinear", align_corners=False)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    if not transform.train:
        return (pixels[0] - mean) / std
    flip, change, move = (torch.rand(3) < 0.5).tolist()
    contrast, brightness, shift_x, shift_y, zoom, angle = torch.empty(6).uniform_(-1, 1).tolist()
    if flip:
        pixels = pixels.flip(3)
    if change and transform.clipped:
        pixels = (255 * pixels * (1 + 0.1 * contrast) + 0.1 * brightness).clamp(0, 1) / 255
    elif change:
        pixels = (pixels * (1 + 0.1 * contrast) + 0.1 * brightness).clamp(0, 1)
    if move:
        cos, sin = (f(math.radians(10 * angle)) / (1 + 0.2 * zoom) for f in (math.cos, math.sin))
        x, y = -0.02 * shift_x, -0.02 * shift_y
        matrix = torch.tensor([[[cos, sin, cos * x + sin * y], [-sin, cos, -sin * x + cos * y]]])
        grid = F.affine_grid(matrix, list(pixels.shape), align_corners=False)
        pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (pixels[0] - mean) / std


@pytest.mark.parametrize(
    "transform", [OlorTransform(True, size=24), OlorTransform(True, True, 24), OlorTransform(False, size=24)]
)
@pytest.mark.parametrize("n", [1, 2, 12])  # of two images, none is moved, or changed, now and then
def test_olors_batch_is_its_images_one_by_one(transform: OlorTransform, n: int) -> None:
    images = photographs((SHAPES * 3)[:n])
    originals = [image.copy() for image in images]
    one_by_one = transform.reference()
    for seed in range(3):
        views, numbers = [], []
        for make in (
            lambda: transform.on_batch(images),
            lambda: torch.stack([one_by_one(Image.fromarray(image)) for image in images]),
            lambda: torch.stack([olor_by_hand(transform, image) for image in images]),
        ):
            torch.manual_seed(seed)
            views.append(make())
            numbers.append(float(torch.rand(1)))
        assert views[0].shape == (n, 3, 24, 24)
        torch.testing.assert_close(views[0], views[1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(views[0], views[2], atol=1e-4, rtol=1e-5)
        assert len(set(numbers)) == 1  # as many random numbers were drawn
    assert all(np.array_equal(image, original) for image, original in zip(images, originals, strict=True))


def make_data(folder: Path) -> ImageData:
    folder.mkdir(exist_ok=True)
    names = []
    for i, image in enumerate(photographs(SHAPES)):
        Image.fromarray(image).save(folder / f"{i}.png")
        names.append(f"{i}.png")
    pixels = np.stack(photographs([(8, 8)] * 2))
    return ImageData(
        "clrs25", ("a", "b"), ImageList(folder, tuple(names), (0, 1, 1, 0)), ImageList(folder, pixels, (1, 0))
    )


def test_the_cache_gives_what_decoding_gives(tmp_path: Path) -> None:
    data = make_data(tmp_path / "images")
    decoded: list[int] = []
    make_cache(data, tmp_path / "cache", decoded.append)
    assert len(decoded) == 6
    for part, images in data.parts.items():
        cache = open_cache(data, part, tmp_path / "cache")
        assert len(cache) == len(images)
        assert tuple(cache.labels) == images.labels
        for i in range(len(cache)):
            assert np.array_equal(cache[i], np.asarray(images.load(i)))
    cache = open_cache(data, "train", tmp_path / "cache")
    assert CASES["bilinear-center"].on_batch(cache.batch([3, 0])).shape == (2, 3, 32, 32)
    make_cache(data, tmp_path / "cache", decoded.append)
    assert len(decoded) == 6  # what is there is kept


def test_a_cache_that_is_unfinished_damaged_or_of_other_images_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_data(tmp_path / "images")
    cache = tmp_path / "cache"
    good = (tmp_path / "images" / "3.png").read_bytes()
    (tmp_path / "images" / "3.png").write_bytes(good[:-300])
    with pytest.raises(ValueError, match=r"3.png cannot be decoded as an image"):
        make_cache(data, cache)
    with pytest.raises(ValueError, match=r"train has no finished cache: make it with `reclaim data cache clrs25`"):
        open_cache(data, "train", cache)
    (tmp_path / "images" / "3.png").write_bytes(good)
    make_cache(data, cache)
    with (cache / "clrs25" / "train" / "pixels.u8").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="does not match its index"):
        open_cache(data, "train", cache)
    index = cache / "clrs25" / "train" / "index.npz"
    whole = index.read_bytes()
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for damaged in (b"", whole[:40], whole[:-40], pickle.dumps([]), array.getvalue()):
        index.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"index\.npz cannot be read \(.*move .*train away and make it with"):
            open_cache(data, "train", cache)
    index.write_bytes(whole)
    other = replace(data, test=data.test.take([0]))
    with pytest.raises(ValueError, match="cache of other images"):
        make_cache(other, cache)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 100))
    with pytest.raises(ValueError, match=r"GiB, but 0\.0 GiB are free"):
        make_cache(data, tmp_path / "elsewhere")
