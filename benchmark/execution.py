"""How a step is computed: loss scaling for float16, and batches that pass the backbone piece by piece."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Stepwise(Naive):  # type: ignore[type-arg]
    """Avalanche's ``Naive`` for small cards and half precision; with neither argument it is ``Naive``.

    :param micro_batch: images that pass the backbone at a time. The features of the whole batch are computed without a graph; heads and
        loss see them all, so that any loss has its exact gradient; then each piece passes again and takes its part of it. One forward pass
        more, the memory of a piece.
    :param scale_loss: dynamic loss scaling (``torch.amp.GradScaler``), for float16. Steps whose gradient overflows are left out.
    :raises ValueError: ``micro_batch`` with batch normalisation, whose statistics would be those of the pieces.
    """

    def __init__(self, *, micro_batch: int | None = None, scale_loss: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        normalised = [name for name, module in self.model.named_modules() if isinstance(module, _BatchNorm)]
        if micro_batch and normalised:
            raise ValueError(f"micro_batch={micro_batch} would normalise each piece of a batch by itself in {normalised[0]}: leave it out")
        self.micro_batch = micro_batch
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scale_loss)
        self._features: Tensor | None = None

    def forward(self) -> Tensor:
        model: Any = self.model
        self._features = None
        if not self.is_training or not self.micro_batch or len(self.mb_x) <= self.micro_batch:
            return super().forward()
        with torch.no_grad():
            self._features = torch.cat([model.features(piece) for piece in self.mb_x.split(self.micro_batch)])
        self._features.requires_grad_(any(p.requires_grad for p in model.backbone.parameters()))
        logits: Tensor = model.heads(self._features)
        return logits

    def backward(self) -> None:
        self.scaler.scale(self.loss).backward()
        if self._features is not None and self._features.grad is not None:
            model: Any = self.model
            pieces = zip(self.mb_x.split(self.micro_batch), self._features.grad.split(self.micro_batch), strict=True)
            for images, gradient in pieces:
                model.features(images).backward(gradient)

    def optimizer_step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


def compile_backbone(model: nn.Module) -> None:
    """``torch.compile`` in place: parameters keep their names."""
    backbone: Any = model.backbone
    backbone.compile()
