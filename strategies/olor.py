"""OLOR, "One step Learning, One step Review" (AAAI 2024, arXiv 2401.10962):
each step pulls a parameter back to its pretrained value.

theta_t = (1 - lambda_i) (theta_{t-1} - eta g) + lambda_i theta_0 for layer i of n, with
lambda_i = iota_2 + (1 - i/n)^gamma (iota_1 - iota_2): most rollback at the input, least at the output, and none for a
head.

:class:`OLORSGD` and :class:`OLORAdam` need torch only, and work in Avalanche as well. They are given the relative depth
i/n of each parameter. :func:`~reclaim.strategies.depths.layer_depths` reads it from the model::

    optimizer = OLORAdam(model.parameters(), lr=1e-4, depths=layer_depths(model))

Without that function, which needs Avalanche and timm, pass a dict from parameter to i/n, or a ``"depth"`` in a
parameter group. :class:`~reclaim.strategies.olor_plugin.OLORPlugin` chooses theta_0 in a stream of experiences.

Where the paper and its code disagree, an argument takes ``"paper"`` or ``"reference"`` (the authors' code).

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.adam import adam
from torch.optim.optimizer import Optimizer, ParamsT
from torch.optim.sgd import sgd

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

    ``anchors`` maps a parameter to its :class:`Anchor`. A parameter without one (a head, or one that Avalanche adds
    later) takes the plain step. The anchors are separate from ``state``, which Avalanche empties at its first
    ``train()``. ``state_dict()``, copies and pickles include both. theta_0 is a parameter's value when it was added to
    the optimizer: load pretrained weights before, or call :meth:`reset_anchors` afterwards.
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

    def __init__(self, params: ParamsT, defaults: dict[str, Any], depths: Mapping[nn.Parameter, float] | None) -> None:
        self.anchors = {}
        super().__init__(params, {**defaults, "depth": None})
        held = {p for group in self.param_groups for p in group["params"]}
        self.add_anchors({p: depth for p, depth in (depths or {}).items() if p in held})
        if not self.anchors:
            raise ValueError(
                f"{type(self).__name__} has nothing to roll back: "
                f"pass depths=layer_depths(model) of the model whose parameters it gets, "
                "or a parameter group with a 'depth'"
            )
        for group in self.param_groups:
            self.rates(group, group["params"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; if it has an entry ``depth`` (i/n), the present values of its parameters become their anchors.

        :raises ValueError: an option is out of its range, or the rollback diverges. Nothing is added then.
        """
        group = {**self.defaults, **param_group}
        if group["base_lr"] is None:
            group["base_lr"] = float(group["lr"])
        self._check(group)
        if group["depth"] is not None:
            self._rates_at(group, [_checked_depth(group["depth"])])
        param_group["base_lr"] = group["base_lr"]
        super().add_param_group(param_group)
        if group["depth"] is not None:
            self.add_anchors(dict.fromkeys(param_group["params"], group["depth"]))

    def _check(self, group: dict[str, Any]) -> None:
        for name in self._non_negative:
            if not (group[name] >= 0 and math.isfinite(group[name])):
                raise ValueError(f"{name} must be a finite number and not negative, got {group[name]}")
        for name in self._modes:
            if group[name] not in ("paper", "reference"):
                raise ValueError(f"{name} must be 'paper' or 'reference', got {group[name]!r}")

    def add_anchors(self, depths: Mapping[Any, float]) -> None:
        """Roll parameters back to their present values from now on; ``depths`` maps each to its i/n."""
        for parameter, depth in depths.items():
            self.anchors[parameter] = Anchor(_checked_depth(depth), parameter.detach().clone())

    @property
    def bytes_kept(self) -> int:
        """Bytes of all theta_0."""
        return sum(anchor.value.numel() * anchor.value.element_size() for anchor in self.anchors.values())

    def reset_anchors(self) -> None:
        """Make the present value of each anchored parameter its theta_0."""
        self.add_anchors({parameter: anchor.depth for parameter, anchor in self.anchors.items()})

    def rates(self, group: dict[str, Any], parameters: Iterable[Tensor]) -> list[float]:
        """lambda of each parameter at the group's present learning rate; 0 without an anchor.

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
        return rates

    def _scale(self, group: dict[str, Any]) -> float:
        """Factor of lambda_i at the present learning rate (F12)."""
        return 1.0 if group["rollback_decay"] == "paper" else float(group["lr"]) / self._positive_base_lr(group)

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
        :raises ValueError: see :meth:`rates`.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if any(p.grad.is_sparse for p in params):
                raise ValueError(f"{type(self).__name__} takes dense gradients only: make the layer with sparse=False")
            foreach = group["foreach"]
            if foreach is None:
                foreach = len({(p.device, p.dtype) for p in params}) == 1
            self._step_group(group, params, self.rates(group, params), foreach)
        return loss

    @abstractmethod
    def _step_group(self, group: dict[str, Any], params: list[Tensor], rates: list[float], foreach: bool) -> None:
        """Train and roll back the parameters of a group that have a gradient."""

    def _roll_back(self, params: list[Tensor], rates: list[float], foreach: bool) -> None:
        rated = [(p, rate) for p, rate in zip(params, rates, strict=True) if rate]
        roll_back(
            [p for p, _ in rated], [self._anchor_value(p) for p, _ in rated], [rate for _, rate in rated], foreach
        )

    def _anchor_value(self, parameter: Tensor) -> Tensor:
        """theta_0 on the parameter's device: Avalanche moves a model to its device after the optimizer was made."""
        anchor = self.anchors[parameter]
        if (anchor.value.device, anchor.value.dtype) != (parameter.device, parameter.dtype):
            anchor = self.anchors[parameter] = anchor._replace(value=anchor.value.to(parameter.detach()))
        return anchor.value

    def state_dict(self) -> dict[str, Any]:
        """torch's dictionary, plus ``anchors``: the ``depth`` and ``value`` (theta_0) of each anchored
        parameter by its number.
        """
        state_dict = super().state_dict()
        numbered = self._numbered(state_dict)
        return {
            **state_dict,
            "anchors": {number: self.anchors[p]._asdict() for number, p in numbered.items() if p in self.anchors},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned. Its anchors replace the present ones.

        :raises ValueError: the state is that of another kind of optimizer, or of other parameters. Nothing is loaded
            then.
        """
        if "anchors" not in state_dict:
            raise ValueError(
                f"this state holds no 'anchors', so it is not one of {type(self).__name__}: load it into what made it"
            )
        numbered = self._numbered(state_dict)
        for number, anchor in state_dict["anchors"].items():
            have = tuple(numbered[number].shape) if number in numbered else None
            if have != tuple(anchor["value"].shape):
                raise ValueError(
                    f"the anchor of parameter {number} has shape {tuple(anchor['value'].shape)}, the parameter "
                    f"{'is missing' if have is None else f'has {have}'}: "
                    f"build the optimizer with the groups that the state was made with"
                )
        super().load_state_dict(state_dict)
        self.anchors = {
            numbered[number]: Anchor(anchor["depth"], anchor["value"].to(numbered[number].detach(), copy=True))
            for number, anchor in state_dict["anchors"].items()
        }

    def _numbered(self, state_dict: dict[str, Any]) -> dict[int, Tensor]:
        numbers = (number for group in state_dict["param_groups"] for number in group["params"])
        return dict(zip(numbers, (p for group in self.param_groups for p in group["params"]), strict=False))

    def __getstate__(self) -> dict[str, Any]:
        # torch pickles only defaults, state and groups
        return {**super().__getstate__(), "anchors": self.anchors}  # type: ignore[misc]


def _checked_depth(depth: float) -> float:
    if not (depth >= 0 and math.isfinite(depth)):
        raise ValueError(f"a depth is i/n, from 0 (input) to 1 (output), got {depth}")
    return float(depth)


class OLORSGD(OLOROptimizer):
    """SGD with rollback. Without any rollback it is ``torch.optim.SGD``, bit for bit.

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
    :param base_lr: the initial learning rate; ``lr`` by default.
    :param foreach: fused steps; by default if all tensors of a group have the same device and dtype.
    :raises ValueError: an option is out of its range, lambda > 2, or there is nothing to roll back.
    """

    _non_negative = (*OLOROptimizer._non_negative, "momentum")
    _modes = (*OLOROptimizer._modes, "gradient_damping", "lr_factor", "momentum_average")

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
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
        foreach: bool | None = None,
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
            "foreach": foreach,
        }
        super().__init__(params, defaults, depths)

    def _scale(self, group: dict[str, Any]) -> float:
        return 1.0 / self._positive_base_lr(group) if group["lr_factor"] == "reference" else super()._scale(group)

    def _step_group(self, group: dict[str, Any], params: list[Tensor], rates: list[float], foreach: bool) -> None:
        momentum, averaged = group["momentum"], group["momentum_average"] == "reference"
        grads = [p.grad for p in params if p.grad is not None]
        if group["weight_decay"]:
            # not in torch's step: weight decay must use theta_{t-1}, even if the rollback comes first
            grads = [g.add(p, alpha=group["weight_decay"]) for g, p in zip(grads, params, strict=True)]
        buffers: list[Tensor | None] = [self.state[p].get("momentum_buffer") if momentum else None for p in params]
        if momentum and averaged:
            # torch would start with m = g
            buffers = [torch.zeros_like(p) if m is None else m for m, p in zip(buffers, params, strict=True)]
        if group["gradient_damping"] == "reference":
            self._roll_back(params, rates, foreach)
        sgd(
            params,
            grads,
            buffers,
            foreach=foreach,
            fused=False,
            weight_decay=0.0,
            momentum=momentum,
            lr=float(group["lr"]),
            dampening=momentum if averaged else 0.0,
            nesterov=False,
            maximize=False,
        )
        if group["gradient_damping"] == "paper":
            self._roll_back(params, rates, foreach)
        if momentum:
            for p, buffer in zip(params, buffers, strict=True):
                self.state[p]["momentum_buffer"] = buffer


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
    :param base_lr: the initial learning rate; ``lr`` by default.
    :param foreach: fused steps; by default if all tensors of a group have the same device and dtype.
    :raises ValueError: an option is out of its range, lambda > 2, or there is nothing to roll back.
    """

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
        rollback_input: float = 0.01,
        rollback_output: float = 0.0,
        rollback_power: float = 1.0,
        rollback_decay: Mode = "reference",
        base_lr: float | None = None,
        foreach: bool | None = None,
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
            "foreach": foreach,
        }
        super().__init__(params, defaults, depths)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if not all(0 <= beta < 1 for beta in group["betas"]):
            raise ValueError(f"betas must be at least 0 and below 1, got {group['betas']}")

    def _step_group(self, group: dict[str, Any], params: list[Tensor], rates: list[float], foreach: bool) -> None:
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p),
                }
        beta1, beta2 = group["betas"]
        adam(
            params,
            [p.grad for p in params if p.grad is not None],
            [self.state[p]["exp_avg"] for p in params],
            [self.state[p]["exp_avg_sq"] for p in params],
            [],
            [self.state[p]["step"] for p in params],
            foreach=foreach,
            fused=False,
            has_complex=any(p.is_complex() for p in params),
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=float(group["lr"]),
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        self._roll_back(params, rates, foreach)
