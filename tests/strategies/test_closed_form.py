"""Heads in closed form: against brute force, against Avalanche's Deep SLDA, on streams of all shapes,
and beside training.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from avalanche.benchmarks import tensors_benchmark
from avalanche.models import IncrementalClassifier
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from avalanche.training.supervised.deep_slda import StreamingLDA
from reclaim.strategies.closed_form import (
    RIDGES,
    CosineClassMean,
    LinearDiscriminant,
    NearestClassMean,
    RandomProjection,
    RanPAC,
)
from reclaim.strategies.first_experience import FirstExperienceOnly
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.heads import UNSEEN, ContinualModel, TaskHeads
from reclaim.strategies.slca import ClassifierAlignment, slow_learner_groups
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch import Tensor, nn
from torch.nn import functional as F

pytestmark = pytest.mark.trains

torch.set_num_threads(1)

DIM = 6
# uneven tasks, one class in a task; ids in no order, with gaps; classes that come back
STREAMS = [[[0, 1, 2], [3], [4, 5]], [[9, 4], [30, 2], [17]], [[0, 1], [1, 2], [0, 1]], [[0]]]


def make_stream(tasks: list[list[int]], per_class: int = 12, scale: float = 1.0, **transforms: Any) -> Any:
    """Vectors (6,) that are correlated within a class; the spread of each experience's images is its own."""
    generator = torch.Generator().manual_seed(4)
    means = 3 + 2 * torch.randn(50, DIM, generator=generator)
    mix = torch.randn(DIM, DIM, generator=generator)
    parts: list[list[tuple[Tensor, Tensor]]] = [[], []]
    for part in parts:
        for i, classes in enumerate(tasks):
            y = torch.tensor(classes).repeat_interleave(per_class)
            part.append((scale * (means[y] + (1 + 0.3 * i) * torch.randn(len(y), DIM, generator=generator) @ mix), y))
    return tensors_benchmark(train_tensors=parts[0], test_tensors=parts[1], task_labels=[0] * len(tasks), **transforms)


def samples_of(experiences: Any) -> tuple[Tensor, Tensor]:
    pairs = [(x, y) for exp in experiences for x, y, *_ in exp.dataset]
    return torch.stack([x for x, _ in pairs]), torch.tensor([int(y) for _, y in pairs])


def make_strategy(*plugins: SupervisedPlugin[Any], backbone: nn.Module | None = None, train_epochs: int = 0) -> Naive:
    torch.manual_seed(0)
    model = ContinualModel(nn.Flatten() if backbone is None else backbone, in_features=DIM)
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(slow_learner_groups(model, lr=0.1, slow_factor=0.1), momentum=0.9),
        criterion=TaskCrossEntropy(),
        train_mb_size=8,
        train_epochs=train_epochs,
        plugins=[FreshOptimizer(), *plugins],
        evaluator=None,
    )


def make_backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(DIM, DIM), nn.BatchNorm1d(DIM), nn.Dropout(0.2))


def train(strategy: Naive, experiences: Any, between: Callable[[Any], None] = lambda exp: None) -> None:
    for i, exp in enumerate(experiences):
        torch.manual_seed(i)
        strategy.train(exp)
        between(exp)


def scores(x: Tensor, y: Tensor, queries: Tensor, shrinkage: float | None) -> tuple[list[int], Tensor]:
    """Ids of the classes of y (N,), and a score for each of them (queries, classes), by brute force in float64.

    Without a shrinkage it is minus the squared distance to the class's mean; with one, half of that in the metric of
    Lambda.
    """
    x, queries, classes = x.double(), queries.double(), y.unique().tolist()
    means = torch.stack([x[y == c].mean(dim=0) for c in classes])
    metric = torch.eye(x.shape[1], dtype=torch.float64)
    if shrinkage is not None:
        centred = x - means[torch.searchsorted(torch.tensor(classes), y)]
        metric = torch.linalg.inv((1 - shrinkage) * centred.T @ centred / len(x) + shrinkage * metric) / 2
    difference = queries[:, None] - means
    return classes, -torch.einsum("qcd,de,qce->qc", difference, metric, difference)


