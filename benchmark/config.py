"""The configuration of a run: every setting that affects its result. Parts that are not used are absent."""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

QUICKDRAW_VIT = "quickdraw_vit"
"""Name of the embedded backbone and of its files in assets/."""

LITE0 = "tf_efficientnet_lite0.pypi"
"""Name of the middle tier's backbone."""
LITE_SIZE = 96
"""Pixels of a side of the middle tier's images."""

HUB = "hf-hub:"
"""Begins the name of a backbone that is a repository on Hugging Face's hub, as in timm."""

EXECUTION = ("precision", "compile", "micro_batch")
"""Settings of the arithmetic. A run counts for a cell whatever their values; the verdict lists those that differ."""

Part = Literal["test", "validation"]
"""Which drawings or images are used for evaluation."""

Seeding = Literal["class_order", "class_order+initialisation", "initialisation"]


class ConfigError(ValueError):
    """An invalid configuration or setting; the message names it, its value and the remedy."""


def _later(default: Any) -> Any:
    """A field added after the first records. It is left out of ``as_dict`` at its default,
    so that old hashes stay valid.
    """
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True)
class Alignment:
    """Classifier alignment after each experience (SLCA, stage 2). For the switches see F3-F6 (docs/fidelity.md).

    :ivar lr: learning rate; None: the heads' rate of stage 1, as in the code.
    :ivar rank: of the low-rank covariance.
    :ivar feature_decay: mean of SLCA++'s mu; ``feature_decay_spread`` is its half-width. 0 switches it off.
    """

    epochs: int = 5
    samples_per_class: int = 256
    lr: float | None = None
    weight_decay: float = 5e-4
    tau: float = 0.1
    ridge: float = 1e-4
    mean_decay: bool = True
    task_index: Literal["true", "reference"] = "true"
    restore_heads: bool = True
    covariance: Literal["full", "diagonal", "shared", "low-rank"] = _later("full")
    rank: int = _later(16)
    feature_decay: float = _later(0.0)
    feature_decay_spread: float = _later(0.0)


@dataclass(frozen=True)
class Olor:
    """Weight rollback in the optimizer (OLOR). For the switches see F8-F12 (docs/fidelity.md);
    the last three are for SGD only.
    """

    rollback_input: float = 0.01
    rollback_output: float = 0.0
    rollback_power: float = 1.0
    counting: Literal["layers", "tensors"] = "layers"
    rollback_decay: Literal["paper", "reference"] = "reference"
    anchor: Literal["pretrained", "previous"] = "pretrained"
    gradient_damping: Literal["paper", "reference"] = _later("paper")
    lr_factor: Literal["paper", "reference"] = _later("paper")
    momentum_average: Literal["paper", "reference"] = _later("paper")


MODULES = ("lora", "adapter", "prefix", "prompts", "low_rank", "l2p", "dualprompt", "inflora", "ssf", "coda")
"""Parts that put trained modules into a frozen backbone: at most one of them is used."""

OLOR_SGD_ONLY = ("gradient_damping", "lr_factor", "momentum_average")


@dataclass(frozen=True)
class Annealing:
    """EPG mixed with cross-entropy (aEPG): the name of a schedule, or a constant weight of cross-entropy (0: EPG only);
    see F22 (docs/fidelity.md).
    """

    schedule: str | float = "sigmoid"
    tau: float = 6.0
    horizon: Literal["task", "stream"] = "task"


@dataclass(frozen=True)
class Lora:
    """LoRA on keys and values of the first blocks. Frozen for the first epochs of each experience except the first:
    F17, F18 (docs/fidelity.md).
    """

    blocks: int = 3
    rank: int = 4
    frozen_epochs: int = 3
    freeze: Literal["peft", "backbone"] = _later("peft")


@dataclass(frozen=True)
class Adapter:
    """LAE's adapters, parallel to the attention of the first blocks; frozen as LoRA is."""

    blocks: int = 3
    hidden: int = 5
    frozen_epochs: int = 3
    freeze: Literal["peft", "backbone"] = "peft"


@dataclass(frozen=True)
class Prefix:
    """LAE's prefix tokens in the attention of the first blocks; frozen as LoRA is."""

    blocks: int = 3
    tokens: int = 10
    frozen_epochs: int = 3
    freeze: Literal["peft", "backbone"] = "peft"


@dataclass(frozen=True)
class Prompts:
    """VPT's prompt tokens: in every block (deep), or only before the first."""

    tokens: int = 10
    deep: bool = True


