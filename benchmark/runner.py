"""One run: a configuration, a stream and a seed become a record."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin, SupervisedPlugin
from avalanche.training.supervised import Naive
from reclaim.strategies.aepg import AnnealedEPGLoss
from reclaim.strategies.backbones import QUICKDRAW_VIT, create_backbone, fingerprint
from reclaim.strategies.baselines import L2SP, FrozenBackbone
from reclaim.strategies.fresh_optimizer import FreshOptimizer
from reclaim.strategies.heads import ContinualModel
from reclaim.strategies.olor import OLORSGD, OLORAdam, OLORPlugin, layer_depths
from reclaim.strategies.peft import PEFTSchedule, attach_lora, peft_parameters
from reclaim.strategies.slca import ClassifierAlignment, fresh_final_norm, slow_learner_groups
from reclaim.strategies.task_loss import TaskCrossEntropy, TaskLoss
from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR

from .arithmetic import cpu_arithmetic
from .augment import Warp, warp_batch
from .config import OLOR_SGD_ONLY, Config
from .datasets import asset, downstream
from .metrics import pack_bits
from .records import SCHEMA, Record, config_hash, provenance
from .streams import Stream, class_order, make_benchmark

EVAL_BATCH = 500
STEP_AT, STEP_FACTOR = 0.8, 0.1  # "step": SLCA's decay after epoch 40 of 50

Progress = Callable[[int, int], None]
"""Called with the number of experiences finished and their total."""


def run(
    recipe: str,
    config: Config,
    stream: Stream,
    seed: int,
    *,
    hyperparameters_from: str = "given",
    device: str = "cpu",
    progress: Progress | None = None,
) -> Record:
    """Train and evaluate once, on one thread: small tensors gain nothing from more, and the result must not depend on the number of cores.

    :param recipe: the name under which the run is recorded.
    :param hyperparameters_from: "paper", "validation" or "given".
    :raises FloatingPointError: the loss became NaN or infinite.
    """
    started, processor = datetime.now(timezone.utc), time.process_time()
    order = class_order(stream.n_classes, seed)
    benchmark = make_benchmark(stream.joined() if config.joint else stream, order, config.part)
    torch_seed = seed if config.seeding == "class_order+initialisation" else 1  # F2
    observer = Observer()
    with cpu_arithmetic():
        torch.manual_seed(torch_seed)
        backbone = make_backbone(config)
        weights_sha256 = fingerprint(backbone)
        strategy = make_strategy(config, make_model(config, backbone), torch_seed, [observer], device)
        for t, experience in enumerate(benchmark.train_stream):
            strategy.train(experience, eval_streams=[])
            strategy.eval(benchmark.test_stream[: t + 1])
            if progress:
                progress(t + 1, len(benchmark.train_stream))
        ended = datetime.now(timezone.utc)
        where = provenance(started, ended, (ended - started).total_seconds(), device, time.process_time() - processor)

    plugins_and_optimizer = [*strategy.plugins, strategy.optimizer]
    values = config.as_dict()
    result = {
        "schema": SCHEMA,
        "recipe": recipe,
        "stream": stream.name,
        "seed": seed,
        "config": values,
        "config_hash": config_hash(values),
        "varied": config.seeding,
        "accuracy": observer.accuracy,
        "accuracy_task_known": observer.accuracy_task_known,
        "test_counts": [len(e.dataset) for e in benchmark.test_stream],
        "correct": pack_bits(observer.correct),
        "entropy": observer.entropy,
        "train_loss": observer.train_loss,
        "class_order": order,
        "data_sha256": downstream(config.part).sha256,
        "weights_sha256": weights_sha256,
        "trained_parameters": observer.trained_parameters,
        "bytes_kept": sum(int(getattr(p, "bytes_kept", 0)) for p in plugins_and_optimizer),
        "hyperparameters_from": hyperparameters_from,
    }
    return Record(result, where)


def make_backbone(config: Config) -> nn.Module:
    """The backbone with its pretrained weights, where there are any."""
    return create_backbone(config.backbone, asset(f"{QUICKDRAW_VIT}.safetensors") if config.backbone == QUICKDRAW_VIT else None)


def make_model(config: Config, backbone: nn.Module) -> ContinualModel:
    """The backbone with heads, prepared as the configuration says; draws from torch's global generator."""
    model = ContinualModel(backbone, init_std=config.head_init_std)
    if config.final_norm == "fresh":
        fresh_final_norm(model)
    if config.lora:
        attach_lora(model, range(config.lora.blocks), config.lora.rank)
    return model


