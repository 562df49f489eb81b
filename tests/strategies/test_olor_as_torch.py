"""OLOR's optimizers where people use torch's: checkpoints, compiled code, 16 bits, changing groups, schedulers.

The inputs of torch's own tests of Adam and SGD (``torch.testing._internal``, which comes with torch) are run on ours.
"""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from reclaim.strategies.olor import OLORSGD, OLORAdam, OLOROptimizer, round_stochastically
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.testing._internal import common_optimizers

pytestmark = pytest.mark.trains

MAKERS: list[Callable[..., Any]] = [OLORSGD, partial(OLORSGD, momentum=0.9), OLORAdam]
IDS = ["sgd", "momentum", "adam"]
every_maker = pytest.mark.parametrize("make", MAKERS, ids=IDS)


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def depths_of(model: nn.Sequential) -> dict[nn.Parameter, float]:
    return {p: float(i) for i, layer in enumerate(model) for p in layer.parameters()}


def train(model: nn.Module, optimizer: Any, steps: int = 4, first: int = 0) -> None:
    generator = torch.Generator().manual_seed(7)
    for step in range(steps):
        images = torch.randn(5, 3, generator=generator)
        if step >= first:
            optimizer.zero_grad()
            model(images).square().sum().backward()
            optimizer.step()


def same(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


# --- theta_0 travels with the state ---


@every_maker
@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("stepped", [False, True])
def test_distributed_checkpoints_keep_theta_0(make: Any, flatten: bool, stepped: bool) -> None:
    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    model = network()
    optimizer = make(model.parameters(), 1e-2, depths_of(model), rollback_input=0.5)
    straight_model = copy.deepcopy(model)
    straight = make(straight_model.parameters(), 1e-2, depths_of(straight_model), rollback_input=0.5)
    before = 2 if stepped else 0
    train(model, optimizer, before)
    train(straight_model, straight, 4)
    saved = copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=options))
    weights = copy.deepcopy(model.state_dict())

    resumed_model = network(seed=1)
    resumed_model.load_state_dict(weights)  # first, as is usual: what the new optimizer takes for theta_0 is trained
    resumed = make(resumed_model.parameters(), 1e-2, depths_of(resumed_model), rollback_input=0.5)
    set_optimizer_state_dict(resumed_model, resumed, saved, options=options)
    start = network()
    for p, theta_0 in zip(resumed_model.parameters(), start.parameters(), strict=True):
        assert torch.equal(resumed.anchors[p].value, theta_0)
    if not stepped and make is OLORAdam:
        return  # torch fills an empty state by a step, which Adam's counter counts, ours as torch's own
    train(resumed_model, resumed, 4, first=before)
    assert same(resumed_model, straight_model)
    assert not same(resumed_model, model)


@every_maker
@pytest.mark.parametrize("mode", ["reference", "paper"])
def test_a_step_at_a_rate_of_0_moves_nothing(make: Any, mode: str) -> None:
    model = network()
    optimizer = make(model.parameters(), 1e-2, depths_of(model), rollback_input=0.5, rollback_decay=mode)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    before = copy.deepcopy(model)
    get_optimizer_state_dict(model, optimizer)
    assert same(model, before)
    optimizer.param_groups[0]["lr"] = 0.0
    train(model, optimizer, 2)
    assert same(model, before)
    optimizer.param_groups[0]["lr"] = 1e-2
    train(model, optimizer, 1)
    assert not same(model, before)


@every_maker
def test_a_state_that_was_filled_from_elsewhere_counts(make: Any) -> None:
    """As ZeroRedundancyOptimizer does it: into ``state``, past load_state_dict."""
    model, trained = network(), network(seed=1)
    optimizer = make(model.parameters(), 1e-2, depths_of(model), rollback_input=0.9)
    train(model, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict()["state"])
    trained.load_state_dict(model.state_dict())
    resumed = make(trained.parameters(), 1e-2, depths_of(trained), rollback_input=0.9)
    for number, p in enumerate(trained.parameters()):
        resumed.state[p] = saved[number]
    train(model, optimizer, 4, first=2)
    train(trained, resumed, 4, first=2)
    assert same(model, trained)


