"""WiSE-FT and the average of the weights over training: what predicts against the formulas, and that training goes on
as if nothing had been averaged.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.averaging import WeightAverage, WiSEFT
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.slca import ClassifierAlignment
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch import Tensor, nn

pytestmark = pytest.mark.trains

BOTH = [lambda: WiSEFT(0.4), lambda: WeightAverage(0.8)]


def make_model(**options: Any) -> ContinualModel:
    torch.manual_seed(0)
    return ContinualModel(nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh()), in_features=8, **options)


class Growing(nn.Module):
    """A model of Avalanche's manner, whose classifier grows."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classifier = nn.Linear(36, 8), IncrementalClassifier(8, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(torch.tanh(self.body(images.flatten(1))))
        return logits


def growing() -> nn.Module:
    torch.manual_seed(0)
    return Growing()


def make_stream(groups: Sequence[Sequence[int]] = ([0, 1], [2], [3, 4])) -> Any:
    """Uneven tasks."""
    generator = torch.Generator().manual_seed(1)
    patterns = torch.randn(5, 1, 6, 6, generator=generator)
    tasks = []
    for classes in groups:
        y = torch.tensor(classes).repeat_interleave(7)
        tasks.append((patterns[y] + 0.3 * torch.randn(len(y), 1, 6, 6, generator=generator), y))
    return tensors_benchmark(train_tensors=tasks, test_tensors=tasks, task_labels=[0] * len(tasks))


def strategy_of(*plugins: SupervisedPlugin[Any], model: nn.Module | None = None, **options: Any) -> Naive:
    model = model or make_model()
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        criterion=TaskCrossEntropy(),
        train_epochs=2,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
        **({"train_mb_size": 4} | options),
    )


