"""VPT: prompts stand where they should, alone train, and leave no trace;
held against a forward pass written out by hand.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from reclaim.strategies.backbones import create_backbone, quickdraw_vit
from reclaim.strategies.byte_counts import bytes_of
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.peft import PEFTSchedule, attach_lora
from reclaim.strategies.peft_module import peft_modules, peft_parameters
from reclaim.strategies.prompts import Prompts, attach_prompts, detach_prompts
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

pytestmark = pytest.mark.trains

torch.set_num_threads(1)

IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
every_depth = pytest.mark.parametrize("deep", [False, True])


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


def randomize(modules: list[Prompts]) -> None:
    generator = torch.Generator().manual_seed(2)
    for module in modules:
        module.tokens.data.normal_(generator=generator)


def block_by_hand(block: Any, x: Tensor) -> Tensor:
    """One image's tokens (L, width) through a block, head by head."""
    heads, width = block.attn.num_heads, block.attn.head_dim
    queries, keys, values = (block.norm1(x) @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=1)
    outputs = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        outputs.append(torch.softmax(queries[:, part] @ keys[:, part].T / width**0.5, dim=1) @ values[:, part])
    x = x + block.attn.proj(torch.cat(outputs, dim=1))
    return x + block.mlp(block.norm2(x))


def by_hand(model: Any, prompts: list[Tensor], image: Tensor, deep: bool) -> Tensor:
    """The class token of one image after the final norm, step by step."""
    patches = [model.patch_embed(image[None])[0][i] + model.pos_embed[0, 1 + i] for i in range(4)]
    cls, middle, image_tokens = model.cls_token[0] + model.pos_embed[0, :1], prompts[0], torch.stack(patches)
    for j, block in enumerate(model.blocks):
        if deep:
            middle = prompts[j]
        x = block_by_hand(block, torch.cat([cls, middle, image_tokens]))
        cls, middle, image_tokens = x[:1], x[1 : 1 + len(middle)], x[1 + len(middle) :]
    return model.norm(cls)[0]


@every_depth
def test_the_output_is_that_of_a_forward_pass_by_hand(deep: bool) -> None:
    model = vit()
    plain = model(IMAGES)
    modules = attach_prompts(model, tokens=2, deep=deep)
    randomize(modules)
    expected = torch.stack([by_hand(model, [m.tokens for m in modules], image, deep) for image in IMAGES])
    torch.testing.assert_close(model(IMAGES), expected)
    assert not torch.allclose(expected, plain, atol=0.01)
    model.set_grad_checkpointing()
    torch.testing.assert_close(model.train()(IMAGES), expected)


@every_depth
@pytest.mark.parametrize(
    ("make", "images", "own", "patches"),
    [
        (quickdraw_vit, (1, 28, 28), 1, 16),
        (lambda: timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0, img_size=32), (3, 32, 32), 2, 4),
        (lambda: vit(class_token=False, global_pool="avg"), (1, 8, 8), 0, 4),
        (lambda: vit(reg_tokens=2, depth=1), (1, 8, 8), 3, 4),
    ],
    ids=["quickdraw", "distilled", "no class token", "registers"],
)
def test_what_the_blocks_and_the_final_norm_see(make: Any, images: Any, own: int, patches: int, deep: bool) -> None:
    model = make().eval()
    images = torch.rand(2, *images, generator=torch.Generator().manual_seed(0))
    plain = model(images)
    plain_tokens = model.forward_features(images)
    modules = attach_prompts(model, tokens=5, deep=deep)
    assert not torch.allclose(model(images), plain)
    seen: list[Tensor] = []
    for block in model.blocks:
        block.norm1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tokens = model.forward_features(images)
    assert [x.shape[1] for x in seen] == [own + 5 + patches] * len(model.blocks)
    assert tokens.shape == plain_tokens.shape
    for j, x in enumerate(seen):
        prompts = x[:, own : own + 5]
        assert torch.equal(prompts[0], prompts[1]) == (deep or j == 0)  # later, shallow ones have seen their image
        if deep or j == 0:
            assert torch.equal(prompts[0], modules[j].tokens)


