"""The properties that other projects' suites check of their optimizers, for ours: with torch's own inputs for Adam and
SGD, and in the wrappers of timm and pytorch_optimizer.
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reclaim.strategies.olor import OLORSGD, OLORAdam, OLOROptimizer
from torch import Tensor, nn

pytestmark = pytest.mark.trains

common = pytest.importorskip("torch.testing._internal.common_optimizers")
torch.set_num_threads(1)

PAIRS = [(OLORAdam, torch.optim.Adam), (OLORSGD, torch.optim.SGD)]
INFOS = {info.optim_cls: info for info in common.optim_db}
# torch's options that ours do not have
MISSING = {"dampening"}


def inputs() -> list[Any]:
    return [
        pytest.param(ours, torchs, entry.kwargs, id=f"{ours.__name__}-{entry.desc}")
        for ours, torchs in PAIRS
        for entry in INFOS[torchs].optim_inputs_func(device="cpu")
        if not MISSING & entry.kwargs.keys()
    ]


def errors() -> list[Any]:
    return [
        pytest.param(ours, entry, id=f"{ours.__name__}-{entry.optimizer_error_input.desc}")
        for ours, torchs in PAIRS
        for entry in INFOS[torchs].optim_error_inputs_func(device="cpu", dtype=torch.float32)
        # ours take it, as a float
        if not (entry.optimizer_error_input.desc or "").startswith("lr as Tensor doesn't work with foreach")
    ]


every_input = pytest.mark.parametrize(("ours", "torchs", "options"), inputs())


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 10), (5,), (), (2, 3, 4)]
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def fresh(options: dict[str, Any]) -> dict[str, Any]:
    """A copy with tensors of its own, and the same learning rate for all."""
    return copy.deepcopy({"lr": 1e-3, **options})


def made(ours: Any, params: list[Any], options: dict[str, Any], rollback: float = 0.3) -> OLOROptimizer:
    depths = dict.fromkeys(params[:3], 0.0)
    optimizer: OLOROptimizer = ours(params, depths=depths, rollback_input=rollback, **fresh(options))
    return optimizer


def steps(optimizer: torch.optim.Optimizer, count: int = 4, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        optimizer.step()


def assert_same(left: list[Any], right: list[Any]) -> None:
    for p, q in zip(left, right, strict=True):
        assert torch.equal(p, q)


@every_input
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_the_base_step_is_torchs(ours: Any, torchs: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    plain, pulled = parameters(dtype), parameters(dtype)
    steps(torchs(plain, **fresh(options)))
    steps(made(ours, pulled, {**options, "foreach": False}, rollback=0.0))
    assert_same(pulled, plain)


@every_input
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_loop_and_foreach(ours: Any, torchs: Any, options: dict[str, Any], dtype: torch.dtype) -> None:
    loop, many = parameters(dtype), parameters(dtype)
    steps(made(ours, loop, {**options, "foreach": False}))
    steps(made(ours, many, {**options, "foreach": True}))
    for p, q in zip(loop, many, strict=True):
        torch.testing.assert_close(p, q)


@every_input
def test_loop_and_fused(ours: Any, torchs: Any, options: dict[str, Any]) -> None:
    loop, fused = parameters(torch.float32), parameters(torch.float32)
    steps(made(ours, loop, {**options, "foreach": False}))
    steps(made(ours, fused, {**options, "fused": True}))
    for p, q in zip(loop, fused, strict=True):
        torch.testing.assert_close(p, q)


@every_input
def test_complex_is_two_reals(ours: Any, torchs: Any, options: dict[str, Any]) -> None:
    number = torch.randn(10, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    whole, parts = nn.Parameter(number), nn.Parameter(torch.view_as_real(number).clone())
    optimizers = [made(ours, [p], options) for p in (whole, parts)]
    for seed in range(5):
        whole.grad = torch.randn(10, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
        parts.grad = torch.view_as_real(whole.grad).clone()
        for optimizer in optimizers:
            optimizer.step()
        torch.testing.assert_close(torch.view_as_real(whole), parts)


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


@every_input
@pytest.mark.parametrize("through", [copy.deepcopy, saved_and_loaded])
def test_a_loaded_state_goes_on(
    ours: Any, torchs: Any, options: dict[str, Any], through: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    params = parameters()
    first = made(ours, params, options)
    steps(first)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    second = made(ours, others, options)
    second.load_state_dict(through(first.state_dict()))
    steps(first, seed=2)
    steps(second, seed=2)
    assert_same(others, params)


@every_input
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda optimizer: pickle.loads(pickle.dumps(optimizer))])
def test_a_copy_goes_on(ours: Any, torchs: Any, options: dict[str, Any], duplicate: Callable[[Any], Any]) -> None:
    params = parameters()
    optimizer = made(ours, params, options)
    steps(optimizer)
    twin = duplicate(optimizer)
    steps(optimizer, seed=2)
    steps(twin, seed=2)
    assert_same(twin.param_groups[0]["params"], params)


@every_input
def test_no_gradient_no_step(ours: Any, torchs: Any, options: dict[str, Any]) -> None:
    params = parameters()
    before = [p.detach().clone() for p in params]
    optimizer = made(ours, params, options)
    optimizer.step()
    assert_same(params, before)
    for p in params:
        p.requires_grad_(False)
    optimizer.step()
    assert_same(params, before)


@every_input
def test_half_precision_state_follows_its_parameters(ours: Any, torchs: Any, options: dict[str, Any]) -> None:
    """torch's load_state_dict gives the state the dtype of the parameters, but not the step counter."""
    first = made(ours, parameters(torch.float32), options)
    steps(first)
    params = parameters(torch.bfloat16)
    second = made(ours, params, options)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for p in params:
        for name, value in second.state[p].items():
            if isinstance(value, Tensor):
                assert value.dtype == (torch.float32 if name == "step" else torch.bfloat16), name
    steps(second)


