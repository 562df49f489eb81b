"""The paper tier's streams: which classes come when, and which images are trained and tested on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reclaim.benchmark.data.catalogue import CATALOGUE
from reclaim.benchmark.data.experiences import make_benchmark, make_image_benchmark
from reclaim.benchmark.data.images import ImageData, ImageList
from reclaim.benchmark.data.streams import PAPER_STREAMS, STREAMS, Stream, class_order, find_stream
from reclaim.benchmark.files import asset

SIZES = {
    "split-cifar100-10": [10] * 10,
    "split-cifar100-20": [5] * 20,
    "split-cifar100-50": [2] * 50,
    "cifar100-1": [100],
    "split-cifar10-5": [2] * 5,
    "cifar10-1": [10],
    "split-imagenet-r-5": [40] * 5,
    "split-imagenet-r-10": [20] * 10,
    "split-imagenet-r-20": [10] * 20,
    "split-imagenet-r-50": [4] * 50,
    "split-cub200-10": [20] * 10,
    "split-cub200-20": [10] * 20,
    "split-cub200-50": [4] * 50,
    "cub200-1": [200],
    "split-cars196-10": [20] * 9 + [16],
    "split-cars196-20": [10] * 19 + [6],
    "cars196-1": [196],
    "split-food101-10": [10] * 9 + [11],
    "split-food101-20": [5] * 19 + [6],
    "split-food101-50": [2] * 49 + [3],
    "clrs25-5": [5] * 5,
    "svhn-1": [10],
    "places-lt-1": [365],
    "ip102-1": [102],
    "officehome-1": [65],
    "pacs-1": [7],
}
SMALL = Stream("small", (2, 1), "three classes", "paper", "clrs25")
ORDER = [2, 0, 1]


def test_the_streams_are_those_of_the_papers() -> None:
    assert {name: list(stream.sizes) for name, stream in PAPER_STREAMS.items()} == SIZES
    assert not set(PAPER_STREAMS) & set(STREAMS)
    for stream in PAPER_STREAMS.values():
        assert stream.tier == "paper"
        assert stream.n_classes == CATALOGUE[stream.dataset].classes
        assert find_stream(stream.name) is stream
    assert PAPER_STREAMS["split-cars196-10"].description == "196 classes of Stanford Cars, 9 x 20 + 16"
    assert "our reading" in PAPER_STREAMS["split-food101-10"].description
    papers = asset("").parent / "papers"
    named = {
        name
        for file in papers.glob("*.toml")
        if file.name != "reruns.toml"  # others have run on streams that are not here
        for line in re.findall(r"^streams? = .*", file.read_text(), re.M)
        for name in re.findall(r'"(.+?)"', line)
    }
    assert len(named) > 10
    for name in named:
        find_stream(name)


def test_lae_takes_the_classes_in_sequence() -> None:
    assert class_order(5, None) == [0, 1, 2, 3, 4]


def images(n: int, first: int) -> ImageList:
    """``n`` images of each of three classes; every pixel says which image it is."""
    labels = np.arange(3 * n) % 3
    pixels = (first + np.arange(3 * n, dtype=np.uint8))[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return ImageList(Path("/nowhere"), pixels, tuple(labels.tolist()))


def small_data() -> ImageData:
    return ImageData("clrs25", ("a", "b", "c"), images(20, 0), images(4, 100))


class FirstPixel:
    """The first pixel of an image times ``sign``, which tells a training transform from a test transform."""

    def __init__(self, sign: int) -> None:
        self.sign = sign

    def reference(self) -> Callable[[Any], torch.Tensor]:
        return lambda image: self.on_batch([np.asarray(image)])[0]

    def on_batch(self, images: Sequence[np.ndarray], device: str | torch.device = "cpu") -> torch.Tensor:
        return self.sign * torch.tensor([[int(image[0, 0, 0])] for image in images], device=device)


TRANSFORMS = FirstPixel(1), FirstPixel(-1)


def seen(dataset: Any) -> list[tuple[int, int]]:
    return sorted((int(image), int(label)) for image, label, *_ in (dataset[i] for i in range(len(dataset))))


def test_who_sees_which_image_under_which_label() -> None:
    benchmark = make_image_benchmark(SMALL, ORDER, small_data(), TRANSFORMS)
    for stream, n, first, sign in ((benchmark.train_stream, 20, 0, 1), (benchmark.test_stream, 4, 100, -1)):
        for experience, classes in zip(stream, ([2, 0], [1]), strict=True):
            expected = [(sign * (first + c + 3 * k), ORDER.index(c)) for c in classes for k in range(n)]
            assert seen(experience.dataset) == sorted(expected)
    # SLCA's alignment looks at training images under the test transform
    first_experience = benchmark.train_stream[0].dataset
    assert seen(first_experience.eval()) == sorted((-image, label) for image, label in seen(first_experience))


def test_the_validation_part_is_not_trained_on() -> None:
    def parts(**settings: Any) -> list[set[int]]:
        benchmark = make_image_benchmark(SMALL, ORDER, small_data(), TRANSFORMS, **settings)
        return [
            {abs(image) for e in stream for image, _ in seen(e.dataset)}
            for stream in (benchmark.train_stream, benchmark.test_stream)
        ]

    train, held = parts(part="validation")
    assert len(held) == 6  # a tenth of 60, of each class the same
    assert train | held == set(range(60))
    assert not train & held
    assert parts(hold_out_validation=True) == [train, set(range(100, 112))]


def test_what_does_not_fit_is_refused() -> None:
    data = small_data()
    with pytest.raises(ValueError, match="needs the 3 classes of pacs, got 3 of clrs25"):
        make_image_benchmark(Stream("small", (2, 1), "", "paper", "pacs"), ORDER, data, TRANSFORMS)
    with pytest.raises(ValueError, match="needs the 4 classes of clrs25, got 3 of clrs25"):
        make_image_benchmark(Stream("small", (2, 2), "", "paper", "clrs25"), [2, 0, 1, 3], data, TRANSFORMS)
    with pytest.raises(ValueError, match=r"permutation of 0\.\.2"):
        make_image_benchmark(SMALL, [0, 1], data, TRANSFORMS)
    with pytest.raises(ValueError, match="'test' or 'validation', got 'train'"):
        make_image_benchmark(SMALL, ORDER, data, TRANSFORMS, part="train")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the images of svhn-1 do not ship with the package: use read_images"):
        make_benchmark(find_stream("svhn-1"), range(10))
