"""The training step: loss scaling for float16, and batches split into micro-batches for the backbone."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.heads import require_continual_model
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .data_parallel import Replicas


class Stepwise(Naive):  # type: ignore[type-arg]
    """Avalanche's ``Naive`` for small GPUs and half precision. With neither argument it equals ``Naive``, bit for bit.

    :param micro_batch: number of images per pass through the backbone in training. Only their features are kept. The
        heads, the loss and terms added by plugins see the whole batch. The backward pass recomputes each micro-batch,
        with the same dropout. The gradient is that of the whole batch, for any loss. It costs one more forward pass and
        needs the memory of one micro-batch. Passes that plugins make themselves (EWC's importances) are not split.
    :param scale_loss: dynamic loss scaling (``torch.amp.GradScaler``), for float16. Steps whose gradient overflows are
        skipped, but schedules and LAE's average count them. Backward passes of plugins are not scaled.
    :param replicas: makes the forward passes of training, if several processes share the run (:mod:`.data_parallel`).
    :raises ValueError: ``micro_batch`` with batch normalisation, whose statistics would be those of a micro-batch.
    :raises TypeError: ``micro_batch`` with a model that is not a :class:`~reclaim.strategies.heads.ContinualModel`.
    """

    mbatch: Any

    def __init__(
        self,
        *,
        micro_batch: int | None = None,
        scale_loss: bool = False,
        replicas: Replicas | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if micro_batch:
            backbone = require_continual_model(self.model, "micro_batch").backbone
            normalised = [name for name, module in backbone.named_modules() if isinstance(module, _BatchNorm)]
            if normalised:
                raise ValueError(
                    f"micro_batch={micro_batch} would normalise each micro-batch separately in {normalised[0]}: "
                    f"set micro_batch to null"
                )
        self.micro_batch, self.replicas = micro_batch, replicas
        self.counted, self._weight = 0, 1.0
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=scale_loss)

    def _check_distributed_training_compatibility(self) -> None:
        """Avalanche warns of every plugin that does not say to support its own way, which is not used here."""

    def make_train_dataloader(self, *args: Any, **kwargs: Any) -> None:
        super().make_train_dataloader(*args, **kwargs)
        self._read_all()

    def make_eval_dataloader(self, *args: Any, **kwargs: Any) -> None:
        super().make_eval_dataloader(*args, **kwargs)
        self._read_all()

    def _read_all(self) -> None:
        if self.replicas:  # every process reads the same batches: Avalanche would give each a part of the images
            self.dataloader.distributed_sampling = False

    def _before_forward(self, **kwargs: Any) -> None:
        super()._before_forward(**kwargs)
        self.counted = len(self.mb_x)
        if self.replicas:  # after the plugins, so that all processes augment the same batch
            self.mbatch, self.counted, self._weight = self.replicas.part(self.mbatch)

    def forward(self) -> Tensor:
        if self.is_training and self.replicas:
            return self.replicas.forward(self.model, self.mb_x)
        if not self.is_training or not self.micro_batch or len(self.mb_x) <= self.micro_batch:
            return super().forward()
        model = require_continual_model(self.model, "micro_batch")
        pieces = [
            checkpoint(model.features, images, use_reentrant=False) for images in self.mb_x.split(self.micro_batch)
        ]
        logits: Tensor = model.heads(torch.cat(pieces))
        return logits

    def backward(self) -> None:
        loss = self.loss * self._weight if self.replicas else self.loss
        self.scaler.scale(loss).backward(retain_graph=self.retain_graph)

    def optimizer_step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()


class LateFirstStep(SupervisedPlugin[Any]):
    """The first batch of each experience makes no step; its gradient is added to the second's, as in Mammoth's SLCA
    (F68). Of an experience with a single batch nothing is learnt.

    The optimizer must leave parameters without a gradient as they are, as those of torch and of this package do.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: list[tuple[nn.Parameter, Tensor]] = []

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._held = []

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_iterations == 0:
            trained = [parameter for group in strategy.optimizer.param_groups for parameter in group["params"]]
            self._held = [(parameter, parameter.grad) for parameter in trained if parameter.grad is not None]
            for parameter, _ in self._held:
                parameter.grad = None
            return
        for parameter, gradient in self._held:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        self._held = []


def compile_backbone(model: nn.Module, **options: Any) -> None:
    """``torch.compile`` in place, so that parameters keep their names.
    Copies of the model (GDumb's, LwF's old one) are not compiled.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel`.
    :param options: arguments of ``torch.compile``.
    """
    require_continual_model(model, "compile_backbone").backbone.compile(**options)
