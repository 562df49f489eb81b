"""The other losses of aEPG's tables (arXiv 2602.14078): cross-entropy with more, or less, entropy in the predictions.

With p the softmax of the logits, y the label, CE = -log p_y and H(p) the entropy: focal loss, label smoothing and the confidence penalty
keep the predictions less certain than cross-entropy does, the entropy penalty makes them more certain, as EPG does. The tables give the
first three the best coefficient of a grid, without naming it (F23): the classes hold it as ``grid``.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .checks import require_fraction, require_not_negative
from .losses import confidence_penalty_loss, entropy_penalty_loss, focal_loss, label_smoothing_loss
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
        require_not_negative(gamma=gamma)
        self.gamma = gamma

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return focal_loss(logits, targets, self.gamma)


class LabelSmoothingLoss(TaskLoss):
    """Label smoothing (Szegedy et al., 2016): the mean of (1 - smoothing) CE + smoothing KL(uniform || p). More entropy than cross-entropy.

    Cross-entropy with torch's ``label_smoothing``, less the constant smoothing x log C.

    :param smoothing: the paper's gamma, in [0, 1]; 0 is cross-entropy.
    :param restrict: see :class:`TaskLoss`. The uniform distribution is over the classes that the loss sees.
    """

    grid: ClassVar[tuple[float, ...]] = (0.01, 0.05, 0.1)

    def __init__(self, smoothing: float = 0.01, restrict: bool = True) -> None:
        super().__init__(restrict)
        require_fraction(smoothing=smoothing)
        self.smoothing = smoothing

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return label_smoothing_loss(logits, targets, self.smoothing)


class ConfidencePenaltyLoss(TaskLoss):
    """Confidence penalty (Pereyra et al., 2017): the mean of CE - beta H(p). More entropy than cross-entropy.

    :param beta: weight of the entropy, not negative; 0 is cross-entropy.
    :param restrict: see :class:`TaskLoss`.
    """

    grid: ClassVar[tuple[float, ...]] = (0.1, 0.2)

    def __init__(self, beta: float = 0.1, restrict: bool = True) -> None:
        super().__init__(restrict)
        require_not_negative(beta=beta)
        self.beta = beta

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return confidence_penalty_loss(logits, targets, self.beta)


class EntropyPenaltyLoss(TaskLoss):
    """Entropy penalty: the mean of CE + H(p). Less entropy than cross-entropy."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return entropy_penalty_loss(logits, targets)
