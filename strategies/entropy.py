"""The other losses of aEPG's tables (arXiv 2602.14078): cross-entropy with more, or less, entropy in the predictions.

With p the softmax of the logits, y the label, CE = -log p_y and H(p) the entropy: focal loss, label smoothing and the confidence penalty
keep the predictions less certain than cross-entropy does, the entropy penalty makes them more certain, as EPG does. The tables give the
first three the best coefficient of a grid, without naming it (F23): the classes hold it as ``grid``.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .aepg import target_log_prob
from .task_loss import TaskLoss


class FocalLoss(TaskLoss):
    """Focal loss (Lin et al., 2017): the mean of (1 - p_y)^gamma CE. More entropy than cross-entropy.

    Half-precision logits are taken in float32, and the loss is float32, here and in the other losses.

    :param gamma: focusing parameter, not negative; 0 is cross-entropy.
    :param restrict: see :class:`TaskLoss`.
    """

    grid: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0)

    def __init__(self, gamma: float = 1.0, restrict: bool = True) -> None:
        super().__init__(restrict)
        if not 0 <= gamma < math.inf:
            raise ValueError(f"gamma must be a finite number, not negative, got {gamma}: 0 is cross-entropy")
        self.gamma = gamma

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = _precise(logits)
        log_p_y, log_p = target_log_prob(logits, targets), F.log_softmax(logits, dim=1)
        # 1 - p_y is summed up from the other classes: as a difference it would be rounded to 0, where its power has no gradient.
        # With the lowest number in place of -inf a class that is alone has no NaN in its gradient.
        others = log_p.scatter(1, targets.unsqueeze(1), torch.finfo(log_p.dtype).min)
        return -((self.gamma * others.logsumexp(dim=1)).exp() * log_p_y).mean()


class LabelSmoothingLoss(TaskLoss):
    """Label smoothing (Szegedy et al., 2016): the mean of (1 - smoothing) CE + smoothing KL(uniform || p). More entropy than cross-entropy.

    Cross-entropy with torch's ``label_smoothing``, less the constant smoothing x log C.

    :param smoothing: the paper's gamma, in [0, 1]; 0 is cross-entropy.
    :param restrict: see :class:`TaskLoss`. The uniform distribution is over the classes that the loss sees.
    """

    grid: ClassVar[tuple[float, ...]] = (0.01, 0.05, 0.1)

    def __init__(self, smoothing: float = 0.01, restrict: bool = True) -> None:
        super().__init__(restrict)
        if not 0 <= smoothing <= 1:
            raise ValueError(f"smoothing must be in [0, 1], got {smoothing}: 0 is cross-entropy")
        self.smoothing = smoothing

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = _precise(logits)
        cross_entropy = -target_log_prob(logits, targets)
        divergence = -F.log_softmax(logits, dim=1).mean(dim=1) - math.log(logits.shape[1])
        return ((1 - self.smoothing) * cross_entropy + self.smoothing * divergence).mean()


class ConfidencePenaltyLoss(TaskLoss):
    """Confidence penalty (Pereyra et al., 2017): the mean of CE - beta H(p). More entropy than cross-entropy.

    :param beta: weight of the entropy, not negative; 0 is cross-entropy.
    :param restrict: see :class:`TaskLoss`.
    """

    grid: ClassVar[tuple[float, ...]] = (0.1, 0.2)

    def __init__(self, beta: float = 0.1, restrict: bool = True) -> None:
        super().__init__(restrict)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta must be a finite number, not negative, got {beta}: 0 is cross-entropy")
        self.beta = beta

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = _precise(logits)
        return -(target_log_prob(logits, targets) + self.beta * entropy(logits)).mean()


class EntropyPenaltyLoss(TaskLoss):
    """Entropy penalty: the mean of CE + H(p). Less entropy than cross-entropy."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        logits = _precise(logits)
        return -(target_log_prob(logits, targets) - entropy(logits)).mean()


def entropy(logits: Tensor) -> Tensor:
    """H(p) of each sample, (N,), in nats, from logits (N, C); float32 for logits of less precision. A logit of -inf adds nothing."""
    log_p = F.log_softmax(_precise(logits), dim=1)
    return -(log_p.exp() * log_p.clamp_min(torch.finfo(log_p.dtype).min)).sum(dim=1)


def _precise(logits: Tensor) -> Tensor:
    """The logits, in float32 if they are of less precision: once per loss, so that their gradient is rounded only once."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
