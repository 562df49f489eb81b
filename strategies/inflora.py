"""InfLoRA (Liang and Li, CVPR 2024): low-rank branches whose designed half leaves alone what earlier experiences need.

Each chosen block has one :class:`Branches` on the keys and values of its qkv layer (:func:`attach_inflora`). The plugin
:class:`InfLoRA` designs a branch before each experience, from the inputs of these layers, and freezes all else but the
classifier. :class:`DualGPM` keeps the directions that earlier experiences need, or those that they do not.
:class:`InfLoRARates` is the schedule of the learning rate. In evaluation the branches are folded into the weights of
their layers (:func:`merge_inflora`), so that they cost nothing there.

Names follow the code, and LoRA: A is designed, B is trained. In the text it is the other way round (F48).
F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sized
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from .features import eval_mode, not_compiled
from .fresh_optimizer import FreshOptimizer
from .heads import ContinualModel
from .parts import parts_of
from .peft import attach_modules
from .peft_module import PEFTModule, require_vision_transformer
from .runs import Owner, experiences_before, images_at_a_time
from .wrappers import unwrap

# The branches of a layer


class Branches(PEFTModule):
    """The low-rank updates of all experiences, on the keys' and values' part of a qkv layer: W_k + sum of B_k A, and
    W_v + sum of B_v A.

    ``B`` (2, width, rank) of the current branch trains; k is at index 0 and v at index 1, and both share ``A``. The
    buffers are ``A`` (rank, in_features), and ``earlier_A`` (n, in_features) and ``earlier_B`` (2, width, n) with the
    branches before, one after the other. A new module is all 0 and changes nothing.

    :param in_features: width of the tokens.
    :param width: width of the keys, and of the values.
    :param rank: of each branch, from 1 to ``in_features``.
    """

    A: Tensor
    earlier_A: Tensor
    earlier_B: Tensor
    unmerged: Tensor | None  # rows of the layer's weight, while the update is folded into them

    begins_anew = True

    def __init__(self, in_features: int, width: int, rank: int = 10) -> None:
        super().__init__()
        if not 1 <= rank <= in_features:
            raise ValueError(f"the rank of InfLoRA must be from 1 to {in_features}, the tokens' width, got {rank}")
        self.B = nn.Parameter(torch.zeros(2, width, rank))
        self.register_buffer("A", torch.zeros(rank, in_features))
        self.register_buffer("earlier_A", torch.zeros(0, in_features))
        self.register_buffer("earlier_B", torch.zeros(2, width, 0))
        self.register_buffer("unmerged", None, persistent=False)

    @property
    def rank(self) -> int:
        """Of each branch."""
        return len(self.A)

    @torch.no_grad()
    def begin(self, designed: Tensor) -> None:
        """Begin a new branch with A ``designed`` (rank, in_features) and B = 0. The outputs stay the same: the current
        branch becomes an earlier one, if it has learned anything.
        """
        if self.B.any():
            self.earlier_A = torch.cat([self.earlier_A, self.A])
            self.earlier_B = torch.cat([self.earlier_B, self.B.detach()], dim=2)
        self.A.copy_(designed)
        self.B.zero_()

    def factors(self) -> tuple[Tensor, Tensor]:
        """Right (n, in_features) and left (2 width, n) factor of the update of the stacked [W_k; W_v]."""
        return torch.cat([self.earlier_A, self.A]), torch.cat([self.earlier_B, self.B], dim=2).flatten(0, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., in_features) to what is added to their keys and values (..., 2 width)."""
        right, left = self.factors()
        return F.linear(F.linear(tokens, right), left)

    def weight_update(self) -> Tensor:
        """The same as a matrix (2 width, in_features)."""
        right, left = self.factors()
        return left @ right

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # a checkpoint may have other numbers of branches than this module
        for name in ("earlier_A", "earlier_B"):
            saved, own = state_dict.get(prefix + name), getattr(self, name)
            if saved is not None:
                setattr(self, name, own.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class BranchedLinear(nn.Linear):
    """The class of a qkv layer while it has :class:`Branches`: its output plus theirs.
    The layer changes its class in place and keeps its parameters.
    """

    branches: Branches

    def forward(self, input: Tensor) -> Tensor:
        """Tokens (..., in_features) to queries, keys and values (..., 3 width)."""
        output = super().forward(input)
        if self.branches.unmerged is not None:
            return output
        return output + F.pad(self.branches(input), (self.out_features // 3, 0))

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.branches.unmerged is not None:  # the branches are saved, too, and must not count twice
            weight = self.weight.detach().clone()
            weight[self.out_features // 3 :] = self.branches.unmerged
            destination[f"{prefix}weight"] = weight

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        self.branches.unmerged = None  # of the weight that is replaced
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    @torch.no_grad()
    def merge(self) -> None:
        """Fold the branches into the weight. A copy of its rows is kept."""
        if self.branches.unmerged is None:
            rows = self.weight[self.out_features // 3 :]
            self.branches.unmerged = rows.clone()
            rows += self.branches.weight_update()

    @torch.no_grad()
    def unmerge(self) -> None:
        """Undo :meth:`merge`, bit for bit."""
        if self.branches.unmerged is not None:
            self.weight[self.out_features // 3 :] = self.branches.unmerged
            self.branches.unmerged = None


def attach_inflora(model: nn.Module, blocks: Iterable[int] | None = None, rank: int = 10) -> list[Branches]:
    """Put new :class:`Branches` into chosen blocks of a timm ViT, in place, and return them in the order of the model.

    Names and identity of all parameters stay; the trained ones are added as ``blocks.<j>.attn.qkv.branches.B``. This
    function freezes nothing: the plugin :class:`InfLoRA` does.

    :param model: a timm ``VisionTransformer``, or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :param blocks: indices of blocks, from 0; all by default, as in the paper.
    :param rank: see :class:`Branches`; 10 in the code, 30 for DomainNet (F53).
    :raises TypeError: the model is not such a ViT, or a chosen block has no plain qkv layer (perhaps it has InfLoRA
        already).
    :raises ValueError: a block does not exist or is named twice, no block is named, or the rank is out of its range.
        The model does not change then.
    """
    vit: Any = require_vision_transformer(model)

    def make(layer: Any) -> Branches:
        return Branches(layer.in_features, layer.out_features // 3, rank).to(layer.weight).train(layer.training)

    chosen = range(len(vit.blocks)) if blocks is None else sorted(blocks)
    return attach_modules(model, chosen, "attn.qkv", BranchedLinear, "branches", make, "detach_inflora")


@torch.no_grad()
def detach_inflora(model: nn.Module, merge: bool = False) -> list[Branches]:
    """Remove all :class:`Branches` from a model, in place, and return them in the order of the model.

    The model is then as before they were attached: the same modules and parameters, with the same names and values.

    :param merge: fold the branches into the weights of their layers, so that the outputs stay the same up to rounding.
    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: none is attached.
    """
    layers = _require_layers(model)
    modules = [layer.branches for layer in layers]
    for layer in layers:
        layer.merge() if merge else layer.unmerge()
        layer.branches.unmerged = None
        plain: Any = layer
        del plain.branches
        plain.__class__ = nn.Linear
    return modules


def merge_inflora(model: nn.Module) -> None:
    """Fold all branches into the weights of their layers: the outputs stay the same up to rounding, at the cost of the
    plain backbone. The weights are the merged ones until :func:`unmerge_inflora`; do not train in between.

    :raises TypeError, ValueError: as :func:`detach_inflora`.
    """
    for layer in _require_layers(model):
        layer.merge()


def unmerge_inflora(model: nn.Module) -> None:
    """Undo :func:`merge_inflora`, bit for bit: a copy of the keys' and values' weights was kept.

    :raises TypeError, ValueError: as :func:`detach_inflora`.
    """
    for layer in _require_layers(model):
        layer.unmerge()


def _require_layers(model: nn.Module) -> list[BranchedLinear]:
    layers = [m for m in require_vision_transformer(model).modules() if isinstance(m, BranchedLinear)]
    if not layers:
        raise ValueError("the model has no branches of InfLoRA: call attach_inflora(model) first")
    return layers


# The directions of earlier experiences


class DualGPM:
    """What the inputs of one layer needed in earlier experiences, as an orthonormal ``basis`` (in_features, n) in
    double precision on the CPU: of the directions that a new branch must leave alone (``kind`` "remove"), or of those
    that it may use ("retain").

    C (in_features, in_features) is always the second moment of the layer's inputs (:func:`second_moments`). Its
    singular values count squared, so the criterion is in fourth powers of the inputs (F49).
    """

    def __init__(self) -> None:
        self.basis: Tensor | None = None
        self.kind: Literal["remove", "retain"] = "remove"

    @property
    def nbytes(self) -> int:
        """Bytes of the basis."""
        return 0 if self.basis is None else self.basis.nbytes

    def design(self, moment: Tensor, rank: int) -> Tensor:
        """A (rank, in_features) of the next branch: the first left singular vectors of what C has in the directions
        that the branch may use, over sqrt 3. Rows beyond its rank are 0.
        """
        vectors, values = _singular(self._usable(moment.double().cpu()))
        designed = vectors[:, :rank].T / math.sqrt(3)
        designed[_rank(values) :] = 0
        return designed

    def update(self, moment: Tensor, threshold: float) -> None:
        """Take up an experience that was learned.

        Of the first, the directions whose share of sum(s^2) is below the threshold (at least one) are needed; the one
        that crosses it is not (F49). Later, "remove" adds directions of (I - P) C until the share of |C|^2 that the
        basis explains reaches the threshold, and "retain" drops directions of P C while the share that it leaves is at
        least 1 - threshold; here the one that crosses is included. When "remove" needs more than half of all
        directions (the first time, half), the basis becomes "retain" with the complement. The code stops there, if the
        first experience needs that many (F57).

        :param moment: C after training, with the new branch.
        :param threshold: from 0 to 1.
        """
        moment = moment.double().cpu()
        total = float(moment.square().sum())
        inside = self._usable(moment)
        vectors, values = _singular(inside)
        shares = values.square() / total if total else torch.zeros_like(values)
        width = len(moment)
        if self.basis is None:
            self.basis = vectors[:, : max(1, int((shares.cumsum(0) < threshold).sum()))]
            self._dualise(self.basis.shape[1] >= width / 2)
        elif self.kind == "remove":
            explained = 1 - float(shares.sum())
            reached = explained + torch.cat([shares.new_zeros(1), shares.cumsum(0)])
            count = min(int((reached < threshold).sum()), _rank(values))
            self.basis = torch.cat([self.basis, vectors[:, :count]], dim=1)
            self._dualise(self.basis.shape[1] > width / 2)
        else:
            left = float(shares.sum()) - torch.cat([shares.new_zeros(1), shares.cumsum(0)])
            count = min(int((left >= 1 - threshold).sum()), self.basis.shape[1])
            dropped = vectors[:, :count]
            rest, _ = _singular(self.basis - dropped @ (dropped.T @ self.basis))
            self.basis = rest[:, : self.basis.shape[1] - count]

    def _usable(self, moment: Tensor) -> Tensor:
        """Of C, what lies in the directions that a new branch may use."""
        if self.basis is None:
            return moment
        projected = self.basis @ (self.basis.T @ moment)
        return projected if self.kind == "retain" else moment - projected

    def _dualise(self, needed: bool) -> None:
        if needed:
            assert self.basis is not None
            count = self.basis.shape[1]
            self.basis = torch.linalg.svd(self.basis, full_matrices=True).U[:, count:].contiguous()
            self.kind = "retain"


def _singular(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors and singular values, from the largest."""
    vectors, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return vectors, values


def _rank(values: Tensor) -> int:
    """How many singular values are not 0 up to rounding."""
    return int((values > values.max() * len(values) * torch.finfo(values.dtype).eps).sum())


def second_moments(model: nn.Module, batches: Iterable[Tensor]) -> list[Tensor]:
    """C = sum of h h^T / number of tokens, not centred, for the inputs h of each layer with :class:`Branches`, over all
    tokens of all images; (in_features, in_features) in double precision on the CPU, in the order of the model.

    The model computes in eval mode, with all branches. The modes of its modules are restored afterwards.

    :param batches: of images (N, C, H, W), on the model's device.
    :raises ValueError: there is no image, or a moment is NaN or infinite.
    :raises TypeError: see :func:`attach_inflora`.
    """
    layers = _require_layers(model)
    model = unwrap(model)
    forward = model.features if isinstance(model, ContinualModel) else require_vision_transformer(model)
    sums = [torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64) for layer in layers]
    counts = [0] * len(layers)

    def add(index: int, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tokens = inputs[0].flatten(0, -2).float()
        with torch.autocast(
            tokens.device.type, enabled=False
        ):  # sums over all tokens, beyond what half precision holds
            sums[index] += (tokens.T @ tokens).cpu()
        counts[index] += len(tokens)

    hooks = [layer.register_forward_pre_hook(partial(add, index)) for index, layer in enumerate(layers)]
    try:
        with eval_mode(model), not_compiled(model):
            for images in batches:
                forward(images)
    finally:
        for hook in hooks:
            hook.remove()
    if not all(counts):
        raise ValueError("InfLoRA designs its branches from an experience's images, but it has none: leave it out")
    moments = [total / count for total, count in zip(sums, counts, strict=True)]
    if not all(torch.isfinite(moment).all() for moment in moments):
        raise ValueError(
            "NaN or infinity in the tokens from which InfLoRA designs its branches: check the images, or lower the "
            "learning rate"
        )
    return moments


class InfLoRA(SupervisedPlugin[Any]):
    """Designs a branch before each experience, trains its B and the classifier, and keeps the directions it needed.

    The model must have branches (:func:`attach_inflora`). Before and after the training of an experience, one pass over
    its images computes the second moments, in their order: shuffling would only change the rounding. The pass draws
    random numbers (for a training transform, or ``augment``) from torch's generators, which it seeds and restores
    afterwards; it does not protect those of NumPy and of Python's ``random``. Training and evaluation are then the same
    as without the pass.

    Every delivery of an online stream is an experience.

    :param threshold, last_threshold: from 0 to 1: experience t of T, from 0, has the threshold ``threshold +
        (last_threshold - threshold) t / T`` of :meth:`DualGPM.update`: lamb and lame in the code (F53).
    :param experiences: T; by default the length of the experience's stream.
    :param images: the images of the second moments under the transform of "train", once, as in the code, or of "test"
        (F51).
    :param augment: what is done to a batch of images (N, C, H, W) in these passes, for "train" only: for augmentation
        that is not in the transform, such as that of a plugin.
    :param merge: fold the branches into the weights while evaluating (:func:`merge_inflora`).
    :param seed: of the random numbers in the passes.
    :raises ValueError: an argument is out of its range; while training, the model has no branches, or others than in
        the experience before, or the experience is not one of the first T.
    :raises TypeError: while training, no classifier is found in the model, or it is not on a timm ViT.
    """

    def __init__(
        self,
        threshold: float = 0.98,
        last_threshold: float = 1.0,
        experiences: int | None = None,
        images: Literal["train", "test"] = "train",
        augment: Callable[[Tensor], Tensor] | None = None,
        merge: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("threshold", threshold), ("last_threshold", last_threshold)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {value}")
        if experiences is not None and experiences < 1:
            raise ValueError(f"experiences must be at least 1, got {experiences}: leave it out for the stream's length")
        if images not in ("train", "test"):
            raise ValueError(f"images must be 'train' or 'test', got {images!r}")
        if images == "test" and augment is not None:
            raise ValueError("augment changes training images, but images='test' uses none: leave out one of them")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.threshold = threshold
        self.last_threshold = last_threshold
        self.experiences = experiences
        self.images = images
        self.augment = augment
        self.merge = merge
        self.seed = seed
        self.bases: list[DualGPM] = []  # of the layers, in the order of the model
        self._owner = Owner()
        self._begun = False  # a branch whose experience has not ended yet

    @property
    def bytes_kept(self) -> int:
        """Bytes of the bases. The branches are part of the model and do not count."""
        return sum(basis.nbytes for basis in self.bases)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._merge(strategy, False)  # after an interrupted evaluation

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parts = parts_of(strategy.model, "InfLoRA")
        layers = _require_layers(parts.model)
        self._threshold_of(strategy)
        if self._owner.changes_to(strategy, strategy.model) or not self.bases:
            self.bases, self._begun = [DualGPM() for _ in layers], False
        widths = [len(basis.basis) for basis in self.bases if basis.basis is not None]
        if len(self.bases) != len(layers) or (widths and widths != [layer.in_features for layer in layers]):
            raise ValueError(
                f"InfLoRA has bases of {len(self.bases)} layers, and the model has branches in {len(layers)}, "
                f"or of another width: make a new InfLoRA for another backbone"
            )
        if self._begun:  # interrupted, this branch is trained again from the start
            for layer in layers:
                layer.branches.B.data.zero_()
        if not widths and any(len(layer.branches.earlier_A) or layer.branches.B.any() for layer in layers):
            raise ValueError(
                "the model has branches of earlier experiences, and this InfLoRA has no directions of theirs: it would "
                "overwrite them; go on with the plugin that trained them (it can be pickled), or attach new "
                "branches"
            )
        for parameter in parts.backbone_parameters().values():
            parameter.requires_grad_(False)
        moments = self._moments(strategy, 0, **kwargs)
        self._begun = True
        for layer, basis, moment in zip(layers, self.bases, moments, strict=True):
            layer.branches.B.requires_grad_(True)
            layer.branches.begin(basis.design(moment, layer.branches.rank))

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._begun = False
        for basis, moment in zip(self.bases, self._moments(strategy, 1, **kwargs), strict=True):
            basis.update(moment, self._threshold)

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._merge(strategy, self.merge)

    def after_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._merge(strategy, False)

    def _merge(self, strategy: Any, merged: bool) -> None:
        for layer in unwrap(strategy.model).modules():
            if isinstance(layer, BranchedLinear):
                layer.merge() if merged else layer.unmerge()

    def _threshold_of(self, strategy: Any) -> None:
        before, rise = experiences_before(strategy), self.last_threshold - self.threshold
        stream = getattr(strategy.experience, "_origin_stream", None)  # the property fails if there is none
        total = self.experiences or (len(stream) if isinstance(stream, Sized) else 0)
        if rise and before >= total:
            raise ValueError(
                f"this is experience {before} (from 0) of {total}, so that its threshold is unknown: "
                f"tell how many there will be, InfLoRA(experiences=...), or let last_threshold be threshold"
            )
        self._before = before
        self._threshold = self.threshold + (rise * before / total if rise else 0.0)

    def _moments(self, strategy: Any, stage: int, num_workers: int = 0, **_: Any) -> list[Tensor]:
        # the experience's own data, not the adapted dataset, which may hold a replay buffer
        data = strategy.experience.dataset
        data = data.train() if self.images == "train" else data.eval()
        entropy = np.random.SeedSequence((self.seed, self._before, stage)).generate_state(1)
        seed, device = int(entropy[0]), torch.device(strategy.device)
        loader: Any = DataLoader(
            data,
            images_at_a_time(strategy),
            num_workers=num_workers,
            collate_fn=getattr(data, "collate_fn", None),
            generator=torch.Generator().manual_seed(seed),
        )
        on_gpu = device.type == "cuda"
        with torch.random.fork_rng(devices=[device] if on_gpu else []):
            torch.default_generator.manual_seed(seed)
            if on_gpu:
                torch.cuda.manual_seed(seed)
            images = (batch[0].to(device) for batch in loader)
            return second_moments(strategy.model, map(self.augment, images) if self.augment else images)


# Learning rates


class InfLoRARates(FreshOptimizer):
    """A new optimizer for each experience, whose rates follow :func:`cosine_factor` over its epochs.

    It replaces :class:`~reclaim.strategies.fresh_optimizer.FreshOptimizer`.

    :param schedule: "reference", the code, which lags one epoch, or "paper" (F50).
    :raises ValueError: ``schedule`` is neither of them.
    """

    def __init__(self, schedule: Literal["reference", "paper"] = "reference") -> None:
        if schedule not in ("reference", "paper"):
            raise ValueError(f"schedule must be 'reference' or 'paper', got {schedule!r}")
        super().__init__(partial(_cosine, schedule=schedule))  # not a lambda: it can be pickled


def _cosine(optimizer: Optimizer, epochs: int, schedule: Literal["reference", "paper"]) -> LambdaLR:
    return LambdaLR(optimizer, partial(cosine_factor, epochs=epochs, schedule=schedule))


def cosine_factor(epoch: int, epochs: int, schedule: Literal["reference", "paper"] = "reference") -> float:
    """Factor of the learning rate in an epoch, from 0, of K = ``epochs``: cos(99 pi e / (200 (K - 1))), with e =
    ``epoch`` ("paper"), or one less but at least 0 ("reference", the code: the first two epochs have the full rate).
    Only "paper" ends at cos(99 pi / 200) = 0.0157. 1 if K is 1 (F50).
    """
    lagging = max(epoch - 1, 0) if schedule == "reference" else epoch
    return math.cos(99 * math.pi * lagging / (200 * (epochs - 1))) if epochs > 1 else 1.0
