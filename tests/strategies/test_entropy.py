"""The other losses of aEPG's tables: formulas, gradients, effect on the entropy, precision,
and restriction to a task in Avalanche.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import nc_benchmark
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.entropy import ConfidencePenaltyLoss, EntropyPenaltyLoss, FocalLoss, LabelSmoothingLoss
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.losses import entropy
from reclaim.strategies.task_loss import TaskLoss
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

pytestmark = pytest.mark.trains


def naive_entropy(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(1)


# by name: the loss, and its formula of p (N, C) and p_y (N,)
LOSSES: dict[str, tuple[Callable[..., TaskLoss], Callable[[Tensor, Tensor], Tensor]]] = {
    **{
        f"focal-{g}": (lambda g=g, **kw: FocalLoss(g, **kw), lambda p, p_y, g=g: -((1 - p_y) ** g) * p_y.log())  # type: ignore[misc]
        for g in (0.0, *FocalLoss.grid, 0.05)
    },
    **{
        f"ls-{s}": (
            lambda s=s, **kw: LabelSmoothingLoss(s, **kw),  # type: ignore[misc]
            # KL(uniform || p) = sum_c 1/5 log(1/5 / p_c)
            lambda p, p_y, s=s: -(1 - s) * p_y.log() + s * (0.2 * (0.2 / p).log()).sum(1),  # type: ignore[misc]
        )
        for s in (0.0, *LabelSmoothingLoss.grid, 1.0)
    },
    **{
        f"cp-{b}": (
            lambda b=b, **kw: ConfidencePenaltyLoss(b, **kw),  # type: ignore[misc]
            lambda p, p_y, b=b: -p_y.log() - b * naive_entropy(p),  # type: ignore[misc]
        )
        for b in (0.0, *ConfidencePenaltyLoss.grid)
    },
    "ep": (EntropyPenaltyLoss, lambda p, p_y: -p_y.log() + naive_entropy(p)),
}
DEFAULTS = {"focal": FocalLoss, "ls": LabelSmoothingLoss, "cp": ConfidencePenaltyLoss, "ep": EntropyPenaltyLoss}


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 5, generator=generator, dtype=torch.float64)
    return logits.to(dtype).requires_grad_(), torch.randint(5, (6,), generator=generator)


# --- formulas ---


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_against_the_formula_and_finite_differences(name: str) -> None:
    make, formula = LOSSES[name]
    logits, targets = batch()
    loss, p = make()(logits, targets), logits.softmax(1)
    expected = formula(p, p[torch.arange(6), targets]).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), torch.autograd.grad(expected, logits))
    assert torch.autograd.gradcheck(lambda z: make()(z, targets), (logits,))


def test_default_coefficients_are_those_an_appendix_hints_at_and_in_the_grids() -> None:
    """F23."""
    defaults = {FocalLoss: FocalLoss().gamma, LabelSmoothingLoss: LabelSmoothingLoss().smoothing}
    assert defaults == {FocalLoss: 1.0, LabelSmoothingLoss: 0.01}
    assert ConfidencePenaltyLoss().beta in ConfidencePenaltyLoss.grid
    assert (FocalLoss.grid, LabelSmoothingLoss.grid, ConfidencePenaltyLoss.grid) == (
        (0.5, 1, 2),
        (0.01, 0.05, 0.1),
        (0.1, 0.2),
    )


def test_label_smoothing_is_torchs_less_a_constant_and_its_divergence_runs_from_uniform_to_p() -> None:
    logits, targets = batch()
    torch.testing.assert_close(
        LabelSmoothingLoss(0.1)(logits, targets),
        F.cross_entropy(logits, targets, label_smoothing=0.1) - 0.1 * math.log(5),
    )
    p, uniform = (
        torch.distributions.Categorical(logits=logits),
        torch.distributions.Categorical(logits=torch.zeros_like(logits)),
    )
    divergence = LabelSmoothingLoss(1.0)(logits, targets)
    torch.testing.assert_close(divergence, torch.distributions.kl_divergence(uniform, p).mean())
    assert abs(divergence - torch.distributions.kl_divergence(p, uniform).mean()) > 0.1


@pytest.mark.parametrize(
    "name", [name for name in LOSSES if not name.endswith("-0.0") and name not in ("focal-0.05", "ls-1.0")]
)
def test_gradient_steps_lead_to_more_or_less_entropy_than_cross_entropy(name: str) -> None:
    """The last column of the paper's table."""

    def entropy_after(loss: nn.Module) -> float:
        logits, targets = batch()
        logits = (logits / 3).detach().requires_grad_()
        optimizer = torch.optim.SGD([logits], lr=1.0)
        for _ in range(50):
            optimizer.zero_grad()
            loss(logits, targets).backward()
            optimizer.step()
        return float(entropy(logits.detach()).mean())

    difference = entropy_after(LOSSES[name][0]()) - entropy_after(nn.CrossEntropyLoss())
    assert difference < -0.1 if name == "ep" else difference > 0.01


# --- precision ---


def two_classes(name: str, gap: float) -> tuple[float, float]:
    """Loss of the first of two classes whose logit is larger by ``gap``, and its derivative by the gap,
    worked out by hand.
    """
    kind, _, coefficient = name.partition("-")
    k = float(coefficient or 1)
    signed = torch.tensor([gap, -gap], dtype=torch.float64)
    (p, q), (log_p, log_q) = signed.sigmoid().tolist(), F.logsigmoid(signed).tolist()
    h = -p * log_p - q * log_q
    if kind == "focal":
        return -(q**k) * log_p, k * q**k * p * log_p - q ** (k + 1)
    if kind == "ls":
        return -(1 - k) * log_p - k * ((log_p + log_q) / 2 + math.log(2)), -(1 - k) * q - k * (q - p) / 2
    sign = 1 if kind == "ep" else -1
    return -log_p + sign * k * h, -q - sign * k * p * q * gap


