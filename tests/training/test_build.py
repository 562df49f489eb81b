"""From a configuration to what trains, on photographs:
transforms, backbones and the schedule of the papers' protocols.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reclaim.benchmark.config import Config, Images
from reclaim.benchmark.data.transforms import ImageTransform, OlorTransform, transforms_of
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.training import build
from reclaim.benchmark.training.build import make_backbone, make_model, make_strategy, prepared
from reclaim.benchmark.training.step import LateFirstStep
from reclaim.strategies.backbones import OF_PRETRAINING
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.slca import ClassifierAlignment
from torch import nn


def test_the_switches_of_transforms() -> None:
    train, test = transforms_of("olor", "svhn")
    assert isinstance(train, OlorTransform)
    assert prepared(Config(images=Images("olor", clipped=True)), "svhn") == (replace(train, clipped=True), test)  # F15
    crop, test_crop = transforms_of("aepg", "cub200")
    assert isinstance(crop, ImageTransform)
    assert prepared(Config(images=Images("aepg", smallest_crop=0.08)), "cub200") == (
        replace(crop, scale=(0.08, 1.0)),
        test_crop,
    )  # F21
    assert prepared(Config(images=Images("aepg")), "cub200") == (crop, test_crop)
    with pytest.raises(
        ValueError, match=r"clipped=true is a switch of OLOR's transform \(F15\), not of protocol='slca'"
    ):
        prepared(Config(images=Images("slca", clipped=True)), "cifar100")
    with pytest.raises(ValueError, match=r"smallest_crop=0.08 needs random crops, which protocol='slca' does not use"):
        prepared(Config(images=Images("slca", smallest_crop=0.08)), "cub200")


def test_a_tag_stands_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def create(name: str, weights: Any = None, *, allow_unexpected: tuple[str, ...] = (), **size: Any) -> nn.Module:
        asked.append((name, weights, allow_unexpected))
        return nn.Identity()

    monkeypatch.setattr(build, "create_backbone", create)
    make_backbone(Config(backbone="vit_base_patch16_224.mae"))
    make_backbone(Config(backbone="vit_base_patch16_224.mae"), Path("file.pth"))
    make_backbone(Config(backbone="vit_tiny_patch16_224"))
    assert asked == [
        ("vit_base_patch16_224.mae", "pretrained", ()),
        ("vit_base_patch16_224.mae", Path("file.pth"), OF_PRETRAINING),
        ("vit_tiny_patch16_224", None, ()),
    ]
    with pytest.raises(ValueError, match="'resnet50_cifar' starts from random weights, because its name has no tag"):
        make_backbone(Config(backbone="resnet50_cifar"), Path("file.pth"))


def test_prompts_alone_are_trained() -> None:
    config = Config().set(["prompts.tokens=3"])
    model = make_model(config, make_backbone(config))
    trained = {name: p.shape for name, p in model.named_parameters() if p.requires_grad and name.startswith("backbone")}
    assert list(trained.values()) == [(3, 128)] * 6


@pytest.mark.parametrize(
    ("settings", "rates"), [([], [1.0, 1.0, 1.0, 1.0, 0.1]), (["milestones=[1,3]"], [1.0, 0.1, 0.1, 0.01, 0.01])]
)
def test_the_rate_falls_at_the_milestones(settings: list[str], rates: list[float]) -> None:
    config = Config(epochs=5, schedule="step", lr=1.0).set(settings)
    strategy = make_strategy(config, make_model(config, make_backbone(config)), 0, [])
    (fresh,) = [plugin for plugin in strategy.plugins if hasattr(plugin, "every")]
    strategy.dataloader = [None]
    fresh.before_training_exp(strategy)
    seen = []
    for _ in range(5):
        seen.append(strategy.optimizer.param_groups[-1]["lr"])
        strategy.optimizer.step()
        fresh.after_training_epoch(strategy)
    assert seen == pytest.approx(rates)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (["milestones=[3]"], r"milestones=\[3\] need the step schedule"),
        (["schedule=step", "milestones=[3,2]"], r"increasing epochs between 0 and epochs=3, got \[3, 2\]: set milest"),
        (
            ["schedule=step", "milestones=[3]"],
            r"got \[3\]: set milestones=\[\] for one after four fifths of the epochs",
        ),
        (["epochs=2", "lora={}"], r"^lora\.frozen_epochs=3 is more than epochs=2: set lora\.frozen_epochs, too$"),
        (["read_block=-1"], r"read_block must be the number of a block, from 0, got -1$"),
        (["milestones=[1.5]"], "milestones must be a list of integers"),
        (["keep=best"], "set images.hold_out to true"),
        (["micro_batch=0"], "at least 1, got 0"),
        (["prompts={}", "lora={}"], "lora and prompts cannot be combined"),
        (["memory.method=der++", "precision=fp16"], r"DER\+\+ has its own training step"),
    ],
)
def test_combinations_that_mean_nothing_are_refused(settings: list[str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Config().set(settings)


def test_photographs_are_convolved_channels_last_to_the_same_numbers() -> None:
    torch.manual_seed(0)
    config = Config(backbone="resnet10t")
    plain = make_model(config, make_backbone(config)).eval()
    images = torch.from_numpy(np.random.RandomState(0).rand(2, 3, 64, 64).astype(np.float32))
    with torch.no_grad():
        before = plain.features(images)
        moved = make_model(config.set(["images={}"]), plain.backbone).eval()
        assert moved.backbone.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[index, union-attr]
        torch.testing.assert_close(moved.features(images), before, rtol=1e-4, atol=1e-5)


AUTHORS = {"batch": 32, "epochs": 3, "alignment": 5, "decay": (5e-4, 5e-4), "drops": True, "late": False, "eps": 1e-5}
"""What SLCA's authors have, or the embedded tier in its place; ``eps`` is a fresh norm's."""


def built(recipe: str) -> dict[str, Any]:
    """The same of the strategy of a recipe, whose rate is that of the last epoch."""
    config = RECIPES[recipe].config
    model = make_model(config, make_backbone(config))
    strategy: Any = make_strategy(config, model, 0, [])
    of = {type(plugin): plugin for plugin in strategy.plugins}
    optimizer, first = strategy.optimizer, strategy.optimizer.param_groups[0]["lr"]
    schedule = of[FreshOptimizer].schedule
    if schedule is not None:
        scheduler = schedule(optimizer, config.epochs)
        optimizer.step()
        for _ in range(config.epochs - 1):
            scheduler.step()
    (decay,) = {group["weight_decay"] for group in optimizer.param_groups}
    return {
        "batch": strategy.train_mb_size,
        "epochs": strategy.train_epochs,
        "alignment": of[ClassifierAlignment].settings["epochs"],
        "decay": (decay, of[ClassifierAlignment].settings["weight_decay"]),
        "drops": optimizer.param_groups[0]["lr"] < first,
        "late": LateFirstStep in of,
        "eps": model.backbone.norm.eps,
    }


@pytest.mark.parametrize(
    ("recipe", "changed"),
    [
        ("slca", {}),
        ("slca@authors", {}),
        ("slca@authors.f60", {"eps": 1e-6}),
        ("slca@authors.f61", {"batch": 16}),
        ("slca@authors.f62", {"alignment": 3}),
        ("slca@authors.f63", {"epochs": 1, "drops": False}),
        ("slca@authors.f66", {"drops": False}),
        ("slca@authors.f67", {"decay": (0, 0)}),
        ("slca@authors.f68", {"late": True}),
        ("slca@pilot", {"eps": 1e-6, "batch": 16, "alignment": 3, "epochs": 1, "drops": False}),
        ("slca@mammoth", {"drops": False, "decay": (0, 0), "late": True}),
    ],
)
def test_slca_as_others_run_it(recipe: str, changed: dict[str, Any]) -> None:
    assert built(recipe) == {**AUTHORS, **changed}
