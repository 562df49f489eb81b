"""Heads per experience, the optimizer made new for each, and the loss over the current experience's classes."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.heads import UNSEEN, ContinualModel, TaskHeads, require_continual_model
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

torch.set_num_threads(1)


def experience(*classes: int) -> SimpleNamespace:
    return SimpleNamespace(classes_in_this_experience=list(classes))


def make_heads(*groups: tuple[int, ...], **settings: Any) -> TaskHeads:
    heads = TaskHeads(4, **settings)
    for group in groups:
        heads.adaptation(experience(*group))
    return heads


def make_stream(tasks: list[list[int]]) -> Any:
    torch.manual_seed(1)
    data = []
    for classes in tasks:
        y = torch.tensor(classes).repeat_interleave(6)
        data.append((torch.randn(len(y), 1, 2, 2) + y.reshape(-1, 1, 1, 1), y))
    return tensors_benchmark(train_tensors=data, test_tensors=data, task_labels=[0] * len(tasks))


def make_model() -> ContinualModel:
    torch.manual_seed(0)
    return ContinualModel(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), in_features=4)


class Recorder(SupervisedPlugin[Any]):
    """Learning rates of all groups at each iteration, and whether the optimizer had any state before each
    experience's first one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[list[float]] = []
        self.states: list[int] = []

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.states.append(sum(bool(state) for state in strategy.optimizer.state.values()))

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.rates.append([group["lr"] for group in strategy.optimizer.param_groups])


class TestTaskHeads:
    def test_logits_stand_in_the_columns_of_their_class_ids(self) -> None:
        heads = make_heads((5, 2), (0,))
        x = torch.randn(3, 4)
        logits = heads(x)
        assert logits.shape == (3, 6)
        torch.testing.assert_close(logits[:, [2, 5]], heads.heads[0](x))
        torch.testing.assert_close(logits[:, [0]], heads.heads[1](x))
        assert (logits[:, [1, 3, 4]] == UNSEEN).all()
        assert heads.classes == [2, 5, 0]

    def test_only_the_current_head_trains(self) -> None:
        heads = make_heads((0, 1), (2,))
        assert [head.weight.requires_grad for head in heads.heads] == [False, True]
        assert [head.bias.requires_grad for head in heads.heads] == [False, True]
        heads.adaptation(experience(1, 3))
        assert [head.weight.requires_grad for head in heads.heads] == [True, False, True], "class 1 came back"

    def test_freeze_earlier_can_be_switched_off(self) -> None:
        heads = make_heads((0, 1), (2,), freeze_earlier=False)
        assert all(p.requires_grad for p in heads.heads.parameters())

    def test_known_classes_need_no_new_head(self) -> None:
        heads = make_heads((0, 1), (1, 0))
        assert heads.head_classes == [[0, 1]]

    def test_evaluation_widens_the_logits_and_adds_no_head(self) -> None:
        heads = make_heads((0, 1))
        heads.eval()
        heads.adaptation(experience(7))
        assert len(heads.heads) == 1
        logits = heads(torch.randn(2, 4))
        assert logits.shape == (2, 8)
        assert (logits[:, 2:] == UNSEEN).all()
        assert heads.train()(torch.randn(2, 4)).shape == (2, 2)

    def test_new_heads_are_initialised_as_asked(self) -> None:
        torch.manual_seed(0)
        for std in (0.02, 0.001):
            heads = TaskHeads(200, init_std=std)
            head = heads.add_head(range(50))
            assert head.weight.std().item() == pytest.approx(std, rel=0.05)
            assert not head.bias.any()
        assert not TaskHeads(3, init_std=0).add_head([0]).weight.any()

    def test_snapshot_and_restore(self) -> None:
        heads = make_heads((0, 1))
        before = heads.snapshot()
        parameters = list(heads.heads.parameters())
        with torch.no_grad():
            for p in parameters:
                p.add_(1)
        heads.adaptation(experience(2))
        newest = heads.heads[1].weight.detach().clone()
        heads.restore(before)
        assert all(torch.equal(p, saved) for p, saved in zip(parameters, before, strict=True))
        assert torch.equal(heads.heads[1].weight, newest)

    def test_a_checkpoint_grows_a_new_model(self) -> None:
        model, other = make_model(), make_model()
        for group in ((3, 1), (0,)):
            model.heads.adaptation(experience(*group))
        other.load_state_dict(model.state_dict())
        x = torch.randn(2, 1, 2, 2)
        assert other.heads.head_classes == [[1, 3], [0]]
        assert torch.equal(other(x), model(x))

    def test_bad_inputs(self) -> None:
        with pytest.raises(ValueError, match="in_features"):
            TaskHeads(0)
        with pytest.raises(ValueError, match="init_std"):
            TaskHeads(1, init_std=-1)
        with pytest.raises(RuntimeError, match="no head yet"):
            TaskHeads(1)(torch.zeros(1, 1))
        for classes in ([0], [2, 2], [-1], []):
            with pytest.raises(ValueError, match="distinct, non-negative"):
                make_heads((0,)).add_head(classes)


