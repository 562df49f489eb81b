"""Batch normalisation that keeps its statistics while its weights are fine-tuned."""

from __future__ import annotations

from typing import Any

from avalanche.training.plugins import SupervisedPlugin
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .parts import parts_of


def moving_batch_norms(module: nn.Module) -> list[str]:
    """Names of the batch normalisations in a module that a forward pass would change: they are in training mode and
    track statistics.
    """
    return [
        name
        for name, inner in module.named_modules()
        if isinstance(inner, _BatchNorm) and inner.training and inner.track_running_stats
    ]


class FrozenBatchNorm(SupervisedPlugin[Any]):
    """Normalises with the statistics that the backbone came with, in training, too; factors and offsets train on.

    The images of one experience have other statistics than those of pretraining and of later experiences. Where they
    are estimated anew, features of earlier classes move with no weight changed, and class means that a method keeps
    are no longer those of their classes.

    Before each forward pass in training, all batch normalisation of the backbone goes into eval mode, after whatever
    evaluation in between has left of the modes. Without any it does nothing.
    """

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts = parts_of(strategy.model, "FrozenBatchNorm")
        of_classifier = set(parts.classifier.modules())
        for module in parts.model.modules():
            if isinstance(module, _BatchNorm) and module not in of_classifier:
                module.training = False
