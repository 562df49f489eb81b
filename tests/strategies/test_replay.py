"""Experience replay, GDumb, BiC and DER++: which images they train on, with which loss, and what they keep."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks import class_incremental_benchmark, nc_benchmark, tensors_benchmark
from avalanche.models import IncrementalClassifier, MTSimpleMLP
from avalanche.training.plugins import (
    BiCPlugin,
    EvaluationPlugin,
    GDumbPlugin,
    ReplayPlugin,
    SupervisedPlugin,
    bic,
)
from avalanche.training.storage_policy import ExperienceBalancedBuffer
from avalanche.training.supervised import DER, Naive
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.replay import BiC, DERPlusPlus, GDumb, Memory, Replay
from reclaim.strategies.slca import slow_learner_groups
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import MultiStepLR
from torch.utils.data import TensorDataset

pytestmark = pytest.mark.trains

torch.set_num_threads(1)

SIZES, PER_CLASS, BATCH, EPOCHS = (3, 1, 2), 8, 8, 2
N_CLASSES = sum(SIZES)
EXPERIENCES = ([0, 1, 2], [3], [4, 5])
IMAGE_BYTES = 4 * 4 + 8 + 8  # a float32 image of 1 x 2 x 2, its class id, its task label


def dataset() -> TensorDataset:
    """Images (48, 1, 2, 2), each of them different, around a pattern of their class."""
    generator = torch.Generator().manual_seed(3)
    targets = torch.arange(N_CLASSES).repeat_interleave(PER_CLASS)
    images = 2 * torch.randn(N_CLASSES, 1, 2, 2, generator=generator)[targets] + 0.3 * torch.randn(
        len(targets), 1, 2, 2, generator=generator
    )
    data = TensorDataset(images, targets)
    data.targets = targets.tolist()  # type: ignore[attr-defined]
    return data


def make_stream() -> Any:
    return nc_benchmark(
        dataset(),
        dataset(),
        n_experiences=len(SIZES),
        task_labels=False,
        fixed_class_order=list(range(N_CLASSES)),
        per_exp_classes=dict(enumerate(SIZES)),
        class_ids_from_zero_from_first_exp=True,
    )


def make_model(fixed_width: bool = False, freeze_earlier: bool = False) -> ContinualModel:
    """With dropout: what is computed in eval mode differs from training mode."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2))
    model = ContinualModel(backbone, in_features=8, freeze_earlier=freeze_earlier)
    if fixed_width:
        model.heads.add_head(range(N_CLASSES))
    return model


def make_strategy(
    method: Any, *plugins: SupervisedPlugin[Any], model: ContinualModel | None = None, **options: Any
) -> Any:
    """DER++ for its class, otherwise ``Naive`` with the plugin; the backbone learns at a third of the heads' rate."""
    host, own = (method, []) if isinstance(method, type) else (Naive, [method])
    model = model or make_model(fixed_width=host is DERPlusPlus)
    return host(
        model=model,
        optimizer=torch.optim.SGD(
            slow_learner_groups(model, lr=0.3, slow_factor=1 / 3, weight_decay=None), lr=0.1, momentum=0.9
        ),
        plugins=[FreshOptimizer(), *plugins, *own],
        evaluator=None,
        **{
            "criterion": TaskCrossEntropy(restrict=False),
            "train_mb_size": BATCH,
            "train_epochs": EPOCHS,
            "eval_mb_size": 5,
            **options,
        },
    )


def train(strategy: Any, evaluate_all: bool = False) -> Any:
    stream = make_stream()
    torch.manual_seed(1)
    for t, experience in enumerate(stream.train_stream):
        strategy.train(experience, eval_streams=[])
        strategy.eval(stream.test_stream if evaluate_all else stream.test_stream[: t + 1])
    return strategy


