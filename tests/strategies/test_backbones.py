"""Backbones by name: strict weights, errors that say what to do, and fingerprints that tell any two apart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from reclaim.benchmark.files import asset
from reclaim.strategies.backbones import QUICKDRAW_VIT, ConvStem, create_backbone, fingerprint, quickdraw_vit
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.heads import ContinualModel
from safetensors.torch import load_file, save_file
from torch import nn

torch.set_num_threads(1)

IMAGES = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


# --- the embedded ViT ---


def test_quickdraw_vit() -> None:
    vit = quickdraw_vit()
    assert vit(IMAGES).shape == (2, 128)
    assert vit.forward_features(IMAGES).shape == (2, 17, 128)
    assert len(vit.blocks) == 6
    assert round(sum(p.numel() for p in vit.parameters()) / 1e6, 1) == 1.4
    assert quickdraw_vit(num_classes=7)(IMAGES).shape == (2, 7)
    assert ContinualModel(vit).heads.in_features == 128


def test_drop_path() -> None:
    torch.manual_seed(0)
    plain, dropping = quickdraw_vit().train(), quickdraw_vit(drop_path_rate=0.5).train()
    assert torch.equal(plain(IMAGES), plain(IMAGES))
    assert not torch.equal(dropping(IMAGES), dropping(IMAGES))


def test_its_stem_is_the_input_of_olors_layers() -> None:
    vit = quickdraw_vit()
    depths = {name: layer_depths(vit)[p] for name, p in vit.named_parameters()}
    assert {depth for name, depth in depths.items() if name.startswith("patch_embed")} == {0.0}
    assert {depth for name, depth in depths.items() if name.startswith("blocks.2.")} == {3 / 7}
    assert depths["norm.weight"] == 1.0


@pytest.mark.parametrize(("side", "tokens"), [(28, 16), (35, 25), (56, 64)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [8, 128])
def test_conv_stem_shapes(side: int, tokens: int, channels: int, width: int) -> None:
    stem = ConvStem(img_size=side, in_chans=channels, embed_dim=width, bias=True, norm_layer=None)
    assert stem.num_patches == tokens
    assert stem(torch.rand(2, channels, side, side)).shape == (2, tokens, width)


def test_tokens_of_the_stem_stand_in_the_order_of_the_image() -> None:
    """A dot in the lower left corner reaches the token of that corner, row by row, and not those of the upper rows."""
    stem = ConvStem(embed_dim=8)
    blank, dotted = torch.zeros(1, 1, 28, 28), torch.zeros(1, 1, 28, 28)
    dotted[0, 0, 25, 2] = 1
    moved = (stem(blank) != stem(dotted)).any(dim=2)[0].reshape(4, 4)
    assert moved[3, 0]
    assert not moved[:2].any()
    assert not moved[:, 2:].any()


def test_every_weight_of_the_stem_gets_a_gradient() -> None:
    stem = ConvStem(embed_dim=8)
    stem(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in stem.parameters())


# --- by name ---


def test_a_timm_model_comes_without_its_classifier() -> None:
    model = create_backbone("test_resnet")
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 96)
    assert isinstance(create_backbone("test_vit.r160_in1k"), timm.models.VisionTransformer), "a name may have a tag"


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_vit.r160_in1k"])
def test_a_backbone_for_images_of_another_size(name: str) -> None:
    model = create_backbone(name, img_size=64).eval()
    assert model(torch.zeros(2, 3, 64, 64)).shape[0] == 2
    own: Any = create_backbone(name, img_size=160)
    assert [p.shape for p in own.parameters()] == [p.shape for p in create_backbone(name).parameters()]


def test_dinov2_is_made_for_the_images_at_hand() -> None:
    with torch.device("meta"):  # 518 px unless told otherwise
        assert create_backbone("vit_small_patch14_dinov2.lvd142m", img_size=224).pos_embed.shape == (1, 257, 384)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (QUICKDRAW_VIT, "'quickdraw_vit' is made for 28 px, and cannot be for 64 px: use another backbone"),
        ("nest_tiny", "'nest_tiny' is made for 224 px, and cannot be for 63 px"),
        ("no_such_vit", "unknown backbone 'no_such_vit'"),
    ],
)
def test_a_size_that_a_backbone_does_not_have(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(name, img_size=63 if name == "nest_tiny" else 64)


def test_position_embeddings_of_a_file_follow_the_size(tmp_path: Path) -> None:
    path = saved(create_backbone("test_vit"), tmp_path / "weights.safetensors")
    assert create_backbone("test_vit", path, img_size=64).pos_embed.shape == (1, 17, 64)
    fitting = saved(create_backbone("test_vit", img_size=64), tmp_path / "fitting.safetensors")
    loaded = create_backbone("test_vit", fitting, img_size=64)
    assert fingerprint(loaded) == fingerprint(create_backbone("test_vit", fitting, img_size=64))


def test_resnet50_for_small_images() -> None:
    model: Any = create_backbone("resnet50_cifar").eval()
    sides: list[int] = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda _, inputs, output: sides.append(output.shape[-1]))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 2048)
    assert sides == [32, 16, 8, 4]  # with timm's stem 8, 4, 2, 1
    assert ContinualModel(model).heads.in_features == 2048
    theirs = timm.create_model("resnet50", num_classes=0)
    assert sum(p.numel() for p in theirs.parameters()) - sum(p.numel() for p in model.parameters()) == 3 * 64 * (
        7 * 7 - 3 * 3
    )
    # variance 2 / (outputs x kernel), as that of timm's other convolutions
    assert float(model.conv1.weight.detach().std()) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)
    depths = {name: layer_depths(model)[p] for name, p in model.named_parameters()}
    assert depths["conv1.weight"] == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "quickdraw_vti",
            "unknown backbone 'quickdraw_vti': use 'quickdraw_vit', .* or a timm model, such as quickdraw_vit",
        ),
        ("resnet50_cifer", "such as resnet50_cifar"),
        ("vit_base_patch16_225", "such as vit_base_patch16_224"),
        ("test_vit.nothing", r"unknown backbone 'test_vit.nothing': .*nothing"),
        ("", "unknown backbone '': use 'quickdraw_vit', 'resnet50_cifar' or a timm model$"),
        ("hf-hub:someone", "'hf-hub:someone' names no repository: write hf-hub:owner/name, or hf-hub:owner/name@rev"),
        ("hf_hub:../etc/passwd", "names no repository"),
        ("no_such_vit.local", "unknown backbone 'no_such_vit.local'"),
    ],
)
def test_an_unknown_name(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(name)


# --- weights ---


def saved(model: nn.Module, path: Path) -> Path:
    save_file(model.state_dict(), path)
    return path


@pytest.mark.parametrize("name", [QUICKDRAW_VIT, "test_resnet"])
def test_weights_come_back(name: str, tmp_path: Path) -> None:
    model = create_backbone(name).eval()
    loaded = create_backbone(name, saved(model, tmp_path / "weights.safetensors")).eval()
    assert fingerprint(loaded) == fingerprint(model) != fingerprint(create_backbone(name))
    images = IMAGES if name == QUICKDRAW_VIT else torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))


def test_the_shipped_weights_are_those_of_the_embedded_vit() -> None:
    path = asset(f"{QUICKDRAW_VIT}.safetensors")
    assert path.stat().st_size <= 8 * 2**20
    features = create_backbone(QUICKDRAW_VIT, str(path)).eval()(IMAGES)
    assert torch.isfinite(features).all()
    assert not torch.equal(*features)


@pytest.mark.parametrize("name", ["weights.safetensors", "."])
def test_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no weights at .*: pass an existing safetensors file"):
        create_backbone(QUICKDRAW_VIT, tmp_path / name)


@pytest.mark.parametrize("content", [b"", b"no safetensors at all"])
def test_a_file_that_holds_no_weights(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.safetensors are not those of 'quickdraw_vit'"):
        create_backbone(QUICKDRAW_VIT, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("norm.bias"), "Missing key.*norm.bias"),
        (lambda weights: weights.update({"head.weight": torch.zeros(10, 128)}), "Unexpected key.*head.weight"),
        (lambda weights: weights.update({"norm.bias": torch.zeros(64)}), "size mismatch for norm.bias"),
    ],
)
def test_loading_is_strict(change: Callable[[dict[str, torch.Tensor]], None], message: str, tmp_path: Path) -> None:
    path = saved(quickdraw_vit(), tmp_path / "weights.safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    with pytest.raises(ValueError, match=rf"(?s)are not those of 'quickdraw_vit'.*{message}"):
        create_backbone(QUICKDRAW_VIT, path)


def test_weights_of_another_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="are not those of 'test_vit'"):
        create_backbone("test_vit", saved(create_backbone("test_resnet"), tmp_path / "weights.safetensors"))


# --- fingerprints ---


def make() -> Any:
    """The same module every time: nothing in it is random."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).reshape(parameter.shape) / 8 + i)
    return model