@every_maker
def test_an_emptied_state_is_filled_again(make: Any) -> None:
    model = network()
    optimizer = make(model.parameters(), 1e-2, depths_of(model))
    theta_0 = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, 2)
    optimizer.state.clear()  # as Avalanche's first train()
    train(model, optimizer, 2)
    for p, start in zip(model.parameters(), theta_0, strict=True):
        assert torch.equal(optimizer.state[p]["anchor"], start)
        assert optimizer.anchors[p].value is optimizer.state[p]["anchor"]


def test_states_of_earlier_versions_load() -> None:
    """Anchors beside the state, and options missing."""
    model = network()
    optimizer = OLORAdam(model.parameters(), 1e-2, depths_of(model), rollback_input=0.5)
    train(model, optimizer, 2)
    saved = copy.deepcopy(optimizer.state_dict())
    old = {
        "state": {i: {k: v for k, v in s.items() if k not in ("anchor", "depth")} for i, s in saved["state"].items()},
        "param_groups": [
            {k: v for k, v in g.items() if k not in ("amsgrad", "maximize", "stochastic_rounding", "foreach")}
            for g in saved["param_groups"]
        ],
        "anchors": {i: {"depth": s["depth"], "value": s["anchor"]} for i, s in saved["state"].items()},
    }
    twin = copy.deepcopy(model)
    resumed = OLORAdam(twin.parameters(), 1e-2, depths_of(twin), rollback_input=0.5)
    resumed.load_state_dict(old)
    train(model, optimizer, 4, first=2)
    train(twin, resumed, 4, first=2)
    assert same(model, twin)


# --- states that do not fit, and steps that fail ---


@pytest.mark.parametrize(
    ("theirs", "mine", "named"),
    [
        (OLORAdam, OLORSGD, "no 'momentum', so it is not one of OLORSGD"),
        (OLORSGD, OLORAdam, "no 'betas', so it is not one of OLORAdam"),
    ],
)
def test_the_state_of_another_kind_is_refused_and_changes_nothing(theirs: Any, mine: Any, named: str) -> None:
    model = network()
    optimizer = mine(model.parameters(), 1e-2, depths_of(model))
    train(model, optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=named):
        optimizer.load_state_dict(theirs(model.parameters(), 0.5, depths_of(model)).state_dict())
    assert str(optimizer.state_dict()) == str(before)
    train(model, optimizer, 1)


@every_maker
def test_a_state_without_theta_0_is_refused(make: Any) -> None:
    model = network()
    optimizer = make(model.parameters(), 1e-2, depths_of(model))
    train(model, optimizer, 1)
    saved = optimizer.state_dict()
    saved["state"] = {
        i: {k: v for k, v in s.items() if k not in ("anchor", "depth")} for i, s in saved["state"].items()
    }
    with pytest.raises(ValueError, match=r"no 'anchor' \(theta_0\) of any parameter"):
        optimizer.load_state_dict(saved)


@every_maker
def test_a_step_that_fails_has_moved_nothing(make: Any) -> None:
    model = network()
    first, second = model
    optimizer = make([{"params": [*first.parameters()]}, {"params": [*second.parameters()]}], 1e-2, depths_of(model))
    optimizer.param_groups[1]["rollback_output"] = 50.0
    before = copy.deepcopy(model)
    with pytest.raises(ValueError, match="diverges"):
        train(model, optimizer, 1)
    assert same(model, before)
    optimizer.param_groups[1]["rollback_output"] = 0.0
    second.weight.grad = torch.zeros(2, 4).to_sparse()
    first.weight.grad = torch.ones(4, 3)
    with pytest.raises(ValueError, match="dense gradients"):
        optimizer.step()
    assert same(model, before)


# --- groups that change ---


@every_maker
@pytest.mark.parametrize("way", ["add_param_group", "append"])
def test_depths_of_parameters_that_join_later_are_remembered(make: Any, way: str) -> None:
    model = network()
    first, second = model
    head = nn.Parameter(torch.zeros(2))
    optimizer = make([*second.parameters()], 1e-2, depths_of(model), rollback_input=0.5)
    assert set(optimizer.anchors) == {*second.parameters()}
    later = [*first.parameters(), head]
    if way == "append":  # as Avalanche does
        optimizer.param_groups[0]["params"] += later
    else:
        optimizer.add_param_group({"params": later, "lr": 1e-3})
    theta_0 = first.weight.detach().clone()
    train(model, optimizer, 3)
    assert set(optimizer.anchors) == {*model.parameters()}
    assert torch.equal(optimizer.anchors[first.weight].value, theta_0)
    assert optimizer.anchors[first.weight].depth == 0.0
    assert copy.deepcopy(optimizer)._depths.keys() != optimizer._depths.keys()


