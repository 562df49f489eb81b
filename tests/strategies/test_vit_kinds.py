"""The ViTs that others pretrain are built differently: CLIP's have a norm before their blocks, DINOv2's scale each
layer and may have register tokens, SigLIP's pool by attention. Every part of the recipes goes into each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.peft import attach_adapter, attach_lora, attach_prefix, detach_peft
from reclaim.strategies.peft_module import peft_parameters
from reclaim.strategies.prompts import attach_prompts, detach_prompts
from reclaim.strategies.slca import fresh_final_norm, slow_learner_groups
from reclaim.strategies.slca_pp import attach_svd_lora, slca_pp_groups, train_low_rank_and_norms

DEPTH, WIDTH, SIDE = 3, 48, 56

KINDS = {
    "supervised": "vit_base_patch16_224.augreg_in21k",
    "mocov3": "vit_base_patch16_224",
    "mae": "vit_base_patch16_224.mae",
    "clip": "vit_base_patch16_clip_224.openai",
    "dinov2": "vit_base_patch14_dinov2.lvd142m",
    "dinov2 with registers": "vit_base_patch14_reg4_dinov2.lvd142m",
    "siglip": "vit_base_patch16_siglip_224.webli",
}
every_kind = pytest.mark.parametrize("name", KINDS.values(), ids=KINDS)


def small(name: str) -> Any:
    """The same kind of ViT with few and narrow blocks."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": 4, "img_size": SIDE}
    return timm.create_model(name, num_classes=0, **options).eval()


def test_they_do_differ() -> None:
    assert isinstance(small(KINDS["clip"]).norm_pre, torch.nn.LayerNorm)
    assert hasattr(small(KINDS["dinov2"]).blocks[0].ls1, "gamma")
    assert small(KINDS["dinov2 with registers"]).num_prefix_tokens == 5
    assert small(KINDS["siglip"]).attn_pool is not None


@torch.no_grad()
def features(model: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    found: torch.Tensor = model(torch.rand(2, 3, SIDE, SIDE, generator=generator))
    return found


ATTACH: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "LoRA": (lambda model: attach_lora(model, range(DEPTH), rank=2), detach_peft),
    "adapter": (lambda model: attach_adapter(model, range(DEPTH), hidden=3), detach_peft),
    "prefix": (lambda model: attach_prefix(model, range(DEPTH), tokens=3), detach_peft),
    "deep prompts": (lambda model: attach_prompts(model, 3, deep=True), detach_prompts),
    "shallow prompts": (lambda model: attach_prompts(model, 3, deep=False), detach_prompts),
}


@every_kind
@pytest.mark.parametrize("part", ATTACH)
def test_a_part_goes_in_acts_learns_and_comes_out(name: str, part: str) -> None:
    model = small(name)
    attach, detach = ATTACH[part]
    for p in model.parameters():  # LayerScale begins at 1e-5, where no block would matter
        p.data.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    before = features(model)
    attach(model)
    for p in peft_parameters(model):
        torch.nn.init.normal_(p)
    assert features(model).shape == before.shape
    assert not torch.allclose(features(model), before)
    model(torch.rand(1, 3, SIDE, SIDE)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in peft_parameters(model))
    detach(model)
    assert torch.equal(features(model), before)


@every_kind
def test_depths(name: str) -> None:
    """What comes before the blocks has depth 0, a block one depth with all that scales it, what comes after has 1."""
    model = small(name)
    depths = layer_depths(model)
    of = {key: depths[p] for key, p in model.named_parameters() if p in depths}
    assert set(of) == {key for key, _ in model.named_parameters()}
    last = DEPTH + 1 + (model.attn_pool is not None)  # the pooling is a layer after the final norm
    for key, depth in of.items():
        top, *rest = key.split(".")
        if top == "blocks":
            assert depth == pytest.approx((int(rest[0]) + 1) / last), key
        elif top in ("cls_token", "reg_token", "pos_embed", "patch_embed", "norm_pre"):
            assert depth == 0, key
        else:
            assert depth == (1 if top == "attn_pool" else pytest.approx((DEPTH + 1) / last)), key


@every_kind
def test_slca_and_slca_pp(name: str) -> None:
    model = ContinualModel(small(name))
    before = features(model.backbone)
    fresh_final_norm(model)
    assert features(model.backbone).shape == before.shape
    model.heads.add_head(range(2))
    backbone, heads = slow_learner_groups(model, 0.1, 0.01, 0.0)
    assert {*backbone["params"]} == {*model.backbone.parameters()}
    assert {*heads["params"]} == {*model.heads.parameters()}
    with torch.no_grad():
        features_before = features(model.backbone)
    attach_svd_lora(model, rank=2)
    torch.testing.assert_close(features(model.backbone), features_before, rtol=1e-3, atol=1e-4)
    train_low_rank_and_norms(model)
    groups = slca_pp_groups(model, 0.1)
    assert {*groups[1]["params"]} == {*peft_parameters(model)}
    trained = {key for key, p in model.backbone.named_parameters() if p.requires_grad}
    assert trained > {"blocks.0.norm1.weight", "blocks.0.attn.qkv.bias", "blocks.0.mlp.fc1.lora.A"}
    assert not trained & {"pos_embed", "blocks.0.attn.qkv.weight", "blocks.0.ls1.gamma"}
