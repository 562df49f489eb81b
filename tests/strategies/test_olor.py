"""OLOR: both optimizers against torch's and against recorded trajectories."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reclaim.benchmark.checks.conform import olor
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.olor import OLORSGD, OLORAdam, OLOROptimizer, rollback_rate
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR

pytestmark = pytest.mark.trains

torch.set_num_threads(1)
GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("olor_*.npz"))
OPTIMIZERS = [OLORSGD, OLORAdam]
MAKERS: list[Callable[..., Any]] = [OLORSGD, partial(OLORSGD, momentum=0.9, weight_decay=0.01), OLORAdam]


def parameters(count: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(3, i + 2, generator=generator).to(dtype)) for i in range(count)]


def evenly(params: list[nn.Parameter]) -> dict[nn.Parameter, float]:
    return {p: i / (len(params) - 1) for i, p in enumerate(params)}


def values(params: list[nn.Parameter]) -> list[Tensor]:
    return [p.detach().clone() for p in params]


def take_steps(optimizer: Any, steps: int = 10, seed: int = 1, first: int = 0) -> None:
    """Steps first..steps-1 of a fixed sequence of random gradients."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for p in (p for group in optimizer.param_groups for p in group["params"]):
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        if step >= first:
            optimizer.step()


def assert_same(left: list[Any], right: list[Any]) -> None:
    assert len(left) == len(right)
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


# Golden vectors


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_trajectory(path: Path) -> None:
    (deviation,) = olor(dict(np.load(path)))
    assert deviation.within, deviation
    assert deviation.tolerance == 1e-5


def test_there_are_four_golden_trajectories() -> None:
    assert len(GOLDEN) == 4


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("changed", ["back_level_max", "back_level_min"])
def test_a_golden_trajectory_tells_rollbacks_apart(path: Path, changed: str) -> None:
    arrays = dict(np.load(path))
    arrays[changed] = arrays[changed] * 0.5 + 0.1
    assert not olor(arrays)[0].within


# The formula


@given(depth=st.floats(0, 1), first=st.floats(0, 2), last=st.floats(0, 2), power=st.floats(0, 8))
def test_rate_lies_between_output_and_input(depth: float, first: float, last: float, power: float) -> None:
    rate = rollback_rate(depth, first, last, power)
    assert min(first, last) - 1e-12 <= rate <= max(first, last) + 1e-12
    assert rollback_rate(0.0, first, last, power) == pytest.approx(first)


def test_rate_by_hand() -> None:
    assert rollback_rate(0.25, 0.5, 0.1, 2) == pytest.approx(0.1 + 0.75**2 * 0.4)
    assert rollback_rate(1.0, 0.5, 0.1, 1) == 0.1


def test_base_of_the_power_is_clamped_at_zero() -> None:
    assert rollback_rate(1 + 1e-8, 0.5, 0.1, 1.5) == 0.1  # F11: complex in the published code


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_one_tensor_alone_has_the_rollback_of_the_input(cls: type) -> None:
    layer = nn.Linear(2, 2, bias=False)
    for counting in ("layers", "tensors"):
        optimizer = cls(layer.parameters(), 0.1, layer_depths(layer, counting), rollback_input=0.3)
        assert optimizer.rates(optimizer.param_groups[0], layer.parameters()) == [0.3]


