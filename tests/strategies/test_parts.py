"""Plugins on models with a classifier of their own, wrapped, compiled; and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.models import BaseModel, IncrementalClassifier, MTSimpleMLP, MultiHeadClassifier, SimpleMLP
from avalanche.training import supervised
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies import (
    L2SP,
    BestEpoch,
    BiC,
    ClassifierAlignment,
    ContinualModel,
    FrozenBackbone,
    GDumb,
    LinearDiscriminant,
    NearestClassMean,
    OLORAdam,
    OLORPlugin,
    Replay,
    layer_depths,
    slow_learner_groups,
)
from reclaim.strategies.gaussians import ClassGaussians
from reclaim.strategies.heads import TaskHeads, find_classifier
from reclaim.strategies.parts import ClassifierRows, parts_of
from reclaim.strategies.slca import align_heads
from torch import Tensor, nn
from torch.utils.data import TensorDataset

pytestmark = pytest.mark.trains

SIDE, PER_CLASS = 8, 6


def stream(experiences: int = 3, task_labels: bool = False) -> Any:
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(6).repeat_interleave(PER_CLASS)
    images = torch.randn(len(targets), 1, SIDE, SIDE, generator=generator) + targets.view(-1, 1, 1, 1)
    data = TensorDataset(images, targets)
    data.targets = targets.tolist()  # type: ignore[attr-defined]
    return nc_benchmark(data, data, experiences, task_labels=task_labels, fixed_class_order=list(range(6)))


class OwnModel(nn.Module):
    """A model as in a user's pipeline; its classifier grows if it is Avalanche's."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 10), nn.ReLU())
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


def incremental() -> nn.Module:
    return OwnModel(IncrementalClassifier(10, 2))


def fixed() -> nn.Module:
    return OwnModel(nn.Linear(10, 6))


def timms() -> nn.Module:
    return timm.create_model("test_vit", img_size=SIDE, in_chans=1, patch_size=4, num_classes=6)


def continual() -> nn.Module:
    return ContinualModel(nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 10), nn.ReLU()), in_features=10)


def naive(model: nn.Module, *plugins: Any, host: Any = Naive, optimizer: Any = None, **settings: Any) -> Any:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.05)
    settings = {
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 6,
        "eval_mb_size": 18,
        "evaluator": None,
        **settings,
    }
    return host(model=model, optimizer=optimizer, plugins=list(plugins), **settings)


