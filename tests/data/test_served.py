"""Benchmarks of others' making: what they serve, and what is said of those that cannot be run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import (
    benchmark_from_datasets,
    class_incremental_benchmark,
    dataset_benchmark,
    nc_benchmark,
    ni_benchmark,
    split_online_stream,
    task_incremental_benchmark,
)
from avalanche.benchmarks.utils import as_classification_dataset
from reclaim.benchmark.data.served import seeded, serve
from torch import Tensor
from torch.utils.data import TensorDataset
from torchvision import transforms


def images(labels: Sequence[Any], shape: tuple[int, ...] = (1, 8, 8), start: int = 0) -> Any:
    """A dataset of different images with these labels."""
    values = torch.arange(start, start + len(labels), dtype=torch.float32)
    dataset = TensorDataset(values.view(-1, *[1] * len(shape)).expand(-1, *shape).clone(), torch.tensor(labels))
    dataset.targets = list(labels)  # type: ignore[attr-defined]
    return dataset


TRAIN, TEST = [c for c in range(6) for _ in range(4)], [c for c in range(6) for _ in range(2)]


def split(n: int = 3, offset: int = 0, **arguments: Any) -> Any:
    train, test = (images([offset + c for c in labels]) for labels in (TRAIN, TEST))
    return nc_benchmark(train, test, n, **{"task_labels": False, "seed": 1, **arguments})


def what(items: Any) -> list[tuple[float, int]]:
    return [(float(items.read(i, "eval")[0].mean()), items.targets[i]) for i in range(len(items))]


# --- what runs ---


@pytest.mark.parametrize("offset", [0, 1, 1000])
def test_classes_are_numbered_in_order_of_appearance(offset: int) -> None:
    theirs = split(offset=offset)
    served = serve(theirs, "m:f")
    expected = [c for e in theirs.train_stream for c in sorted(e.classes_in_this_experience)]
    assert list(served.classes) == expected
    assert served.sizes == (2, 2, 2)
    assert served.shape == (1, 8, 8)
    benchmark = served.benchmark()
    for t, experience in enumerate(benchmark.train_stream):
        assert experience.classes_in_this_experience == [2 * t, 2 * t + 1]
        for ours, there in zip(experience.dataset, theirs.train_stream[t].dataset, strict=True):
            assert torch.equal(ours[0], there[0])
            assert expected[ours[1]] == int(there[1])
            assert len(ours) == 3
    assert [len(e.dataset) for e in benchmark.test_stream[:2]] == [4, 4]


def test_every_kind_of_class_incremental_benchmark() -> None:
    datasets = [as_classification_dataset(images(labels)) for labels in (TRAIN, TEST)]
    torch.manual_seed(0)
    new = class_incremental_benchmark({"train": datasets[0], "test": datasets[1]}, num_experiences=3)
    for benchmark in (new, task_incremental_benchmark(new), split(2), split(3, task_labels=True)):
        served = serve(benchmark, "m:f")
        assert sorted(served.classes) == list(range(6))
        assert sum(served.sizes) == 6
        assert len(served.benchmark().train_stream) == len(list(benchmark.train_stream))


def test_domains_have_no_new_classes() -> None:
    parts = [images([0, 1, 2, 0], start=10 * i) for i in range(3)]
    served = serve(benchmark_from_datasets(**dict.fromkeys(("train", "test"), map_to_avalanche(parts))), "m:f")
    assert served.sizes == (3, 0, 0)
    assert [e.classes_in_this_experience for e in served.benchmark().train_stream] == [[0, 1, 2]] * 3
    together = served.benchmark(joint=True)
    assert len(together.train_stream) == len(together.test_stream) == 1
    assert [float(x.mean()) for x, *_ in together.train_stream[0].dataset] == [
        float(10 * i + k) for i in range(3) for k in range(4)
    ]


def map_to_avalanche(parts: Sequence[Any]) -> list[Any]:
    return [as_classification_dataset(part) for part in parts]


def test_a_whole_test_stream_is_divided_by_class() -> None:
    theirs = benchmark_from_datasets(
        train=map_to_avalanche([images([5, 5, 2]), images([7, 7, 0])]), test=map_to_avalanche([images([0, 2, 5, 7, 7])])
    )
    served = serve(theirs, "m:f")
    assert served.classes == (2, 5, 0, 7)
    assert [what(items) for items in served.test] == [[(1.0, 0), (2.0, 1)], [(0.0, 2), (3.0, 3), (4.0, 3)]]
    assert len(served.sha256) == 64


def test_training_images_are_evaluated_without_augmentation() -> None:
    add = [transforms.Lambda(lambda x: x + 100), transforms.Lambda(lambda x: x + 1)]
    served = serve(split(train_transform=add[0], eval_transform=add[1]), "m:f")
    dataset = served.benchmark().train_stream[0].dataset
    plain = served.train[0].read(0, "eval")[0] - 1
    assert torch.equal(dataset[0][0], plain + 100)
    assert torch.equal(dataset.eval()[0][0], plain + 1)
    assert torch.equal(served.benchmark(joint=True).train_stream[0].dataset.eval()[0][0], plain + 1)


# --- the hash ---


def test_the_hash_is_of_what_is_served() -> None:
    one = serve(split(), "m:f").sha256
    assert one == serve(split(), "another:name").sha256
    assert one != serve(split(seed=2), "m:f").sha256
    assert one != serve(split(offset=1), "m:f").sha256
    changed = images(TRAIN)
    changed.tensors[0][7] += 1e-3
    assert one != serve(nc_benchmark(changed, images(TEST), 3, task_labels=False, seed=1), "m:f").sha256
    noise = transforms.Lambda(lambda x: x + torch.rand(1) + random.random() + np.random.rand())
    noisy = [serve(split(eval_transform=noise), "m:f").sha256 for _ in range(2)]
    assert noisy[0] == noisy[1] != one


def test_reading_leaves_the_generators_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    for seed in (0, 1):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        with seeded(seed):
            draw()
        after = draw()
        assert after == pytest.approx((0.49625658988952637, 0.5488135039273248, 0.8444218515250481))


# --- what cannot run ---


def of(train: Sequence[Any], test: Sequence[Any] | None = None) -> Any:
    """Avalanche's streams as they are seen from outside, of any datasets."""
    experiences = [[SimpleNamespace(dataset=d) for d in part] for part in (train, train if test is None else test)]
    return SimpleNamespace(train_stream=experiences[0], test_stream=experiences[1])