# Invariants


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("rollback", ["zero rate", "no anchor"])
@pytest.mark.parametrize(
    ("ours", "torchs", "options"),
    [
        (OLORSGD, torch.optim.SGD, {"lr": 0.1}),
        (OLORSGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}),
        (OLORAdam, torch.optim.Adam, {"lr": 0.01}),
        (OLORAdam, torch.optim.Adam, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}),
    ],
)
def test_without_rollback_it_is_the_base_optimizer(
    ours: Any, torchs: Any, options: dict[str, Any], rollback: str, foreach: bool | None
) -> None:
    plain, pulled, anchor = parameters(), parameters(), nn.Parameter(torch.ones(1))
    if rollback == "zero rate":
        optimizer = ours(pulled, depths=evenly(pulled), rollback_input=0.0, foreach=foreach, **options)
    else:
        optimizer = ours(
            [{"params": pulled}, {"params": [anchor], "depth": 0.0}], rollback_input=0.5, foreach=foreach, **options
        )
        plain.append(nn.Parameter(torch.ones(1)))
    base = torchs(plain, **options)
    scheduled = [CosineAnnealingLR(o, 30) for o in (optimizer, base)]
    for seed in range(10):
        for o, scheduler in zip((optimizer, base), scheduled, strict=True):
            take_steps(o, 2, seed)
            scheduler.step()
        assert_same(pulled, plain[:4])


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_full_rollback_stays_at_the_anchor(
    make: Callable[..., OLOROptimizer], dtype: torch.dtype, foreach: bool
) -> None:
    backbone, head = parameters(dtype=dtype), parameters(1, seed=5, dtype=dtype)
    before, head_before = values(backbone), values(head)
    optimizer = make(
        [*backbone, *head], 0.1, evenly(backbone), rollback_input=1.0, rollback_output=1.0, foreach=foreach
    )
    take_steps(optimizer)
    assert_same(backbone, before)
    assert not torch.equal(head[0], head_before[0])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_for_loop_and_foreach_agree(data: st.DataObject) -> None:
    options = {
        "rollback_input": data.draw(st.floats(0, 1)),
        "rollback_output": data.draw(st.floats(0, 1)),
        "rollback_power": data.draw(st.floats(0, 4)),
        "rollback_decay": data.draw(st.sampled_from(["paper", "reference"])),
    }
    make = data.draw(st.sampled_from(MAKERS))
    if make is not OLORAdam:
        options["gradient_damping"] = data.draw(st.sampled_from(["paper", "reference"]))
    loop, fused = parameters(), parameters()
    take_steps(make(loop, 0.05, evenly(loop), foreach=False, **options))
    take_steps(make(fused, 0.05, evenly(fused), foreach=True, **options))
    assert_same(loop, fused)


@settings(max_examples=30, deadline=None)
@given(rate=st.floats(0, 1), lr=st.floats(1e-4, 1), seed=st.integers(0, 99))
def test_a_step_is_the_papers_formula(rate: float, lr: float, seed: int) -> None:
    (param,) = parameters(1, seed, torch.float64)
    optimizer = OLORSGD([param], lr, {param: 0.0}, rollback_input=rate)
    anchor = param.detach().clone()
    with torch.no_grad():
        param.add_(1)
    before = param.detach().clone()
    param.grad = torch.full_like(param, 0.5)
    optimizer.step()
    torch.testing.assert_close(param.detach(), (1 - rate) * (before - lr * 0.5) + rate * anchor)


def test_mixed_dtypes_take_the_loop_and_agree_with_the_fused_step() -> None:
    def train(foreach: bool | None) -> list[nn.Parameter]:
        params = [*parameters(2), *parameters(2, seed=3, dtype=torch.float64)]
        take_steps(OLORAdam(params, 0.05, evenly(params), rollback_input=0.5, foreach=foreach))
        return params

    assert_same(train(None), train(True))


# Switches


