"""The frozen backbone, L2-SP, EWC and LwF: what they add to the loss against its formula,
and what training leaves alone.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.models import MTSimpleMLP
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, GDumbPlugin, LwFPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.baselines import EWC, L2SP, FrozenBackbone, LwF
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.replay import GDumb
from reclaim.strategies.slca import SLCA
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F
from trained import Losses, Strategy

pytestmark = pytest.mark.trains

torch.set_num_threads(1)


def make_model(**options: Any) -> ContinualModel:
    """A small ConvNet with batch statistics and dropout."""
    torch.manual_seed(0)
    pooled = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5)]
    return ContinualModel(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), *pooled), in_features=12, **options
    )


def make_stream(groups: Sequence[Sequence[int]] = ([0, 1], [2], [3, 4])) -> Any:
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(5, 1, 6, 6, generator=generator)
    tasks = []
    for classes in groups:
        y = torch.tensor(classes).repeat_interleave(8)
        tasks.append((patterns[y] + 0.3 * torch.randn(len(y), 1, 6, 6, generator=generator), y))
    return tensors_benchmark(train_tensors=tasks, test_tensors=tasks, task_labels=[0] * len(tasks))


def train(
    model: ContinualModel, *plugins: SupervisedPlugin[Any], stream: Any = None, lr: float = 0.1, **options: Any
) -> ContinualModel:
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=0.01),
        criterion=TaskCrossEntropy(),
        train_mb_size=8,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
        **({"train_epochs": 2} | options),
    )
    stream = stream or make_stream()
    torch.manual_seed(2)
    for experience in stream.train_stream:
        strategy.train(experience, eval_streams=[stream.test_stream])
    return model


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


# --- L2-SP ---


def penalty(plugin: L2SP, model: nn.Module) -> Tensor:
    """What the plugin adds to a loss of 0 before the backward pass."""
    strategy = SimpleNamespace(model=model, loss=torch.zeros(()))
    plugin.before_backward(strategy)
    return strategy.loss


def anchored(model: nn.Module, weight: float, form: Any = "mean") -> L2SP:
    plugin = L2SP(weight, form)
    plugin.before_training_exp(Strategy(model=model))
    return plugin


def moved_model(weight: float, form: Any = "mean") -> tuple[L2SP, ContinualModel, dict[str, Tensor]]:
    """A float64 model moved away from where it was anchored, and its distances to there."""
    torch.manual_seed(0)
    model = ContinualModel(nn.Linear(3, 2), in_features=2).double()
    model.heads.add_head([0, 1])
    plugin = anchored(model, weight, form)
    moves = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(moves[name])
    return plugin, model, moves


def test_the_value_in_numbers() -> None:
    model: Any = ContinualModel(nn.Linear(3, 2), in_features=2)
    plugin = anchored(model, 0.1)
    assert penalty(plugin, model) == 0
    with torch.no_grad():
        model.backbone.weight += torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])  # mean square 5/6
        model.backbone.bias -= 3  # mean square 9
    assert penalty(plugin, model).item() == pytest.approx(0.1 * 0.5 * (5 / 6 + 9))


def test_the_gradient_against_its_formula_and_finite_differences() -> None:
    plugin, model, moves = moved_model(0.3)
    penalty(plugin, model).backward()
    step = 1e-6
    for name, parameter in model.backbone.named_parameters():
        move = moves[f"backbone.{name}"]
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, 0.3 * move / move.numel())
        with torch.no_grad():
            flat = parameter.view(-1)
            for i in range(len(flat)):
                flat[i] += step
                above = penalty(plugin, model)
                flat[i] -= 2 * step
                below = penalty(plugin, model)
                flat[i] += step
                assert float((above - below) / (2 * step)) == pytest.approx(
                    float(parameter.grad.view(-1)[i]), rel=1e-6, abs=1e-9
                )


def test_the_sum_pulls_all_elements_alike() -> None:
    """The form of Li et al.: weight / 2 x the squared distance over all tensors."""
    plugin, model, moves = moved_model(0.3, "sum")
    value = penalty(plugin, model)
    value.backward()
    squares = sum(float(moves[f"backbone.{name}"].square().sum()) for name, _ in model.backbone.named_parameters())
    assert float(value) == pytest.approx(0.15 * squares)
    for name, parameter in model.backbone.named_parameters():
        torch.testing.assert_close(parameter.grad, 0.3 * moves[f"backbone.{name}"])


def test_a_form_that_is_none() -> None:
    with pytest.raises(ValueError, match="form must be 'mean' or 'sum', got 'median'"):
        L2SP(1.0, "median")  # type: ignore[arg-type]


def test_heads_are_not_pulled() -> None:
    plugin, model, _ = moved_model(0.3)
    penalty(plugin, model).backward()
    assert all(p.grad is None for p in model.heads.parameters())
    assert plugin.bytes_kept == (6 + 2) * 8


def test_frozen_weights_do_not_count() -> None:
    plugin, model, moves = moved_model(0.2)
    model.backbone.weight.requires_grad_(False)
    expected = 0.2 * 0.5 * moves["backbone.bias"].square().mean()
    torch.testing.assert_close(penalty(plugin, model), expected)
    model.backbone.requires_grad_(False)
    assert penalty(plugin, model) == 0


def test_it_adds_to_the_loss_that_is_there() -> None:
    plugin, model, _ = moved_model(0.2)
    strategy = SimpleNamespace(model=model, loss=torch.tensor(2.0, dtype=torch.float64))
    plugin.before_backward(strategy)
    torch.testing.assert_close(strategy.loss, penalty(plugin, model) + 2)


def test_weight_0_changes_nothing() -> None:
    assert same(state(train(make_model(), L2SP(0.0))), state(train(make_model())))


def test_the_heavier_the_nearer_to_where_the_stream_began() -> None:
    """theta_0 stays what it was before the first experience."""
    start = [p.detach().clone() for p in make_model().backbone.parameters()]

    def moved(*plugins: L2SP) -> float:
        end = train(make_model(), *plugins).backbone.parameters()
        return sum(float((a - b).detach().square().sum()) for a, b in zip(end, start, strict=True))

    plugin = L2SP(10.0)
    near, far, free = moved(plugin), moved(L2SP(3.0)), moved()
    # 0.56 to 0.78 and 0.73 to 0.80 in 8 runs, of seeds and versions of torch
    assert 0 < near < 0.9 * far
    assert far < 0.9 * free
    assert all(torch.equal(a, b) for a, b in zip(plugin._theta_0.values(), start, strict=True))


def test_a_copy_belongs_to_the_copied_model() -> None:
    plugin, model, _ = moved_model(0.3)
    twin, twin_model = copy.deepcopy((plugin, model))
    penalty(twin, twin_model).backward()
    assert twin_model.backbone.weight.grad is not None
    assert model.backbone.weight.grad is None
    assert torch.equal(penalty(twin, twin_model), penalty(plugin, model))


def strategy_of(*plugins: Any, model: ContinualModel | None = None) -> Naive:
    model = model or make_model(freeze_earlier=False)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=TaskCrossEntropy(restrict=False),
        train_mb_size=8,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
    )


def train_on(strategy: Naive, *experiences: int) -> Naive:
    torch.manual_seed(2)
    for t in experiences:
        strategy.train(make_stream().train_stream[t], eval_streams=[])
    return strategy


@pytest.mark.parametrize(
    "make", [lambda: L2SP(1.0), lambda: LwF(1.0), lambda: EWC(1.0), lambda: EWC(1.0, "online", 0.5)]
)
def test_a_plugin_in_another_strategy_is_as_a_new_one(make: Any) -> None:
    plugin = make()
    train_on(strategy_of(plugin), 2, 1)
    again, anew = (train_on(strategy_of(p), 0, 1) for p in (plugin, make()))
    assert same(state(again.model), state(anew.model))
    assert not same(state(again.model), state(train_on(strategy_of(), 0, 1).model))
    assert plugin.bytes_kept == again.plugins[0].bytes_kept == anew.plugins[0].bytes_kept


def test_a_new_strategy_on_the_same_model_keeps_theta_0() -> None:
    plugin = L2SP(1.0)
    first = train_on(strategy_of(plugin), 0)
    kept = dict(plugin._theta_0)
    train_on(strategy_of(plugin, model=first.model), 1)
    assert same(plugin._theta_0, kept)


def test_ewc_in_a_new_strategy_on_the_same_model() -> None:
    """Avalanche's would have no penalty: it numbers experiences by the strategy's clock, which starts from 0."""

    def go_on(count: int | None) -> dict[str, Tensor]:
        plugin = EWC(100.0)
        first = train_on(strategy_of(plugin), 0)
        second = first if count is None else strategy_of(plugin, model=first.model)
        second.clock.train_exp_counter = 1 if count is None else count
        return state(train_on(second, 1).model)

    with pytest.raises(
        ValueError, match=r"EWC keeps something of 1 experiences, but .* trained on 0: .*counter = 1, or"
    ):
        go_on(0)
    assert same(go_on(1), go_on(None))


class Penalties(SupervisedPlugin[Any]):
    """What L2SP adds at each step."""

    def __init__(self, plugin: L2SP) -> None:
        super().__init__()
        self.plugin, self.values = plugin, list[float]()

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.values.append(float(penalty(self.plugin, strategy.model)))


@pytest.mark.parametrize("gdumb", [GDumbPlugin, GDumb])
def test_theta_0_follows_a_model_that_is_replaced(gdumb: Any) -> None:
    """As GDumb of Avalanche does in each experience."""
    plugin = L2SP(1.0)
    start = state(make_model())
    penalties = Penalties(plugin)
    train_on(strategy_of(plugin, penalties, gdumb(8)), 0, 1, 2)
    assert len(penalties.values) >= 3
    assert min(penalties.values) > 0
    assert all(torch.equal(anchor, start[name]) for name, anchor in plugin._theta_0.items())


def test_theta_0_of_another_backbone() -> None:
    plugin, strategy = L2SP(1.0), strategy_of()
    strategy.plugins.insert(0, plugin)
    train_on(strategy, 0)
    strategy.model.backbone[0] = nn.Conv2d(1, 3, 5)
    with pytest.raises(
        ValueError, match=r"L2SP pulls backbone.0.weight to a value of shape \(3, 1, 3, 3\), .* now has \(3, 1, 5, 5"
    ):
        plugin.before_training_exp(strategy)
    strategy.model.backbone[0] = nn.Identity()
    with pytest.raises(ValueError, match=r"L2SP pulls backbone.0.weight .* now is missing: make a new L2SP"):
        plugin.before_training_exp(strategy)


def test_in_slca() -> None:
    def end(*plugins: L2SP) -> dict[str, Tensor]:
        model = make_model()
        torch.manual_seed(2)
        SLCA(
            model=model,
            slow_factor=1,
            milestones=[],
            final_norm="pretrained",
            samples_per_class=8,
            train_epochs=1,
            train_mb_size=8,
            plugins=plugins,
            evaluator=None,
        ).train(make_stream().train_stream)
        return state(model.backbone)

    assert same(end(), end(L2SP(0.0)))
    assert not same(end(), end(L2SP(1.0)))


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_out_of_its_range(weight: float) -> None:
    with pytest.raises(ValueError, match="weight must be a finite number, not negative"):
        L2SP(weight)


# --- the frozen backbone ---


@pytest.mark.parametrize("evaluation", [{}, {"eval_every": 1}, {"eval_every": 1, "peval_mode": "iteration"}], ids=str)
def test_the_backbone_and_its_statistics_stay(evaluation: dict[str, Any]) -> None:
    """Also when the model is evaluated in between, which puts the modes of its modules back and forth."""
    before = state(make_model().backbone)
    model: Any = train(make_model(), FrozenBackbone(), **evaluation)
    assert same(state(model.backbone), before)
    assert int(model.backbone[1].num_batches_tracked) == 0
    assert not same(state(train(make_model()).backbone), before)


class HeadsAtStart(SupervisedPlugin[Any]):
    """The heads as each experience found them, and whether any module of the backbone was ever in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.starts: list[list[Tensor]] = []
        self.backbone_in_training = False

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.starts.append(strategy.model.heads.snapshot())

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.backbone_in_training |= any(module.training for module in strategy.model.backbone.modules())


