"""L2P, Learning to Prompt (Wang et al., CVPR 2022, arXiv 2112.08654): a pool of prompts in front of a frozen ViT.

:func:`attach_l2p` puts the pool into a timm ViT in place, :func:`detach_l2p` removes it. The plugin :class:`L2P` trains
it. F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from .prompt_pool import (
    ClipOver,
    Init,
    PoolTraining,
    PromptedTransformer,
    PromptPool,
    Query,
    Vote,
    copy_for,
    enter,
    init_prompts,
    leave,
    require_plain_vit,
)

Positions = Literal["reference", "google"]
"""What is added to the prompts: the class token's position (the PyTorch twin), or nothing (Google's code) (F27)."""


class L2PPool(PromptPool):
    """L2P's pool: ``prompts`` (pool, length, width), of which the chosen ones go between a ViT's own tokens (such as
    the class token) and those of the image.

    :param length: tokens of a prompt.
    :param positions: see :data:`Positions`.
    :param after: number of the ViT's own tokens; 1 for a class token.

    The others are those of :class:`~reclaim.strategies.prompt_pool.PromptPool`.
    """

    def __init__(
        self,
        width: int,
        pool: int = 10,
        length: int = 5,
        top_k: int = 5,
        positions: Positions = "reference",
        train_vote: Vote = "batch",
        test_vote: Vote = "image",
        init: Init = "reference",
        after: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(width, pool, top_k, train_vote, test_vote, init, generator)
        if length < 1:
            raise ValueError(f"a prompt needs at least 1 token, got length={length}")
        if positions not in ("reference", "google"):
            raise ValueError(f"positions must be 'reference' or 'google', got {positions!r}")
        self.positions = positions
        self.prompts = nn.Parameter(torch.empty(len(self.keys), length, width))
        init_prompts(self.prompts, init, generator)
        self.after = after

    def forward(self, tokens: Tensor, position: Tensor | None = None) -> Tensor:
        """Tokens (N, L, width) to those with the chosen prompts among them (N, L + k length, width).

        :param position: of the class token, (width,); with ``positions="google"`` it is not used.
        """
        assert self.indices is not None  # the ViT chooses first
        prompts = self.prompts[self.indices].flatten(1, 2)
        own, image = tokens.tensor_split([self.after], dim=1)
        if self.positions == "reference" and position is not None:
            prompts = prompts + position
        return torch.cat([own, prompts, image], dim=1)

    def mean(self, tokens: Tensor) -> Tensor:
        """The mean (N, width) of the tokens (N, L + k length, width) at the prompts' positions."""
        return tokens[:, self.after : self.after + self.top_k * self.prompts.shape[1]].mean(dim=1)

    def copy_prompts(self, source: list[int], target: list[int]) -> None:
        with torch.no_grad():
            self.prompts[target] = self.prompts[source]


class L2PTransformer(PromptedTransformer):
    """A ViT with :class:`L2PPool`. Its features are the mean of the prompts' outputs after the final norm."""

    prompt_pool: L2PPool

    def _pos_embed(self, x: Tensor) -> Tensor:
        tokens: Tensor = super()._pos_embed(x)
        if not self.prompt_pool.active:
            return tokens
        return self.prompt_pool(tokens, None if self.pos_embed is None else self.pos_embed[0, 0])  # type: ignore[no-any-return]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (N, L, width) to features (N, width), or to logits if the ViT has a head."""
        features = self.head_drop(self.fc_norm(self.prompt_pool.mean(x)))
        return features if pre_logits else self.head(features)


def attach_l2p(
    model: nn.Module,
    pool: int = 10,
    length: int = 5,
    top_k: int = 5,
    *,
    positions: Positions = "reference",
    train_vote: Vote = "batch",
    test_vote: Vote = "image",
    init: Init = "reference",
    query: Query = "shared",
    generator: torch.Generator | None = None,
) -> L2PPool:
    """Put a new :class:`L2PPool` into a timm ViT, in place, freeze the rest of it, and return it.

    Names and identity of all parameters stay; ``prompt_pool.keys`` and ``prompt_pool.prompts`` are added. Heads of a
    :class:`~reclaim.strategies.heads.ContinualModel` train as always. The blocks see ``top_k * length`` more tokens.
    Each image passes twice, first for its query: the ViT's features without prompts.

    :param model: a timm ``VisionTransformer``, or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :param pool, length, top_k: number of prompts, tokens of each, and how many are used at a time (F30).
    :param positions: see :data:`Positions`.
    :param train_vote, test_vote: who chooses, in training mode and in eval mode (F28). With ``test_vote="batch"``
        predictions depend on which images are in a batch: if it has only images of one task, they know it (F29).
    :param init: see :data:`~reclaim.strategies.prompt_pool.Init`.
    :param query: ``"shared"``: by the model's own backbone with prompts off. ``"copy"``: by a copy made now, which
        stays the same whatever becomes of the backbone.
    :param generator: source of the random numbers, on the CPU; torch's default generator if not given.
    :raises TypeError: the model is not such a ViT.
    :raises ValueError: it has a pool already, an argument is out of its range, or the class token has no position.
    """
    vit = require_plain_vit(model)
    if positions == "reference" and (vit.pos_embed is None or vit.cls_token is None or vit.no_embed_class):
        raise ValueError(
            "positions='reference' adds the position of the class token, and this ViT has none: positions='google'"
        )
    votes = (train_vote, test_vote)
    module = L2PPool(vit.embed_dim, pool, length, top_k, positions, *votes, init, vit.num_prefix_tokens, generator)
    enter(vit, module.to(next(vit.parameters())), L2PTransformer, copy_for(query, vit))
    return module


def detach_l2p(model: nn.Module) -> L2PPool:
    """Remove L2P's pool from a model, in place, and return it. Frozen parameters stay frozen.

    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: it has no such pool.
    """
    return leave(model, L2PPool)


class L2P(PoolTraining):
    """Trains the pool of :func:`attach_l2p`: loss - pull * similarity of queries and chosen keys, the gradient clipped.

    For a strategy on a frozen ViT, with a new Adam for each experience (F34)::

        attach_l2p(model)
        Naive(model=model, ..., criterion=TaskCrossEntropy(), plugins=[FreshOptimizer(), L2P()])

    :param pull: weight c of the similarity: 0.1 in the PyTorch twin, 1 in Google's code, 0.5 in the text (F30).
    :param clip, clip_over: see :class:`~reclaim.strategies.prompt_pool.PoolTraining` (F33).
    :param share: at the start of experience t > 0, copy prompts (t - 1) k to t k - 1 to the next k, as long as the pool
        has so many (F38).
    :raises ValueError: an argument is out of its range; before training, the model has no :class:`L2PPool`.
    """

    kind = L2PPool
    attach = "attach_l2p"

    def __init__(
        self, pull: float = 0.1, clip: float | None = 1.0, clip_over: ClipOver = "trained", share: bool = False
    ) -> None:
        super().__init__(pull, clip, clip_over, copy_prompts=share)
