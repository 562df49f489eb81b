"""LoRA, adapter and prefix in a timm ViT: golden vectors, exact attaching and detaching;
and which parameters train when (F17).
"""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.benchmark.checks.conform import lae_module
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.peft import (
    Adapter,
    LoRA,
    PEFTSchedule,
    Prefix,
    attach_adapter,
    attach_lora,
    attach_prefix,
    detach_lora,
    detach_peft,
)
from reclaim.strategies.peft_module import PEFTModule, peft_modules, peft_parameters
from reclaim.strategies.task_loss import TaskCrossEntropy
from timm.models.beit import Beit
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

pytestmark = pytest.mark.trains

GOLDEN = Path(__file__).parents[1] / "golden"
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def vit(**arguments: Any) -> VisionTransformer:
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


def randomize(modules: Iterable[PEFTModule]) -> None:
    generator = torch.Generator().manual_seed(2)
    for module in modules:
        for parameter in module.parameters():
            parameter.data.normal_(generator=generator)


# how each kind is attached, where in a block it goes, and the names of its parameters
KINDS: dict[str, tuple[Callable[..., Any], str, set[str]]] = {
    "lora": (attach_lora, "attn.qkv.lora", {"A", "B", "scale"}),
    "adapter": (attach_adapter, "attn.adapter", {"down.weight", "down.bias", "up.weight", "up.bias", "scale"}),
    "prefix": (attach_prefix, "attn.prefix", {"tokens", "scale"}),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def attach(kind: str, *args: Any, **kwargs: Any) -> Any:
    return KINDS[kind][0](*args, **kwargs)


# --- golden vectors ---


def golden(kind: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"lae_{kind}.npz"))


@pytest.mark.parametrize(("kind", "parameters"), [("lora", 6), ("adapter", 5), ("prefix", 4)])
def test_golden_modules(kind: str, parameters: int) -> None:
    deviations = lae_module(golden(kind))
    assert [d.quantity for d in deviations][:2] == ["tokens_plain", "tokens_adapted"]
    assert len(deviations) == 2 + 2 * parameters
    assert all(d.within for d in deviations), deviations


@pytest.mark.parametrize(
    ("kind", "swapped"),
    [
        ("lora", ("lora_A.0", "lora_A.1")),
        ("lora", ("lora_B.0", "lora_B.1")),
        ("prefix", ("key.tokens", "val.tokens")),
        ("prefix", ("key.scaler.scale", "val.scaler.scale")),
    ],
)
def test_golden_modules_tell_k_from_v(kind: str, swapped: tuple[str, str]) -> None:
    arrays = golden(kind)
    k, v = (f"pet0.{name}" for name in swapped)
    arrays[k], arrays[v] = arrays[v], arrays[k]
    within = {d.quantity: d.within for d in lae_module(arrays)}
    assert within["tokens_plain"]
    assert not within["tokens_adapted"]


# --- the modules ---


def kaiming(matrix: Tensor, columns: int) -> bool:
    """Kaiming-uniform with a = sqrt 5 is uniform within +-1/sqrt(columns)."""
    bound = 1 / math.sqrt(columns)
    spread = float(matrix.detach().std())
    return 0.98 * bound < float(matrix.detach().abs().max()) <= bound and spread == pytest.approx(
        bound / 3**0.5, rel=0.05
    )


def test_start_of_lora() -> None:
    lora = LoRA(400, 300, rank=3, generator=torch.Generator().manual_seed(0))
    assert (lora.A.shape, lora.B.shape, lora.scale.shape) == ((2, 3, 400), (2, 300, 3), (2,))
    assert kaiming(lora.A, 400)
    assert not lora.B.any()
    assert (lora.scale == 1).all()


def test_start_of_an_adapter() -> None:
    adapter = Adapter(400, hidden=6, generator=torch.Generator().manual_seed(0))
    assert (adapter.down.weight.shape, adapter.up.weight.shape, adapter.scale.shape) == ((6, 400), (400, 6), ())
    assert kaiming(adapter.down.weight, 400)
    assert not any(p.any() for p in (adapter.down.bias, adapter.up.weight, adapter.up.bias))
    assert adapter.scale == 1