def test_a_fingerprint_is_the_same_in_every_process_and_version() -> None:
    assert fingerprint(make()) == "3a3af915d1cec43dcc55fec3a0978fe75c7740a6a2541cf27372f7e3552118ae"


def renamed() -> nn.Module:
    linear, norm = make()
    return nn.Sequential(norm, linear)


def one_bit() -> nn.Module:
    model = make()
    model[0].weight.data.view(torch.int32)[2, 1] ^= 1
    return model


def minus_zero() -> nn.Module:
    model = make()
    model[0].weight.data[0, 0] = -0.0
    return model


def other_statistics() -> nn.Module:
    model = make()
    model[1].running_mean[0] += 1
    return model


def other_count() -> nn.Module:
    model = make()
    model[1].num_batches_tracked += 1
    return model


def other_shape() -> nn.Module:
    model = make()
    model[0].weight = nn.Parameter(model[0].weight.detach().reshape(2, 3))
    return model


def exchanged() -> nn.Module:
    model = make()
    model[0].bias, model[1].bias = model[1].bias, model[0].bias
    return model


CHANGES = [
    renamed,
    one_bit,
    minus_zero,
    other_statistics,
    other_count,
    other_shape,
    exchanged,
    lambda: make().double(),
    lambda: make().bfloat16(),
    lambda: nn.Sequential(*make(), nn.Linear(1, 1)),
    lambda: make()[:1],
]


