"""SLCA++ (Zhang et al., arXiv 2408.08295): SLCA with low-rank updates instead of training most of the
backbone's weights.

It differs from :mod:`.slca` in four ways. In the backbone only LoRA, norms, biases and the class token train
(:func:`attach_svd_lora`, :func:`train_low_rank_and_norms`), at their own rates (:func:`slca_pp_groups`,
:class:`SlowLearnerRates`). The loss is a :class:`SymmetricCrossEntropy`. Alignment shrinks the drawn features of
earlier experiences by random factors, instead of their means (``ClassifierAlignment(mean_decay=False,
feature_decay=(0.02, 0.01))``). At test time earlier heads have slightly larger weights (:class:`HeadScaling`).

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR

from .checks import require_not_negative
from .fresh_optimizer import FreshOptimizer
from .heads import TaskHeads, require_continual_model
from .losses import symmetric_cross_entropy
from .peft_module import PEFTModule, peft_parameters, require_vision_transformer
from .runs import Owner, experiences_before
from .slca import ClassifierAlignment, TaskIndex, fresh_final_norm, slow_learner_groups
from .task_loss import TaskLoss

# The parameters of the backbone that train


class SVDLoRA(PEFTModule):
    """The low-rank update scale x B A of a linear layer's weight W (out, in).

    ``A`` (rank, in) starts as the first right singular vectors of W (their signs, which are arbitrary, change no
    output), ``B`` (out, rank) at 0, so that a new module changes nothing.

    :param weight: W.
    :param rank: from 1 to the smaller side of W; 4 in SLCA++.
    :param scale: a constant; 0.8 in SLCA++.
    """

    def __init__(self, weight: Tensor, rank: int = 4, scale: float = 0.8) -> None:
        super().__init__()
        if not 1 <= rank <= min(weight.shape):
            raise ValueError(
                f"the rank of LoRA must be from 1 to {min(weight.shape)} on a weight {tuple(weight.shape)}, got {rank}"
            )
        require_not_negative(scale=scale)
        # always on the CPU, and in a precision that torch's SVD supports
        pretrained = weight.detach().to("cpu", torch.promote_types(weight.dtype, torch.float32))
        right = torch.linalg.svd(pretrained, full_matrices=False).Vh
        self.A = nn.Parameter(right[:rank].to(weight, copy=True))
        self.B = nn.Parameter(weight.new_zeros(len(weight), rank))
        self.scale = scale

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., in) to what is added to the layer's output (..., out)."""
        return F.linear(F.linear(tokens, self.A), self.scale * self.B)

    def weight_update(self) -> Tensor:
        """The same as a matrix (out, in)."""
        return self.scale * self.B @ self.A


class SVDLoRALinear(nn.Linear):
    """The class of a linear layer while it has :class:`SVDLoRA`.
    The layer changes its class in place and keeps its parameters.
    """

    lora: SVDLoRA

    def forward(self, input: Tensor) -> Tensor:
        """Tokens (..., in) to the layer's output plus LoRA's (..., out)."""
        return super().forward(input) + self.lora(input)


def attach_svd_lora(model: nn.Module, rank: int = 4, scale: float = 0.8) -> list[SVDLoRA]:
    """Put a new :class:`SVDLoRA` on qkv, fc1 and fc2 of every block of a timm ViT, in place,
    and return them in this order.

    Names and identity of all parameters stay; new ones are added, for example ``blocks.<j>.mlp.fc1.lora.<A|B>``.
    This function freezes nothing: :func:`train_low_rank_and_norms` does. A ViT-B takes half a minute on one core.

    :param model: a timm ``VisionTransformer``, or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :param rank, scale: see :class:`SVDLoRA`.
    :raises TypeError: the model is not such a ViT, or one of these layers is not a plain ``Linear`` (perhaps it has
        LoRA already).
    :raises ValueError: the rank is below 1 or above the layers' width, or the scale is negative. The model does not
        change then.
    """
    layers = _layers(model)
    for name, layer in layers.items():
        if type(layer) is not nn.Linear:
            raise TypeError(
                f"SVD-initialised LoRA needs a plain Linear {name}, found {type(layer).__name__}"
                + (": call detach_svd_lora(model) first" if isinstance(layer, SVDLoRALinear) else "")
            )
    modules = [SVDLoRA(layer.weight, rank, scale).train(layer.training) for layer in layers.values()]
    for layer, module in zip(layers.values(), modules, strict=True):
        layer.__class__ = SVDLoRALinear
        layer.lora = module
    return modules


