"""The parts of anybody's model, and the plugins on it: what trains, what is refused, and that it is refused at once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.models import (
    BaseModel,
    IncrementalClassifier,
    MTSimpleMLP,
    MultiHeadClassifier,
    SimpleCNN,
    SimpleMLP,
    SlimResNet18,
)
from avalanche.training import supervised
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.averaging import WeightAverage, WiSEFT
from reclaim.strategies.baselines import L2SP, FrozenBackbone
from reclaim.strategies.best_epoch import BestEpoch
from reclaim.strategies.closed_form import LinearDiscriminant, NearestClassMean
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.features import extract_features
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.gaussians import ClassGaussians
from reclaim.strategies.heads import ContinualModel, TaskHeads, find_classifier, require_continual_model
from reclaim.strategies.lae import LAE
from reclaim.strategies.olor import OLORSGD
from reclaim.strategies.olor_plugin import OLORPlugin
from reclaim.strategies.parts import ClassifierRows, parts_of
from reclaim.strategies.peft import PEFTSchedule, attach_lora
from reclaim.strategies.replay import BiC, GDumb, Replay
from reclaim.strategies.slca import SLCA, ClassifierAlignment, align_heads, slow_learner_groups
from reclaim.strategies.task_loss import TaskCrossEntropy
from reclaim.strategies.wrappers import unwrap
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

pytestmark = pytest.mark.trains

TASKS = [[0, 1], [2, 3], [4, 5]]
FEW: dict[str, Any] = {"samples_per_class": 16}


def make_stream(
    tasks: list[list[int]] = TASKS, per_class: int = 8, task_labels: list[int] | None = None, **transforms: Any
) -> Any:
    """Images (1, 8, 8): a pattern for each class, and noise. The test images are others of the same classes."""
    patterns = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(8)
    parts: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for part in parts:
        for classes in tasks:
            y = torch.tensor(classes).repeat_interleave(per_class)
            part.append((patterns[y] + 0.7 * torch.randn(len(y), 1, 8, 8, generator=generator), y))
    labels = task_labels or [0] * len(tasks)
    return tensors_benchmark(train_tensors=parts[0], test_tensors=parts[1], task_labels=labels, **transforms)


def mlp(classifier: nn.Module) -> SimpleMLP:
    """Avalanche's model with dropout, and another classifier."""
    model = SimpleMLP(input_size=64, hidden_size=12)
    model.classifier = classifier
    return model


def incremental() -> nn.Module:
    torch.manual_seed(0)
    return mlp(IncrementalClassifier(12))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return mlp(nn.Linear(12, 6))


def multi_head() -> nn.Module:
    torch.manual_seed(0)
    return MTSimpleMLP(input_size=64, hidden_size=12)


class OnViT(nn.Module):
    """A user's model: a timm ViT and Avalanche's classifier, without ``get_features``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 12, "num_heads": 2}
        self.vit = VisionTransformer(depth=2, num_classes=0, **sizes)
        self.out = IncrementalClassifier(12)

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.vit(images))


def continual(**options: Any) -> ContinualModel:
    torch.manual_seed(0)
    return ContinualModel(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.LayerNorm(12)), in_features=12, **options
    )


class Count(SupervisedPlugin[Any]):
    """Counts iterations, and keeps the classifier's tensors as they are after each experience, before the alignment."""

    def __init__(self) -> None:
        super().__init__()
        self.iterations = 0
        self.trained: list[list[Tensor]] = []
        self.started: list[list[Tensor]] = []

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if find_classifier(strategy.model):
            self.started.append(classifier_of(strategy.model))

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.iterations += 1

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.trained.append(classifier_of(strategy.model))


def classifier_of(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in parts_of(model, "a test").classifier.parameters() if p.numel()]


def naive(model: nn.Module, *plugins: Any, criterion: Any = None, lr: float = 0.05, **settings: Any) -> Any:
    options: dict[str, Any] = {"train_mb_size": 8, "train_epochs": 2, "eval_mb_size": 8, "evaluator": None}
    optimizer = torch.optim.SGD(slow_learner_groups(model, lr, slow_factor=0.1))
    criterion = criterion or nn.CrossEntropyLoss()
    return Naive(model=model, optimizer=optimizer, criterion=criterion, plugins=list(plugins), **(options | settings))


