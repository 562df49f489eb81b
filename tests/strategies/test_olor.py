"""OLOR: both optimizers against torch's and against recorded trajectories."""

from __future__ import annotations

import copy
import io
import math
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
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
TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
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


def test_there_are_four_golden_trajectories() -> None:
    assert len(GOLDEN) == 4


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("changed", ["back_level_max", "back_level_min"])
def test_a_golden_trajectory_tells_rollbacks_apart(path: Path, changed: str) -> None:
    arrays = dict(np.load(path))
    arrays[changed] = arrays[changed] * 0.5 + 0.1
    (deviation,) = olor(arrays)
    assert deviation.tolerance == 1e-5
    assert not deviation.within


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


KINDS: list[dict[str, bool]] = [{}, {"fused": False}, {"foreach": False}, {"foreach": True}, {"capturable": True}]
"""Which of torch's steps an optimizer takes: by default the fused one."""


def of_torch(kind: dict[str, bool]) -> dict[str, bool]:
    """The option with which torch's own optimizer takes the same step, on a CPU."""
    return {} if "foreach" in kind or "fused" in kind else {"fused": True}


@pytest.mark.parametrize("kind", KINDS)
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
    ours: Any, torchs: Any, options: dict[str, Any], rollback: str, kind: dict[str, bool]
) -> None:
    plain, pulled, anchor = parameters(), parameters(), nn.Parameter(torch.ones(1))
    if rollback == "zero rate":
        optimizer = ours(pulled, depths=evenly(pulled), rollback_input=0.0, **kind, **options)
    else:
        optimizer = ours(
            [{"params": pulled}, {"params": [anchor], "depth": 0.0}], rollback_input=0.5, **kind, **options
        )
        plain.append(nn.Parameter(torch.ones(1)))
    base = torchs(plain, **options, **of_torch(kind))
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
    take_steps(optimizer, 1)
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
    assert {n for n, state in optimizer.state_dict()["state"].items() if "anchor" in state} == {0, 1, 2, 5}


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


def test_fused_is_for_real_numbers() -> None:
    params = parameters(2, dtype=torch.complex64)
    optimizer = OLORAdam(params, 0.1, evenly(params), fused=True)
    with pytest.raises(ValueError, match="fused=True is for real"):
        take_steps(optimizer, 1)
    assert not optimizer.state


def test_weights_that_become_precise_need_no_remainder() -> None:
    params = parameters(2, dtype=torch.bfloat16)
    optimizer = OLORSGD(params, 0.1, evenly(params))
    take_steps(optimizer, 1)
    assert "remainder" in optimizer.state[params[0]]
    for p in params:
        p.data = p.data.double()
    take_steps(optimizer, 1)
    assert "remainder" not in optimizer.state[params[0]]


def test_a_sparse_gradient() -> None:
    layer = nn.Embedding(3, 2, sparse=True)
    optimizer = OLORSGD(layer.parameters(), 0.1, layer_depths(layer))
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="dense gradients only"):
        optimizer.step()


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_a_state_that_does_not_fit(cls: Any) -> None:
    params, optimizer = make_pair(cls)
    take_steps(optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict())
    other = [nn.Parameter(torch.zeros(7, 7)) for _ in params]
    more = parameters(5)
    another = OLORAdam if cls is OLORSGD else OLORSGD
    plain = torch.optim.Adam(params)
    take_steps(plain, 1)
    no_anchors = copy.deepcopy(before)
    no_anchors["state"] = {}
    diverging = copy.deepcopy(before)
    diverging["param_groups"][0]["rollback_input"] = 7.0
    for state, message in (
        (plain.state_dict(), f"not one of {cls.__name__}, group 0 has no 'rollback_input'"),
        (make_pair(another)[1].state_dict(), f"not one of {cls.__name__}, group 0 has no"),
        (no_anchors, "holds no theta_0"),
        (diverging, "7 diverges"),
        (cls(other, 0.1, evenly(other)).state_dict(), r"has shape \(7, 7\), the parameter has \(3, 2\)"),
        (cls(more, 0.1, evenly(more)).state_dict(), "doesn't match the size"),
    ):
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(state)
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)
    take_steps(optimizer, 2)


