"""CODA-Prompt: weights and prompts by the formula, orthogonal shares, and earlier components that stay."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.supervised import Naive
from reclaim.strategies.coda import CODAComponents, CODAPrompt, attach_coda, coda_components, detach_coda
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.peft import attach_lora
from reclaim.strategies.peft_module import peft_parameters
from reclaim.strategies.task_loss import TaskCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

pytestmark = pytest.mark.trains

torch.set_num_threads(1)

WIDTH = 12
IMAGES = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def vit(**arguments: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "img_size": 8,
        "patch_size": 4,
        "in_chans": 1,
        "embed_dim": WIDTH,
        "depth": 3,
        "num_heads": 2,
        "num_classes": 0,
    }
    return VisionTransformer(**(sizes | arguments)).eval()


def attached(**arguments: Any) -> tuple[Any, list[CODAComponents]]:
    model = vit(**arguments)
    generator = torch.Generator().manual_seed(3)
    return model, attach_coda(model, 3, range(2), components=6, length=4, generator=generator)


def make_strategy(weight: float = 0.0, **options: Any) -> Naive:
    model = ContinualModel(vit(proj_drop_rate=0.1))
    attach_coda(model, 3, range(2), components=7, length=4, generator=torch.Generator().manual_seed(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, **options)
    return Naive(
        model=model,
        optimizer=optimizer,
        criterion=TaskCrossEntropy(),
        train_mb_size=8,
        train_epochs=2,
        plugins=[CODAPrompt(weight)],
        evaluator=None,
    )


def make_stream(tasks: Any = ([0, 1, 2], [3], [4, 5])) -> Any:
    generator = torch.Generator().manual_seed(4)
    parts: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for part in parts:
        for classes in tasks:
            y = torch.tensor(classes).repeat_interleave(6)
            part.append((torch.randn(len(y), 1, 8, 8, generator=generator) + y[:, None, None, None], y))
    return tensors_benchmark(train_tensors=parts[0], test_tensors=parts[1], task_labels=[0] * len(tasks))


def run(strategy: Naive, between: Callable[[Naive, Any], Naive] = lambda s, _: s) -> Naive:
    stream = make_stream()
    for i, exp in enumerate(stream.train_stream):
        torch.manual_seed(i)
        strategy.train(exp)
        strategy = between(strategy, stream)
    return strategy


def test_weights_and_prompts_image_by_image() -> None:
    module = CODAComponents(WIDTH, components=6, length=4, experiences=3, generator=torch.Generator().manual_seed(3))
    module.begin()
    module.begin(torch.Generator().manual_seed(4))
    queries = torch.randn(5, WIDTH)
    keys, values = module(queries)
    for n, query in enumerate(queries):
        prompt = torch.zeros(4, WIDTH)
        for m in range(4):  # those of two experiences
            weight = F.cosine_similarity(query * module.attention[m], module.keys[m], dim=0)
            torch.testing.assert_close(module.weights(queries)[n, m], weight)
            prompt = prompt + weight * module.prompts[m]
        torch.testing.assert_close(torch.cat([keys[n], values[n]]), prompt)


def test_a_share_starts_orthogonal_to_all_before_even_if_those_were_trained() -> None:
    module = CODAComponents(WIDTH, components=7, length=4, experiences=3)
    with torch.no_grad():
        for experience in range(3):
            module.begin()
            for part in (module.prompts, module.keys, module.attention):
                rows = part.flatten(1)
                new, earlier = rows[module.rows], rows[: module.rows.start]
                torch.testing.assert_close(new @ new.T, torch.eye(2))
                torch.testing.assert_close(new @ earlier.T, torch.zeros(2, 2 * experience), rtol=0, atol=1e-5)
                assert not rows[module.rows.stop :].any()
                part[module.rows] = torch.randn_like(part[module.rows])
    with pytest.raises(ValueError, match="shared by 3 experiences, and this is one more"):
        module.begin()
    assert int(module.experience) == 2


def test_the_overlap_is_zero_of_orthogonal_rows_and_by_hand_of_others() -> None:
    module = CODAComponents(WIDTH, components=4, length=2, experiences=2)
    module.begin()
    assert float(module.overlap()) < 1e-10
    module.begin()
    with torch.no_grad():
        module.keys.normal_()
    gram = module.keys @ module.keys.T - torch.eye(4)
    torch.testing.assert_close(module.overlap(), (gram**2).sum() / 16)
    module.overlap().backward()
    assert module.keys.grad is not None
    assert not module.keys.grad[:2].any(), "earlier components get no gradient"
    assert module.keys.grad[2:].any()


def test_the_forward_pass_by_hand() -> None:
    model, modules = attached(qk_norm=True, norm_layer=nn.LayerNorm)
    plain = vit(qk_norm=True, norm_layer=nn.LayerNorm)
    with torch.no_grad():
        for parameter in peft_parameters(model):
            parameter.normal_()
        query = plain(IMAGES)
        x = plain.norm_pre(plain.patch_drop(plain._pos_embed(plain.patch_embed(IMAGES))))
        for j, block in enumerate(plain.blocks):
            attention, tokens = block.attn, block.norm1(x)
            q, k, v = attention.qkv(tokens).unflatten(2, (3, 2, WIDTH // 2)).permute(2, 0, 3, 1, 4)
            q, k = attention.q_norm(q), attention.k_norm(k)
            if j < 2:
                own = [p.unflatten(2, (2, WIDTH // 2)).transpose(1, 2) for p in modules[j](query)]
                k, v = torch.cat([own[0], k], dim=2), torch.cat([own[1], v], dim=2)
            mixed = (q @ k.transpose(2, 3) / (WIDTH // 2) ** 0.5).softmax(dim=3) @ v
            x = x + attention.proj(mixed.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
        expected = plain.norm(x)[:, 0]
        torch.testing.assert_close(model(IMAGES), expected, rtol=1e-4, atol=1e-5)
        assert (expected - query).abs().max() > 1e-3
        torch.testing.assert_close(model(IMAGES[:1]), expected[:1], rtol=1e-4, atol=1e-5)


def test_the_query_is_without_prompts_without_dropout_and_modes_are_restored() -> None:
    model, modules = attached(proj_drop_rate=0.5)
    expected, seen = vit()(IMAGES), []
    modules[0].register_forward_hook(lambda m, inputs, output: seen.append(inputs[0]))
    model.train()
    model.blocks[1].eval()
    modes = [m.training for m in model.modules()]
    model(IMAGES)
    torch.testing.assert_close(seen[0], expected)
    assert not seen[0].requires_grad
    assert [m.training for m in model.modules()] == modes
    assert all(m.query is None for m in modules)


def test_detached_the_model_is_as_before() -> None:
    model, modules = attached()
    assert detach_coda(model) == modules
    plain = vit()
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(model(IMAGES), plain(IMAGES))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_copies_have_components_of_their_own() -> None:
    model, _ = attached()
    expected = model(IMAGES)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            for parameter in peft_parameters(other):
                parameter.normal_()
        assert (other(IMAGES) - expected).abs().max() > 1e-4
        assert torch.equal(model(IMAGES), expected)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_an_experience_moves_its_own_share_alone(weight: float) -> None:
    """With weight decay and an optimizer whose momentum is kept; the seventh component is nobody's."""
    strategy, states = make_strategy(weight, weight_decay=0.1), []

    def keep(strategy: Naive, stream: Any) -> Naive:
        states.append([p.detach().clone() for m in coda_components(strategy.model) for p in m.parameters()])
        return strategy

    run(strategy, keep)
    for t, (before, after) in enumerate(pairwise(states), start=1):
        for old, new in zip(before, after, strict=True):
            assert torch.equal(old[: 2 * t], new[: 2 * t])
            assert not new[2 * t + 2 :].any()
            assert (old[2 * t : 2 * t + 2] != new[2 * t : 2 * t + 2]).any()