def test_start_of_a_prefix() -> None:
    prefix = Prefix(400, tokens=6, generator=torch.Generator().manual_seed(0))
    assert (prefix.tokens.shape, prefix.scale.shape) == ((2, 6, 400), (2,))
    for part in prefix.tokens.detach():
        assert 0 <= float(part.min()) < 1e-4
        assert 0.0099 < float(part.max()) <= 0.01
        assert float(part.mean()) == pytest.approx(0.005, rel=0.05)
    assert (prefix.scale == 1).all()


def test_sizes_are_laes_by_default_and_switches() -> None:
    assert attach_adapter(vit(), [0])[0].down.out_features == 5
    assert attach_adapter(vit(), [0], hidden=3)[0].down.out_features == 3
    assert attach_prefix(vit(), [0])[0].tokens.shape == (2, 10, 8)
    assert attach_prefix(vit(), [0], tokens=3)[0].tokens.shape == (2, 3, 8)


def test_rank_is_4_by_default_and_a_switch() -> None:
    """F18."""
    assert attach_lora(vit(), [0])[0].A.shape[1] == 4
    assert attach_lora(vit(), [0], rank=5)[0].A.shape[1] == 5


@every_kind
def test_blocks_0_to_4_by_default(kind: str) -> None:
    model = vit(depth=6)
    attach(kind, model)
    assert [len(peft_modules(block)) for block in model.blocks] == [1] * 5 + [0]


@every_kind
def test_generator_decides_the_start_and_leaves_the_global_one_alone(kind: str) -> None:
    models = [vit() for _ in range(3)]
    state = torch.get_rng_state()
    first, again, other = (
        torch.cat(
            [
                p.flatten()
                for module in attach(kind, model, [0], generator=torch.Generator().manual_seed(s))
                for p in module.parameters()
            ]
        )
        for model, s in zip(models, (0, 0, 1), strict=True)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_loras_update_is_s_b_a_on_keys_and_values() -> None:
    model = vit()
    plain = copy.deepcopy(model.blocks[1].attn.qkv)
    (lora,) = attach_lora(model, [1])
    randomize([lora])
    weight = plain.weight.detach().clone()
    weight[8:16] += lora.scale[0] * lora.B[0] @ lora.A[0]
    weight[16:] += lora.scale[1] * lora.B[1] @ lora.A[1]
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(model.blocks[1].attn.qkv(tokens), nn.functional.linear(tokens, weight, plain.bias))


def test_an_adapter_is_parallel_to_attention_and_fed_by_norm1() -> None:
    model = vit(init_values=0.3).double()
    plain = copy.deepcopy(model.blocks[1])
    (adapter,) = attach_adapter(model, [1])
    randomize([adapter])
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    h = plain.norm1(tokens)
    inner = h @ adapter.down.weight.T + adapter.down.bias
    inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
    added = adapter.scale * (inner @ adapter.up.weight.T + adapter.up.bias)
    after = tokens + plain.ls1(plain.attn(h) + added)
    torch.testing.assert_close(model.blocks[1](tokens), after + plain.ls2(plain.mlp(plain.norm2(after))))


def test_a_prefixs_weights_are_compensated() -> None:
    """Against the formula, one head and one query at a time, the prefix where LAE has it: after the class token."""
    attention = vit().blocks[1].attn.double()
    model = vit().double()
    (prefix,) = attach_prefix(model, [1], tokens=3)
    randomize([prefix])
    tokens = torch.randn(2, 5, 8, dtype=torch.float64)
    queries, keys, values = attention.qkv(tokens).chunk(3, dim=-1)
    outputs = torch.zeros(2, 5, 8, dtype=torch.float64)
    for image in range(2):
        for head in (slice(0, 4), slice(4, 8)):
            k, v = (
                torch.cat([own[image, :1, head], s * new[:, head], own[image, 1:, head]])
                for own, s, new in zip((keys, values), prefix.scale, prefix.tokens, strict=True)
            )
            for i, query in enumerate(queries[image, :, head]):
                weights = torch.softmax(k @ query / 4**0.5, dim=0)
                weights = torch.cat([weights[:1], weights[1:4] / weights[1:4].sum(), weights[4:]])
                outputs[image, i, head] = weights @ v
    torch.testing.assert_close(model.blocks[1].attn(tokens), attention.proj(outputs))


def test_compensation_has_a_floor() -> None:
    prefix = Prefix(8, tokens=2)
    weights = torch.tensor([[0.0, 0.0, 0.3, 0.7], [1e-14, 3e-14, 0.5, 0.5], [0.1, 0.3, 0.4, 0.2]])
    expected = torch.tensor([[0.0, 0.0, 0.3, 0.7], [0.01, 0.03, 0.5, 0.5], [0.25, 0.75, 0.4, 0.2]])
    torch.testing.assert_close(prefix.compensate(weights), expected)
    torch.testing.assert_close(prefix.compensate(weights.half()), prefix.compensate(weights.half().float()).half())


@pytest.mark.parametrize("kind", ["adapter", "prefix"])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    model = vit().double()
    (module,) = attach(kind, model, [0])
    randomize([module])
    attention, parameters = model.blocks[0].attn, dict(module.named_parameters())
    tokens = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)

    def outputs(x: Tensor, *values: Tensor) -> Tensor:
        named = {f"{kind}.{name}": value for name, value in zip(parameters, values, strict=True)}
        return torch.func.functional_call(attention, named, (x,))

    assert torch.autograd.gradcheck(outputs, (tokens, *parameters.values()))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qkv_bias": True, "qk_norm": True, "norm_layer": nn.LayerNorm},
        {"scale_norm": True, "norm_layer": nn.LayerNorm},
        {"gated": True, "proj_bias": False},
        {"attn_head_dim": 3},
        {"attn_drop": 1.0},
        {"proj_drop": 1.0},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_attention_of_a_prefix_without_tokens_is_timms(options: dict[str, Any], fused: bool) -> None:
    if not options.keys() <= inspect.signature(Attention).parameters.keys():
        pytest.skip("this version of timm has no such option")
    model = vit()
    # with everything dropped, training is not random
    attention = model.blocks[0].attn = Attention(8, num_heads=2, **options).train()
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    attention.fused_attn = fused
    tokens = torch.randn(2, 5, 8)
    plain = attention(tokens)
    (prefix,) = attach_prefix(model, [0])
    assert not torch.allclose(attention(tokens), plain) or "attn_drop" in options or "proj_drop" in options
    prefix.tokens.data = prefix.tokens.data[:, :0]
    torch.testing.assert_close(attention(tokens), plain)


