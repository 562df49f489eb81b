"""Depths of layers and tensors in ViTs, ConvNets and other models, and what has none."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.peft import attach_lora
from reclaim.strategies.peft_module import peft_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import nn


def vit(depth: int = 3) -> VisionTransformer:
    return VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, embed_dim=16, depth=depth, num_heads=2, num_classes=5
    )


def by_name(model: nn.Module, **options: Any) -> dict[str, float]:
    depths = layer_depths(model, **options)
    return {name: depths[p] for name, p in model.named_parameters() if p in depths}


def test_f8_layers_of_a_vit() -> None:
    depths = by_name(vit())
    expected = {"cls_token": 0.0, "pos_embed": 0.0, "patch_embed": 0.0, "norm": 1.0}
    for name, depth in depths.items():
        top = name.split(".")[0]
        assert depth == (expected[top] if top != "blocks" else (int(name.split(".")[1]) + 1) / 4), name
    assert set(by_name(vit())) == {name for name, _ in vit().named_parameters() if not name.startswith("head")}


def test_f8_tensors_of_a_vit() -> None:
    names = [name for name, _ in vit().named_parameters() if not name.startswith("head")]
    assert by_name(vit(), counting="tensors") == {name: i / (len(names) - 1) for i, name in enumerate(names)}


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("test_resnet", "conv1.0.weight", "layer4.0.conv1.weight"),
        ("test_convnext", "stem.0.weight", "head.norm.weight"),
        ("test_efficientnet", "conv_stem.weight", "bn2.weight"),
        ("resnet18", "bn1.weight", "layer4.1.bn2.weight"),
    ],
)
def test_layers_of_a_convnet(name: str, first: str, last: str) -> None:
    model: Any = timm.create_model(name, num_classes=3)
    depths = by_name(model)
    assert depths[first] == 0.0
    assert depths[last] == 1.0
    # in the order of the parameters, and evenly spaced
    levels = sorted(set(depths.values()))
    assert levels == pytest.approx([i / (len(levels) - 1) for i in range(len(levels))])
    assert list(depths.values()) == sorted(depths.values())
    assert len(levels) > 4
    classifier = {id(p) for p in model.get_classifier().parameters()}
    assert classifier
    assert {n for n, p in model.named_parameters() if id(p) in classifier} == {
        n for n, _ in model.named_parameters()
    } - set(depths)


def test_blocks_of_a_resnet_are_its_layers() -> None:
    depths = by_name(timm.create_model("resnet18", num_classes=0))
    assert {name: depths[f"{name}.conv1.weight"] for name in ("layer1.0", "layer1.1", "layer2.0", "layer4.1")} == {
        "layer1.0": 1 / 8,
        "layer1.1": 2 / 8,
        "layer2.0": 3 / 8,
        "layer4.1": 1.0,
    }


def test_registers_and_the_norm_before_the_blocks_are_input() -> None:
    class EarlierViT(VisionTransformer):
        """With the patterns of timm's earlier versions, which do not know these tensors."""

        def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
            return {
                "stem": r"^cls_token|pos_embed|patch_embed",
                "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
            }

    for cls in (VisionTransformer, EarlierViT):
        model = cls(
            img_size=28,
            patch_size=7,
            in_chans=1,
            embed_dim=16,
            depth=2,
            num_heads=2,
            num_classes=0,
            reg_tokens=2,
            pre_norm=True,
        )
        depths = by_name(model)
        assert depths["reg_token"] == depths["cls_token"] == 0.0
        assert depths["blocks.0.norm1.weight"] == pytest.approx(1 / 3)
        assert depths["norm.weight"] == 1.0
    assert (
        by_name(
            VisionTransformer(
                img_size=28, patch_size=7, in_chans=1, embed_dim=16, depth=1, num_heads=2, num_classes=0, pre_norm=True
            )
        )["norm_pre.weight"]
        == 0.0
    )


def test_depths_of_a_continual_model_are_those_of_its_backbone() -> None:
    model = ContinualModel(vit())
    model.heads.add_head([0, 1])
    assert layer_depths(model) == layer_depths(model.backbone)
    assert not set(layer_depths(model)) & set(model.heads.parameters())


@pytest.mark.parametrize("counting", ["layers", "tensors"])
def test_lora_is_not_rolled_back_and_does_not_count(counting: Any) -> None:
    model = vit()
    before = layer_depths(model, counting)
    attach_lora(model, range(2))
    assert layer_depths(model, counting) == before
    assert list(peft_parameters(model))


def test_layers_of_other_models_come_in_the_order_of_their_registration() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(2))
            self.stem = nn.Linear(2, 2)
            self.act = nn.ReLU()
            self.blocks = nn.Sequential(nn.ModuleList([nn.Linear(2, 2)]), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
            self.head = nn.Linear(2, 2)

    net = Net()
    expected = {
        "token": 0.0,
        "stem.weight": 0.0,
        "blocks.0.0.weight": 1 / 3,
        "blocks.1.0.weight": 2 / 3,
        "head.weight": 1.0,
    }
    assert {name: by_name(net)[name] for name in expected} == expected
    without = by_name(net, exclude=net.head.parameters())
    assert "head.weight" not in without
    assert without["blocks.1.0.bias"] == 1.0


def test_a_wrapper_is_not_a_layer() -> None:
    wrapped = nn.ModuleDict({"inner": vit()})
    assert by_name(wrapped) == {f"inner.{name}": depth for name, depth in by_name(vit()).items()}


def test_a_shared_parameter_counts_where_it_comes_first() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    assert layer_depths(model)[model[0].weight] == 0.0


def test_depths_of_nothing() -> None:
    with pytest.raises(ValueError, match="counting must be"):
        layer_depths(vit(), "blocks")  # type: ignore[arg-type]
    for counting in ("layers", "tensors"):
        with pytest.raises(ValueError, match="no parameter of ReLU"):
            layer_depths(nn.ReLU(), counting)  # type: ignore[arg-type]
