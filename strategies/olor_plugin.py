"""What OLOR (arXiv 2401.10962) pulls the weights back to in a stream of experiences, which the paper does not have."""

from __future__ import annotations

from typing import Any, Literal, cast

from avalanche.training.plugins import SupervisedPlugin
from torch import nn

from .olor import OLOROptimizer


class OLORPlugin(SupervisedPlugin[Any]):
    """Chooses what theta_0 is in a stream of experiences.

    The strategy's optimizer must be an :class:`~reclaim.strategies.olor.OLORSGD` or an
    :class:`~reclaim.strategies.olor.OLORAdam`. The paper has a single task, so both choices are Reclaim's own. To start
    each experience with empty momentum as well, add :class:`~reclaim.strategies.fresh_optimizer.FreshOptimizer`.

    Where another plugin replaces the model, as Avalanche's GDumb does, theta_0 of a parameter passes to the one of the
    same name.

    :param anchor: ``"pretrained"``: theta_0 stays what the optimizer was built with, as it does without this plugin.
        ``"previous"``: theta_0 becomes the weights at the start of each experience.
    :raises ValueError: ``anchor`` is neither of them; while training, a parameter with a theta_0 is gone from the model
        and no other of its name and shape is in the optimizer.
    :raises TypeError: when training starts with another optimizer.
    """

    def __init__(self, anchor: Literal["pretrained", "previous"] = "pretrained") -> None:
        super().__init__()
        if anchor not in ("pretrained", "previous"):
            raise ValueError(f"anchor must be 'pretrained' or 'previous', got {anchor!r}")
        self.anchor = anchor
        self._names: dict[nn.Parameter, str] = {}  # of the parameters at the last experience

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        _optimizer_of(strategy)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        optimizer = _optimizer_of(strategy)
        self._follow_replaced_parameters(optimizer, strategy.model)
        if self.anchor == "previous":
            optimizer.reset_anchors()

    def _follow_replaced_parameters(self, optimizer: OLOROptimizer, model: nn.Module) -> None:
        held = {p for group in optimizer.param_groups for p in group["params"]}
        named = dict(model.named_parameters())
        successors: dict[Any, nn.Parameter] = {}
        for old in set(optimizer.anchors) - held - set(named.values()):
            name = self._names.get(cast(nn.Parameter, old))
            new = None if name is None else named.get(name)
            if new is None or new not in held or new.shape != old.shape:
                raise ValueError(
                    f"the optimizer has a theta_0 for {name or 'a parameter'} of shape {tuple(old.shape)}, "
                    f"which is not in the model, and neither is another of this name and shape in the optimizer: "
                    f"make a new optimizer for this model, with depths=layer_depths(model)"
                )
            successors[old] = new
        for old, new in successors.items():
            optimizer.anchors[new] = optimizer.anchors.pop(old)
        self._names = {parameter: name for name, parameter in named.items()}


def _optimizer_of(strategy: Any) -> OLOROptimizer:
    optimizer = strategy.optimizer
    if not isinstance(optimizer, OLOROptimizer):
        raise TypeError(
            f"OLORPlugin needs OLORSGD or OLORAdam as the strategy's optimizer, got {type(optimizer).__name__}: "
            "build it with depths=layer_depths(model)"
        )
    return optimizer