def train_on(strategy: Naive, *experiences: int, stream: Any = None) -> Naive:
    stream = stream or make_stream()
    for t in experiences:
        torch.manual_seed(t)
        strategy.train(stream.train_stream[t])
    return strategy


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Iterates(SupervisedPlugin[Any]):
    """The weights of training after each step, those that had a gradient, and the weights after each experience as a
    plugin listed first sees them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, Tensor]] = []
        self.ends: list[dict[str, Tensor]] = []

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        trained = {name for name, p in strategy.model.named_parameters() if p.grad is not None and p.requires_grad}
        self.steps.append({name: p for name, p in weights(strategy.model).items() if name in trained})

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.ends.append(weights(strategy.model))


# The formulas


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
def test_wise_ft_is_the_interpolation_of_the_backbone(alpha: float) -> None:
    """After every experience towards the same theta_0."""
    start, iterates = weights(make_model()), Iterates()
    strategy = strategy_of(iterates, WiSEFT(alpha))
    for t in range(3):
        train_on(strategy, t)
        trained = iterates.ends[-1]
        for name, p in strategy.model.named_parameters():
            if name.startswith("backbone"):
                torch.testing.assert_close(p.detach(), start[name] + alpha * (trained[name] - start[name]))
                assert not torch.equal(trained[name], start[name])
            else:
                assert torch.equal(p, trained[name])
        if alpha in (0, 1):
            expected = start if alpha == 0 else trained
            assert all(torch.equal(p, expected[f"backbone.{n}"]) for n, p in strategy.model.backbone.named_parameters())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_average_over_the_steps(decay: float) -> None:
    """Over all experiences. Heads that are frozen in the next one keep the average that they had."""
    iterates = Iterates()
    strategy = train_on(strategy_of(iterates, WeightAverage(decay)), 0, 1, 2)
    expected: dict[str, Tensor] = {}
    for step in iterates.steps:
        for name, value in step.items():
            expected[name] = decay * expected.get(name, value) + (1 - decay) * value
    assert len(iterates.steps) == 2 * (4 + 2 + 4)
    assert {"heads.heads.0.weight", "heads.heads.2.bias", "backbone.1.weight"} <= expected.keys()
    have = weights(strategy.model)
    for name, value in expected.items():
        torch.testing.assert_close(have[name], value)
    untrained = have.keys() - expected.keys()
    assert all(torch.equal(have[name], iterates.ends[-1][name]) for name in untrained)


def test_decay_0_is_the_last_step() -> None:
    averaged, plain = (train_on(strategy_of(*plugins), 0, 1) for plugins in ([WeightAverage(0.0)], []))
    assert same(weights(averaged.model), weights(plain.model))


def test_an_average_in_half_precision_moves() -> None:
    """bfloat16 would round a step of a thousandth away."""
    plugin, model = WeightAverage(0.999), nn.Linear(2, 2).bfloat16()
    strategy: Any = type("Strategy", (), {"model": model})
    for value in (1.0, 2.0):
        for p in model.parameters():
            p.data.fill_(value)
            p.grad = torch.zeros_like(p)
        plugin.after_update(strategy)
    assert all(a.dtype == torch.float32 for a in plugin._average.values())
    torch.testing.assert_close(plugin._average["weight"], torch.full((2, 2), 1.001))


# Training goes on from its own weights


@pytest.mark.parametrize("model", [make_model, lambda: make_model(freeze_earlier=False), growing])
@pytest.mark.parametrize("make", BOTH)
def test_training_is_as_without_it(make: Any, model: Any) -> None:
    """The same bits in every step of every experience, though the weights after each one are others. A class comes
    back, and one image is a batch.
    """
    ends = []
    for plugins in ([make()], []):
        iterates, stream = Iterates(), make_stream([[0, 1], [2], [3, 1, 4]])
        strategy = strategy_of(iterates, *plugins, model=model(), train_mb_size=6)
        for t in range(3):
            train_on(strategy, t, stream=stream)
            strategy.eval(stream.test_stream)
        ends.append((iterates, weights(strategy.model)))
    (averaged, written), (plain, trained) = ends
    assert len(averaged.steps) == len(plain.steps)
    assert all(same(a, b) for a, b in zip(averaged.steps, plain.steps, strict=True))
    assert not same(written, trained)


@pytest.mark.parametrize("make", BOTH)
def test_evaluation_within_an_experience(make: Any) -> None:
    """It sees the weights of training, as without the plugin, and changes nothing."""
    runs = []
    for plugins in ([make()], []):
        iterates, stream = Iterates(), make_stream()
        strategy = strategy_of(iterates, *plugins, eval_every=1)
        for t in range(3):
            torch.manual_seed(t)
            strategy.train(stream.train_stream[t], eval_streams=[stream.test_stream[: t + 1]])
        runs.append(iterates)
    averaged, plain = runs
    assert all(same(a, b) for a, b in zip(averaged.steps, plain.steps, strict=True))
    assert all(same(a, b) for a, b in zip(averaged.ends, plain.ends, strict=True))


@pytest.mark.parametrize("make", BOTH)
def test_under_alignment(make: Any) -> None:
    """Alignment sees the averaged weights, and leaves nothing in training, nor in the averages."""
    steps = []
    for aligned in (True, False):
        iterates = Iterates()
        alignment = [ClassifierAlignment(epochs=1, samples_per_class=8)] if aligned else []
        strategy = strategy_of(iterates, make(), *alignment, model=make_model(freeze_earlier=False))
        train_on(strategy, 0, 1, 2)
        steps.append((iterates.steps, {n: p for n, p in weights(strategy.model).items() if n.startswith("backbone")}))
    assert all(same(a, b) for a, b in zip(steps[0][0], steps[1][0], strict=True))
    assert same(steps[0][1], steps[1][1])


# State


@pytest.mark.parametrize("make", BOTH)
def test_pickled_between_experiences(make: Any) -> None:
    whole = train_on(strategy_of(make()), 0, 1, 2)
    half = train_on(strategy_of(make()), 0, 1)
    again = pickle.loads(pickle.dumps(half))
    assert same(weights(train_on(again, 2).model), weights(whole.model))


@pytest.mark.parametrize("make", BOTH)
def test_another_strategy_starts_anew(make: Any) -> None:
    plugin = make()
    train_on(strategy_of(plugin), 2, 1)
    again, anew = (train_on(strategy_of(p), 0, 1) for p in (plugin, make()))
    assert same(weights(again.model), weights(anew.model))


@pytest.mark.parametrize("make", BOTH)
def test_a_new_strategy_on_the_same_model_goes_on(make: Any) -> None:
    plugin = make()
    first = train_on(strategy_of(plugin), 0)
    trained = copy.deepcopy(plugin._trained)
    second = strategy_of(plugin, model=first.model)
    plugin.after_train_dataset_adaptation(second)
    have = weights(first.model)
    assert all(torch.equal(have[name], value) for name, value in trained.items())
    assert plugin._trained == {}


def test_bytes_kept() -> None:
    backbone, head = 4 * (36 * 8 + 8), 4 * (8 * 2 + 2)
    wise, average = WiSEFT(0.5), WeightAverage(0.5)
    assert (wise.bytes_kept, average.bytes_kept) == (0, 0)
    train_on(strategy_of(wise), 0)
    train_on(strategy_of(average), 0)
    assert wise.bytes_kept == 2 * backbone
    assert average.bytes_kept == 2 * (backbone + head)


# Bad input


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_an_alpha_out_of_its_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got"):
        WiSEFT(alpha)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_out_of_its_range(decay: float) -> None:
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got"):
        WeightAverage(decay)


def test_wise_ft_of_another_backbone() -> None:
    strategy = train_on(strategy_of(WiSEFT(0.5)), 0)
    strategy.model.backbone[1] = nn.Linear(36, 8, bias=False)
    with pytest.raises(ValueError, match=r"WiSEFT interpolates backbone.1.bias .* now is missing: make a new WiSEFT"):
        train_on(strategy, 1)


def test_wise_ft_without_a_classifier() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.BatchNorm1d(5))
    with pytest.raises(TypeError, match="WiSEFT needs a backbone with a classifier, and Sequential has none"):
        train_on(strategy_of(WiSEFT(0.5), model=model), 0)


def test_the_average_takes_any_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh())
    assert train_on(strategy_of(WeightAverage(0.5), model=model), 0)
