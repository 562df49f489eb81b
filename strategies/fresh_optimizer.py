"""A new optimizer for each experience, as in the code of all three papers. Avalanche keeps the old one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

from avalanche.training.plugins import SupervisedPlugin
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class FreshOptimizer(SupervisedPlugin[Any]):
    """Before each experience, empties the optimizer's state, resets the learning rates and starts a new schedule.

    :param schedule: makes a torch scheduler from the optimizer and the number of scheduler steps in this experience
        (``lambda optimizer, steps: CosineAnnealingLR(optimizer, steps)``); no schedule by default.
    :param every: whether the scheduler steps after each "epoch" or after each "iteration".
    :raises ValueError: ``every`` is neither of them.
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
        self._first_lrs: list[float] = []
        self._scheduler: LRScheduler | None = None

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        optimizer = strategy.optimizer
        optimizer.state = defaultdict(dict)
        # Groups are matched by position. For a group added since the last experience, its present rate is its first
        # one.
        self._first_lrs += [group["lr"] for group in optimizer.param_groups[len(self._first_lrs) :]]
        for group, lr in zip(optimizer.param_groups, self._first_lrs, strict=True):
            group["lr"] = lr
            group.pop("initial_lr", None)
        if self.schedule is not None:
            steps = strategy.train_epochs * (len(strategy.dataloader) if self.every == "iteration" else 1)
            self._scheduler = self.schedule(optimizer, steps)

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._scheduler is not None and self.every == "iteration":
            self._scheduler.step()

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._scheduler is not None and self.every == "epoch":
            self._scheduler.step()
