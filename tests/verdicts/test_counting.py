"""What is said of the weights that runs of one backbone start from."""

from __future__ import annotations

import pytest
from reclaim.benchmark.config import Config
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.verdicts.counting import weights_that_changed
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