@every_input
def test_hooks(ours: Any, torchs: Any, options: dict[str, Any]) -> None:
    optimizer = made(ours, parameters(), options)
    seen: list[str] = []

    def changed(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
        seen.append("before load")
        groups = [{**group, "rollback_power": 3.0} for group in state["param_groups"]]
        return {**state, "param_groups": groups}

    def without_note(optimizer: Any, state: dict[str, Any]) -> dict[str, Any]:
        seen.append("after state")
        return {**state, "note": 1}

    optimizer.register_step_pre_hook(lambda *_: seen.append("before step"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after step"))
    optimizer.register_state_dict_pre_hook(lambda *_: seen.append("before state"))
    optimizer.register_state_dict_post_hook(without_note)
    optimizer.register_load_state_dict_pre_hook(changed)
    optimizer.register_load_state_dict_post_hook(lambda *_: seen.append("after load"))
    steps(optimizer, 1)
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    assert state["note"] == 1
    assert optimizer.param_groups[0]["rollback_power"] == 3.0
    assert seen == ["before step", "after step", "before state", "after state", "before load", "after load"]


@pytest.mark.parametrize(
    ("ours", "make"),
    [
        pytest.param(ours, make, id=f"{ours.__name__}-{i}")
        for ours, torchs in PAIRS
        for i, make in enumerate(INFOS[torchs].scheduler_inputs)
    ],
)
def test_schedules(ours: Any, make: Any) -> None:
    params = [nn.Parameter(torch.tensor([1.5, 1.5]))]
    # torch's inputs contain rates of their own, at most 0.01
    optimizer = ours(params, lr=1e-4, depths={params[0]: 0.0}, base_lr=1.0)
    made_schedulers = [make(optimizer)] if callable(make) else [scheduler(optimizer) for scheduler in make or []]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (1 - params[0][0]) ** 2 + 100 * (params[0][1] - params[0][0] ** 2) ** 2
        loss.backward()
        return loss

    start = closure().item()
    for _ in range(20):
        loss = optimizer.step(closure)
        for scheduler in made_schedulers:
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                scheduler.step(loss)
            else:
                scheduler.step()
    assert closure().item() < start


@pytest.mark.parametrize(("ours", "entry"), errors())
def test_bad_inputs(ours: Any, entry: Any) -> None:
    given = entry.optimizer_error_input
    params = given.params
    if params is None:
        params = [nn.Parameter(torch.randn(2, 3))]
    elif isinstance(params, list) and params and isinstance(params[0], Tensor):
        params = list(params)
    known = [p for p in params if isinstance(p, Tensor)] if isinstance(params, list) else []
    # torch warns of a parameter that is given twice
    raises = pytest.warns if issubclass(entry.error_type, Warning) else pytest.raises
    with raises(entry.error_type):
        ours(params, depths=dict.fromkeys(known, 0.0), **given.kwargs)


# timm


@pytest.mark.parametrize("ours", [OLORAdam, OLORSGD])
def test_timms_lookahead_and_layer_decay(ours: Any) -> None:
    optim, timm = pytest.importorskip("timm.optim"), pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=3)
    depths = {p: 0.5 for name, p in model.named_parameters() if not name.startswith("head")}
    groups = optim.param_groups_layer_decay(model, layer_decay=0.5)
    optimizer = optim.Lookahead(ours(groups, lr=1e-3, depths=depths))
    schedule = pytest.importorskip("timm.scheduler").CosineLRScheduler(optimizer, t_initial=5, warmup_t=2)
    images, targets = torch.randn(6, 3, 160, 160), torch.arange(6) % 3
    losses = []
    for epoch in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()
        schedule.step(epoch)
        losses.append(loss.item())
    assert all(map(torch.isfinite, map(torch.tensor, losses)))
    again = optim.Lookahead(ours(optim.param_groups_layer_decay(model, layer_decay=0.5), lr=1e-3, depths=depths))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))


# pytorch_optimizer


@pytest.mark.parametrize("ours", [OLORAdam, OLORSGD])
@pytest.mark.parametrize("wrapper", ["Lookahead", "ScheduleFreeWrapper", "SAM"])
def test_pytorch_optimizers_wrappers(ours: Any, wrapper: str) -> None:
    theirs = getattr(pytest.importorskip("pytorch_optimizer"), wrapper, None)
    if theirs is None:
        pytest.skip(f"this pytorch_optimizer has no {wrapper}")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    depths = dict.fromkeys(model[0].parameters(), 0.0)
    if wrapper == "SAM":
        optimizer = theirs(model.parameters(), base_optimizer=ours, lr=0.05, depths=depths)
    else:
        optimizer = theirs(ours(model.parameters(), lr=0.05, depths=depths))
    x = torch.randn(32, 2)
    y = (x[:, :1] * x[:, 1:] > 0).float()

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        return loss

    if hasattr(optimizer, "train"):
        optimizer.train()
    first = closure().item()
    for _ in range(40):
        closure()
        if wrapper == "SAM":
            optimizer.step(closure)
        else:
            optimizer.step()
    assert closure().item() < first