class Watch(SupervisedPlugin[Any]):
    """Batches of each experience as trained on (images, targets, logits, loss), and the model at its
    beginning and end.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[tuple[Tensor, Tensor, Tensor, float]]] = []
        self.starts: list[Any] = []
        self.ends: list[Any] = []
        self.seen_by_plugins: list[int] = []

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.batches.append([])
        self.starts.append(copy.deepcopy(strategy.model))

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.seen_by_plugins.append(len(strategy.mb_x))

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.batches[-1].append((strategy.mb_x, strategy.mb_y, strategy.mb_output.detach(), strategy.loss.item()))

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.ends.append(copy.deepcopy(strategy.model).eval())


def classes_of(targets: Tensor) -> set[int]:
    return set(targets.tolist())


def images_of(data: Any) -> list[tuple[float, ...]]:
    """The images of a dataset or tensor, to be compared."""
    images = data if isinstance(data, Tensor) else [data[i][0] for i in range(len(data))]
    return [tuple(image.flatten().tolist()) for image in images]


def counts(data: Any) -> list[int]:
    return sorted(Counter(int(data[i][1]) for i in range(len(data))).values())


# --- all of them ---

METHODS: dict[str, Callable[[], Any]] = {
    "replay": lambda: Replay(13),
    "gdumb": lambda: GDumb(13),
    "bic": lambda: BiC(13, val_percentage=0.5),
    "der++": lambda: DERPlusPlus,
}


def run(name: str, *plugins: SupervisedPlugin[Any], **options: Any) -> Any:
    der: dict[str, Any] = {"mem_size": 13, "batch_size_mem": 5, "alpha": 0.3, "beta": 0.5} if name == "der++" else {}
    return train(make_strategy(METHODS[name](), *plugins, **der, **options))


@functools.cache
def loss_of_forgetting() -> float:
    """Cross-entropy of all images after plain fine-tuning: 9 to 25 nats in 8 runs, of seeds and versions of torch."""
    images, targets = dataset().tensors
    model = train(make_strategy(SupervisedPlugin(), train_epochs=10)).model.eval()
    return float(F.cross_entropy(model(images), targets))


@pytest.mark.parametrize("name", METHODS)
def test_they_learn_and_repeat_themselves(name: str, recwarn: pytest.WarningsRecorder) -> None:
    """Also when Python's and numpy's global generators differ, which nobody may draw from."""
    ends = []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        ends.append(run(name, train_epochs=10).model.eval())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].parameters(), ends[1].parameters(), strict=True))
    images, targets = dataset().tensors
    # 0.05 of it at most, in those 8 runs of each method
    assert F.cross_entropy(ends[0](images), targets) < 0.3 * loss_of_forgetting()
    assert not [w for w in recwarn if w.category is DeprecationWarning and "update" in str(w.message)]


@pytest.mark.parametrize("name", METHODS)
def test_bytes_kept(name: str) -> None:
    strategy = run(name)
    kept = strategy if name == "der++" else strategy.plugins[1]
    weights = 4 * (4 * 8 + 8 + 8 * N_CLASSES + N_CLASSES)
    expected = {
        "replay": 13 * IMAGE_BYTES,
        "gdumb": 13 * IMAGE_BYTES + weights,
        "bic": (13 + 6) * IMAGE_BYTES + weights + 4 + 4 + 2 * 8,
        "der++": 13 * (IMAGE_BYTES + 4 * N_CLASSES),
    }
    assert kept.bytes_kept == expected[name]
    assert METHODS[name]().bytes_kept == 0 or name == "der++"


@pytest.mark.parametrize("name", ["replay", "gdumb", "bic"])
def test_closed_heads_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"trains the heads of earlier experiences too.*freeze_earlier=False"):
        run(name, model=make_model(freeze_earlier=True))


def test_a_memory_without_room() -> None:
    with pytest.raises(ValueError, match="mem_size must be at least 1 image, got 0"):
        Memory(0)


# --- experience replay ---


def test_replay_adds_a_batch_of_the_memory_to_each_new_one() -> None:
    watch, plugin, hook = Watch(), Replay(13, batch_size_mem=5), SupervisedPlugin[Any]()
    memories: list[Any] = []  # as each experience finds it
    hook.before_training_exp = lambda *_, **__: memories.append(plugin.storage_policy.buffer)
    model = train(make_strategy(plugin, watch, hook)).model
    for t, (classes, batches) in enumerate(zip(EXPERIENCES, watch.batches, strict=True)):
        new = len(classes) * PER_CLASS
        assert len(batches) == EPOCHS * new // BATCH
        for x, y, logits, loss in batches:
            assert len(y) == BATCH + (5 if t else 0)
            assert classes_of(y[:BATCH]) <= set(classes)
            assert not t or set(images_of(x[BATCH:])) <= set(images_of(memories[t])), "as this experience found it"
            assert loss == pytest.approx(F.cross_entropy(logits, y).item()), "over all classes seen"
        drawn = set().union(*(images_of(x[BATCH:]) for x, *_ in batches))
        assert not t or len(drawn) > 5, "not the same batch again and again"
    assert [counts(memory) for memory in (*memories[1:], plugin.storage_policy.buffer)] == [
        [4, 4, 5],
        [3, 3, 3, 4],
        [2] * 5 + [3],
    ]
    assert not torch.equal(watch.starts[1].heads.heads[0].weight, model.heads.heads[0].weight)


# --- GDumb ---


def test_gdumb_trains_the_initial_model_anew_on_the_memory_alone() -> None:
    watch, plugin = Watch(), GDumb(13)
    model = make_model()
    start = copy.deepcopy(model)
    strategy = train(make_strategy(plugin, watch, model=model), evaluate_all=True)
    assert [before.heads.head_classes for before in watch.starts] == [
        list(map(list, EXPERIENCES[: t + 1])) for t in range(3)
    ]
    for t, (before, after) in enumerate(zip(watch.starts, watch.ends, strict=True)):
        for initial, first, last in zip(
            start.backbone.parameters(), before.backbone.parameters(), after.backbone.parameters(), strict=True
        ):
            assert torch.equal(initial, first)
            assert not torch.equal(first, last), "the optimizer has the live model"
        for head, trained in zip(before.heads.heads, after.heads.heads, strict=True):
            assert not torch.equal(head.weight, trained.weight)
        seen = [c for classes in EXPERIENCES[: t + 1] for c in classes]
        per_epoch = sorted(y for batch in watch.batches[t][: -(-13 // BATCH)] for y in batch[1].tolist())
        assert classes_of(torch.tensor(per_epoch)) == set(seen)
        assert len(per_epoch) == min(13, PER_CLASS * len(seen))
    assert not torch.equal(watch.starts[2].heads.heads[0].weight, watch.ends[1].heads.heads[0].weight)
    trained_on = {image for x, *_ in watch.batches[2] for image in images_of(x)}
    assert trained_on == set(images_of(plugin.storage_policy.buffer))
    of_heads = {id(p) for p in strategy.model.heads.parameters()}
    backbone, heads = ({id(p) for p in group["params"]} for group in strategy.optimizer.param_groups)
    assert heads == of_heads
    assert backbone == {id(p) for p in strategy.model.backbone.parameters()}
    assert model is strategy.model, "in place: the optimizer and other plugins keep its parameters"


def test_gdumb_replaces_a_model_that_has_grown_in_evaluation() -> None:
    """Avalanche's classifier grows there, too; the copy of the initial one has no room for the classes."""
    torch.manual_seed(0)
    plugin, model = GDumb(13), nn.Sequential(nn.Flatten(), IncrementalClassifier(4, 1))
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        plugins=[plugin],
        evaluator=EvaluationPlugin(),
    )
    stream = make_stream()
    strategy.train(stream.train_stream[0], eval_streams=[])
    strategy.eval(stream.test_stream)
    strategy.train(stream.train_stream[1], eval_streams=[])
    assert strategy.model is not model
    held = {p for group in strategy.optimizer.param_groups for p in group["params"]}
    assert held == set(strategy.model.parameters())


