"""APER: the pretrained backbone beside the adapted one, whatever was adapted."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.supervised import Naive
from reclaim.strategies.aper import APER, BesidePretrained, copy_without_modules
from reclaim.strategies.first_experience import FirstExperienceOnly
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.peft import attach_adapter, attach_lora, attach_prefix
from reclaim.strategies.prompts import attach_prompts
from reclaim.strategies.slca_pp import attach_svd_lora
from reclaim.strategies.ssf import attach_ssf
from reclaim.strategies.task_loss import TaskCrossEntropy
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

pytestmark = pytest.mark.trains

torch.set_num_threads(1)

MODULES: dict[str, Callable[[Any], Any]] = {
    "fine-tuning": lambda model: None,
    "lora": lambda model: attach_lora(model, range(2)),
    "adapter": lambda model: attach_adapter(model, range(2)),
    "prefix": lambda model: attach_prefix(model, range(2)),
    "prompts": lambda model: attach_prompts(model, 2),
    "ssf": attach_ssf,
}


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=2, num_heads=2, num_classes=0, proj_drop_rate=0.1
    )


def make_stream(tasks: list[list[int]] = [[0, 1, 2], [3], [4, 5]]) -> Any:  # noqa: B006
    generator = torch.Generator().manual_seed(4)
    parts: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for part in parts:
        for classes in tasks:
            y = torch.tensor(classes).repeat_interleave(6)
            part.append((torch.randn(len(y), 1, 8, 8, generator=generator) + y[:, None, None, None], y))
    return tensors_benchmark(train_tensors=parts[0], test_tensors=parts[1], task_labels=[0] * len(tasks))


def make_strategy(attach: Callable[[Any], Any]) -> Naive:
    model = ContinualModel(vit())
    attach(model)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=TaskCrossEntropy(),
        train_mb_size=8,
        train_epochs=2,
        plugins=[FreshOptimizer(), FirstExperienceOnly(), APER()],
        evaluator=None,
    )


def run(attach: Callable[[Any], Any], between: Callable[[Naive, Any], Naive]) -> Naive:
    strategy, stream = make_strategy(attach), make_stream()
    for i, exp in enumerate(stream.train_stream):
        torch.manual_seed(i)
        strategy.train(exp)
        strategy = between(strategy, stream)
    return strategy


@pytest.mark.parametrize("attach", MODULES.values(), ids=MODULES)
def test_it_names_the_class_with_the_largest_cosine_of_both_features(attach: Callable[[Any], Any]) -> None:
    strategy, stream = run(attach, lambda s, stream: s), make_stream()
    model: Any = strategy.model.eval()
    images, targets = (
        torch.cat(
            [
                torch.stack([s[i] for s in e.dataset]) if i == 0 else torch.tensor([int(s[i]) for s in e.dataset])
                for e in stream.train_stream
            ]
        )
        for i in (0, 1)
    )
    with torch.no_grad():
        old, new = vit().eval()(images), model.backbone(images)
        assert (old - new).abs().max() > 1e-4, "it was adapted"
        both = torch.cat([old, new], dim=1)
        torch.testing.assert_close(model.features(images), both)
        means = torch.stack([both[targets == c].mean(dim=0) for c in range(6)])
        cosines = torch.cosine_similarity(both[:, None], means, dim=2)
        logits = model(images) / both.norm(dim=1, keepdim=True)
    torch.testing.assert_close(
        logits - logits.mean(dim=1, keepdim=True), cosines - cosines.mean(dim=1, keepdim=True), rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("name", ["ssf", "prompts", "fine-tuning"])
def test_evaluation_and_pickling_in_between_change_nothing(name: str) -> None:
    def evaluate(strategy: Naive, stream: Any) -> Naive:
        strategy.eval(stream.test_stream)
        return strategy

    ways = (lambda s, _: s, evaluate, lambda s, _: pickle.loads(pickle.dumps(s)))
    first, *others = [run(MODULES[name], way).model.state_dict() for way in ways]
    for other in others:
        assert first.keys() == other.keys()
        assert all(torch.equal(first[k], other[k]) for k in first if isinstance(first[k], Tensor))


def test_the_pretrained_backbone_stays_and_trains_nothing() -> None:
    strategy = run(MODULES["ssf"], lambda s, _: s)
    extension: Any = strategy.model.extension
    plain = vit().state_dict()
    kept = extension.pretrained.state_dict()
    assert plain.keys() == kept.keys()
    assert all(torch.equal(plain[k], kept[k]) for k in plain)
    assert not list(extension.parameters())
    assert not extension.train().pretrained.training
    plugin = next(p for p in strategy.plugins if isinstance(p, APER))
    assert plugin.bytes_kept == 8 * 6 * (16 + 1) + sum(t.nbytes for t in plain.values())


def test_with_another_strategy_it_starts_anew() -> None:
    plugin, ends = APER(), []
    for used in (plugin, plugin, APER()):
        strategy = make_strategy(attach_ssf)
        strategy.plugins[2] = used
        torch.manual_seed(1)
        strategy.train(make_stream([[0, 1]]).train_stream)
        ends.append(strategy.model.heads.snapshot())
    assert all(torch.equal(a, b) for end in ends[:2] for a, b in zip(end, ends[2], strict=True))


def test_errors() -> None:
    model = ContinualModel(vit())
    attach_svd_lora(model, 2, 0.8)
    with pytest.raises(TypeError, match="cannot take SVDLoRA out of a copy"):
        copy_without_modules(model.backbone)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    strategy = Naive(
        model=plain, optimizer=torch.optim.SGD(plain.parameters(), lr=0.1), plugins=[APER()], evaluator=None
    )
    with pytest.raises(TypeError, match="APER needs a backbone with heads of its own"):
        strategy.train(make_stream().train_stream)
    assert isinstance(BesidePretrained(vit()), nn.Module)