@torch.no_grad()
def detach_svd_lora(model: nn.Module, merge: bool = False) -> list[SVDLoRA]:
    """Remove all :class:`SVDLoRA` modules from a model, in place, and return them in the order of the layers.

    :param merge: add each module's update to the weight of its layer, so that the outputs stay the same up to rounding.
    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: none is attached.
    """
    modules = []
    for layer in _layers(model).values():
        if isinstance(layer, SVDLoRALinear):
            plain: Any = layer
            modules.append(layer.lora)
            if merge:
                layer.weight += layer.lora.weight_update()
            del plain.lora
            plain.__class__ = nn.Linear
    if not modules:
        raise ValueError("no SVD-initialised LoRA is attached to this model: there is nothing to detach")
    return modules


def _layers(model: nn.Module) -> dict[str, Any]:
    """The layers that take LoRA, by name; ``None`` for one that is not there."""
    vit = require_vision_transformer(model)
    modules = dict(vit.named_modules())
    names = [
        f"blocks.{index}.{layer}" for index in range(len(vit.blocks)) for layer in ("attn.qkv", "mlp.fc1", "mlp.fc2")
    ]
    return {name: modules.get(name) for name in names}


def train_low_rank_and_norms(model: nn.Module) -> None:
    """Freeze the backbone except parameters with norm, bias, cls_token or lora in their names. Heads are not changed.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel`.
    :raises TypeError: the model has no heads of its own.
    """
    for name, parameter in require_continual_model(model, "train_low_rank_and_norms").backbone.named_parameters():
        parameter.requires_grad_(any(part in name for part in ("norm", "bias", "cls_token", "lora")))


# Learning rates


def slca_pp_groups(
    model: nn.Module,
    lr: float = 0.01,
    slow_factor: float = 0.1,
    lora_factors: tuple[float, float] = (0.5, 0.1),
    weight_decay: float | None = 5e-4,
) -> list[dict[str, Any]]:
    """Three parameter groups for an optimizer: the backbone without LoRA at ``lr * slow_factor``, LoRA,
    and the heads at ``lr``.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel` with LoRA, or other PEFT modules, attached.
    :param lora_factors: LoRA's rate divided by ``lr``, in the first experience and in later ones. The group keeps the
        later rate as ``"later_lr"``, for :class:`SlowLearnerRates`.
    :param weight_decay: of all groups; ``None`` uses the optimizer's.
    :raises ValueError: a rate is NaN, infinite or negative, or the model has no LoRA.
    :raises TypeError: the model has no heads of its own.
    """
    require_continual_model(model, "slca_pp_groups")
    backbone, heads = slow_learner_groups(model, lr, slow_factor, weight_decay)
    first, later = lora_factors
    require_not_negative(first_lora_factor=first, later_lora_factor=later)
    low_rank = list(peft_parameters(model))
    if not low_rank:
        raise ValueError("the model has no LoRA to train: call attach_svd_lora(model) first")
    of_lora = {id(p) for p in low_rank}
    lora = {**backbone, "params": low_rank, "lr": lr * first, "later_lr": lr * later}
    backbone["params"] = [p for p in backbone["params"] if id(p) not in of_lora]
    return [backbone, lora, heads]


