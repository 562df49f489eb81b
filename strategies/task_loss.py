"""Criteria that use only the current experience's classes, as the code of SLCA and aEPG does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.nn import functional as F

from .runs import classes_of


class TaskLoss(nn.Module, SupervisedPlugin[Any], ABC):
    """A criterion and Avalanche plugin: while training, it sees only the logits of the current experience's classes.

    Pass it to a strategy as its criterion. Avalanche then registers it as a plugin, too. In evaluation, and outside
    Avalanche, it uses all logits. An online stream that gives no access to the tasks' boundaries does not tell their
    classes: there it sees only those of the images at hand.

    :param restrict: ``False`` uses all logits in training as well. A replay buffer needs that.
    :raises ValueError: a target is not among the current experience's classes: at once on a CPU, after the epoch on
        other devices, so that no step waits for the device.
    """

    def __init__(self, restrict: bool = True) -> None:
        nn.Module.__init__(self)
        SupervisedPlugin.__init__(self)
        self.restrict = restrict
        self._classes: Tensor | None = None
        self._foreign: Tensor | None = None  # a target, or -1
        self._evaluating = False

    @property
    def reduction(self) -> str:
        """Always "mean", over the batch.

        :raises ValueError: when it is set to anything else.
        """
        return "mean"

    @reduction.setter
    def reduction(self, reduction: str) -> None:
        if reduction != "mean":
            raise ValueError(
                f"{type(self).__name__} is the mean over the batch, got reduction={reduction!r}: "
                f"multiply by the batch's size for a sum, or pass the images one by one"
            )

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (N, C) and class indices (N,): a scalar."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of logits (N, classes) and class ids (N,): a scalar."""
        if self._classes is not None and not self._evaluating:
            classes = self._classes = self._classes.to(logits.device)
            position = torch.searchsorted(classes, targets).clamp_(max=len(classes) - 1)
            foreign = torch.where(classes[position] != targets, targets, -1).max()
            self._foreign = foreign if self._foreign is None else torch.maximum(self._foreign, foreign)
            if logits.device.type == "cpu":
                self._require_own()
            logits, targets = logits[:, classes], position
        return self.loss(logits, targets)

    def _require_own(self) -> None:
        foreign, self._foreign = self._foreign, None
        if self._classes is not None and foreign is not None and foreign >= 0:
            raise ValueError(
                f"target {int(foreign)} is not among the classes of the current experience {self._classes.tolist()}: "
                f"with a replay buffer, or joint training, use {type(self).__name__}(restrict=False) "
                "and ContinualModel(freeze_earlier=False)"
            )

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._evaluating = False  # an interrupted evaluation leaves it set
        self._foreign = None
        if self.restrict:
            self._classes = torch.tensor(classes_of(strategy.experience))

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._require_own()

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._classes = None

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._evaluating = True

    def after_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._evaluating = False


class TaskCrossEntropy(TaskLoss):
    """Cross-entropy over the current experience's classes (stage 1 of SLCA; the CE rows of aEPG's tables)."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets)