def train(strategy: Any, stream: Any, evaluate: bool = True) -> Any:
    for t, experience in enumerate(stream.train_stream):
        torch.manual_seed(t)
        strategy.train(experience, eval_streams=[])
        if evaluate:
            strategy.eval(stream.test_stream)  # other classes too: Avalanche's classifiers grow
    return strategy


# What a model is made of


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: SimpleMLP(), "classifier"),
        (lambda: SimpleCNN(), "classifier.0"),
        (lambda: SlimResNet18(10), "linear"),
        (incremental, "classifier"),
        (multi_head, "classifier"),
        (OnViT, "out"),
        (continual, "heads"),
        (lambda: timm.create_model("test_vit"), "head"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "1"),
        (lambda: nn.Sequential(nn.Identity(), timm.create_model("resnet18", num_classes=3)), "1.fc"),
        (lambda: nn.DataParallel(incremental()), "classifier"),
        (lambda: torch.compile(incremental(), backend="eager"), "classifier"),
    ],
)
def test_the_classifier_is_found(model: Callable[[], nn.Module], name: str) -> None:
    whole = model()
    found = find_classifier(whole)
    assert found is not None
    assert found[0] == name
    parts = parts_of(whole, "a test")
    kept = [id(p) for p in parts.classifier.parameters()]
    assert sorted([*kept, *map(id, parts.backbone_parameters().values())]) == sorted(map(id, whole.parameters()))


@pytest.mark.parametrize(
    "model",
    [
        lambda: timm.create_model("test_vit", num_classes=0),
        lambda: timm.create_model("resnet18", num_classes=0),
        lambda: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.LayerNorm(2)),
        lambda: nn.ModuleList([IncrementalClassifier(2), IncrementalClassifier(2)]),
        nn.Flatten,
        lambda: nn.TransformerEncoderLayer(4, 2),
    ],
)
def test_a_backbone_has_none(model: Callable[[], nn.Module]) -> None:
    assert find_classifier(model()) is None
    with pytest.raises(TypeError, match=r"a test needs .* none that can be told .* ContinualModel\(backbone\)"):
        parts_of(model(), "a test")


def test_features_are_what_the_classifier_is_given() -> None:
    data = make_stream().train_stream[0].dataset.eval()
    for model in (incremental(), plain(), OnViT()):
        model.train()
        features, targets = extract_features(model, data, 5, "cpu")
        assert all(m.training for m in model.modules())
        assert features.shape == (16, 12)
        assert targets.tolist() == [0] * 8 + [1] * 8
        images = torch.stack([x for x, *_ in data])
        model.eval()
        expected = model.vit(images) if isinstance(model, OnViT) else model.get_features(images)
        torch.testing.assert_close(features, expected.detach())


def test_a_continual_model_is_avalanches_base_model() -> None:
    model = continual()
    assert isinstance(model, BaseModel)
    images = torch.randn(3, 1, 8, 8)
    assert torch.equal(model.get_features(images), model.features(images))


def test_wrappers_are_taken_off() -> None:
    model = continual()
    for wrapped in (nn.DataParallel(model), torch.compile(model), nn.DataParallel(torch.compile(model))):
        assert unwrap(wrapped) is model
        assert require_continual_model(wrapped, "a test") is model


# A backbone with its classifier on


class Named(nn.Module):
    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.add_module(name, layer)


@pytest.mark.parametrize("options", [{}, {"in_features": 512}, {"in_features": 10}])
def test_heads_are_not_put_on_logits(options: dict[str, Any]) -> None:
    message = r"SimpleMLP still has its classifier, classifier \(Linear, 512 to 10\).*nn.Identity.*in_features=512"
    with pytest.raises(ValueError, match=message):
        ContinualModel(SimpleMLP(), **options)


@pytest.mark.parametrize(
    ("backbone", "name"),
    [
        (lambda: Named("fc", nn.Linear(3, 2)), "fc"),
        (lambda: Named("heads", nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 2))), "heads.1"),
        (lambda: Named("anything", IncrementalClassifier(3)), "anything"),
        (lambda: Named("anything", MultiHeadClassifier(3)), "anything"),
        (lambda: nn.Sequential(nn.Identity(), timm.create_model("test_vit")), "1.head"),
        (lambda: torch.compile(Named("fc", nn.Linear(3, 2))), "fc"),
    ],
)
def test_kinds_of_classifiers_still_on(backbone: Callable[[], nn.Module], name: str) -> None:
    with pytest.raises(ValueError, match=rf"still has its classifier, {name} \("):
        ContinualModel(backbone(), in_features=2)