def moved(make: Callable[..., OLOROptimizer]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """theta_0, theta and gradient before one step from away from theta_0, and theta after it;
    for the first of two tensors.
    """
    params = parameters(2, dtype=torch.float64)
    optimizer = make(params, depths=evenly(params))
    anchor = params[0].detach().clone()
    with torch.no_grad():
        for p in params:
            p.add_(1)
    before = params[0].detach().clone()
    take_steps(optimizer, 1)
    assert params[0].grad is not None
    return anchor, before, params[0].grad, params[0].detach()


def test_f9_gradient_damping() -> None:
    anchor, theta, g, after = moved(partial(OLORSGD, lr=0.1, rollback_input=0.4))
    torch.testing.assert_close(after, 0.6 * (theta - 0.1 * g) + 0.4 * anchor)
    anchor, theta, g, after = moved(
        partial(OLORSGD, lr=0.1, rollback_input=0.4, gradient_damping="reference", weight_decay=0.3)
    )
    torch.testing.assert_close(after, 0.6 * theta + 0.4 * anchor - 0.1 * (g + 0.3 * theta))


def test_f10_lr_factor() -> None:
    params = parameters(2)
    for lr, rate in ((1e-2, 1.0), (1e-1, 0.1)):
        optimizer = OLORSGD(params, lr, evenly(params), lr_factor="reference")
        group = optimizer.param_groups[0]
        assert optimizer.rates(group, params) == [pytest.approx(rate), 0.0]
        group["lr"] = lr / 2
        assert optimizer.rates(group, params) == [pytest.approx(rate), 0.0]
    with pytest.raises(ValueError, match="10 diverges"):
        OLORSGD(params, 1e-3, evenly(params), lr_factor="reference")


@pytest.mark.parametrize("cls", OPTIMIZERS)
@pytest.mark.parametrize(("decay", "expected"), [("reference", [0.4, 0.04, 0.004]), ("paper", [0.4, 0.4, 0.4])])
def test_f12_rollback_decays_with_the_schedule(cls: Any, decay: str, expected: list[float]) -> None:
    params = parameters(2)
    optimizer = cls(params, 0.1, evenly(params), rollback_input=0.4, rollback_decay=decay)
    scheduler = StepLR(optimizer, 1, 0.1)
    seen = []
    for _ in range(3):
        seen.append(optimizer.rates(optimizer.param_groups[0], params)[0])
        take_steps(optimizer, 1)
        scheduler.step()
    assert seen == pytest.approx(expected)


def test_f12_reaches_the_step() -> None:
    for rate, options in ((0.2, {"rollback_decay": "reference"}), (0.4, {"rollback_decay": "paper"})):
        chosen: dict[str, Any] = {"base_lr": 0.1, "rollback_input": 0.4, **options}
        anchor, theta, g, after = moved(partial(OLORSGD, lr=0.05, **chosen))
        torch.testing.assert_close(after, (1 - rate) * (theta - 0.05 * g) + rate * anchor)


def test_momentum_of_torch_or_running_mean() -> None:
    def momentum_after_two_steps(mode: Any) -> Tensor:
        params = parameters(2)
        optimizer = OLORSGD(params, 0.1, evenly(params), momentum=0.9, momentum_average=mode)
        for gradient in (1.0, 2.0):
            for p in params:
                p.grad = torch.full_like(p, gradient)
            optimizer.step()
        return optimizer.state[params[0]]["momentum_buffer"][0, 0]

    assert momentum_after_two_steps("paper").item() == pytest.approx(0.9 * 1 + 2)
    assert momentum_after_two_steps("reference").item() == pytest.approx(0.9 * 0.1 * 1 + 0.1 * 2)


# What an optimizer must be able to do


def make_pair(make: Callable[..., OLOROptimizer]) -> tuple[list[nn.Parameter], OLOROptimizer]:
    params = parameters()
    return params, make(params, 0.05, evenly(params[:3]), rollback_input=0.3, rollback_output=0.1)


@pytest.mark.parametrize("make", MAKERS)
def test_state_dict_resumes_in_the_middle(make: Callable[..., OLOROptimizer]) -> None:
    straight, optimizer = make_pair(make)
    take_steps(optimizer, 10)

    params, first = make_pair(make)
    take_steps(first, 5)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    # As a resumed run does it: the optimizer is built on trained weights, whose values are not theta_0.
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    second = make(resumed, 0.7, evenly(resumed[:3]), rollback_input=0.9)
    second.load_state_dict(torch.load(file, weights_only=True))
    take_steps(second, 10, first=5)
    assert_same(resumed, straight)
    assert set(second.anchors) == set(resumed[:3])


def test_a_saved_state_is_not_changed_by_later_training() -> None:
    params, optimizer = make_pair(OLORSGD)
    saved = optimizer.state_dict()
    anchor = saved["state"][0]["anchor"].clone()
    take_steps(optimizer, 2)
    optimizer.reset_anchors()
    assert torch.equal(saved["state"][0]["anchor"], anchor)
    optimizer.load_state_dict(saved)
    optimizer.anchors[params[0]].value.zero_()
    assert torch.equal(saved["state"][0]["anchor"], anchor)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_goes_on_like_the_original(
    make: Callable[..., OLOROptimizer], duplicate: Callable[[OLOROptimizer], OLOROptimizer]
) -> None:
    params, optimizer = make_pair(make)
    take_steps(optimizer, 3)
    twin = duplicate(optimizer)
    twins_params = twin.param_groups[0]["params"]
    assert not {id(p) for p in twins_params} & {id(p) for p in params}
    take_steps(twin, 10, first=3)
    take_steps(optimizer, 10, first=3)
    assert_same(twins_params, params)


def test_copy_with_the_model_belongs_to_the_copy() -> None:
    model = nn.Linear(2, 2)
    model_copy, optimizer = copy.deepcopy((model, OLORAdam(model.parameters(), 0.1, layer_depths(model))))
    assert set(optimizer.anchors) == set(model_copy.parameters())


@pytest.mark.parametrize("make", [*MAKERS, partial(OLORSGD, gradient_damping="reference")])
def test_closure_sees_the_parameters_of_before_the_step(make: Callable[..., OLOROptimizer]) -> None:
    with_closure, without = parameters(), parameters()
    optimizers = [make(params, 0.1, evenly(params), rollback_input=0.5) for params in (with_closure, without)]

    def loss_of(params: list[nn.Parameter]) -> Tensor:
        loss = torch.stack([(p**2).sum() for p in params]).sum()
        loss.backward()
        return loss

    calls = []
    for _ in range(3):

        def closure() -> Any:
            calls.append(1)
            optimizers[0].zero_grad()
            return loss_of(with_closure)

        returned = optimizers[0].step(closure)
        optimizers[1].zero_grad()
        assert torch.equal(torch.as_tensor(returned), loss_of(without))
        optimizers[1].step()
    assert len(calls) == 3
    assert_same(with_closure, without)


@pytest.mark.parametrize("make", MAKERS)
def test_a_missing_gradient_is_neither_trained_nor_rolled_back(make: Callable[..., OLOROptimizer]) -> None:
    params, optimizer = make_pair(make)
    take_steps(optimizer, 3)
    before = values(params)
    optimizer.zero_grad()
    optimizer.step()
    assert_same(params, before)
    params[0].grad = torch.ones_like(params[0])
    optimizer.step()
    assert not torch.equal(params[0], before[0])
    assert_same(params[1:], before[1:])


def test_groups_have_options_and_depths_of_their_own() -> None:
    first, second, head = parameters(3)
    optimizer = OLORAdam(
        [
            {"params": [first], "depth": 0.0, "lr": 0.01},
            {"params": [second], "depth": 0.5, "rollback_power": 2.0, "rollback_input": 0.4},
            {"params": [head], "lr": 0.0},
        ],
        lr=0.1,
        rollback_input=0.2,
    )
    rates = [optimizer.rates(group, group["params"])[0] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.2, 0.4 * 0.25, 0.0])
    assert [group["base_lr"] for group in optimizer.param_groups] == [0.01, 0.1, 0.0]
    take_steps(optimizer, 2)


