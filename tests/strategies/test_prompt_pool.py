"""Pools of prompts, L2P's and DualPrompt's alike: choices, votes, what trains and what does not."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.byte_counts import bytes_of
from reclaim.strategies.dualprompt import DualPrompt, attach_dualprompt, detach_dualprompt
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.l2p import L2P, attach_l2p, detach_l2p
from reclaim.strategies.peft import attach_lora
from reclaim.strategies.peft_module import peft_parameters
from reclaim.strategies.prompt_pool import cosine_similarity, largest, vote
from reclaim.strategies.slca import ClassifierAlignment
from reclaim.strategies.task_loss import TaskCrossEntropy
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

pytestmark = pytest.mark.trains

TASKS = ([0, 4], [2, 5, 1], [3], [0, 3])  # uneven, one class alone, classes that come back
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))


def vit(kind: type[VisionTransformer] = VisionTransformer, **arguments: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "depth": 3, "num_heads": 2}
    return kind(**(sizes | {"num_classes": 0} | arguments)).eval()


def attach_small_l2p(model: Any, pool: int = 4, **arguments: Any) -> Any:
    torch.manual_seed(1)
    return attach_l2p(model, pool, **({"length": 2, "top_k": 2} | arguments))


def attach_small_dualprompt(model: Any, pool: int = 4, **arguments: Any) -> Any:
    torch.manual_seed(1)
    return attach_dualprompt(
        model, pool, **({"g_length": 1, "e_length": 2, "g_layers": [0], "e_layers": [1, 2]} | arguments)
    )


METHODS = {
    "l2p": (attach_small_l2p, detach_l2p, L2P),
    "dualprompt": (attach_small_dualprompt, detach_dualprompt, DualPrompt),
}
every_method = pytest.mark.parametrize(("attach", "detach", "plugin"), METHODS.values(), ids=METHODS)
Attach = Callable[..., Any]


def stream(per_class: int = 7) -> Any:
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(7, 1, 8, 8, generator=generator)
    data = []
    for classes in TASKS:
        y = torch.tensor(classes).repeat_interleave(per_class)
        data.append((patterns[y] + 0.5 * torch.randn(len(y), 1, 8, 8, generator=generator), y))
    return tensors_benchmark(train_tensors=data, test_tensors=data, task_labels=[0] * len(data))


def naive(model: nn.Module, *plugins: Any, **options: Any) -> Any:
    return Naive(
        model=model,
        optimizer=torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01),
        criterion=TaskCrossEntropy(),
        plugins=[FreshOptimizer(), *plugins],
        evaluator=EvaluationPlugin(),
        **({"train_mb_size": 4, "train_epochs": 2, "eval_mb_size": 5} | options),
    )


def train(strategy: Any, *experiences: int, evaluate: bool = False) -> Any:
    of_all = stream()
    for t in experiences or range(len(TASKS)):
        torch.manual_seed(t)
        strategy.train(of_all.train_stream[t], eval_streams=[])
        if evaluate:
            strategy.eval(of_all.test_stream)
    return strategy


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def different_choices(model: Any, pool: Any) -> Any:
    """Let the keys of a pool of six be the queries of the images."""
    model(IMAGES)
    pool.keys.data.copy_(pool.query)
    return pool


# --- choices ---


def test_the_cosine_of_a_vector_of_zeros_is_0() -> None:
    queries, keys = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[6.0, 8.0], [0.0, -2.0]])
    torch.testing.assert_close(cosine_similarity(queries, keys), torch.tensor([[1.0, -0.8], [0.0, 0.0]]))


def test_of_equal_values_the_lowest_index_comes_first() -> None:
    values = torch.tensor([1.0, 3.0, 2.0, 3.0, 2.0, 2.0]).repeat(40)
    assert largest(values, 3).tolist() == [1, 3, 7]
    assert largest(torch.zeros(2, 50), 2).tolist() == [[0, 1], [0, 1]]


def test_the_majority_chooses_for_all_images() -> None:
    chosen = torch.tensor([[4, 1], [1, 0], [3, 1], [3, 2]])
    assert vote(chosen, 6).tolist() == [[1, 3]] * 4
    assert vote(chosen[:1], 6).tolist() == [[1, 4]]  # one image alone: a tie, the lower index first


@every_method
def test_who_chooses_in_training_and_at_test(attach: Attach, detach: Any, plugin: Any) -> None:
    for by_training, by_test in (("batch", "image"), ("image", "batch")):
        model = vit()
        free = {"train_choice": "query"} if attach is attach_small_dualprompt else {}
        pool = different_choices(model, attach(model, pool=6, train_vote=by_training, test_vote=by_test, **free))
        for training, by in ((True, by_training), (False, by_test)):
            model.train(training)(IMAGES)
            alone = largest(cosine_similarity(pool.query, pool.keys), pool.top_k)
            assert len({tuple(row) for row in alone.tolist()}) > 1
            expected = vote(alone, 6) if by == "batch" else alone
            assert pool.indices.tolist() == expected.tolist()


@every_method
def test_a_vote_at_test_makes_predictions_depend_on_the_batch(attach: Attach, detach: Any, plugin: Any) -> None:
    with torch.no_grad():
        for by in ("image", "batch"):
            model = vit()
            different_choices(model, attach(model, pool=6, test_vote=by))
            alone = torch.cat([model(image[None]) for image in IMAGES])
            assert torch.allclose(model(IMAGES), alone, atol=1e-6) == (by == "image")
            order = torch.tensor([3, 0, 5, 1, 4, 2])
            torch.testing.assert_close(
                model(IMAGES[order]), model(IMAGES)[order]
            )  # the order within a batch is nothing


@every_method
@pytest.mark.parametrize("query", ["shared", "copy"])
def test_the_query_is_what_the_plain_vit_makes_of_an_image(
    query: str, attach: Attach, detach: Any, plugin: Any
) -> None:
    model = vit(proj_drop_rate=0.5, attn_drop_rate=0.5, pos_drop_rate=0.5)
    plain = model(IMAGES)
    pool = attach(model, query=query)
    for training in (True, False):
        model.train(training)(IMAGES)
        torch.testing.assert_close(pool.query, plain)
        assert all(module.training == training for module in model.blocks.modules())
    model.norm.weight.data.zero_()
    model(IMAGES)
    assert torch.allclose(pool.query, plain) == (query == "copy")
    assert set(peft_parameters(model)) == {p for p in model.parameters() if p.requires_grad}


@every_method
def test_initial_prompts_and_keys(attach: Attach, detach: Any, plugin: Any) -> None:
    for init, low, high in (("reference", -1.0, 1.0), ("google", 0.0, 0.01)):
        model = vit()
        attach(model, init=init)
        for parameter in peft_parameters(model):
            values = parameter.detach()
            assert low <= float(values.min()) < float(values.max()) <= high
            assert float(values.max() - values.min()) > 0.3 * (high - low)


@every_method
def test_a_generator_gives_the_numbers(attach: Attach, detach: Any, plugin: Any) -> None:
    first, second = vit(), vit()
    attach(first, generator=torch.Generator().manual_seed(5))
    torch.rand(3)
    attach(second, generator=torch.Generator().manual_seed(5))
    assert same(state(first), state(second))


# --- attaching ---


@every_method
def test_detaching_leaves_no_trace(attach: Attach, detach: Any, plugin: Any) -> None:
    model = vit()
    before, output = state(model), model(IMAGES)
    modules = {name: type(module) for name, module in model.named_modules()}
    pool = attach(model, query="copy")
    assert not torch.allclose(model(IMAGES), output)
    assert detach(model) is pool
    assert same(state(model), before)
    assert {name: type(module) for name, module in model.named_modules()} == modules
    assert torch.equal(model(IMAGES), output)
    attach(model)  # again


@every_method
def test_what_cannot_be_attached_or_detached_is_named(attach: Attach, detach: Any, plugin: Any) -> None:
    with pytest.raises(ValueError, match="there is nothing to detach"):
        detach(vit())
    model = vit()
    attach(model)
    with pytest.raises(ValueError, match="has a pool of prompts already"):
        attach(model)
    with pytest.raises(TypeError, match="got VisionTransformerDistilled"):
        attach(vit(VisionTransformerDistilled))
    with pytest.raises(TypeError, match="PEFT modules go into a timm VisionTransformer"):
        attach(nn.Linear(2, 2))
    for arguments, complaint in (
        ({"top_k": 5}, "top_k must be from 1 to the size of the pool, 4, got 5"),
        ({"train_vote": "all"}, "train_vote must be 'batch' or 'image', got 'all'"),
        ({"test_vote": "all"}, "test_vote must be"),
        ({"init": "zero"}, "init must be"),
        ({"query": "none"}, "query must be 'shared' or 'copy', got 'none'"),
    ):
        model = vit()
        before = state(model)
        with pytest.raises(ValueError, match=complaint):
            attach(model, **arguments)
        assert same(state(model), before)
        assert type(model) is VisionTransformer
        assert all(p.requires_grad for p in model.parameters())


# --- training ---


def test_numbers_out_of_range_are_refused() -> None:
    for plugin in (L2P, DualPrompt):
        for arguments, complaint in (
            ({"pull": -1}, "pull must be a finite number"),
            ({"clip": -1}, "clip must not be negative, got -1"),
            ({"clip_over": "some"}, "clip_over must be 'trained' or 'all', got 'some'"),
        ):
            with pytest.raises(ValueError, match=complaint):
                plugin(**arguments)  # type: ignore[arg-type]


@every_method
def test_the_plugin_needs_its_own_pool(attach: Attach, detach: Any, plugin: Any) -> None:
    model = ContinualModel(vit())
    attach_lora(model, [0], 2)
    with pytest.raises(ValueError, match=r"no (L2P|DualPrompt)Pool is attached to this model: call attach_\w+\(model"):
        train(naive(model, plugin()), 0)


@every_method
@pytest.mark.parametrize("size", [1, 4])
def test_prompts_and_heads_train_and_nothing_else(size: int, attach: Attach, detach: Any, plugin: Any) -> None:
    model = ContinualModel(vit())
    frozen = {name: p.clone() for name, p in model.backbone.named_parameters()}
    pool = attach(model)
    start = state(model)
    for clip_over in ("trained", "all"):
        train(naive(model, plugin(clip_over=clip_over), train_mb_size=size, train_epochs=1))
        assert all(torch.equal(p, model.backbone.get_parameter(name)) for name, p in frozen.items())
        assert not any(model.backbone.get_parameter(name).requires_grad for name in frozen)
        assert all(model.backbone.get_parameter(name).grad is None for name in frozen)
    assert int(pool.experiences) == 2 * len(TASKS)
    moved = {name for name, value in start.items() if not torch.equal(value, model.state_dict()[name])}
    assert moved >= {"backbone.prompt_pool.keys"}
    assert any(name.endswith("prompts") for name in moved)


@pytest.mark.parametrize("clip_over", ["trained", "all"])
@every_method
def test_a_vits_own_classifier_trains(clip_over: Any, attach: Attach, detach: Any, plugin: Any) -> None:
    model = vit(num_classes=6)
    attach(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad and "prompt" not in n} == {
        "head.weight",
        "head.bias",
    }
    before = model.head.weight.detach().clone()
    strategy = naive(model, plugin(clip_over=clip_over))
    strategy.train(stream().train_stream[0])
    assert not torch.equal(model.head.weight, before)
    assert model.head.weight.requires_grad
    frozen = vit(num_classes=6)
    frozen.head.requires_grad_(False)
    attach(frozen)
    assert not frozen.head.weight.requires_grad  # as it was


@every_method
def test_evaluating_in_between_changes_nothing(attach: Attach, detach: Any, plugin: Any) -> None:
    ends = []
    for evaluate in (False, True):
        model = ContinualModel(vit())
        attach(model)
        train(naive(model, plugin()), evaluate=evaluate)
        ends.append(state(model))
    assert same(*ends)


@every_method
def test_a_pickle_in_the_middle_goes_on(attach: Attach, detach: Any, plugin: Any) -> None:
    ends = []
    for again in (lambda x: x, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))):
        model = ContinualModel(vit())
        attach(model)
        strategy = train(again(train(naive(model, plugin()), 0, 1)), 2, 3)
        ends.append(state(strategy.model))
    assert same(ends[0], ends[1])
    assert same(ends[0], ends[2])


@every_method
def test_another_strategy_on_the_model_goes_on_counting(attach: Attach, detach: Any, plugin: Any) -> None:
    model = ContinualModel(vit())
    pool = attach(model)
    used = plugin()
    train(naive(model, used), 0, 1)
    train(naive(model, used), 2)
    assert int(pool.experiences) == 3
    other = ContinualModel(vit())
    fresh = attach(other)
    train(naive(other, used), 0)
    assert (int(fresh.experiences), int(pool.experiences)) == (1, 3)


class Losses(FreshOptimizer):
    """What the loss is made of, in the first iteration, and the norm of the gradient that remains."""

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if not hasattr(self, "loss"):
            pool = strategy.model.backbone.prompt_pool
            self.loss = float(strategy.loss.detach())
            self.plain = float(strategy._criterion(strategy.mb_output, strategy.mb_y).detach())
            cosines = F.cosine_similarity(pool.query[:, None], pool.keys[pool.indices], dim=2)
            self.pull = float(cosines.sum() / len(pool.query))

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if not hasattr(self, "norm"):
            gradients = [p.grad for p in strategy.model.parameters() if p.grad is not None]
            self.norm = float(torch.stack([gradient.norm() for gradient in gradients]).norm())


def first_iteration(attach: Attach, plugin: Any) -> Losses:
    model = ContinualModel(vit())
    attach(model)
    seen = Losses()
    train(naive(model, plugin, seen), 0)
    return seen


@every_method
def test_the_pull_lowers_the_loss(attach: Attach, detach: Any, plugin: Any) -> None:
    for pull in (0.0, 0.5):
        seen = first_iteration(attach, plugin(pull=pull))
        assert seen.pull
        assert seen.loss == pytest.approx(seen.plain - pull * seen.pull, abs=1e-6)


@every_method
def test_the_norm_that_is_clipped(attach: Attach, detach: Any, plugin: Any) -> None:
    whole = first_iteration(attach, plugin(clip=None)).norm
    assert first_iteration(attach, plugin(clip=0.0)).norm == whole
    assert first_iteration(attach, plugin(clip=2 * whole)).norm == pytest.approx(whole)
    assert first_iteration(attach, plugin(clip=whole / 2)).norm == pytest.approx(whole / 2, rel=1e-4)
    # the frozen backbone's gradients make the norm larger, and what trains smaller
    assert first_iteration(attach, plugin(clip=whole / 2, clip_over="all")).norm < 0.99 * whole / 2


@every_method
def test_bytes_of_the_copy(attach: Attach, detach: Any, plugin: Any) -> None:
    for query, kept in (("shared", 0), ("copy", bytes_of(vit()))):
        model = ContinualModel(vit())
        attach(model, query=query)
        used = plugin()
        train(naive(model, used), 0)
        assert used.bytes_kept == kept


@every_method
def test_alignment_sees_features_with_the_vote_of_the_test(attach: Attach, detach: Any, plugin: Any) -> None:
    model = ContinualModel(vit())
    attach(model)
    alignment = ClassifierAlignment(epochs=1, samples_per_class=4)
    train(naive(model, plugin(), alignment), 0, 1)
    assert sorted(alignment.gaussians.classes) == [0, 1, 2, 4, 5]
    dataset = stream().train_stream[1].dataset
    images = torch.stack([dataset[i][0] for i in range(len(dataset)) if dataset[i][1] == 2])
    with torch.no_grad():
        mean = model.eval().features(images).mean(dim=0)
    torch.testing.assert_close(alignment.gaussians[2].mean.float(), mean, atol=1e-5, rtol=1e-4)