def train(strategy: Any, experiences: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for experience in experiences:
            strategy.train(experience)
            strategy.eval(stream().test_stream[: experience.current_experience + 1])
    return strategy


def values(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


class BeforeAlignment(SupervisedPlugin[Any]):
    """The classifier at the end of each experience, as the plugins before the alignment see it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Tensor]] = []

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.seen.append(values(parts_of(strategy.model, "test").classifier))


OWN = {"incremental": incremental, "linear": fixed, "timm": timms, "continual": continual}
every_model = pytest.mark.parametrize("make", OWN.values(), ids=OWN)


@every_model
def test_alignment_moves_the_classifier_alone_and_puts_it_back(make: Callable[[], nn.Module]) -> None:
    model, watch = make(), BeforeAlignment()
    strategy = naive(model, watch, ClassifierAlignment(samples_per_class=8, epochs=2))
    train(strategy, stream().train_stream)
    parts = parts_of(model, "test")
    assert not same(values(parts.classifier), watch.seen[-1])
    # the next experience goes on from the unaligned classifier
    alignment = next(p for p in strategy.plugins if isinstance(p, ClassifierAlignment))
    alignment.before_train_dataset_adaptation(strategy)
    assert same(values(parts.classifier), watch.seen[-1])


def test_rows_of_a_classifier_are_aligned_as_heads_are() -> None:
    heads, linear = TaskHeads(10, init_std=0.1), nn.Linear(10, 6)
    for classes in ([4, 1], [0, 5]):
        heads.add_head(classes)
    order = heads.classes
    with torch.no_grad():
        linear.weight[order], linear.bias[order] = heads.rows()
    rest = [linear.weight[[2, 3]].clone(), linear.bias[[2, 3]].clone()]
    gaussians = ClassGaussians()
    generator = torch.Generator().manual_seed(0)
    for t, classes in enumerate(heads.head_classes):
        targets = torch.tensor(classes).repeat_interleave(20)
        gaussians.fit(torch.randn(40, 10, generator=generator) + targets[:, None], targets, t)
    rows = ClassifierRows(linear, heads.head_classes)
    for each in (heads, rows):
        align_heads(each, gaussians, generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(heads.rows(), rows.rows(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(rest, [linear.weight[[2, 3]], linear.bias[[2, 3]]], strict=True))


@every_model
@pytest.mark.parametrize(
    "plugin",
    [FrozenBackbone, L2SP, lambda: Replay(6), lambda: GDumb(6), lambda: BestEpoch(stream().test_stream)],
    ids=["FrozenBackbone", "L2SP", "Replay", "GDumb", "BestEpoch"],
)
def test_plugins_train_a_model_of_ones_own(make: Callable[[], nn.Module], plugin: Callable[[], Any]) -> None:
    model = make()
    if make is continual:
        model.heads.freeze_earlier = False  # type: ignore[union-attr]
    backbone = [p.detach().clone() for p in parts_of(model, "test").backbone_parameters().values()]
    strategy = train(naive(model, plugin()), stream().train_stream)
    parts = parts_of(strategy.model, "test")
    frozen = same(backbone, [*parts.backbone_parameters().values()])
    assert frozen == isinstance(strategy.plugins[0], FrozenBackbone)
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())


@pytest.mark.parametrize("make", [incremental, continual])
@pytest.mark.parametrize("plugin", [NearestClassMean, LinearDiscriminant])
def test_class_means_and_discriminant(make: Callable[[], nn.Module], plugin: Any) -> None:
    model = make()
    train(naive(model, FrozenBackbone(), plugin()), stream().train_stream)
    images, targets = zip(*[(x, y) for e in stream().test_stream for x, y, *_ in e.dataset], strict=True)
    model.eval()
    found = model(torch.stack(images)).argmax(1)
    # shifted by the class id, six classes of noise are far apart
    assert float((found == torch.tensor(targets)).float().mean()) > 0.5


def test_bic_on_a_growing_classifier() -> None:
    strategy = train(naive(incremental(), BiC(12, val_percentage=0.5, stage_2_epochs=2)), stream().train_stream)
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())


def test_groups_of_the_slow_learner() -> None:
    for make in OWN.values():
        model = make()
        classifier, backbone = slow_learner_groups(model, 0.1)[::-1]
        both = [*classifier["params"], *backbone["params"]]
        assert {*both} == {*model.parameters()}
        assert {classifier["lr"], backbone["lr"]} == {0.1, 0.001}


def test_a_head_for_each_task() -> None:
    benchmark = stream(task_labels=True)
    model = MTSimpleMLP(input_size=SIDE * SIDE, hidden_size=10)
    model.classifier = MultiHeadClassifier(10)
    strategy = naive(model, ClassifierAlignment(samples_per_class=8))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for experience in benchmark.train_stream:
            strategy.train(experience)
    assert all(torch.isfinite(p).all() for p in model.parameters())


# --- wrapped ---


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")], ids=["DataParallel", "compiled"]
)
@every_model
def test_wrapped_models_are_taken_for_what_is_in_them(wrap: Any, make: Callable[[], nn.Module]) -> None:
    torch._dynamo.reset()
    model = make()
    assert find_classifier(wrap(model))[1] is find_classifier(model)[1]  # type: ignore[index]
    assert parts_of(wrap(model), "test").model is model
    before = values(model)
    if make is continual:
        model.heads.add_head([0, 1])  # type: ignore[union-attr]
    strategy = naive(wrap(model), ClassifierAlignment(samples_per_class=4), L2SP())
    train(strategy, stream().train_stream[:1])
    assert not same(values(model)[: len(before)], before)


# --- before training, not after it ---


class Steps(SupervisedPlugin[Any]):
    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.n += 1


class Softmax(OwnModel):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


class Infinite(OwnModel):
    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x) / 0)


@pytest.mark.parametrize(
    ("model", "plugin", "error", "named"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6)), ClassifierAlignment, TypeError, "has none"),
        (OwnModel(nn.Linear(10, 6, bias=False)), ClassifierAlignment, ValueError, "needs a classifier with a bias"),
        (OwnModel(nn.Linear(10, 1)), ClassifierAlignment, ValueError, "class 1 has no row"),
        (Softmax(nn.Linear(10, 6)), ClassifierAlignment, ValueError, "is not that of its classifier"),
        (Infinite(nn.Linear(10, 6)), ClassifierAlignment, ValueError, "NaN or infinity"),
        (fixed(), NearestClassMean, ValueError, "IncrementalClassifier"),
        (fixed(), LinearDiscriminant, ValueError, "IncrementalClassifier"),
        (fixed(), lambda: BestEpoch([]), ValueError, "no held-out images"),
    ],
)  # fmt: skip
def test_what_will_not_do_is_refused_before_training(model: nn.Module, plugin: Any, error: Any, named: str) -> None:
    steps = Steps()
    with pytest.raises(error, match=named):
        train(naive(model, steps, plugin()), stream().train_stream[:1])
    assert steps.n == 0


def test_a_plugin_that_missed_an_experience_is_refused_before_training() -> None:
    strategy, steps = naive(incremental()), Steps()
    train(strategy, stream().train_stream[:1])
    strategy.plugins += [steps, ClassifierAlignment()]
    with pytest.raises(ValueError, match="has to see every experience"):
        strategy.train(stream().train_stream[1])
    assert steps.n == 0


# --- ContinualModel ---


@pytest.mark.parametrize("given", [{}, {"in_features": 512}, {"in_features": 10}])
def test_a_backbone_that_still_has_its_classifier_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"still has its classifier, classifier \(Linear, 512 to 10\).*nn.Identity"):
        ContinualModel(SimpleMLP(input_size=64), **given)
    model = ContinualModel(SimpleMLP(input_size=64), keep_classifier=True)
    assert model.heads.in_features == 10
    stripped = SimpleMLP(input_size=64)
    stripped.classifier = nn.Identity()
    assert ContinualModel(stripped, in_features=512).heads.in_features == 512


def test_it_is_avalanches_base_model() -> None:
    model = continual()
    assert isinstance(model, BaseModel)
    images = torch.randn(2, 1, SIDE, SIDE)
    assert torch.equal(model.get_features(images), model.features(images))


# --- Avalanche's strategies ---

HOSTS: dict[str, dict[str, Any]] = {
    "EWC": {"ewc_lambda": 1.0},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
    "Replay": {"mem_size": 6},
    "AGEM": {"patterns_per_exp": 4, "sample_size": 4},
    "SynapticIntelligence": {"si_lambda": 0.1},
    "MAS": {},
    "Cumulative": {},
}


@pytest.mark.parametrize("host", HOSTS)
def test_in_avalanches_strategies(host: str) -> None:
    """Alignment sees the trained classifier last, and OLOR's optimizer and plugin train the rest."""
    model, watch = incremental(), BeforeAlignment()
    optimizer = OLORAdam(model.parameters(), 1e-3, layer_depths(model), rollback_input=0.1)
    plugins = [watch, OLORPlugin(), ClassifierAlignment(samples_per_class=8)]
    strategy = naive(model, *plugins, host=getattr(supervised, host), optimizer=optimizer, **HOSTS[host])
    train(strategy, stream().train_stream)
    assert isinstance(strategy.plugins[-1], ClassifierAlignment) or strategy.evaluator in strategy.plugins
    assert not same(values(model.classifier), watch.seen[-1])  # type: ignore[arg-type]
    assert all(torch.isfinite(p).all() for p in model.parameters())