@pytest.mark.parametrize("make", MAKERS)
def test_options_that_an_older_state_lacks_are_the_defaults(make: Callable[..., OLOROptimizer]) -> None:
    _, optimizer = make_pair(make)
    take_steps(optimizer, 2)
    kept = {"params", "lr", "base_lr", "rollback_input", "betas", "momentum"}
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"] = [{k: v for k, v in group.items() if k in kept} for group in state["param_groups"]]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0].keys() >= optimizer.defaults.keys()
    take_steps(optimizer, 2)


@pytest.mark.parametrize("make", MAKERS)
def test_a_state_with_the_anchors_beside_it_still_loads(make: Callable[..., OLOROptimizer]) -> None:
    """As version 0.1.0 wrote it before its release, also into checkpoints."""
    straight, optimizer = make_pair(make)
    take_steps(optimizer, 10)
    params, first = make_pair(make)
    take_steps(first, 5)
    state = first.state_dict()
    anchors, entries = {}, {}
    for number, entry in state["state"].items():
        rest = dict(entry)
        if "anchor" in rest:
            anchors[number] = {"value": rest.pop("anchor"), "depth": rest.pop("depth")}
        if rest:
            entries[number] = rest
    resumed = [nn.Parameter(p.detach().clone()) for p in params]
    second = make(resumed, 0.7, evenly(resumed[:3]), rollback_input=0.9)
    second.load_state_dict({**state, "state": entries, "anchors": anchors})
    take_steps(second, 10, first=5)
    assert_same(resumed, straight)


