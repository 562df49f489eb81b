"""EPG and annealed EPG: formulas, gradients, precision, schedules, and what t and T are in a real
Avalanche run (F22).
"""

from __future__ import annotations

import copy
import itertools
import math
import pickle
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from avalanche.benchmarks import nc_benchmark, split_online_stream
from avalanche.evaluation.metrics import loss_metrics
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.supervised import JointTraining, Naive
from reclaim.strategies.aepg import AnnealedEPGLoss, EPGLoss
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.losses import annealing_weight
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

pytestmark = pytest.mark.trains

LOSSES = {
    "epg": (EPGLoss, lambda p_y: -p_y),
    "aepg-0": (lambda: AnnealedEPGLoss(0), lambda p_y: -p_y),
    "aepg-0.3": (lambda: AnnealedEPGLoss(0.3), lambda p_y: -0.3 * p_y.log() - 0.7 * p_y),
    "aepg-1": (lambda: AnnealedEPGLoss(1.0), lambda p_y: -p_y.log()),
}


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(5, (6,), generator=generator)


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_against_the_formula_and_finite_differences(name: str) -> None:
    make, formula = LOSSES[name]
    logits, targets = batch()
    loss = make()(logits, targets)
    expected = formula(logits.softmax(1)[torch.arange(6), targets]).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))
    assert torch.autograd.gradcheck(lambda z: make()(z, targets), (logits,))


def test_gradient_of_epg_is_that_of_cross_entropy_times_p_y() -> None:
    logits, targets = batch()
    (gradient,) = torch.autograd.grad(EPGLoss()(logits, targets), logits)
    p = logits.detach().softmax(1)
    p_y = p.gather(1, targets[:, None])
    torch.testing.assert_close(gradient, p_y * (p - F.one_hot(targets, 5)) / 6)


def test_alpha_1_is_cross_entropy_and_alpha_0_is_epg() -> None:
    logits, targets = batch(torch.float32)
    torch.testing.assert_close(AnnealedEPGLoss(1)(logits, targets), F.cross_entropy(logits, targets), rtol=1e-6, atol=0)
    assert AnnealedEPGLoss(0)(logits, targets) == EPGLoss()(logits, targets)


def test_maximising_j_by_gradient_steps_lowers_the_entropy_more_than_cross_entropy() -> None:
    def entropy_after(loss: nn.Module) -> float:
        logits, targets = batch()
        logits = (logits / 3).detach().requires_grad_()
        optimizer = torch.optim.SGD([logits], lr=1.0)
        while logits.softmax(1).gather(1, targets[:, None]).mean() < 0.9:
            optimizer.zero_grad()
            loss(logits, targets).backward()
            optimizer.step()
        return float(torch.distributions.Categorical(logits=logits).entropy().mean())

    assert entropy_after(EPGLoss()) < entropy_after(nn.CrossEntropyLoss())


@pytest.mark.parametrize("gap", [-1000.0, -200.0, -30.0, 30.0, 200.0, 1000.0])
@pytest.mark.parametrize("name", LOSSES)
def test_p_y_near_0_and_near_1(name: str, gap: float) -> None:
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    loss = LOSSES[name][0]()(logits, torch.tensor([0]))
    loss.backward()
    alpha = {"epg": 0.0, "aepg-0": 0.0, "aepg-0.3": 0.3, "aepg-1": 1.0}[name]
    p_y = 1 / (1 + math.exp(-gap)) if gap > -700 else 0.0
    log_p_y = -math.log1p(math.exp(-gap)) if gap > -700 else gap
    assert float(loss) == pytest.approx(-alpha * log_p_y - (1 - alpha) * p_y, rel=1e-5, abs=1e-12)
    slope = -(alpha + (1 - alpha) * p_y) * (1 - p_y)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[slope, -slope]]), rtol=1e-5, atol=1e-7)


