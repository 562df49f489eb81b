"""OLOR in a stream of experiences: both optimizers in Avalanche, with and without the plugin that chooses theta_0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EvaluationPlugin, GDumbPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.olor import OLORSGD, OLORAdam, OLOROptimizer
from reclaim.strategies.olor_plugin import OLORPlugin
from reclaim.strategies.replay import GDumb
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

pytestmark = pytest.mark.trains

torch.set_num_threads(1)
OPTIMIZERS = [OLORSGD, OLORAdam]


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def assert_same(left: list[Any], right: list[Any]) -> None:
    assert len(left) == len(right)
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def vit(depth: int) -> VisionTransformer:
    return VisionTransformer(
        img_size=28, patch_size=7, in_chans=1, embed_dim=16, depth=depth, num_heads=2, num_classes=5
    )


def stream() -> Any:
    generator = torch.Generator().manual_seed(0)
    data = []
    for classes in ([0, 1, 2], [3], [4, 5]):
        targets = torch.tensor(classes).repeat_interleave(6)
        data.append((torch.rand(len(targets), 1, 28, 28, generator=generator), targets))
    return tensors_benchmark(train_tensors=data, test_tensors=data, task_labels=[0] * len(data))


def fine_tune(
    make: Callable[..., Any],
    plugins: list[Any],
    between: Callable[[ContinualModel, Any], None] | None = None,
    **options: Any,
) -> tuple[ContinualModel, Any]:
    """A ViT trained on three experiences of 3, 1 and 2 classes."""
    torch.manual_seed(0)
    model = ContinualModel(vit(2))
    if make in OPTIMIZERS:
        options["depths"] = layer_depths(model)
    optimizer = make(model.parameters(), lr=0.01, **options)
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=6,
        train_epochs=1,
        plugins=plugins,
        evaluator=EvaluationPlugin(),
    )
    for experience in stream().train_stream:
        strategy.train(experience)
        if between is not None:
            between(model, strategy.optimizer)
    return model, strategy.optimizer


def backbone_of(model: ContinualModel) -> list[nn.Parameter]:
    return list(model.backbone.parameters())


@pytest.mark.parametrize("cls", OPTIMIZERS)
@pytest.mark.parametrize(
    "plugins", [lambda: [], lambda: [OLORPlugin()], lambda: [FreshOptimizer(), OLORPlugin("pretrained")]]
)
def test_anchors_outlive_avalanche(cls: Any, plugins: Callable[[], list[Any]]) -> None:
    torch.manual_seed(0)
    pretrained = backbone_of(ContinualModel(vit(2)))
    model, optimizer = fine_tune(cls, plugins())
    # Heads went into the optimizer, and got no anchor.
    assert {p for group in optimizer.param_groups for p in group["params"]} == set(model.parameters())
    assert set(optimizer.anchors) == set(backbone_of(model))
    assert_same([optimizer.anchors[p].value for p in backbone_of(model)], pretrained)


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_the_rollback_works_through_a_whole_stream(cls: Any) -> None:
    torch.manual_seed(0)
    pretrained = backbone_of(ContinualModel(vit(2)))
    frozen, _ = fine_tune(cls, [], rollback_input=1.0, rollback_output=1.0)
    assert_same(backbone_of(frozen), pretrained)
    free, _ = fine_tune(cls, [], rollback_input=0.0)
    base, _ = fine_tune({OLORSGD: torch.optim.SGD, OLORAdam: torch.optim.Adam}[cls], [], fused=True)
    assert_same(list(free.parameters()), list(base.parameters()))
    assert not torch.equal(backbone_of(free)[0], pretrained[0])


def test_previous_anchors_are_the_weights_at_the_start_of_the_experience() -> None:
    torch.manual_seed(0)
    starts = [values(backbone_of(ContinualModel(vit(2))))]
    anchors = []

    def between(model: ContinualModel, optimizer: OLOROptimizer) -> None:
        starts.append(values(backbone_of(model)))
        anchors.append([optimizer.anchors[p].value for p in backbone_of(model)])

    options: dict[str, Any] = {"rollback_input": 0.3, "rollback_output": 0.3}
    previous, _ = fine_tune(OLORAdam, [OLORPlugin("previous")], between, **options)
    for start, used in zip(starts, anchors, strict=False):
        assert_same(used, start)
    pretrained, _ = fine_tune(OLORAdam, [OLORPlugin("pretrained")], **options)
    without, _ = fine_tune(OLORAdam, [], **options)
    assert_same(backbone_of(pretrained), backbone_of(without))
    assert not torch.equal(backbone_of(previous)[0], backbone_of(pretrained)[0])


def gdumb_and_olor(gdumb: Any, anchor: Any = "pretrained") -> tuple[Naive, list[Tensor]]:
    torch.manual_seed(0)
    model = ContinualModel(vit(2), freeze_earlier=False)
    start = values(backbone_of(model))
    # a rollback of 1: what it holds cannot move
    options: dict[str, Any] = {"rollback_input": 1.0, "rollback_output": 1.0, "depths": layer_depths(model)}
    optimizer = OLORAdam(model.parameters(), lr=0.01, **options)
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=6,
        plugins=[gdumb(12), OLORPlugin(anchor)],
        evaluator=EvaluationPlugin(),
    )
    for experience in stream().train_stream:
        strategy.train(experience, eval_streams=[])
    return strategy, start


@pytest.mark.parametrize("anchor", ["pretrained", "previous"])
@pytest.mark.parametrize("gdumb", [GDumbPlugin, GDumb])
def test_theta_0_follows_parameters_that_are_replaced(gdumb: Any, anchor: Any) -> None:
    strategy, start = gdumb_and_olor(gdumb, anchor)
    held = {p for group in strategy.optimizer.param_groups for p in group["params"]}
    assert set(strategy.optimizer.anchors) == set(backbone_of(strategy.model)) <= held
    assert_same(values(backbone_of(strategy.model)), start)


def test_parameters_that_are_gone() -> None:
    strategy, _ = gdumb_and_olor(GDumb)
    plugin = strategy.plugins[1]
    strategy.model.backbone.norm.weight = nn.Parameter(torch.zeros(3))
    strategy.make_optimizer()
    with pytest.raises(ValueError, match=r"theta_0 for backbone.norm.weight of shape \(16,\).*make a new optimizer"):
        plugin.before_training_exp(strategy)
    strategy.model = ContinualModel(vit(2))
    with pytest.raises(ValueError, match=r"theta_0 for a parameter .* which is not in the model"):
        OLORPlugin().before_training_exp(strategy)


def test_the_plugin_wants_one_of_these_optimizers() -> None:
    with pytest.raises(TypeError, match="needs OLORSGD or OLORAdam as the strategy's optimizer, got SGD"):
        fine_tune(torch.optim.SGD, [OLORPlugin()])
    with pytest.raises(ValueError, match="anchor must be 'pretrained' or 'previous', got 'latest'"):
        OLORPlugin("latest")  # type: ignore[arg-type]