def test_a_classifier_may_be_meant() -> None:
    assert ContinualModel(SimpleMLP(), keep_classifier=True).heads.in_features == 10
    vit = timm.create_model("test_vit", num_classes=7)
    assert ContinualModel(vit, keep_classifier=True).features(torch.randn(2, 3, 160, 160)).shape == (2, 7)


def test_a_projection_is_none() -> None:
    ContinualModel(Named("projection", nn.Linear(3, 2)), in_features=2)
    ContinualModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), in_features=2)


def test_the_advice_is_right() -> None:
    with pytest.raises(TypeError, match=r"put nn.Identity\(\) in the place of classifier .* and wrap it"):
        require_continual_model(SimpleMLP(input_size=64, hidden_size=12), "HeadScaling")
    stripped = SimpleMLP(input_size=64, hidden_size=12)
    stripped.classifier = nn.Identity()
    train(naive(ContinualModel(stripped, in_features=12), ClassifierAlignment(**FEW)), make_stream())


# Plugins on a user's model

MODELS: list[Any] = [incremental, plain, multi_head, OnViT]


@pytest.mark.parametrize("model", MODELS)
def test_alignment(model: Callable[[], nn.Module]) -> None:
    whole, alignment, count = model(), ClassifierAlignment(**FEW), Count()
    stream = make_stream()
    strategy = naive(whole, FreshOptimizer(), count, alignment)
    train(strategy, stream)
    assert alignment.gaussians.classes == list(range(6))
    assert alignment._tasks == TASKS
    weight, bias = parts_of(whole, "a test").heads(TASKS).rows()
    assert (weight.shape, bias.shape) == ((6, 12), (6,))
    now = classifier_of(whole)
    assert not any(torch.equal(a, b) for a, b in zip(count.trained[-1], now, strict=True))
    # F6: the next experience starts from the trained rows, whatever evaluation made room for
    for t in (0, 1):
        for ended, started in zip(count.trained[t], count.started[t + 1], strict=False):
            assert torch.equal(started[: len(ended)], ended)


def test_aligned_rows_are_those_of_heads() -> None:
    """The same weights in TaskHeads and in one matrix: the same alignment."""
    heads, gaussians, layer = TaskHeads(12, init_std=0.1), ClassGaussians(), nn.Linear(12, 9)
    torch.manual_seed(0)
    for t, classes in enumerate(TASKS):
        heads.add_head(classes)
        gaussians.fit(torch.randn(20, 12) + t, torch.tensor(classes).repeat_interleave(10), t)
    rows = ClassifierRows(layer, TASKS)
    rows.write(*heads.rows())
    others = layer.weight[6:].clone()
    before = rows.rows()
    for which in (heads, rows):
        align_heads(which, gaussians, **FEW, generator=torch.Generator().manual_seed(1))
    for a, b, unaligned in zip(heads.rows(), rows.rows(), before, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, unaligned)
    assert torch.equal(layer.weight[6:], others)


@pytest.mark.parametrize("task_labels", [[0, 0, 0], [0, 1, 2]])
@pytest.mark.parametrize("plugin", [NearestClassMean, LinearDiscriminant])
@pytest.mark.parametrize("model", [incremental, multi_head, OnViT])
def test_closed_forms(model: Callable[[], nn.Module], plugin: Any, task_labels: list[int]) -> None:
    """The prediction is the nearest of the means that compete: of all classes, or of the task's."""
    stream, whole, closed = make_stream(task_labels=task_labels), model(), plugin()
    strategy = naive(whole, closed, train_epochs=0)
    for t, experience in enumerate(stream.train_stream):
        strategy.train(experience)
        for test in stream.test_stream[: t + 1]:
            features, _ = extract_features(whole, test.dataset.eval(), 8, "cpu")
            images = torch.stack([x for x, *_ in test.dataset.eval()])
            tasks = torch.tensor([int(label) for *_, label in test.dataset.eval()])
            logits = whole.eval()(images, tasks) if model is multi_head else whole.eval()(images)
            alone = model is multi_head and len(set(task_labels)) > 1
            rivals = list(test.classes_in_this_experience) if alone else list(closed._means)
            means = torch.stack([closed._means[c] for c in rivals])
            if plugin is NearestClassMean:
                nearest = torch.tensor(rivals)[torch.cdist(features.double(), means).argmin(dim=1)]
                assert logits.argmax(dim=1).tolist() == nearest.tolist()
            assert set(logits.argmax(dim=1).tolist()) <= set(rivals)