# theta_0 travels where the state travels


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("stepped", [False, True])
def test_torchs_distributed_checkpoints_keep_theta_0(
    make: Callable[..., OLOROptimizer], flatten: bool, stepped: bool
) -> None:
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(flatten_optimizer_state_dict=flatten)

    def made() -> tuple[nn.Module, OLOROptimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
        return model, make(model.parameters(), 0.05, layer_depths(model, exclude=model[2].parameters()))

    model, optimizer = made()
    if stepped:
        take_steps(optimizer, 3)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    optimizer.zero_grad()
    resumed, second = made()
    with torch.no_grad():  # as a resumed run: built on trained weights
        for p, trained in zip(resumed.parameters(), model.parameters(), strict=True):
            p.copy_(trained + 1)
    second.reset_anchors()
    set_optimizer_state_dict(resumed, second, saved, options=options)
    assert_same([a.value for a in second.anchors.values()], [a.value for a in optimizer.anchors.values()])
    assert [a.depth for a in second.anchors.values()] == [a.depth for a in optimizer.anchors.values()]
    with torch.no_grad():
        for p, trained in zip(resumed.parameters(), model.parameters(), strict=True):
            p.copy_(trained)
    for o in (optimizer, second):
        take_steps(o, 3, seed=4)
    assert_same(list(resumed.parameters()), list(model.parameters()))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_a_step_at_the_rate_zero_moves_nothing(make: Callable[..., OLOROptimizer], mode: str) -> None:
    params = parameters()
    optimizer = make(params, 0.1, evenly(params), rollback_input=1.0, rollback_decay=mode)
    take_steps(optimizer, 1)
    with torch.no_grad():
        for p in params:
            p.add_(1)
    before = values(params)
    optimizer.param_groups[0]["lr"] = 0.0
    take_steps(optimizer, 1, seed=7)
    assert_same(params, before)


def test_f10_does_not_move_at_the_rate_zero_either() -> None:
    params = parameters()
    optimizer = OLORSGD(params, 0.1, evenly(params), lr_factor="reference")
    optimizer.param_groups[0]["lr"] = 0.0
    assert optimizer.rates(optimizer.param_groups[0], params) == [0.0] * 4


@pytest.mark.parametrize("make", MAKERS)
def test_theta_0_outlives_a_state_that_is_emptied_and_follows_one_that_is_put_in_place(
    make: Callable[..., OLOROptimizer],
) -> None:
    params, optimizer = make_pair(make)
    theta_0 = values(params[:3])
    take_steps(optimizer, 2)
    assert_same([optimizer.state[p]["anchor"] for p in params[:3]], theta_0)
    optimizer.state.clear()  # Avalanche's first train()
    take_steps(optimizer, 2)
    assert_same([optimizer.state[p]["anchor"] for p in params[:3]], theta_0)
    # ZeroRedundancyOptimizer loads by writing into the state
    for p in params[:3]:
        optimizer.state[p] = {**optimizer.state[p], "anchor": torch.full_like(p, 3.0), "depth": 0.5}
    take_steps(optimizer, 1)
    assert all(bool((optimizer.anchors[p].value == 3).all()) for p in params[:3])
    assert {optimizer.anchors[p].depth for p in params[:3]} == {0.5}
    optimizer.reset_anchors()
    present = values(params[:3])
    take_steps(optimizer, 1)
    assert_same([optimizer.anchors[p].value for p in params[:3]], present)
    assert_same([optimizer.state[p]["anchor"] for p in params[:3]], present)


def test_default_dtype_does_not_reach_the_step_counter() -> None:
    before = torch.get_default_dtype()
    try:
        for dtype in (torch.bfloat16, torch.float16):
            torch.set_default_dtype(dtype)
            params = [nn.Parameter(torch.ones(2, dtype=torch.float32))]
            optimizer = OLORAdam(params, 0.1, {params[0]: 0.0})
            take_steps(optimizer, 1)
            assert optimizer.state[params[0]]["step"].dtype == torch.float32
    finally:
        torch.set_default_dtype(before)


# Depths that wait, parameters that are replaced


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_depths_wait_for_parameters_that_join_later(cls: Any) -> None:
    first, later, by_avalanche, head = parameters(4)
    optimizer = cls([first], 0.1, {first: 0.0, later: 0.25, by_avalanche: 0.5}, rollback_input=0.4)
    optimizer = copy.copy(optimizer)
    with torch.no_grad():
        later.add_(1)
    optimizer.add_param_group({"params": [later, head], "lr": 0.05})
    assert set(optimizer.anchors) == {first, later}
    assert torch.equal(optimizer.anchors[later].value, later)
    assert optimizer.rates(optimizer.param_groups[1], [later, head]) == pytest.approx([0.3, 0.0])
    optimizer.param_groups[0]["params"].append(by_avalanche)  # behind the optimizer's back
    theta_0 = by_avalanche.detach().clone()
    take_steps(optimizer, 2)
    assert optimizer.anchors[by_avalanche].depth == 0.5
    assert torch.equal(optimizer.anchors[by_avalanche].value, theta_0)
    assert head not in optimizer.anchors


@pytest.mark.parametrize("make", MAKERS)
def test_a_group_with_one_bad_option_is_not_added_at_all(make: Callable[..., OLOROptimizer]) -> None:
    _, optimizer = make_pair(make)
    late = parameters(1)
    for options in ({"rollback_input": 7.0, "depth": 0.0}, {"lr": -1.0}, {"depth": math.nan}, {"differentiable": True}):
        group = {"params": late, **options}
        before = dict(group)
        with pytest.raises(ValueError, match=r"diverges|lr must be|a depth is|no differentiable"):
            optimizer.add_param_group(group)
        assert group == before
        assert len(optimizer.param_groups) == 1
        assert late[0] not in optimizer.anchors


@pytest.mark.parametrize("make", MAKERS)
def test_nothing_is_stepped_if_one_group_cannot_be(make: Callable[..., OLOROptimizer]) -> None:
    params = parameters(3)
    optimizer = make([{"params": [p], "depth": 0.0} for p in params], 0.1, rollback_input=0.5)
    optimizer.param_groups[2]["lr"] = 1.0
    before = values(params)
    with pytest.raises(ValueError, match="diverges"):
        take_steps(optimizer, 1)
    assert_same(params, before)
    assert not optimizer.state


@pytest.mark.parametrize("make", MAKERS)
def test_a_replaced_parameter_keeps_theta_0(make: Callable[..., OLOROptimizer]) -> None:
    """As helpers of FSDP2 and Avalanche's update_optimizer do it."""
    params = parameters()
    optimizer = make(params, 0.05, evenly(params), rollback_input=1.0, rollback_output=1.0)
    theta_0 = values(params)
    take_steps(optimizer, 1)
    new = [nn.Parameter(p.detach() + 1) for p in params]
    optimizer.param_groups[0]["params"] = [*new[:2], *params[2:]]
    saved = copy.deepcopy(optimizer.state_dict())
    assert_same([saved["state"][i]["anchor"] for i in range(4)], theta_0)
    take_steps(optimizer, 1)
    assert_same(new[:2], theta_0[:2])
    assert params[0] not in optimizer.anchors
    optimizer.param_groups[0]["params"] = new
    optimizer.load_state_dict(saved)
    take_steps(optimizer, 1)
    assert_same(new, theta_0)


@pytest.mark.parametrize("make", MAKERS)
def test_a_classifier_that_grew_is_trained_without_rollback(make: Callable[..., OLOROptimizer]) -> None:
    params, optimizer = make_pair(make)
    grown = nn.Parameter(torch.zeros(100))
    optimizer.param_groups[0]["params"] = [grown, *params[1:]]
    with pytest.warns(UserWarning, match=r"another shape \(\(3, 2\) by \(100,\)\), which are trained without rollback"):
        take_steps(optimizer, 1)
    assert grown not in optimizer.anchors
    assert params[0] not in optimizer.anchors
    assert params[1] in optimizer.anchors
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_steps(optimizer, 2)


def test_parameters_all_replaced_by_others_of_another_shape() -> None:
    params, optimizer = make_pair(OLORSGD)
    optimizer.param_groups[0]["params"] = [nn.Parameter(torch.zeros(100)) for _ in params]
    with pytest.warns(UserWarning, match="another shape"), pytest.raises(ValueError, match="none of the parameters"):
        take_steps(optimizer, 1)
    with pytest.raises(ValueError, match="none of the parameters"):  # and every time
        take_steps(optimizer, 1)
    assert not any(p.any() for p in optimizer.param_groups[0]["params"])


def test_groups_that_were_made_anew() -> None:
    params, optimizer = make_pair(OLORAdam)
    optimizer.param_groups.clear()
    optimizer.add_param_group({"params": [nn.Parameter(p.detach().clone()) for p in params]})
    with pytest.raises(ValueError, match="none of the parameters that OLORAdam pulls back is in its groups any more"):
        take_steps(optimizer, 1)


def test_a_parameter_may_leave() -> None:
    params, optimizer = make_pair(OLORSGD)
    head = nn.Parameter(torch.zeros(2))
    optimizer.param_groups[0]["params"] = [*params[1:], head]
    take_steps(optimizer, 2)
    assert head not in optimizer.anchors


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(TORCH < (2, 7), reason="fully_shard does not run on a CPU")
@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("sharded_first", [True, False])
def test_fsdp2(make: Callable[..., OLOROptimizer], sharded_first: bool) -> None:
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    def trained(sharded: bool, steps: int, state: Any = None) -> tuple[nn.Module, OLOROptimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        mesh = init_device_mesh("cpu", (1,))
        if sharded and sharded_first:
            fully_shard(model, mesh=mesh)
        optimizer = make(model.parameters(), 0.05, layer_depths(model), rollback_input=0.5, rollback_output=0.5)
        if sharded and not sharded_first:
            fully_shard(model, mesh=mesh)
            optimizer.param_groups[0]["params"] = list(model.parameters())
        for step in range(steps):
            model(torch.full((2, 4), float(step))).pow(2).sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return model, optimizer

    plain, _ = trained(False, 3)
    model, optimizer = trained(True, 3)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), q)  # type: ignore[operator]
    saved = get_optimizer_state_dict(model, optimizer)
    resumed, second = trained(True, 0)
    second.reset_anchors()
    with torch.no_grad():
        for anchor in second.anchors.values():
            anchor.value.zero_()
    set_optimizer_state_dict(resumed, second, saved)
    for old, new in zip(optimizer.anchors.values(), second.anchors.values(), strict=True):
        assert torch.equal(old.value.full_tensor(), new.value.full_tensor())  # type: ignore[operator]