@pytest.mark.parametrize("tasks", STREAMS, ids=str)
@pytest.mark.parametrize("shrinkage", [None, 1e-4, 0.3], ids=str)
def test_logits_are_the_scores_of_brute_force(tasks: list[list[int]], shrinkage: float | None) -> None:
    """After every experience, over all classes seen so far; no training, and evaluation of unseen
    classes in between.
    """
    stream = make_stream(tasks)
    plugin = NearestClassMean() if shrinkage is None else LinearDiscriminant(shrinkage)
    strategy, seen = make_strategy(plugin), []

    def check(exp: Any) -> None:
        seen.append(exp)
        strategy.eval(stream.test_stream)
        queries, _ = samples_of(stream.test_stream)
        classes, expected = scores(*samples_of(seen), queries, shrinkage)
        with torch.no_grad():
            logits = strategy.model(queries)
        unseen = sorted(set(range(logits.shape[1])) - set(classes))
        assert (logits[:, unseen] == UNSEEN).all()
        own = logits[:, classes].double()
        # a softmax does not see what all classes share
        torch.testing.assert_close(
            own - own.mean(dim=1, keepdim=True),
            expected - expected.mean(dim=1, keepdim=True),
            rtol=1e-4,
            atol=1e-4 * expected.abs().max(),
        )
        # the class that is named may be another one where two are equal within the tolerance
        named = expected.gather(1, own.argmax(dim=1, keepdim=True)).squeeze(1)
        torch.testing.assert_close(named, expected.amax(dim=1), rtol=0, atol=2e-4 * float(expected.abs().max()))
        assert set(logits.argmax(dim=1).tolist()) <= set(classes)

    train(strategy, stream.train_stream, check)
    of_covariance = 0 if shrinkage is None else DIM * DIM
    assert plugin.bytes_kept == 8 * (len(strategy.model.heads.classes) * (DIM + 1) + of_covariance)


@pytest.mark.parametrize("plugin", [NearestClassMean, LinearDiscriminant])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_class_without_a_head_never_wins(plugin: Any, scale: float) -> None:
    """Few images: Lambda is 1e4 in the rest, where the plain formula's logits are far below those of unseen classes."""
    stream, strategy = make_stream([[7, 3]], per_class=2, scale=scale), make_strategy(plugin())
    train(strategy, stream.train_stream)
    queries = torch.cat([samples_of(stream.test_stream)[0], torch.zeros(1, DIM), -1e3 * torch.eye(DIM)])
    with torch.no_grad():
        best = strategy.model(queries).max(dim=1)
    assert set(best.indices.tolist()) <= {7, 3}
    assert (best.values >= -1e-3 * scale**2).all()


def test_one_image_is_its_classs_mean() -> None:
    for plugin in (NearestClassMean(), LinearDiscriminant()):
        stream, strategy = make_stream([[0, 1], [2]], per_class=1), make_strategy(plugin)
        train(strategy, stream.train_stream)
        x, y = samples_of(stream.train_stream)
        assert torch.equal(strategy.model(x).argmax(dim=1), y)