@every_maker
def test_replaced_parameters_are_an_error(make: Any) -> None:
    model = network()
    optimizer = make(model.parameters(), 1e-2, depths_of(model))
    group = optimizer.param_groups[0]
    group["params"] = [nn.Parameter(p.detach().clone()) for p in group["params"]]
    for p in group["params"]:
        p.grad = torch.ones_like(p)
    before = [p.detach().clone() for p in group["params"]]
    with pytest.raises(RuntimeError, match=r"none of the 4 parameters .* is in its groups any more"):
        optimizer.step()
    assert all(torch.equal(p, start) for p, start in zip(group["params"], before, strict=True))
    optimizer.pass_anchors(dict(zip(model.parameters(), group["params"], strict=True)))
    optimizer.step()
    assert set(optimizer.anchors) == {*group["params"]}


@every_maker
def test_a_classifier_that_grew_is_trained_without_rollback(make: Any) -> None:
    model = network()
    optimizer = make(model.parameters(), 1e-2, depths_of(model), rollback_input=0.5, rollback_output=0.5)
    model[1] = nn.Linear(4, 5)
    optimizer.param_groups[0]["params"][2:] = [*model[1].parameters()]  # as Avalanche does
    with pytest.warns(UserWarning, match=r"2 of the 4 parameters .* \(2, 4\), \(2,\)\).*without rollback"):
        train(model, optimizer, 1)
    assert set(optimizer.anchors) == {*model[0].parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 2)


# --- compiled code, types ---