# torch.compile


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("rate", [float, torch.tensor])
@pytest.mark.parametrize("make", [*MAKERS, partial(OLORAdam, amsgrad=True)])
def test_a_compiled_step_is_the_eager_one(
    make: Callable[..., OLOROptimizer], rate: Callable[[float], Any], foreach: bool | None
) -> None:
    torch._dynamo.reset()
    options = {"rollback_input": 0.5, "rollback_output": 0.2, "foreach": foreach}
    pairs = [parameters(), parameters()]
    optimizers = [make(params, rate(0.05), evenly(params), **options) for params in pairs]
    schedulers = [StepLR(o, 1, 0.7) for o in optimizers]
    steps = [torch.compile(optimizers[0].step, backend="eager"), optimizers[1].step]
    for seed in range(6):
        for params, step, scheduler in zip(pairs, steps, schedulers, strict=True):
            generator = torch.Generator().manual_seed(seed)
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            step()
            scheduler.step()
        for p, q in zip(*pairs, strict=True):
            torch.testing.assert_close(p, q)
    assert optimizers[0].rates(optimizers[0].param_groups[0], pairs[0])[0] == pytest.approx(0.5 * 0.7**6)


# Weights of low precision


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(("dtype", "within"), [(torch.bfloat16, 0.02), (torch.float16, 0.02)])
def test_a_small_rollback_of_low_precision_weights_is_the_formulas(
    make: Callable[..., OLOROptimizer], dtype: torch.dtype, within: float
) -> None:
    # Adam's eps of 1e-8 is 0 in float16
    options = {"eps": 1e-4} if make is OLORAdam else {}
    (param,) = [nn.Parameter((0.02 * torch.randn(2000, generator=torch.Generator().manual_seed(0))).to(dtype))]
    optimizer = make([param], 1e-4, {param: 0.0}, rollback_input=0.001, weight_decay=0.0, **options)
    theta_0 = param.detach().float()
    with torch.no_grad():
        param.add_(torch.full_like(param, 0.004))
    start = (param.float() - theta_0).norm()
    for _ in range(500):
        param.grad = torch.zeros_like(param)
        optimizer.step()
    assert ((param.float() - theta_0).norm() / start).item() == pytest.approx(0.999**500, abs=within)
    assert optimizer.state[param]["remainder"].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_without_rollback_take_torchs_step(dtype: torch.dtype) -> None:
    ours, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    take_steps(OLORAdam(ours, 0.01, evenly(ours), rollback_input=0.0))
    take_steps(torch.optim.Adam(theirs, 0.01))
    assert_same(ours, theirs)


