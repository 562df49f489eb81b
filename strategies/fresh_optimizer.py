"""A new optimizer for each experience, as in the code of all three papers. Avalanche keeps the old one."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class FreshOptimizer(SupervisedPlugin[Any]):
    """Before each experience, empties the optimizer's state, resets the learning rates and starts a new schedule.

    The rates are those that each group had when this plugin first saw it in this optimizer. Another optimizer, of a
    second strategy or set as ``strategy.optimizer``, has rates of its own.

    :param schedule: makes a torch scheduler from the optimizer and the number of scheduler steps in this experience
        (``lambda optimizer, steps: CosineAnnealingLR(optimizer, steps)``); no schedule by default.
    :param every: whether the scheduler steps after each "epoch" or after each "iteration".
    :raises ValueError: ``every`` is neither of them; while training, parameter groups have been removed.
    """

    def __init__(
        self,
        schedule: Callable[[Optimizer, int], LRScheduler] | None = None,
        every: Literal["epoch", "iteration"] = "epoch",
    ) -> None:
        super().__init__()
        if every not in ("epoch", "iteration"):
            raise ValueError(f"every must be 'epoch' or 'iteration', got {every!r}")
        self.schedule = schedule
        self.every = every
        self._optimizer: Optimizer | None = None  # whose first rates these are
        self._first_lrs: list[float] = []
        self._scheduler: LRScheduler | None = None
        self._planned: int | None = None  # steps of the scheduler, until the first epoch begins

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        optimizer = strategy.optimizer
        groups = optimizer.param_groups
        if optimizer is not self._optimizer:
            self._optimizer, self._first_lrs = optimizer, []
            self._warn_of_a_schedule_that_has_run(groups)
        if len(groups) < len(self._first_lrs):
            raise ValueError(
                f"FreshOptimizer has seen {len(self._first_lrs)} parameter groups in this optimizer, which now has "
                f"{len(groups)}: it cannot tell whose rates are whose; make a new optimizer instead"
            )
        optimizer.state = defaultdict(dict)
        # Groups are matched by position. For a group added since the last experience, its present rate is its first
        # one.
        self._first_lrs += [float(group["lr"]) for group in groups[len(self._first_lrs) :]]
        self._begin(strategy)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        # plugins listed later may have taken another loader, as Replay does
        if self._planned is not None and self._planned != self._steps(strategy):
            self._begin(strategy)
        self._planned = None

    def _begin(self, strategy: Any) -> None:
        """Set the rates, and start a schedule."""
        groups, self._planned = strategy.optimizer.param_groups, self._steps(strategy)
        for group, lr in zip(groups, self._start(strategy), strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(lr)
            else:
                group["lr"] = lr
            if self.schedule is not None:
                # Where a new schedule begins. Other schedulers may read it: it must not be missing.
                group["initial_lr"] = lr
        self._scheduler = None
        if self.schedule is not None and self._planned:
            self._scheduler = self.schedule(strategy.optimizer, self._planned)

    def _steps(self, strategy: Any) -> int:
        """The scheduler's in this experience."""
        return int(strategy.train_epochs * (len(strategy.dataloader) if self.every == "iteration" else 1))

    def _start(self, strategy: Any) -> list[float]:
        """The rates that the groups of this experience start from."""
        return self._first_lrs

    def _warn_of_a_schedule_that_has_run(self, groups: list[dict[str, Any]]) -> None:
        rates = [(float(group["lr"]), float(group.get("initial_lr", group["lr"]))) for group in groups]
        for lr, initial in rates if self.schedule is not None else ():
            if lr != initial:
                warnings.warn(
                    f"a schedule has run on this optimizer: a group has lr={lr:g}, and initial_lr={initial:g}. "
                    f"FreshOptimizer starts every experience from {lr:g}: set group['lr'] first if that is wrong",
                    stacklevel=4,
                )
                return

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._scheduler is not None and self.every == "iteration":
            self._scheduler.step()

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._scheduler is not None and self.every == "epoch":
            self._scheduler.step()