def test_any_change_changes_it() -> None:
    torch.manual_seed(0)
    assert len({fingerprint(m) for m in (make(), *(change() for change in CHANGES))}) == 1 + len(CHANGES)


def test_what_is_no_change() -> None:
    model = make()
    model[0].weight = nn.Parameter(
        model[0].weight.detach().T.contiguous().T, requires_grad=False
    )  # in another memory layout
    assert not model[0].weight.is_contiguous()
    assert fingerprint(model.eval()) == fingerprint(make())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda t: (100 * t).to(torch.int8), "holds int8, and the model's is float32"),
        (lambda t: t > 0, "holds bool, and the model's is float32"),
        (lambda t: t.to(torch.complex64), "holds complex64, and the model's is float32"),
        (lambda t: t.double() * 1e300, "holds NaN or infinite values"),
        (lambda t: t.double(), None),
        (lambda t: t.to(torch.bfloat16), None),
    ],
)
def test_numbers_of_another_kind(
    changed: Callable[[torch.Tensor], torch.Tensor], said: str | None, tmp_path: Path
) -> None:
    tensors = timm.create_model("test_resnet", pretrained=False, num_classes=0).state_dict()
    name = "conv1.weight" if "conv1.weight" in tensors else next(k for k, t in tensors.items() if t.ndim == 4)
    torch.save({**tensors, name: changed(tensors[name])}, tmp_path / "weights.pth")
    if said is None:
        create_backbone("test_resnet", tmp_path / "weights.pth")
        return
    with pytest.raises(ValueError, match=f"{name} {said}"):
        create_backbone("test_resnet", tmp_path / "weights.pth")