def test_a_prefix_refuses_masks() -> None:
    model = vit()
    attach_prefix(model, [0])
    for mask in ({"attn_mask": torch.ones(5, 5, dtype=torch.bool)}, {"is_causal": True}):
        with pytest.raises(ValueError, match="attention with a prefix takes no mask"):
            model.blocks[0].attn(torch.randn(2, 5, 8), **mask)


@every_kind
@pytest.mark.parametrize(
    "options", [{"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}], ids=["no-class-token", "registers"]
)
def test_vits_with_other_tokens(kind: str, options: dict[str, Any]) -> None:
    model = vit(**options)
    before = model(IMAGES)
    randomize(attach(kind, model, [0, 2]))
    assert not torch.allclose(model(IMAGES), before)
    detach_peft(model)
    assert torch.equal(model(IMAGES), before)


# --- attaching and detaching ---


@pytest.mark.parametrize("kind", ["lora", "adapter"])
def test_a_new_module_changes_nothing(kind: str) -> None:
    model = vit()
    before = model(IMAGES)
    attach(kind, model, [0, 2])
    assert torch.equal(model(IMAGES), before)


@every_kind
def test_attached_parameters_are_the_models_and_get_gradients(kind: str) -> None:
    model = vit()
    names, ids, depths = set(model.state_dict()), {n: id(p) for n, p in model.named_parameters()}, layer_depths(model)
    modules = attach(kind, model, [2, 0])
    _, place, parameters = KINDS[kind]
    added = {f"blocks.{j}.{place}.{p}" for j in (0, 2) for p in parameters}
    assert set(model.state_dict()) == names | added
    now = dict(model.named_parameters())
    assert set(now) == names | added
    assert {n: id(now[n]) for n in ids} == ids
    assert layer_depths(model) == depths
    assert modules == [model.get_submodule(f"blocks.{j}.{place}") for j in (2, 0)]
    assert peft_modules(model) == modules[::-1]
    assert {id(p) for p in peft_parameters(model)} == {id(now[n]) for n in added}
    randomize(modules)
    model(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in peft_parameters(model))


@every_kind
def test_other_blocks_are_untouched(kind: str) -> None:
    model = vit()
    classes = [[type(m) for m in block.modules()] for block in model.blocks]
    attach(kind, model, [1])
    assert [
        [type(m) for m in block.modules()] == known for block, known in zip(model.blocks, classes, strict=True)
    ] == [True, False, True]


@every_kind
@pytest.mark.parametrize("wrap", [lambda model: model, ContinualModel])
def test_detaching_restores_the_model_exactly(kind: str, wrap: Any) -> None:
    model = vit()
    whole = wrap(model)
    before, names, parameters = model(IMAGES), list(model.state_dict()), list(model.parameters())
    modules, classes = list(model.modules()), [type(m) for m in model.modules()]
    attached = attach(kind, whole, [0, 2])
    randomize(attached)
    assert not torch.allclose(model(IMAGES), before)
    assert (detach_lora if kind == "lora" else detach_peft)(whole) == attached
    assert torch.equal(model(IMAGES), before)
    assert list(model.state_dict()) == names
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert [id(m) for m in model.modules()] == [id(m) for m in modules]
    assert [type(m) for m in model.modules()] == classes
    assert peft_modules(whole) == []


@pytest.mark.parametrize("bias", [True, False])
def test_merging_keeps_the_outputs(bias: bool) -> None:
    model = vit(qkv_bias=bias)
    randomize([*attach_lora(model, [0, 2]), *attach_adapter(model, [1])])
    adapted = model(IMAGES)
    detach_lora(model, merge=True)
    torch.testing.assert_close(model(IMAGES), adapted)
    assert all(p.grad_fn is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("kind", ["adapter", "prefix"])
def test_kinds_go_together_and_come_out_one_by_one(kind: str) -> None:
    model = vit()
    before = model(IMAGES)
    loras = attach_lora(model, [0, 1])
    randomize(loras)
    with_lora = model(IMAGES)
    others = attach(kind, model, [1, 2])
    randomize(others)
    assert peft_modules(model) == [loras[0], loras[1], others[0], others[1]]
    both = model(IMAGES)
    assert not torch.allclose(both, with_lora)
    assert detach_lora(model) == loras
    with_other = model(IMAGES)
    assert not torch.allclose(with_other, both)
    attach_lora(model, [0])
    assert torch.equal(model(IMAGES), with_other)
    assert detach_peft(model, type(others[0])) == others
    assert torch.equal(model(IMAGES), before)
    everything = [*peft_modules(model), *attach(kind, model, [0])]
    assert detach_peft(model) == everything
    assert torch.equal(model(IMAGES), before)


@every_kind
def test_a_copy_and_a_pickle_are_whole_and_independent(kind: str) -> None:
    model = vit()
    before = model(IMAGES)
    randomize(attach(kind, model, [1]))
    adapted = model(IMAGES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(IMAGES), adapted)
        detach_peft(other)
        assert torch.equal(other(IMAGES), before)
    assert torch.equal(model(IMAGES), adapted)


@every_kind
def test_state_dicts_load_with_and_without_modules(kind: str) -> None:
    source, target = vit(), vit()
    randomize(attach(kind, source, [1]))
    attach(kind, target, [1])
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(IMAGES), target(IMAGES))
    # weights of a plain model go into one with modules; replaced parameters survive detaching
    torch.manual_seed(5)
    plain = VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=3, num_heads=2, num_classes=0
    ).eval()
    loaded = target.load_state_dict(plain.state_dict(), strict=False, assign=True)
    assert not loaded.unexpected_keys
    assert all(f".{kind}." in key for key in loaded.missing_keys)
    detach_peft(target)
    assert torch.equal(target(IMAGES), plain(IMAGES))


@every_kind
def test_dtype_and_mode_follow(kind: str) -> None:
    model = vit().to(torch.bfloat16).train()
    (module,) = attach(kind, model, [0])
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert all(m.training for m in module.modules())
    assert model(IMAGES.bfloat16()).dtype == torch.bfloat16
    model.double().eval()
    assert model(IMAGES.double()).dtype == torch.float64
    assert not module.training
    detach_peft(model)
    assert model.blocks[0].attn.qkv.weight.dtype == torch.float64
    assert not model.blocks[0].attn.qkv.training


@every_kind
def test_mixed_precision(kind: str) -> None:
    model = vit()
    randomize(attach(kind, model, [0, 2]))
    exact = model(IMAGES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(IMAGES)
    mixed.float().square().sum().backward()
    torch.testing.assert_close(mixed.float(), exact, rtol=0.1, atol=0.1)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in peft_parameters(model))


@every_kind
def test_a_named_timm_vit_with_two_tokens(kind: str) -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0, img_size=32).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model(images)
    randomize(attach(kind, model))
    assert not torch.allclose(model(images), before)
    detach_peft(model)
    assert torch.equal(model(images), before)


