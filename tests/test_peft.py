"""LoRA on a timm ViT: against the golden vectors, exact attaching and detaching; and which parameters train when (F17)."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.benchmark.conform import UnsupportedGolden, lae_module
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.peft import LoRA, PEFTSchedule, attach_lora, detach_lora, peft_modules, peft_parameters
from reclaim.strategies.task_loss import TaskCrossEntropy
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import TensorDataset

GOLDEN = Path(__file__).parent / "golden"
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def vit(**arguments: Any) -> VisionTransformer:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "depth": 3, "num_heads": 2, "num_classes": 0}
    return VisionTransformer(**(sizes | arguments)).eval()


def randomize(modules: list[LoRA]) -> None:
    generator = torch.Generator().manual_seed(2)
    for module in modules:
        for parameter in module.parameters():
            parameter.data.normal_(generator=generator)


# --- golden vectors ---


def golden(kind: str) -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / f"lae_{kind}.npz"))


def test_golden_lora() -> None:
    deviations = lae_module(golden("lora"))
    assert [d.quantity for d in deviations][:2] == ["tokens_plain", "tokens_adapted"]
    # 2 modules with A, B and scale of k and of v
    assert len(deviations) == 2 + 2 * 6
    assert all(d.within for d in deviations), deviations


@pytest.mark.parametrize("swapped", ["lora_A", "lora_B"])
def test_golden_lora_tells_k_from_v(swapped: str) -> None:
    arrays = golden("lora")
    arrays[f"pet0.{swapped}.0"], arrays[f"pet0.{swapped}.1"] = arrays[f"pet0.{swapped}.1"], arrays[f"pet0.{swapped}.0"]
    within = {d.quantity: d.within for d in lae_module(arrays)}
    assert within["tokens_plain"]
    assert not within["tokens_adapted"]


@pytest.mark.parametrize("kind", ["adapter", "prefix"])
def test_golden_modules_not_implemented_are_refused_by_name(kind: str) -> None:
    with pytest.raises(UnsupportedGolden, match=f"not checked.*{kind}"):
        lae_module(golden(kind))


# --- the module ---


def test_start_of_a_module() -> None:
    lora = LoRA(400, 300, rank=3, generator=torch.Generator().manual_seed(0))
    assert (lora.A.shape, lora.B.shape, lora.scale.shape) == ((2, 3, 400), (2, 300, 3), (2,))
    # Kaiming-uniform with a = sqrt 5 is uniform within +-1/sqrt(400)
    assert 0.049 < float(lora.A.detach().abs().max()) <= 0.05
    assert float(lora.A.detach().std()) == pytest.approx(0.05 / 3**0.5, rel=0.05)
    assert not lora.B.any()
    assert (lora.scale == 1).all()


def test_rank_is_4_by_default_and_a_switch() -> None:
    """F18."""
    assert attach_lora(vit(), [0])[0].A.shape[1] == 4
    assert attach_lora(vit(), [0], rank=5)[0].A.shape[1] == 5


def test_blocks_0_to_4_by_default() -> None:
    model = vit(depth=6)
    attach_lora(model)
    assert [hasattr(block.attn.qkv, "lora") for block in model.blocks] == [True] * 5 + [False]


def test_generator_decides_the_start() -> None:
    first, again, other = (attach_lora(vit(), [0], generator=torch.Generator().manual_seed(s))[0].A for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_generator_leaves_the_global_one_alone() -> None:
    model = vit()
    state = torch.get_rng_state()
    attach_lora(model, [0], generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_update_is_s_b_a_on_keys_and_values() -> None:
    model = vit()
    plain = copy.deepcopy(model.blocks[1].attn.qkv)
    (lora,) = attach_lora(model, [1])
    randomize([lora])
    weight = plain.weight.detach().clone()
    weight[8:16] += lora.scale[0] * lora.B[0] @ lora.A[0]
    weight[16:] += lora.scale[1] * lora.B[1] @ lora.A[1]
    tokens = torch.randn(2, 5, 8)
    torch.testing.assert_close(model.blocks[1].attn.qkv(tokens), nn.functional.linear(tokens, weight, plain.bias))


# --- attaching and detaching ---


def test_a_new_module_changes_nothing() -> None:
    model = vit()
    before = model(IMAGES)
    attach_lora(model, [0, 2])
    assert torch.equal(model(IMAGES), before)


def test_attached_parameters_are_the_models_and_get_gradients() -> None:
    model = vit()
    names = set(model.state_dict())
    modules = attach_lora(model, [2, 0])
    added = {f"blocks.{j}.attn.qkv.lora.{p}" for j in (0, 2) for p in ("A", "B", "scale")}
    assert set(model.state_dict()) == names | added
    assert {n for n, _ in model.named_parameters()} == names | added
    assert modules == [model.blocks[2].attn.qkv.lora, model.blocks[0].attn.qkv.lora]
    assert peft_modules(model) == modules[::-1]
    assert len(list(peft_parameters(model))) == 6
    randomize(modules)
    model(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in peft_parameters(model))


def test_other_blocks_are_untouched() -> None:
    model = vit()
    layers = [block.attn.qkv for block in model.blocks]
    attach_lora(model, [1])
    assert model.blocks[0].attn.qkv is layers[0]
    assert model.blocks[1].attn.qkv is not layers[1]
    assert model.blocks[2].attn.qkv is layers[2]


@pytest.mark.parametrize("wrap", [lambda model: model, ContinualModel])
def test_detaching_restores_the_model_exactly(wrap: Any) -> None:
    model = vit()
    whole = wrap(model)
    before, names, parameters, modules = model(IMAGES), list(model.state_dict()), list(model.parameters()), list(model.modules())
    attached = attach_lora(whole, [0, 2])
    randomize(attached)
    assert not torch.allclose(model(IMAGES), before)
    assert detach_lora(whole) == attached
    assert torch.equal(model(IMAGES), before)
    assert list(model.state_dict()) == names
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert [id(m) for m in model.modules()] == [id(m) for m in modules]
    assert peft_modules(whole) == []


@pytest.mark.parametrize("bias", [True, False])
def test_merging_keeps_the_outputs(bias: bool) -> None:
    model = vit(qkv_bias=bias)
    randomize(attach_lora(model, [0, 2]))
    adapted = model(IMAGES)
    detach_lora(model, merge=True)
    torch.testing.assert_close(model(IMAGES), adapted)
    assert all(p.grad_fn is None and p.requires_grad for p in model.parameters())


def test_a_copy_and_a_pickle_are_whole_and_independent() -> None:
    model = vit()
    before = model(IMAGES)
    randomize(attach_lora(model, [1]))
    adapted = model(IMAGES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(IMAGES), adapted)
        detach_lora(other)
        assert torch.equal(other(IMAGES), before)
    assert torch.equal(model(IMAGES), adapted)


def test_state_dicts_load_with_and_without_modules() -> None:
    source, target = vit(), vit()
    randomize(attach_lora(source, [1]))
    attach_lora(target, [1])
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(IMAGES), target(IMAGES))
    # weights of a plain model go into one with modules; replaced parameters survive detaching
    torch.manual_seed(5)
    plain = VisionTransformer(img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=3, num_heads=2, num_classes=0).eval()
    loaded = target.load_state_dict(plain.state_dict(), strict=False, assign=True)
    assert not loaded.unexpected_keys
    assert all(".lora." in key for key in loaded.missing_keys)
    detach_lora(target)
    assert torch.equal(target(IMAGES), plain(IMAGES))


def test_dtype_and_mode_follow() -> None:
    model = vit().to(torch.bfloat16).train()
    (lora,) = attach_lora(model, [0])
    assert lora.A.dtype == torch.bfloat16
    assert lora.training
    assert model(IMAGES.bfloat16()).dtype == torch.bfloat16
    model.double().eval()
    assert model(IMAGES.double()).dtype == torch.float64
    detach_lora(model)
    assert model.blocks[0].attn.qkv.weight.dtype == torch.float64
    assert not model.blocks[0].attn.qkv.training


def test_a_named_timm_vit_with_two_tokens() -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=0, img_size=32).eval()
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before = model(images)
    randomize(attach_lora(model))
    assert not torch.allclose(model(images), before)
    detach_lora(model)
    assert torch.equal(model(images), before)


@pytest.mark.parametrize("blocks", [[], [3], [-1], [0, 0], [0, 17]])
def test_bad_blocks(blocks: list[int]) -> None:
    model = vit()
    with pytest.raises(ValueError, match=r"distinct indices from 0 to 2"):
        attach_lora(model, blocks)
    assert peft_modules(model) == []


def test_bad_rank() -> None:
    model = vit()
    with pytest.raises(ValueError, match="rank of LoRA must be at least 1, got 0"):
        attach_lora(model, [0], rank=0)
    assert peft_modules(model) == []


@pytest.mark.parametrize("make", [lambda: timm.create_model("resnet10t", num_classes=0), lambda: Beit(embed_dim=8, depth=1, num_heads=2)])
def test_models_that_are_no_vit(make: Any) -> None:
    model = make()
    for whole in (model, ContinualModel(model, in_features=2)):
        for change in (attach_lora, detach_lora):
            with pytest.raises(TypeError, match=f"VisionTransformer.*got {type(model).__name__}"):
                change(whole)


def test_blocks_without_a_plain_qkv_layer() -> None:
    model = vit()
    attach_lora(model, [0])
    with pytest.raises(TypeError, match="block 0, found LoRALinear: call detach_lora"):
        attach_lora(model, [1, 0])
    assert len(peft_modules(model)) == 1
    model.blocks[2].attn = nn.Identity()
    with pytest.raises(TypeError, match="block 2, found NoneType"):
        attach_lora(model, [2])


def test_detaching_nothing() -> None:
    with pytest.raises(ValueError, match="no LoRA is attached"):
        detach_lora(vit())


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
        return f"head {name.split('.')[2]}" if name.startswith("heads.") else "modules" if ".lora." in name else "backbone"

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


def test_freeze_peft_is_laes_code() -> None:
    watch, strategy = train(PEFTSchedule(frozen_epochs=2))
    assert PEFTSchedule().freeze == "peft"
    assert PEFTSchedule().frozen_epochs == 30
    assert watch.changed == [
        [{"head 0", "modules"}] * 3,
        [{"head 1"}, {"head 1"}, {"head 1", "modules"}],
    ]
    trainable = {name for name, p in strategy.model.backbone.named_parameters() if p.requires_grad}
    assert {"lora" in name for name in trainable} == {True}


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
        train(PEFTSchedule(1), nn.Sequential(nn.Flatten(), nn.Linear(64, 4)))