# Lambda and the learning rate


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_lambda_does_not_depend_on_layer_decay(cls: Any) -> None:
    """timm's groups have an lr_scale, by which its schedules multiply the rate."""
    scheduler_module = pytest.importorskip("timm.scheduler")
    params = parameters(2)
    groups = [{"params": [p], "lr_scale": s, "depth": 0.0} for p, s in zip(params, (0.05, 1.0), strict=True)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = cls(groups, 0.1, rollback_input=0.4)
        unscheduled = [optimizer.rates(group, group["params"])[0] for group in optimizer.param_groups]
        schedule = scheduler_module.CosineLRScheduler(optimizer, t_initial=10, warmup_t=4, warmup_lr_init=1e-3)
        seen = []
        for epoch in range(10):
            schedule.step(epoch)
            seen.append([optimizer.rates(group, group["params"])[0] for group in optimizer.param_groups])
            take_steps(optimizer, 1)
    assert unscheduled == pytest.approx([0.4, 0.4])
    assert all(left == pytest.approx(right) for left, right in seen)
    assert seen[0][0] == pytest.approx(0.4 * 1e-3 / 0.1)
    assert 0.2 < max(left for left, _ in seen) <= 0.4


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_a_rate_above_base_lr_warns_once(cls: Any) -> None:
    params = parameters()
    optimizer = cls(params, 1e-3, evenly(params), rollback_input=0.01)
    optimizer.param_groups[0]["lr"] = 0.01  # the schedule's; 1e-3 was a placeholder
    with pytest.warns(UserWarning, match=r"lr 0\.01 is 10 times base_lr 0\.001.*pass base_lr"):
        take_steps(optimizer, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take_steps(optimizer, 1)
        for options in ({"base_lr": 0.01}, {"rollback_decay": "paper"}, {"rollback_input": 0.0}):
            silent = cls(params, 1e-3, evenly(params), **options)
            silent.param_groups[0]["lr"] = 0.01
            take_steps(silent, 1)


# torch's options


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("ours", "torchs", "options"),
    [
        (OLORSGD, torch.optim.SGD, {"lr": 0.1, "maximize": True, "momentum": 0.9, "weight_decay": 0.01}),
        (OLORSGD, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        (OLORSGD, torch.optim.SGD, {"lr": torch.tensor(0.1), "momentum": 0.9}),
        (OLORAdam, torch.optim.Adam, {"lr": 0.1, "maximize": True, "weight_decay": 0.01}),
        (OLORAdam, torch.optim.Adam, {"lr": 0.1, "amsgrad": True}),
        (OLORAdam, torch.optim.Adam, {"lr": torch.tensor(0.1)}),
    ],
)
def test_torchs_options_are_torchs(ours: Any, torchs: Any, options: dict[str, Any], kind: dict[str, bool]) -> None:
    plain, pulled = parameters(), parameters()
    take_steps(ours(pulled, depths=evenly(pulled), rollback_input=0.0, **kind, **options))
    if kind.get("foreach"):  # with which torch's take no tensor
        options = {**options, "lr": float(options["lr"])}
    take_steps(torchs(plain, **options, **of_torch(kind)))
    assert_same(pulled, plain)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_the_fused_step_is_the_loop_but_for_rounding(data: st.DataObject) -> None:
    make = data.draw(st.sampled_from([*MAKERS, partial(OLORSGD, momentum=0.9, momentum_average="reference")]))
    options = {
        "rollback_input": data.draw(st.floats(0, 1)),
        "rollback_decay": data.draw(st.sampled_from(["paper", "reference"])),
    }
    fused, loop = parameters(), parameters()
    optimizer = make(fused, 0.05, evenly(fused), **options)
    take_steps(optimizer, 1)
    take_steps(make(loop, 0.05, evenly(loop), foreach=False, **options), 1)
    for p, q in zip(fused, loop, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert optimizer.param_groups[0]["fused"] is None  # state_dict does not tell what was chosen


@pytest.mark.parametrize("make", [*MAKERS, partial(OLORAdam, amsgrad=True)])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_state_of_another_kind_of_step_resumes(make: Callable[..., OLOROptimizer], kind: dict[str, bool]) -> None:
    straight, before = parameters(), parameters()
    take_steps(make(straight, 0.05, evenly(straight), rollback_input=0.5))
    first = make(before, 0.05, evenly(before), rollback_input=0.5, **kind)
    take_steps(first, 4)
    saved = copy.deepcopy(first.state_dict())
    for group in saved["param_groups"]:
        group.update(fused=None, foreach=None, capturable=False)
    after = parameters()
    for p, q in zip(after, before, strict=True):
        p.data.copy_(q)
    second = make(after, 0.05, evenly(after), rollback_input=0.5)
    second.load_state_dict(saved)
    assert {k: set(v) for k, v in second.state_dict()["state"].items()} == {
        k: set(v) for k, v in saved["state"].items()
    }
    take_steps(second, 10, first=4)
    for p, q in zip(after, straight, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_first_gradient_may_come_late(nesterov: bool) -> None:
    """torch's fused SGD alone cannot do it with momentum."""
    fused, loop = parameters(), parameters()
    for params, kind in ((fused, {}), (loop, {"foreach": False})):
        options = {"momentum": 0.9, "nesterov": nesterov, "rollback_input": 0.1, **kind}
        optimizer = OLORSGD(params, 0.05, evenly(params), **options)
        for seen in (2, 4):
            for seed in range(3):
                generator = torch.Generator().manual_seed(seed)
                for p in params[:seen]:
                    p.grad = torch.randn(p.shape, generator=generator)
                optimizer.step()
    for p, q in zip(fused, loop, strict=True):
        torch.testing.assert_close(p, q)


# Graphs of a GPU: capturable


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (OLORAdam, {}),
        (OLORAdam, {"rollback_decay": "paper"}),
        (OLORSGD, {"momentum": 0.9}),
        (OLORSGD, {"momentum": 0.9, "gradient_damping": "reference", "base_lr": 0.2}),
        (OLORSGD, {"lr_factor": "reference", "base_lr": 1.0}),
    ],
)
def test_a_capturable_step_follows_a_learning_rate_in_a_tensor(
    make: Callable[..., OLOROptimizer], options: dict[str, Any]
) -> None:
    rate, with_tensor, with_number = torch.tensor(0.1), parameters(), parameters()
    one = make(with_tensor, rate, evenly(with_tensor), rollback_input=0.4, capturable=True, **options)
    other = make(with_number, 0.1, evenly(with_number), rollback_input=0.4, **options)
    for lr in (0.1, 0.05, 0.0, 0.02):
        rate.fill_(lr)
        other.param_groups[0]["lr"] = lr
        for optimizer in (one, other):
            take_steps(optimizer, 2, seed=int(1000 * lr))
    for p, q in zip(with_tensor, with_number, strict=True):
        torch.testing.assert_close(p, q)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_capturable_step_heeds_lr_scale_as_others_do(scheduled: bool) -> None:
    (param,) = parameters(1)
    optimizer = OLORAdam(
        [{"params": [param], "lr_scale": 0.5, "depth": 0.0}], torch.tensor(0.1), rollback_input=0.4, capturable=True
    )
    group = optimizer.param_groups[0]
    if scheduled:
        group["lr"] = torch.tensor(0.05 * 0.5)
    assert float(optimizer._rates_on_device(group, [param])[0]) == pytest.approx(optimizer.rates(group, [param])[0])


@pytest.mark.parametrize("cls", OPTIMIZERS)
@pytest.mark.parametrize("capturable", [True, False])
def test_a_capturable_step_waits_for_no_gpu(cls: Any, capturable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tensors without values, to read one of which is an error. torch's own step, which has no form for them, is
    left out.
    """
    for step in ("adam", "sgd"):
        monkeypatch.setattr(f"reclaim.strategies.olor.{step}", lambda *args, **kwargs: None)
    params = [nn.Parameter(torch.empty(3, 4, device="meta", dtype=t)) for t in (torch.float32, torch.bfloat16)]
    groups = [{"params": [p], "depth": 0.5} for p in params]
    optimizer = cls(groups, lr=0.1, capturable=capturable, **({"momentum": 0.9} if cls is OLORSGD else {}))
    for group, p in zip(optimizer.param_groups, params, strict=True):
        group["lr"], p.grad = torch.empty((), device="meta"), torch.empty_like(p)
    for _ in range(2):
        with nullcontext() if capturable else pytest.raises(RuntimeError, match="meta"):
            optimizer.step()


@pytest.mark.parametrize(
    ("cls", "options", "message"),
    [
        (OLORAdam, {"capturable": True, "fused": False}, "capturable=True takes torch's fused step, got.* fused=False"),
        (OLORSGD, {"capturable": True, "foreach": True}, "capturable=True takes torch's fused step, got foreach=True"),
        (OLORSGD, {"differentiable": True}, "OLORSGD has no differentiable=True"),
        (OLORAdam, {"foreach": True, "fused": True}, "exclude each other"),
        (OLORSGD, {"nesterov": True}, "nesterov=True needs a momentum"),
        (OLORSGD, {"nesterov": True, "momentum": 0.9, "momentum_average": "reference"}, "nesterov=True needs"),
        (OLORAdam, {"betas": (torch.tensor(0.9), 0.9)}, "betas must be numbers"),
        (OLORAdam, {"lr": torch.tensor([0.1, 0.2])}, "lr must be one number"),
    ],
)
def test_options_that_are_refused(cls: Any, options: dict[str, Any], message: str) -> None:
    params = parameters()
    with pytest.raises(ValueError, match=message):
        cls(params, depths=evenly(params), **options)


SHARDED = """
    import copy, os, torch, torch.distributed as dist
    from torch import nn
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from reclaim.strategies.olor import OLORAdam

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0", RANK="0", WORLD_SIZE="1")
    store = dist.TCPStore("127.0.0.1", 0, 1, True)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)

    def make(model):
        depths = {p: float(i) for i, layer in enumerate(model) for p in layer.parameters()}
        return ZeroRedundancyOptimizer(model.parameters(), OLORAdam, lr=1e-2, depths=depths, rollback_input=0.9)

    def train(model, optimizer, steps, first=0):
        generator = torch.Generator().manual_seed(0)
        for step in range(steps):
            images = torch.randn(5, 3, generator=generator)
            if step >= first:
                optimizer.zero_grad()
                model(images).square().sum().backward()
                optimizer.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    straight = copy.deepcopy(model)
    train(straight, make(straight), 4)
    optimizer = make(model)
    train(model, optimizer, 2)
    optimizer.consolidate_state_dict()
    saved = copy.deepcopy(optimizer.state_dict())
    resumed = make(model)  # built on trained weights
    resumed.load_state_dict(saved)
    train(model, resumed, 4, first=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), straight.parameters()))
    dist.destroy_process_group()
    print("the same")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_a_sharded_optimizer_resumes_with_its_theta_0(tmp_path: Path) -> None:
    script = tmp_path / "sharded.py"
    script.write_text(textwrap.dedent(SHARDED))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip().endswith("the same"), done.stderr[-2000:]


