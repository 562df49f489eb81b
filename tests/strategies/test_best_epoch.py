"""The best epoch instead of the last one: which it is, when its weights are back, and what choosing leaves alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from reclaim.benchmark.config import Config, Images
from reclaim.benchmark.training.build import make_strategy
from reclaim.benchmark.training.step import Stepwise
from reclaim.strategies.best_epoch import BestEpoch
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.slca import ClassifierAlignment
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch import Tensor, nn
from torch.optim import SGD

pytestmark = pytest.mark.trains

TASKS, EPOCHS = ([0, 1, 2], [3, 4]), 8


def stream(seed: int, per_class: int, tasks: Any = TASKS) -> Any:
    """A pattern for each class under much noise, which the seed draws."""
    patterns = torch.randn(5, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    generator, tensors = torch.Generator().manual_seed(seed), []
    for classes in tasks:
        targets = torch.tensor(classes).repeat_interleave(per_class)
        tensors.append((patterns[targets] + 1.5 * torch.randn(len(targets), 1, 4, 4, generator=generator), targets))
    return tensors_benchmark(train_tensors=tensors, test_tensors=tensors, task_labels=[0] * len(tensors))


class Watch(SupervisedPlugin[Any]):
    """The weights after each epoch, and what the end of the experience makes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[dict[str, Any]] = []
        self.ended: list[dict[str, Any]] = []

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.epochs = []

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.epochs.append(copy.deepcopy(strategy.model.state_dict()))

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.ended.append(copy.deepcopy(strategy.model.state_dict()))


class Spoil(SupervisedPlugin[Any]):
    """Lets the last epoch name class 0 whatever it sees.

    That is right for a third of the first task's images, and for none of the second's.
    """

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_epochs == EPOCHS - 1:
            with torch.no_grad():
                strategy.model.heads.heads[0].bias[0] += 1e6


def make(*plugins: SupervisedPlugin[Any], epochs: int = EPOCHS, lr: float = 1.0) -> Any:
    torch.manual_seed(0)
    model = ContinualModel(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5)), in_features=12
    )
    return Stepwise(
        model=model,
        optimizer=SGD(model.parameters(), lr=lr),
        criterion=TaskCrossEntropy(),
        train_mb_size=8,
        eval_mb_size=7,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
    )


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(
        torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        for name, value in first.items()
    )


def accuracy(weights: dict[str, Any], experience: Any) -> float:
    model = make().model
    model.load_state_dict(weights)
    model.eval()
    images, targets = (torch.stack([torch.as_tensor(sample[i]) for sample in experience.dataset]) for i in (0, 1))
    # the batches of evaluation: the same bits
    predicted = torch.cat([model(part).argmax(1) for part in images.split(7)])
    return float(100 * (predicted == targets).double().mean())


def test_the_best_epoch_on_the_validation_part_is_kept() -> None:
    held_out = stream(2, 30).test_stream
    best, watch = BestEpoch(held_out), Watch()
    strategy = make(Spoil(), best, ClassifierAlignment(epochs=1, samples_per_class=8), watch)
    strategy.plugins.insert(2, before := Watch())  # sees what the alignment is given
    undisturbed = make(Spoil(), plain := Watch())
    for t, (experience, again) in enumerate(zip(stream(3, 20).train_stream, stream(3, 20).train_stream, strict=True)):
        torch.manual_seed(t)
        strategy.train(experience, eval_streams=[])
        accuracies = [accuracy(weights, held_out[t]) for weights in before.epochs]
        assert best.accuracies == pytest.approx(accuracies)
        chosen = accuracies.index(max(accuracies))  # the first of equals
        assert accuracies[-1] == pytest.approx(100 / 3 if t == 0 else 0)  # spoilt, so not the best
        assert accuracies[chosen] > accuracies[-1]
        assert same(before.ended[t], before.epochs[chosen])
        assert not same(before.ended[t], before.epochs[-1])
        backbone = {name: value for name, value in watch.ended[t].items() if name.startswith("backbone")}
        assert same(backbone, before.epochs[chosen])  # the alignment changes heads alone, and keeps the chosen backbone
        if t == 0:
            torch.manual_seed(0)
            undisturbed.train(again, eval_streams=[])
            assert all(map(same, plain.epochs, before.epochs))  # choosing draws nothing and leaves every module's mode
    assert all(module.training for module in strategy.model.modules())


def test_streams_that_do_not_fit_are_refused() -> None:
    strategy = make(BestEpoch(stream(2, 4, ([3, 4], [0, 1, 2])).test_stream))
    with pytest.raises(
        ValueError, match=r"experience 0 has the classes \[0, 1, 2\], its held-out images have \[3, 4\]: use"
    ):
        strategy.train(stream(3, 4).train_stream[0], eval_streams=[])


def test_the_configuration_asks_for_it() -> None:
    config = Config(images=Images(hold_out=True), keep="best", ewc=1.0).set(["alignment={}"])
    model = ContinualModel(nn.Sequential(nn.Flatten(), nn.Linear(16, 12)), in_features=12)
    with pytest.raises(
        ValueError, match="keep='best' chooses an epoch by held-out images: give their experiences as validation"
    ):
        make_strategy(config, model, 0, [])
    held_out = stream(2, 4).test_stream
    strategy = make_strategy(config, model, 0, [watch := Watch()], validation=held_out)
    kinds = [type(plugin).__name__ for plugin in strategy.plugins]
    assert kinds.index("BestEpoch") < min(map(kinds.index, ("EWC", "ClassifierAlignment", "Watch")))
    assert watch in strategy.plugins
    assert not any(
        isinstance(plugin, BestEpoch) for plugin in make_strategy(config.set(["keep=last"]), model, 0, []).plugins
    )
