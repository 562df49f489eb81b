"""OLOR, "One step Learning, One step Review" (AAAI 2024, arXiv 2401.10962):
each step pulls a parameter back to its pretrained value.

theta_t = (1 - lambda_i) (theta_{t-1} - eta g) + lambda_i theta_0 for layer i of n, with
lambda_i = iota_2 + (1 - i/n)^gamma (iota_1 - iota_2): most rollback at the input, least at the output, and none for a
head.

:class:`OLORSGD` and :class:`OLORAdam` need torch only, and work in Avalanche as well. They are given the relative depth
i/n of each parameter. :func:`~reclaim.strategies.depths.layer_depths` reads it from the model::

    optimizer = OLORAdam(model.parameters(), lr=1e-4, depths=layer_depths(model))

Or pass a dict from parameter to i/n of your own, or a ``"depth"`` in a parameter group.
:class:`~reclaim.strategies.olor_plugin.OLORPlugin` chooses theta_0 in a stream of experiences.

Where the paper and its code disagree, an argument takes ``"paper"`` or ``"reference"`` (the authors' code).

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT, _get_scalar_dtype
from torch.optim.sgd import sgd
from torch.utils._foreach_utils import _get_fused_kernels_supported_devices

from .depths import layer_depths as layer_depths  # one import has all that a fine-tuning script needs

Mode = Literal["paper", "reference"]
Rate = float | Tensor
"""Lambda of a parameter: a number, or a tensor of no dimensions where it hangs on a learning rate on a GPU."""


def rollback_rate(depth: float, rollback_input: float, rollback_output: float, rollback_power: float) -> float:
    """lambda_i = iota_2 + (1 - i/n)^gamma (iota_1 - iota_2).

    :param depth: i/n, 0 at the input and 1 at the output. Above 1 it counts as 1. In the published code the base falls
        just below zero there, and its fractional power is complex (F11).
    """
    return rollback_output + max(0.0, 1.0 - depth) ** rollback_power * (rollback_input - rollback_output)


def roll_back(params: Sequence[Tensor], anchors: Sequence[Tensor], rates: Sequence[Rate], foreach: bool) -> None:
    """theta <- (1 - lambda) theta + lambda theta_0, in place; exact at lambda = 0 and at lambda = 1.

    :param params: tensors theta; ``anchors``: theta_0 of the same shapes; ``rates``: lambda of each.
    :param foreach: one call for all tensors instead of one each; for rates that are numbers.
    """
    if not foreach:
        for param, anchor, rate in zip(params, anchors, rates, strict=True):
            param.lerp_(anchor, rate.to(param) if isinstance(rate, Tensor) else rate)
        return
    if params:
        torch._foreach_lerp_(list(params), list(anchors), list(rates))  # type: ignore[arg-type]


def _roll_back_exactly(param: Tensor, anchor: Tensor, rate: Rate, remainder: Tensor) -> None:
    """:func:`roll_back` in float32 for a ``param`` of lower precision; ``remainder`` keeps what its rounding loses."""
    exact = (param.float() + remainder).lerp_(anchor.float(), rate)
    param.copy_(exact)
    remainder.copy_(exact.sub_(param))


class Anchor(NamedTuple):
    """What a parameter is pulled to (``value``, theta_0) and its position in the model (``depth``, i/n)."""

    depth: float
    value: Tensor


class OLOROptimizer(Optimizer, ABC):
    """Base class of :class:`OLORSGD` and :class:`OLORAdam`: the anchors, and the rate of the rollback at each step.

    ``anchors`` maps a parameter to its :class:`Anchor`. A parameter without one (a head, or one that Avalanche adds
    later) takes the plain step. theta_0 is a parameter's value when it was added to the optimizer: load pretrained
    weights before, or call :meth:`reset_anchors` afterwards. ``depths`` may name parameters that are not in the
    optimizer yet (gradual unfreezing): each gets its anchor when it joins.

    From its first step on, ``state`` of a parameter has its ``anchor`` (theta_0) and ``depth`` as well: what saves or
    shards ``state`` takes them along, and what loads it brings them back. ``anchors`` survives those who empty
    ``state``, as Avalanche does at its first ``train()``. ``state_dict()``, copies and pickles include both.

    A parameter object that is replaced in its group (as helpers of FSDP2 do) hands its anchor on to the one in its
    place. One of another shape, as of a classifier that grew, takes the plain step, and a warning says so.

    A step at the learning rate 0 moves nothing. By the paper's formula with a constant lambda it would roll back, but
    ``torch.distributed.checkpoint`` takes such steps only to fill ``state``.

    The rollback of bfloat16 and float16 parameters is computed in float32; ``remainder`` in their ``state`` keeps what
    their own precision cannot hold, else small lambdas would be lost in rounding. The rest of the step is torch's.
    """

    anchors: dict[Tensor, Anchor]
    _non_negative: ClassVar[tuple[str, ...]] = (
        "lr",
        "base_lr",
        "rollback_input",
        "rollback_output",
        "rollback_power",
        "weight_decay",
    )
    _modes: ClassVar[tuple[str, ...]] = ("rollback_decay",)
    # an option that tells this class from others, in the states of all versions
    _own_option: ClassVar[str]
    _warned = False

    def __init__(self, params: ParamsT, defaults: dict[str, Any], depths: Mapping[nn.Parameter, float] | None) -> None:
        self.anchors = {}
        # Depths of parameters that have not joined yet.
        self._waiting: dict[Tensor, float] = {p: _checked_depth(depth) for p, depth in (depths or {}).items()}
        # The parameters of each group when last looked at.
        self._places: list[list[Tensor]] = []
        super().__init__(params, {**defaults, "depth": None})
        if not self.anchors:
            raise ValueError(
                f"{type(self).__name__} has nothing to roll back: "
                f"pass depths=layer_depths(model) of the model whose parameters it gets, "
                "or a parameter group with a 'depth'"
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. The present values of its parameters that have a depth become their anchors; an entry ``depth``
        (i/n) is the depth of those that ``depths`` did not name.

        :raises ValueError: an option is out of its range, or the rollback diverges. Nothing is added then.
        """
        self._attach()
        group = {**self.defaults, **param_group}
        if group["base_lr"] is None:
            group["base_lr"] = _one_number("lr", group["lr"])
        self._check(group)
        depth = None if group["depth"] is None else _checked_depth(group["depth"])
        if not isinstance(group["params"], (Tensor, set)):  # torch takes the one and refuses the other
            group["params"] = list(group["params"])
        members = [group["params"]] if isinstance(group["params"], Tensor) else group["params"]
        parameters = [p[1] if isinstance(p, tuple) else p for p in members]
        depths = {p: self._waiting.get(p, depth) for p in parameters}
        self._rates_at(group, list(depths.values()))
        super().add_param_group(group)
        self.add_anchors({p: depth for p, depth in depths.items() if depth is not None})
        self._places.append(list(self.param_groups[-1]["params"]))

    def _check(self, group: dict[str, Any]) -> None:
        name = type(self).__name__
        for option in self._non_negative:
            if not 0 <= _one_number(option, group[option]) < math.inf:
                raise ValueError(f"{option} must be a finite number and not negative, got {group[option]}")
        for option in self._modes:
            if group[option] not in ("paper", "reference"):
                raise ValueError(f"{option} must be 'paper' or 'reference', got {group[option]!r}")
        if group.get("differentiable"):
            raise ValueError(f"{name} has no differentiable={group['differentiable']!r}: leave it out")
        if group["foreach"] and group["fused"]:
            raise ValueError("foreach=True and fused=True exclude each other: leave one out")
        if group.get("capturable") and (group["foreach"] or group["fused"] is False):
            raise ValueError(
                f"capturable=True takes torch's fused step, got foreach={group['foreach']} and fused={group['fused']}: "
                "leave them out"
            )

    def add_anchors(self, depths: Mapping[Any, float]) -> None:
        """Roll parameters back to their present values from now on; ``depths`` maps each to its i/n.

        :raises ValueError: a depth is out of its range. No anchor is changed then.
        """
        anchors = {p: Anchor(_checked_depth(depth), p.detach().clone()) for p, depth in depths.items()}
        for parameter, anchor in anchors.items():
            self.anchors[parameter] = anchor
            self._waiting.pop(parameter, None)
            # The next step writes the new anchor there, with nothing left of the old one.
            for entry in ("anchor", "depth", "remainder"):
                self.state.get(parameter, {}).pop(entry, None)

    @property
    def bytes_kept(self) -> int:
        """Bytes of all theta_0."""
        return sum(anchor.value.numel() * anchor.value.element_size() for anchor in self.anchors.values())

    def reset_anchors(self) -> None:
        """Make the present value of each anchored parameter its theta_0.

        :raises ValueError: see :meth:`step`.
        """
        self._attach()
        self.add_anchors({parameter: anchor.depth for parameter, anchor in self.anchors.items()})

    @torch.no_grad()
    def _attach(self) -> None:
        """Bring ``anchors`` up to date with what others did to the groups and to ``state``."""
        held = {p for group in self.param_groups for p in group["params"]}
        known = {p for place in self._places for p in place}
        replaced = [
            (old, new)
            for place, group in zip(self._places, self.param_groups, strict=False)
            for old, new in zip(place, group["params"], strict=False)
            if old in self.anchors
            and old not in held
            and new not in known
            # one with a depth or an anchor of its own is another layer's, as in gradual unfreezing
            and new not in self.anchors
            and new not in self._waiting
        ]
        for old, new in replaced:
            if old.shape == new.shape:
                self.anchors[new] = self.anchors.pop(old)
            else:
                del self.anchors[old]
            self.state.pop(old, None)
        if others := [f"{tuple(old.shape)} by {tuple(new.shape)}" for old, new in replaced if old.shape != new.shape]:
            warnings.warn(
                f"parameters that {type(self).__name__} pulls back were replaced by others of another shape "
                f"({', '.join(others[:3])}), which are trained without rollback: give a classifier that grows no depth",
                stacklevel=2,
            )
        for p in (p for group in self.param_groups for p in group["params"]):
            state = self.state.get(p) or {}
            if "anchor" in state:
                if p not in self.anchors or self.anchors[p].value is not state["anchor"]:
                    self.anchors[p] = Anchor(state["depth"], state["anchor"])
            elif p in self._waiting and p not in self.anchors:
                self.add_anchors({p: self._waiting[p]})
        self._places = [list(group["params"]) for group in self.param_groups]

    def rates(self, group: dict[str, Any], parameters: Iterable[Tensor]) -> list[float]:
        """lambda of each parameter at the group's present learning rate; 0 without an anchor, and where that is 0.

        :raises ValueError: the rollback diverges (lambda > 2), or is undefined because the learning rate started at 0.
        """
        return self._rates_at(group, [self.anchors[p].depth if p in self.anchors else None for p in parameters])

    def _rates_at(self, group: dict[str, Any], depths: Sequence[float | None]) -> list[float]:
        if all(depth is None for depth in depths):
            return [0.0] * len(depths)
        options = group["rollback_input"], group["rollback_output"], group["rollback_power"]
        scale = self._scale(group)
        rates = [0.0 if depth is None else scale * rollback_rate(depth, *options) for depth in depths]
        if max(rates) > 2:
            raise ValueError(
                f"a rollback of {max(rates):.4g} diverges, it must not exceed 2: "
                f"lower rollback_input ({options[0]:g}) and rollback_output "
                f"({options[1]:g}), or the factor {scale:.4g} that comes of lr {float(group['lr']):g} and base_lr "
                f"{group['base_lr']:g}"
            )
        if max(rates) > 0 and scale > 1.001 and self._follows_lr(group) and not self._warned:
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}: lr {float(group['lr']):g} is {scale:.4g} times base_lr {group['base_lr']:g} "
                "(times the group's lr_scale), so lambda is as many times what was asked for: pass base_lr, the "
                "highest rate of the schedule before any lr_scale, or rollback_decay='paper'",
                stacklevel=2,
            )
        return rates if float(group["lr"]) else [0.0] * len(depths)

    def _rates_on_device(self, group: dict[str, Any], parameters: Iterable[Tensor]) -> list[Rate]:
        """:meth:`rates` where the learning rate may be a tensor on a GPU, whose value is not looked at: nothing waits
        for it, and a captured graph follows it. A rollback that diverges is not noticed then.
        """
        depths = [self.anchors[p].depth if p in self.anchors else None for p in parameters]
        lr = group["lr"]
        if not isinstance(lr, Tensor) or all(depth is None for depth in depths):
            return [*self._rates_at(group, depths)]
        options = group["rollback_input"], group["rollback_output"], group["rollback_power"]
        at_base = [
            0.0 if depth is None else self._scale({**group, "lr": group["base_lr"]}) * rollback_rate(depth, *options)
            for depth in depths
        ]
        if self._follows_lr(group):
            factor = torch.where(lr == group["base_lr"], 1.0, lr / (group["base_lr"] * group.get("lr_scale", 1.0)))
        else:
            factor = (lr != 0).float()
        of_rate = {rate: factor * rate for rate in set(at_base) if rate}
        return [of_rate.get(rate, 0.0) for rate in at_base]

    def _follows_lr(self, group: dict[str, Any]) -> bool:
        """Whether lambda is relative to the learning rate (F12)."""
        return bool(group["rollback_decay"] == "reference")

    def _scale(self, group: dict[str, Any]) -> float:
        """Factor of lambda_i at the present learning rate (F12)."""
        if not self._follows_lr(group):
            return 1.0
        lr, base_lr = float(group["lr"]), self._positive_base_lr(group)
        # Layer decay: a schedule multiplies the rates by lr_scale. Before it has, and without one, they are base_lr.
        return lr / (base_lr if lr == base_lr else base_lr * group.get("lr_scale", 1.0))

    @staticmethod
    def _positive_base_lr(group: dict[str, Any]) -> float:
        if group["base_lr"] == 0:
            raise ValueError(
                "the rollback is relative to the initial learning rate, which is 0: pass base_lr, "
                "or rollback_decay='paper'"
            )
        return float(group["base_lr"])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every parameter that has a gradient. The others are neither trained nor rolled back.

        :param closure: evaluates the model and returns the loss.
        :raises ValueError: see :meth:`rates`; a gradient is sparse; a complex parameter with ``fused``; or no
            parameter with a depth is in the groups any more. No parameter is changed then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for work in self._checked_work():
            self._step_group(*work)
        return loss

    @torch._disable_dynamo
    def _checked_work(self) -> list[tuple[dict[str, Any], list[Tensor], list[dict[str, Any]], list[Rate]]]:
        """Per group, the arguments of :meth:`_step_group`: checked for all groups before any is changed."""
        self._attach()
        if not any(p in self.anchors for group in self.param_groups for p in group["params"]):
            raise ValueError(
                f"none of the parameters that {type(self).__name__} pulls back is in its groups any more: they were "
                "taken out, or replaced by others elsewhere or of another shape; build it on the parameters that are "
                "trained"
            )
        work = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse for p in params):
                raise ValueError(f"{type(self).__name__} takes dense gradients only: make the layer with sparse=False")
            options = {**group, **_kind_of_step(group, params)}
            if options["fused"] and not all(p.is_floating_point() for p in params):
                raise ValueError("fused=True is for real floating-point parameters only: leave it out")
            if options["fused"] and not all(_layout(p) for p in params):
                raise ValueError(
                    "torch's fused step takes a parameter for one piece of memory, and one here is a part of another, "
                    "or transposed: leave out fused and capturable, or make it contiguous"
                )
            if options["foreach"]:
                # torch's foreach steps do not take it as a tensor
                options["lr"] = float(options["lr"])
            of_group = self._rates_on_device if group["capturable"] else self.rates
            work.append((options, params, [*of_group(group, params)]))
        for options, params, _ in work:
            for p in params:
                self._fill_state(options, p)
        return [(options, params, [self.state[p] for p in params], rates) for options, params, rates in work]

    def _fill_state(self, group: dict[str, Any], parameter: Tensor) -> None:
        """Put into ``state`` what a step of this parameter needs and what is not there yet: at least an empty entry,
        because torch's distributed checkpoints want one of each parameter if there is any.
        """
        state = self.state.setdefault(parameter, {})
        if group["fused"]:  # a state may be of another layout: of a model in channels_last, or of one that was not
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[key] = _laid_like(value, parameter)
        if parameter in self.anchors:
            anchor = self.anchors[parameter]
            value = _placed_like(anchor.value, parameter)
            if value is not anchor.value:
                self.anchors[parameter] = anchor._replace(value=value)
            state["anchor"], state["depth"] = value, anchor.depth
            if parameter.dtype not in (torch.bfloat16, torch.float16):
                state.pop("remainder", None)
            elif "remainder" not in state:
                state["remainder"] = torch.zeros_like(parameter)

    @abstractmethod
    def _step_group(
        self, group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]], rates: list[Rate]
    ) -> None:
        """Train and roll back the parameters of a group that have a gradient."""

    @torch._disable_dynamo
    def _roll_back(
        self, group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]], rates: list[Rate]
    ) -> None:
        rated = [
            (p, state, rate)
            for p, state, rate in zip(params, states, rates, strict=True)
            if isinstance(rate, Tensor) or rate
        ]
        for p, state, rate in rated:
            if "remainder" in state:
                _roll_back_exactly(p, state["anchor"], rate, state["remainder"])
        rated = [entry for entry in rated if "remainder" not in entry[1]]
        roll_back(
            [p for p, _, _ in rated],
            [state["anchor"] for _, state, _ in rated],
            [rate for _, _, rate in rated],
            (group["foreach"] or group["fused"]) and not any(isinstance(rate, Tensor) for _, _, rate in rated),
        )

    def state_dict(self) -> dict[str, Any]:
        """torch's dictionary; the ``state`` of each anchored parameter has its ``anchor`` (theta_0) and ``depth``.

        :raises ValueError: see :meth:`step`.
        """
        self._attach()
        state_dict = super().state_dict()
        state = state_dict["state"]
        for number, p in enumerate(p for group in self.param_groups for p in group["params"]):
            if p in self.anchors:
                anchor = self.anchors[p]
                state[number] = {**state.get(number, {}), "anchor": anchor.value, "depth": anchor.depth}
        return state_dict

    @torch._disable_dynamo
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned. Its anchors replace the present ones; a parameter of which it has
        nothing at all (as of a frozen one in ``torch.distributed.checkpoint``) keeps its own.

        :raises ValueError: the state is that of another kind of optimizer, or of other parameters, or an option is out
            of its range. Nothing is loaded then.
        """
        self._attach()
        for number, (group, saved) in enumerate(zip(self.param_groups, state_dict["param_groups"], strict=False)):
            own, others = group.get("param_names"), saved.get("param_names")
            if own and others and own != others and sorted(own) == sorted(others):
                name, other = next((a, b) for a, b in zip(own, others, strict=True) if a != b)
                raise ValueError(
                    f"group {number} has {name!r} where the state has {other!r}: build the optimizer with the "
                    "parameters in the order of the state, else each would be pulled to the weights of another"
                )
        if "anchors" in state_dict:  # beside the state, as version 0.1.0 was before its release
            state = dict(state_dict["state"])
            for number, anchor in state_dict["anchors"].items():
                state[number] = {**state.get(number, {}), "anchor": anchor["value"], "depth": anchor["depth"]}
            state_dict = {**state_dict, "state": state}
        super().load_state_dict(state_dict)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Called by copies and pickles, and by torch's ``load_state_dict`` with what it is about to put in place."""
        if "anchors" not in state:
            state = {**state, "anchors": self._loaded_anchors(state["state"], state["param_groups"])}
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._places = [list(group["params"]) for group in self.param_groups]

    def _loaded_anchors(self, state: dict[Any, Any], groups: list[dict[str, Any]]) -> dict[Tensor, Anchor]:
        """The anchors after loading, once all is checked. Options that an older state lacks get their defaults."""
        name = type(self).__name__
        for number, group in enumerate(groups):
            for option in ("rollback_input", self._own_option):
                if option not in group:
                    raise ValueError(
                        f"this state is not one of {name}, group {number} has no {option!r}: load it into the kind of "
                        "optimizer that made it"
                    )
        anchors = {p: anchor for p, anchor in self.anchors.items() if p not in state}
        for number, p in enumerate(p for group in groups for p in group["params"]):
            entries = state.get(p, {})
            if "anchor" not in entries:
                continue
            if entries["anchor"].shape != p.shape:
                raise ValueError(
                    f"the anchor of parameter {number} has shape {tuple(entries['anchor'].shape)}, the parameter has "
                    f"{tuple(p.shape)}: build the optimizer with the groups that the state was made with"
                )
            anchors[p] = Anchor(_checked_depth(entries["depth"]), entries["anchor"].clone())
        if not any("anchor" in state.get(p, {}) for group in groups for p in group["params"]):
            raise ValueError(f"this state holds no theta_0 ('anchor'), so it is not a whole one of {name}")
        for group in groups:
            for option, value in self.defaults.items():
                group.setdefault(option, value)
            if group["base_lr"] is None:
                group["base_lr"] = float(group.get("initial_lr", group["lr"]))
            self._check(group)
            self._rates_at(group, [anchors[p].depth if p in anchors else None for p in group["params"]])
        for p, anchor in anchors.items():
            if p in state:
                state[p]["anchor"] = anchor.value
        return anchors

    def __getstate__(self) -> dict[str, Any]:
        # torch pickles only defaults, state and groups
        return {**super().__getstate__(), "anchors": self.anchors, "_waiting": self._waiting}  # type: ignore[misc]