def test_heads_train_on_features_as_in_evaluation() -> None:
    seen, losses = HeadsAtStart(), Losses()
    model: Any = train(make_model(), FrozenBackbone(), seen, losses, train_epochs=10)
    for t, start in enumerate(seen.starts):
        assert not torch.equal(start[2 * t], model.heads.heads[t].weight), "two tensors for each head, the weight first"
    assert not seen.backbone_in_training
    # to 0.35 to 0.79 in 8 runs, of seeds and versions of torch
    assert losses.fell(to=0.95)


def test_l2sp_has_nothing_to_pull_in_a_frozen_backbone() -> None:
    assert same(state(train(make_model(), FrozenBackbone(), L2SP(1.0))), state(train(make_model(), FrozenBackbone())))


@pytest.mark.parametrize("plugin", [FrozenBackbone(), L2SP()], ids=["FrozenBackbone", "L2SP"])
def test_a_model_without_heads(plugin: SupervisedPlugin[Any]) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.BatchNorm1d(5))
    strategy = Naive(model=model, optimizer=torch.optim.SGD(model.parameters()), plugins=[plugin], evaluator=None)
    with pytest.raises(
        TypeError, match=rf"{type(plugin).__name__} needs a backbone with a classifier, and Sequential has none"
    ):
        strategy.train(make_stream().train_stream[0])


