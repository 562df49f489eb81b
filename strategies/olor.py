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
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT
from torch.optim.sgd import sgd

from .depths import layer_depths as layer_depths  # one import has all that a fine-tuning script needs

Mode = Literal["paper", "reference"]


def rollback_rate(depth: float, rollback_input: float, rollback_output: float, rollback_power: float) -> float:
    """lambda_i = iota_2 + (1 - i/n)^gamma (iota_1 - iota_2).

    :param depth: i/n, 0 at the input and 1 at the output. Above 1 it counts as 1. In the published code the base falls
        just below zero there, and its fractional power is complex (F11).
    """
    return rollback_output + max(0.0, 1.0 - depth) ** rollback_power * (rollback_input - rollback_output)


def roll_back(params: Sequence[Tensor], anchors: Sequence[Tensor], rates: Sequence[float], foreach: bool) -> None:
    """theta <- (1 - lambda) theta + lambda theta_0, in place; exact at lambda = 0 and at lambda = 1.

    :param params: tensors theta; ``anchors``: theta_0 of the same shapes; ``rates``: lambda of each.
    :param foreach: one fused call for all tensors of the same lambda, instead of one call each.
    """
    if not foreach:
        for param, anchor, rate in zip(params, anchors, rates, strict=True):
            param.lerp_(anchor, rate)
        return
    # Grouped by rate: older versions of torch take only one weight per call. The tensors of a layer have the same rate.
    same_rate: dict[float, tuple[list[Tensor], list[Tensor]]] = defaultdict(lambda: ([], []))
    for param, anchor, rate in zip(params, anchors, rates, strict=True):
        same_rate[rate][0].append(param)
        same_rate[rate][1].append(anchor)
    for rate, (some_params, their_anchors) in same_rate.items():
        torch._foreach_lerp_(some_params, their_anchors, rate)


class Anchor(NamedTuple):
    """What a parameter is pulled to (``value``, theta_0) and its position in the model (``depth``, i/n)."""

    depth: float
    value: Tensor