# --- another layer in a parameter's place ---


def at(value: float) -> nn.Parameter:
    return nn.Parameter(torch.full((3,), value))


def idle(optimizer: Any, *parameters: nn.Parameter) -> None:
    """A step without gradients: the rollback alone."""
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


@pytest.mark.parametrize("first", [False, True])
def test_a_layer_that_joins_in_anothers_place_has_its_own_weights(first: bool) -> None:
    """Training one block at a time: equal shapes, one after the other in the same group."""
    a, b = at(1.0), at(9.0)
    optimizer = OLORSGD([a] if first else [a, b], lr=1.0, depths={a: 0.0, b: 0.0}, rollback_input=1.0)
    if not first:
        optimizer.param_groups[0]["params"] = [a]
    idle(optimizer, a)
    optimizer.param_groups[0]["params"] = [b]
    idle(optimizer, b)
    assert b.tolist() == [9.0] * 3
    optimizer.param_groups[0]["params"] = [a]
    with torch.no_grad():
        a.fill_(2.0)
    idle(optimizer, a)
    assert a.tolist() == [1.0] * 3


def test_what_is_put_in_after_another_was_taken_out_has_its_own_weights() -> None:
    a, b, c = at(1.0), at(5.0), at(9.0)
    optimizer = OLORSGD([a, b], lr=1.0, depths={a: 0.0, b: 0.0, c: 0.0}, rollback_input=1.0)
    optimizer.param_groups[0]["params"].pop()
    optimizer.param_groups[0]["params"].append(c)
    idle(optimizer, a, c)
    assert c.tolist() == [9.0] * 3


