"""SSF: a scale and a shift after every layer, which merge into the weights and alone train."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from reclaim.strategies.backbones import quickdraw_vit
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.peft import attach_lora
from reclaim.strategies.peft_module import peft_modules, peft_parameters
from reclaim.strategies.ssf import SSF, attach_ssf, detach_ssf
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

torch.set_num_threads(1)

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


class NormedPatches(PatchEmbed):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **(kwargs | {"norm_layer": nn.LayerNorm}))


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "pooled": {"global_pool": "avg", "class_token": False},
    "no bias of qkv": {"qkv_bias": False},
    "norm of patches": {"embed_layer": NormedPatches},
    "layer scale": {"init_values": 0.5},
}
every_kind = pytest.mark.parametrize("arguments", KINDS.values(), ids=KINDS)


def vit(**arguments: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "embed_dim": 8,
        "depth": 3,
        "num_heads": 2,
        "num_classes": 0,
    }
    return VisionTransformer(**(sizes | arguments)).eval()


def strong(model: nn.Module) -> list[SSF]:
    """Modules far from the identity, so that one at the wrong place shows."""
    return attach_ssf(model, std=0.5, generator=torch.Generator().manual_seed(3))


@every_kind
def test_merged_it_predicts_the_same(arguments: dict[str, Any]) -> None:
    model = vit(**arguments)
    plain, names = model(IMAGES), [name for name, _ in model.named_parameters()]
    modules = strong(model)
    expected = model(IMAGES)
    assert (expected - plain).abs().max() > 0.1
    assert detach_ssf(model, merge=True) == modules
    torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert not peft_modules(model)
    added = {name for name, _ in model.named_parameters()} - set(names)
    assert all(name.endswith("qkv.bias") for name in added)


@every_kind
def test_detached_the_model_is_as_before(arguments: dict[str, Any]) -> None:
    model = vit(**arguments)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(IMAGES)
    strong(model)
    detach_ssf(model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(model(IMAGES), expected)


def test_it_is_after_the_layers_that_the_code_has_it_after() -> None:
    names = [name.removesuffix(".ssf") for name, m in _attached(vit(depth=2)) if isinstance(m, SSF)]
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    assert sorted(names) == sorted(
        ["patch_embed.proj", *(f"blocks.{j}.{layer}" for j in range(2) for layer in block), "norm"]
    )
    names = [name for name, m in _attached(vit(depth=1, **KINDS["pooled"])) if isinstance(m, SSF)]
    assert "fc_norm.ssf" in names
    assert "norm.ssf" not in names
    assert "patch_embed.norm.ssf" in [name for name, _ in _attached(vit(embed_layer=NormedPatches))]


def _attached(model: Any) -> list[tuple[str, nn.Module]]:
    attach_ssf(model)
    return list(model.named_modules())


def test_every_layers_output_is_scaled_and_shifted() -> None:
    model = vit()
    strong(model)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, layer in model.named_modules():
        if isinstance(getattr(layer, "ssf", None), SSF):
            layer.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (type(m).forward(m, *i), o)}))
    with torch.no_grad():
        model(IMAGES)
    for name, (plain, output) in seen.items():
        ssf = dict(model.named_modules())[f"{name}.ssf"]
        shape = (-1, 1, 1) if name == "patch_embed.proj" else (-1,)
        torch.testing.assert_close(output, plain * ssf.scale.view(shape) + ssf.shift.view(shape))
    assert len(seen) == 3 * 6 + 2


def test_it_starts_near_the_identity() -> None:
    modules = attach_ssf(vit(embed_dim=256, num_heads=4), generator=torch.Generator().manual_seed(0))
    scale, shift = (torch.cat([getattr(m, name) for m in modules]) for name in ("scale", "shift"))
    assert abs(float(scale.mean()) - 1) < 1e-3
    assert abs(float(shift.mean())) < 1e-3
    assert abs(float(scale.std()) - 0.02) < 1e-3
    assert abs(float(shift.std()) - 0.02) < 1e-3
    model = vit()
    expected = model(IMAGES)
    attach_ssf(model, std=0)
    torch.testing.assert_close(model(IMAGES), expected)


def test_its_own_parameters_train_alone() -> None:
    model = ContinualModel(quickdraw_vit())
    attach_ssf(model)
    model.heads.add_head([0, 1])
    model(torch.rand(1, 1, 28, 28)).square().sum().backward()
    own = {*peft_parameters(model), *model.heads.heads.parameters()}
    assert {p for p in model.parameters() if p.grad is not None} == own


def test_copies_have_modules_of_their_own() -> None:
    model = vit()
    strong(model)
    expected = model(IMAGES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            for parameter in peft_parameters(other):
                parameter.zero_()
        assert (other(IMAGES) - expected).abs().max() > 0.1
        detach_ssf(other)
        assert torch.equal(model(IMAGES), expected)


def test_errors() -> None:
    model = vit()
    with pytest.raises(ValueError, match="no SSF is attached"):
        detach_ssf(model)
    with pytest.raises(ValueError, match="must not be negative, got std=-1"):
        attach_ssf(model, std=-1)
    assert all(p.requires_grad for p in model.parameters())
    attach_lora(model, [0])
    with pytest.raises(ValueError, match="modules already, such as LoRA: detach them first"):
        attach_ssf(model)
    with pytest.raises(TypeError, match="timm VisionTransformer"):
        attach_ssf(nn.Linear(2, 2))