# --- EWC and LwF ---


class Added(SupervisedPlugin[Any]):
    """What the plugin between its two hooks adds to the loss, by iteration, and what it should add by :meth:`expected`.

    Listed before that plugin; :attr:`behind` goes behind it.
    """

    class Behind(SupervisedPlugin[Any]):
        def __init__(self, added: Added) -> None:
            super().__init__()
            self.added = added

        def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            self.added.values.append(strategy.loss.item() - self.added.loss)

    def __init__(self) -> None:
        super().__init__()
        self.behind = self.Behind(self)
        self.values: list[float] = []
        self.by_hand: list[float] = []

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.loss = strategy.loss.item()
        with torch.no_grad():
            self.by_hand.append(float(self.expected(strategy)))

    def expected(self, strategy: Any) -> Tensor:
        raise NotImplementedError

    def check(self) -> None:
        assert len(self.values) == 2 * (2 + 2 + 1), "two epochs"
        assert self.values == pytest.approx(self.by_hand, rel=1e-3, abs=1e-5)
        assert self.values[:4] == [0] * 4
        # ten times what the comparison lets pass; 0.001 to 0.15 with several seeds and versions of torch
        assert self.values[7] > 1e-4


class Consolidation(Added):
    """EWC's penalty, for one epsilon of each weight at a time:
    lambda x sum over experiences t of F_t (theta - theta_t)^2.
    """

    def __init__(self, weight: float, batch_size: int, decay: float | None) -> None:
        super().__init__()
        self.weight, self.batch_size, self.decay = weight, batch_size, decay
        self.fisher: list[dict[str, Tensor]] = []
        self.weights: list[dict[str, Tensor]] = []

    def expected(self, strategy: Any) -> Tensor:
        now, total = dict(strategy.model.named_parameters()), torch.zeros(())
        for t, fisher in enumerate(self.fisher):
            factor = 1.0 if self.decay is None else self.decay ** (len(self.fisher) - 1 - t)
            anchor = self.weights[t if self.decay is None else -1]
            total += sum(factor * (f * (now[name] - anchor[name]) ** 2).sum() for name, f in fisher.items())
        return self.weight * total

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        model, classes = strategy.model.eval(), sorted(strategy.experience.classes_in_this_experience)
        images, targets = zip(*((x, y - classes[0]) for x, y, *_ in strategy.experience.dataset), strict=True)
        batches = list(
            zip(torch.stack(images).split(self.batch_size), torch.tensor(targets).split(self.batch_size), strict=True),
        )
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad and p.numel()}
        squares = {name: torch.zeros_like(p) for name, p in trained.items()}
        for x, y in batches:
            gradients = torch.autograd.grad(F.cross_entropy(model(x)[:, classes], y), list(trained.values()))
            for square, gradient in zip(squares.values(), gradients, strict=True):
                square += gradient**2 / len(batches)
        self.fisher.append(squares)
        self.weights.append({name: p.detach().clone() for name, p in model.named_parameters()})
        model.train()


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("decay", [None, 0.5])
def test_ewc_adds_the_distance_weighted_by_the_squared_gradients_of_the_restricted_loss(
    batch_size: int | None, decay: float | None
) -> None:
    ewc = EWC(2000.0, "separate" if decay is None else "online", decay, importance_batch_size=batch_size)
    penalty = Consolidation(2000.0, batch_size or 8, decay)
    model = train(make_model(), penalty, ewc, penalty.behind, stream=make_stream(([0, 1], [2, 3], [4])))
    penalty.check()
    sizes = [sum(p.numel() for p in weights.values()) for weights in penalty.weights]
    assert sizes[-1] == sum(p.numel() for p in model.parameters())
    assert ewc.bytes_kept == 4 * 2 * (sum(sizes) if decay is None else sizes[-1])