def _gradients(group: dict[str, Any], params: Sequence[Tensor]) -> list[Tensor]:
    grads = [p.grad for p in params if p.grad is not None]
    return [_laid_like(g, p) for g, p in zip(grads, params, strict=True)] if group["fused"] else grads


def _kind_of_step(group: dict[str, Any], params: Sequence[Tensor]) -> dict[str, bool]:
    """``fused`` and ``foreach`` of a group's step, where neither was asked for: see :class:`OLORAdam`."""
    fused, foreach = group["fused"], group["foreach"]
    if group["capturable"]:
        fused = True
    same = len({(type(p), p.device, p.dtype) for p in params}) == 1
    if fused is None and not foreach:
        fused = (
            foreach is None
            and same
            and type(params[0]) in (Tensor, nn.Parameter)
            and params[0].dtype in (torch.float32, torch.float64)
            and params[0].device.type in _get_fused_kernels_supported_devices()
            and all(map(_layout, params))
        )
    if foreach is None:
        foreach = same and not fused and not isinstance(group["lr"], Tensor)
    return {"fused": bool(fused), "foreach": bool(foreach)}


def _layout(parameter: Tensor) -> torch.memory_format | None:
    """In which order its elements lie in memory without gaps; ``None``: in neither of torch's."""
    if parameter.is_contiguous():
        return torch.contiguous_format
    if parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last):
        return torch.channels_last
    return None


