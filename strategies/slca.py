"""SLCA, Slow Learner with Classifier Alignment (Zhang et al., ICCV 2023, arXiv 2303.05118).

Stage 1 trains the backbone at a hundredth of the head's learning rate (:func:`slow_learner_groups`). Stage 2 runs after
each experience except the first. It retrains all heads on features drawn from one Gaussian per class seen
(:class:`ClassifierAlignment`).

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.plugins.evaluation import default_evaluator
from avalanche.training.supervised import JointTraining
from avalanche.training.templates import SupervisedTemplate
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import MultiStepLR

from .checks import require_not_negative
from .features import check_features, extract_features
from .fresh_optimizer import FreshOptimizer
from .frozen_batch_norm import moving_batch_norms
from .gaussians import ClassGaussians, CovarianceKind
from .heads import ContinualModel
from .parts import Heads, parts_of, require_same_classes
from .runs import Owner, classes_of, images_at_a_time, starts_over, take_place
from .task_loss import TaskCrossEntropy
from .wrappers import unwrap

TaskIndex = Literal["true", "reference"]

DRAWN_BYTES = 2**28
"""Of the features that alignment holds at a time. Those of 340 classes, 256 of 768 numbers each, are fewer."""


# Stage 1: the slow learner


def slow_learner_groups(
    model: nn.Module, lr: float = 0.01, slow_factor: float = 0.01, weight_decay: float | None = 5e-4
) -> list[dict[str, Any]]:
    """Two parameter groups for an optimizer: the backbone at ``lr * slow_factor``, and the heads, including future
    ones, at ``lr``.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel`, or a model with a classifier of its own
        (:func:`~reclaim.strategies.parts.parts_of`).
    :param slow_factor: 0.01 in the paper; 1 is plain fine-tuning, 0 does not train the backbone.
    :param weight_decay: of both groups; ``None`` uses the optimizer's. It also acts on the rows of earlier classes,
        unless heads are frozen, as a ContinualModel's earlier ones are.
    :raises ValueError: a rate is NaN, infinite or negative.
    :raises TypeError: no classifier is found in the model.
    """
    parts = parts_of(model, "slow_learner_groups")
    require_not_negative(lr=lr, slow_factor=slow_factor, weight_decay=weight_decay or 0.0)
    groups: list[dict[str, Any]] = [
        {"params": [*parts.backbone_parameters().values()], "lr": lr * slow_factor},
        {"params": list(parts.classifier.parameters()), "lr": lr},
    ]
    if weight_decay is not None:
        for group in groups:
            group["weight_decay"] = weight_decay
    return groups


def fresh_final_norm(model: nn.Module) -> None:
    """Reset the backbone's final LayerNorm, in place, to weight 1, bias 0 and eps 1e-5 (F1).

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel` on a timm model, or a timm model.
    :raises ValueError: the backbone has no LayerNorm where timm's models have their final one.
    """
    inner = unwrap(model)
    backbone = inner.backbone if isinstance(inner, ContinualModel) else inner
    for name in ("fc_norm", "norm", "head.norm"):
        norm: Any = backbone
        for part in name.split("."):
            norm = getattr(norm, part, None)
        if isinstance(norm, nn.LayerNorm):
            norm.reset_parameters()
            norm.eps = 1e-5
            return
    raise ValueError(
        f"{type(backbone).__name__} has no LayerNorm named norm, fc_norm or head.norm: use final_norm='pretrained' "
        "(--set final_norm=pretrained)"
    )


# Stage 2: classifier alignment


def align_heads(
    heads: Heads,
    gaussians: ClassGaussians,
    *,
    epochs: int = 5,
    samples_per_class: int = 256,
    batch_size: int = 256,
    lr: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    tau: float | None = 0.1,
    mean_decay: bool = True,
    feature_decay: tuple[float, float] | None = None,
    task_index: TaskIndex = "true",
    generator: torch.Generator,
) -> None:
    """Retrain all heads, including frozen ones, in place, on features drawn from the Gaussians of all classes.

    Each epoch draws ``samples_per_class`` features of every class and shuffles them together; if they are more than
    :data:`DRAWN_BYTES`, in rounds of as many of every class as that holds, so that memory does not grow with their
    number. The optimizer is SGD with momentum. The learning rate follows a cosine to 0 and changes once per epoch. The
    ``requires_grad`` flags of the heads are ignored and kept.

    :param heads: heads for exactly the classes in ``gaussians``;
        :class:`~reclaim.strategies.parts.ClassifierRows` stand for those of a model's own classifier.
    :param epochs: 0 does not change the heads.
    :param tau: temperature of :func:`normalised_logits`; ``None`` or 0 does not normalise the logits.
    :param mean_decay: whether to scale the means by :func:`mean_scales` (F4).
    :param feature_decay: mean and half width of mu, to scale each drawn vector by :func:`feature_scales`; (0.02, 0.01)
        in SLCA++.
    :param task_index: which index of a class's task the two decays use (F5).
    :param generator: a CPU generator, the only source of random numbers here.
    :raises ValueError: a number is out of its range, or some classes have a head but no statistics, or the other way
        round.
    :raises FloatingPointError: the weights became NaN or infinite. The heads do not change then.
    """
    _check_alignment(
        epochs=epochs,
        samples_per_class=samples_per_class,
        batch_size=batch_size,
        lr=lr,
        momentum=momentum,
        weight_decay=weight_decay,
        tau=tau,
        feature_decay=feature_decay,
        task_index=task_index,
    )
    classes = heads.classes
    require_same_classes(classes, gaussians.classes, "alignment")
    if epochs == 0:
        return
    sizes = [len(c) for c in heads.head_classes]
    scales = mean_scales(heads, gaussians, task_index) if mean_decay else None
    # One matrix for all heads: the same arithmetic as SGD on each head, in a single product.
    # In half precision most steps would be too small to change a weight.
    rows = (rows.to(torch.promote_types(rows.dtype, torch.float32)) for rows in heads.rows())
    weight, bias = (part.requires_grad_() for part in rows)
    optimizer = torch.optim.SGD([weight, bias], lr=lr, momentum=momentum, weight_decay=weight_decay)
    at_a_time = max(1, DRAWN_BYTES // (4 * len(classes) * weight.shape[1]))
    rounds = math.ceil(samples_per_class / at_a_time)
    for epoch, part in itertools.product(range(epochs), range(rounds)):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        count = samples_per_class * (part + 1) // rounds - samples_per_class * part // rounds
        features = gaussians.sample(classes, count, generator, scales)
        if feature_decay is not None:
            features *= feature_scales(heads, gaussians, feature_decay, count, generator, task_index).unsqueeze(2)
        features = features.flatten(0, 1).to(weight)
        targets = torch.arange(len(classes), device=weight.device).repeat_interleave(count)
        order = torch.randperm(len(features), generator=generator).to(weight.device)
        for batch in order.split(batch_size):
            x, y = features[batch], targets[batch]
            with torch.enable_grad():
                logits = F.linear(x, weight, bias)
                loss = F.cross_entropy(normalised_logits(logits, sizes, tau) if tau else logits, y)
            weight.grad, bias.grad = torch.autograd.grad(loss, [weight, bias])
            optimizer.step()
    if not (torch.isfinite(weight).all() and torch.isfinite(bias).all()):
        raise FloatingPointError(
            f"the aligned heads are NaN or infinite: lower the alignment's learning rate, now {lr}"
        )
    heads.write(weight, bias)


def normalised_logits(logits: Tensor, sizes: Sequence[int], tau: float) -> Tensor:
    """Logits (N, C) divided by n tau. n is the L2 norm of a task's logits, averaged over the tasks, plus 1e-7.

    The gradient flows through n, too.

    :param sizes: number of classes of each task, in the order of the logits.
    """
    norms = torch.stack([torch.linalg.vector_norm(part, dim=1) for part in logits.split(list(sizes), dim=1)])
    return logits / ((norms.mean(dim=0) + 1e-7) * tau).unsqueeze(1)


def mean_scales(heads: Heads, gaussians: ClassGaussians, task_index: TaskIndex = "true") -> list[float]:
    """A factor for each class's mean, in the order of ``heads.classes``:
    0.9 + 0.1 (t + 1) / (T + 1), with T the newest task (F4).

    :param task_index: ``"true"``: t is the index of the experience of the class's statistics. ``"reference"``: the
        class's position in the order of the heads, divided by the size of the newest head, which is wrong when tasks
        differ in size (F5).
    """
    tasks, newest = _task_indices(heads, gaussians, task_index)
    return [0.9 + 0.1 * (t + 1) / (newest + 1) for t in tasks]


def feature_scales(
    heads: Heads,
    gaussians: ClassGaussians,
    decay: tuple[float, float],
    count: int,
    generator: torch.Generator,
    task_index: TaskIndex = "true",
) -> Tensor:
    """Factors (C, count) for ``count`` feature vectors of each class, in the order of ``heads.classes``:
    1 / (1 + mu (T - t)).

    T is the newest task. mu is drawn for each vector (SLCA++, arXiv 2408.08295).

    :param decay: mean and half width of the uniform distribution of mu.
    :param task_index: see :func:`mean_scales`.
    :raises ValueError: a factor could be negative or infinite. Only the wrong index with a large mu can cause that.
    """
    mean, half_width = decay
    tasks, newest = _task_indices(heads, gaussians, task_index)
    ages = newest - torch.tensor(tasks)
    if 1 + (mean + half_width) * int(ages.min()) <= 0:
        raise ValueError(
            f"feature_decay {decay} is too large for task_index={task_index!r}, which makes T - t {int(ages.min())}: "
            f"lower it"
        )
    mu = mean + half_width * (2 * torch.rand(len(tasks), count, generator=generator) - 1)
    return 1 / (1 + mu * ages.unsqueeze(1))


def _task_indices(heads: Heads, gaussians: ClassGaussians, task_index: TaskIndex) -> tuple[list[int], int]:
    """t of each class, in the order of ``heads.classes``, and the newest task T (F5)."""
    tasks = [gaussians[c].experience for c in heads.classes]
    newest = max(tasks)
    if task_index == "reference":
        tasks = [place // len(heads.head_classes[-1]) for place in range(len(tasks))]
    return tasks, newest


def _check_alignment(
    *,
    epochs: int,
    samples_per_class: int,
    batch_size: int,
    lr: float,
    momentum: float,
    weight_decay: float,
    tau: float | None,
    feature_decay: tuple[float, float] | None,
    task_index: str,
) -> None:
    """Raise a :class:`ValueError` that names the first hyper-parameter of :func:`align_heads` that is
    out of its range.
    """
    for name, value, least in (
        ("epochs", epochs, 0),
        ("samples_per_class", samples_per_class, 1),
        ("batch_size", batch_size, 1),
    ):
        if value != int(value) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value}")
    require_not_negative(lr=lr, momentum=momentum, weight_decay=weight_decay, tau=tau or 0.0)
    mean, half_width = feature_decay or (0.0, 0.0)
    if not 0 <= half_width <= mean < math.inf:
        raise ValueError(
            f"feature_decay must be (mean, half width), 0 <= half width <= mean, got {feature_decay}: "
            f"None switches it off"
        )
    if task_index not in ("true", "reference"):
        raise ValueError(f"task_index must be 'true' or 'reference', got {task_index!r}")


class ClassifierAlignment(SupervisedPlugin[Any]):
    """Stage 2 of SLCA as a plugin for any Avalanche strategy whose model is a
    :class:`~reclaim.strategies.heads.ContinualModel`, or ends in a classifier of its own, such as Avalanche's
    ``IncrementalClassifier`` (:func:`~reclaim.strategies.parts.parts_of`).

    After training on an experience it fits one Gaussian to the features of each of its classes (training images, test
    transform, eval mode). A class that occurs again is fitted again, only to its new images, and counts as a class of
    the newest experience. Then, from the second experience on, it runs :func:`align_heads`. Every call of ``train`` on
    an experience counts as one experience, also in a new strategy on the same model. With another strategy on another
    model it starts anew.

    It draws from generators of its own, and leaves torch's global one, the modes of all modules and the trainable flags
    of the heads as they were. Plugins listed before it see the unaligned heads in their ``after_training_exp``, plugins
    after it the aligned ones. Avalanche's own plugins always count as listed before it, because strategies such as
    Avalanche's ``EWC`` and ``LwF`` add theirs behind the user's: when training starts, it takes the place behind the
    last of them (and so behind plugins listed between).

    Batch normalisation that estimates its statistics anew on each experience moves the features of earlier classes away
    from their Gaussians, without a weight changing: where it does so in the first step, a warning says that
    :class:`~reclaim.strategies.frozen_batch_norm.FrozenBatchNorm` stops it.

    :param epochs: passes over the drawn features; 0 switches alignment off.
    :param samples_per_class: features drawn per class and epoch.
    :param lr: at the start of its cosine; the paper's is the heads' rate in stage 1.
    :param tau: temperature of the logit normalisation, 0.1 (0.05 for Cars-196); ``None`` or 0 switches the
        normalisation off.
    :param covariance_ridge: multiple of the identity added to each covariance: 1e-4 in the code, 0 in the text (F3).
    :param covariance, rank: what is kept of each covariance, the whole matrix in the paper: see
        :class:`~reclaim.strategies.gaussians.ClassGaussians`.
    :param mean_decay: scale the means of earlier experiences' classes, as in the code; the text does not, that is
        ``False`` (F4).
    :param feature_decay: mean and half width of the random decay of the drawn features, which SLCA++ has in place of
        ``mean_decay``: (0.02, 0.01) there; ``None`` is off.
    :param task_index: ``"true"``, or ``"reference"`` for the code's index, which is wrong when tasks differ in size
        (F5).
    :param restore: go on training from the unaligned heads: they are put back before the next experience, so that
        evaluation in between sees the aligned ones (F6).
    :param seed: of the drawn features, together with the index of the experience.
    :raises ValueError: a number out of its range; before training, a missed experience, or a model that does not end in
        its classifier; before and after training, features that are NaN or infinite.
    :raises TypeError: before training, a model without a classifier, or batches without images and class ids.
    """

    place = 2

    def __init__(
        self,
        *,
        epochs: int = 5,
        samples_per_class: int = 256,
        batch_size: int = 256,
        lr: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        tau: float | None = 0.1,
        covariance_ridge: float = 1e-4,
        covariance: CovarianceKind = "full",
        rank: int = 16,
        mean_decay: bool = True,
        feature_decay: tuple[float, float] | None = None,
        task_index: TaskIndex = "true",
        restore: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings: dict[str, Any] = {
            "epochs": epochs,
            "samples_per_class": samples_per_class,
            "batch_size": batch_size,
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "tau": tau,
            "feature_decay": feature_decay,
            "task_index": task_index,
        }
        _check_alignment(**self.settings)
        self.settings["mean_decay"] = mean_decay
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.restore = restore
        self.seed = seed
        self.gaussians = ClassGaussians(covariance_ridge, covariance, rank)
        self._tasks: list[list[int]] = []  # the classes that each experience brought
        self._unaligned: list[Tensor] | None = None
        self._aligned = Owner()  # the classifier that they are of
        self._owner = Owner()
        self._looked = False  # at batch normalisation

    @property
    def bytes_kept(self) -> int:
        """Bytes of the class statistics. Heads, aligned or not, are part of the model and do not count."""
        return self.gaussians.nbytes

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts_of(strategy.model, "ClassifierAlignment")
        take_place(self, strategy)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        # The first hook of an experience: the model is not adapted yet, so no head has been added.
        if self._unaligned is not None:
            parts = parts_of(strategy.model, "ClassifierAlignment")
            # the strategy may have another model now, or begin with the initial one
            if not self._aligned.is_another(parts.classifier) and not starts_over(strategy):
                parts.heads(self._tasks).restore(self._unaligned)
            self._unaligned = None

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts, experience = parts_of(strategy.model, "ClassifierAlignment"), strategy.experience
        if self._owner.changes_to(strategy, strategy.model):
            self.gaussians, self._tasks, self._looked = self.gaussians.empty(), [], False
        if isinstance(strategy, JointTraining):
            return  # one training on all experiences: no alignment follows
        parts.require_classes({*self.gaussians.classes, *classes_of(experience)}, "alignment")
        check_features(parts.model, experience.dataset.eval(), strategy.device, "ClassifierAlignment")

    def after_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._looked:
            return
        self._looked = True  # the modes of a step are those of all: what sets them has done so by now
        if moving := moving_batch_norms(parts_of(strategy.model, "ClassifierAlignment").model):
            warnings.warn(
                f"ClassifierAlignment: batch normalisation ({moving[0]} and {len(moving) - 1} more) estimates its "
                f"statistics anew on each experience, which moves the features of earlier classes away from their "
                f"Gaussians: add the plugin FrozenBatchNorm (of a run: --set batch_norm=frozen)",
                stacklevel=2,
            )

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts = parts_of(strategy.model, "ClassifierAlignment")
        experience = len(self._tasks)  # not the strategy's clock, which begins anew in a new strategy on this model
        batch_size = images_at_a_time(strategy)
        # the experience's own data, not the adapted dataset, which may hold a replay buffer
        workers = kwargs.get("num_workers", 0)
        features, targets = extract_features(
            parts.model, strategy.experience.dataset.eval(), batch_size, strategy.device, workers
        )
        new = set(targets.tolist()) - set(self.gaussians.classes)
        self.gaussians.fit(features, targets, experience)
        self._tasks.append(sorted(new))
        if experience > 0:
            heads = parts.heads(self._tasks)
            if self.restore:
                self._unaligned = heads.snapshot()
                self._aligned.changes_to(parts.classifier)
            entropy = np.random.SeedSequence((self.seed, experience)).generate_state(1, np.uint64)
            generator = torch.Generator().manual_seed(int(entropy[0]))
            align_heads(heads, self.gaussians, **self.settings, generator=generator)


# Both stages


class SLCA(SupervisedTemplate):
    """SLCA as a complete strategy: used like Avalanche's ``Naive``, but it makes its optimizer and criterion itself.

    Stage 1: SGD over :func:`slow_learner_groups`, new for each experience, cross-entropy over the experience's classes;
    stage 2: :class:`ClassifierAlignment`, with the rate, momentum and weight decay of stage 1, as in the code. The
    defaults are those of CIFAR-100 with supervised pretraining; the paper's other data sets take 50 epochs with
    milestone 40, MoCo v3 90 with 80.

    :param model: a :class:`~reclaim.strategies.heads.ContinualModel` with heads of ``init_std=0.02``, or a model with a
        classifier of its own.
    :param lr: of the heads, in both stages; the backbone's is ``lr * slow_factor``.
    :param milestones: epochs of each experience after which both rates are multiplied by ``lr_decay``; none beyond
        ``train_epochs``.
    :param final_norm: ``"fresh"`` resets the final LayerNorm, as the code does; ``"pretrained"`` keeps the pretrained
        one (F1).
    :param alignment_epochs: 0 skips stage 2.
    :param tau, samples_per_class, covariance_ridge, mean_decay, task_index, restore, seed: see
        :class:`ClassifierAlignment` (F3-F6).
    :param plugins: further plugins. They run before the alignment, so they see the heads before it.
    :param base_kwargs: other arguments of ``SupervisedTemplate``.
    :raises ValueError: a number is out of its range, or there is no LayerNorm to reset.
    :raises TypeError: no classifier is found in the model.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        lr: float = 0.01,
        slow_factor: float = 0.01,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        milestones: Sequence[int] = (18,),
        lr_decay: float = 0.1,
        final_norm: Literal["fresh", "pretrained"] = "fresh",
        tau: float | None = 0.1,
        alignment_epochs: int = 5,
        samples_per_class: int = 256,
        covariance_ridge: float = 1e-4,
        mean_decay: bool = True,
        task_index: TaskIndex = "true",
        restore: bool = True,
        seed: int = 0,
        train_mb_size: int = 128,
        train_epochs: int = 20,
        eval_mb_size: int = 128,
        device: str | torch.device = "cpu",
        plugins: Sequence[SupervisedPlugin[Any]] | None = None,
        evaluator: EvaluationPlugin | Callable[[], EvaluationPlugin] = default_evaluator,
        **base_kwargs: Any,
    ) -> None:
        alignment = ClassifierAlignment(
            epochs=alignment_epochs,
            samples_per_class=samples_per_class,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            tau=tau,
            covariance_ridge=covariance_ridge,
            mean_decay=mean_decay,
            task_index=task_index,
            restore=restore,
            seed=seed,
        )
        groups = slow_learner_groups(model, lr, slow_factor, weight_decay)
        require_not_negative(lr_decay=lr_decay)
        if any(epoch != int(epoch) or epoch < 1 for epoch in milestones):
            raise ValueError(f"milestones must be epochs, integers of at least 1, got {list(milestones)}")
        if final_norm not in ("fresh", "pretrained"):
            raise ValueError(f"final_norm must be 'fresh' or 'pretrained', got {final_norm!r}")
        if final_norm == "fresh":
            fresh_final_norm(model)
        super().__init__(
            model=model,
            optimizer=torch.optim.SGD(groups, lr=lr, momentum=momentum),
            criterion=TaskCrossEntropy(),
            train_mb_size=train_mb_size,
            train_epochs=train_epochs,
            eval_mb_size=eval_mb_size,
            device=device,
            plugins=[
                FreshOptimizer(lambda optimizer, _: MultiStepLR(optimizer, list(milestones), lr_decay)),
                *(plugins or []),
                alignment,
            ],
            evaluator=evaluator,
            **base_kwargs,
        )
        self.alignment = alignment