def test_evaluation_and_pickling_in_between_change_nothing() -> None:
    def evaluate(strategy: Naive, stream: Any) -> Naive:
        strategy.eval(stream.test_stream)
        return strategy

    ways = (lambda s, _: s, evaluate, lambda s, _: pickle.loads(pickle.dumps(s)))
    first, *others = [run(make_strategy(0.1), way).model.state_dict() for way in ways]
    for other in others:
        assert all(torch.equal(first[k], other[k]) for k in first if isinstance(first[k], Tensor))


def test_the_loss_has_the_overlap() -> None:
    losses = []
    for weight in (0.0, 2.0):
        strategy = make_strategy(weight)
        modules = coda_components(strategy.model)
        with torch.no_grad():
            for module in modules:
                module.keys.normal_(generator=torch.Generator().manual_seed(5))
        strategy.loss = torch.tensor(1.0)
        (plugin,) = (p for p in strategy.plugins if isinstance(p, CODAPrompt))
        plugin.before_backward(strategy)
        losses.append(float(strategy.loss))
    assert losses[0] == 1
    assert losses[1] == pytest.approx(1 + 2 * float(sum(module.overlap() for module in modules)))


def test_errors() -> None:
    with pytest.raises(ValueError, match="length must be even and at least 2"):
        CODAComponents(WIDTH, length=3)
    for components, experiences in ((2, 3), (13, 3), (6, 0)):
        with pytest.raises(ValueError, match=f"{components} components for {experiences} experiences"):
            CODAComponents(WIDTH, components, 4, experiences)
    with pytest.raises(ValueError, match="weight"):
        CODAPrompt(-1)
    model = vit()
    with pytest.raises(ValueError, match="no CODA-Prompt is attached"):
        detach_coda(model)
    with pytest.raises(ValueError, match=r"distinct indices from 0 to 2 of this ViT, at least one, got \[0, 3\]"):
        attach_coda(model, 3, [0, 3], components=6)
    assert all(p.requires_grad for p in model.parameters())
    attach_coda(model, 3, [1], components=6)
    with pytest.raises(ValueError, match="modules already, such as CODAComponents"):
        attach_coda(model, 3, [2], components=6)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        f"blocks.1.attn.coda.{part}" for part in ("prompts", "keys", "attention")
    ]
    detach_coda(model)
    attach_lora(model, [0])
    with pytest.raises(ValueError, match="modules already, such as LoRA"):
        attach_coda(model, 3, [1], components=6)
    with pytest.raises(TypeError, match="timm VisionTransformer"):
        attach_coda(nn.Linear(2, 2), 3)
    strategy = make_strategy()
    with pytest.raises(ValueError, match="shared by 3 experiences"):
        strategy.train(make_stream([[0], [1], [2], [3]]).train_stream)
    detach_coda(strategy.model)
    with pytest.raises(ValueError, match="the model has no components"):
        strategy.train(make_stream().train_stream)