def _laid_like(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` in the layout of ``parameter``: torch's fused steps count elements as they lie in memory."""
    layout = _layout(parameter)
    return (
        value if layout is None or value.is_contiguous(memory_format=layout) else value.contiguous(memory_format=layout)
    )


def _placed_like(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` with the device, dtype and sharding of ``parameter``: models move after their optimizers were made."""
    if (value.device, value.dtype) != (parameter.device, parameter.dtype):
        value = value.to(device=parameter.device, dtype=parameter.dtype)
    if hasattr(parameter, "placements") and not hasattr(value, "placements"):
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, parameter.device_mesh, parameter.placements)  # type: ignore[attr-defined]
    return value


def _one_number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{name} must be one number, got a tensor of shape {tuple(value.shape)}")
    return float(value)


def _checked_depth(depth: float) -> float:
    if not (depth >= 0 and math.isfinite(depth)):
        raise ValueError(f"a depth is i/n, from 0 (input) to 1 (output), got {depth}")
    return float(depth)


class OLORSGD(OLOROptimizer):
    """SGD with rollback. Without any rollback it is ``torch.optim.SGD(fused=True)``, bit for bit, and without ``fused``
    the plain one.

    :param params: parameters, or groups of them; each option below can be given per group.
    :param lr: learning rate eta.
    :param depths: i/n of each parameter to be rolled back, from :func:`~reclaim.strategies.depths.layer_depths`. An
        entry ``depth`` of a group is the depth of all its parameters.
    :param momentum: beta of the momentum.
    :param weight_decay: factor of the L2 term in the gradient; OLOR uses none.
    :param rollback_input: iota_1, lambda at the input: 0 is no rollback, 1 goes back to theta_0 in one step, above 2 it
        diverges.
    :param rollback_output: iota_2, lambda at the output.
    :param rollback_power: gamma.
    :param rollback_decay: F12. ``"reference"``: lambda is given for the initial learning rate and scales with it;
        ``"paper"``: lambda is constant.
    :param gradient_damping: F9. ``"paper"``: 1 - lambda also damps the gradient step; ``"reference"``: it does not,
        theta_t = (1 - lambda) theta_{t-1} + lambda theta_0 - eta g.
    :param lr_factor: F10. ``"paper"``: lambda as with Adam; ``"reference"``: as the authors' script passes it to their
        SGD, divided by the initial learning rate, and constant for either ``rollback_decay``.
    :param momentum_average: ``"paper"``: torch's momentum, m = beta m + g; ``"reference"``: the published code's
        running mean, m = beta m + (1 - beta) g.
    :param base_lr: the learning rate that lambda is given for: the highest of the schedule. By default ``lr``; pass it
        if ``lr`` is a placeholder that the schedule replaces, else lambda is as many times too large (above 1.001 times
        there is a warning). In a group with ``lr_scale`` (layer decay of timm, BEiT and MAE, whose schedules multiply
        by it) it is the rate before that factor, so lambda does not depend on it.
    :param nesterov: torch's Nesterov momentum; needs ``momentum`` and ``momentum_average="paper"``.
    :param maximize: go up the gradient, not down.
    :param fused: torch's fused step, then the rollback of all tensors in one call. By default if all tensors of a
        group have the same type, device and dtype, which is float32 or float64. Its sums are rounded in another order
        than those of the other two, so results differ by some 1e-7 of a weight in float32.
    :param foreach: torch's step for many tensors at once; by default where ``fused`` is ``False``, or the dtype has 16
        bits, and all tensors of a group have the same type, device and dtype. With neither: one tensor after the
        other.
    :param capturable: the step can be captured in a CUDA graph: it is the fused one, and a learning rate given as a
        tensor is never read by the CPU, so nothing waits for the GPU. That lambda is at most 2, and ``base_lr`` large
        enough, is then checked only when the optimizer is made or loaded.
    :param differentiable: refused.
    :raises ValueError: an option is out of its range or refused, lambda > 2, or there is nothing to roll back.
    """

    _own_option = "momentum"
    _non_negative = (*OLOROptimizer._non_negative, "momentum")
    _modes = (*OLOROptimizer._modes, "gradient_damping", "lr_factor", "momentum_average")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        depths: Mapping[nn.Parameter, float] | None = None,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        rollback_input: float = 0.01,
        rollback_output: float = 0.0,
        rollback_power: float = 1.0,
        rollback_decay: Mode = "reference",
        gradient_damping: Mode = "paper",
        lr_factor: Mode = "paper",
        momentum_average: Mode = "paper",
        base_lr: float | None = None,
        nesterov: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "base_lr": base_lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "rollback_input": rollback_input,
            "rollback_output": rollback_output,
            "rollback_power": rollback_power,
            "rollback_decay": rollback_decay,
            "gradient_damping": gradient_damping,
            "lr_factor": lr_factor,
            "momentum_average": momentum_average,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, depths)

    def _follows_lr(self, group: dict[str, Any]) -> bool:
        return group["lr_factor"] == "paper" and super()._follows_lr(group)

    def _scale(self, group: dict[str, Any]) -> float:
        return 1.0 / self._positive_base_lr(group) if group["lr_factor"] == "reference" else super()._scale(group)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if group["nesterov"] and not (group["momentum"] and group["momentum_average"] == "paper"):
            raise ValueError(
                "nesterov=True needs a momentum above 0 with momentum_average='paper', got "
                f"{group['momentum']} with {group['momentum_average']!r}"
            )

    def _fill_state(self, group: dict[str, Any], parameter: Tensor) -> None:
        super()._fill_state(group, parameter)
        if group["momentum"] and group["momentum_average"] == "reference":
            # torch would start with m = g
            self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))

    def _step_group(
        self, group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]], rates: list[Rate]
    ) -> None:
        momentum, averaged = group["momentum"], group["momentum_average"] == "reference"
        grads = _gradients(group, params)
        if group["maximize"]:
            grads = [-g for g in grads]
        if group["weight_decay"]:
            # not in torch's step: weight decay must use theta_{t-1}, even if the rollback comes first
            grads = [g.add(p, alpha=group["weight_decay"]) for g, p in zip(grads, params, strict=True)]
        buffers: list[Tensor | None] = [state.get("momentum_buffer") if momentum else None for state in states]
        if group["gradient_damping"] == "reference":
            self._roll_back(group, params, states, rates)
        started = [buffer is not None for buffer in buffers]
        # torch's fused step begins all momenta or none, but a parameter may get its first gradient later than others
        for now in {False, True} if group["fused"] and any(started) and not all(started) else {None}:
            chosen = [i for i, has_begun in enumerate(started) if now in (None, has_begun)]
            of_chosen = [buffers[i] for i in chosen]
            sgd(
                [params[i] for i in chosen],
                [grads[i] for i in chosen],
                of_chosen,
                foreach=group["foreach"],
                fused=group["fused"],
                weight_decay=0.0,
                momentum=momentum,
                lr=group["lr"],
                dampening=momentum if averaged else 0.0,
                nesterov=group["nesterov"],
                maximize=False,
            )
            for i, buffer in zip(chosen, of_chosen, strict=True):
                buffers[i] = buffer
        if group["gradient_damping"] == "paper":
            self._roll_back(group, params, states, rates)
        if momentum:
            for state, buffer in zip(states, buffers, strict=True):
                state["momentum_buffer"] = buffer


class OLORAdam(OLOROptimizer):
    """Adam with rollback. Without any rollback it is ``torch.optim.Adam(fused=True)``, bit for bit, and without
    ``fused`` the plain one.

    :param params: parameters, or groups of them; each option below can be given per group.
    :param lr: learning rate eta; the paper's is 1e-4 for a ViT.
    :param depths: i/n of each parameter to be rolled back, from :func:`~reclaim.strategies.depths.layer_depths`. An
        entry ``depth`` of a group is the depth of all its parameters.
    :param betas: factors of the running means of the gradient and of its square.
    :param eps: added to the root of the latter.
    :param weight_decay: factor of the L2 term in the gradient; OLOR uses none.
    :param rollback_input: iota_1, lambda at the input: 0 is no rollback, 1 goes back to theta_0 in one step, above 2 it
        diverges.
    :param rollback_output: iota_2, lambda at the output.
    :param rollback_power: gamma.
    :param rollback_decay: F12. ``"reference"``: lambda is given for the initial learning rate and scales with it;
        ``"paper"``: lambda is constant.
    :param base_lr: the learning rate that lambda is given for: the highest of the schedule. By default ``lr``; pass it
        if ``lr`` is a placeholder that the schedule replaces, else lambda is as many times too large (above 1.001 times
        there is a warning). In a group with ``lr_scale`` (layer decay of timm, BEiT and MAE, whose schedules multiply
        by it) it is the rate before that factor, so lambda does not depend on it.
    :param amsgrad: divide by the largest running mean of the squares so far.
    :param maximize: go up the gradient, not down.
    :param fused: torch's fused step, then the rollback of all tensors in one call. By default if all tensors of a
        group have the same type, device and dtype, which is float32 or float64. Its sums are rounded in another order
        than those of the other two, so results differ by some 1e-7 of a weight in float32.
    :param foreach: torch's step for many tensors at once; by default where ``fused`` is ``False``, or the dtype has 16
        bits, and all tensors of a group have the same type, device and dtype. With neither: one tensor after the
        other.
    :param capturable: the step can be captured in a CUDA graph: it is the fused one, and a learning rate given as a
        tensor is never read by the CPU, so nothing waits for the GPU. That lambda is at most 2, and ``base_lr`` large
        enough, is then checked only when the optimizer is made or loaded.
    :param differentiable: refused.
    :raises ValueError: an option is out of its range or refused, lambda > 2, or there is nothing to roll back.
    """

    _own_option = "betas"
    _non_negative = (*OLOROptimizer._non_negative, "eps")

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        depths: Mapping[nn.Parameter, float] | None = None,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rollback_input: float = 0.01,
        rollback_output: float = 0.0,
        rollback_power: float = 1.0,
        rollback_decay: Mode = "reference",
        base_lr: float | None = None,
        amsgrad: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "base_lr": base_lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rollback_input": rollback_input,
            "rollback_output": rollback_output,
            "rollback_power": rollback_power,
            "rollback_decay": rollback_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "fused": fused,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults, depths)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if any(isinstance(beta, Tensor) for beta in group["betas"]):
            raise ValueError(f"betas must be numbers, not tensors, got {group['betas']}")
        if not all(0 <= beta < 1 for beta in group["betas"]):
            raise ValueError(f"betas must be at least 0 and below 1, got {group['betas']}")

    def _fill_state(self, group: dict[str, Any], parameter: Tensor) -> None:
        super()._fill_state(group, parameter)
        state = self.state[parameter]
        if "step" not in state:
            device = parameter.device if group["fused"] else "cpu"
            state["step"] = torch.zeros((), dtype=_get_scalar_dtype(group["fused"]), device=device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        elif group["fused"] and (state["step"].device, state["step"].dtype) != (parameter.device, torch.float32):
            # of a state that another kind of step has left
            state["step"] = state["step"].to(parameter.device, torch.float32)
        if group["amsgrad"] and "max_exp_avg_sq" not in state:
            state["max_exp_avg_sq"] = torch.zeros_like(parameter)

    def _step_group(
        self, group: dict[str, Any], params: list[Tensor], states: list[dict[str, Any]], rates: list[Rate]
    ) -> None:
        beta1, beta2 = group["betas"]
        adam(
            params,
            _gradients(group, params),
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            foreach=group["foreach"],
            fused=group["fused"],
            has_complex=any(p.is_complex() for p in params),
            amsgrad=group["amsgrad"],
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            # what torch.compile needs for many tensors in one call
            capturable=group["foreach"] and torch.compiler.is_compiling(),
        )
        self._roll_back(group, params, states, rates)
