"""Layer-wise learning-rate decay: the rate of every parameter of a ViT, and of the heads that come later."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.supervised import Naive
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.layer_decay import layer_decay_groups
from reclaim.strategies.peft import attach_lora
from torch import nn


def vit() -> ContinualModel:
    return ContinualModel(timm.create_model("test_vit", img_size=32, num_classes=0))


def rates_of(model: nn.Module, groups: list[dict[str, object]] | list[dict[str, float]]) -> dict[str, float]:
    rates = {p: group["lr"] for group in groups for p in group["params"]}  # type: ignore[attr-defined]
    return {name: rates[p] for name, p in model.named_parameters()}  # type: ignore[index]


def test_the_rates_of_a_vit_are_those_of_mae() -> None:
    """MAE's layer ids: 0 for tokens and patches, 1 to L for the blocks, L + 1 for the rest."""
    model, decay = vit(), 0.5
    model.heads.add_head([0, 1])
    depth = len(model.backbone.blocks)  # type: ignore[arg-type]
    assert depth > 1
    for name, rate in rates_of(model, layer_decay_groups(model, 0.1, decay)).items():
        parts = name.split(".")
        if parts[0] == "heads" or parts[1] in ("norm", "fc_norm"):
            layer = depth + 1
        else:
            layer = int(parts[2]) + 1 if parts[1] == "blocks" else 0
        assert rate == pytest.approx(0.1 * decay ** (depth + 1 - layer)), name


def test_every_parameter_once_and_the_heads_last() -> None:
    model = vit()
    groups = layer_decay_groups(model, 0.1, 0.9, weight_decay=0.3)
    listed = [p for group in groups for p in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(model.parameters()))
    assert all(group["weight_decay"] == 0.3 for group in groups)
    assert set(groups[-1]["params"]) == set(model.heads.parameters())
    assert "weight_decay" not in layer_decay_groups(model, 0.1, 0.9)[0]


def test_decay_1_is_one_rate() -> None:
    assert {group["lr"] for group in layer_decay_groups(vit(), 0.1, 1.0)} == {0.1}


def test_modules_of_peft_have_no_layer() -> None:
    model = vit()
    before = {name for name, _ in model.named_parameters()}
    attach_lora(model, range(1), 2)
    rates = rates_of(model, layer_decay_groups(model, 0.1, 0.5))
    added = {rate for name, rate in rates.items() if "lora" in name.lower() and name not in before}
    assert added == {0.1}


@pytest.mark.trains
def test_heads_that_come_later_are_in_the_last_group() -> None:
    torch.manual_seed(0)
    model = vit()
    optimizer = torch.optim.Adam(layer_decay_groups(model, 0.01, 0.5))
    strategy = Naive(model=model, optimizer=optimizer, train_mb_size=4, evaluator=None)
    tasks = [(torch.randn(4, 3, 32, 32), torch.tensor([c, c, c + 1, c + 1])) for c in (0, 2)]
    stream = tensors_benchmark(train_tensors=tasks, test_tensors=tasks, task_labels=[0, 0])
    for experience in stream.train_stream:
        strategy.train(experience)
    assert set(optimizer.param_groups[-1]["params"]) == set(model.heads.parameters())
    assert len(list(model.heads.heads)) == 2
    assert optimizer.param_groups[-1]["lr"] == 0.01


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.1, math.nan])
def test_a_decay_out_of_its_range(decay: float) -> None:
    with pytest.raises(ValueError, match="decay must be above 0 and at most 1, got"):
        layer_decay_groups(vit(), 0.1, decay)


def test_bad_rates_and_models() -> None:
    with pytest.raises(ValueError, match="lr must be a finite number, not negative, got -1"):
        layer_decay_groups(vit(), -1.0, 0.5)
    with pytest.raises(TypeError, match="layer_decay_groups needs a backbone with a classifier"):
        layer_decay_groups(nn.Sequential(nn.Flatten(), nn.Tanh()), 0.1, 0.5)


def test_the_name_of_the_classifier_does_not_matter() -> None:
    def make(name: str) -> Any:
        model = nn.Module()
        for part in ("conv1", "conv2", "fc1"):
            model.add_module(part, nn.Linear(4, 4))
        model.add_module(name, nn.Linear(4, 2))
        return model

    rates = [[group["lr"] for group in layer_decay_groups(make(name), 1.0, 0.5)] for name in ("fc2", "classifier")]
    assert rates[0] == rates[1]
