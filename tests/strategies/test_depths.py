"""Depths of layers and tensors in ViTs, ConvNets and other models, and what has none."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from reclaim.strategies.depths import describe_depths, layer_depths
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.olor import OLORAdam
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
            self.neck = nn.Linear(2, 2)
            self.head = nn.Linear(2, 2)

    net = Net()
    expected = {
        "token": 0.0,
        "stem.weight": 0.0,
        "blocks.0.0.weight": 1 / 3,
        "blocks.1.0.weight": 2 / 3,
        "neck.weight": 1.0,
    }
    assert {name: by_name(net)[name] for name in expected} == expected
    assert "head.weight" not in by_name(net)
    without = by_name(net, exclude=net.neck.parameters())
    assert "neck.weight" not in without
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


# Recorded with timm 1.0.31: "tensors levels hash of each tensor's level". Records depend on depths of timm's models.
TIMM_DEPTHS: dict[str, str] = json.loads(Path(__file__).with_name("timm_depths.json").read_text(encoding="utf-8"))


def meta(make: Callable[[], nn.Module]) -> nn.Module:
    """A model of any size, without its numbers."""
    with torch.device("meta"):
        return make()


def summary(model: nn.Module) -> str:
    depths = layer_depths(model)
    levels = sorted(set(depths.values()))
    assert levels == [i / (len(levels) - 1) for i in range(len(levels))]
    level_of = [levels.index(depths[p]) if p in depths else -1 for p in model.parameters()]
    return f"{len(level_of)} {len(levels)} {hashlib.sha256(json.dumps(level_of).encode()).hexdigest()[:8]}"


@pytest.mark.filterwarnings("ignore:layer .* holds")  # the three models of timm that do not say their layers
@pytest.mark.parametrize("name", TIMM_DEPTHS)
def test_depths_of_timm_models_stay_as_they_are(name: str) -> None:
    if name not in timm.list_models():
        pytest.skip(f"timm {timm.__version__} has no {name}")
    model: Any = meta(lambda: timm.create_model(name, num_classes=3))
    if f"{len(list(model.parameters()))} " not in TIMM_DEPTHS[name]:
        pytest.skip(f"{name} is another network in timm {timm.__version__}")
    assert summary(model) == TIMM_DEPTHS[name]
    tensors = by_name(model, counting="tensors")
    assert list(tensors.values()) == [i / (len(tensors) - 1) for i in range(len(tensors))]
    assert set(tensors) == set(by_name(model))


class Net(nn.Module):
    """What people write: a backbone and a head."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head


def new_head() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5))


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": lambda model: torch.compile(model),  # type: ignore[dict-item]
    "data parallel": nn.DataParallel,
    "both": lambda model: nn.DataParallel(torch.compile(model)),  # type: ignore[arg-type]
    "sequential": lambda model: nn.Sequential(model, nn.Linear(16, 5)),
    "a normalisation before it": lambda model: nn.Sequential(nn.Identity(), model, nn.ReLU(), new_head()),
    "backbone and head": lambda model: Net(model, new_head()),
    "compiled backbone and head": lambda model: Net(torch.compile(model), new_head()),  # type: ignore[arg-type]
    "Avalanche's classifier": lambda model: nn.ModuleDict({"net": model, "out": IncrementalClassifier(16)}),
    "continual": ContinualModel,
    "compiled continual": lambda model: torch.compile(ContinualModel(model)),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("counting", ["layers", "tensors"])
def test_a_wrapped_model_keeps_its_depths_and_a_new_head_has_none(wrap: Any, counting: Any) -> None:
    backbone = vit()
    expected = layer_depths(backbone, counting)
    backbone.reset_classifier(0)
    assert layer_depths(wrap(backbone), counting) == expected


def test_blocks_compiled_one_by_one_keep_their_depths() -> None:
    model = vit()
    expected = [*by_name(model).values()]
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block)  # type: ignore[assignment]
    assert [*by_name(model).values()] == expected