@pytest.mark.parametrize("name", ["replay", "gdumb", "bic"])
def test_a_plugin_in_another_strategy_is_as_a_new_one(name: str) -> None:
    plugin = METHODS[name]()
    train(make_strategy(plugin))
    again, anew = (train(make_strategy(p), evaluate_all=True).model for p in (plugin, METHODS[name]()))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), anew.parameters(), strict=True))


def test_bic_in_a_new_strategy_on_the_same_model() -> None:
    plugin = BiC(13, val_percentage=0.5, stage_2_epochs=5)
    model = train(make_strategy(plugin)).model
    with pytest.raises(ValueError, match=r"BiC keeps something of 3 experiences, but this strategy has trained on 0"):
        train(make_strategy(plugin, model=model))


def test_a_correction_is_not_taken_to_another_model() -> None:
    plugin = BiC(13, val_percentage=0.5)
    train(make_strategy(plugin))
    outputs: list[Tensor] = []
    hook: Any = SupervisedPlugin()
    hook.after_eval_iteration = lambda strategy, **_: outputs.append(strategy.mb_output)
    other = make_strategy(plugin, hook)
    other.model.heads.add_head(range(N_CLASSES))
    other.eval(make_stream().test_stream)
    expected = other.model.eval()(dataset().tensors[0])
    torch.testing.assert_close(torch.cat(outputs), expected)


