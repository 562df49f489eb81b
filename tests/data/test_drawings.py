"""The embedded drawings and the six streams: who sees which drawing, in which order, under which label."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reclaim.benchmark.config import Part
from reclaim.benchmark.data import drawings
from reclaim.benchmark.data.drawings import Drawings, downstream, upstream
from reclaim.benchmark.data.experiences import make_benchmark
from reclaim.benchmark.data.streams import STREAMS, class_order, find_stream
from torch import Tensor

SIZES = {
    "split-quickdraw-5": [20] * 5,
    "split-quickdraw-10": [10] * 10,
    "split-quickdraw-20": [5] * 20,
    "split-quickdraw-50": [2] * 50,
    "split-quickdraw-uneven": [10] * 9 + [6, 4],
    "quickdraw-1": [100],
}


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive whose every drawing says in three of its pixels which one it is."""
    images = np.zeros((345, 100, 2, 2), np.uint8)
    images[:, :, 0, 0], images[:, :, 0, 1] = (n[:, None] for n in divmod(np.arange(345), 256))
    images[:, :, 1, 0] = np.arange(100)
    names = np.array([f"class {c}" for c in range(345)])
    monkeypatch.setattr(drawings, "_archive", lambda: (images, names))


def identities(images: Tensor) -> set[tuple[int, int]]:
    """(Class, drawing) of every image of the numbered archive."""
    pixels = (images.reshape(-1, 4) * 255).round().int().tolist()
    return {(256 * high + low, drawing) for high, low, drawing, _ in pixels}


def is_real(drawings: Drawings, classes: int, train: int, test: int) -> None:
    assert drawings.train.shape == (classes, train, 1, 28, 28)
    assert drawings.test.shape == (classes, test, 1, 28, 28)
    assert len(set(drawings.names)) == classes
    for images in (drawings.train, drawings.test):
        assert images.dtype == torch.float32
        assert images.min() == 0
        assert images.max() == 1
        assert 0.05 < images.mean() < 0.5  # strokes are 1, paper is 0
        assert (images.amax((2, 3, 4)) > 0.5).all()  # none is empty


def test_the_real_drawings() -> None:
    is_real(upstream(), 245, 90, 10)
    is_real(downstream(), 100, 80, 20)
    is_real(downstream("validation"), 100, 64, 16)
    assert not set(upstream().names) & set(downstream().names)
    assert len({upstream().sha256, downstream().sha256, downstream("validation").sha256}) == 3
    assert downstream().sha256 == downstream("test").sha256


@pytest.mark.usefixtures("numbered")
def test_who_sees_which_drawing() -> None:
    order = np.random.RandomState(0).permutation(345)
    up = {(int(c), i) for c in order[:245] for i in range(100)}
    down = {(int(c), i) for c in order[245:] for i in range(100)}
    assert identities(upstream().train) | identities(upstream().test) == up
    assert not identities(upstream().train) & identities(upstream().test)

    test, validation = downstream("test"), downstream("validation")
    assert identities(test.train) | identities(test.test) == down
    assert not identities(test.train) & identities(test.test)
    # choosing hyper-parameters divides the training drawings and never meets a test drawing
    assert identities(validation.train) | identities(validation.test) == identities(test.train)
    assert not identities(validation.train) & identities(validation.test)
    assert test.names == tuple(f"class {c}" for c in order[245:])


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ValueError, match="'test' or 'validation', got 'train'"):
        downstream("train")  # type: ignore[arg-type]


def test_the_five_streams() -> None:
    assert {name: list(stream.sizes) for name, stream in STREAMS.items()} == SIZES
    for stream in STREAMS.values():
        assert stream.n_classes == 100
        assert stream.tier == "embedded"
        assert stream.joined().sizes == (100,)
        assert stream.joined().name == stream.name


@pytest.mark.parametrize("seed", [0, 1, 1993, 2**32 - 1])
def test_the_class_order_is_that_of_slca(seed: int) -> None:
    np.random.seed(seed)
    assert class_order(100, seed) == np.random.permutation(100).tolist()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_named(seed: int) -> None:
    with pytest.raises(ValueError, match=f"got {seed}"):
        class_order(100, seed)


def test_asking_for_an_order_leaves_the_global_generator_alone() -> None:
    np.random.seed(3)
    first = np.random.rand()
    np.random.seed(3)
    class_order(100, 7)
    assert np.random.rand() == first


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize("part", ["test", "validation"])
@pytest.mark.parametrize("name", SIZES)
def test_labels_are_renumbered_in_the_order_of_appearance(name: str, part: Part) -> None:
    order = class_order(100, 3)
    benchmark = make_benchmark(STREAMS[name], order, part)
    dataset_ids = np.random.RandomState(0).permutation(345)[245:]
    per_class = {"test": (80, 20), "validation": (64, 16)}[part]
    for stream, n in zip((benchmark.train_stream, benchmark.test_stream), per_class, strict=True):
        assert [len(e.classes_in_this_experience) for e in stream] == SIZES[name]
        start = 0
        for experience in stream:
            size = len(experience.classes_in_this_experience)
            assert sorted(experience.classes_in_this_experience) == list(range(start, start + size))
            labels = torch.tensor(list(experience.dataset.targets))
            assert torch.equal(labels.bincount(minlength=start + size)[start:], torch.full((size,), n))
            image, label, *_ = experience.dataset[n * size - 1]
            ((archive_class, _),) = identities(image)
            assert archive_class == dataset_ids[order[int(label)]]
            start += size


@pytest.mark.parametrize(
    "order", [list(range(99)), [0] * 100, list(range(1, 101))], ids=["short", "repeated", "shifted"]
)
def test_an_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match=r"permutation of 0\.\.99"):
        make_benchmark(STREAMS["split-quickdraw-5"], order)


def test_unknown_streams_get_suggestions() -> None:
    assert find_stream("quickdraw-1") is STREAMS["quickdraw-1"]
    with pytest.raises(ValueError, match="unknown stream 'split-quickdraw-11': did you mean split-quickdraw-1"):
        find_stream("split-quickdraw-11")
    with pytest.raises(ValueError, match=r"unknown stream '': did you mean split-quickdraw-5, .*reclaim list streams"):
        find_stream("")