@dataclass(frozen=True)
class Images:
    """How photographs are transformed, following a paper's protocol.

    :ivar protocol: the transforms of a paper's experiments, of SLCA in PILOT or Mammoth (F64 and F69 in
        docs/fidelity.md), of the middle tier ("lite"), or of images of one's own ("own"): crops of half to all of the
        area, flips, and the backbone's own mean and standard deviation.
    :ivar clipped: OLOR's brightness and contrast as in its code: F15 (docs/fidelity.md).
    :ivar smallest_crop: smallest crop as a fraction of the area, instead of the protocol's: F21 (docs/fidelity.md).
    :ivar hold_out: do not train on the validation part, even when testing, as OLOR does.
    :ivar size: height and width of what the backbone sees, in pixels; None: the backbone's own for the protocol "own",
        96 for "lite". The protocols of papers have theirs.
    :ivar augment: False: training images get the transform of testing. The features of a backbone that is not trained
        are then computed once.
    :ivar train_per_class, test_per_class: the first so many images of each class, in the order of the data set; None:
        all of them.
    """

    protocol: Literal["slca", "pilot", "mammoth", "olor", "aepg", "lite", "own", "l2p", "inflora"] = "slca"
    clipped: bool = False
    smallest_crop: float | None = None
    hold_out: bool = False
    size: int | None = None
    augment: bool = _later(True)
    train_per_class: int | None = None
    test_per_class: int | None = None


Vote = Literal["batch", "image"]
"""Who chooses prompts of a pool: the whole batch by majority (F28 in docs/fidelity.md), or each image its own."""


@dataclass(frozen=True)
class L2P:
    """L2P's pool of prompts before the tokens of a frozen ViT. For the switches see F27 to F38 (docs/fidelity.md).

    :ivar pool: number of prompts, each of ``length`` tokens; ``top_k`` of them are used at a time.
    :ivar pull: weight of the similarity between queries and chosen keys in the loss.
    :ivar clip: largest norm of the gradient; 0: not clipped. ``clip_over``: of the trained tensors, or of all,
        the frozen backbone's included.
    :ivar share: the next experience starts from a copy of the prompts that the last one used.
    """

    pool: int = 10
    length: int = 5
    top_k: int = 5
    pull: float = 0.1
    positions: Literal["reference", "google"] = "reference"
    train_vote: Vote = "batch"
    test_vote: Vote = "image"
    init: Literal["reference", "google"] = "reference"
    clip: float = 1.0
    clip_over: Literal["trained", "all"] = "trained"
    share: bool = False


@dataclass(frozen=True)
class DualPrompt:
    """DualPrompt's general and expert prompts as prefixes in a frozen ViT. For the switches see F39 to F47
    (docs/fidelity.md).

    :ivar g_length: keys, and as many values, of the general prompt of each of ``g_layers``; ``e_length`` of each
        expert prompt in ``e_layers``.
    :ivar pairing: which keys go with which values: as meant, or scrambled over the batch as in the PyTorch twin (F39).
    :ivar train_choice: in training, the expert prompt of the experience, or as queries choose (F40); ``train_vote``:
        who chooses then.
    :ivar copy_prompts: an experience's expert prompt starts as the one before (F44).
    :ivar frozen_epochs: as of LoRA: only the head trains in them, in each experience but the first.
    """

    pool: int = 10
    g_length: int = 5
    e_length: int = 20
    g_layers: tuple[int, ...] = (0, 1)
    e_layers: tuple[int, ...] = (2, 3, 4)
    top_k: int = 1
    pull: float = 1.0
    pairing: Literal["google", "reference"] = "google"
    train_choice: Literal["task", "query"] = "task"
    test_vote: Vote = "image"
    init: Literal["reference", "google"] = "reference"
    clip: float = 1.0
    copy_prompts: bool = True
    train_vote: Vote = "image"
    clip_over: Literal["trained", "all"] = "trained"
    frozen_epochs: int = _later(0)


@dataclass(frozen=True)
class InfLora:
    """InfLoRA: LoRA on keys and values of every block, whose designed half is orthogonal to earlier experiences. For
    the switches see F48 to F59 (docs/fidelity.md).

    :ivar threshold: of the first experience (lamb); it rises towards ``last_threshold`` (lame).
    :ivar blocks: number of first blocks; None: all.
    :ivar schedule: of the learning rate, a cosine over epochs: "reference" lags one epoch (F50); "constant": none.
    :ivar design_images: the images of the second moments under the transform of training, or of testing (F51).
    :ivar frozen_epochs: as of LoRA: only the head trains in them, in each experience but the first.
    """

    rank: int = 10
    threshold: float = 0.98
    last_threshold: float = 1.0
    blocks: int | None = None
    schedule: Literal["reference", "paper", "constant"] = "reference"
    design_images: Literal["train", "test"] = "train"
    frozen_epochs: int = _later(0)


@dataclass(frozen=True)
class Ssf:
    """SSF's scale and shift after every layer of a frozen ViT.

    :ivar init_std: of new scales about 1, and of new shifts about 0.
    """

    init_std: float = 0.02


@dataclass(frozen=True)
class Coda:
    """CODA-Prompt's components in the first blocks of a frozen ViT.

    :ivar experiences: how many share the components; not fewer than the stream has.
    :ivar length: of a prompt, half of it keys, half values.
    :ivar orthogonality: weight of the loss that keeps components orthogonal.
    """

    experiences: int = 10
    components: int = 100
    length: int = 8
    blocks: int = 5
    orthogonality: float = 0.0