# --- as Avalanche's own are used ---


@pytest.mark.parametrize(
    ("fixed", "upstream"), [(Replay, ReplayPlugin), (GDumb, GDumbPlugin), (BiC, BiCPlugin), (DERPlusPlus, DER)]
)
def test_the_arguments_of_upstream(fixed: Any, upstream: Any) -> None:
    assert list(inspect.signature(fixed).parameters) == list(inspect.signature(upstream).parameters)


@pytest.mark.parametrize("make", [Replay, functools.partial(BiC, val_percentage=0.5, stage_2_epochs=5)])
def test_a_given_storage_policy(make: Any) -> None:
    policy = ExperienceBalancedBuffer(max_size=13, adaptive_size=True)
    plugin = make(13, storage_policy=policy)
    train(make_strategy(plugin))
    assert plugin.storage_policy is policy
    assert len(policy.buffer) == 13
    with pytest.raises(ValueError, match="ExperienceBalancedBuffer holds 13 images of another strategy: make a new"):
        train(make_strategy(plugin))
    with pytest.raises(ValueError, match="mem_size=12, but the storage_policy is for max_size=13 images"):
        make(12, storage_policy=policy)


def test_new_images_and_those_of_the_memory_have_batch_sizes_of_their_own() -> None:
    watch = Watch()
    train(make_strategy(Replay(13, 6, 2), watch))
    assert {len(y) for _, y, *_ in watch.batches[1]} == {6 + 2, 2 + 2}


def test_a_fixed_factor_of_the_distillation(capsys: pytest.CaptureFixture[str]) -> None:
    ends = [
        train(make_strategy(make_bic(lamb=lamb, verbose=lamb == 0))).model.backbone[1].weight
        for lamb in (0.0, 0.0, 2.0)
    ]
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert capsys.readouterr().out.count("BiC: classes [4, 5], scale ") == 2


@pytest.mark.parametrize("name", METHODS)
def test_models_that_are_not_ours(name: str) -> None:
    """Avalanche's growing classifier, and for DER++ a layer of fixed width."""
    torch.manual_seed(0)
    head = nn.Linear(4, N_CLASSES) if name == "der++" else IncrementalClassifier(4, 1)
    options: dict[str, Any] = {"mem_size": 13} if name == "der++" else {"plugins": [METHODS[name]()]}
    model = nn.Sequential(nn.Flatten(), head)
    strategy = (DERPlusPlus if name == "der++" else Naive)(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        evaluator=EvaluationPlugin(),
        **options,
    )
    train(strategy)
    images, targets = dataset().tensors
    assert math.isfinite(F.cross_entropy(strategy.model(images), targets))