@every_maker
@pytest.mark.parametrize("foreach", [None, False, True])
def test_inside_compiled_code_lambda_follows_the_rate(make: Any, foreach: bool | None) -> None:
    torch._dynamo.reset()
    model, plain = network(), network()
    optimizer, reference = (
        make(m.parameters(), 0.05, depths_of(m), rollback_input=0.5, rollback_output=0.2, foreach=foreach)
        for m in (model, plain)
    )
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.7) for o in (optimizer, reference)]
    step = torch.compile(optimizer.step, backend="eager")
    generator = torch.Generator().manual_seed(0)
    for _ in range(6):
        for p, q in zip(model.parameters(), plain.parameters(), strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        step()
        reference.step()
        for scheduler in schedulers:
            scheduler.step()
        assert same(model, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", [0.03, 0.003, 0.001])
def test_the_rollback_of_weights_of_16_bits_is_that_of_the_formula(dtype: torch.dtype, rate: float) -> None:
    torch.manual_seed(0)
    theta_0 = (torch.randn(5_000) * 0.02).to(dtype)
    p = nn.Parameter((theta_0.float() * (1 + 0.2 * torch.randn(5_000))).to(dtype))
    start = p.detach().float() - theta_0.float()
    optimizer = OLORSGD([p], 1e-4, {p: 0.0}, rollback_input=rate)
    optimizer._anchors[p] = optimizer.anchors[p]._replace(value=theta_0)
    for _ in range(300):
        p.grad = torch.zeros_like(p)
        optimizer.step()
    left = p.detach().float() - theta_0.float()
    # the mean over many weights, along the displacement, is free of the noise of rounding
    assert float((left @ start) / (start @ start)) == pytest.approx((1 - rate) ** 300, abs=0.02)
    assert p.dtype == dtype


def test_rounding_is_right_on_average_and_exact_where_nothing_is_lost() -> None:
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        value = torch.full((20_000,), 1.0 + 1 / 4096)
        rounded = round_stochastically(value, dtype).float()
        assert len(set(rounded.tolist())) == 2
        assert float(rounded.mean()) == pytest.approx(1 + 1 / 4096, abs=2e-4)
        exact = torch.tensor([0.0, -1.5, 2.0, float("inf"), float("-inf"), float("nan")])
        assert torch.equal(round_stochastically(exact, dtype).float().nan_to_num(), exact.nan_to_num())


def test_moments_of_weights_of_16_bits_are_kept_in_32() -> None:
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    head = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = OLORAdam([p, head], 1e-3, {p: 0.0})
    for _ in range(3):
        p.grad, head.grad = torch.ones_like(p), torch.ones_like(head)
        optimizer.step()
    assert optimizer.state[p]["exp_avg"].dtype == torch.float32
    assert optimizer.state[head]["exp_avg"].dtype == torch.bfloat16  # torch's own
    other, other_head = nn.Parameter(p.detach().clone()), nn.Parameter(head.detach().clone())
    resumed = OLORAdam([other, other_head], 1e-3, {other: 0.0})
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(resumed.state[other]["exp_avg"], optimizer.state[p]["exp_avg"])
    assert resumed.state[other]["anchor"].dtype == torch.bfloat16
    plain = OLORAdam([other], 1e-3, {other: 0.0}, stochastic_rounding=False)
    other.grad = torch.ones_like(other)
    plain.step()
    assert plain.state[other]["exp_avg"].dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_step_counter_does_not_depend_on_the_default_type(dtype: torch.dtype) -> None:
    torch.set_default_dtype(dtype)
    try:
        p = nn.Parameter(torch.ones(2))
        optimizer = OLORAdam([p], 1e-3, {p: 0.0})
        p.grad = torch.ones(2)
        optimizer.step()
        assert optimizer.state[p]["step"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


# --- rates that are placeholders ---


def test_layer_decay_of_timm_does_not_weaken_the_rollback() -> None:
    from timm.scheduler import CosineLRScheduler

    model = network()
    groups = [
        {"params": [*layer.parameters()], "lr_scale": scale} for layer, scale in zip(model, (0.25, 1.0), strict=True)
    ]
    optimizer = OLORAdam(groups, 1e-3, depths_of(model), rollback_input=0.4, rollback_output=0.4)
    scheduler = CosineLRScheduler(optimizer, t_initial=10, warmup_t=4, warmup_lr_init=1e-5)
    for epoch in range(10):
        scheduler.step(epoch)
        lambdas = [optimizer.rates(group, group["params"])[0] for group in optimizer.param_groups]
        assert lambdas[0] == pytest.approx(lambdas[1])
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.25 * optimizer.param_groups[1]["lr"])
        assert lambdas[1] == pytest.approx(0.4 * optimizer.param_groups[1]["lr"] / 1e-3)


def test_a_rate_above_the_initial_one_is_warned_of_once() -> None:
    model = network()
    optimizer = OLORAdam(model.parameters(), 1e-4, depths_of(model))
    optimizer.param_groups[0]["lr"] = 1e-3
    with pytest.warns(UserWarning, match="lambda is 10 times what is given.*base_lr"):
        train(model, optimizer, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 1)
        given = OLORAdam(model.parameters(), 1e-4, depths_of(model), base_lr=1e-3)
        given.param_groups[0]["lr"] = 1e-3
        train(model, given, 1)
        OLORSGD(model.parameters(), 1e-3, depths_of(model), lr_factor="reference", rollback_input=1e-3)


# --- options ---


@pytest.mark.parametrize("option", ["fused", "capturable", "differentiable"])
@every_maker
def test_options_that_it_does_not_have_are_refused_by_name(make: Any, option: str) -> None:
    model = network()
    with pytest.raises(TypeError, match=option):
        make(model.parameters(), 1e-2, depths_of(model), **{option: True})
    optimizer = make(model.parameters(), 1e-2, depths_of(model))
    extra = nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=f"has no {option} step"):
        optimizer.add_param_group({"params": [extra], option: True})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("settings", [{"momentum": 0.0}, {"momentum": 0.9, "dampening": 0.1}])
def test_nesterov_needs_momentum_and_no_dampening(settings: dict[str, float]) -> None:
    model = network()
    with pytest.raises(ValueError, match="nesterov needs a momentum and no dampening"):
        OLORSGD(model.parameters(), 1e-2, depths_of(model), nesterov=True, **settings)
    with pytest.raises(ValueError, match="momentum_average=reference"):
        OLORSGD(model.parameters(), 1e-2, depths_of(model), nesterov=True, momentum=0.9, momentum_average="reference")


# --- torch's own inputs ---

PEERS: dict[Any, Any] = {OLORAdam: torch.optim.Adam, OLORSGD: torch.optim.SGD}
LACKING = {"fused", "capturable", "differentiable"}


def inputs() -> Iterator[Any]:
    for ours, theirs in PEERS.items():
        (info,) = (info for info in common_optimizers.optim_db if info.optim_cls is theirs)
        for number, each in enumerate(info.optim_inputs_func(device="cpu")):
            if not LACKING & {key for key in each.kwargs if each.kwargs[key]}:
                yield pytest.param(ours, theirs, dict(each.kwargs), id=f"{ours.__name__}-{number}-{each.desc}")


every_input = pytest.mark.parametrize(("ours", "theirs", "options"), inputs())


def pair(ours: Any, theirs: Any, options: dict[str, Any], **more: Any) -> tuple[Any, Any, nn.Module, nn.Module]:
    options = {key: value for key, value in options.items() if key not in LACKING}
    model, plain = network(), network()
    without = {"rollback_input": 0.0, "rollback_output": 0.0}
    # neither defaults to the other's rate
    optimizer = ours(model.parameters(), **{"lr": 1e-3, **options, **more}, depths=depths_of(model), **without)
    return optimizer, theirs(plain.parameters(), **{"lr": 1e-3, **options, **more}), model, plain


@every_input
@pytest.mark.parametrize("foreach", [False, True])
def test_without_rollback_it_is_torchs_bit_for_bit(ours: Any, theirs: Any, options: Any, foreach: bool) -> None:
    options = {key: value for key, value in options.items() if key != "foreach"}
    optimizer, reference, model, plain = pair(ours, theirs, options, foreach=foreach)
    train(model, optimizer, 6)
    train(plain, reference, 6)
    # a decay that is added to the gradient here and inside torch's step there: the same sum, in another order at most
    same_bits = ours is OLORAdam or not (options.get("weight_decay") and options.get("maximize"))
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p, q) if same_bits else torch.allclose(p, q, rtol=1e-6, atol=0)