@pytest.mark.parametrize("gap", [-10000.0, -200.0, -30.0, -1.0, 1.0, 15.0, 17.0, 30.0, 200.0, 10000.0])
@pytest.mark.parametrize("name", LOSSES)
def test_p_y_near_0_and_near_1(name: str, gap: float) -> None:
    """At 17 p_y is rounded to 1 in float32: 1 - p_y as a difference would be 0,
    and the gradient of its square root infinite.
    """
    logits = torch.tensor([[gap, 0.0]], requires_grad=True)
    loss = LOSSES[name][0]()(logits, torch.tensor([0]))
    loss.backward()
    value, slope = two_classes(name, gap)
    # log_softmax is exact to about 1e-7
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=2e-7)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[slope, -slope]]), rtol=1e-5, atol=2e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_a_class_alone_has_no_loss_and_no_gradient(name: str) -> None:
    logits = torch.tensor([[3.0], [-70000.0]], requires_grad=True)
    loss = LOSSES[name][0]()(logits, torch.tensor([0, 0]))
    loss.backward()
    assert logits.grad is not None
    assert (loss.item(), logits.grad.tolist()) == (0, [[0], [0]])


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith("ls")])
def test_masked_classes_have_no_share_and_no_gradient(name: str) -> None:
    loss, targets = LOSSES[name][0](), torch.tensor([0, 1])
    logits = torch.tensor([[0.5, 0.1], [2.0, -1.0]], requires_grad=True)
    masked = torch.cat([logits.detach(), torch.full((2, 1), -torch.inf)], dim=1).requires_grad_()
    values = [loss(logits, targets), loss(masked, targets)]
    (expected,), (gradient,) = torch.autograd.grad(values[0], logits), torch.autograd.grad(values[1], masked)
    torch.testing.assert_close(*values)
    torch.testing.assert_close(gradient, F.pad(expected, (0, 1)))
    # everything but the target masked
    alone = torch.tensor([[0.5, -torch.inf]], requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(alone, torch.tensor([0])), alone)
    assert gradient.tolist() == [[0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", DEFAULTS)
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    loss_function, targets = DEFAULTS[name](), torch.tensor([0, 1, 2, 3])
    # p_y of about 0.001, which half precision would get wrong by up to 0.4%
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    exact = logits.detach().double().requires_grad_()
    loss, reference = loss_function(logits, targets), loss_function(exact, targets)
    (gradient,), (expected,) = torch.autograd.grad(loss, logits), torch.autograd.grad(reference, exact)
    assert (loss.dtype, gradient.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(loss.double(), reference, rtol=1e-5, atol=0)
    # rounded once, to the logits' own precision (float16 below 6e-5 has steps of 6e-8)
    torch.testing.assert_close(
        gradient, expected.to(dtype), rtol=torch.finfo(dtype).eps, atol=1.2e-7 if dtype == torch.float16 else 1e-9
    )


# --- bad input ---


@pytest.mark.parametrize(
    ("make", "name", "bad"),
    [
        (FocalLoss, "gamma", [-0.5, math.nan, math.inf]),
        (LabelSmoothingLoss, "smoothing", [-0.01, 1.01, math.nan]),
        (ConfidencePenaltyLoss, "beta", [-0.1, math.nan, math.inf]),
    ],
)
def test_bad_coefficients(make: Any, name: str, bad: list[float]) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=rf"^{name} must be .* got {value}$"):
            make(value)


@pytest.mark.parametrize("make", DEFAULTS.values())
def test_wrong_shapes(make: Any) -> None:
    for logits, targets in (((4, 3, 2), (4,)), ((4, 3), (5,)), ((4, 3), (4, 1)), ((4,), (4,))):
        with pytest.raises(ValueError, match=r"logits \(N, C\) and class indices \(N,\)"):
            make()(torch.zeros(logits), torch.zeros(targets, dtype=torch.long))


# --- in Avalanche ---


class Gradients(SupervisedPlugin[Any]):
    """The classes whose logits got a gradient, in each experience."""

    def __init__(self) -> None:
        super().__init__()
        self.moved: list[set[int]] = []

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.moved.append(set())

    def after_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.mb_output.retain_grad()

    def after_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.moved[-1] |= set(strategy.mb_output.grad.abs().sum(0).nonzero().flatten().tolist())


@pytest.mark.parametrize("restrict", [True, False])
@pytest.mark.parametrize("name", DEFAULTS)
def test_only_the_current_classes_get_gradients_and_the_whole_stream_can_be_evaluated(
    name: str, restrict: bool
) -> None:
    torch.manual_seed(0)
    data = TensorDataset(torch.randn(24, 4), torch.arange(24) % 6)
    benchmark = nc_benchmark(
        data, data, n_experiences=3, task_labels=False, per_exp_classes={0: 3, 1: 2}, shuffle=False
    )
    model = ContinualModel(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), in_features=8, freeze_earlier=False)
    gradients = Gradients()
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=DEFAULTS[name](restrict=restrict),
        train_mb_size=4,
        plugins=[gradients],
        evaluator=None,
    )
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
        assert math.isfinite(strategy.loss)
    # the last class is alone in its task: nothing to learn from itself
    assert gradients.moved == ([{0, 1, 2}, {3, 4}, set()] if restrict else [set(range(n)) for n in (3, 5, 6)])