class OLOROptimizer(Optimizer, ABC):
    """Base class of :class:`OLORSGD` and :class:`OLORAdam`: the anchors, and the rate of the rollback at each step.

    :attr:`anchors` maps a parameter to its :class:`Anchor`. A parameter without one (a head, or one that Avalanche adds
    later) takes the plain step. theta_0 is a parameter's value when it was added to the optimizer: load pretrained
    weights before, or call :meth:`reset_anchors` afterwards. Depths that are given for parameters that join later (by
    ``add_param_group``, or put into a group) are remembered until then.

    theta_0 and depth also are in ``state``, so that they go where momentum goes: into ``state_dict()``, sharded and
    distributed checkpoints. Where ``state`` was emptied, as Avalanche does at its first ``train()``, they are put back
    at the next step; where it was filled from elsewhere, what is in it counts.

    A step at a learning rate of 0 moves nothing, in either mode of ``rollback_decay``:
    ``torch.distributed.checkpoint`` makes one to fill the state. In weights of 16 bits a rollback is mostly smaller
    than half a unit of the last digit and would be lost; anchored ones take their step in 32 bits, with moments in 32
    bits, and are rounded stochastically, by torch's global random numbers. The step is not compiled: it runs as it is
    inside code that ``torch.compile`` compiles.
    """

    _kind: ClassVar[tuple[str, ...]] = ("rollback_input", "rollback_power")
    _non_negative: ClassVar[tuple[str, ...]] = (
        "lr",
        "base_lr",
        "rollback_input",
        "rollback_output",
        "rollback_power",
        "weight_decay",
    )
    _modes: ClassVar[tuple[str, ...]] = ("rollback_decay",)
    _later: ClassVar[dict[str, Any]] = {"maximize": False, "stochastic_rounding": True}
    """Options that states of earlier versions lack."""

    def __init__(self, params: ParamsT, defaults: dict[str, Any], depths: Mapping[nn.Parameter, float] | None) -> None:
        self._anchors: dict[Tensor, Anchor] = {}
        self._depths = {p: _checked_depth(depth) for p, depth in (depths or {}).items()}
        self._warned = False
        super().__init__(params, {**defaults, "depth": None})
        if not self.anchors:
            raise ValueError(
                f"{type(self).__name__} has nothing to roll back: "
                f"pass depths=layer_depths(model) of the model whose parameters it gets, "
                "or a parameter group with a 'depth'"
            )
        for group in self.param_groups:
            self.rates(group, group["params"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group. The present values of its parameters become their anchors, of those that have a depth: by an
        entry ``depth`` (i/n) of the group, or by the ``depths`` that the optimizer was built with.

        :raises ValueError: an option is out of its range or not one of this optimizer's, or the rollback diverges.
            Nothing is added then.
        """
        group = {**self.defaults, **param_group}
        if group["base_lr"] is None:
            group["base_lr"] = float(group["lr"])
        self._check(group)
        if group["depth"] is not None:
            self._rates_at(group, [_checked_depth(group["depth"])])
        param_group["base_lr"] = group["base_lr"]
        super().add_param_group(param_group)
        depths = {p: self._depths.get(p, group["depth"]) for p in param_group["params"]}
        self.add_anchors({p: depth for p, depth in depths.items() if depth is not None})

    def _check(self, group: dict[str, Any]) -> None:
        for name in self._non_negative:
            if not (group[name] >= 0 and math.isfinite(group[name])):
                raise ValueError(f"{name} must be a finite number and not negative, got {group[name]}")
        for name in self._modes:
            if group[name] not in ("paper", "reference"):
                raise ValueError(f"{name} must be 'paper' or 'reference', got {group[name]!r}")
        for name in ("fused", "capturable", "differentiable"):
            if group.get(name):
                raise ValueError(f"{type(self).__name__} has no {name} step: leave out {name}={group[name]!r}")

    @property
    def anchors(self) -> Mapping[Tensor, Anchor]:
        """Parameter -> what it is pulled to; changed by the three methods below."""
        return MappingProxyType(self._anchors)

    def add_anchors(self, depths: Mapping[Any, float]) -> None:
        """Roll parameters back to their present values from now on; ``depths`` maps each to its i/n."""
        for parameter, depth in depths.items():
            self._anchors[parameter] = Anchor(_checked_depth(depth), parameter.detach().clone())
            self.state.get(parameter, {}).pop("anchor", None)

    def pass_anchors(self, successors: Mapping[Tensor, Tensor]) -> None:
        """theta_0 and depth of each parameter go to the one of the same shape that has taken its place in the groups.

        :param successors: old parameter, which has an anchor -> new parameter.
        """
        for old, new in successors.items():
            self._anchors[new] = self._anchors.pop(old)

    @property
    def bytes_kept(self) -> int:
        """Bytes of all theta_0."""
        return sum(anchor.value.numel() * anchor.value.element_size() for anchor in self.anchors.values())

    def reset_anchors(self) -> None:
        """Make the present value of each anchored parameter its theta_0."""
        self.add_anchors({parameter: anchor.depth for parameter, anchor in self.anchors.items()})

    def rates(self, group: dict[str, Any], parameters: Iterable[Tensor]) -> list[float]:
        """lambda of each parameter at the group's present learning rate; 0 without an anchor, or at a rate of 0.

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
        return rates if float(group["lr"]) else [0.0] * len(rates)

    def _scale(self, group: dict[str, Any]) -> float:
        """Factor of lambda_i at the present learning rate (F12)."""
        if group["rollback_decay"] == "paper":
            return 1.0
        lr, base_lr = float(group["lr"]), self._positive_base_lr(group)
        # timm's schedulers multiply a group's lr_scale (layer decay) into lr: the rollback follows the schedule alone
        scale = lr / (base_lr * group.get("lr_scale", 1.0)) if lr != base_lr else 1.0
        if scale > 1 and not self._warned:
            self._warned = True
            warnings.warn(
                f"lambda is {scale:.4g} times what is given, because the learning rate is {lr:g} and was {base_lr:g} "
                "at first: pass the learning rate for which lambda is given as base_lr",
                stacklevel=2,
            )
        return scale

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
        :raises ValueError: see :meth:`rates`; also for sparse gradients. No parameter has moved then.
        :raises RuntimeError: all parameters that are pulled back have been replaced in the groups. If only some have, a
            warning says so, and they are forgotten.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step()
        return loss

    @torch._disable_dynamo
    def _step(self) -> None:
        self._settle()
        stepping = []
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse for p in params):
                raise ValueError(f"{type(self).__name__} takes dense gradients only: make the layer with sparse=False")
            stepping.append((group, params, self.rates(group, params)))
        for group, params, rates in stepping:
            for p in params:
                if p in self.anchors:
                    self.state[p].update(anchor=self.anchors[p].value, depth=self.anchors[p].depth)
            coarse = [group["stochastic_rounding"] and p in self.anchors and p.dtype in _DROPPED_BITS for p in params]
            for in_32_bits in (False, True):
                some = [i for i, is_coarse in enumerate(coarse) if is_coarse == in_32_bits]
                if some:
                    self._step_some(group, [params[i] for i in some], [rates[i] for i in some], in_32_bits)

    def _step_some(self, group: dict[str, Any], params: list[Tensor], rates: list[float], in_32_bits: bool) -> None:
        grads = [p.grad for p in params if p.grad is not None]
        values, anchors = params, [self.anchors[p].value if rate else p for p, rate in zip(params, rates, strict=True)]
        if in_32_bits:
            values, grads, anchors = ([tensor.float() for tensor in tensors] for tensors in (values, grads, anchors))
        foreach = group["foreach"]
        if foreach is None:
            foreach = len({(p.device, p.dtype) for p in params}) == 1
        if group["maximize"]:
            grads = [-grad for grad in grads]
        rated = [i for i, rate in enumerate(rates) if rate]

        def rollback() -> None:
            roll_back([values[i] for i in rated], [anchors[i] for i in rated], [rates[i] for i in rated], foreach)

        self._step_group(group, [self.state[p] for p in params], values, grads, foreach, rollback)
        if in_32_bits:
            for p, value in zip(params, values, strict=True):
                p.copy_(round_stochastically(value, p.dtype))

    @abstractmethod
    def _step_group(
        self,
        group: dict[str, Any],
        states: list[dict[str, Any]],
        values: list[Tensor],
        grads: list[Tensor],
        foreach: bool,
        rollback: Callable[[], None],
    ) -> None:
        """Train the tensors ``values`` in place, and call ``rollback``, which pulls them to theta_0 in place.

        ``states`` (of the parameters, filled here) and ``grads`` have their order.
        """

    def _settle(self) -> None:
        """Bring anchors, groups and state to agree: anchor what has joined, take what was loaded into the state."""
        missing = dict.fromkeys(self.anchors)
        for group in self.param_groups:
            for p in group["params"]:
                missing.pop(p, None)
                state = self.state.get(p, {})
                anchor = self.anchors.get(p)
                if "anchor" in state and (anchor is None or state["anchor"] is not anchor.value):
                    anchor = self._anchors[p] = Anchor(float(state["depth"]), state["anchor"])
                elif anchor is None and p in self._depths:
                    self.add_anchors({p: self._depths[p]})
                # Avalanche moves a model to its device after the optimizer was made
                if anchor and (anchor.value.device, anchor.value.dtype) != (p.device, p.dtype):
                    self._anchors[p] = anchor._replace(value=anchor.value.to(p.detach()))
        if missing and len(missing) == len(self.anchors):
            raise RuntimeError(
                f"none of the {len(missing)} parameters that {type(self).__name__} pulls back is in its groups any "
                "more: they were replaced after the optimizer was built. Build it anew, after the model is wrapped, "
                "sharded or rebuilt, replace the values in place (parameter.data.copy_), or call "
                "pass_anchors({old: new})"
            )
        if missing:
            shapes = ", ".join(str(tuple(p.shape)) for p in list(missing)[:3])
            warnings.warn(
                f"{len(missing)} of the {len(self.anchors)} parameters that {type(self).__name__} pulls back are in "
                f"none of its groups any more (of shape {shapes}): what has replaced them, such as a classifier that "
                "grew, is trained without rollback. Leave classifiers out of depths",
                stacklevel=2,
            )
            for p in missing:
                del self._anchors[p]

    def state_dict(self) -> dict[str, Any]:
        """torch's dictionary. The state of each anchored parameter has ``anchor`` (theta_0) and its ``depth``, also
        before its first step.
        """
        state_dict = super().state_dict()
        state = {**state_dict["state"]}
        for number, p in self._numbered(state_dict).items():
            if p in self.anchors:
                anchor = self.anchors[p]
                state[number] = {**state.get(number, {}), "anchor": anchor.value, "depth": anchor.depth}
        return {**state_dict, "state": state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned. Its anchors replace the present ones; options that it lacks take their
        defaults.

        :raises ValueError: the state is that of another kind of optimizer, or of other parameters, or has no theta_0.
            Nothing is loaded then.
        """
        name = type(self).__name__
        for group in state_dict["param_groups"]:
            if missing := [option for option in self._kind if option not in group]:
                raise ValueError(
                    f"this state has no {missing[0]!r}, so it is not one of {name}: load it into what made it"
                )
        # earlier versions kept the anchors beside the state
        state = {number: {**of_one} for number, of_one in state_dict["state"].items()}
        for number, anchor in state_dict.get("anchors", {}).items():
            state.setdefault(number, {}).update(anchor=anchor["value"], depth=anchor["depth"])
        numbered = self._numbered(state_dict)
        anchored = {number: of_one for number, of_one in state.items() if "anchor" in of_one}
        if self.anchors and not anchored:
            raise ValueError(
                f"this state has no 'anchor' (theta_0) of any parameter, to which {name} pulls them: it was saved "
                "without. Load the pretrained weights, build the optimizer, and then load the trained weights"
            )
        for number, of_one in anchored.items():
            have = tuple(numbered[number].shape) if number in numbered else None
            if have != tuple(of_one["anchor"].shape):
                raise ValueError(
                    f"the anchor of parameter {number} has shape {tuple(of_one['anchor'].shape)}, the parameter "
                    f"{'is missing' if have is None else f'has {have}'}: "
                    f"build the optimizer with the groups that the state was made with"
                )
        super().load_state_dict({**{k: v for k, v in state_dict.items() if k != "anchors"}, "state": state})
        self._anchors = {p: anchor for p, anchor in self.anchors.items() if p not in self.state}
        for number, of_one in state.items():
            p = numbered[number]
            for key, value in of_one.items():
                # torch casts the state to the parameter's type; a step in 32 bits keeps its own
                if key != "anchor" and isinstance(value, Tensor) and p.dtype in _DROPPED_BITS:
                    self.state[p][key] = value.to(p.device if key != "step" else value.device)
            if "anchor" in of_one:
                self.state[p]["anchor"] = of_one["anchor"].to(p.detach(), copy=True)
                self._anchors[p] = Anchor(float(of_one["depth"]), self.state[p]["anchor"])

    def _numbered(self, state_dict: dict[str, Any]) -> dict[Any, Tensor]:
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        return dict(zip(numbers, (p for group in self.param_groups for p in group["params"]), strict=False))

    def __getstate__(self) -> dict[str, Any]:
        # torch pickles only defaults, state and groups
        own = {"_anchors": self._anchors, "_depths": self._depths, "_warned": self._warned}
        return {**super().__getstate__(), **own}  # type: ignore[misc]

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "anchors" in state:  # of an earlier version
            state = {**state, "_anchors": state.pop("anchors")}
        state = {"_depths": {}, "_warned": False, **self.__dict__, **state}
        options = {**self._later, **state["defaults"]}  # torch adds options of its own
        super().__setstate__(state)
        for group in self.param_groups:
            for option, value in options.items():
                group.setdefault(option, value)
            if group["base_lr"] is None:
                group["base_lr"] = float(group.get("initial_lr", group["lr"]))


def _checked_depth(depth: float) -> float:
    if not (depth >= 0 and math.isfinite(depth)):
        raise ValueError(f"a depth is i/n, from 0 (input) to 1 (output), got {depth}")
    return float(depth)


_DROPPED_BITS = {torch.bfloat16: 16, torch.float16: 13}
"""Bits of a float32's fraction that a type lacks."""


def round_stochastically(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` (float32) in bfloat16 or float16: up or down with a probability that makes the mean right.

    Numbers below float16's normal range are rounded to the nearest.
    """
    dropped = 1 << _DROPPED_BITS[dtype]
    noise = torch.randint(dropped, value.shape, dtype=torch.int32, device=value.device)
    rounded = ((value.view(torch.int32) + noise) & -dropped).view(torch.float32)
    return torch.where(value.isfinite(), rounded, value).to(dtype)


class OLORSGD(OLOROptimizer):
    """SGD with rollback. Without any rollback it is ``torch.optim.SGD``, bit for bit.

    :param params: parameters, or groups of them; each option below can be given per group.
    :param lr: learning rate eta.
    :param depths: i/n of each parameter to be rolled back, from :func:`~reclaim.strategies.depths.layer_depths`. An
        entry ``depth`` of a group is the depth of all its parameters.
    :param momentum: beta of the momentum; ``dampening`` and ``nesterov`` as in torch.
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
    :param maximize: climb instead of descending.
    :param base_lr: the learning rate for which lambda is given; ``lr`` by default. Pass the peak if ``lr`` is a
        placeholder that a scheduler replaces.
    :param stochastic_rounding: for anchored weights of 16 bits, see :class:`OLOROptimizer`.
    :param foreach: fused steps; by default if all tensors of a group have the same device and dtype.
    :raises ValueError: an option is out of its range, lambda > 2, or there is nothing to roll back.
    """

    _kind = (*OLOROptimizer._kind, "momentum")
    _later: ClassVar[dict[str, Any]] = {**OLOROptimizer._later, "dampening": 0.0, "nesterov": False}
    _non_negative = (*OLOROptimizer._non_negative, "momentum")
    _modes = (*OLOROptimizer._modes, "gradient_damping", "lr_factor", "momentum_average")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        depths: Mapping[nn.Parameter, float] | None = None,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
        weight_decay: float = 0.0,
        rollback_input: float = 0.01,
        rollback_output: float = 0.0,
        rollback_power: float = 1.0,
        rollback_decay: Mode = "reference",
        gradient_damping: Mode = "paper",
        lr_factor: Mode = "paper",
        momentum_average: Mode = "paper",
        base_lr: float | None = None,
        stochastic_rounding: bool = True,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "base_lr": base_lr,
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "maximize": maximize,
            "weight_decay": weight_decay,
            "rollback_input": rollback_input,
            "rollback_output": rollback_output,
            "rollback_power": rollback_power,
            "rollback_decay": rollback_decay,
            "gradient_damping": gradient_damping,
            "lr_factor": lr_factor,
            "momentum_average": momentum_average,
            "stochastic_rounding": stochastic_rounding,
            "foreach": foreach,
        }
        super().__init__(params, defaults, depths)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        averaged = group["momentum_average"] == "reference"
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0 or averaged):
            raise ValueError(
                f"nesterov needs a momentum and no dampening, got momentum {group['momentum']} and "
                f"{'momentum_average=reference' if averaged else 'dampening ' + str(group['dampening'])}"
            )

    def _scale(self, group: dict[str, Any]) -> float:
        return 1.0 / self._positive_base_lr(group) if group["lr_factor"] == "reference" else super()._scale(group)

    def _step_group(
        self,
        group: dict[str, Any],
        states: list[dict[str, Any]],
        values: list[Tensor],
        grads: list[Tensor],
        foreach: bool,
        rollback: Callable[[], None],
    ) -> None:
        momentum, averaged = group["momentum"], group["momentum_average"] == "reference"
        if group["weight_decay"]:
            # not in torch's step: weight decay must use theta_{t-1}, even if the rollback comes first
            grads = [g.add(value, alpha=group["weight_decay"]) for g, value in zip(grads, values, strict=True)]
        buffers: list[Tensor | None] = [state.get("momentum_buffer") if momentum else None for state in states]
        if momentum and averaged:
            # torch would start with m = g
            buffers = [torch.zeros_like(value) if m is None else m for m, value in zip(buffers, values, strict=True)]
        if group["gradient_damping"] == "reference":
            rollback()
        sgd(
            values,
            grads,
            buffers,
            foreach=foreach,
            fused=False,
            weight_decay=0.0,
            momentum=momentum,
            lr=float(group["lr"]),
            dampening=momentum if averaged else group["dampening"],
            nesterov=group["nesterov"],
            maximize=False,
        )
        if group["gradient_damping"] == "paper":
            rollback()
        if momentum:
            for state, buffer in zip(states, buffers, strict=True):
                state["momentum_buffer"] = buffer


class OLORAdam(OLOROptimizer):
    """Adam with rollback. Without any rollback it is ``torch.optim.Adam``, bit for bit.

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
    :param amsgrad: divide by the largest mean square so far.
    :param maximize: climb instead of descending.
    :param base_lr: the learning rate for which lambda is given; ``lr`` by default. Pass the peak if ``lr`` is a
        placeholder that a scheduler replaces.
    :param stochastic_rounding: for anchored weights of 16 bits, see :class:`OLOROptimizer`.
    :param foreach: fused steps; by default if all tensors of a group have the same device and dtype.
    :raises ValueError: an option is out of its range, lambda > 2, or there is nothing to roll back.
    """

    _kind = (*OLOROptimizer._kind, "betas")
    _later: ClassVar[dict[str, Any]] = {**OLOROptimizer._later, "amsgrad": False}
    _non_negative = (*OLOROptimizer._non_negative, "eps")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-4,
        depths: Mapping[nn.Parameter, float] | None = None,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        rollback_input: float = 0.01,
        rollback_output: float = 0.0,
        rollback_power: float = 1.0,
        rollback_decay: Mode = "reference",
        base_lr: float | None = None,
        stochastic_rounding: bool = True,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "base_lr": base_lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "rollback_input": rollback_input,
            "rollback_output": rollback_output,
            "rollback_power": rollback_power,
            "rollback_decay": rollback_decay,
            "stochastic_rounding": stochastic_rounding,
            "foreach": foreach,
        }
        super().__init__(params, defaults, depths)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if not all(0 <= beta < 1 for beta in group["betas"]):
            raise ValueError(f"betas must be at least 0 and below 1, got {group['betas']}")

    def _step_group(
        self,
        group: dict[str, Any],
        states: list[dict[str, Any]],
        values: list[Tensor],
        grads: list[Tensor],
        foreach: bool,
        rollback: Callable[[], None],
    ) -> None:
        for state, value in zip(states, values, strict=True):
            if "step" not in state:
                state.update(
                    # float32 whatever the default type is: a 16-bit counter would stick
                    step=torch.tensor(0.0, dtype=torch.float32),
                    exp_avg=torch.zeros_like(value),
                    exp_avg_sq=torch.zeros_like(value),
                )
            if group["amsgrad"] and "max_exp_avg_sq" not in state:
                state["max_exp_avg_sq"] = torch.zeros_like(value)
        beta1, beta2 = group["betas"]
        adam(
            values,
            grads,
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
            [state["step"] for state in states],
            foreach=foreach,
            fused=False,
            has_complex=any(value.is_complex() for value in values),
            amsgrad=group["amsgrad"],
            beta1=float(beta1),
            beta2=float(beta2),
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        rollback()
