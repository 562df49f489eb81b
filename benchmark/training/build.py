"""From a configuration to its training objects:
the backbone, the model with its heads, and the Avalanche strategy with its plugins.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.templates import SupervisedTemplate
from reclaim.strategies.aepg import AnnealedEPGLoss
from reclaim.strategies.aper import APER
from reclaim.strategies.averaging import WeightAverage, WiSEFT
from reclaim.strategies.backbones import LOCAL, OF_PRETRAINING, PRETRAINED, QUICKDRAW_VIT, create_backbone, read_block
from reclaim.strategies.baselines import EWC, L2SP, FrozenBackbone, LwF
from reclaim.strategies.best_epoch import BestEpoch
from reclaim.strategies.closed_form import CosineClassMean, LinearDiscriminant, NearestClassMean, RanPAC
from reclaim.strategies.coda import CODAPrompt, attach_coda
from reclaim.strategies.depths import layer_depths
from reclaim.strategies.dualprompt import DualPrompt, attach_dualprompt
from reclaim.strategies.entropy import ConfidencePenaltyLoss, EntropyPenaltyLoss, FocalLoss, LabelSmoothingLoss
from reclaim.strategies.first_experience import FirstExperienceOnly
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.frozen_batch_norm import FrozenBatchNorm
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.inflora import InfLoRA, InfLoRARates, attach_inflora
from reclaim.strategies.l2p import L2P, attach_l2p
from reclaim.strategies.lae import LAE
from reclaim.strategies.layer_decay import layer_decay_groups
from reclaim.strategies.olor import OLORSGD, OLORAdam
from reclaim.strategies.olor_plugin import OLORPlugin
from reclaim.strategies.peft import PEFTSchedule, attach_adapter, attach_lora, attach_prefix
from reclaim.strategies.peft_module import peft_parameters
from reclaim.strategies.prompts import attach_prompts
from reclaim.strategies.replay import BiC, DERPlusPlus, GDumb, Replay
from reclaim.strategies.slca import ClassifierAlignment, fresh_final_norm, slow_learner_groups
from reclaim.strategies.slca_pp import (
    HeadScaling,
    SlowLearnerRates,
    SymmetricCrossEntropy,
    attach_svd_lora,
    slca_pp_groups,
    train_low_rank_and_norms,
)
from reclaim.strategies.ssf import attach_ssf
from reclaim.strategies.task_loss import TaskCrossEntropy
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from ..config import OLOR_SGD_ONLY, Alignment, ClosedForm, Config, External, InfLora
from ..data.augment import Warp, warp_batch
from ..data.cache import BatchTransform
from ..data.transforms import ImageTransform, OlorTransform, Transform, own_transforms, transforms_of
from ..files import asset
from .components import call
from .data_parallel import Replicas
from .step import LateFirstStep, Stepwise

EVAL_BATCH = 500
STEP_AT, STEP_FACTOR = 0.8, 0.1  # "step": SLCA's decay after epoch 40 of 50


def make_backbone(
    config: Config, weights: Path | None = None, random: bool = False, shape: tuple[int, ...] | None = None
) -> nn.Module:
    """The backbone: pretrained if its name has a tag, as timm's names have (``vit_base_patch16_224.mae``), or is of a
    repository (``hf-hub:owner/name``), otherwise random.

    :param weights: load the weights from this file instead of timm's hub. What its pretraining left besides, such as a
        classifier, is ignored.
    :param random: use random weights whatever the name.
    :param shape: of an image, such as (3, 224, 224), for which it is made; None: for its own.
    :raises ValueError: the weights are missing or others, or it cannot be made for such images.
    """
    backbone = _backbone(config, weights, random, shape)
    if shape and not (config.images and config.images.protocol != "own"):  # what a paper's protocol says fits
        _require_sees(config.backbone, backbone, shape)
    return backbone


def _backbone(config: Config, weights: Path | None, random: bool, shape: tuple[int, ...] | None) -> nn.Module:
    name, img_size = config.backbone, shape[-1] if shape and shape[-2] == shape[-1] else None
    if config.external and config.external.backbone:
        if weights:
            raise ValueError(f"{name} brings its weights itself: leave out the weights {weights}")
        return call("backbone", config.external.backbone)
    if name == QUICKDRAW_VIT:
        if weights:
            raise ValueError(f"the weights of {name} ship with this package: leave out the weights {weights}")
        return create_backbone(name, asset(f"{QUICKDRAW_VIT}.safetensors"), img_size=img_size)
    if random:
        return create_backbone(name, img_size=img_size)
    if weights and not config.starts_pretrained:
        raise ValueError(
            f"{name!r} starts from random weights, because its name has no tag: leave out the weights {weights}, or "
            f"write {name}.{LOCAL}"
        )
    if weights:
        return create_backbone(name, weights, allow_unexpected=OF_PRETRAINING, img_size=img_size)
    if name.endswith(f".{LOCAL}"):
        raise ValueError(f"{name!r} starts from weights of your own: pass their file with --weights, or as --backbone")
    return create_backbone(name, PRETRAINED if config.starts_pretrained else None, img_size=img_size)


def _require_sees(name: str, backbone: nn.Module, shape: tuple[int, ...]) -> None:
    """Show the backbone two images. In eval mode batch normalisation keeps its statistics, and dropout draws nothing.

    :raises ValueError: it makes no features of them.
    """
    channels, height, width = shape
    was_training = backbone.training
    try:
        with torch.no_grad():
            features = backbone.eval()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, AssertionError, IndexError) as error:
        what = {1: "grey", 3: "RGB"}.get(channels, f"{channels}-channel")
        raise ValueError(
            f"the backbone {name} cannot see {what} images of {height} x {width} pixels "
            f"({(str(error).splitlines() or ['?'])[0]}): choose images of another size, or another backbone"
        ) from error
    backbone.train(was_training)
    if not isinstance(features, torch.Tensor) or features.ndim != 2:
        found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        raise ValueError(
            f"the backbone {name} returns {found} for 2 images, not one row of features for each: "
            f"choose another backbone"
        )


def make_model(config: Config, backbone: nn.Module, n_classes: int = 0) -> ContinualModel:
    """The backbone with heads, set up as configured. Draws from torch's global generator.

    :param n_classes: number of classes in the whole stream: the width of the single head that DER++ needs.
    """
    if config.read_block is not None:
        read_block(backbone, config.read_block)
    model = ContinualModel(
        backbone,
        init_std=config.head_init_std,
        freeze_earlier=not (config.memory or config.lwf is not None),
        autocast={"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[config.precision],
    )
    if config.memory and config.memory.method == "der++":
        model.heads.add_head(range(n_classes))
    if config.final_norm == "fresh":
        fresh_final_norm(model)
    if config.lora:
        attach_lora(model, range(config.lora.blocks), config.lora.rank)
    if config.adapter:
        attach_adapter(model, range(config.adapter.blocks), config.adapter.hidden)
    if config.prefix:
        attach_prefix(model, range(config.prefix.blocks), config.prefix.tokens)
    if config.prompts:
        attach_prompts(model, config.prompts.tokens, config.prompts.deep)
    if config.l2p:
        attach_l2p(model, **_arguments(attach_l2p, config.l2p))
    if config.dualprompt:
        attach_dualprompt(model, **_arguments(attach_dualprompt, config.dualprompt))
    if config.ssf:
        attach_ssf(model, config.ssf.init_std)
    if config.coda:
        c = config.coda
        attach_coda(model, c.experiences, range(c.blocks), c.components, c.length)
    if config.low_rank:
        attach_svd_lora(model, config.low_rank.rank, config.low_rank.scale)
        train_low_rank_and_norms(model)
    if config.inflora:
        blocks = None if config.inflora.blocks is None else range(config.inflora.blocks)
        attach_inflora(model, blocks, config.inflora.rank)
    if config.images:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # halves what convolutions take on the CPU
    return model


def _arguments(function: Callable[..., Any], part: Any) -> dict[str, Any]:
    """Those settings of a part that a function has an argument for."""
    return {name: value for name, value in vars(part).items() if name in inspect.signature(function).parameters}


def prepared(config: Config, dataset: str) -> tuple[BatchTransform, BatchTransform]:
    """The configured transforms for training and testing; of a configuration for photographs."""
    images = config.images
    if images is None:
        raise ValueError("this configuration is for drawings, which have no transforms: set images.protocol")
    train: Transform
    test: Transform
    if images.protocol == "own":
        of_others = config.external and config.external.backbone
        train, test = own_transforms(None if of_others else config.backbone, images.size)
    else:
        train, test = transforms_of(images.protocol, dataset, images.size)
    if images.clipped:
        if not isinstance(train, OlorTransform):
            raise ValueError(
                f"clipped=true is a switch of OLOR's transform (F15), not of protocol={images.protocol!r}: leave it out"
            )
        train = replace(train, clipped=True)
    if images.smallest_crop is not None:
        if not isinstance(train, ImageTransform) or train.geometry != "random-resized-crop":
            raise ValueError(
                f"smallest_crop={images.smallest_crop} needs random crops, "
                f"which protocol={images.protocol!r} does not use: leave it out"
            )
        train = replace(train, scale=(images.smallest_crop, train.scale[1]))
    return (train if images.augment else test), test


def make_strategy(
    config: Config,
    model: ContinualModel,
    seed: int,
    plugins: Sequence[SupervisedPlugin[Any]],
    device: str = "cpu",
    validation: Sequence[Any] | None = None,
    replicas: Replicas | None = None,
) -> SupervisedTemplate:
    """:class:`Stepwise` with the configured plugins, optimizer and criterion. DER++ has its own strategy class, as have
    recipes from outside.

    :param plugins: additional plugins, which run after the configured ones and those from outside.
    :param validation: experiences with held-out images, with which ``keep="best"`` selects the epoch.
    :param replicas: see :class:`Stepwise`.
    """
    strategy: Callable[..., SupervisedTemplate] = partial(
        Stepwise, micro_batch=config.micro_batch, scale_loss=config.precision == "fp16", replicas=replicas
    )
    if config.memory and config.memory.method == "der++":
        strategy = partial(DERPlusPlus, mem_size=config.memory.size, alpha=config.memory.alpha, beta=config.memory.beta)
    external = config.external or External()
    if external.strategy:
        strategy = partial(call, "strategy", external.strategy)
    foreign = [call("plugin", plugin) for plugin in external.plugins]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No loggers specified")  # that is what is wanted
        evaluator = EvaluationPlugin(loggers=[])
    return strategy(
        model=model,
        optimizer=_optimizer(config, model, device),
        criterion=_loss(config),
        train_mb_size=config.batch_size,
        train_epochs=config.epochs,
        eval_mb_size=config.eval_batch_size or (config.batch_size if config.images else EVAL_BATCH),
        device=device,
        plugins=[*_plugins(config, seed, validation), *foreign, *plugins],
        evaluator=evaluator,
    )


def _plugins(config: Config, seed: int, validation: Sequence[Any] | None) -> list[SupervisedPlugin[Any]]:
    """The plugins in the order in which they run. Those that need the unaligned heads come before the alignment."""
    plugins: list[SupervisedPlugin[Any]] = [Reseeding(seed), _fresh_optimizer(config)]
    if config.keep == "best":
        if validation is None:
            raise ValueError("keep='best' chooses an epoch by held-out images: give their experiences as validation")
        plugins.append(BestEpoch(validation))
    if config.trainable == "heads":
        plugins.append(FrozenBackbone())
    if config.batch_norm == "frozen":
        plugins.append(FrozenBatchNorm())
    if config.train_in == "first":
        plugins.append(FirstExperienceOnly())
    if config.peft:
        plugins.append(PEFTSchedule(config.peft.frozen_epochs, config.peft.freeze))
    if config.l2p:
        plugins.append(L2P(**_arguments(L2P, config.l2p)))
    if config.dualprompt:
        plugins.append(DualPrompt(**_arguments(DualPrompt, config.dualprompt)))
    if config.frozen_epochs and not config.peft:
        plugins.append(PEFTSchedule(config.frozen_epochs))
    if config.coda:
        plugins.append(CODAPrompt(config.coda.orthogonality, seed))
    if config.lae:
        plugins.append(LAE(config.lae.decay))
    if config.inflora:
        plugins.append(_inflora(config, config.inflora, seed))
    if config.olor:
        plugins.append(OLORPlugin(config.olor.anchor))
    if config.l2_sp is not None:
        plugins.append(L2SP(config.l2_sp, config.l2_sp_form))
    if config.ewc is not None:
        plugins.append(EWC(config.ewc))
    if config.lwf is not None:
        plugins.append(LwF(config.lwf))
    if config.memory and config.memory.method == "replay":
        plugins.append(Replay(config.memory.size))
    if config.memory and config.memory.method == "gdumb":
        plugins.append(GDumb(config.memory.size))
    if config.memory and config.memory.method == "bic":
        plugins.append(BiC(config.memory.size, val_percentage=config.memory.held_out))
    if config.wise_ft is not None:
        plugins.append(WiSEFT(config.wise_ft))
    if config.weight_average is not None:
        plugins.append(WeightAverage(config.weight_average))
    if config.closed_form:
        plugins.append(_closed_form(config.closed_form, seed))
    if config.augment and not config.images:
        plugins.append(Augmentation(Warp()))
    if config.low_rank:
        plugins.append(HeadScaling(config.low_rank.head_scaling))
    if config.skip_first_step:
        plugins.append(LateFirstStep())
    if config.alignment:
        plugins.append(_alignment(config, config.alignment, seed))
    return plugins


def _closed_form(form: ClosedForm, seed: int) -> NearestClassMean:
    if form.kind == "linear-discriminant":
        return LinearDiscriminant(form.shrinkage)
    if form.kind == "random-projection":
        return RanPAC(form.width, form.ridge, seed)
    return {"nearest-class-mean": NearestClassMean, "cosine-class-mean": CosineClassMean, "aper": APER}[form.kind]()


def _inflora(config: Config, inflora: InfLora, seed: int) -> InfLoRA:
    warps = config.augment and not config.images and inflora.design_images == "train"
    return InfLoRA(
        inflora.threshold,
        inflora.last_threshold,
        images=inflora.design_images,
        augment=partial(warp_batch, warp=Warp()) if warps else None,
        seed=seed,
    )


def _alignment(config: Config, alignment: Alignment, seed: int) -> ClassifierAlignment:
    decay, spread = alignment.feature_decay, alignment.feature_decay_spread
    return ClassifierAlignment(
        epochs=alignment.epochs,
        samples_per_class=alignment.samples_per_class,
        lr=config.lr if alignment.lr is None else alignment.lr,
        momentum=config.momentum,
        weight_decay=alignment.weight_decay,
        tau=alignment.tau,
        covariance_ridge=alignment.ridge,
        covariance=alignment.covariance,
        rank=alignment.rank,
        mean_decay=alignment.mean_decay,
        feature_decay=(decay, spread) if decay or spread else None,
        task_index=alignment.task_index,
        restore=alignment.restore_heads,
        seed=seed,
    )


def _loss(config: Config) -> Any:
    if config.external and config.external.loss:
        return call("loss", config.external.loss)
    restrict = config.memory is None  # images of a memory are of other classes than the current ones
    if config.annealing:
        a = config.annealing
        return AnnealedEPGLoss(a.schedule, a.tau, a.horizon, restrict=restrict)  # type: ignore[arg-type]
    if config.loss is None:
        return TaskCrossEntropy(restrict)
    coefficient = config.loss.coefficient
    if config.loss.kind == "focal":
        return FocalLoss(coefficient, restrict)
    if config.loss.kind == "label-smoothing":
        return LabelSmoothingLoss(coefficient, restrict)
    if config.loss.kind == "confidence-penalty":
        return ConfidencePenaltyLoss(coefficient, restrict)
    if config.loss.kind == "symmetric":
        return SymmetricCrossEntropy(config.loss.weight, coefficient, restrict)
    return EntropyPenaltyLoss(restrict)


def _optimizer(config: Config, model: ContinualModel, device: str) -> Optimizer:
    groups = _groups(config, model)
    if config.external and config.external.optimizer:
        return call("optimizer", config.external.optimizer, groups)
    return optimizer_of(config, groups, model, peft_parameters(model.backbone), device)


def optimizer_of(
    config: Config, groups: list[dict[str, Any]], model: nn.Module, new: Iterable[nn.Parameter], device: str
) -> Optimizer:
    """SGD or Adam as configured, with or without OLOR's rollback.

    :param new: parameters of the model that are not pretrained, besides those that
        :func:`~reclaim.strategies.depths.layer_depths` knows to be new.
    """
    if config.olor:
        depths = layer_depths(model, config.olor.counting, exclude=new)
        rollback: dict[str, Any] = {
            f.name: getattr(config.olor, f.name) for f in fields(config.olor) if f.name.startswith("rollback")
        }
        if device == "cpu":
            # torch's fused step rounds in another order than the runs on record, which a CPU can repeat bit for bit
            rollback["fused"] = False
        if config.optimizer == "adam":
            return OLORAdam(groups, depths=depths, **rollback)
        switches: dict[str, Any] = {name: getattr(config.olor, name) for name in OLOR_SGD_ONLY}
        return OLORSGD(groups, depths=depths, momentum=config.momentum, **switches, **rollback)
    if config.optimizer == "adam":
        return Adam(groups)
    return SGD(groups, momentum=config.momentum)


def _groups(config: Config, model: ContinualModel) -> list[dict[str, Any]]:
    if config.low_rank:
        factors = (config.low_rank.first_factor, config.low_rank.later_factor)
        return slca_pp_groups(model, config.lr, config.low_rank.other_factor, factors, config.weight_decay)
    if config.layer_decay is not None:
        return layer_decay_groups(model, config.lr, config.layer_decay, config.weight_decay)
    return slow_learner_groups(model, config.lr, config.slow_factor, config.weight_decay)


def _fresh_optimizer(config: Config) -> FreshOptimizer:
    if config.low_rank:
        return SlowLearnerRates(config.low_rank.floor_factor * config.lr)
    if config.inflora and config.inflora.schedule != "constant":
        return InfLoRARates(config.inflora.schedule)
    if config.schedule == "step":
        milestones = config.milestones or (max(1, round(STEP_AT * config.epochs)),)
        return FreshOptimizer(partial(_steps, milestones=milestones))
    if config.schedule == "cosine":
        longer = 1 + config.horizon_beyond / config.epochs  # F13 (docs/fidelity.md)
        return FreshOptimizer(partial(_cosine, longer=longer), every="iteration")
    return FreshOptimizer()


# functions at module level, because checkpoints name them


def _steps(optimizer: Optimizer, epochs: int, milestones: Sequence[int]) -> MultiStepLR:
    return MultiStepLR(optimizer, milestones, STEP_FACTOR)


def _cosine(optimizer: Optimizer, steps: int, longer: float) -> CosineAnnealingLR:
    return CosineAnnealingLR(optimizer, round(steps * longer))


class Reseeding(SupervisedPlugin[Any]):
    """Reseeds torch before each experience and epoch, so that evaluation in between,
    which draws random numbers, has no effect.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._reseed(strategy, 0)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._reseed(strategy, 1 + strategy.clock.train_exp_epochs)

    def _reseed(self, strategy: Any, epoch: int) -> None:
        entropy = (self.seed, strategy.clock.train_exp_counter, epoch)
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))


class Augmentation(SupervisedPlugin[Any]):
    """Warps whole training batches. As a plugin it does not affect the data set or its test transform."""

    def __init__(self, warp: Warp) -> None:
        super().__init__()
        self.warp = warp

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.mbatch[0] = warp_batch(strategy.mb_x, self.warp)