class SlowLearnerRates(FreshOptimizer):
    """A new optimizer for each experience, whose rates follow a cosine per epoch to one absolute floor.

    It replaces :class:`~reclaim.strategies.fresh_optimizer.FreshOptimizer`. From the second experience on, a group
    starts at its ``"later_lr"``, if it has one (:func:`slca_pp_groups`).

    :param floor: the value that all rates would reach after the last epoch; in the code 0.01 x 0.1 x 0.1^(number of
        milestones), 1e-4 for supervised pretraining (one milestone), 1e-5 for MoCo v3 (two).
    :raises ValueError: the floor is negative; while training, a group starts below it and would rise.
    """

    def __init__(self, floor: float = 1e-4) -> None:
        require_not_negative(floor=floor)
        super().__init__(partial(CosineAnnealingLR, eta_min=floor))  # not a lambda: it can be pickled
        self.floor = floor

    def _start(self, strategy: Any) -> list[float]:
        rates, later = super()._start(strategy), experiences_before(strategy) > 0
        groups = strategy.optimizer.param_groups
        rates = [group.get("later_lr", lr) if later else lr for group, lr in zip(groups, rates, strict=True)]
        lowest = min(rates)
        if lowest < self.floor and not math.isclose(lowest, self.floor):
            raise ValueError(
                f"floor={self.floor} is above a parameter group's learning rate {lowest}, which would rise to it: "
                f"lower the floor"
            )
        return rates


# The loss