def test_added_groups_get_anchors_by_their_depth() -> None:
    params, optimizer = make_pair(OLORSGD)
    backbone, head = parameters(2, seed=9)
    optimizer.add_param_group({"params": [backbone], "depth": 0.0})
    optimizer.add_param_group({"params": [head]})
    assert set(optimizer.anchors) == {*params[:3], backbone}
    # appended the way Avalanche does it, behind the optimizer's back
    late = nn.Parameter(torch.zeros(2))
    optimizer.param_groups[0]["params"].append(late)
    optimizer.state[late] = {}
    take_steps(optimizer, 3)
    assert [number for number, state in optimizer.state_dict()["state"].items() if "anchor" in state] == [0, 1, 2, 5]


def test_a_depth_in_the_mapping_goes_before_that_of_the_group() -> None:
    first, second = parameters(2)
    optimizer = OLORSGD([{"params": [first, second], "depth": 0.5}], 0.1, {second: 0.25})
    assert [optimizer.anchors[p].depth for p in (first, second)] == [0.5, 0.25]


def test_named_parameters_and_a_rate_in_a_tensor() -> None:
    model = nn.Linear(2, 2)
    optimizer = OLORSGD(model.named_parameters(), torch.tensor(0.1), layer_depths(model))  # type: ignore[arg-type]
    take_steps(optimizer, 2)
    assert set(optimizer.anchors) == set(model.parameters())


