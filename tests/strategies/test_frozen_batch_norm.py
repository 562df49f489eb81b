"""Frozen batch normalisation: through Avalanche's switching of modes, beside other plugins, and the warnings."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.aepg import AnnealedEPGLoss
from reclaim.strategies.baselines import EWC, FrozenBackbone, LwF
from reclaim.strategies.frozen_batch_norm import FrozenBatchNorm, moving_batch_norms
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.replay import Replay
from reclaim.strategies.slca import ClassifierAlignment
from torch import Tensor, nn

pytestmark = pytest.mark.trains

WARNING = "batch normalisation .* anew on each experience"


def net(norm: bool = True, freeze_earlier: bool = True) -> ContinualModel:
    torch.manual_seed(0)
    middle = [nn.BatchNorm2d(4)] if norm else []
    layers = [nn.Conv2d(1, 4, 3), *middle, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return ContinualModel(nn.Sequential(*layers), in_features=16, freeze_earlier=freeze_earlier)


def stream() -> Any:
    """Two experiences of two classes, of images whose mean (5) and spread (3) are not what a new model expects."""
    generator = torch.Generator().manual_seed(1)
    parts = [
        [(5 + 3 * torch.randn(16, 1, 6, 6, generator=generator), torch.tensor([t, t + 1] * 8)) for t in (0, 2)]
        for _ in range(2)
    ]
    return tensors_benchmark(train_tensors=parts[0], test_tensors=parts[1], task_labels=[0, 0])


def fit(model: nn.Module, *plugins: SupervisedPlugin[Any], criterion: Any = None, **more: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    strategy = Naive(
        model=model,
        optimizer=optimizer,
        criterion=criterion or nn.CrossEntropyLoss(),
        train_mb_size=8,
        train_epochs=2,
        eval_mb_size=8,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
        **more,
    )
    benchmark = stream()
    for t, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[benchmark.test_stream] if more.get("eval_every", -1) > 0 else [])
        strategy.eval(benchmark.test_stream[: t + 1])
    return strategy


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


OTHERS: dict[str, Any] = {
    "alone": {},
    "evaluated in every iteration": {"eval_every": 1, "peval_mode": "iteration"},
    "evaluated in every epoch": {"eval_every": 1},
    "aEPG": {"criterion": AnnealedEPGLoss()},
    "alignment": {"plugins": lambda: [ClassifierAlignment(samples_per_class=8)]},
    "EWC": {"plugins": lambda: [EWC(1.0)]},
    "LwF": {"plugins": lambda: [LwF(1.0)]},
    "replay": {"plugins": lambda: [Replay(8)]},
}


@pytest.mark.parametrize("name", OTHERS)
def test_statistics_stay_and_weights_train(name: str) -> None:
    more = dict(OTHERS[name])
    plugins = more.pop("plugins", list)
    freeze_earlier = name not in ("LwF", "replay")
    model = net(freeze_earlier=freeze_earlier)
    before, factors = statistics(model), model.backbone[1].weight.detach().clone()  # type: ignore[index,operator,union-attr]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=WARNING)
        fit(model, FrozenBatchNorm(), *plugins(), **more)
    assert all(torch.equal(buffer, before[key]) for key, buffer in statistics(model).items())
    assert not torch.equal(model.backbone[1].weight, factors)  # type: ignore[index,union-attr,arg-type]
    moved = net(freeze_earlier=freeze_earlier)
    more.pop("criterion", None)
    fit(moved, *plugins(), **more)
    assert any(not torch.equal(buffer, before[key]) for key, buffer in statistics(moved).items())


def test_training_sees_what_testing_sees() -> None:
    """Without dropout, frozen statistics make the two modes one function."""

    class Compare(SupervisedPlugin[Any]):
        worst = 0.0

        def after_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            copied = copy.deepcopy(strategy.model).eval()
            self.worst = max(self.worst, float((copied(strategy.mb_x) - strategy.mb_output).abs().max()))

    compare, without = Compare(), Compare()
    fit(net(), FrozenBatchNorm(), compare)
    fit(net(), without)
    assert compare.worst == 0.0
    assert without.worst > 0.0


def test_only_batch_normalisation_of_the_backbone_is_frozen() -> None:
    class Modes(SupervisedPlugin[Any]):
        def after_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            self.training = {name for name, module in strategy.model.named_modules() if module.training}

    model, modes = net(), Modes()
    model.backbone.append(nn.Dropout(0.5))  # type: ignore[operator]
    fit(model, FrozenBatchNorm(), modes)
    everything = {name for name, _ in model.named_modules()}
    assert everything - modes.training == {"backbone.1"}


def test_without_batch_normalisation_nothing_changes() -> None:
    frozen, plain = net(norm=False), net(norm=False)
    torch.manual_seed(2)
    fit(plain)
    torch.manual_seed(2)
    fit(frozen, FrozenBatchNorm())
    assert all(torch.equal(a, b) for a, b in zip(frozen.parameters(), plain.parameters(), strict=True))


def test_it_is_pickled_with_a_checkpoint() -> None:
    assert isinstance(pickle.loads(pickle.dumps(FrozenBatchNorm())), FrozenBatchNorm)


def test_alignment_warns_where_statistics_move_and_only_there() -> None:
    alignment = ClassifierAlignment(samples_per_class=8)
    with pytest.warns(UserWarning, match=WARNING) as caught:
        fit(net(), alignment)
    ours = [w for w in caught if "FrozenBatchNorm" in str(w.message)]
    assert len(ours) == 1  # not in every step
    with pytest.warns(UserWarning, match=WARNING):
        fit(net(), alignment)  # another strategy on another model
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{WARNING}")
        fit(net(norm=False), ClassifierAlignment(samples_per_class=8))
        fit(net(), FrozenBackbone(), ClassifierAlignment(samples_per_class=8))
        fit(net(), ClassifierAlignment(samples_per_class=8), FrozenBatchNorm())  # in either order


def test_moving_batch_norms_are_those_that_a_pass_would_change() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2, track_running_stats=False), nn.BatchNorm1d(2), nn.ReLU())
    model[2].eval()
    assert moving_batch_norms(model) == ["0"]
