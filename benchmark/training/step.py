"""How a step is computed: loss scaling for float16, and batches that pass the backbone piece by piece."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.supervised import Naive
from reclaim.strategies.heads import require_continual_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class Stepwise(Naive):  # type: ignore[type-arg]
    """Avalanche's ``Naive`` for small cards and half precision; with neither argument it is ``Naive``, bit for bit.

    :param micro_batch: images that pass the backbone at a time, in training. Nothing but their features is kept; the heads, the loss and
        what plugins add to it see the whole batch, and the backward pass computes each piece anew, with the same dropout. The gradient is
        that of the whole batch, whatever the loss; one forward pass more, and the memory of a piece. Passes that plugins make of
        their own (EWC's importances) are not divided.
    :param scale_loss: dynamic loss scaling (``torch.amp.GradScaler``), for float16. Steps whose gradient overflows are left out; schedules
        and LAE's average count them all the same. Backward passes of plugins are not scaled.
    :raises ValueError: ``micro_batch`` with batch normalisation, whose statistics would be those of the pieces.
    :raises TypeError: ``micro_batch`` with a model that is not a :class:`~reclaim.strategies.heads.ContinualModel`.
    """

    def __init__(self, *, micro_batch: int | None = None, scale_loss: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if micro_batch:
            backbone = require_continual_model(self.model, "micro_batch").backbone
            normalised = [name for name, module in backbone.named_modules() if isinstance(module, _BatchNorm)]
            if normalised:
                raise ValueError(
                    f"micro_batch={micro_batch} would normalise each piece of a batch by itself in {normalised[0]}: set micro_batch to null"
                )
        self.micro_batch = micro_batch
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scale_loss)

    def forward(self) -> Tensor:
        if not self.is_training or not self.micro_batch or len(self.mb_x) <= self.micro_batch:
            return super().forward()
        model: Any = self.model
        pieces = [
            checkpoint(model.features, images, use_reentrant=False) for images in self.mb_x.split(self.micro_batch)
        ]
        logits: Tensor = model.heads(torch.cat(pieces))
        return logits

    def backward(self) -> None:
        self.scaler.scale(self.loss).backward(retain_graph=self.retain_graph)

    def optimizer_step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


def compile_backbone(model: nn.Module, **options: Any) -> None:
    """``torch.compile`` in place: parameters keep their names. Copies of the model (GDumb's, LwF's old one) are not compiled.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel`.
    :param options: of ``torch.compile``.
    """
    require_continual_model(model, "compile_backbone").backbone.compile(**options)