TORCHVISION = {
    "resnet18": (9, {"fc"}),
    "densenet121": (63, {"classifier"}),
    "mobilenet_v3_small": (13, {"classifier.3"}),
    "efficientnet_b0": (18, {"classifier.1"}),
    "convnext_tiny": (23, {"classifier.2"}),
    "vit_b_16": (14, {"heads.head"}),
    "swin_t": (17, {"head"}),
    "vgg11": (10, {"classifier.6"}),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_classifiers(name: str) -> None:
    levels, head = TORCHVISION[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = meta(lambda: getattr(torchvision.models, name)(weights=None))
        depths = by_name(model)
    assert {name.rpartition(".")[0] for name, _ in model.named_parameters()} - {
        name.rpartition(".")[0] for name in depths
    } == head
    assert len(set(depths.values())) == levels
    assert next(iter(depths.values())) == 0.0
    if name != "vit_b_16":  # whose position embedding is registered behind the patches
        assert list(depths.values()) == sorted(depths.values())


def test_layers_of_torchvisions_vit_are_those_of_timms() -> None:
    depths = by_name(meta(lambda: torchvision.models.vit_b_16(weights=None)))
    for name in ("class_token", "conv_proj.weight", "encoder.pos_embedding"):
        assert depths[name] == 0.0
    assert [depths[f"encoder.layers.encoder_layer_{i}.mlp.0.weight"] for i in range(12)] == [
        (i + 1) / 13 for i in range(12)
    ]
    assert depths["encoder.ln.weight"] == 1.0


def detector() -> Any:
    return torchvision.models.detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None, num_classes=3, min_size=64, max_size=64
    )


def segmenter() -> Any:
    return torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)


@pytest.mark.parametrize("freshness", ["all pretrained", "backbone pretrained"])
@pytest.mark.trains
def test_a_detector_is_fine_tuned(freshness: str) -> None:
    torch.manual_seed(0)
    model = detector()
    body = {*model.backbone.body.parameters()}
    exclude = [p for p in model.parameters() if p not in body] if freshness == "backbone pretrained" else []
    depths = layer_depths(model, exclude=exclude)
    new = {*model.roi_heads.box_predictor.parameters(), *exclude}
    assert set(depths) == {*model.parameters()} - new
    blocks = [depths[next(block.parameters())] for block in model.backbone.body.children()]
    assert blocks == sorted(blocks)
    assert len(set(depths.values())) >= len(set(blocks)) >= 15
    if not exclude:
        assert {depths[p] for part in (model.backbone.fpn, model.rpn) for p in part.parameters()} == {1.0}
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 50.0]]), "labels": torch.tensor([1])} for _ in images]
    _train(model, depths, lambda: sum(model(images, targets).values()))


@pytest.mark.trains
def test_a_segmenter_is_fine_tuned() -> None:
    torch.manual_seed(0)
    model = segmenter()
    depths = layer_depths(model)
    assert set(depths) == {*model.backbone.parameters()}
    assert len(set(depths.values())) == 17
    images, targets = torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    _train(model, depths, lambda: nn.functional.cross_entropy(model(images)["out"], targets))