def test_it_is_deep_slda_with_every_sample_about_its_classs_final_mean() -> None:
    """Avalanche adds t / (t + 1) d d^T for sample t, d being taken from the mean of the class's samples
    before it, at first zero.

    The scatter about the final mean is the same sum with c / (c + 1), c being the number of the class's samples before:
    with the difference taken out of its covariance, Avalanche gives the same scores. As it is, it differs where two
    classes are nearly tied.
    """
    generator = torch.Generator().manual_seed(1)
    count, classes = 600, 5
    y = torch.randint(classes, (count,), generator=generator)
    mix = torch.randn(DIM, DIM, generator=generator)
    means = 2 * torch.randn(classes, DIM, generator=generator)
    x = means[y] + torch.randn(count, DIM, generator=generator) @ mix
    queries = means.repeat_interleave(100, dim=0) + torch.randn(100 * classes, DIM, generator=generator) @ mix

    slda = StreamingLDA(
        slda_model=nn.Identity(),
        criterion=nn.CrossEntropyLoss(),
        input_size=DIM,
        num_classes=classes,
        shrinkage_param=1e-2,
        evaluator=None,
    )
    excess = torch.zeros(DIM, DIM)
    for t in range(count):
        c, difference = slda.cK[y[t]], x[t] - slda.muK[y[t]]
        excess += (t / (t + 1) - c / (c + 1)) * torch.outer(difference, difference)
        slda.fit(x[t : t + 1], y[t : t + 1])

    heads, plugin = TaskHeads(DIM), LinearDiscriminant(1e-2)
    heads.add_head([0, 1, 2])
    heads.add_head([3, 4])
    for part in (y < 2, y >= 2):
        plugin.update(x[part], y[part])
    plugin.write(heads)
    own = heads(queries).detach()
    as_it_is = slda.predict(queries)
    assert (own.argmax(dim=1) == as_it_is.argmax(dim=1)).float().mean() > 0.98

    slda.Sigma, slda.prev_num_updates = slda.Sigma - excess / count, -1
    corrected = slda.predict(queries)
    assert (as_it_is - corrected).abs().max() > 0.1, "the excess matters"
    torch.testing.assert_close(
        own - own.mean(dim=1, keepdim=True), corrected - corrected.mean(dim=1, keepdim=True), rtol=1e-3, atol=1e-3
    )
    named = corrected.gather(1, own.argmax(dim=1, keepdim=True)).squeeze(1)  # another one where two are nearly equal
    torch.testing.assert_close(named, corrected.amax(dim=1), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("plugin", [NearestClassMean, LinearDiscriminant])
def test_beside_training_and_alignment(plugin: Any) -> None:
    """Training is what it would be without it, and flags, modes and the global generator are left alone; the last word
    is its own.
    """
    stream = make_stream([[0, 1, 2], [3], [4, 5]])

    class Watch(SupervisedPlugin[Any]):
        def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
            flags = [p.requires_grad for p in strategy.model.parameters()]
            states.append(
                (flags, [m.training for m in strategy.model.modules()], torch.random.get_rng_state().tolist())
            )

    def run(*plugins: SupervisedPlugin[Any]) -> Any:
        strategy = make_strategy(*plugins, backbone=make_backbone(), train_epochs=2)
        train(strategy, stream.train_stream, lambda exp: strategy.eval(stream.test_stream))
        return strategy.model.eval()

    states: list[Any] = []
    plain = run(ClassifierAlignment(samples_per_class=8))
    beside = run(ClassifierAlignment(samples_per_class=8), Watch(), plugin(), Watch())
    assert states[::2] == states[1::2]
    assert states[4][0][-2:] == [True, True]
    assert not any(states[4][0][-6:-2]), "earlier heads stay frozen"
    tensors = zip(plain.backbone.state_dict().values(), beside.backbone.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in tensors)

    alone = run(plugin())
    assert all(torch.equal(a, b) for a, b in zip(alone.heads.parameters(), beside.heads.parameters(), strict=True))


def test_features_are_those_of_test_images_in_eval_mode_after_training() -> None:
    stream = make_stream([[0, 1]], train_transform=lambda x: -x, eval_transform=lambda x: x)
    strategy = make_strategy(NearestClassMean(), backbone=make_backbone(), train_epochs=2)
    train(strategy, stream.train_stream)
    x, y = samples_of(make_stream([[0, 1]]).train_stream)
    features = strategy.model.eval().features(x)
    weights = strategy.model.heads.heads[0].weight
    torch.testing.assert_close(
        weights[0] - weights[1], 2 * (features[y == 0].mean(dim=0) - features[y == 1].mean(dim=0))
    )


@pytest.mark.parametrize("plugin", [NearestClassMean, LinearDiscriminant])
def test_errors(plugin: Any) -> None:
    closed = plugin()
    closed.update(torch.randn(4, DIM), torch.tensor([0, 0, 1, 1]))
    kept = closed.bytes_kept
    broken = torch.zeros(4, DIM)
    broken[2, 1] = math.nan
    with pytest.raises(ValueError, match=r"features of classes \[3\]: if training diverged"):
        closed.update(broken, torch.tensor([2, 2, 3, 3]))
    assert closed.bytes_kept == kept

    stream, strategy = make_stream([[0, 1], [2, 3]]), make_strategy()
    train(strategy, stream.train_stream[:1])
    strategy.plugins.append(plugin())
    with pytest.raises(
        ValueError, match=rf"\[0, 1, 2, 3\] .* \[2, 3\] differ: {plugin.__name__} has to see every experience"
    ):
        train(strategy, stream.train_stream[1:])

    for model, error, message in (
        (nn.LayerNorm(DIM), TypeError, f"{plugin.__name__} needs a backbone with a classifier"),
        (nn.Linear(DIM, 3), ValueError, r"the classes seen, \[0, 1\].* which has 3, would compete"),
        (nn.Linear(DIM, 1), ValueError, "class 1 has no row in the Linear of"),
    ):
        foreign = Naive(
            model=nn.Sequential(nn.Flatten(), model),
            optimizer=torch.optim.SGD(model.parameters()),
            plugins=[plugin()],
            evaluator=None,
        )
        with pytest.raises(error, match=message):
            train(foreign, stream.train_stream[:1])
        assert foreign.clock.train_iterations == 0


@pytest.mark.parametrize("bad", [0, -0.1, 1.1, math.nan])
def test_bad_shrinkage(bad: float) -> None:
    with pytest.raises(ValueError, match=f"shrinkage must be above 0 and at most 1, got {bad}"):
        LinearDiscriminant(bad)


@pytest.mark.parametrize("make", [NearestClassMean, LinearDiscriminant, CosineClassMean, partial(RanPAC, 16)])
def test_in_another_strategy_it_is_as_a_new_one(make: Any) -> None:
    """With the classes of the first strategy, whose images it must not count."""
    plugin = make()
    make_strategy(plugin).train(make_stream(STREAMS[0], scale=3.0).train_stream)
    ends = []
    for again in (plugin, make()):
        strategy = make_strategy(again)
        strategy.train(make_stream(STREAMS[0]).train_stream)
        ends.append(strategy.model.heads.snapshot())
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


# --- SimpleCIL and RanPAC ---


@pytest.mark.parametrize("tasks", STREAMS, ids=str)
def test_simplecil_is_the_cosine_rule(tasks: list[list[int]]) -> None:
    """The class that is named has the largest cosine with the image, whatever other classes there are."""
    stream, strategy, seen = make_stream(tasks), make_strategy(CosineClassMean()), []

    def check(exp: Any) -> None:
        seen.append(exp)
        x, y = (t.double() if t.is_floating_point() else t for t in samples_of(seen))
        queries, _ = samples_of(stream.test_stream)
        classes = y.unique().tolist()
        means = torch.stack([x[y == c].mean(dim=0) for c in classes])
        cosines = torch.cosine_similarity(queries.double()[:, None], means, dim=2)
        with torch.no_grad():
            logits = strategy.model(queries)
        own = logits[:, classes].double() / queries.double().norm(dim=1, keepdim=True)
        torch.testing.assert_close(
            own - own.mean(dim=1, keepdim=True), cosines - cosines.mean(dim=1, keepdim=True), rtol=1e-4, atol=1e-5
        )
        assert set(logits.argmax(dim=1).tolist()) <= set(classes)
        assert (logits.max(dim=1).values >= -1e-4).all(), "never below the logit of a class without a head"

    train(strategy, stream.train_stream, check)


def test_a_random_projection_is_positive_and_drawn_from_its_generator() -> None:
    first, same, other = (RandomProjection(DIM, 500, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    x = torch.randn(3, DIM)
    assert torch.equal(first.matrix, same.matrix)
    assert not torch.equal(first.matrix, other.matrix)
    assert not list(first.parameters()), "nothing to train"
    torch.testing.assert_close(first(x, torch.empty(3, 1, 2, 2)), (x @ first.matrix).clamp(min=0))
    assert abs(float(first.matrix.mean())) < 0.1
    assert abs(float(first.matrix.std()) - 1) < 0.1


def projected(strategy: Naive, x: Tensor) -> Tensor:
    extension: Any = strategy.model.extension
    return x.double() if extension is None else F.relu(x @ extension.matrix).double()


@pytest.mark.parametrize("width", [0, 40])
@pytest.mark.parametrize("tasks", STREAMS, ids=str)
def test_ranpac_is_the_ridge_regression_on_all_images_at_once(tasks: list[list[int]], width: int) -> None:
    """After every experience: its statistics are sums, so that one pass over all images gives the same heads."""
    stream, plugin = make_stream(tasks), RanPAC(width)
    strategy, seen = make_strategy(plugin), []

    def check(exp: Any) -> None:
        seen.append(exp)
        strategy.eval(stream.test_stream)
        x, y = samples_of(seen)
        queries, _ = samples_of(stream.test_stream)
        classes, h = y.unique(), projected(strategy, x)
        one_hot = (y[:, None] == classes).double()
        heads = torch.linalg.solve(h.T @ h + plugin.chosen[-1] * torch.eye(h.shape[1], dtype=h.dtype), h.T @ one_hot)
        expected = projected(strategy, queries) @ heads
        with torch.no_grad():
            logits = strategy.model(queries)[:, classes].double()
        atol = 1e-3 * float(expected.abs().max())
        torch.testing.assert_close(
            logits - logits.mean(dim=1, keepdim=True),
            expected - expected.mean(dim=1, keepdim=True),
            rtol=1e-3,
            atol=atol,
        )

    train(strategy, stream.train_stream, check)
    size, classes = width or DIM, len(strategy.model.heads.classes)
    assert len(plugin.chosen) == len(tasks)
    assert plugin.bytes_kept == 8 * (classes * (size + 1) + size * size) + 4 * DIM * width


def test_the_order_of_experiences_does_not_matter_to_ranpac() -> None:
    x, y = samples_of(make_stream([[0, 1, 2, 3, 4, 5]]).train_stream)
    ends = []
    for order in ([0, 1, 2, 3, 4, 5], [4, 2, 0, 5, 3, 1]):
        plugin, heads = RanPAC(0), TaskHeads(DIM)
        for c in order:
            plugin.update(x[y == c], y[y == c])
        heads.add_head(range(6))
        plugin._ridges[-1] = 1.0  # that of the last experience: the one thing that is not a sum
        plugin.write(heads)
        ends.append(heads.rows()[0])
    torch.testing.assert_close(*ends)


@pytest.mark.parametrize("count", [5, 40, 400])
@pytest.mark.parametrize("ridge", ["reference", "accumulated"])
def test_ranpacs_ridge_is_the_best_on_the_held_out_fifth(ridge: Any, count: int) -> None:
    """Fewer images than dimensions, and more. Accumulated, earlier experiences predict, too."""
    generator = torch.Generator().manual_seed(2)
    plugin = RanPAC(0, ridge, seed=3)
    width, earlier = 30, torch.randn(50, 30, generator=generator).double()
    plugin.update(earlier, torch.arange(50) % 2)
    rows, targets = torch.randn(count, width, generator=generator).double(), torch.arange(count) % 3 + 2
    plugin.update(rows, targets)

    order = torch.randperm(count, generator=torch.Generator().manual_seed(3 + 1))
    fitted, held_out = order[: int(0.8 * count)], order[int(0.8 * count) :]
    known = rows[fitted] if ridge == "reference" else torch.cat([earlier, rows[fitted]])
    labels = targets[fitted] if ridge == "reference" else torch.cat([torch.arange(50) % 2, targets[fitted]])
    one_hot, answers = ((t[:, None] == torch.arange(5)).double() for t in (labels, targets[held_out]))
    identity = torch.eye(width, dtype=known.dtype)
    errors = [
        float(
            ((rows[held_out] @ torch.linalg.solve(known.T @ known + r * identity, known.T @ one_hot)) - answers)
            .square()
            .mean()
        )
        for r in RIDGES
    ]
    assert errors[RIDGES.index(plugin.chosen[-1])] <= min(errors) * (1 + 1e-6)


def test_ranpac_after_training_in_the_first_experience_only() -> None:
    """The backbone of the first experience stays, and evaluation, a pickled copy or another strategy change nothing."""
    stream = make_stream([[0, 1, 2], [3], [4, 5]])

    def run(between: Callable[[Naive, Any], Naive]) -> Naive:
        strategy = make_strategy(FirstExperienceOnly(), RanPAC(40), backbone=make_backbone(), train_epochs=2)
        for i, exp in enumerate(stream.train_stream):
            torch.manual_seed(i)
            strategy.train(exp)
            backbones.append({k: v.clone() for k, v in strategy.model.backbone.state_dict().items()})
            iterations.append(strategy.clock.train_iterations)
            strategy = between(strategy, exp)
        return strategy

    def evaluate(strategy: Naive, exp: Any) -> Naive:
        strategy.eval(stream.test_stream)
        return strategy

    backbones: list[dict[str, Tensor]] = []
    iterations: list[int] = []
    ends = [run(lambda s, exp: s), run(evaluate), run(lambda s, exp: pickle.loads(pickle.dumps(s)))]
    assert iterations[0] == iterations[1] == iterations[2] > 0
    assert all(torch.equal(backbones[0][k], backbones[2][k]) for k in backbones[0])
    for end in ends[1:]:
        assert all(torch.equal(a, b) for a, b in zip(ends[0].model.parameters(), end.model.parameters(), strict=True))
    with torch.no_grad():
        one = ends[0].model.eval()(samples_of(stream.test_stream)[0][:1])
    assert one.shape == (1, 6)
    assert ends[0].model.heads.in_features == 40


def test_errors_of_ranpac() -> None:
    with pytest.raises(ValueError, match="width must be that of the projection, or 0 for none, got -1"):
        RanPAC(-1)
    with pytest.raises(ValueError, match="ridge must be 'reference' or 'accumulated', got 'best'"):
        RanPAC(ridge="best")  # type: ignore[arg-type]
    foreign = Naive(
        model=nn.Sequential(nn.Flatten(), IncrementalClassifier(DIM)),
        optimizer=torch.optim.SGD([nn.Parameter(torch.zeros(1))]),
        plugins=[RanPAC()],
        evaluator=None,
    )
    with pytest.raises(TypeError, match="RanPAC needs a backbone with heads of its own"):
        foreign.train(make_stream([[0, 1]]).train_stream)
    strategy = make_strategy(RanPAC(8))
    strategy.train(make_stream([[0, 1]]).train_stream)
    with pytest.raises(ValueError, match="go through RandomProjection already, and Identity would be the second"):
        strategy.model.extend(nn.Identity(), DIM)