@pytest.mark.parametrize("make", [Replay, GDumb])
def test_a_model_with_a_head_for_each_task(make: Any) -> None:
    torch.manual_seed(0)
    model = MTSimpleMLP(input_size=4, hidden_size=4)
    tasks = [(torch.randn(8, 4), torch.arange(8) % 2) for _ in range(2)]
    stream = tensors_benchmark(train_tensors=tasks, test_tensors=tasks, task_labels=[0, 1])
    plugin = make(8)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=4,
        plugins=[plugin],
        evaluator=EvaluationPlugin(),
    )
    strategy.train(stream.train_stream, eval_streams=[])
    assert len(plugin.storage_policy.buffer) == 8


# --- DER++ ---


def test_der_trains_on_new_images_old_labels_and_old_logits() -> None:
    watch = Watch()
    options: dict[str, Any] = {"mem_size": 13, "batch_size_mem": 5, "alpha": 0.3, "beta": 0.5}
    strategy = train(make_strategy(DERPlusPlus, watch, **options))
    logits_of: dict[tuple[float, ...], Tensor] = {}  # of each image, at the end of its experience, in eval mode
    for t, (classes, batches) in enumerate(zip(EXPERIENCES, watch.batches, strict=True)):
        for x, y, logits, loss in batches:
            old = 5 if t else 0
            assert len(y) == old + BATCH
            assert classes_of(y[old:]) <= set(classes)
            assert not classes_of(y[:old]) & set(classes)
            expected = F.cross_entropy(logits[old:], y[old:])
            if t:
                stored = torch.stack([logits_of[image] for image in images_of(x[:old])])
                expected = (
                    expected + 0.3 * F.mse_loss(logits[:old], stored) + 0.5 * F.cross_entropy(logits[:old], y[:old])
                )
            assert loss == pytest.approx(expected.item(), rel=1e-5)
        images = torch.stack([x for x, y in zip(*dataset().tensors, strict=True) if int(y) in classes])
        logits_of |= dict(zip(images_of(images), watch.ends[t](images).detach(), strict=True))
    assert watch.seen_by_plugins == [BATCH] * EPOCHS * 3 + [BATCH + 5] * EPOCHS * (1 + 2), (
        "augmentation warps the memory's images, too"
    )
    assert counts(strategy.storage_policy.buffer) == [2] * 5 + [3]


def test_der_refuses_heads_that_grow_and_a_restricted_loss() -> None:
    with pytest.raises(ValueError, match=r"needs a head that does not grow.*classes \[0, 1, 2\].*add_head"):
        train(make_strategy(DERPlusPlus, model=make_model()))
    with pytest.raises(
        ValueError, match=r"TaskCrossEntropy only on the current ones: use TaskCrossEntropy\(restrict=False\)"
    ):
        train(make_strategy(DERPlusPlus, criterion=TaskCrossEntropy()))


# --- BiC ---


def make_bic(**options: Any) -> BiC:
    return BiC(18, **{"batch_size_mem": 5, "val_percentage": 0.5, "stage_2_epochs": 60, **options})


@pytest.mark.parametrize("T", [2.0, 1.0])
def test_bic_mixes_cross_entropy_with_distillation_from_the_corrected_old_model(T: float) -> None:
    watch, plugin = Watch(), make_bic(T=T)
    corrections: list[Any] = []
    strategy = make_strategy(plugin, watch)
    strategy.plugins[3:3] = [hook := SupervisedPlugin[Any]()]
    hook.after_training_exp = lambda *_, **__: corrections.append(copy.deepcopy(plugin.bias_layer))
    train(strategy)
    assert corrections[0] is None
    for t, batches in enumerate(watch.batches):
        assert batches
        old = [c for classes in EXPERIENCES[:t] for c in classes]
        for x, y, logits, loss in batches:
            expected = F.cross_entropy(logits, y)
            if t:
                with torch.no_grad():
                    teacher = watch.ends[t - 1](x)
                    teacher = corrections[t - 1](teacher) if t > 1 else teacher
                soft = (teacher[:, old] / T).softmax(1)
                distillation = -(soft * (logits[:, old] / T).log_softmax(1)).sum(1).mean()
                weight = len(old) / (len(old) + len(EXPERIENCES[t]))
                expected = (1 - weight) * expected + weight * distillation
            assert loss == pytest.approx(expected.item(), rel=1e-5)