def _train(model: nn.Module, depths: dict[nn.Parameter, float], loss: Callable[[], Any]) -> None:
    """Three steps, each of which ends with a rollback of all at the input: it must stay, and what is new must move."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in parameters]
    optimizer = OLORAdam(parameters, lr=1e-3, depths=depths, rollback_input=1.0, rollback_output=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    moved = {p: bool((p != old).any()) for p, old in zip(parameters, before, strict=True)}
    assert not any(moved[p] for p in parameters if depths.get(p) == 0.0)
    assert any(moved[p] for p in parameters if p not in depths)
    assert any(moved[p] for p in parameters if 0 < depths.get(p, 0.0) < 1)


def test_lora_and_saved_modules_of_peft_are_new() -> None:
    peft = pytest.importorskip("peft")
    model = vit()
    expected = [*by_name(model).values()]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["qkv", "proj"], modules_to_save=["head"]))
    for counting in ("layers", "tensors"):
        depths = by_name(wrapped, counting=counting)
        assert not [name for name in depths if "lora_" in name or "head" in name]
        assert not {*layer_depths(wrapped, counting)} & {p for p in wrapped.parameters() if p.requires_grad}
    assert [*by_name(wrapped).values()] == expected
    ia3 = peft.get_peft_model(vit(), peft.IA3Config(target_modules=["qkv", "fc2"], feedforward_modules=["fc2"]))
    assert [*by_name(ia3).values()] == expected
    assert not [name for name in by_name(ia3) if "ia3" in name]


@pytest.mark.parametrize("modules_to_save", [None, ["classifier"]])
def test_transformers_models(modules_to_save: Any) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(**sizes, image_size=28, patch_size=7, num_labels=5)
    model = transformers.ViTForImageClassification(config)
    depths = by_name(model)
    assert {name for name, _ in model.named_parameters()} - set(depths) == {"classifier.weight", "classifier.bias"}
    for name, depth in depths.items():
        block = [int(part) for part in name.split(".") if part.isdigit()]
        embedding = "embeddings" in name
        assert depth == (0.0 if embedding else (block[0] + 1) / 4 if block else 1.0), name
    peft = pytest.importorskip("peft")
    attention = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear)})
    targets = [name for name in attention if name != "classifier"]
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets, modules_to_save=modules_to_save))
    assert [*by_name(wrapped).values()] == [*depths.values()]
    assert not [name for name in by_name(wrapped) if "lora_" in name or "classifier" in name]


def test_stages_of_a_transformers_resnet_are_gone_into() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 3], layer_type="basic", num_labels=3
    )
    depths = by_name(transformers.ResNetForImageClassification(config))
    assert len(set(depths.values())) == 1 + 2 + 3


def test_new_parts_by_their_names() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.adapter = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
            self.lora_a = nn.Parameter(torch.zeros(2))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.prompts = nn.Parameter(torch.zeros(2))
            self.stem = nn.Linear(2, 2)
            self.blocks = nn.Sequential(Block(), Block())
            self.norm = nn.LayerNorm(2)
            self.out = nn.Linear(2, 2)  # the last Linear behind a chain

    depths = by_name(Model())
    assert {name.rpartition(".")[0]: depth for name, depth in depths.items()} == {
        "stem": 0.0,
        "blocks.0.first": 1 / 3,
        "blocks.0.second": 1 / 3,
        "blocks.1.first": 2 / 3,
        "blocks.1.second": 2 / 3,
        "norm": 1.0,
    }


def test_a_layer_with_most_of_the_weights_is_told() -> None:
    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.stage = nn.Linear(8, 8), Stage()

    with pytest.warns(UserWarning, match=r"layer 1 of 0 to 1 of Model, from stage.a.weight to stage.c.bias, holds 75%"):
        depths = layer_depths(Model())
    assert set(depths.values()) == {0.0, 1.0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer_depths(Model(), "tensors")
        layer_depths(nn.Sequential(nn.Linear(2, 2), nn.Linear(50, 50)))  # cannot be divided
        layer_depths(vit())


def table_of(model: nn.Module, depths: Any = None) -> dict[str, tuple[str, int]]:
    """What a line of the table is of -> its depth and weights."""
    lines = [line.split(None, 2) for line in describe_depths(model, depths).splitlines()]
    assert lines[0] == ["depth", "weights", "of"]
    return {of: (depth, int(weights.replace(",", ""))) for depth, weights, of in lines[1:]}


def test_the_table_names_each_parameter_once() -> None:
    model = vit()
    table = table_of(model)
    assert [depth for depth, _ in table.values()] == ["0.000", "0.250", "0.500", "0.750", "1.000", "none"]
    assert [*table] == ["cls_token, pos_embed, patch_embed", "blocks.0", "blocks.1", "blocks.2", "norm", "head"]
    assert sum(weights for _, weights in table.values()) == sum(p.numel() for p in model.parameters())


def test_the_table_is_of_the_depths_given() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 1))
    first, second, third, last = (module for module in model if isinstance(module, nn.Linear))
    depths = {**dict.fromkeys([*second.parameters(), *third.parameters()], 0.5), first.bias: 0.0, last.weight: 1.0}
    assert table_of(model, depths) == {
        "0.bias": ("0.000", 3),
        "1-2": ("0.500", 24),
        "4.weight": ("1.000", 3),
        "0.weight, 4.bias": ("none", 7),
    }
    assert table_of(nn.Linear(2, 2), {}) == {"weight, bias": ("none", 6)}
    with pytest.raises(ValueError, match=r"depths holds 1 parameters that Sequential does not have.*\(3,\)"):
        describe_depths(model, {nn.Parameter(torch.zeros(3)): 0.0})


def test_exclude_takes_parameters_of_this_model_only() -> None:
    model = vit()
    for wrong, named in ((model.head, "Linear"), ("head", "str")):
        with pytest.raises(TypeError, match=f"exclude holds .* a {named}: give parameters"):
            layer_depths(model, exclude=[wrong])  # type: ignore[list-item]
    for wrong, named in ((model.norm, "LayerNorm"), (None, "NoneType"), (1, "int")):
        with pytest.raises(TypeError, match=f"a {named}: give parameters"):
            layer_depths(model, exclude=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="exclude holds 2 parameters that VisionTransformer does not have"):
        layer_depths(model, exclude=vit().norm.parameters())
    assert not set(layer_depths(model, exclude=model.norm.parameters())) & {*model.norm.parameters()}


DENSE = {
    "fasterrcnn_resnet50_fpn_v2": (
        "detection",
        "backbone.fpn, rpn, roi_heads.box_head",
        "roi_heads.box_predictor",
    ),
    "maskrcnn_resnet50_fpn_v2": (
        "detection",
        "backbone.fpn, rpn, roi_heads.{box_head, mask_head}",
        "roi_heads.{box_predictor, mask_predictor}",
    ),
    "deeplabv3_resnet50": ("segmentation", "backbone.layer4.2", "classifier"),
    "lraspp_mobilenet_v3_large": ("segmentation", "backbone.16", "classifier"),
}


@pytest.mark.parametrize("name", DENSE)
def test_torchvisions_detectors_and_segmenters(name: str) -> None:
    kind, last, new = DENSE[name]
    model = meta(lambda: getattr(getattr(torchvision.models, kind), name)(weights=None, weights_backbone=None))
    depths = layer_depths(model)
    table = table_of(model)
    assert (table[last][0], table[new][0]) == ("1.000", "none")
    body = model.backbone.body if kind == "detection" else model.backbone
    in_order = [depths[next(block.parameters())] for block in body.modules() if _is_block(block)]
    assert len(in_order) in (15, 16)
    assert in_order == sorted(set(in_order))  # each block of each stage has a depth of its own


def _is_block(module: nn.Module) -> bool:
    return type(module).__name__ in ("Bottleneck", "InvertedResidual")


class FeatureMap(nn.Module):
    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit, self.out_channels = vit, vit.embed_dim

    def forward(self, images: torch.Tensor) -> Any:
        return self.vit.forward_intermediates(images, indices=1, norm=True, intermediates_only=True)[0]


@pytest.mark.trains
def test_a_vit_inside_a_detector_keeps_its_depths_and_is_fine_tuned() -> None:
    torch.manual_seed(0)
    backbone = timm.create_model("test_vit", num_classes=0, dynamic_img_size=True)
    expected = [*layer_depths(backbone).values()]
    anchors = torchvision.models.detection.anchor_utils.AnchorGenerator(((16,),), ((1.0,),))
    model = torchvision.models.detection.FCOS(
        FeatureMap(backbone), num_classes=3, anchor_generator=anchors, min_size=64, max_size=64
    )
    depths = layer_depths(model)
    assert [*depths.values()] == expected
    images = [torch.rand(3, 64, 64) for _ in range(2)]
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 50.0]]), "labels": torch.tensor([1])} for _ in images]
    _train(model, depths, lambda: sum(model(images, targets).values()))


def test_torch_is_enough() -> None:
    code = (
        "import sys, torch; from torch import nn; from reclaim.strategies.depths import layer_depths; "
        "layer_depths(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))); "
        "sys.exit(', '.join({'avalanche', 'timm', 'torchvision', 'peft'} & {*sys.modules}) or None)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- towers, names of others, and Avalanche's classifiers ---


class Tower(nn.Module):
    """As CLIP's image tower: the projection of its output is a tensor of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(8))
        self.positional_embedding = nn.Parameter(torch.zeros(5, 8))
        self.proj = nn.Parameter(torch.zeros(8, 4))
        self.conv1 = nn.Conv2d(3, 8, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(3))
        self.ln_post = nn.LayerNorm(8)