@dataclass(frozen=True)
class Dense:
    """A task on canvases, in place of classification.

    :ivar task: "semantic": the class of each pixel, by a decoder of each patch; "detection": boxes, by FCOS;
        "instances": boxes and masks, by Mask R-CNN.
    :ivar canvases: number of training canvases; ``test_canvases``: of test canvases.
    """

    task: Literal["semantic", "detection", "instances"] = "semantic"
    canvases: int = 400
    test_canvases: int = 200


OF_DENSE = (
    *("numerics", "part", "seeding", "trainable", "epochs", "batch_size", "augment", "optimizer", "lr", "slow_factor"),
    *("momentum", "weight_decay", "schedule", "olor", "l2_sp", "l2_sp_form", "dense"),
)
"""Settings that a run on canvases has; the others stay at their defaults."""


@dataclass(frozen=True)
class LowRank:
    """SLCA++'s LoRA in every block, and learning rates as multiples of the heads' ``lr``. All rates follow a cosine."""

    rank: int = 4
    scale: float = 0.8
    first_factor: float = 0.5
    later_factor: float = 0.1
    other_factor: float = 0.1
    floor_factor: float = 0.01
    head_scaling: float = 0.02


@dataclass(frozen=True)
class Lae:
    """LAE's second, slow expert of the PEFT modules: F18 (docs/fidelity.md)."""

    decay: float = 0.999


@dataclass(frozen=True)
class Loss:
    """A loss of aEPG's Table 2, or SLCA++'s symmetric one, in place of cross-entropy.

    :ivar coefficient: g of Focal and LS, b of CP, the weight of the reverse cross-entropy; EP has none.
    :ivar weight: of the cross-entropy in the symmetric loss.
    """

    kind: Literal["focal", "label-smoothing", "confidence-penalty", "entropy-penalty", "symmetric"] = "focal"
    coefficient: float = 1.0
    weight: float = 1.0


@dataclass(frozen=True)
class Memory:
    """A class-balanced memory of training images, and the method that trains with it. Earlier heads stay trainable.

    :ivar alpha: weight of the stored logits in DER++; ``beta`` is the weight of the stored labels.
    :ivar held_out: size of BiC's validation set, which fits its correction, as a fraction of ``size`` and in addition
        to it.
    """

    method: Literal["replay", "gdumb", "bic", "der++"] = "replay"
    size: int = 500
    alpha: float = 0.1
    beta: float = 0.5
    held_out: float = 0.2


@dataclass(frozen=True)
class ClosedForm:
    """Heads computed in closed form from class statistics, not trained.

    :ivar kind: "cosine-class-mean" is SimpleCIL's, "random-projection" RanPAC's; "aper" is SimpleCIL's on the features
        of the pretrained and of the trained backbone.
    :ivar shrinkage: of linear discriminants.
    :ivar width: of the random projection; 0: none. ``ridge``: how its ridge is chosen, "ranpac-ridge" in
        docs/fidelity.md.
    """

    kind: Literal["nearest-class-mean", "linear-discriminant", "cosine-class-mean", "random-projection", "aper"] = (
        "nearest-class-mean"
    )
    shrinkage: float = 1e-4
    width: int = _later(10_000)
    ridge: Literal["reference", "accumulated"] = _later("reference")


@dataclass(frozen=True)
class Component:
    """Code from outside this project that takes part in a run.

    A configuration names it and nothing more: only :mod:`reclaim.benchmark.training.components` imports it.

    :ivar path: import path, such as ``my_package.method:MyPlugin``.
    :ivar arguments: keyword arguments that it is called with; JSON values.
    :ivar sha256: of its source, 64 hex digits: other code is another configuration.
    """

    path: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    sha256: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return _as_dict(self)


@dataclass(frozen=True)
class External:
    """The parts of a run that are not this project's; the other settings are those of ``base`` unless they say
    otherwise.

    :ivar base: the recipe that it starts from.
    :ivar plugins: run after the configured ones, in this order.
    :ivar loss: in place of cross-entropy.
    :ivar optimizer: in place of SGD or Adam; called with the parameter groups.
    :ivar strategy: in place of Avalanche's ``Naive``; called with the model, optimizer, criterion and sizes.
    :ivar backbone: returns a module from images to features.
    """

    base: str = ""
    plugins: tuple[Component, ...] = ()
    loss: Component | None = None
    optimizer: Component | None = None
    strategy: Component | None = None
    backbone: Component | None = None

    @property
    def components(self) -> dict[str, Component]:
        """Where it is used -> component: "plugins[0]", "loss", ..."""
        named = {f"plugins[{i}]": plugin for i, plugin in enumerate(self.plugins)}
        others = ((kind, getattr(self, kind)) for kind in ("loss", "optimizer", "strategy", "backbone"))
        return named | {kind: component for kind, component in others if component}


