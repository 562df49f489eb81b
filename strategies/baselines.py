"""What the methods are compared with, as far as Avalanche does not have it: a frozen backbone, and L2-SP."""

from __future__ import annotations

import math
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from .heads import require_continual_model


class FrozenBackbone(SupervisedPlugin[Any]):
    """Trains the heads alone: the linear probe. The backbone stays in eval mode, so that batch statistics do not move either."""

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        require_continual_model(strategy.model, "FrozenBackbone").backbone.requires_grad_(False)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.model.backbone.eval()


class L2SP(SupervisedPlugin[Any]):
    """Adds a pull towards the pretrained weights to the loss: weight x 1/2 x the sum over tensors of mean((theta - theta_0)^2).

    The mean within each tensor is what OLOR's code compares with (with weight 0.01); Li et al. (2018) sum instead.
    theta_0 is the backbone at the start of the first experience; heads are not pulled.

    :param weight: factor of the penalty, not negative.
    """

    def __init__(self, weight: float = 0.01) -> None:
        super().__init__()
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight must be a finite number, not negative, got {weight}")
        self.weight = weight
        self._anchors: dict[nn.Parameter, Tensor] = {}

    @property
    def bytes_kept(self) -> int:
        """Bytes of theta_0."""
        return sum(t.numel() * t.element_size() for t in self._anchors.values())

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if not self._anchors:
            backbone = require_continual_model(strategy.model, "L2SP").backbone
            self._anchors = {p: p.detach().clone() for p in backbone.parameters()}

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        distances = [torch.mean((p - anchor) ** 2) for p, anchor in self._anchors.items() if p.requires_grad]
        if distances:
            strategy.loss = strategy.loss + 0.5 * self.weight * torch.stack(distances).sum()