@pytest.mark.parametrize("model", MODELS)
def test_plugins_that_need_the_backbone(model: Callable[[], nn.Module]) -> None:
    stream, whole = make_stream(), model()
    backbone, before = parts_of(whole, "a test").backbone_parameters().values(), classifier_of(whole)
    pretrained = [p.detach().clone() for p in backbone]
    train(naive(whole, FrozenBackbone()), stream)
    assert all(torch.equal(a, b) for a, b in zip(backbone, pretrained, strict=True))
    assert not any(torch.equal(a[: len(b)], b) for a, b in zip(classifier_of(whole), before, strict=False))

    whole, pull = model(), L2SP(2.0)
    strategy = naive(whole, pull)
    strategy.experience, strategy.loss = stream.train_stream[0], torch.zeros(())
    pull.before_training_exp(strategy)
    with torch.no_grad():
        for p in whole.parameters():
            p += 0.1
    pull.before_backward(strategy)
    torch.testing.assert_close(float(strategy.loss), 0.01 * len(backbone))


@pytest.mark.parametrize("plugin", [Replay, GDumb, lambda size: BiC(size, val_percentage=0.5, stage_2_epochs=2)])
@pytest.mark.parametrize("model", [incremental, plain, OnViT])
def test_replay(model: Callable[[], nn.Module], plugin: Any) -> None:
    strategy = train(naive(model(), plugin(24)), make_stream())
    images, _ = next(iter(torch.utils.data.DataLoader(make_stream().test_stream[0].dataset, 4)))[:2]
    assert torch.isfinite(strategy.model.eval()(images)).all()


def test_lora_lae_and_alignment_on_a_users_model() -> None:
    whole, lae, count = OnViT(), LAE(0.9), Count()
    attach_lora(whole.vit, [0, 1])
    fixed = {n: p.detach().clone() for n, p in whole.vit.named_parameters() if "lora" not in n}
    strategy = naive(whole, PEFTSchedule(1), lae, count, ClassifierAlignment(**FEW))
    train(strategy, make_stream())
    assert lae.bytes_kept > 0
    assert all(torch.equal(p, fixed[n]) for n, p in whole.vit.named_parameters() if n in fixed)
    assert not torch.equal(count.trained[-1][0], classifier_of(whole)[0])


@pytest.mark.parametrize("model", [*MODELS, continual])
def test_best_epoch(model: Callable[[], nn.Module]) -> None:
    """Also where an evaluation of other classes lets the classifier grow between two epochs."""
    stream, whole = make_stream(), model()

    class Spoil(SupervisedPlugin[Any]):
        def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            if strategy.clock.train_exp_epochs == 0:
                kept.append(copy.deepcopy(strategy.model.state_dict()))
            else:
                for p in strategy.model.parameters():
                    p.data.zero_()

    kept: list[dict[str, Any]] = []
    strategy = naive(whole, Spoil(), BestEpoch(stream.train_stream), train_epochs=2, eval_every=1)
    for t, experience in enumerate(stream.train_stream):
        strategy.train(experience, eval_streams=[stream.test_stream])
        now = whole.state_dict()
        for name, value in kept[t].items():
            if isinstance(value, Tensor) and t > 0:  # zeros guess class 0, which is right for half of the first task
                assert torch.equal(now[name][tuple(slice(n) for n in value.shape)], value)


def test_slca_on_a_users_model() -> None:
    strategy = SLCA(
        model=incremental(), final_norm="pretrained", train_epochs=1, train_mb_size=8, evaluator=None, **FEW
    )
    train(strategy, make_stream())
    assert strategy.alignment.gaussians.classes == list(range(6))
    norm = OnViT()
    norm.vit.norm.weight.data.fill_(3.0)
    with pytest.raises(ValueError, match="use final_norm='pretrained'"):
        SLCA(model=norm)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
