"""What is said of the weights that runs of one backbone start from."""

from __future__ import annotations

from typing import Any

import pytest
from reclaim.benchmark.config import Config
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.verdicts.counting import current, reasons, weights_that_changed
from small_runs import synthetic_record

DINO = "vit_base_patch14_dinov2.lvd142m"


def started(backbone: str, weights: str, recipe: str = "mine", *settings: str) -> Record:
    config = Config(backbone=backbone).set(["images={}", *settings])
    record = synthetic_record(recipe, "split-cifar100-10", 0, config=config)
    record.result["weights_sha256"] = weights * 64
    return record


@pytest.mark.parametrize("backbone", [DINO, "hf-hub:owner/name"])
def test_a_backbone_that_changed_upstream(backbone: str) -> None:
    made = [started(backbone, "a")]
    before = [started(backbone, "b", "slca"), started(backbone, "b", "linear"), started(backbone, "a")]
    (note,) = weights_that_changed(made, [*before, *made])
    assert note.startswith(
        f"{backbone} starts from other weights (bbbbbbbbbbbb) in runs on record of linear, slca, here"
    )
    assert "aaaaaaaaaaaa: what is published under the name has changed, or another file was given" in note
    assert weights_that_changed(made, before[2:]) == []


def test_weights_that_may_differ() -> None:
    rehearsed = started(DINO, "b")
    rehearsed.result["rehearsal"] = True
    for here, there in (
        (started("resnet50", "a"), started("resnet50", "b")),  # random
        (started("test_vit.local", "a"), started("test_vit.local", "b")),  # one's own
        (started(DINO, "a"), started(f"{DINO[:-1]}x", "b")),
        (started(DINO, "a"), started(DINO, "b", "mine", "images.protocol=aepg")),  # perhaps of another size
        (started(DINO, "a"), rehearsed),
    ):
        assert weights_that_changed([here], [there]) == []


@pytest.mark.parametrize(
    ("recipe", "stream"),
    [("slca", "split-quickdraw-10"), ("joint", "split-quickdraw-10"), ("dense-sem-full", "quickdraw-canvases")],
)
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("data_sha256", "a" * 64, "data_sha256"),
        ("class_order", None, "not the one of seed 3"),
        ("test_counts", None, "test_counts"),
    ],
)
def test_our_recipe_on_other_images_or_in_another_order_does_not_count(
    recipe: str, stream: str, key: str, value: Any, said: str
) -> None:
    sound, other = (synthetic_record(recipe, stream, seed=3) for _ in range(2))
    reversed_, fewer = sorted(other.result["class_order"]), [n - 1 for n in other.result["test_counts"]]
    other.result[key] = value or {"class_order": reversed_, "test_counts": fewer}[key]
    assert current([sound, other]) == [sound]
    (reason,) = reasons([other])
    assert "not of its stream and seed" in str(reason)
    assert said in str(reason)