def make_strategy(config: Config, model: ContinualModel, seed: int, plugins: list[SupervisedPlugin[Any]], device: str = "cpu") -> Naive:
    """Avalanche's ``Naive`` with the plugins, the optimizer and the criterion that the configuration names."""
    groups = slow_learner_groups(model, config.lr, config.slow_factor, config.weight_decay)
    chosen: list[SupervisedPlugin[Any]] = [Reseeding(seed), _fresh_optimizer(config)]
    if config.trainable == "heads":
        chosen.append(FrozenBackbone())
    if config.lora:
        chosen.append(PEFTSchedule(config.lora.frozen_epochs, config.lora.freeze))
    if config.olor:
        chosen.append(OLORPlugin(config.olor.anchor))
    if config.l2_sp is not None:
        chosen.append(L2SP(config.l2_sp))
    if config.augment:
        chosen.append(Augmentation(Warp()))
    if config.alignment:
        a = config.alignment
        chosen.append(
            ClassifierAlignment(
                epochs=a.epochs,
                samples_per_class=a.samples_per_class,
                lr=config.lr if a.lr is None else a.lr,
                momentum=config.momentum,
                weight_decay=a.weight_decay,
                tau=a.tau,
                covariance_ridge=a.ridge,
                mean_decay=a.mean_decay,
                task_index=a.task_index,
                restore=a.restore_heads,
                seed=seed,
            )
        )
    return Naive(
        model=model,
        optimizer=_optimizer(config, model, groups),
        criterion=_loss(config),
        train_mb_size=config.batch_size,
        train_epochs=config.epochs,
        eval_mb_size=EVAL_BATCH,
        device=device,
        plugins=[*chosen, *plugins],
        evaluator=EvaluationPlugin(loggers=[BaseLogger()]),  # logs nothing; without one, Avalanche warns
    )


def _loss(config: Config) -> TaskLoss:
    if config.annealing is None:
        return TaskCrossEntropy()
    return AnnealedEPGLoss(config.annealing.schedule, config.annealing.tau, config.annealing.horizon)  # type: ignore[arg-type]


def _optimizer(config: Config, model: ContinualModel, groups: list[dict[str, Any]]) -> Optimizer:
    if config.olor:
        depths = layer_depths(model, config.olor.counting, exclude=peft_parameters(model.backbone))
        rollback: dict[str, Any] = {f.name: getattr(config.olor, f.name) for f in fields(config.olor) if f.name.startswith("rollback")}
        if config.optimizer == "adam":
            return OLORAdam(groups, depths=depths, **rollback)
        switches: dict[str, Any] = {name: getattr(config.olor, name) for name in OLOR_SGD_ONLY}
        return OLORSGD(groups, depths=depths, momentum=config.momentum, **switches, **rollback)
    if config.optimizer == "adam":
        return Adam(groups)
    return SGD(groups, momentum=config.momentum)


def _fresh_optimizer(config: Config) -> FreshOptimizer:
    if config.schedule == "step":
        return FreshOptimizer(lambda optimizer, epochs: MultiStepLR(optimizer, [max(1, round(STEP_AT * epochs))], STEP_FACTOR))
    if config.schedule == "cosine":
        longer = 1 + config.horizon_beyond / config.epochs  # F13
        return FreshOptimizer(lambda optimizer, steps: CosineAnnealingLR(optimizer, round(steps * longer)), every="iteration")
    return FreshOptimizer()


class Reseeding(SupervisedPlugin[Any]):
    """Reseeds torch before each experience and epoch, so that evaluating in between, which draws random numbers, changes nothing."""

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
    """Warps every training batch as a whole; listed among the plugins, it leaves the dataset and its test transform alone."""

    def __init__(self, warp: Warp) -> None:
        super().__init__()
        self.warp = warp

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.mbatch[0] = warp_batch(strategy.mb_x, self.warp)


class Observer(SupervisedPlugin[Any]):
    """Collects what a record holds: accuracies in percent with and without the task known, training loss and entropy per epoch.

    The entropy (nats) is that of the softmax over the current experience's classes on the training batches, as in aEPG's figures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy: list[list[float]] = []
        self.accuracy_task_known: list[list[float]] = []
        self.entropy: list[float] = []
        self.train_loss: list[float] = []
        self.correct: list[bool] = []
        self._trained: dict[str, int] = {}

    @property
    def trained_parameters(self) -> int:
        """Number of weights that required a gradient in some epoch."""
        return sum(self._trained.values())

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._trained |= {name: p.numel() for name, p in strategy.model.named_parameters() if p.requires_grad}
        self._sums = np.zeros(3)
        self._classes = sorted(strategy.experience.classes_in_this_experience)

    @torch.no_grad()
    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        log_p = torch.log_softmax(strategy.mb_output[:, self._classes].float(), dim=1)
        n, loss = len(log_p), float(strategy.loss)
        if not np.isfinite(loss):
            where = f"experience {strategy.clock.train_exp_counter}, epoch {strategy.clock.train_exp_epochs}"
            raise FloatingPointError(f"the loss became {loss} in {where}: lower the learning rate")
        self._sums += [n, n * loss, -float((log_p.exp() * log_p).sum())]

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        n, loss, entropy = self._sums
        self.train_loss.append(float(loss / n))
        self.entropy.append(float(entropy / n))

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.accuracy.append([])
        self.accuracy_task_known.append([])
        self.correct = []

    def before_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._eval_classes = torch.tensor(sorted(strategy.experience.classes_in_this_experience), device=strategy.device)
        self._hits: list[bool] = []
        self._hits_task_known: list[bool] = []

    def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        logits, targets = strategy.mb_output, strategy.mb_y
        # what the last step or the alignment broke shows here first; argmax would make an accuracy of it
        if not torch.isfinite(logits).all():
            seen = strategy.clock.train_exp_counter
            raise FloatingPointError(f"a logit is NaN or infinite when evaluated after {seen} experience(s): lower the learning rate")
        self._hits += (logits.argmax(1) == targets).tolist()
        self._hits_task_known += (self._eval_classes[logits[:, self._eval_classes].argmax(1)] == targets).tolist()

    def after_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.correct += self._hits
        self.accuracy[-1].append(100 * float(np.mean(self._hits)))
        self.accuracy_task_known[-1].append(100 * float(np.mean(self._hits_task_known)))