def test_the_start_is_vpts() -> None:
    model = vit(embed_dim=64)
    modules = attach_prompts(model, tokens=400, generator=torch.Generator().manual_seed(0))
    bound = (6 / (3 * 16 + 64)) ** 0.5
    for module in modules:
        assert module.tokens.shape == (400, 64)
        assert 0.99 * bound < float(module.tokens.detach().abs().max()) <= bound
        assert float(module.tokens.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not torch.equal(modules[0].tokens, modules[1].tokens)
    again = attach_prompts(vit(embed_dim=64), tokens=400, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again[2].tokens, modules[2].tokens)
    (embedded,) = attach_prompts(quickdraw_vit(), tokens=400, deep=False)
    assert float(embedded.tokens.detach().abs().max()) == pytest.approx((6 / (3 * 49 + 128)) ** 0.5, rel=0.01)
    assert len(attach_prompts(quickdraw_vit())) == 6
    assert attach_prompts(vit())[0].tokens.shape == (10, 8)


@every_depth
def test_gradients_reach_prompts_and_heads_alone(deep: bool) -> None:
    model = ContinualModel(vit())
    model.heads.add_head([0, 1])
    model.double()
    modules = attach_prompts(model, tokens=2, deep=deep)
    images = IMAGES.double()

    def loss() -> Tensor:
        return model(images).square().sum()

    loss().backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    names = {f"backbone.blocks.{j}.prompts.tokens" for j in range(3 if deep else 1)}
    assert trained - {"heads.group_anchor"} == names | {"heads.heads.0.weight", "heads.heads.0.bias"}
    for module in modules:
        gradient, step = module.tokens.grad, 1e-6
        assert gradient is not None
        assert gradient.abs().amin() > 0
        with torch.no_grad():
            module.tokens[1, 3] += step
            above = loss()
            module.tokens[1, 3] -= 2 * step
            below = loss()
            module.tokens[1, 3] += step
        assert float((above - below) / (2 * step)) == pytest.approx(float(gradient[1, 3]), rel=1e-5)


@every_depth
def test_copies_and_pickles_are_whole_and_independent(deep: bool) -> None:
    model = ContinualModel(vit())
    model.heads.add_head([0, 1])
    plain = model(IMAGES)
    size = bytes_of(model)
    modules = attach_prompts(model, tokens=2, deep=deep)
    assert bytes_of(model) == size + len(modules) * 2 * 8 * 4
    randomize(modules)
    prompted = model(IMAGES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(IMAGES), prompted)
        for parameter in peft_parameters(other):
            parameter.data.zero_()
        assert not torch.allclose(other(IMAGES), prompted)
        assert torch.equal(model(IMAGES), prompted)
        assert len(detach_prompts(other)) == len(modules)
        assert torch.equal(other(IMAGES), plain)
    assert torch.equal(model(IMAGES), prompted)


@every_depth
def test_detaching_leaves_the_model_as_it_was(deep: bool) -> None:
    model = vit()
    parameters, plain = dict(model.named_parameters()), model(IMAGES)
    modules = attach_prompts(model, deep=deep)
    assert peft_modules(model) == modules
    assert detach_prompts(model) == modules
    assert dict(model.named_parameters()) == parameters  # the same objects
    assert torch.equal(model(IMAGES), plain)
    attach_prompts(model, deep=not deep)
    loras = attach_lora(model, [0])
    detach_prompts(model)
    assert peft_modules(model) == loras
    assert torch.equal(model(IMAGES), plain)


@every_depth
def test_state_dicts(deep: bool) -> None:
    source, target = vit(), vit()
    plain = source.state_dict()
    randomize(attach_prompts(source, deep=deep))
    attach_prompts(target, deep=deep)
    assert not torch.allclose(source(IMAGES), target(IMAGES))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(IMAGES), target(IMAGES))
    found = target.load_state_dict(plain, strict=False)
    assert found.missing_keys == [f"blocks.{j}.prompts.tokens" for j in range(3 if deep else 1)]
    assert not found.unexpected_keys


def test_dtype_mode_and_mixed_precision() -> None:
    model = vit().to(torch.bfloat16).train()
    (module,) = attach_prompts(model, deep=False)
    assert module.training
    assert module.tokens.dtype == torch.bfloat16
    assert model(IMAGES.bfloat16()).dtype == torch.bfloat16
    assert not any(m.training for m in model.eval().modules())
    model = vit()
    modules = attach_prompts(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(IMAGES)
    torch.testing.assert_close(mixed.float(), model(IMAGES), rtol=0.1, atol=0.1)
    mixed.float().square().sum().backward()
    assert all(m.tokens.grad is not None and m.tokens.grad.dtype == torch.float32 for m in modules)


def test_to_others_they_are_peft_modules() -> None:
    model = ContinualModel(vit())
    depths = layer_depths(model)
    attach_prompts(model)
    assert layer_depths(model) == depths  # OLOR rolls no prompt back
    strategy: Any = type(
        "Strategy", (), {"model": model, "train_epochs": 1, "experience": type("E", (), {"current_experience": 1})}
    )
    PEFTSchedule(frozen_epochs=0).before_training_exp(strategy)
    assert {n for n, p in model.backbone.named_parameters() if p.requires_grad} == {
        f"blocks.{j}.prompts.tokens" for j in range(3)
    }


def test_what_cannot_have_prompts() -> None:
    for model in (create_backbone("test_convnext"), nn.Linear(1, 1)):
        for change in (attach_prompts, detach_prompts):
            with pytest.raises(TypeError, match=f"VisionTransformer.*got {type(model).__name__}"):
                change(ContinualModel(model, in_features=1))
    model = vit()
    with pytest.raises(ValueError, match="no prompts are attached"):
        detach_prompts(model)
    with pytest.raises(ValueError, match="at least 1 token, got tokens=0"):
        attach_prompts(model, tokens=0)
    assert all(p.requires_grad for p in model.parameters())
    assert not peft_modules(model)
    attach_prompts(model, deep=False)
    with pytest.raises(ValueError, match=r"has prompts already: call detach_prompts\(model\) first"):
        attach_prompts(model)