@dataclass(frozen=True)
class Config:
    """Everything that defines a run, except its stream and seed.

    :ivar numerics: bump when a code change alters results; the runs are then repeated.
    :ivar backbone: a name of :func:`~reclaim.strategies.create_backbone`: with a tag (``.local``: of a file) or
        ``hf-hub:owner/name`` pretrained, else random. No path: which weights a file had, the record's fingerprint says.
    :ivar seeding: what the seed varies: F2 (docs/fidelity.md). "initialisation" keeps the classes in the data set's
        order, as LAE does for its first seed.
    :ivar images: how the photographs of a paper's data set are transformed; None: the data are drawings.
    :ivar drop_last: drop the last batch of an epoch if it is not full: F19 (docs/fidelity.md).
    :ivar keep: the weights after the last epoch, or after the best one on the validation part: F14 (docs/fidelity.md).
    :ivar precision: of the backbone in training and testing, by autocast. Heads, losses and optimizer stay at float32.
    :ivar compile: compile the backbone with ``torch.compile``.
    :ivar micro_batch: number of images per pass through the backbone in training: less memory, one more forward pass,
        the same gradient.
    :ivar joint: train on all experiences as one.
    :ivar epochs: 0 (no training) only with heads in closed form.
    :ivar lr: learning rate of the heads; the backbone's is ``lr * slow_factor``.
    :ivar schedule: of the learning rate within an experience: "step" (times 0.1 after each of ``milestones``), "cosine"
        (OLOR: to 0, updated every iteration).
    :ivar milestones: epochs; empty: four fifths of all epochs, rounded (SLCA: 40 of 50).
    :ivar horizon_beyond: number of epochs after the last one at which the cosine would reach 0: 1 after 50 in OLOR's
        code, F13 (docs/fidelity.md).
    :ivar ewc: weight of EWC's penalty.
    :ivar lwf: weight of LwF's distillation; earlier heads then stay trainable.
    :ivar l2_sp: weight of the pull towards the pretrained weights; ``l2_sp_form``: within each tensor the mean, as in
        OLOR's code, or the sum, as in L2-SP's paper.
    :ivar layer_decay: the learning rate of a layer as a fraction of that of the layer above.
    :ivar wise_ft: alpha of WiSE-FT: predict with the pretrained backbone moved by this fraction of the fine-tuning.
    :ivar weight_average: decay, per step, of the average of the trained weights that predicts.
    :ivar loss: replaces cross-entropy; ``annealing`` is an alternative.
    :ivar final_norm: "fresh" replaces the pretrained final LayerNorm: F1 (docs/fidelity.md).
    :ivar external: code from outside this project that takes part.
    :ivar eval_batch_size: images per batch in testing; None: 500 drawings, or ``batch_size`` photographs. The result
        depends on it only where the images of a batch have a say in each other's predictions: F29 (docs/fidelity.md).
    :ivar test_order: of the test images in their batches: "tasks" (experience by experience, and of drawings class by
        class), or "shuffled" (those of all experiences so far in one order). Accuracies are those of experiences in
        either.
    :ivar train_in: every experience, or the first only; heads in closed form are computed after each of them.
    :ivar read_block: number, from 0, of the block of a ViT after which its features are read, through the final norm;
        the blocks after it are taken out. None: the last.
    :ivar dense: a task on canvases, in place of classification.
    :ivar skip_first_step: the first batch of each experience makes no step, and its gradient is added to the second's:
        F68 (docs/fidelity.md).
    :ivar batch_norm: of the backbone in training: "train" normalises each batch by its own statistics and moves those
        for testing towards them, "frozen" normalises by those it came with.
    """

    numerics: int = 1
    backbone: str = QUICKDRAW_VIT
    part: Part = "test"
    seeding: Seeding = "class_order+initialisation"
    joint: bool = False
    trainable: Literal["all", "heads"] = "all"
    epochs: int = 3
    batch_size: int = 32
    augment: bool = True
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.03
    slow_factor: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "step", "cosine"] = "constant"
    head_init_std: float = 0.02
    final_norm: Literal["pretrained", "fresh"] = "pretrained"
    alignment: Alignment | None = None
    olor: Olor | None = None
    annealing: Annealing | None = None
    lora: Lora | None = None
    adapter: Adapter | None = None
    prefix: Prefix | None = None
    low_rank: LowRank | None = None
    lae: Lae | None = None
    loss: Loss | None = None
    memory: Memory | None = None
    closed_form: ClosedForm | None = None
    ewc: float | None = None
    lwf: float | None = None
    l2_sp: float | None = None
    horizon_beyond: float = _later(0.0)
    images: Images | None = None
    prompts: Prompts | None = None
    milestones: tuple[int, ...] = _later(())
    drop_last: bool = _later(False)
    keep: Literal["last", "best"] = _later("last")
    precision: Literal["fp32", "bf16", "fp16"] = _later("fp32")
    compile: bool = _later(False)
    micro_batch: int | None = None
    external: External | None = None
    l2p: L2P | None = None
    dualprompt: DualPrompt | None = None
    inflora: InfLora | None = None
    eval_batch_size: int | None = None
    test_order: Literal["tasks", "shuffled"] = _later("tasks")
    train_in: Literal["every", "first"] = _later("every")
    l2_sp_form: Literal["mean", "sum"] = _later("mean")
    layer_decay: float | None = None
    wise_ft: float | None = None
    weight_average: float | None = None
    skip_first_step: bool = _later(False)
    ssf: Ssf | None = None
    coda: Coda | None = None
    read_block: int | None = None
    batch_norm: Literal["train", "frozen"] = _later("train")
    dense: Dense | None = None

    @property
    def starts_pretrained(self) -> bool:
        """Whether the backbone's weights come from a hub, a package or a file: its name has a tag, or is a
        repository's. The embedded tier's come with this package.
        """
        own = self.external and self.external.backbone
        return not own and ("." in self.backbone or self.backbone.startswith(HUB))

    @property
    def peft(self) -> Lora | Adapter | Prefix | None:
        """LAE's PEFT modules, of whichever kind is set."""
        return self.lora or self.adapter or self.prefix

    @property
    def frozen_epochs(self) -> int:
        """First epochs of each experience but the first in which PEFT modules wait for the head: F17
        (docs/fidelity.md).
        """
        module = self.peft or self.dualprompt or self.inflora
        return module.frozen_epochs if module else 0

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, without absent parts, so that adding a part to this class changes no hash."""
        return _as_dict(self)

    def set(self, assignments: Iterable[str]) -> Config:
        """A copy with ``key=value`` applied, such as ``lr=0.1``, ``alignment.tau=0.05``, ``olor=null`` or ``olor={}``.

        :raises ConfigError: the key is unknown, the value has the wrong type, or the combination is invalid.
        """
        values = dict(vars(self))
        for assignment in assignments:
            key, equals, text = assignment.partition("=")
            if not equals:
                raise ConfigError(f"cannot read {assignment!r}: write key=value, such as lr=0.1")
            _assign(Config, values, key.strip(), key.strip().split("."), _parse(text.strip()))
        return Config(**values)

    def passing(self, images: int) -> Config:
        """A copy of which at most so many images pass through the backbone at a time, in training and evaluation.

        :raises ConfigError: the method needs whole batches.
        """
        training = min(images, self.micro_batch or self.batch_size, self.batch_size)
        return replace(self, micro_batch=training, eval_batch_size=min(images, self.eval_batch_size or self.batch_size))

    def __post_init__(self) -> None:
        repository = re.fullmatch(rf"{HUB}[\w.-]+/[\w.-]+(@[\w.-]+)?", self.backbone)
        component = self.external and self.external.backbone
        if re.search(r"[\\/:]", self.backbone) and not (repository or component):
            raise ConfigError(
                f"backbone is {self.backbone!r}: a configuration names no file; use --backbone for a file or folder, "
                f"or write {HUB}owner/name"
            )
        for name in ("epochs", "batch_size", "lr"):
            if not getattr(self, name) > 0 and not (name == "epochs" and self.epochs == 0 and self.closed_form):
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("slow_factor", "momentum", "weight_decay", "head_init_std", "horizon_beyond", "l2_sp"):
            if not (getattr(self, name) or 0) >= 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.micro_batch is not None and self.micro_batch < 1:
            raise ConfigError(f"micro_batch must be a number of images, at least 1, got {self.micro_batch}")
        if self.eval_batch_size is not None and self.eval_batch_size < 1:
            raise ConfigError(f"eval_batch_size must be a number of images, at least 1, got {self.eval_batch_size}")
        if self.frozen_epochs > self.epochs:
            part = next(name for name in ("lora", "adapter", "prefix", "dualprompt", "inflora") if getattr(self, name))
            raise ConfigError(
                f"{part}.frozen_epochs={self.frozen_epochs} is more than epochs={self.epochs}: set "
                f"{part}.frozen_epochs, too"
            )
        if self.read_block is not None and self.read_block < 0:
            raise ConfigError(f"read_block must be the number of a block, from 0, got {self.read_block}")
        if self.milestones and self.schedule != "step":
            raise ConfigError(
                f"milestones={list(self.milestones)} need the step schedule: set schedule to step, or milestones to []"
            )
        if sorted(set(self.milestones)) != list(self.milestones) or any(
            not 0 < epoch < self.epochs for epoch in self.milestones
        ):
            raise ConfigError(
                f"milestones must be increasing epochs between 0 and epochs={self.epochs}, got "
                f"{list(self.milestones)}: set milestones=[] for one after four fifths of the epochs, or name others"
            )
        if self.images and self.images.size is not None and self.images.protocol not in ("own", "lite"):
            raise ConfigError(
                f"images.size={self.images.size} is for images.protocol=own or lite, not {self.images.protocol}, whose "
                f"size is its paper's: leave it out"
            )
        if self.images and self.images.size is not None and self.images.size < 1:
            raise ConfigError(f"images.size must be a number of pixels, at least 1, got {self.images.size}")
        for name in ("train_per_class", "test_per_class"):
            count = getattr(self.images, name, None)
            if count is not None and count < 1:
                raise ConfigError(f"images.{name} must be a number of images, at least 1, got {count}")
        if self.skip_first_step and self.precision == "fp16":
            raise ConfigError(
                "skip_first_step would add gradients of two loss scales: set it to false, or precision to fp32 or bf16"
            )
        if self.keep == "best" and not (self.images and self.images.hold_out):
            raise ConfigError("keep='best' chooses an epoch on held-out images: set images.hold_out to true")
        modules = [name for name in MODULES if getattr(self, name)]
        if len(modules) > 1:
            raise ConfigError(
                f"{' and '.join(modules)} cannot be combined, each has its own training schedule: "
                f"set all but one of them to null"
            )
        of_backbone = (*modules, "olor", "l2_sp", "layer_decay", "wise_ft")
        useless = [name for name in of_backbone if getattr(self, name) is not None]
        if self.trainable == "heads" and useless:
            raise ConfigError(
                f"trainable='heads' freezes the backbone: {', '.join(useless)} would do nothing; set to null"
            )
        pool = self.l2p or self.dualprompt
        if pool:
            self._require_pool_fits(pool)
        if self.train_in == "first" and not (self.closed_form and self.epochs):
            raise ConfigError(
                "train_in='first' leaves later heads to closed_form, and needs epochs for the first experience: set "
                "closed_form and epochs, or train_in to every"
            )
        if self.lae and not modules:
            raise ConfigError("lae is a second expert of PEFT modules, but there are none: set lora, adapter or prefix")
        if self.low_rank and (self.schedule != "constant" or self.slow_factor != 1):
            raise ConfigError(
                "low_rank has its own learning rates and schedule: leave schedule at constant and slow_factor at 1"
            )
        if self.inflora:
            self._require_inflora_fits(self.inflora)
        fixed = (
            self.closed_form.kind
            if self.closed_form
            else self.memory.method
            if self.memory and self.memory.method != "replay"
            else None
        )
        if self.alignment and fixed:
            raise ConfigError(
                f"alignment would retrain the heads that {fixed} computes or corrects: set one of them to null"
            )
        if self.memory and self.memory.method == "der++" and (self.loss or self.annealing):
            raise ConfigError("DER++ has its own loss: set loss and annealing to null")
        if self.memory and self.memory.method == "der++" and (self.micro_batch or self.precision == "fp16"):
            raise ConfigError("DER++ has its own training step: set micro_batch to null, and precision to fp32 or bf16")
        if self.loss and self.annealing:
            raise ConfigError("loss and annealing both replace cross-entropy: set one of them to null")
        if self.olor and self.optimizer != "sgd" and any(getattr(self.olor, name) != "paper" for name in OLOR_SGD_ONLY):
            raise ConfigError(
                f"{', '.join(OLOR_SGD_ONLY)} are switches of OLOR with SGD: set optimizer to sgd, "
                f"or leave them at 'paper'"
            )
        if self.horizon_beyond and self.schedule != "cosine":
            raise ConfigError(
                f"horizon_beyond={self.horizon_beyond} needs the cosine schedule: set schedule to cosine, "
                f"or horizon_beyond to 0"
            )
        if self.olor and self.l2_sp is not None:
            raise ConfigError("olor and l2_sp both pull to the pretrained weights: set one of them to null")
        if self.l2_sp_form != "mean" and self.l2_sp is None:
            raise ConfigError(f"l2_sp_form={self.l2_sp_form} is the form of l2_sp, which is null: set l2_sp")
        if self.layer_decay is not None and (self.slow_factor != 1 or self.low_rank):
            raise ConfigError(
                "layer_decay, slow_factor and low_rank each set the backbone's learning rates: use one of them, with "
                "slow_factor=1 or layer_decay=null"
            )
        averaging = [name for name in ("wise_ft", "weight_average") if getattr(self, name) is not None]
        if len(averaging) > 1:
            raise ConfigError("wise_ft and weight_average each choose the weights that predict: set one to null")
        if averaging and self.memory and self.memory.method == "gdumb":
            raise ConfigError(
                f"{averaging[0]} goes on from the trained weights, and GDumb starts again from the initial ones: "
                f"set one of them to null"
            )
        anew = [name for name in ("lae", "weight_average") if getattr(self, name) is not None]
        begins = (
            "coda" * bool(self.coda)
            or "inflora" * bool(self.inflora)
            or "l2p.share" * bool(self.l2p and self.l2p.share)
            or "dualprompt.copy_prompts" * bool(self.dualprompt and self.dualprompt.copy_prompts)
        )
        if anew and begins:
            what = "branches" if begins == "inflora" else "prompts"
            raise ConfigError(
                f"{anew[0]} averages over all steps, and {begins} gives {what} new values when an experience begins: "
                f"set one of them to null or false"
            )
        if self.weight_average is not None and self.keep == "best":
            raise ConfigError("weight_average is over all epochs, not those up to the best: set keep to last")
        if self.external:
            self._require_external_fits(self.external)
        if self.dense:
            self._require_dense_fits(self.dense)

    def _require_dense_fits(self, dense: Dense) -> None:
        for name in ("canvases", "test_canvases"):
            if getattr(dense, name) < 1:
                raise ConfigError(f"dense.{name} must be at least 1, got {getattr(dense, name)}")
        useless = [f.name for f in fields(self) if f.name not in OF_DENSE and getattr(self, f.name) != f.default]
        if useless:
            raise ConfigError(
                f"dense is a task on canvases, which has no {', '.join(useless)}: leave out "
                f"{'it' if len(useless) == 1 else 'them'}"
            )
        if self.augment:
            raise ConfigError("dense: canvases are not warped, whose boxes would not follow: set augment to false")
        if self.schedule == "step":
            raise ConfigError("dense has the schedules constant and cosine: set schedule to one of them")
        if self.seeding == "initialisation":
            raise ConfigError(
                "dense makes other canvases of each seed: set seeding to class_order+initialisation or class_order"
            )
        if self.olor and self.olor.anchor != "pretrained":
            raise ConfigError("dense has one experience, so nothing previous: set olor.anchor to pretrained")

    def _require_pool_fits(self, pool: L2P | DualPrompt) -> None:
        (name,) = (name for name in ("l2p", "dualprompt") if getattr(self, name))
        if not 1 <= pool.top_k <= pool.pool:
            raise ConfigError(f"{name}.top_k must be from 1 to {name}.pool={pool.pool}, got {pool.top_k}")
        if not pool.clip and pool.clip_over == "all":
            raise ConfigError(f"{name}.clip_over='all' says by which norm to clip, but {name}.clip is off: set clip")
        if self.micro_batch:
            raise ConfigError(f"{name} lets the images of a whole batch choose prompts: set micro_batch to null")
        if self.precision == "fp16" and pool.clip:
            raise ConfigError(
                f"{name}.clip={pool.clip} would clip gradients that fp16 has scaled: set precision to bf16"
            )
        both = set(self.dualprompt.g_layers) & set(self.dualprompt.e_layers) if self.dualprompt else set()
        if both:
            raise ConfigError(f"dualprompt.g_layers and e_layers share {sorted(both)}: a block has one kind of prompts")

    def _require_inflora_fits(self, inflora: InfLora) -> None:
        if self.schedule != "constant":
            raise ConfigError(
                f"inflora has its own schedule, inflora.schedule={inflora.schedule}: "
                f"leave schedule at constant, not {self.schedule}"
            )
        if self.slow_factor != 1:
            raise ConfigError(
                f"slow_factor={self.slow_factor} would slow down InfLoRA's branches, all that trains in the backbone: "
                f"leave it at 1, and set lr"
            )
        for name in ("threshold", "last_threshold"):
            if not 0 <= getattr(inflora, name) <= 1:
                raise ConfigError(f"inflora.{name} must be from 0 to 1, got {getattr(inflora, name)}")
        for name, value in (("rank", inflora.rank), ("blocks", inflora.blocks)):
            if value is not None and value < 1:
                raise ConfigError(f"inflora.{name} must be at least 1, got {value}")
        of_earlier = ("olor", "l2_sp", "ewc", "lae", "weight_average", "wise_ft")
        for name in of_earlier:
            if getattr(self, name) is not None:
                raise ConfigError(
                    f"{name} keeps to earlier weights, and InfLoRA begins each experience with a new branch: set one "
                    f"of them to null"
                )

    def _require_external_fits(self, external: External) -> None:
        for kind, component in external.components.items():
            module, _, name = component.path.partition(":")
            if not all(word.isidentifier() for word in (*module.split("."), *name.split("."))):
                raise ConfigError(
                    f"external.{kind} is {component.path!r}: write an import path, such as my_package.method:MyPlugin"
                )
        if external.backbone and self.backbone != external.backbone.path:
            raise ConfigError(
                f"backbone is {self.backbone!r}, but the recipe brings its own, {external.backbone.path}: leave it out"
            )
        der = self.memory is not None and self.memory.method == "der++"
        for kind, others in (
            ("loss", {"loss": self.loss, "annealing": self.annealing, "memory of DER++": der}),
            ("optimizer", {"olor": self.olor}),
            (
                "strategy",
                {"memory of DER++": der, "micro_batch": self.micro_batch, "precision=fp16": self.precision == "fp16"},
            ),
        ):
            both = [name for name, value in others.items() if value]
            if getattr(external, kind) and both:
                raise ConfigError(f"external.{kind} is in place of {both[0]}: leave out one of them")


def _as_dict(part: Any) -> dict[str, Any]:
    values = {
        f.name: getattr(part, f.name)
        for f in fields(part)
        if not (f.metadata.get("later") and getattr(part, f.name) == f.default)
    }
    return {
        name: _as_dict(v)
        if is_dataclass(v)
        else [_as_dict(item) if is_dataclass(item) else item for item in v]
        if isinstance(v, tuple)
        else v
        for name, v in values.items()
        if v is not None
    }


def from_dict(values: dict[str, Any]) -> Config:
    """The configuration that :meth:`Config.as_dict` returned as ``values``."""
    return Config().set(f"{key}={json.dumps(value)}" for key, value in values.items())


def config_hash(config: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of a configuration as canonical JSON (sorted keys, no spaces).

    The caller leaves out settings that do not change the numbers (device, jobs, paths). 1 and 1.0 are different values.

    :param config: :meth:`Config.as_dict`, or a record's ``config``.
    :raises ConfigError: a value is not JSON; NaN and infinities are not.
    """
    try:
        canonical = json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        shown = repr(config)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        raise ConfigError(
            f"config is {shown}: not JSON ({error}); use numbers, strings, booleans, lists and dicts"
        ) from None
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Setting (named as for :meth:`Config.set`) -> value; an empty dict is kept: it is a part at its defaults.

    :param values: :meth:`Config.as_dict`, or a record's ``config``, whose parts are dicts.
    """
    return {
        f"{name}.{inner}" if inner else name: setting
        for name, value in values.items()
        for inner, setting in (value.items() if isinstance(value, Mapping) and value else [("", value)])
    }


def differences(recorded: Mapping[str, Any], config: Config) -> dict[str, str]:
    """Setting -> "setting=theirs instead of ours", for each setting where a recorded configuration
    differs from this one.
    """
    try:
        theirs, ours = flatten(asdict(from_dict(dict(recorded)))), flatten(asdict(config))
    except (ValueError, TypeError) as error:
        return {"": f"not a configuration of this version: {error}"}
    return {
        key: f"{key}={shown(theirs.get(key))} instead of {shown(ours.get(key))}"
        for key in (*ours, *(theirs.keys() - ours.keys()))
        if theirs.get(key) != ours.get(key)
    }


def shown(value: Any) -> str:
    """A setting's value in the form that :meth:`Config.set` reads."""
    return value if isinstance(value, str) else json.dumps(value)


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