def test_masked_classes_have_no_share_and_no_gradient() -> None:
    logits = torch.tensor([[0.5, -torch.inf, 0.1]], requires_grad=True)
    loss = EPGLoss()(logits, torch.tensor([0]))
    loss.backward()
    assert logits.grad is not None
    assert logits.grad[0, 1] == 0
    assert logits.grad.isfinite().all()
    assert float(loss) == pytest.approx(-1 / (1 + math.exp(-0.4)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    # p_y of about 0.001, which computed in half precision would be wrong by up to 0.4%
    loss_function = LOSSES[name][0]()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 1000, generator=generator).to(dtype).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    targets = torch.tensor([0, 1, 2, 3])
    loss, reference = loss_function(logits, targets), loss_function(exact, targets)
    loss.backward()
    reference.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), reference, rtol=1e-5, atol=0)
    assert logits.grad is not None
    assert exact.grad is not None
    assert logits.grad.dtype == dtype
    # rounded once, to the logits' own precision (float16 below 6e-5 has steps of 6e-8)
    torch.testing.assert_close(
        logits.grad, exact.grad.to(dtype), rtol=torch.finfo(dtype).eps, atol=1.2e-7 if dtype == torch.float16 else 0
    )


def test_autocast() -> None:
    layer, (_, targets) = nn.Linear(4, 5), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = EPGLoss()(layer(torch.ones(6, 4)), targets)
    loss.backward()
    assert loss.dtype == torch.float32
    assert layer.weight.grad is not None
    assert layer.weight.grad.abs().sum() > 0


# --- schedules ---


def alpha_at(t: int, total: int, schedule: Any = "sigmoid", **arguments: Any) -> float:
    loss = AnnealedEPGLoss(schedule, total_steps=total, **arguments)
    for _ in range(t):
        loss.step()
    return loss.alpha


def test_sigmoid_schedule() -> None:
    assert alpha_at(0, 100) == pytest.approx(1 / (1 + math.exp(-6)))
    assert alpha_at(50, 100) == 0.5
    assert alpha_at(100, 100) == pytest.approx(1 / (1 + math.exp(6)))
    # 30 frozen epochs of 50 are over
    assert alpha_at(30, 50) == pytest.approx(1 / (1 + math.exp(1.2)))
    assert alpha_at(30, 50) == pytest.approx(0.23, abs=0.005)
    assert alpha_at(25, 100, tau=2) == pytest.approx(1 / (1 + math.exp(-1)))
    assert alpha_at(0, 100, tau=1e6) == 1.0
    assert alpha_at(100, 100, tau=1e6) == 0.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [1, 0.75, 0.5, 0]),
        ("cosine", [1, 0.5 + 0.5 * math.sqrt(0.5), 0.5, 0]),
        (0.2, [0.2] * 4),
        (0, [0] * 4),
        (1, [1] * 4),
    ],
)
def test_other_schedules(schedule: Any, expected: list[float]) -> None:
    assert [alpha_at(t, 8, schedule) for t in (0, 2, 4, 8)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["sigmoid", "linear", "cosine"])
def test_alpha_falls_and_stays_after_the_last_step(schedule: str) -> None:
    alphas = [alpha_at(t, 10, schedule) for t in range(11)]
    assert all(before > after for before, after in itertools.pairwise(alphas))
    assert alpha_at(15, 10, schedule) == alphas[-1]


def test_the_loss_follows_alpha_and_restarts() -> None:
    logits, targets = batch()
    loss = AnnealedEPGLoss("linear", total_steps=2)
    assert loss(logits, targets) == AnnealedEPGLoss(1.0)(logits, targets)
    loss.step()
    assert loss(logits, targets) == AnnealedEPGLoss(0.5)(logits, targets)
    loss.restart()
    assert (loss.t, loss.total_steps, loss.alpha) == (0, 2, 1.0)
    loss.restart(4)
    loss.step()
    assert loss.alpha == 0.75


def test_copying_and_pickling_keep_the_state() -> None:
    loss = AnnealedEPGLoss("cosine", total_steps=3)
    loss.step()
    for other in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert (other.t, other.alpha) == (1, loss.alpha)