@every_kind
@pytest.mark.parametrize("blocks", [[], [3], [-1], [0, 0], [0, 17]])
def test_bad_blocks(kind: str, blocks: list[int]) -> None:
    model = vit()
    with pytest.raises(ValueError, match=r"distinct indices from 0 to 2"):
        attach(kind, model, blocks)
    assert peft_modules(model) == []


@pytest.mark.parametrize(
    ("kind", "size", "message"),
    [
        ("lora", "rank", "rank of LoRA must be at least 1, got 0"),
        ("adapter", "hidden", "at least 1 hidden unit, got hidden=0"),
        ("prefix", "tokens", "at least 1 token, got tokens=0"),
    ],
)
def test_bad_sizes(kind: str, size: str, message: str) -> None:
    model = vit()
    with pytest.raises(ValueError, match=message):
        attach(kind, model, [0], **{size: 0})
    assert peft_modules(model) == []
    assert type(model.blocks[0].attn) is Attention


@pytest.mark.parametrize(
    "make", [lambda: timm.create_model("resnet10t", num_classes=0), lambda: Beit(embed_dim=8, depth=1, num_heads=2)]
)
def test_models_that_are_no_vit(make: Any) -> None:
    model = make()
    for whole in (model, ContinualModel(model, in_features=2)):
        for change in (attach_lora, attach_adapter, attach_prefix, detach_lora, detach_peft):
            with pytest.raises(TypeError, match=f"VisionTransformer.*got {type(model).__name__}"):
                change(whole)


