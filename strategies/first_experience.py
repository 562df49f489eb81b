"""Training in the first experience only: first-session adaptation, as RanPAC and APER have it."""

from __future__ import annotations

from typing import Any

from avalanche.training.plugins import SupervisedPlugin

from .runs import experiences_before


class FirstExperienceOnly(SupervisedPlugin[Any]):
    """Ends every experience but the first before its first step. What is fitted to an experience afterwards, such as
    heads in closed form, is fitted as always.

    What is the first experience the strategy's clock and the stream say; where each delivery is a stream of its own,
    the clock. What trains in it, this plugin does not decide.
    """

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if experiences_before(strategy) > 0:
            strategy.stop_training()
