"""What L2P and DualPrompt share: a pool of prompts with keys, from which the images of a batch choose by a query.

The query of an image is what the ViT makes of it without prompts, so that nothing that trains affects it. While a ViT
has a pool, its class is a subclass that lets the images choose before the first block. Afterwards it has its own class
again. The ViT's own modules and parameters, and their names, never change.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from avalanche.training.plugins import SupervisedPlugin
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from .byte_counts import bytes_of
from .checks import require_not_negative
from .features import eval_mode
from .heads import find_classifier
from .peft_module import PEFTModule, freeze_backbone, require_vision_transformer

Vote = Literal["batch", "image"]
"""Who chooses prompts: the whole batch by majority (:func:`vote`), or each image its own (F28)."""

Init = Literal["reference", "google"]
"""How prompts and keys start: uniform in [-1, 1] (the PyTorch twins), or in [0, 0.01] (Google's code) (F31)."""

Query = Literal["shared", "copy"]
"""What makes the queries: the ViT itself with prompts off, or a frozen copy from before they were attached."""

ClipOver = Literal["trained", "all"]
"""The tensors whose gradients count in the norm: those that train, or all, the frozen backbone's included (F33)."""


def cosine_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosines (N, P) of queries (N, d) and keys (P, d).

    Each is multiplied by rsqrt(max(sum x^2, 1e-12)), as in both public codes.
    """
    return _unit(queries) @ _unit(keys).T


def _unit(x: Tensor) -> Tensor:
    return x * x.square().sum(dim=-1, keepdim=True).clamp(min=1e-12).rsqrt()


def largest(values: Tensor, k: int) -> Tensor:
    """Indices (..., k) of the largest values (..., P), the largest first; of equal ones the lowest index first."""
    return values.sort(dim=-1, descending=True, stable=True).indices[..., :k]


def vote(indices: Tensor, pool: int) -> Tensor:
    """The choices (N, k) of single images to one for all (N, k): the k that most images chose (F28)."""
    counts = torch.bincount(indices.flatten(), minlength=pool)
    return largest(counts, indices.shape[1]).expand_as(indices)


def init_prompts(tensor: Tensor, init: Init, generator: torch.Generator | None) -> None:
    """Fill prompts or keys, in place (F31)."""
    low, high = (0.0, 0.01) if init == "google" else (-1.0, 1.0)
    nn.init.uniform_(tensor, low, high, generator=generator)


class PromptPool(PEFTModule):
    """The keys of a pool, and which of its prompts the images of a batch use.

    ``keys`` (pool, width) train, by :meth:`pull` alone. ``experiences`` () counts the experiences that the model has
    been trained on; the plugin does so.

    :ivar query: (N, width) of the last batch, ``None`` before the first. No gradient passes through it.
    :ivar indices: (N, k), the prompts that the last batch uses.
    :ivar active: whether prompts are used. While a query is computed they are not.
    :param width: of queries.
    :param pool: number of prompts.
    :param top_k: how many of them are used at a time.
    :param train_vote, test_vote: who chooses, in training mode and in eval mode (F28, F29, F41).
    :param init: see :data:`Init`.
    :param generator: source of the random numbers; torch's default generator if not given.
    :raises ValueError: an argument is out of its range.
    """

    keys: nn.Parameter
    experiences: Tensor

    def __init__(
        self,
        width: int,
        pool: int,
        top_k: int,
        train_vote: Vote,
        test_vote: Vote,
        init: Init,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 1 <= top_k <= pool:
            raise ValueError(f"top_k must be from 1 to the size of the pool, {pool}, got {top_k}")
        for name, value in (("train_vote", train_vote), ("test_vote", test_vote)):
            if value not in ("batch", "image"):
                raise ValueError(f"{name} must be 'batch' or 'image', got {value!r}")
        if init not in ("reference", "google"):
            raise ValueError(f"init must be 'reference' or 'google', got {init!r}")
        self.top_k, self.train_vote, self.test_vote = top_k, train_vote, test_vote
        self.keys = nn.Parameter(torch.empty(pool, width))
        init_prompts(self.keys, init, generator)
        self.register_buffer("experiences", torch.tensor(0))
        self.query: Tensor | None = None
        self.indices: Tensor | None = None
        self.active = True

    @torch.no_grad()
    def choose(self, query: Tensor) -> None:
        """Let the images with this query (N, width) choose; the result is in ``indices``."""
        # a choice may not depend on the precision of autocast
        with torch.autocast(query.device.type, enabled=False):
            self.query = query.to(self.keys.dtype)
            self.indices = self.chosen(self.query)

    def chosen(self, query: Tensor) -> Tensor:
        """The prompts (N, k) of the images with this query (N, width): those with the most similar keys, or the
        majority's.
        """
        indices = largest(cosine_similarity(query, self.keys), self.top_k)
        by = self.train_vote if self.training else self.test_vote
        return vote(indices, len(self.keys)) if by == "batch" else indices

    def pull(self) -> Tensor:
        """The sum over images and their prompts of the cosine of query and key, divided by the number of images: a
        scalar. The loss is lowered by a multiple of it.

        :raises RuntimeError: no images have chosen yet.
        """
        if self.query is None or self.indices is None:
            raise RuntimeError("no batch has chosen from the pool: call the model on images first")
        return cosine_similarity(self.query, self.keys).gather(1, self.indices).sum() / len(self.indices)

    def start(self, copy_prompts: bool) -> None:
        """Prepare for training on the next experience.

        :param copy_prompts: start its prompts as a copy of those of the experience before.
        """
        before, own = self.entries(int(self.experiences) - 1), self.entries(int(self.experiences))
        if copy_prompts and before and own:
            self.copy_prompts(before, own)

    def entries(self, experience: int) -> list[int]:
        """The prompts of an experience by its number; none before the first, and none beyond the pool."""
        first = experience * self.top_k
        return list(range(first, first + self.top_k)) if 0 <= first <= len(self.keys) - self.top_k else []

    def copy_prompts(self, source: list[int], target: list[int]) -> None:
        """Copy prompts to other places in the pool. Keys stay."""
        raise NotImplementedError


class PromptedTransformer(VisionTransformer):
    """A ViT with a :class:`PromptPool`, in whose blocks are the prompts."""

    prompt_pool: PromptPool
    query_copy: VisionTransformer | None

    def forward_features(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Images (N, C, H, W) to tokens (N, L, width)."""
        with _without_prompts(self):
            # its own method would let the images choose again
            source = self.query_copy or self
            tokens = VisionTransformer.forward_features(source, x, *args, **kwargs)
            query = VisionTransformer.forward_head(source, tokens, pre_logits=True)
        self.prompt_pool.choose(query)
        return super().forward_features(x, *args, **kwargs)


@contextmanager
def _without_prompts(vit: PromptedTransformer) -> Iterator[None]:
    """A context for queries: no prompts, no gradients, and eval mode, so that dropout has no say."""
    vit.prompt_pool.active = False
    try:
        with eval_mode(vit):
            yield
    finally:
        vit.prompt_pool.active = True


def require_plain_vit(model: nn.Module) -> Any:
    """The timm ViT of a model, checked that a pool can be attached to it.

    :raises TypeError: it is another kind of model.
    :raises ValueError: it has a pool already.
    """
    vit = require_vision_transformer(model)
    if isinstance(vit, PromptedTransformer):
        raise ValueError("this ViT has a pool of prompts already: detach it first (detach_l2p or detach_dualprompt)")
    if type(vit) is not VisionTransformer:
        raise TypeError(
            f"a pool of prompts goes into a plain timm VisionTransformer, got {type(vit).__name__}, "
            f"which may compute its features in another way"
        )
    return vit


def copy_for(query: Query, vit: VisionTransformer) -> VisionTransformer | None:
    """A frozen copy of a plain ViT, if queries are made by one.

    :raises ValueError: ``query`` is something else.
    """
    if query not in ("shared", "copy"):
        raise ValueError(f"query must be 'shared' or 'copy', got {query!r}")
    return copy.deepcopy(vit).requires_grad_(False) if query == "copy" else None


def enter(vit: Any, pool: PromptPool, kind: type[PromptedTransformer], query_copy: VisionTransformer | None) -> None:
    """Attach a pool to a plain ViT, in place, and freeze the rest of it.

    :param query_copy: what makes the queries; ``None``: the ViT itself.
    """
    freeze_backbone(vit)
    vit.__class__ = kind
    vit.query_copy = query_copy
    vit.prompt_pool = pool.train(vit.training)


PoolT = TypeVar("PoolT", bound=PromptPool)


def leave(model: nn.Module, kind: type[PoolT]) -> PoolT:
    """The inverse of :func:`enter`. Frozen parameters stay frozen.

    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: it has no such pool.
    """
    vit: Any = require_vision_transformer(model)
    pool = require_pool(model, kind, "there is nothing to detach")
    vit.__class__ = VisionTransformer
    del vit.prompt_pool, vit.query_copy
    return pool


def require_pool(model: nn.Module, kind: type[PoolT], remedy: str) -> PoolT:
    """The pool of a model's ViT.

    :param remedy: the end of the message.
    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: it has no such pool.
    """
    pool = getattr(require_vision_transformer(model), "prompt_pool", None)
    if not isinstance(pool, kind):
        raise ValueError(f"no {kind.__name__} is attached to this model: {remedy}")
    return pool


class PoolTraining(SupervisedPlugin[Any]):
    """Trains a pool of prompts: L2P's and DualPrompt's plugins derive from it.

    The loss is lowered by ``pull`` times :meth:`PromptPool.pull`, and the gradient is clipped. Prompts and keys belong
    to the model, and so does the number of experiences: a new strategy on the same model goes on.

    :param pull: weight of the similarity between queries and chosen keys, at least 0.
    :param clip: largest global L2 norm of the gradient; ``None`` or 0: not clipped.
    :param clip_over: see :data:`ClipOver`. ``"all"`` computes the gradients of the whole backbone.
    :param copy_prompts: start an experience's prompts as a copy of those of the experience before.
    :raises ValueError: an argument is out of its range; before training, the model has no pool of this kind.
    :raises TypeError: before training, the model is not a ViT.
    """

    kind: type[PromptPool] = PromptPool
    attach = ""

    def __init__(self, pull: float, clip: float | None, clip_over: ClipOver, copy_prompts: bool) -> None:
        super().__init__()
        require_not_negative(pull=pull)
        if clip is not None and not clip >= 0:
            raise ValueError(f"clip must not be negative, got {clip}: None or 0 does not clip")
        if clip_over not in ("trained", "all"):
            raise ValueError(f"clip_over must be 'trained' or 'all', got {clip_over!r}")
        self.pull, self.clip, self.clip_over, self.copy_prompts = pull, clip, clip_over, copy_prompts
        self._thawed: list[nn.Parameter] = []  # for the gradient of this step alone
        self.bytes_kept = 0
        """Bytes of the frozen copy of the backbone, 0 without one."""

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._pool(strategy).start(self.copy_prompts)
        self.bytes_kept = bytes_of(self._vit(strategy).query_copy)

    def before_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self.clip and self.clip_over == "all":
            left = set(self._thawed)  # of a step that was interrupted
            self._thawed = [p for p in self._untrained(strategy) if not p.requires_grad or p in left]
            for parameter in self._thawed:
                parameter.requires_grad_(True)

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        strategy.loss = strategy.loss - self.pull * self._pool(strategy).pull()

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if not self.clip:
            return
        nn.utils.clip_grad_norm_(strategy.model.parameters(), self.clip)
        if self.clip_over == "all":
            for parameter in self._thawed:
                parameter.grad = None
                parameter.requires_grad_(False)
            self._thawed = []

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._pool(strategy).experiences += 1

    def _pool(self, strategy: Any) -> PromptPool:
        return require_pool(strategy.model, self.kind, f"call {self.attach}(model, ...) first")

    def _vit(self, strategy: Any) -> Any:
        return require_vision_transformer(strategy.model)

    def _untrained(self, strategy: Any) -> list[nn.Parameter]:
        """The parameters of the ViT that are frozen, unless somebody trains them, too: all but those of PEFT modules,
        the copy and a classifier.
        """
        vit = self._vit(strategy)
        others = [m for m in vit.modules() if isinstance(m, PEFTModule)] + [vit.query_copy or nn.Module()]
        others += [classifier for _, classifier in [find_classifier(vit) or ("", nn.Module())]]
        trained = {p for module in others for p in module.parameters()}
        return [p for p in vit.parameters() if p not in trained]