@pytest.mark.parametrize("model", [continual, incremental])
def test_wrapped_models(model: Callable[[], nn.Module], wrap: Any) -> None:
    """They train as the model inside does."""
    results = []
    for whole in (model(), wrap(model())):
        stream = make_stream()
        plugins = [FrozenBackbone(), L2SP(), BestEpoch(stream.test_stream), ClassifierAlignment(**FEW)]
        train(naive(whole, *plugins), stream)
        results.append([p.detach() for p in whole.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("plugin", [lambda: WiSEFT(0.5), lambda: WeightAverage(0.5)])
@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_averages_of_wrapped_models(wrap: Any, plugin: Callable[[], Any]) -> None:
    results = []
    for whole in (incremental(), wrap(incremental())):
        train(naive(whole, plugin()), make_stream())
        results.append([p.detach() for p in whole.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


# Refused at once

PLUGINS: list[Callable[[], Any]] = [
    lambda: ClassifierAlignment(**FEW),
    NearestClassMean,
    LinearDiscriminant,
    L2SP,
    FrozenBackbone,
    WiSEFT,
    lambda: PEFTSchedule(1),
]


class Behind(nn.Module):
    """A model that does more with its logits, or less with its classifier, than let it end."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.body, self.fc = nn.Linear(64, 12), nn.Linear(12, 6)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images.flatten(1))
        if self.kind == "softmax":
            return self.fc(features).softmax(dim=1)
        if self.kind == "twice":
            return self.fc(features) + self.fc(-features)
        return F.linear(features, self.fc.weight, self.fc.bias)


def refused(model: nn.Module, plugin: Any, error: type[Exception], message: str, stream: Any = None) -> None:
    """Before the first step."""
    count = Count()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD([*model.parameters(), torch.zeros(1, requires_grad=True)]),
        plugins=[plugin],
        train_mb_size=8,
        evaluator=None,
    )
    strategy.plugins.append(count)
    with pytest.raises(error, match=message):
        strategy.train((stream or make_stream()).train_stream[0])
    assert count.iterations == 0


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_model_without_a_classifier(plugin: Callable[[], Any]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.LayerNorm(6))
    refused(model, plugin(), TypeError, r" needs a backbone with a classifier, .*ContinualModel\(backbone\)")


@pytest.mark.parametrize(
    ("kind", "message"),
    [("softmax", "is not that of its classifier"), ("twice", "once, on features"), ("aside", "was given nothing")],
)
@pytest.mark.parametrize("plugin", PLUGINS[:3])
def test_a_model_that_does_not_end_in_its_classifier(plugin: Any, kind: str, message: str) -> None:
    refused(Behind(kind), plugin(), ValueError, message, make_stream([list(range(6))]))


@pytest.mark.parametrize("plugin", PLUGINS[:3])
def test_features_that_are_broken_from_the_start(plugin: Any) -> None:
    model = continual()
    model.backbone[1].weight.data.fill_(float("nan"))
    refused(model, plugin(), ValueError, "NaN or infinity in the features that ContinualModel makes of the first")


@pytest.mark.parametrize("plugin", PLUGINS[:3])
def test_classifiers_that_do_not_fit(plugin: Any) -> None:
    refused(mlp(nn.Linear(12, 2, bias=False)), plugin(), ValueError, "with a bias")
    refused(mlp(nn.Linear(12, 2)), plugin(), ValueError, r"class 3 has no row.*2", make_stream([[0, 1, 3]]))
    heads = MTSimpleMLP(input_size=64, hidden_size=12)
    heads.classifier = MultiHeadClassifier(12, masking=False)
    refused(heads, plugin(), ValueError, "masking=True")


class Cosine(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(input), F.normalize(self.weight))


@pytest.mark.parametrize(
    "layer",
    [lambda: Cosine(12, 6), lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 6))],
    ids=["cosine", "weight norm"],
)
@pytest.mark.parametrize("plugin", PLUGINS[:3])
def test_layers_whose_rows_are_no_plain_weights(plugin: Any, layer: Callable[[], nn.Module]) -> None:
    refused(mlp(layer()), plugin(), ValueError, r"a classifier W x \+ b, and .* computes something else, or W of other")


def test_classes_of_several_tasks_need_ids_of_their_own() -> None:
    stream = make_stream([[0, 1], [0, 1]], task_labels=[0, 1])
    strategy = naive(multi_head(), ClassifierAlignment(**FEW))
    strategy.train(stream.train_stream[0])
    steps = strategy.clock.train_iterations
    with pytest.raises(ValueError, match=r"\[0, 1\] are in the heads of several tasks"):
        strategy.train(stream.train_stream[1])
    assert strategy.clock.train_iterations == steps


@pytest.mark.parametrize("plugin", [Replay, GDumb, BiC])
def test_a_loss_over_current_classes_alone_with_a_memory(plugin: Any) -> None:
    count = Count()
    strategy = naive(continual(freeze_earlier=False), count, plugin(24), criterion=TaskCrossEntropy())
    with pytest.raises(ValueError, match=rf"{plugin.__name__} trains on all classes, .*restrict=False"):
        strategy.train(make_stream().train_stream[0])
    assert count.iterations == 0


def test_bic_on_a_model_with_task_labels() -> None:
    refused(multi_head(), BiC(24, val_percentage=0.5), TypeError, "BiC compares the logits of all classes")


def test_best_epoch_without_held_out_images() -> None:
    refused(continual(), BestEpoch([]), ValueError, "experience 0 has no held-out images")


def test_the_check_draws_no_random_numbers() -> None:
    """Training is the same with it, also where the test transform is random."""
    states = []
    for plugins in ((), (ClassifierAlignment(epochs=0),)):
        stream, model = make_stream(eval_transform=lambda x: x + torch.randn_like(x)), continual()
        strategy = naive(model, *plugins)
        torch.manual_seed(0)
        strategy.train(stream.train_stream[0], eval_streams=[])
        states.append([p.detach() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


# Avalanche's own strategies

STRATEGIES: dict[str, dict[str, Any]] = {
    "Naive": {},
    "EWC": {"ewc_lambda": 1.0},
    "LwF": {"alpha": 1.0, "temperature": 2.0},
    "Replay": {"mem_size": 12},
    "GDumb": {"mem_size": 12},
    "AGEM": {"patterns_per_exp": 4, "sample_size": 4},
    "GEM": {"patterns_per_exp": 4, "memory_strength": 0.5},
    "SynapticIntelligence": {"si_lambda": 0.1},
    "MAS": {"lambda_reg": 1.0, "alpha": 0.5},
    "CWRStar": {"cwr_layer_name": None},
    "Cumulative": {},
}


@pytest.mark.parametrize("model", [incremental, continual])
@pytest.mark.parametrize("name", STRATEGIES)
def test_strategies_of_avalanche(name: str, model: Callable[..., nn.Module]) -> None:
    """The slow learner, OLOR and alignment in each, on a user's model and on ours."""
    if name == "GEM":
        pytest.importorskip("qpsolvers")
        pytest.importorskip("quadprog", reason="GEM needs a solver")
    if name == "CWRStar" and model is continual:
        pytest.skip("it looks for one layer over all classes")
    whole = model(freeze_earlier=False) if model is continual else model()
    groups = slow_learner_groups(whole, lr=0.05, weight_decay=None)
    optimizer = OLORSGD(groups, depths=layer_depths(whole, exclude=parts_of(whole, "a test").classifier.parameters()))
    stream, alignment = make_stream(), ClassifierAlignment(**FEW)
    strategy = getattr(supervised, name)(
        model=whole,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        plugins=[FreshOptimizer(), OLORPlugin(), alignment],
        train_mb_size=8,
        eval_mb_size=8,
        evaluator=None,
        **STRATEGIES[name],
    )
    for t, experience in enumerate(stream.train_stream):
        strategy.train(experience)
        strategy.eval(stream.test_stream[: t + 1])  # of more, Avalanche's GDumb gives its initial model heads
    assert alignment.gaussians.classes == list(range(6))
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())
    names = [type(p).__name__ for p in strategy.plugins]
    place = names.index("ClassifierAlignment")
    assert not [n for n in names[place:] if n.endswith("Plugin") and n not in ("EvaluationPlugin", "OLORPlugin")]
