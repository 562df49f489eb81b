"""Plugins in pipelines as users write them: plugins of their own beside ours, training interrupted and begun again,
whole streams in one call, models compiled or of another dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import reclaim.strategies as R
import timm
import torch
from avalanche.benchmarks import nc_benchmark, tensors_benchmark
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import EWC, Cumulative, LwF, Naive
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import TensorDataset

pytestmark = pytest.mark.trains

torch.set_num_threads(1)

N = 6


def images(targets: Tensor, seed: int) -> Tensor:
    patterns = torch.randn(N, 3, 32, 32, generator=torch.Generator().manual_seed(7))
    return patterns[targets] + 0.5 * torch.randn(len(targets), 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def dataset(per_class: int, seed: int, dtype: torch.dtype = torch.float32) -> TensorDataset:
    targets = torch.arange(N).repeat_interleave(per_class)
    data = TensorDataset(images(targets, seed).to(dtype), targets)
    data.targets = targets.tolist()  # type: ignore[attr-defined]
    return data


def stream(per_class: int = 4, dtype: torch.dtype = torch.float32) -> Any:
    """Three experiences of two classes."""
    train, test = dataset(per_class, 1, dtype), dataset(2, 2, dtype)
    return nc_benchmark(train, test, n_experiences=3, task_labels=False, shuffle=False)


def make_vit(**options: Any) -> Any:
    torch.manual_seed(0)
    return R.ContinualModel(timm.create_model("test_vit", img_size=32), **options)


class Small(nn.Module):
    """A plain model of a user's, with Avalanche's growing classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU())
        self.classifier = IncrementalClassifier(8)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.body(x))
        return logits


def make(model: Any, *plugins: Any, kind: Any = Naive, criterion: Any = None, **options: Any) -> Any:
    return kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), 0.01),
        criterion=criterion or nn.CrossEntropyLoss(),
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
        **{"train_mb_size": 4, "train_epochs": 1, "eval_mb_size": 8, **options},
    )