_hints = functools.cache(typing.get_type_hints)


def _assign(kind: type, values: dict[str, Any], key: str, path: list[str], value: Any) -> None:
    """Store one value in the fields of a configuration or part. The caller builds it after all values, so their order
    does not matter.
    """
    name, *rest = path
    hints = _hints(kind)
    if name not in hints:
        similar = difflib.get_close_matches(name, hints, n=3) or list(hints)
        raise ConfigError(
            f"unknown setting {key!r}: no {name!r} in {kind.__name__}; did you mean {', '.join(similar)}?"
        )
    several = typing.get_origin(hints[name]) is tuple
    inner: Any = None if several else next((t for t in typing.get_args(hints[name]) if is_dataclass(t)), None)
    if rest and inner is None:
        raise ConfigError(f"unknown setting {key!r}: {name!r} has no parts")
    if inner is not None and (rest or isinstance(value, dict)):
        if rest:
            part = dict(vars(values[name] or inner()))
            _assign(inner, part, key, rest, value)
            values[name] = inner(**part)
        else:
            values[name] = _part(inner, key, value)
    else:
        values[name] = _checked(key, value, hints[name])


def _part(kind: Any, key: str, values: Any) -> Any:
    """A part of a configuration from a dictionary of its fields."""
    if not isinstance(values, dict):
        raise ConfigError(f"{key} must be a table of {', '.join(_hints(kind))}, got {values!r}")
    part = dict(vars(kind()))
    for name, value in values.items():
        _assign(kind, part, f"{key}.{name}", [name], value)
    return kind(**part)


def _checked(key: str, value: Any, hint: Any) -> Any:
    """The value if it matches the field's type hint. An integer is accepted for a float; NaN and infinity are not."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is tuple:
            (kind, _) = typing.get_args(option)
            if isinstance(value, list | tuple) and is_dataclass(kind):
                return tuple(_part(kind, f"{key}[{i}]", item) for i, item in enumerate(value))
            if isinstance(value, list | tuple) and all(type(item) is kind for item in value):
                return tuple(value)
        elif typing.get_origin(option) is Mapping:
            if isinstance(value, dict):
                return value
        elif typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float:
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
        elif option is types.NoneType:
            if value is None:
                return None
        elif type(value) is option:
            return value
    names = {
        float: "a finite number",
        int: "an integer",
        types.NoneType: "null",
        tuple[int, ...]: "a list of integers",
        tuple[Component, ...]: "a list of components",
        Mapping[str, Any]: "a table",
    }
    expected = " or ".join(
        "|".join(map(str, typing.get_args(o))) if typing.get_origin(o) is Literal else names.get(o) or o.__name__
        for o in options
    )
    raise ConfigError(f"{key} must be {expected}, got {value!r}")
