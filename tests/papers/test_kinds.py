"""What a number is: seed scope, class order, what it is averaged over, split; and that a mixture is said."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from reclaim.benchmark.data.streams import class_order
from reclaim.benchmark.papers.kinds import Kind, caveats, comparable, kind_of, seed_caveats, together
from reclaim.benchmark.papers.published import cells
from reclaim.benchmark.records.metrics import METRICS
from reclaim.benchmark.records.record import UNVERIFIED
from small_runs import synthetic_record

BOTH, ORDER = "class_order+initialisation", "class_order"
SLCA = Kind(ORDER, "shuffled by numpy seed", "images", "official")
CELLS = {cell.id: cell for cell in cells()}


def test_every_cell_says_what_it_is() -> None:
    found = Counter((cell.paper, cell.kind.varied, cell.kind.class_order, cell.kind.averaged) for cell in cells())
    assert found == {
        ("slca", ORDER, "shuffled by numpy seed", "images"): 24,
        ("slca", "unknown", "unknown", "images"): 8,  # BiC, DER++, LwF
        ("slca", "unknown", "unknown", "unknown"): 16,  # L2P, DualPrompt: F71
        ("inflora", "initialisation", "natural", "images"): 4,
        ("aepg", "unknown", "unknown", "tasks"): 204,
        ("aepg", "unknown", "unknown", "images"): 8,  # one experience
    }
    assert CELLS["slca/main/slca/split-imagenet-r-10/last_acc"].kind.split == "DualPrompt's"
    assert CELLS["slca/main/slca/split-cars196-10/last_acc"].kind.split == "unknown"  # F7
    assert {cell.kind.split_sha256 for cell in cells()} == {"unknown"}


def test_a_record_says_what_it_is_by_what_it_has() -> None:
    record = synthetic_record("slca", seed=3)
    n = len(record.result["class_order"])
    for order, words in (
        (class_order(n, 3), "shuffled by numpy seed"),
        (class_order(n, None), "natural"),
        ([*range(1, n), 0], "another"),
    ):
        record.result["class_order"] = order
        assert kind_of(record, "last_acc").class_order == words
    over_images = [metric for metric in METRICS if kind_of(record, metric).averaged == "images"]
    assert over_images == ["last_acc", "inc_acc"]
    kind = kind_of(record, "last_acc")
    assert (kind.varied, kind.split) == (record.result["varied"], "official")
    assert kind.split_sha256 == record.result["data_sha256"]
    for remark, split in (
        ("NOT the papers' split: 0.8 / 0.2 by seed 0", "not the papers'"),
        ("the split is that of train.txt and test.txt: the papers' if", "not verified"),
        (UNVERIFIED, "not verified"),
        ("the paper does not say its split: ours is 0.8 / 0.2 by seed 0", "as remarked"),
    ):
        record.result["remarks"] = [remark]
        assert kind_of(record, "last_acc").split == split


@pytest.mark.parametrize(
    ("ours", "published", "expected"),
    [
        ([SLCA] * 3, SLCA, []),
        ([], SLCA, []),
        (
            [replace(SLCA, averaged="tasks")],
            SLCA,
            ["averaged over is images in the published number and tasks in ours"],
        ),
        ([SLCA], replace(SLCA, averaged="unknown"), ["does not say whether it averages .* here it is: images"]),
        (
            [replace(SLCA, class_order="natural")],
            SLCA,
            ["order of the classes is shuffled by numpy seed in the published number and natural in ours"],
        ),
        (
            [SLCA, replace(SLCA, class_order="natural")],
            replace(SLCA, class_order="unknown"),
            ["is natural in some runs, shuffled by numpy seed in others", "does not say the order of its classes"],
        ),
        ([replace(SLCA, split="not verified")], SLCA, ["published split is official, ours not verified"]),
        ([SLCA], replace(SLCA, split="unknown"), ["does not say its split; here it is: official"]),
        ([replace(SLCA, split_sha256="a" * 64)], replace(SLCA, split_sha256="b" * 64), ["SHA-256 is bbbb"]),
        ([replace(SLCA, split_sha256="a" * 64, split="x")], replace(SLCA, split_sha256="a" * 64), []),
        ([replace(SLCA, split_sha256="a" * 64)], SLCA, []),
    ],
)
def test_a_mixture_is_said(ours: list[Kind], published: Kind, expected: list[str]) -> None:
    notes = caveats(ours, published)
    assert len(notes) == len(expected), notes
    for note, pattern in zip(notes, expected, strict=True):
        assert re.search(pattern, note), note


def test_several_runs_are_one_kind_or_say_that_they_are_not() -> None:
    assert together([SLCA, SLCA]) == SLCA
    mixed = together([SLCA, replace(SLCA, varied=BOTH)])
    assert mixed.varied == f"{ORDER} and {BOTH}"
    assert "seeds vary class order and class order and initialisation; class order shuffled" in str(mixed)


def test_comparable_spreads() -> None:
    assert comparable(ORDER, ORDER) is True
    assert comparable(BOTH, ORDER) is False
    assert comparable(ORDER, "unknown") is None


@pytest.mark.parametrize(
    ("varied", "seeds", "published_seeds", "published", "expected"),
    [
        ([ORDER] * 3, [1993, 1996, 1997], [1993, 1996, 1997], ORDER, ["3 are the paper's own .* conservative"]),
        (
            [ORDER] * 2,
            [0, 1996],
            [1993, 1996, 1997],
            ORDER,
            [r"1 are the paper's own \(seeds 1996\)", "1 are new ones"],
        ),
        ([ORDER] * 2, [0, 1], [1993, 1996, 1997], ORDER, ["2 are new ones"]),
        (
            [BOTH],
            [0],
            [1993],
            ORDER,
            [r"class order only \(F2\), ours class order and init.* seeding=class_order", "1 are new"],
        ),
        (
            [ORDER, BOTH],
            [0, 1],
            [],
            ORDER,
            ["some runs vary class order, of others class order and initialisation", "not comparable"],
        ),
        (
            [BOTH] * 5,
            [0, 1, 2, 3, 4],
            [],
            "unknown",
            ["paper does not say .* ours vary class order and initialisation"],
        ),
        ([ORDER], [0], [], ORDER, []),
        ([], [], [1993], ORDER, []),
    ],
)
def test_caveats_of_seeds(
    varied: list[str], seeds: list[int], published_seeds: list[int], published: str, expected: list[str]
) -> None:
    notes = seed_caveats([Kind(kind) for kind in varied], Kind(published), seeds, published_seeds)
    assert len(notes) == len(expected), notes
    for note, pattern in zip(notes, expected, strict=True):
        assert re.search(pattern, note), note