def test_bic_holds_out_images_and_leaves_the_callers_experience_whole() -> None:
    plugin, watch = make_bic(), Watch()
    strategy, stream = make_strategy(plugin, watch), list(make_stream().train_stream)
    for experience in stream:
        strategy.train(experience, eval_streams=[])
    assert [len(experience.dataset) for experience in stream] == [PER_CLASS * size for size in SIZES]
    held_out = {image for part in plugin.val_buffer.values() for image in images_of(part.buffer)}
    assert sorted(len(part.buffer) for part in plugin.val_buffer.values()) == [1, 1, 1, 2, 2, 2]
    assert not held_out & set(images_of(plugin.storage_policy.buffer))
    assert not held_out & {image for batches in watch.batches for x, *_ in batches for image in images_of(x)}


def test_the_correction_is_avalanches(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one batch an epoch and no random transform it is what Avalanche's loop fits, once torch
    takes its arguments.
    """
    plugin = make_bic()
    strategy = train(make_strategy(plugin, train_mb_size=16))
    fitted = plugin.bias_layer
    assert fitted.clss.tolist() == [4, 5]
    assert abs(fitted.alpha.item() - 1) > 0.01 < abs(fitted.beta.item())

    stream = make_stream()
    seen: list[Tensor] = []
    hook: Any = SupervisedPlugin()
    hook.after_eval_iteration = lambda strategy, **_: seen.append(strategy.mb_output)
    strategy.plugins.append(hook)
    strategy.eval(stream.test_stream)
    plain = strategy.model.eval()(dataset().tensors[0]).detach()
    corrected = plain.clone()
    corrected[:, [4, 5]] = fitted.alpha.detach() * plain[:, [4, 5]] + fitted.beta.detach()
    torch.testing.assert_close(torch.cat(seen), corrected)

    monkeypatch.setattr(bic, "MultiStepLR", lambda optimizer, verbose, **options: MultiStepLR(optimizer, **options))
    strategy.experience = stream.train_stream[2]
    strategy.adapted_dataset = strategy.experience.dataset
    super(BiC, plugin).bias_correction_step(strategy)
    assert plugin.bias_layer is not fitted
    torch.testing.assert_close(dict(plugin.bias_layer.named_parameters()), dict(fitted.named_parameters()))


@pytest.mark.parametrize(("part", "held_out"), [(0.2, 2), (2.4, 24)])
def test_bic_needs_images_to_hold_out_and_to_train_on(part: float, held_out: int) -> None:
    message = (
        rf"BiC holds out val_percentage x mem_size = {held_out} images of 3 classes: .*leave one of the 8 to train on"
    )
    with pytest.raises(ValueError, match=message):
        train(make_strategy(BiC(10, val_percentage=part)))


def test_bic_says_which_streams_it_cannot_do() -> None:
    data = {"train": dataset(), "test": dataset()}
    stream = class_incremental_benchmark(data, class_order=list(range(N_CLASSES)), num_classes_per_exp=list(SIZES))
    with pytest.raises(
        TypeError, match="replaces the dataset of an experience, which DatasetExperience does not allow: make"
    ):
        make_strategy(make_bic()).train(stream.train_stream[0], eval_streams=[])


def test_bic_leaves_the_model_in_training_mode() -> None:
    """Avalanche calls ``train()`` once for all experiences of a stream."""
    strategy = make_strategy(make_bic(stage_2_epochs=1))
    modes: list[bool] = []

    class Modes(SupervisedPlugin[Any]):
        def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            modes.append(strategy.model.training)

    strategy.plugins.append(Modes())
    strategy.train(make_stream().train_stream)
    assert modes
    assert all(modes)
    assert strategy.model.heads.head_classes == [list(classes) for classes in EXPERIENCES]