def test_what_an_interrupted_pass_leaves_is_not_used() -> None:
    model, modules = attached()
    expected = model(IMAGES)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = model.norm.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        model(IMAGES.flip(0)[:2] + 1)
    hook.remove()
    assert torch.equal(model(IMAGES), expected)
    assert all(module.query is None for module in modules)


def test_a_model_in_half_precision_begins_every_experience() -> None:
    model = ContinualModel(vit()).to(torch.bfloat16)
    modules = attach_coda(model, 3, range(2), components=6, length=4)
    for _ in range(3):
        for module in modules:
            module.begin()
    for part in (modules[0].prompts, modules[0].keys):
        rows = part.flatten(1).float()
        torch.testing.assert_close(rows @ rows.T, torch.eye(6), rtol=0, atol=0.03)


def test_a_vit_with_its_own_classifier() -> None:
    """The query is of features, whatever the head, and the head trains."""
    model, modules = attached(num_classes=5)
    queries = []
    modules[0].register_forward_pre_hook(lambda _, inputs: queries.append(inputs[0]))
    assert model(IMAGES).shape == (3, 5)
    plain = vit(num_classes=5)
    torch.testing.assert_close(queries[0], plain.forward_head(plain.forward_features(IMAGES), pre_logits=True))
    assert model.head.weight.requires_grad
    assert not model.norm.weight.requires_grad