class SymmetricCrossEntropy(TaskLoss):
    """Symmetric cross-entropy (Wang et al., 2019):
    the mean of alpha CE + beta RCE over the current experience's classes.

    RCE, the reverse cross-entropy, is -sum_c p_c log q_c, with p the softmax, at least 1e-7, and q the one-hot target,
    at least 1e-4. Half-precision logits are converted to float32, and the loss is float32.

    :param alpha, beta: at least 0; (1, 0.1) for CIFAR-100 and CUB-200, (0.5, 0.5) for ImageNet-R and Cars-196.
    :param restrict: see :class:`~reclaim.strategies.task_loss.TaskLoss`.
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.1, restrict: bool = True) -> None:
        super().__init__(restrict)
        require_not_negative(alpha=alpha, beta=beta)
        self.alpha = alpha
        self.beta = beta

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return symmetric_cross_entropy(logits, targets, self.alpha, self.beta)


# At test time


class HeadScaling(SupervisedPlugin[Any]):
    """In evaluation only, head t of heads 0 to T gets its features times 1 + factor (T - t). Biases are not scaled.

    The weights are scaled in ``before_eval`` and restored bit for bit in ``after_eval``, also for an evaluation in the
    middle of training. List it before :class:`~reclaim.strategies.slca.ClassifierAlignment`: after an interrupted
    evaluation, the aligned heads are restored first, and then the unaligned ones.

    :param factor: at least 0; 0.02 in SLCA++, 0 switches it off.
    """

    def __init__(self, factor: float = 0.02) -> None:
        super().__init__()
        require_not_negative(factor=factor)
        self.factor = factor
        self._unscaled: list[Tensor] | None = None
        self._scaled = Owner()  # the heads that they are of

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        heads = require_continual_model(strategy.model, "HeadScaling").heads
        self._put_back(heads)
        self._unscaled = heads.snapshot()
        self._scaled.changes_to(heads)
        linears: list[Any] = list(heads.heads)
        with torch.no_grad():
            for age, head in enumerate(reversed(linears)):
                head.weight *= 1 + self.factor * age

    def after_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._put_back(require_continual_model(strategy.model, "HeadScaling").heads)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._put_back(require_continual_model(strategy.model, "HeadScaling").heads)

    def _put_back(self, heads: TaskHeads) -> None:
        if self._unscaled is not None and not self._scaled.is_another(heads):
            heads.restore(self._unscaled)
        self._unscaled = None


# The whole strategy


class SLCAPlusPlus(SupervisedTemplate):
    """SLCA++ as a complete strategy: used like Avalanche's ``Naive``, but it makes its optimizer and criterion itself.

    It changes the model: it attaches LoRA, resets the final LayerNorm and freezes what does not train. Stage 1: SGD
    over :func:`slca_pp_groups`, with :class:`SlowLearnerRates` and :class:`SymmetricCrossEntropy`; stage 2:
    :class:`~reclaim.strategies.slca.ClassifierAlignment` with the heads' rate, momentum and weight decay of stage 1.
    The defaults are those of CIFAR-100 with supervised pretraining. CUB-200 takes 50 epochs; ImageNet-R and Cars-196 50
    epochs, alpha = beta = 0.5 and no weight decay, Cars-196 also tau = 0.05; MoCo v3 90 epochs and ``floor=1e-5``.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel` on a timm ViT, with heads of ``init_std=0.02``.
    :param lr: of the heads, in both stages.
    :param slow_factor, lora_factors: see :func:`slca_pp_groups`.
    :param floor: see :class:`SlowLearnerRates`.
    :param rank, scale: see :func:`attach_svd_lora`.
    :param alpha, beta: see :class:`SymmetricCrossEntropy`.
    :param final_norm: ``"fresh"`` resets the final LayerNorm, as the code does; ``"pretrained"`` keeps the pretrained
        one (F1).
    :param alignment_epochs: 0 skips stage 2.
    :param tau, samples_per_class, covariance_ridge, feature_decay, task_index, restore, seed: see
        :class:`~reclaim.strategies.slca.ClassifierAlignment` (F3, F5, F6; F4 is off).
    :param head_scaling: see :class:`HeadScaling`.
    :param plugins: further plugins; they run before the alignment.
    :param base_kwargs: other arguments of ``SupervisedTemplate``.
    :raises ValueError: a number is out of its range, or there is no LayerNorm to reset.
    :raises TypeError: the model has no heads of its own, or its backbone is not a timm ViT without LoRA.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        lr: float = 0.01,
        slow_factor: float = 0.1,
        lora_factors: tuple[float, float] = (0.5, 0.1),
        floor: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        rank: int = 4,
        scale: float = 0.8,
        alpha: float = 1.0,
        beta: float = 0.1,
        final_norm: Literal["fresh", "pretrained"] = "fresh",
        tau: float | None = 0.1,
        alignment_epochs: int = 5,
        samples_per_class: int = 256,
        covariance_ridge: float = 1e-4,
        feature_decay: tuple[float, float] | None = (0.02, 0.01),
        task_index: TaskIndex = "true",
        restore: bool = True,
        head_scaling: float = 0.02,
        seed: int = 0,
        train_mb_size: int = 128,
        train_epochs: int = 20,
        eval_mb_size: int = 128,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin[Any]] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        **base_kwargs: Any,
    ) -> None:
        criterion = SymmetricCrossEntropy(alpha, beta)
        alignment = ClassifierAlignment(
            epochs=alignment_epochs,
            samples_per_class=samples_per_class,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            tau=tau,
            covariance_ridge=covariance_ridge,
            mean_decay=False,
            feature_decay=feature_decay,
            task_index=task_index,
            restore=restore,
            seed=seed,
        )
        own: list[SupervisedPlugin[Any]] = [SlowLearnerRates(floor), HeadScaling(head_scaling)]
        if final_norm not in ("fresh", "pretrained"):
            raise ValueError(f"final_norm must be 'fresh' or 'pretrained', got {final_norm!r}")
        require_continual_model(model, "SLCAPlusPlus")
        attach_svd_lora(model, rank, scale)
        groups = slca_pp_groups(model, lr, slow_factor, lora_factors, weight_decay)
        if final_norm == "fresh":
            fresh_final_norm(model)
        train_low_rank_and_norms(model)
        super().__init__(
            model=model,
            optimizer=torch.optim.SGD(groups, lr=lr, momentum=momentum),
            criterion=criterion,
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[*own, *(plugins or []), alignment],
            evaluator=evaluator,
            **base_kwargs,
        )
        self.alignment = alignment
