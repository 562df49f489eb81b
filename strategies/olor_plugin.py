"""What OLOR (arXiv 2401.10962) pulls the weights back to in a stream of experiences, which the paper does not have."""

from __future__ import annotations

from typing import Any, Literal

from avalanche.training.plugins import SupervisedPlugin

from .olor import OLOROptimizer


class OLORPlugin(SupervisedPlugin[Any]):
    """Chooses what theta_0 is in a stream of experiences.

    The strategy's optimizer must be an :class:`~reclaim.strategies.olor.OLORSGD` or an
    :class:`~reclaim.strategies.olor.OLORAdam`. The paper has a single task, so both choices are Reclaim's own. To start
    each experience with empty momentum as well, add :class:`~reclaim.strategies.fresh_optimizer.FreshOptimizer`.

    :param anchor: ``"pretrained"``: theta_0 stays what the optimizer was built with, as it does without this plugin.
        ``"previous"``: theta_0 becomes the weights at the start of each experience.
    :raises ValueError: ``anchor`` is neither of them.
    :raises TypeError: when training starts with another optimizer.
    """

    def __init__(self, anchor: Literal["pretrained", "previous"] = "pretrained") -> None:
        super().__init__()
        if anchor not in ("pretrained", "previous"):
            raise ValueError(f"anchor must be 'pretrained' or 'previous', got {anchor!r}")
        self.anchor = anchor

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        optimizer = strategy.optimizer
        if not isinstance(optimizer, OLOROptimizer):
            raise TypeError(
                f"OLORPlugin needs OLORSGD or OLORAdam as the strategy's optimizer, got {type(optimizer).__name__}: "
                "build it with depths=layer_depths(model)"
            )
        if self.anchor == "previous":
            optimizer.reset_anchors()
