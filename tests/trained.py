"""What tests ask of a model that was trained: losses of its training images, before training and after it.

A share of a few images that are classified right differs with the processor, its instruction set and the version of
torch, which draws other weights and other batches. That training lowers the loss that it minimises does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.slca import normalised_logits
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def cross_entropy(
    model: ContinualModel,
    experiences: Any,
    heads: Sequence[Tensor] | None = None,
    classes: Sequence[int] | None = None,
    tau: float | None = None,
) -> float:
    """Cross-entropy of all images of the experiences, in eval mode.

    :param heads: a snapshot of weights and biases to take in place of the model's own.
    :param classes: those whose logits count; all that have a head by default.
    :param tau: with it the logits are normalised as in alignment, whose loss this is, on images in place of drawn
        features.
    """
    images = torch.stack([x for experience in experiences for x, *_ in experience.dataset])
    targets = [int(y) for experience in experiences for _, y, *_ in experience.dataset]
    modes = {module: module.training for module in model.modules()}
    features = model.eval().features(images)
    for module, mode in modes.items():
        module.training = mode
    snapshot = model.heads.snapshot() if heads is None else heads
    logits = torch.cat([F.linear(features, *snapshot[i : i + 2]) for i in range(0, len(snapshot), 2)], dim=1)
    if tau is not None:
        logits = normalised_logits(logits, [len(weight) for weight in snapshot[::2]], tau)
    columns = list(itertools.chain(*model.heads.head_classes))
    counted = columns if classes is None else list(classes)
    logits = logits[:, [columns.index(c) for c in counted]]
    return float(F.cross_entropy(logits, torch.tensor([counted.index(y) for y in targets])))


def gain_of_alignment(model: ContinualModel, experiences: Any, unaligned: Sequence[Tensor]) -> float:
    """The loss that alignment minimises, after it in units of before it: below 1 where it has done its work."""
    return cross_entropy(model, experiences, tau=0.1) / cross_entropy(model, experiences, unaligned, tau=0.1)


class Unaligned(SupervisedPlugin[Any]):
    """The heads at the end of each experience's training; list it before alignment."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[list[Tensor]] = []

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.heads.append(strategy.model.heads.snapshot())


class Losses(SupervisedPlugin[Any]):
    """The loss of each experience's training images, before and after training on it; list it before alignment.

    Over the experience's own classes or, with ``restrict=False``, over all that have a head by then.
    """

    def __init__(self, restrict: bool = True) -> None:
        super().__init__()
        self.restrict = restrict
        self.at_start: list[float] = []
        self.at_end: list[float] = []

    def _loss(self, strategy: Any) -> float:
        experience = strategy.experience
        classes = sorted(experience.classes_in_this_experience) if self.restrict else None
        return cross_entropy(strategy.model, [experience], classes=classes)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.at_start.append(self._loss(strategy))

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.at_end.append(self._loss(strategy))

    def fell(self, to: float, above: float = 0.0) -> bool:
        """Every loss to that part of what it was, or less; a class alone in its experience has 0 from the start.

        :param above: losses that were no higher are left out: what is known already need not be learnt.
        """
        both = [(before, after) for before, after in zip(self.at_start, self.at_end, strict=True) if before > above]
        return all(after <= to * before for before, after in both)


class Strategy(SimpleNamespace):
    """What a hook reads of a strategy. Unlike a plain namespace it can be referred to weakly."""