def test_the_last_projection_of_a_tower_is_behind_its_blocks() -> None:
    tower = Tower()
    for model in (tower, nn.ModuleDict({"visual": tower, "head": nn.Linear(4, 2)})):
        depths = layer_depths(model)
        assert depths[tower.proj] == depths[tower.ln_post.weight] == 1.0
        assert depths[tower.class_embedding] == depths[tower.positional_embedding] == depths[tower.conv1.weight] == 0.0


def test_names_of_efficientnet_pytorch() -> None:
    model = nn.Module()
    model.add_module("_conv_stem", nn.Conv2d(3, 8, 3))
    model.add_module("_blocks", nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)) for _ in range(2)))
    model.add_module("_conv_head", nn.Conv2d(8, 8, 1))
    model.add_module("_fc", nn.Linear(8, 2))
    depths = layer_depths(model)
    known = {name: depths.get(parameter) for name, parameter in model.named_parameters()}
    assert known["_conv_stem.weight"] == 0.0
    assert known["_conv_head.weight"] == 1.0
    assert known["_fc.weight"] is None


def test_avalanches_classifiers_are_new_wherever_they_stand_and_its_models_are_not() -> None:
    class Blocks(MultiTaskModule):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(4, 8)
            self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)) for _ in range(2))

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = Blocks()
            self.classifier = IncrementalClassifier(8)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Own()
            self.net.classifier = MultiHeadClassifier(8)  # type: ignore[assignment]
            self.proj = nn.Linear(8, 8)

    for model, backbone, classifier in (
        (own := Own(), own.backbone, own.classifier),
        (outer := Outer(), outer.net.backbone, outer.net.classifier),
    ):
        depths = layer_depths(model)
        assert all(parameter in depths for parameter in backbone.parameters())
        assert not any(parameter in depths for parameter in classifier.parameters())
