"""Baselines without a replay buffer: a frozen backbone, L2-SP, EWC and LwF.

EWC and LwF are Avalanche's. Each subclass lists what it fixes in Avalanche's code under "Fixes upstream". Replay is in
replay.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from avalanche.training import LearningWithoutForgetting
from avalanche.training.plugins import EWCPlugin, LwFPlugin, SupervisedPlugin
from torch import Tensor, nn

from .byte_counts import bytes_of
from .checks import require_not_negative
from .features import require_used
from .parts import parts_of
from .runs import Owner, require_counted


class FrozenBackbone(SupervisedPlugin[Any]):
    """Trains the heads only: the linear probe. The backbone stays in eval mode, so its batch statistics
    do not change.
    """

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        require_used(strategy, "FrozenBackbone")
        for parameter in parts_of(strategy.model, "FrozenBackbone").backbone_parameters().values():
            parameter.requires_grad_(False)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts_of(strategy.model, "FrozenBackbone").eval_backbone()


class L2SP(SupervisedPlugin[Any]):
    """Adds a pull towards the pretrained weights to the loss:
    weight x 1/2 x the sum over tensors of mean((theta - theta_0)^2), or of sum((theta - theta_0)^2).

    OLOR's code compares with the mean within each tensor, at weight 0.01. Li et al. (2018) take the sum. theta_0 is the
    backbone at the start of the first experience. Heads are not pulled. Parameters are known by their names: those of a
    model that replaces the strategy's are pulled to the same theta_0. With another strategy and another model, theta_0
    is taken anew.

    :param weight: factor of the penalty, at least 0.
    :param form: ``"mean"``: as in OLOR's code, the larger a tensor, the weaker the pull on each of its elements.
        ``"sum"``: as in Li et al., the same pull on all elements.
    :raises ValueError: the weight is negative, infinite or NaN, or ``form`` is neither of them; while training, a
        parameter of theta_0 has another shape, or is missing.
    """

    def __init__(self, weight: float = 0.01, form: Literal["mean", "sum"] = "mean") -> None:
        super().__init__()
        require_not_negative(weight=weight)
        if form not in ("mean", "sum"):
            raise ValueError(f"form must be 'mean' or 'sum', got {form!r}")
        self.weight = weight
        self.form = form
        self._theta_0: dict[str, Tensor] = {}
        self._anchors: dict[nn.Parameter, Tensor] = {}  # the same, for the parameters of the present model
        self._owner = Owner()

    @property
    def bytes_kept(self) -> int:
        """Bytes of theta_0."""
        return sum(t.numel() * t.element_size() for t in self._theta_0.values())

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        require_used(strategy, "L2SP")
        parameters = parts_of(strategy.model, "L2SP").backbone_parameters()
        if self._owner.changes_to(strategy, strategy.model) or not self._theta_0:
            self._theta_0 = {name: p.detach().clone() for name, p in parameters.items()}
        for name, anchor in self._theta_0.items():
            have = tuple(parameters[name].shape) if name in parameters else None
            if have != tuple(anchor.shape):
                raise ValueError(
                    f"L2SP pulls {name} to a value of shape {tuple(anchor.shape)}, but in the model it now "
                    f"{'is missing' if have is None else f'has {have}'}: make a new L2SP for another backbone"
                )
            self._theta_0[name] = anchor.to(parameters[name].device)
        self._anchors = {parameters[name]: anchor for name, anchor in self._theta_0.items()}

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        penalty = l2_sp_penalty(self._anchors, self.weight, self.form)
        if penalty is not None:
            strategy.loss = strategy.loss + penalty


def l2_sp_penalty(
    anchors: Mapping[nn.Parameter, Tensor], weight: float, form: Literal["mean", "sum"] = "mean"
) -> Tensor | None:
    """The penalty of :class:`L2SP`, a scalar; None if no parameter is trained.

    :param anchors: parameter -> theta_0, its pretrained value.
    """
    reduce = torch.mean if form == "mean" else torch.sum
    distances = [reduce((p - anchor) ** 2) for p, anchor in anchors.items() if p.requires_grad]
    return 0.5 * weight * torch.stack(distances).sum() if distances else None


class EWC(EWCPlugin):
    """Elastic weight consolidation (Kirkpatrick et al., 2017) as in Avalanche: adds ewc_lambda x sum F (theta -
    theta_t)^2 to the loss.

    There is no factor 1/2. With :class:`~reclaim.strategies.task_loss.TaskCrossEntropy` the importances F are those of
    the training loss, over the experience's classes only. They are computed in eval mode, without augmentation by
    plugins.

    Fixes upstream: Avalanche squares the mean gradient of each minibatch of training size. Where the mean gradient is
    0, that is about 1/size of the diagonal of the Fisher information; elsewhere it is a mixture of both.
    ``importance_batch_size=1`` gives the (empirical) Fisher information itself, at the cost of a pass over the
    experience image by image.

    :param ewc_lambda: factor of the penalty, at least 0.
    :param mode: ``"separate"`` keeps F and theta_t of every experience t, ``"online"`` one decaying sum of F, and the
        last theta_t.
    :param decay_factor: of the older importances at each experience, for ``"online"`` only.
    :param keep_importance_data: keep the older importances and weights in ``"online"`` mode, too.
    :param importance_batch_size: number of images whose gradients are averaged before squaring; by default the training
        batch.
    :raises ValueError: an option is out of its range, or ``mode`` and ``decay_factor`` do not match; while training, a
        new strategy on the same model, whose clock has not counted the experiences before.
    """

    def __init__(
        self,
        ewc_lambda: float,
        mode: Literal["separate", "online"] = "separate",
        decay_factor: float | None = None,
        keep_importance_data: bool = False,
        importance_batch_size: int | None = None,
    ) -> None:
        require_not_negative(ewc_lambda=ewc_lambda, decay_factor=decay_factor or 0.0)
        if mode not in ("separate", "online") or (mode == "online") != (decay_factor is not None):
            raise ValueError(
                f"mode must be 'separate', or 'online' with a decay_factor, "
                f"got {mode!r} with decay_factor={decay_factor}"
            )
        if importance_batch_size is not None and importance_batch_size < 1:
            raise ValueError(
                f"importance_batch_size must be at least 1, got {importance_batch_size}: "
                f"leave it out for the training batch"
            )
        super().__init__(ewc_lambda, mode, decay_factor, keep_importance_data)
        self.importance_batch_size = importance_batch_size
        self._owner = Owner()

    @property
    def bytes_kept(self) -> int:
        """Bytes of the importances and of the weights they belong to."""
        kept = (*self.saved_params.values(), *self.importances.values())
        return sum(parameter.data.nbytes for of_experience in kept for parameter in of_experience.values())

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._owner.changes_to(strategy, strategy.model):
            self.saved_params.clear()
            self.importances.clear()
        require_counted(strategy, "EWC", max(self.saved_params, default=-1) + 1)

    def compute_importances(
        self,
        model: nn.Module,
        criterion: Any,
        optimizer: Any,
        dataset: Any,
        device: Any,
        batch_size: int,
        num_workers: int = 0,
    ) -> dict[str, Any]:
        size = self.importance_batch_size or batch_size
        importances: dict[str, Any] = super().compute_importances(
            model, criterion, optimizer, dataset, device, size, num_workers
        )
        return importances


class LwF(LwFPlugin):
    """Learning without forgetting (Li and Hoiem, 2016) as in Avalanche: adds alpha x KL(old model, model) to the loss.

    The KL divergence (nats, mean over the batch, no factor T^2) uses one softmax over all classes of earlier
    experiences, at the given temperature. With ``ContinualModel(freeze_earlier=False)`` the earlier heads are trained
    by distillation, too, as in the paper. With frozen heads distillation trains the backbone only.

    Fixes upstream: the old model is in eval mode. Avalanche leaves it in training mode, with dropout and batch
    statistics active. With another strategy and another model it starts anew: Avalanche would distil the old strategy's
    model into the first experience.

    :param alpha: factor of the distillation term, at least 0; or one for each experience, the first without a use.
    :param temperature: T, above 0.
    :raises ValueError: an option is out of its range; while training, there is no alpha for the experience.
    """

    lwf: Any

    def __init__(self, alpha: float | Sequence[float] = 1.0, temperature: float = 2.0) -> None:
        if isinstance(alpha, Sequence):
            alpha = list(alpha)  # what Avalanche looks for
            require_not_negative(**{f"alpha[{t}]": value for t, value in enumerate(alpha)})
        else:
            require_not_negative(alpha=alpha)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature must be a finite number above 0, got {temperature}")
        super().__init__(alpha, temperature)
        self._owner = Owner()

    @property
    def bytes_kept(self) -> int:
        """Bytes of the old model."""
        return bytes_of(self.lwf.prev_model)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._owner.changes_to(strategy, strategy.model):
            self.lwf = LearningWithoutForgetting(self.lwf.alpha, self.lwf.temperature)
        if isinstance(self.lwf.alpha, list) and self.lwf.expcount >= len(self.lwf.alpha):
            raise ValueError(
                f"LwF has {len(self.lwf.alpha)} alphas, {self.lwf.alpha}, and none for experience {self.lwf.expcount}: "
                f"give one for each experience, or a single number"
            )

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().after_training_exp(strategy, **kwargs)
        self.lwf.prev_model.eval()