def test_step_hooks_run_once() -> None:
    _, optimizer = make_pair(OLORAdam)
    torch.optim.Adam(parameters(1))  # torch wraps a class's step when its first instance is made
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append("post"))
    optimizer.register_step_pre_hook(lambda *_: seen.append("pre"))
    take_steps(optimizer, 1)
    assert seen == ["pre", "post"]


# Bad inputs


@pytest.mark.parametrize("cls", OPTIMIZERS)
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("lr", -0.1, "lr must be"),
        ("lr", math.nan, "lr must be"),
        ("lr", 0.0, "pass base_lr"),
        ("base_lr", -1.0, "base_lr must be"),
        ("weight_decay", -1.0, "weight_decay must be"),
        ("rollback_input", -0.1, "rollback_input must be"),
        ("rollback_input", math.inf, "rollback_input must be"),
        ("rollback_input", 2.1, r"2\.1 diverges"),
        ("rollback_output", 2.1, r"2\.1 diverges"),
        ("rollback_power", -1.0, "rollback_power must be"),
        ("rollback_decay", "linear", "rollback_decay must be 'paper' or 'reference', got 'linear'"),
    ],
)
def test_an_option_out_of_range(cls: Any, option: str, value: Any, message: str) -> None:
    params = parameters()
    with pytest.raises(ValueError, match=message):
        cls(params, depths=evenly(params), **{option: value})


@pytest.mark.parametrize(
    ("cls", "option", "value"),
    [
        (OLORSGD, "momentum", -0.9),
        (OLORSGD, "gradient_damping", True),
        (OLORSGD, "lr_factor", "none"),
        (OLORSGD, "momentum_average", "mean"),
        (OLORAdam, "eps", -1.0),
        (OLORAdam, "betas", (0.9, 1.0)),
    ],
)
def test_an_option_of_one_optimizer_out_of_range(cls: Any, option: str, value: Any) -> None:
    params = parameters()
    with pytest.raises(ValueError, match=option):
        cls(params, 0.1, evenly(params), **{option: value})


@pytest.mark.parametrize("depth", [-0.1, math.nan, math.inf])
def test_a_depth_out_of_range(depth: float) -> None:
    params, optimizer = make_pair(OLORSGD)
    with pytest.raises(ValueError, match="a depth is i/n"):
        OLORSGD(params, 0.1, {params[0]: depth})
    with pytest.raises(ValueError, match="a depth is i/n"):
        optimizer.add_param_group({"params": parameters(1), "depth": depth})
    assert len(optimizer.param_groups) == 1


def test_nothing_to_roll_back() -> None:
    for depths in (None, {}, evenly(parameters())):
        with pytest.raises(ValueError, match="nothing to roll back"):
            OLORAdam(parameters(), 0.1, depths)


def test_a_learning_rate_that_grows_too_far_stops_before_the_step() -> None:
    params = parameters()
    optimizer = OLORSGD(params, 0.1, evenly(params), rollback_input=0.5)
    optimizer.param_groups[0]["lr"] = 1.0
    before = values(params)
    with pytest.raises(ValueError, match="5 diverges"):
        take_steps(optimizer, 1)
    assert_same(params, before)


def test_a_sparse_gradient() -> None:
    layer = nn.Embedding(3, 2, sparse=True)
    optimizer = OLORSGD(layer.parameters(), 0.1, layer_depths(layer))
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="dense gradients only"):
        optimizer.step()


def test_a_state_that_does_not_fit() -> None:
    params, optimizer = make_pair(OLORAdam)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match="no 'rollback_input', so it is not one of OLORAdam"):
        optimizer.load_state_dict(torch.optim.Adam(params).state_dict())
    other = [nn.Parameter(torch.zeros(7, 7)) for _ in params]
    with pytest.raises(ValueError, match=r"has shape \(7, 7\), the parameter has \(3, 2\)"):
        optimizer.load_state_dict(OLORAdam(other, 0.1, evenly(other)).state_dict())
    more = parameters(5)
    with pytest.raises(ValueError, match="is missing"):
        optimizer.load_state_dict(OLORAdam(more, 0.1, evenly(more)).state_dict())
    assert_same(
        [state["anchor"] for state in optimizer.state_dict()["state"].values() if "anchor" in state],
        [state["anchor"] for state in before["state"].values() if "anchor" in state],
    )