class OtherAttention(Attention):
    """May compute anything."""


@pytest.mark.parametrize(
    ("kind", "first", "found"),
    [
        ("lora", "lora", "plain Linear attn.qkv in block 0, found LoRALinear"),
        ("adapter", "adapter", "plain Attention attn in block 0, found AdapterAttention"),
        ("adapter", "prefix", "plain Attention attn in block 0, found PrefixAttention"),
        ("prefix", "adapter", "plain Attention attn in block 0, found AdapterAttention"),
        ("prefix", "prefix", "plain Attention attn in block 0, found PrefixAttention"),
    ],
)
def test_blocks_that_are_taken(kind: str, first: str, found: str) -> None:
    model = vit()
    modules = attach(first, model, [0])
    with pytest.raises(TypeError, match=rf"{kind} needs a {found}: call detach_peft\(model\) first"):
        attach(kind, model, [1, 0])
    assert peft_modules(model) == modules
    assert type(model.blocks[1].attn) is Attention


@pytest.mark.parametrize(
    ("kind", "layer", "found"),
    [
        ("lora", nn.Identity(), "NoneType"),
        ("adapter", nn.Identity(), "Identity"),
        ("prefix", nn.Identity(), "Identity"),
        ("adapter", OtherAttention(8, num_heads=2), "OtherAttention"),
        ("prefix", OtherAttention(8, num_heads=2), "OtherAttention"),
    ],
)
def test_blocks_without_the_layer(kind: str, layer: nn.Module, found: str) -> None:
    model = vit()
    model.blocks[2].attn = layer
    with pytest.raises(TypeError, match=f"block 2, found {found}$"):
        attach(kind, model, [0, 2])
    assert peft_modules(model) == []


def test_detaching_nothing() -> None:
    model = vit()
    with pytest.raises(ValueError, match="no PEFTModule is attached"):
        detach_peft(model)
    attach_adapter(model, [0])
    with pytest.raises(ValueError, match="no LoRA is attached"):
        detach_lora(model)
    with pytest.raises(ValueError, match="no Prefix is attached"):
        detach_peft(model, Prefix)
    assert len(peft_modules(model)) == 1


# --- F17: what trains when ---