class Stop(SupervisedPlugin[Any]):
    """Somebody presses Ctrl-C, once, at the n-th call of a hook."""

    def __init__(self, hook: str, call: int = 1) -> None:
        super().__init__()
        self.left = call
        setattr(self, hook, self._stop)

    def _stop(self, *args: Any, **kwargs: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def interrupted(strategy: Any, experience: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        strategy.train(experience)


# --- beside plugins of one's own ---


class Frozen(SupervisedPlugin[Any]):
    """The usual way to keep batch statistics."""

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.model.eval()


def test_heads_are_added_to_a_model_that_trains_in_eval_mode() -> None:
    model = make_vit()
    make(model, Frozen(), criterion=R.TaskCrossEntropy()).train(stream().train_stream)
    assert model.heads.head_classes == [[0, 1], [2, 3], [4, 5]]


def test_evaluation_adds_no_head() -> None:
    model = make_vit()
    strategy = make(model, criterion=R.TaskCrossEntropy())
    strategy.train(stream().train_stream[0])
    strategy.eval(stream().test_stream)
    assert model.heads.head_classes == [[0, 1]]


def test_a_schedule_over_steps_counts_those_of_a_loader_that_comes_later() -> None:
    """Replay, listed behind, has a loader of its own."""
    found = []
    for order in (1, -1):
        rates: list[float] = []

        class Watch(SupervisedPlugin[Any]):
            def after_update(self, strategy: Any, *args: Any, rates: list[float] = rates, **kwargs: Any) -> None:
                rates.append(strategy.optimizer.param_groups[0]["lr"])

        fresh = R.FreshOptimizer(CosineAnnealingLR, every="iteration")
        plugins = [fresh, R.Replay(12, batch_size=2, batch_size_mem=2)][::order]
        model = make_vit(freeze_earlier=False)
        make(model, *plugins, Watch(), criterion=R.TaskCrossEntropy(restrict=False)).train(stream().train_stream[:2])
        found.append(rates)
    assert found[0] == found[1]
    assert sorted(found[0][2:], reverse=True) == found[0][2:]  # one cosine over the second experience, not several


def test_the_steps_of_a_whole_stream_are_counted_without_training_on_them() -> None:
    """Cumulative training keeps the data of each adaptation."""
    model = make_vit(freeze_earlier=False)
    loss = R.AnnealedEPGLoss(horizon="stream", restrict=False)
    strategy = make(model, kind=Cumulative, criterion=loss)
    sizes = []
    for experience in stream().train_stream:
        strategy.train(experience)
        sizes.append(len(strategy.dataset))
    assert sizes == [8, 16, 24]
    assert loss.total_steps == (8 + 16 + 24) // 4


@pytest.mark.parametrize("kind", [EWC, LwF])
def test_regularisers_look_at_the_weights_of_training(kind: Any) -> None:
    """A strategy appends its plugin behind those that it is given."""
    model = make_vit(freeze_earlier=False)
    options = {"ewc_lambda": 1.0} if kind is EWC else {"alpha": 1.0, "temperature": 2.0}
    trained: dict[str, Tensor] = {}

    class Watch(SupervisedPlugin[Any]):
        def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            trained.update({name: p.detach().clone() for name, p in strategy.model.named_parameters()})

    criterion = R.TaskCrossEntropy(restrict=False)
    strategy = make(model, R.WiSEFT(0.0), Watch(), kind=kind, criterion=criterion, **options)
    strategy.train(stream().train_stream[0])
    (plugin,) = (p for p in strategy.plugins if type(p).__name__ in ("EWCPlugin", "LwFPlugin"))
    if kind is EWC:
        kept = {name: value.data for name, value in plugin.saved_params[0].items()}
    else:
        kept = dict(
            plugin.lwf.prev_model.named_parameters() if hasattr(plugin, "lwf") else plugin.prev_model.named_parameters()
        )
    name = "backbone.blocks.0.mlp.fc1.weight"
    assert torch.equal(kept[name], trained[name])
    assert not torch.equal(dict(model.named_parameters())[name], trained[name])


@pytest.mark.parametrize("other", [R.ClassifierAlignment, R.NearestClassMean])
@pytest.mark.parametrize("turned", [False, True])
def test_averages_come_before_what_writes_heads(other: Callable[[], Any], turned: bool) -> None:
    heads = []
    for plugins in ([R.WeightAverage(0.5), other()], [other(), R.WeightAverage(0.5)]):
        model = make_vit(freeze_earlier=False)
        strategy = make(model, *plugins, criterion=R.TaskCrossEntropy(restrict=False))
        for experience in stream().train_stream[:2]:
            torch.manual_seed(1)
            strategy.train(experience)
        heads.append(torch.cat([head.weight.detach() for head in model.heads.heads]))
    assert torch.equal(*(heads[::-1] if turned else heads))


def test_heads_of_another_width_are_not_averaged_with_those_before() -> None:
    model = make_vit(freeze_earlier=False)
    strategy = make(model, R.WeightAverage(0.5), R.RanPAC(16), criterion=R.TaskCrossEntropy(restrict=False))
    for experience in stream().train_stream:
        strategy.train(experience)
    assert [head.weight.shape for head in model.heads.heads] == [(2, 16)] * 3


@pytest.mark.parametrize("other", [lambda: R.WiSEFT(0.5), lambda: R.WeightAverage(0.5), R.ClassifierAlignment])
def test_gdumb_starts_from_the_initial_model(other: Callable[[], Any]) -> None:
    starts: list[dict[str, Tensor]] = []

    class Watch(SupervisedPlugin[Any]):
        def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            starts.append({name: p.detach().clone() for name, p in strategy.model.named_parameters()})

    model = make_vit(freeze_earlier=False)
    strategy = make(model, R.GDumb(12), other(), Watch(), criterion=R.TaskCrossEntropy(restrict=False))
    for experience in stream().train_stream:
        strategy.train(experience)
    for later in starts[1:]:
        for name, value in starts[0].items():
            if "heads" not in name:
                assert torch.equal(later[name], value), name
        assert torch.equal(later["heads.heads.0.weight"], starts[1]["heads.heads.0.weight"])


@pytest.mark.parametrize("who", [lambda: R.LAE(), lambda: R.WeightAverage(0.5)])
def test_averages_over_branches_that_begin_anew_are_refused(who: Callable[[], Any]) -> None:
    model = make_vit()
    R.attach_inflora(model, rank=2)
    strategy = make(model, R.InfLoRA(threshold=0.5, last_threshold=0.5), who(), criterion=R.TaskCrossEntropy())
    with pytest.raises(ValueError, match="averages over all steps, and Branches gets new values when an experience"):
        strategy.train(stream().train_stream[0])


def test_what_a_user_has_unfrozen_trains_beside_prompts() -> None:
    model = make_vit()
    R.attach_l2p(model)
    model.backbone.norm.requires_grad_(True)
    before = copy.deepcopy(model.backbone.state_dict())
    make(model, R.L2P(clip_over="all"), criterion=R.TaskCrossEntropy()).train(stream().train_stream[0])
    after = model.backbone.state_dict()
    assert not torch.equal(before["norm.weight"], after["norm.weight"])
    assert torch.equal(before["blocks.0.attn.qkv.weight"], after["blocks.0.attn.qkv.weight"])
    assert not model.backbone.blocks[0].attn.qkv.weight.requires_grad


# --- interrupted ---


def test_coda_goes_on_with_an_experience_that_was_interrupted() -> None:
    model = make_vit()
    R.attach_coda(model, experiences=3, components=6)
    strategy = make(model, R.CODAPrompt(), Stop("after_update"), criterion=R.TaskCrossEntropy())
    first, *others = stream().train_stream
    interrupted(strategy, first)
    strategy.train([first, *others])
    assert len(model.heads.head_classes) == 3


@pytest.mark.parametrize("experience", [0, 1])
def test_inflora_trains_an_interrupted_branch_again(experience: int) -> None:
    """As if it had not been interrupted: the same branches as without."""
    found = []
    for stops in (False, True):
        model = make_vit()
        R.attach_inflora(model, rank=2)
        stop = Stop("after_update", 2 * experience + 1) if stops else SupervisedPlugin[Any]()
        plugin = R.InfLoRA(threshold=0.5, last_threshold=0.5)
        strategy = make(model, plugin, stop, criterion=R.TaskCrossEntropy(), train_mb_size=4)
        for t, one in enumerate(stream().train_stream[:2]):
            if stops and t == experience:
                interrupted(strategy, one)
            strategy.train(one)
        branches = [module for module in model.modules() if hasattr(module, "earlier_A")]
        found.append([len(branch.earlier_A) for branch in branches])
    assert found[0] == found[1]


def test_aper_keeps_the_pretrained_backbone() -> None:
    model = make_vit()
    pretrained = copy.deepcopy(model.backbone.state_dict())
    strategy = make(model, R.FirstExperienceOnly(), R.APER(), Stop("after_update"), criterion=R.TaskCrossEntropy())
    first, second, _ = stream().train_stream
    interrupted(strategy, first)
    strategy.train([first, second])
    kept = model.extension.pretrained.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in pretrained.items())


@pytest.mark.parametrize("plugin", [lambda: R.RanPAC(16), lambda: R.APER()])
def test_an_extension_is_put_in_once(plugin: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, own = make_vit(), plugin()
    strategy = make(model, R.FirstExperienceOnly(), own, criterion=R.TaskCrossEntropy())
    update, calls = type(own).update, []

    def stopped(self: Any, *args: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt
        update(self, *args)

    monkeypatch.setattr(type(own), "update", stopped)
    first, second, _ = stream().train_stream
    interrupted(strategy, first)
    extension = model.extension
    strategy.train([first, second])
    assert model.extension is extension


def test_a_schedule_that_finds_everything_frozen_says_so() -> None:
    model = make_vit()
    R.attach_lora(model)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    first = stream().train_stream[0]
    strategy = make(model, R.PEFTSchedule(1, "backbone"), Stop("after_update"), train_epochs=2)
    interrupted(strategy, first)
    with pytest.raises(ValueError, match="the whole backbone is frozen already"):
        make(model, R.PEFTSchedule(1, "backbone"), train_epochs=2).train(first)


def test_scaled_heads_are_not_put_into_another_model() -> None:
    model, scaling = make_vit(), R.HeadScaling(0.5)
    strategy = make(model, scaling, Stop("after_eval_forward"), criterion=R.TaskCrossEntropy())
    strategy.train(stream().train_stream[0])
    with pytest.raises(KeyboardInterrupt):
        strategy.eval(stream().test_stream[:1])
    other = make_vit()
    other.heads.add_head([0, 1])
    with torch.no_grad():
        other.heads.heads[0].weight.fill_(0.25)
    make(other, scaling, criterion=R.TaskCrossEntropy()).eval(stream().test_stream[:1])
    assert (other.heads.heads[0].weight == 0.25).all()


# --- models ---


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_random_projection_of_models_of_any_dtype(dtype: torch.dtype) -> None:
    model = make_vit(freeze_earlier=False).to(dtype)
    strategy = make(model, R.RanPAC(16), criterion=R.TaskCrossEntropy())
    strategy.train(stream(dtype=dtype).train_stream[:2])
    strategy.eval(stream(dtype=dtype).test_stream[:1])
    assert model.heads.heads[0].weight.dtype == dtype


@pytest.mark.parametrize("plugin", [R.NearestClassMean, R.ClassifierAlignment])
def test_later_compiled_models_of_a_process(plugin: Callable[[], Any]) -> None:
    """Code compiled for the first one is used again, and knows no hooks."""
    for _ in range(3):
        model = Small()
        model.compile(backend="eager")
        strategy = make(model, plugin())
        for experience in stream(20).train_stream:
            strategy.train(experience)
    torch._dynamo.reset()


class Aux(nn.Module):
    """The last layer is of a loss of its own, and no part of the forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU())
        self.fc = nn.Linear(8, N)
        self.projection = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.body(x))
        return logits


@pytest.mark.parametrize("plugin", [lambda: R.WiSEFT(0.5), R.L2SP, R.FrozenBackbone])
def test_a_layer_that_is_not_called_is_no_classifier(plugin: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match="takes the last Linear of Aux for its classifier, and the model does not"):
        make(Aux(), plugin()).train(stream().train_stream[0])


def test_classes_that_come_back_to_bic() -> None:
    targets = torch.arange(N).repeat_interleave(6)
    x = images(targets, 1)
    tasks = [[0, 1], [2, 3], [2, 4], [2, 4], [2, 4]]
    parts = [(x[chosen], targets[chosen]) for chosen in (torch.isin(targets, torch.tensor(t)) for t in tasks)]
    benchmark = tensors_benchmark(train_tensors=parts, test_tensors=parts, task_labels=[0] * len(tasks))
    strategy = make(Small(), R.BiC(24, val_percentage=0.25, stage_2_epochs=1))
    strategy.train(benchmark.train_stream)
    assert all(torch.isfinite(p).all() for p in strategy.model.parameters())