class Items(list):  # type: ignore[type-arg]
    """A dataset without targets."""


def one(image: Any, label: Any) -> Items:
    return Items([(image, label), (image, label)])


IMAGE = torch.zeros(1, 8, 8)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ([1, 2], "m:f returns list, without train_stream and test_stream: return an Avalanche benchmark"),
        (None, "m:f returns NoneType"),
        (of([]), "the train_stream of m:f has no experience"),
        (of([images([0, 1])], []), "the test_stream of m:f has no experience"),
        (of([images([0, 1]), Items()]), "the train experience 1 of m:f has no images: leave it out"),
        (of([iter(())]), "the train experience 0 of m:f has no dataset with a length"),
        (of([images([0, 0])]), "m:f has one class, 0: there is nothing to tell apart"),
        (of([images([0, -1])]), "item 1 of the train experience 0 of m:f has class -1: number classes from 0"),
        (of([images([0, 1])], [images([0, 9])]), "classes that are never trained on: 9: leave them out"),
        (of([one(IMAGE, 0.5)]), "no class but 0.5: runs are of classification, not of regression"),
        (of([one(IMAGE, torch.tensor(0.5))]), "not of regression"),
        (of([one(IMAGE, {"boxes": []})]), "not of detection or segmentation"),
        (of([one(IMAGE, torch.zeros(3))]), "not of several labels"),
        (of([one(IMAGE, "cat")]), "not of str labels"),
        (of([Items([(i, c) for c in (0, 1)]) for i in ("text",)]), "is a str, not a tensor: .*ToTensor"),
        (of([Items([(IMAGE[0, 0], 0), (IMAGE, 1)])]), r"is a tensor of shape \(8,\)"),
        (of([Items([(IMAGE.int(), 0), (IMAGE, 1)])]), "torch.int32, not an image of"),
        (of([images([0, 1]), images([0, 1])], [images([0, 1])]), r"2 training experiences and 1 .* \(class 0\)"),
        (of([images([0]), images([1])], [images([0, 0])]), "none tests the classes of experience 1: add their"),
    ],
)
def test_what_cannot_run(theirs: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        serve(theirs, "m:f")


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([(IMAGE, 0), (torch.zeros(1, 8, 9), 1)], r"item 1 .* has shape \(1, 8, 9\), others have \(1, 8, 8\)"),
        ([(IMAGE, 0), (IMAGE * torch.nan, 1)], "item 1 of the train experience 0 of m:f holds NaN"),
    ],
)
def test_what_is_found_when_all_is_read(items: list[tuple[Tensor, int]], said: str) -> None:
    served = serve(of([Items(items)]), "m:f")
    with pytest.raises(ValueError, match=said):
        _ = served.sha256


def test_targets_that_do_not_say_what_is_there() -> None:
    dataset = images([0, 1, 2])
    dataset.targets = [0, 1, 1]
    served = serve(of([dataset]), "m:f")
    with pytest.raises(ValueError, match=r"item 2 of the train experience 0 of m:f has class 2, but .* targets say 1"):
        _ = served.sha256
    dataset.targets = [0, 1]
    with pytest.raises(ValueError, match="has 3 images, but 2 targets: let them agree"):
        serve(of([dataset]), "m:f")


def test_an_online_stream_has_no_test_experience_for_each() -> None:
    whole = split()
    online = SimpleNamespace(train_stream=split_online_stream(whole.train_stream, 2), test_stream=whole.test_stream)
    with pytest.raises(ValueError, match="12 training experiences and 3 for testing"):
        serve(online, "m:f")


def test_new_instances_and_whole_datasets() -> None:
    train, test = images(TRAIN), images(TEST)
    with pytest.raises(ValueError, match="give one test experience for each training experience"):
        serve(ni_benchmark(train, test, 3, task_labels=False, seed=0), "m:f")
    assert serve(dataset_benchmark([train], [test]), "m:f").sizes == (6,)
