"""The other losses of aEPG's tables (arXiv 2602.14078): cross-entropy with more, or less, entropy in the predictions.

p is the softmax of the logits, y the label, CE = -log p_y, and H(p) the entropy. Focal loss, label smoothing and the
confidence penalty keep predictions less certain than cross-entropy does. The entropy penalty makes them more certain,
as EPG does. For the first three the paper chose the best coefficient from a grid, but does not say which one (F23).
Each class has that grid as ``grid``.

The formulas are functions in :mod:`~reclaim.strategies.losses`, which need torch only. The classes here are criteria
for Avalanche.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from .checks import require_fraction, require_not_negative
from .losses import confidence_penalty_loss, entropy_penalty_loss, focal_loss, label_smoothing_loss
from .task_loss import TaskLoss


class FocalLoss(TaskLoss):
    """Focal loss (Lin et al., 2017): the mean of (1 - p_y)^gamma CE. More entropy than cross-entropy.

    Half-precision logits are converted to float32, and the loss is float32, here and in the other losses.

    :param gamma: focusing parameter, at least 0; 0 is cross-entropy.
    :param restrict: see :class:`~reclaim.strategies.task_loss.TaskLoss`.
    :raises ValueError: gamma is negative, infinite or NaN.
    """

    grid: ClassVar[tuple[float, ...]] = (0.5, 1.0, 2.0)

    def __init__(self, gamma: float = 1.0, restrict: bool = True) -> None:
        super().__init__(restrict)
        require_not_negative(gamma=gamma)
        self.gamma = gamma

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return focal_loss(logits, targets, self.gamma)


class LabelSmoothingLoss(TaskLoss):
    """Label smoothing (Szegedy et al., 2016): the mean of (1 - smoothing) CE + smoothing KL(uniform || p).
    More entropy than cross-entropy.

    Equal to torch's cross-entropy with ``label_smoothing``, minus the constant smoothing x log C.

    :param smoothing: the paper's gamma, in [0, 1]; 0 is cross-entropy.
    :param restrict: see :class:`~reclaim.strategies.task_loss.TaskLoss`. The uniform distribution covers the classes
        that the loss sees.
    :raises ValueError: smoothing is outside [0, 1].
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

    :param beta: weight of the entropy, at least 0; 0 is cross-entropy.
    :param restrict: see :class:`~reclaim.strategies.task_loss.TaskLoss`.
    :raises ValueError: beta is negative, infinite or NaN.
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