# --- bad input ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "exponential"}, "sigmoid, linear, cosine.*'exponential'"),
        ({"schedule": 1.01}, r"\[0, 1\].*1.01"),
        ({"schedule": -0.1}, r"\[0, 1\].*-0.1"),
        ({"schedule": math.nan}, r"\[0, 1\].*nan"),
        ({"tau": 0}, "tau must be positive"),
        ({"tau": -6.0}, "tau must be positive.*-6"),
        ({"tau": math.inf}, "tau must be positive and finite, got inf"),
        ({"tau": math.nan}, "tau .* nan"),
        ({"horizon": "epoch"}, "'task' or 'stream', got 'epoch'"),
        ({"total_steps": 0}, "total_steps must be at least 1, got 0"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnealedEPGLoss(**arguments)


def test_unknown_number_of_steps() -> None:
    logits, targets = batch()
    with pytest.raises(RuntimeError, match="total_steps"):
        AnnealedEPGLoss()(logits, targets)
    AnnealedEPGLoss(0.5)(logits, targets)


@pytest.mark.parametrize("make", [EPGLoss, partial(AnnealedEPGLoss, 0.5)])
@pytest.mark.parametrize(("logits", "targets"), [((4, 3, 2), (4,)), ((4, 3), (5,)), ((4, 3), (4, 1)), ((4,), (4,))])
def test_wrong_shapes(make: Any, logits: tuple[int, ...], targets: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits \(N, C\) and class indices \(N,\)"):
        make()(torch.zeros(logits), torch.zeros(targets, dtype=torch.long))


# --- in Avalanche ---

SAMPLES = {0: 6, 1: 6, 2: 6, 3: 5, 4: 4, 5: 9}


def benchmark() -> Any:
    """Tasks of 3, 2 and 1 classes: 18, 9 and 9 samples, so 5, 3 and 3 minibatches of 4."""
    generator = torch.Generator().manual_seed(0)
    y = torch.cat([torch.full((n,), c) for c, n in SAMPLES.items()])
    data = TensorDataset(torch.randn(len(y), 4, generator=generator), y)
    return nc_benchmark(data, data, n_experiences=3, task_labels=False, per_exp_classes={0: 3, 1: 2}, shuffle=False)


class Recorder(SupervisedPlugin[Any]):
    """What the loss was at each training iteration:
    (experience, t, T, alpha), and the classes of its logits' gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[int, int, int, float]] = []
        self.moved: list[set[int]] = []

    def after_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.mb_output.retain_grad()

    def after_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        loss = strategy._criterion
        if isinstance(loss, AnnealedEPGLoss):
            self.steps.append((strategy.experience.current_experience, loss.t, loss.total_steps or 0, loss.alpha))
        self.moved.append(set(strategy.mb_output.grad.abs().sum(0).nonzero().flatten().tolist()))


def strategy(loss: nn.Module, *plugins: Any, epochs: int = 2, **arguments: Any) -> Any:
    torch.manual_seed(0)
    model = ContinualModel(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), in_features=8, freeze_earlier=False)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=loss,
        train_mb_size=4,
        eval_mb_size=16,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loss_metrics(experience=True)),
        **arguments,
    )


def run(
    loss: nn.Module, *plugins: Any, drop_last: bool = False, whole_stream: bool = False, **arguments: Any
) -> Recorder:
    recorder, stream = Recorder(), benchmark().train_stream
    trainer = strategy(loss, *plugins, recorder, **arguments)
    for experiences in [stream] if whole_stream else stream:
        trainer.train(experiences, eval_streams=[benchmark().test_stream], drop_last=drop_last)
    return recorder


def test_t_and_T_of_each_task() -> None:
    steps = run(AnnealedEPGLoss()).steps
    assert [(e, t, total) for e, t, total, _ in steps] == [
        (e, t, 2 * n) for e, n in enumerate([5, 3, 3]) for t in range(2 * n)
    ]
    assert all(alpha == pytest.approx(1 / (1 + math.exp(-6 * (total - 2 * t) / total))) for _, t, total, alpha in steps)


@pytest.mark.parametrize("whole_stream", [False, True])
def test_t_and_T_over_the_whole_stream(whole_stream: bool) -> None:
    steps = run(AnnealedEPGLoss(horizon="stream"), whole_stream=whole_stream).steps
    assert [t for _, t, _, _ in steps] == list(range(22))
    assert {total for _, _, total, _ in steps} == {22}
    assert [e for e, _, _, _ in steps] == [0] * 10 + [1] * 6 + [2] * 6


@pytest.mark.parametrize(
    ("horizon", "expected"), [("task", [(0, 8), (1, 4), (2, 4)]), ("stream", [(0, 16), (1, 16), (2, 16)])]
)
def test_T_when_the_last_batch_is_dropped(horizon: Any, expected: list[tuple[int, int]]) -> None:
    steps = run(AnnealedEPGLoss(horizon=horizon), drop_last=True).steps
    assert sorted({(e, total) for e, _, total, _ in steps}) == expected


@pytest.mark.parametrize("horizon", ["task", "stream"])
def test_T_of_joint_training(horizon: Any) -> None:
    """All experiences at once: 36 images, 9 minibatches."""
    watch, loss = Alphas(), AnnealedEPGLoss(horizon=horizon, restrict=False)
    plain(loss, watch, host=JointTraining).train(benchmark().train_stream, eval_streams=[])
    falls(watch.alphas, 9)
    assert len(watch.alphas) == loss.total_steps == 9


def test_a_given_T_replaces_the_count() -> None:
    steps = run(AnnealedEPGLoss(total_steps=40)).steps
    assert {total for _, _, total, _ in steps} == {40}
    assert [t for e, t, _, _ in steps if e == 1] == list(range(6))
    steps = run(AnnealedEPGLoss(horizon="stream", total_steps=40)).steps
    assert [t for _, t, _, _ in steps] == list(range(22))


@pytest.mark.parametrize("horizon", ["task", "stream"])
def test_evaluation_in_between_does_not_move_t(horizon: Any) -> None:
    class Evaluate(SupervisedPlugin[Any]):
        def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            strategy.eval(benchmark().test_stream)

    quiet, evaluating = run(AnnealedEPGLoss(horizon=horizon)), run(AnnealedEPGLoss(horizon=horizon), Evaluate())
    assert quiet.steps == evaluating.steps


@pytest.mark.parametrize("make", [EPGLoss, partial(AnnealedEPGLoss, 0.5)])
def test_only_the_current_classes_get_gradients(make: Any) -> None:
    moved = run(make()).moved
    assert set().union(*moved[:10]) == {0, 1, 2}
    assert set().union(*moved[10:16]) == {3, 4}
    # a class alone has p_y = 1: nothing to learn
    assert set().union(*moved[16:]) == set()
    unrestricted = run(make(restrict=False)).moved
    assert set().union(*unrestricted[10:16]) == {0, 1, 2, 3, 4}


def test_replay_needs_all_classes() -> None:
    with pytest.raises(ValueError, match="restrict=False"):
        run(AnnealedEPGLoss(), ReplayPlugin(mem_size=8))
    steps = run(AnnealedEPGLoss(restrict=False), ReplayPlugin(mem_size=8)).steps
    assert [total for _, t, total, _ in steps if t + 1 == total] == [10, 6, 6]


def test_samples_added_to_an_experience_count_in_T_once_they_are_there() -> None:
    class AddFirstTask(SupervisedPlugin[Any]):
        def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            if strategy.experience.current_experience > 0:
                strategy.adapted_dataset = strategy.adapted_dataset.concat(benchmark().train_stream[0].dataset)

    steps = run(AnnealedEPGLoss(restrict=False, horizon="stream"), AddFirstTask()).steps
    # 9 + 18 samples: 7 minibatches instead of 3
    assert sorted({(e, total) for e, _, total, _ in steps}) == [(0, 22), (1, 10 + 2 * (7 + 3)), (2, 10 + 2 * (7 + 7))]
    assert [t for _, t, _, _ in steps] == list(range(38))


@pytest.mark.parametrize("make", [EPGLoss, AnnealedEPGLoss])
def test_the_whole_stream_can_be_evaluated_before_during_and_after(make: Any) -> None:
    loss, bench = make(), benchmark()
    trainer = strategy(loss, epochs=1)
    trainer.train(bench.train_stream[0], eval_streams=[])
    metrics = trainer.eval(bench.test_stream)
    seen, _, unseen = (metrics[f"Loss_Exp/eval_phase/test_stream/Task000/Exp{e:03}"] for e in range(3))
    assert math.isfinite(unseen)
    assert seen < unseen
    # training goes on after it, restricted to the classes then current
    trainer.train(bench.train_stream[1], eval_streams=[])
    assert loss._evaluating is False


class Alphas(SupervisedPlugin[Any]):
    """Alpha at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.alphas: list[float] = []

    def before_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.alphas.append(strategy._criterion.alpha)


def online(boundaries: bool) -> Any:
    """4 images a part: 5, 3 and 3 parts of the tasks."""
    stream = benchmark().train_stream
    return split_online_stream(stream, experience_size=4, access_task_boundaries=boundaries, seed=0)


def plain(loss: nn.Module, *plugins: Any, epochs: int = 1, host: Any = Naive) -> Any:
    """With a model that is no matter of this package, whose head has all classes."""
    torch.manual_seed(0)
    model = nn.Linear(4, 6)
    return host(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=loss,
        train_mb_size=4,
        train_epochs=epochs,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
    )


def falls(alphas: list[float], steps: int) -> None:
    expected = [annealing_weight(t / steps) for t in range(steps)]
    assert alphas == pytest.approx(expected[: len(alphas)])


@pytest.mark.parametrize("epochs", [1, 2])
def test_an_online_stream_without_boundaries(epochs: int) -> None:
    """The classes are those of the images at hand; alpha falls over the stream, and a task is warned of."""
    watch = Alphas()
    plain(AnnealedEPGLoss(horizon="stream"), watch, epochs=epochs).train(online(False), eval_streams=[])
    assert len(watch.alphas) == 11 * epochs
    falls(watch.alphas, 11 * epochs)
    with pytest.warns(UserWarning, match=r"each part of an online stream, over T = 1 steps: use .*horizon='stream'"):
        plain(AnnealedEPGLoss()).train(online(False), eval_streams=[])


def test_an_online_stream_with_boundaries() -> None:
    """A task is what it says; the classes are those of the task, whichever a part has."""
    watch, seen = Alphas(), list[list[int]]()
    loss = AnnealedEPGLoss()
    hook: Any = SupervisedPlugin()
    hook.before_training_epoch = lambda strategy, **_: seen.append(loss._classes.tolist())  # type: ignore[union-attr]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="alpha anneals")
        plain(loss, watch, hook).train(online(True), eval_streams=[])
    assert seen == [[0, 1, 2]] * 5 + [[3, 4]] * 3 + [[5]] * 3
    falls(watch.alphas[:5], 5)
    falls(watch.alphas[5:8], 3)
    falls(watch.alphas[8:], 3)


def test_a_reused_loss_starts_anew() -> None:
    """In another strategy, and in each stream whose steps it counts; not where T was given for all of them."""
    for loss in (AnnealedEPGLoss(horizon="stream"), AnnealedEPGLoss(horizon="stream", total_steps=22)):
        first, second = run(loss), run(loss)
        assert first.steps == second.steps
    for total_steps, expected in ((None, 0), (40, 22)):
        loss = AnnealedEPGLoss(horizon="stream", total_steps=total_steps)
        recorder = Recorder()
        trainer = strategy(loss, recorder)
        for _ in range(2):
            trainer.train(benchmark().train_stream, eval_streams=[])
        assert recorder.steps[22][1] == expected


@pytest.mark.parametrize(("options", "epochs"), [({"drop_last": True}, 1), ({}, 0)])
@pytest.mark.parametrize("horizon", ["task", "stream"])
def test_an_experience_without_a_step(horizon: Any, options: dict[str, Any], epochs: int) -> None:
    loss, bench = AnnealedEPGLoss(horizon=horizon), benchmark()
    trainer = strategy(loss, epochs=epochs)
    trainer.train_mb_size = 64
    trainer.train(bench.train_stream, **options)
    metrics = trainer.eval(bench.test_stream)
    assert all(math.isfinite(value) for name, value in metrics.items() if name.startswith("Loss_Exp"))
    assert loss.alpha == annealing_weight(0)


def test_an_annealed_loss_is_cross_entropy_in_evaluation() -> None:
    """Else it would fall by annealing alone, and mislead early stopping and schedules of a plateau."""
    logits, targets = batch()
    loss = AnnealedEPGLoss(total_steps=4)
    loss.step()
    training = loss(logits, targets)
    loss.eval()
    torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets))
    assert loss.train()(logits, targets) == training
    loss.before_eval(None)
    torch.testing.assert_close(loss(logits, targets), F.cross_entropy(logits, targets))
    loss.after_eval(None)
    assert loss(logits, targets) == training
    constant = AnnealedEPGLoss(0.3)
    assert constant(logits, targets) == constant.eval()(logits, targets)


@pytest.mark.parametrize("make", [EPGLoss, AnnealedEPGLoss, TaskCrossEntropy])
def test_reduction(make: Any) -> None:
    loss = make()
    assert loss.reduction == "mean"
    loss.reduction = "mean"
    for other in ("sum", "none"):
        with pytest.raises(ValueError, match=f"{make.__name__} is the mean over the batch, got reduction='{other}'"):
            loss.reduction = other


def test_a_model_can_be_evaluated_before_any_training() -> None:
    bench, loss = benchmark(), AnnealedEPGLoss()
    trainer = strategy(loss, epochs=1)
    trainer.model.heads.add_head([0])
    trainer.eval(bench.test_stream)
    trainer.train(bench.train_stream[1], eval_streams=[])
    assert (loss.t, loss.total_steps) == (3, 3)
