"""The plain losses: the criteria compute them bit for bit, annealing weights by hand, and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from reclaim.strategies.aepg import AnnealedEPGLoss, EPGLoss
from reclaim.strategies.entropy import ConfidencePenaltyLoss, EntropyPenaltyLoss, FocalLoss, LabelSmoothingLoss
from reclaim.strategies.losses import (
    SCHEDULES,
    annealed_epg_loss,
    annealing_weight,
    confidence_penalty_loss,
    entropy_penalty_loss,
    epg_loss,
    focal_loss,
    label_smoothing_loss,
    symmetric_cross_entropy,
)
from reclaim.strategies.slca_pp import SymmetricCrossEntropy
from reclaim.strategies.task_loss import TaskLoss
from torch import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]

PAIRS: list[tuple[Loss, TaskLoss]] = [
    (epg_loss, EPGLoss()),
    (partial(annealed_epg_loss, alpha=0.3), AnnealedEPGLoss(0.3)),
    (focal_loss, FocalLoss()),
    (partial(focal_loss, gamma=0.5), FocalLoss(0.5)),
    (label_smoothing_loss, LabelSmoothingLoss()),
    (partial(label_smoothing_loss, smoothing=0.1), LabelSmoothingLoss(0.1)),
    (confidence_penalty_loss, ConfidencePenaltyLoss()),
    (partial(confidence_penalty_loss, beta=0.2), ConfidencePenaltyLoss(0.2)),
    (entropy_penalty_loss, EntropyPenaltyLoss()),
    (symmetric_cross_entropy, SymmetricCrossEntropy()),
    (partial(symmetric_cross_entropy, alpha=0.5, beta=0.5), SymmetricCrossEntropy(0.5, 0.5)),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("function", "criterion"), PAIRS)
def test_the_criterion_is_the_function(function: Loss, criterion: TaskLoss, dtype: torch.dtype) -> None:
    """Same defaults, and the same value and gradient bit for bit. The formulas are tested with the criteria."""
    generator = torch.Generator().manual_seed(0)
    logits, targets = (
        (3 * torch.randn(6, 5, generator=generator)).to(dtype),
        torch.randint(5, (6,), generator=generator),
    )
    results = []
    for loss_function in (function, criterion):
        own = logits.clone().requires_grad_()
        loss = loss_function(own, targets)
        results.append((loss, torch.autograd.grad(loss, own)[0]))
    (loss, gradient), (expected, expected_gradient) = results
    assert loss.shape == ()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, expected_gradient)


@pytest.mark.parametrize(("function", "criterion"), PAIRS)
def test_wrong_shapes(function: Loss, criterion: TaskLoss) -> None:
    for logits, targets in (((4, 3, 2), (4,)), ((4, 3), (5,)), ((4, 3), (4, 1)), ((4,), (4,))):
        with pytest.raises(ValueError, match=r"logits \(N, C\) and class indices \(N,\)"):
            function(torch.zeros(logits), torch.zeros(targets, dtype=torch.long))


@pytest.mark.parametrize(
    ("function", "name", "bad"),
    [
        (annealed_epg_loss, "alpha", [-0.1, 1.1, math.nan]),
        (focal_loss, "gamma", [-0.5, math.nan, math.inf]),
        (label_smoothing_loss, "smoothing", [-0.01, 1.01, math.nan]),
        (confidence_penalty_loss, "beta", [-0.1, math.nan, math.inf]),
        (symmetric_cross_entropy, "alpha", [-0.1, math.nan, math.inf]),
        (symmetric_cross_entropy, "beta", [-0.1, math.nan, math.inf]),
    ],
)
def test_bad_coefficients(function: Callable[..., Tensor], name: str, bad: list[float]) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{name} must be .* got {value}$"):
            function(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long), **{name: value})


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_weight_is_that_of_the_criterion(schedule: str) -> None:
    criterion = AnnealedEPGLoss(schedule, tau=4.0, total_steps=7)  # type: ignore[arg-type]
    for t in range(8):
        assert annealing_weight(t / 7, schedule, tau=4.0) == criterion.alpha
        criterion.step()


def test_weights_by_hand() -> None:
    assert annealing_weight(0.0) == pytest.approx(1 / (1 + math.exp(-6)))
    assert annealing_weight(0.5) == 0.5
    assert annealing_weight(1.0) == pytest.approx(1 / (1 + math.exp(6)))
    assert [annealing_weight(p, "linear") for p in (0.0, 0.25, 1.0)] == [1.0, 0.75, 0.0]
    assert [annealing_weight(p, "cosine") for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])


def test_bad_weights() -> None:
    with pytest.raises(ValueError, match="schedule must be one of sigmoid, linear, cosine, got 'step'"):
        annealing_weight(0.5, "step")
    for progress in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=rf"progress must be in \[0, 1\], got {progress}"):
            annealing_weight(progress)


# Many classes: other operations, the same loss

OF_ENTROPY: list[Loss] = [
    focal_loss,
    partial(focal_loss, gamma=0.5),
    partial(focal_loss, gamma=0.0),
    partial(label_smoothing_loss, smoothing=0.1),
    partial(confidence_penalty_loss, beta=3.0),
    entropy_penalty_loss,
]


def derivatives(loss_function: Loss, logits: Tensor, targets: Tensor, second: bool = False) -> list[Tensor]:
    """The loss, its gradient, and that of the gradient's square."""
    own = logits.clone().requires_grad_()
    loss = loss_function(own, targets)
    (gradient,) = torch.autograd.grad(loss, own, create_graph=second)
    further = torch.autograd.grad(gradient.square().sum(), own) if second else ()
    return [loss.detach(), gradient.detach(), *further]


@pytest.mark.parametrize("loss_function", OF_ENTROPY)
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(torch.float64, 1), (torch.float64, 400), (torch.float32, 3), (torch.float32, 40), (torch.bfloat16, 3)],
)
def test_many_classes_have_the_loss_of_few(
    loss_function: Loss, dtype: torch.dtype, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the target is certain, impossible, or another class is."""
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(16, 300, generator=generator, dtype=torch.float64)).to(dtype)
    targets = torch.randint(300, (16,), generator=generator)
    targets[0], targets[1], targets[2] = logits[0].argmax(), logits[1].argmin(), 4
    logits[2, 5] = -math.inf
    twice = dtype == torch.float64 and scale == 1
    rows = slice(3, None) if twice else slice(None)  # autograd has no second derivative beside -inf
    fast = derivatives(loss_function, logits[rows], targets[rows], twice)
    monkeypatch.setattr("reclaim.strategies.losses.FEW_CLASSES", 300)
    plain = derivatives(loss_function, logits[rows], targets[rows], twice)
    for ours, theirs in zip(fast, plain, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("loss_function", OF_ENTROPY)
def test_many_classes_check_their_gradient(loss_function: Loss) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 130, generator=generator, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(lambda own: loss_function(own, torch.tensor([0, 129])), [logits])