def test_ewc_holds_what_matters() -> None:
    def weighted_distance(weight: float) -> float:
        by_hand = Consolidation(1.0, 1, None)
        train(make_model(), by_hand, EWC(weight, importance_batch_size=1), lr=0.01, train_epochs=4)
        moved = {name: by_hand.weights[2][name] - old for name, old in by_hand.weights[0].items()}
        return sum(float((f * moved[name] ** 2).sum()) for name, f in by_hand.fisher[0].items())

    # 0.07 to 0.63 of it in 8 runs, of seeds and versions of torch; with ten times the weight two of them diverged
    assert weighted_distance(3e3) < 0.9 * weighted_distance(0.0)


class Distillation(Added):
    """alpha x KL(teacher, model) over the classes of earlier experiences, at temperature T; the teacher
    in eval mode.
    """

    def __init__(self, alpha: float, temperature: float) -> None:
        super().__init__()
        self.alpha, self.temperature = alpha, temperature
        self.teacher: Any = None

    def expected(self, strategy: Any) -> Tensor:
        if self.teacher is None:
            return torch.zeros(())
        old = self.teacher.heads.classes
        log_p = (self.teacher(strategy.mb_x)[:, old] / self.temperature).log_softmax(dim=1)
        log_q = (strategy.mb_output[:, old] / self.temperature).log_softmax(dim=1)
        return self.alpha * (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.teacher = copy.deepcopy(strategy.model).eval()


@pytest.mark.parametrize("freeze_earlier", [False, True])
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 2.0), (3.0, 1.0)])
def test_lwf_adds_the_divergence_from_the_old_model_in_eval_mode(
    alpha: float, temperature: float, freeze_earlier: bool
) -> None:
    lwf, by_hand, seen = LwF(alpha, temperature), Distillation(alpha, temperature), HeadsAtStart()
    stream = make_stream(([0, 1], [2, 3], [4]))
    model: Any = train(make_model(freeze_earlier=freeze_earlier), seen, by_hand, lwf, by_hand.behind, stream=stream)
    by_hand.check()
    assert torch.equal(seen.starts[1][0], model.heads.heads[0].weight) == freeze_earlier, (
        "the first head, in the second experience"
    )
    tensors = [*model.parameters(), *model.buffers()]
    assert lwf.bytes_kept == sum(t.numel() * t.element_size() for t in tensors)
    assert LwF().bytes_kept == 0