def benchmark() -> Any:
    """Two tasks of 2 classes, 8 samples each: 2 minibatches of 4."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 4)
    return nc_benchmark(data, data, n_experiences=2, task_labels=False, shuffle=False)


class Watch(SupervisedPlugin[Any]):
    """Which parts of the model changed in each epoch of each experience."""

    def __init__(self) -> None:
        super().__init__()
        self.changed: list[list[set[str]]] = []
        self._before: dict[str, Tensor] = {}

    @staticmethod
    def part(name: str) -> str:
        return (
            f"head {name.split('.')[2]}"
            if name.startswith("heads.")
            else "modules"
            if any(f".{kind}." in name for kind in KINDS)
            else "backbone"
        )

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.changed.append([])

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._before = {name: p.detach().clone() for name, p in strategy.model.named_parameters()}

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        now = strategy.model.named_parameters()
        self.changed[-1].append({self.part(name) for name, p in now if not torch.equal(p, self._before[name])})


def train(schedule: PEFTSchedule, model: nn.Module | None = None, epochs: int = 3) -> tuple[Watch, Any]:
    watch = Watch()
    if model is None:
        model = ContinualModel(vit())
        attach_lora(model, [0, 1], generator=torch.Generator().manual_seed(0))
    strategy = Naive(
        model=model,
        # momentum and decay would move a parameter that is only half frozen
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
        criterion=TaskCrossEntropy(),
        train_mb_size=4,
        train_epochs=epochs,
        plugins=[schedule, watch],
        evaluator=EvaluationPlugin(),
    )
    for experience in benchmark().train_stream:
        strategy.train(experience, eval_streams=[])
    return watch, strategy


@every_kind
def test_freeze_peft_is_laes_code(kind: str) -> None:
    model = ContinualModel(vit())
    attach(kind, model, [0, 1], generator=torch.Generator().manual_seed(0))
    watch, strategy = train(PEFTSchedule(frozen_epochs=2), model)
    assert PEFTSchedule().freeze == "peft"
    assert PEFTSchedule().frozen_epochs == 30
    assert watch.changed == [
        [{"head 0", "modules"}] * 3,
        [{"head 1"}, {"head 1"}, {"head 1", "modules"}],
    ]
    trainable = {name for name, p in strategy.model.backbone.named_parameters() if p.requires_grad}
    assert {f".{kind}." in name for name in trainable} == {True}


def test_freeze_backbone_is_the_papers_text() -> None:
    watch, _ = train(PEFTSchedule(frozen_epochs=2, freeze="backbone"))
    assert watch.changed == [[{f"head {t}"}, {f"head {t}"}, {f"head {t}", "modules", "backbone"}] for t in range(2)]


def test_freeze_backbone_needs_no_modules() -> None:
    watch, _ = train(PEFTSchedule(frozen_epochs=1, freeze="backbone"), ContinualModel(vit()), epochs=2)
    assert watch.changed == [[{f"head {t}"}, {f"head {t}", "backbone"}] for t in range(2)]


@pytest.mark.parametrize(("frozen", "last"), [(0, {"head 1", "modules"}), (2, {"head 1"})])
def test_none_or_all_epochs_frozen(frozen: int, last: set[str]) -> None:
    watch, _ = train(PEFTSchedule(frozen_epochs=frozen), epochs=2)
    assert watch.changed == [[{"head 0", "modules"}] * 2, [last] * 2]


@pytest.mark.parametrize("freeze", ["peft", "backbone"])
def test_what_was_frozen_before_stays_frozen(freeze: Any) -> None:
    model = ContinualModel(vit())
    (lora,) = attach_lora(model, [0])
    fixed = [model.backbone.pos_embed, lora.scale]
    for parameter in fixed:
        parameter.requires_grad_(False)
    before = [p.detach().clone() for p in fixed]
    train(PEFTSchedule(frozen_epochs=0, freeze=freeze), model, epochs=1)
    assert all(torch.equal(p, b) for p, b in zip(fixed, before, strict=True))


def test_bad_schedules() -> None:
    with pytest.raises(ValueError, match="frozen_epochs must not be negative, got -1"):
        PEFTSchedule(-1)
    with pytest.raises(ValueError, match="'peft' or 'backbone', got 'head'"):
        PEFTSchedule(freeze="head")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="frozen_epochs=30 is more than the strategy's train_epochs=3"):
        train(PEFTSchedule())
    with pytest.raises(ValueError, match=r"no PEFT modules.*attach_lora"):
        train(PEFTSchedule(1), ContinualModel(vit()))
    with pytest.raises(TypeError, match=r"PEFTSchedule needs .* ContinualModel"):
        train(PEFTSchedule(1), nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4)))