@every_input
def test_saving_and_going_on(ours: Any, theirs: Any, options: Any) -> None:
    optimizer, _, model, _ = pair(ours, theirs, options)
    straight, _, straight_model, _ = pair(ours, theirs, options)
    train(straight_model, straight, 6)
    train(model, optimizer, 3)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed, _, resumed_model, _ = pair(ours, theirs, options)
    resumed_model.load_state_dict(model.state_dict())
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(resumed_model, resumed, 6, first=3)
    assert same(resumed_model, straight_model)
    assert resumed.param_groups[0].keys() == straight.param_groups[0].keys()
    again: OLOROptimizer = pickle.loads(pickle.dumps(optimizer))
    assert str(again.state_dict()["param_groups"]) == str(optimizer.state_dict()["param_groups"])


@every_input
def test_a_rate_in_a_tensor(ours: Any, theirs: Any, options: Any) -> None:
    rate = options.get("lr", 1e-3)
    plain = {key: value for key, value in options.items() if key != "lr"}
    results = []
    for lr in (float(rate), torch.tensor(float(rate), dtype=torch.float64)):
        optimizer, _, model, _ = pair(ours, theirs, {**plain, "foreach": False}, lr=lr)
        train(model, optimizer, 3)
        results.append(model)
    assert same(*results)


def errors() -> Iterator[Any]:
    for ours, theirs in PEERS.items():
        (info,) = (info for info in common_optimizers.optim_db if info.optim_cls is theirs)
        for number, each in enumerate(info.optim_error_inputs_func(device="cpu", dtype=torch.float32)):
            # a rate or betas in tensors are turned into numbers here: what torch refuses of them works
            works = (
                "Tensor" in each.error_regex
                and "1-element" not in each.error_regex
                and "iterable" not in each.error_regex
            )
            if not (works or LACKING & each.optimizer_error_input.kwargs.keys()):
                yield pytest.param(ours, each, id=f"{ours.__name__}-{number}")


@pytest.mark.parametrize(("ours", "each"), errors())
def test_what_torch_refuses_is_refused(ours: Any, each: Any) -> None:
    given = each.optimizer_error_input
    if each.error_on.name != "CONSTRUCTION_ERROR":
        pytest.skip("an error of a step on several devices")
    params = given.params if given.params is not None else [*network().parameters()]
    params = [*params] if not isinstance(params, Tensor) else params
    held = [p for group in params for p in (group["params"] if isinstance(group, dict) else [group])]
    warned = "with duplicate" in each.error_regex
    expected: Any = pytest.warns(UserWarning, match="duplicate") if warned else pytest.raises((ValueError, TypeError))
    with expected:
        ours(params, **{"lr": 1e-3, **given.kwargs}, depths={p: 0.0 for p in held if isinstance(p, Tensor)})


# --- sharded ---

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