@pytest.mark.parametrize(("fixed", "upstream"), [(EWC, EWCPlugin), (LwF, LwFPlugin)])
def test_the_arguments_of_upstream_come_first(fixed: Any, upstream: Any) -> None:
    theirs, ours = (list(inspect.signature(cls).parameters) for cls in (upstream, fixed))
    assert ours[: len(theirs)] == theirs


@pytest.mark.parametrize("alphas", [[9.0, 2.0, 2.0], (9.0, 2.0, 2.0)])
def test_an_alpha_for_each_experience(alphas: Any) -> None:
    """The first one has no use."""
    each, one = (state(train(make_model(), LwF(alpha))) for alpha in (alphas, 2.0))
    assert same(each, one)
    assert not same(each, state(train(make_model(), LwF([9.0, 2.0, 0.0]))))
    with pytest.raises(
        ValueError, match=r"LwF has 2 alphas, \[9.0, 2.0\], and none for experience 2: give one for each"
    ):
        train(make_model(), LwF([9.0, 2.0]))


@pytest.mark.parametrize("keep", [False, True])
def test_ewc_keeps_importances_if_asked(keep: bool) -> None:
    ewc = EWC(1.0, "online", 0.5, keep)
    train(make_model(), ewc)
    assert sorted(ewc.importances) == ([0, 1, 2] if keep else [2])


@pytest.mark.parametrize("make", [lambda: LwF(1.0), lambda: EWC(1.0)])
def test_a_model_with_a_head_for_each_task(make: Any) -> None:
    """Avalanche's, which is told the tasks, and is none of ours."""
    torch.manual_seed(0)
    model = MTSimpleMLP(input_size=36, hidden_size=4)
    tasks = [(x, y) for x, y in ((torch.randn(8, 36), torch.arange(8) % 2) for _ in range(2))]
    stream = tensors_benchmark(train_tensors=tasks, test_tensors=tasks, task_labels=[0, 1])
    plugin = make()
    Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        plugins=[plugin],
        evaluator=EvaluationPlugin(),
    ).train(stream.train_stream, eval_streams=[])
    assert plugin.bytes_kept > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EWC(-1.0), "ewc_lambda must be a finite number, not negative, got -1"),
        (
            lambda: EWC(1.0, "online"),
            "mode must be 'separate', or 'online' with a decay_factor, got 'online' with decay_factor=None",
        ),
        (lambda: EWC(1.0, decay_factor=0.5), "got 'separate' with decay_factor=0.5"),
        (lambda: EWC(1.0, importance_batch_size=0), "importance_batch_size must be at least 1, got 0"),
        (lambda: LwF(alpha=math.inf), "alpha must be a finite number, not negative, got inf"),
        (lambda: LwF([1.0, -1.0]), r"alpha\[1\] must be a finite number, not negative, got -1"),
        (lambda: LwF(temperature=0.0), "temperature must be a finite number above 0, got 0"),
    ],
)
def test_numbers_out_of_their_range(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