class TestContinualModel:
    def test_a_timm_model_loses_its_classifier(self) -> None:
        from timm.models.vision_transformer import VisionTransformer

        vit = VisionTransformer(
            img_size=28, patch_size=7, in_chans=1, embed_dim=16, depth=1, num_heads=2, num_classes=10
        )
        model = ContinualModel(vit)
        assert model.features(torch.zeros(2, 1, 28, 28)).shape == (2, 16)
        assert not list(vit.head.parameters())

    def test_bad_inputs(self) -> None:
        with pytest.raises(ValueError, match="pass in_features"):
            ContinualModel(nn.Flatten())
        with pytest.raises(ValueError, match=r"\(2, 4\), expected \(N, 3\)"):
            ContinualModel(nn.Flatten(), in_features=3).features(torch.zeros(2, 1, 2, 2))
        with pytest.raises(TypeError, match=r"alignment needs .* got Flatten: wrap it"):
            require_continual_model(nn.Flatten(), "alignment")


class TestFreshOptimizer:
    def train(
        self, *plugins: SupervisedPlugin[Any], epochs: int = 1, momentum: float = 0.9
    ) -> tuple[Recorder, ContinualModel]:
        stream, model, recorder = make_stream([[0, 1], [2, 3]]), make_model(), Recorder()
        groups = [{"params": model.backbone.parameters(), "lr": 0.1}, {"params": model.heads.parameters(), "lr": 0.2}]
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=momentum)
        strategy = Naive(
            model=model,
            optimizer=optimizer,
            criterion=TaskCrossEntropy(),
            train_mb_size=6,
            train_epochs=epochs,
            plugins=[*plugins, recorder],
            evaluator=None,
        )
        for exp in stream.train_stream:
            torch.manual_seed(0)
            strategy.train(exp)
        return recorder, model

    def test_momentum_is_not_carried_over(self) -> None:
        kept, model_kept = self.train()
        fresh, model_fresh = self.train(FreshOptimizer())
        assert kept.states[1] > 0
        assert fresh.states == [0, 0]
        assert not torch.equal(model_kept.backbone[1].weight, model_fresh.backbone[1].weight)

    def test_without_momentum_and_schedule_it_changes_nothing(self) -> None:
        _, plain = self.train(momentum=0)
        _, fresh = self.train(FreshOptimizer(), momentum=0)
        assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), fresh.parameters(), strict=True))

    def test_the_schedule_starts_anew_in_each_experience(self) -> None:
        recorder, _ = self.train(FreshOptimizer(lambda optimizer, _: MultiStepLR(optimizer, [2], 0.1)), epochs=3)
        per_epoch = recorder.rates[::2]  # 12 drawings, batches of 6
        expected = [[0.1, 0.2], [0.1, 0.2], [0.01, 0.02]] * 2
        assert [rate for rates in per_epoch for rate in rates] == pytest.approx(
            [rate for rates in expected for rate in rates]
        )

    def test_a_schedule_per_iteration_knows_its_number_of_steps(self) -> None:
        steps = []

        def schedule(optimizer: torch.optim.Optimizer, count: int) -> CosineAnnealingLR:
            steps.append(count)
            return CosineAnnealingLR(optimizer, count)

        recorder, _ = self.train(FreshOptimizer(schedule, every="iteration"), epochs=2)
        assert steps == [4, 4]
        assert [rates[1] for rates in recorder.rates] == pytest.approx(
            [0.2, 0.2 * 0.853553, 0.1, 0.2 * 0.146447] * 2, rel=1e-5
        )

    def rates(self, plugin: FreshOptimizer, optimizer: torch.optim.Optimizer) -> list[float]:
        """What the groups have after the plugin's first hook."""
        plugin.before_training_exp(SimpleNamespace(optimizer=optimizer, train_epochs=2, dataloader=[0] * 3))
        return [float(group["lr"]) for group in optimizer.param_groups]

    def sgd(self, *rates: float | Tensor) -> torch.optim.SGD:
        return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=1.0)

    @pytest.mark.parametrize("schedule", [None, lambda optimizer, _: MultiStepLR(optimizer, [1], 0.1)])
    def test_each_optimizer_has_its_own_first_rates(self, schedule: Any) -> None:
        plugin, first, second = FreshOptimizer(schedule), self.sgd(0.001, 0.002), self.sgd(0.1, 0.2, 0.3)
        assert self.rates(plugin, first) == [0.001, 0.002]
        assert self.rates(plugin, second) == [0.1, 0.2, 0.3]
        second.param_groups[0]["lr"] = 5.0
        assert self.rates(plugin, second) == [0.1, 0.2, 0.3]

    @pytest.mark.parametrize("again", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
    def test_copied_with_its_optimizer_it_keeps_the_rates(self, again: Any) -> None:
        plugin, optimizer = FreshOptimizer(), self.sgd(0.1)
        self.rates(plugin, optimizer)
        plugin, optimizer = again((plugin, optimizer))
        optimizer.param_groups[0]["lr"] = 5.0
        assert self.rates(plugin, optimizer) == [0.1]

    def test_a_rate_that_is_a_tensor(self) -> None:
        plugin, optimizer = FreshOptimizer(), self.sgd(torch.tensor(0.5))
        self.rates(plugin, optimizer)
        optimizer.param_groups[0]["lr"].fill_(0.25)
        assert self.rates(plugin, optimizer) == [0.5]

    def test_groups_that_are_gone(self) -> None:
        plugin, optimizer = FreshOptimizer(), self.sgd(0.1, 0.2)
        self.rates(plugin, optimizer)
        del optimizer.param_groups[0]
        with pytest.raises(ValueError, match="seen 2 parameter groups in this optimizer, which now has 1"):
            self.rates(plugin, optimizer)

    @pytest.mark.parametrize("schedule", [None, lambda optimizer, _: MultiStepLR(optimizer, [1], 0.1)])
    def test_schedulers_of_others_find_their_initial_rates(self, schedule: Any) -> None:
        optimizer = self.sgd(0.1)
        MultiStepLR(optimizer, [1])
        self.rates(FreshOptimizer(schedule), optimizer)
        # what a scheduler that joins a training needs
        assert MultiStepLR(optimizer, [1], last_epoch=0).base_lrs == [0.1]

    def test_an_optimizer_on_which_a_schedule_has_run(self) -> None:
        old = self.sgd(0.1)
        scheduler = MultiStepLR(old, [1], 0.01)
        old.step()
        scheduler.step()
        with pytest.warns(
            UserWarning, match=r"a group has lr=0.001, and initial_lr=0.1\..*starts every experience from"
        ):
            self.rates(FreshOptimizer(lambda optimizer, _: MultiStepLR(optimizer, [1])), old)

    @pytest.mark.parametrize("epochs", [0, 2])
    def test_no_schedule_for_no_steps(self, epochs: int) -> None:
        steps: list[int] = []
        plugin = FreshOptimizer(lambda optimizer, n: steps.append(n) or MultiStepLR(optimizer, [1]), "iteration")  # type: ignore[func-returns-value]
        plugin.before_training_exp(SimpleNamespace(optimizer=self.sgd(0.1), train_epochs=epochs, dataloader=[0] * 3))
        assert steps == ([] if epochs == 0 else [6])

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="'batch'"):
            FreshOptimizer(every="batch")  # type: ignore[arg-type]