def test_a_state_of_the_same_parameters_in_another_order_is_refused() -> None:
    a, b = at(1.0), at(9.0)
    depths = {a: 0.0, b: 0.5}
    saved = OLORAdam([("a", a), ("b", b)], depths=depths).state_dict()
    OLORAdam([("a", a), ("b", b)], depths=depths).load_state_dict(saved)
    with pytest.raises(ValueError, match="group 0 has 'b' where the state has 'a'"):
        OLORAdam([("b", b), ("a", a)], depths=depths).load_state_dict(saved)


# --- memory layouts ---


def convolution() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 2))


def trained(model: nn.Module, optimizer: Any, steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8, generator=generator)).square().mean().backward()
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


OF_LAYOUTS: list[Callable[..., Any]] = [
    lambda model: OLORAdam(model.parameters(), lr=0.01, depths=layer_depths_of(model)),
    lambda model: OLORSGD(model.parameters(), lr=0.01, depths=layer_depths_of(model), momentum=0.9),
]


def layer_depths_of(model: nn.Module) -> dict[Any, float]:
    return dict.fromkeys(model.parameters(), 0.5)


@pytest.mark.parametrize("make", OF_LAYOUTS)
@pytest.mark.parametrize("how", ["moved", "resumed"])
def test_a_state_of_another_memory_layout(make: Callable[..., Any], how: str) -> None:
    """Torch's fused steps count elements as they lie in memory: of weights, gradients and state."""
    plain = convolution()
    whole = make(plain)
    trained(plain, whole, 3)
    model = convolution()
    optimizer = make(model)
    trained(model, optimizer, 3)
    if how == "moved":
        model.to(memory_format=torch.channels_last)
    else:
        saved, weights = optimizer.state_dict(), model.state_dict()
        model = convolution().to(memory_format=torch.channels_last)
        model.load_state_dict(weights)
        optimizer = make(model)
        optimizer.load_state_dict(saved)
    for one, other in zip(trained(plain, whole, 3, 1), trained(model, optimizer, 3, 1), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [OLORAdam, OLORSGD])
def test_a_part_of_a_larger_tensor_leaves_the_rest_alone(kind: Any) -> None:
    for view in (lambda t: t[:, ::2], lambda t: t[:, :3].t()):
        big = torch.ones(4, 6)
        parameter = nn.Parameter(view(big))
        expected = nn.Parameter(parameter.detach().clone(memory_format=torch.contiguous_format))
        for p in (parameter, expected):
            optimizer = kind([p], lr=0.1, depths={p: 0.5})
            for step in range(3):
                p.grad = torch.arange(p.numel(), dtype=torch.float32).view(p.shape) + step
                optimizer.step()
        torch.testing.assert_close(parameter, expected)
        mask = torch.zeros(4, 6, dtype=torch.bool)
        view(mask).fill_(True)
        assert (big[~mask] == 1).all()
        optimizer = kind([parameter], lr=0.1, depths={parameter: 0.5}, fused=True)
        with pytest.raises(ValueError, match="torch's fused step takes a parameter for one piece of memory"):
            optimizer.step()