class TestTaskCrossEntropy:
    strategy = SimpleNamespace(experience=experience(4, 1))

    def test_in_training_the_other_classes_do_not_count(self) -> None:
        loss = TaskCrossEntropy()
        logits, targets = torch.randn(5, 6), torch.tensor([4, 1, 1, 4, 4])
        loss.before_training_exp(self.strategy)
        torch.testing.assert_close(
            loss(logits, targets), F.cross_entropy(logits[:, [1, 4]], torch.tensor([1, 0, 0, 1, 1]))
        )

    def test_an_interrupted_evaluation_does_not_lift_the_restriction(self) -> None:
        loss = TaskCrossEntropy()
        logits, targets = torch.randn(2, 6), torch.tensor([4, 1])
        loss.before_eval(self.strategy)  # Ctrl-C: no after_eval
        loss.before_training_exp(self.strategy)
        torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits[:, [1, 4]], torch.tensor([1, 0])))

    def test_in_evaluation_all_classes_count(self) -> None:
        loss = TaskCrossEntropy()
        logits, targets = torch.randn(2, 6), torch.tensor([0, 5])
        loss.before_training_exp(self.strategy)
        loss.before_eval(self.strategy)
        torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets))
        loss.after_eval(self.strategy)
        with pytest.raises(
            ValueError, match=r"target 5 .* classes of the current experience \[1, 4\]: .*restrict=False"
        ):
            loss(logits, targets)
        loss.after_training_exp(self.strategy)
        torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets))

    def test_without_waiting_it_is_found_after_the_epoch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """As on devices that compute by themselves: steps leave it to the end of the epoch."""
        loss = TaskCrossEntropy()
        loss.before_training_exp(self.strategy)
        with monkeypatch.context() as patch:
            patch.setattr(TaskCrossEntropy, "_require_own", lambda self: None)
            for targets in ([4, 1], [1, 5], [4, 4]):
                loss(torch.randn(2, 6), torch.tensor(targets))
        with pytest.raises(ValueError, match="target 5 is not among the classes"):
            loss.after_training_epoch(self.strategy)
        loss(torch.randn(2, 6), torch.tensor([4, 1]))
        loss.after_training_epoch(self.strategy)  # said once

    def test_unrestricted(self) -> None:
        loss = TaskCrossEntropy(restrict=False)
        logits, targets = torch.randn(2, 6), torch.tensor([0, 5])
        loss.before_training_exp(self.strategy)
        torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets))
