"""DualPrompt (Wang et al., ECCV 2022, arXiv 2204.04799): general and expert prompts as prefixes in a frozen ViT.

:func:`attach_dualprompt` puts them into a timm ViT in place, :func:`detach_dualprompt` removes them. The plugin
:class:`DualPrompt` trains them. F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .peft import PrefixAttention, attach_modules, detach_peft
from .peft_module import PEFTModule
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

Pairing = Literal["google", "reference"]
"""Which prompts are keys and which are values: as meant, or scrambled over the batch as in the PyTorch twin (F39)."""


class PromptPrefix(PEFTModule):
    """Prompts of one block: keys and values that every token attends to, in addition to those of the tokens.

    ``prompts`` (2, pool, length, width) hold keys at index 0 and values at index 1. A general prompt is a pool of one.

    :param width: width of the keys, and of the values, of all heads together.
    :param length: number of keys, and as many values (F42).
    :param pool: how many prompts; 0: a general prompt, the same for all images.
    :param pairing: see :data:`Pairing`; of a pool only.
    """

    def __init__(
        self, width: int, length: int, pool: int, pairing: Pairing, init: Init, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"a prompt needs a length of at least 1, got {length}")
        self.prompts = nn.Parameter(torch.empty(2, max(pool, 1), length, width))
        init_prompts(self.prompts, init, generator)
        self.expert, self.pairing = pool > 0, pairing
        self._pool: list[DualPromptPool] = []  # a list, because the pool is a child of the ViT already

    def join(self, pool: DualPromptPool) -> None:
        """Use the prompts that the images choose there."""
        self._pool = [pool]

    def forward(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (N, heads, L, d) to those with the prompts in front (N, heads, k length + L, d)."""
        (pool,) = self._pool
        if not pool.active:
            return keys, values
        batch, heads, _, width = keys.shape
        own = self.chosen(pool.indices) if self.expert else self.prompts.expand(-1, batch, -1, -1)
        own_keys, own_values = own.to(keys.dtype).unflatten(3, (heads, width)).transpose(2, 3)
        return torch.cat([own_keys, keys], dim=2), torch.cat([own_values, values], dim=2)

    def chosen(self, indices: Tensor | None) -> Tensor:
        """Choices (N, k) to keys and values (2, N, k length, width)."""
        assert indices is not None  # the ViT chooses first
        prompts = self.prompts[:, indices].flatten(2, 3)
        if self.pairing == "google":
            return prompts
        # image b gets entries 2 b and 2 b + 1 of [keys of all images, values of all images] (F39)
        return prompts.reshape(len(indices), 2, *prompts.shape[2:]).transpose(0, 1)

    def compensate(self, weights: Tensor) -> Tensor:
        """The attention weights as they are: a plain softmax over prompts and tokens."""
        return weights


class DualPromptPool(PromptPool):
    """The keys of the expert prompts, one for each entry of the pool, for all blocks.

    :param train_choice: ``"task"``: in training, all images use the prompts of their experience, as long as the pool
        has so many. ``"query"``: they choose as in evaluation (F40).
    :param args: see :class:`~reclaim.strategies.prompt_pool.PromptPool`.
    """

    def __init__(self, width: int, train_choice: Literal["task", "query"], *args: Any, **kwargs: Any) -> None:
        super().__init__(width, *args, **kwargs)
        if train_choice not in ("task", "query"):
            raise ValueError(f"train_choice must be 'task' or 'query', got {train_choice!r}")
        self.train_choice = train_choice
        self._experts: list[PromptPrefix] = []  # children of the blocks

    def join(self, prefixes: Sequence[PromptPrefix]) -> None:
        """Choose for these."""
        for prefix in prefixes:
            prefix.join(self)
        self._experts = [prefix for prefix in prefixes if prefix.expert]

    def chosen(self, query: Tensor) -> Tensor:
        own = self.entries(int(self.experiences)) if self.training and self.train_choice == "task" else []
        if own:
            return torch.tensor(own, device=query.device).expand(len(query), -1)
        return super().chosen(query)

    def copy_prompts(self, source: list[int], target: list[int]) -> None:
        with torch.no_grad():
            for expert in self._experts:
                expert.prompts[:, target] = expert.prompts[:, source]


def attach_dualprompt(
    model: nn.Module,
    pool: int = 10,
    g_length: int = 5,
    e_length: int = 20,
    g_layers: Sequence[int] = (0, 1),
    e_layers: Sequence[int] = (2, 3, 4),
    *,
    top_k: int = 1,
    pairing: Pairing = "google",
    train_choice: Literal["task", "query"] = "task",
    train_vote: Vote = "image",
    test_vote: Vote = "image",
    init: Init = "reference",
    query: Query = "shared",
    generator: torch.Generator | None = None,
) -> DualPromptPool:
    """Put DualPrompt's prompts into a timm ViT, in place, freeze the rest of it, and return the pool of expert prompts.

    Names and identity of all parameters stay; ``prompt_pool.keys`` and ``blocks.<j>.attn.prefix.prompts`` are added.
    Heads of a :class:`~reclaim.strategies.heads.ContinualModel` train as always. Each image passes twice, first for its
    query: the ViT's features without prompts.

    :param model: a timm ``VisionTransformer``, or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :param pool: number of expert prompts: one for each experience with ``top_k`` 1.
    :param g_length, e_length: keys, and as many values, of a general and of an expert prompt (F42).
    :param g_layers, e_layers: indices of blocks, from 0, with a general and with expert prompts; none twice (F45).
    :param top_k: number of expert prompts used at a time.
    :param pairing: see :data:`Pairing`.
    :param train_choice: see :class:`DualPromptPool` (F40).
    :param train_vote, test_vote: who chooses, in training mode (where images choose) and in eval mode (F41). With
        ``test_vote="batch"`` predictions depend on which images are in a batch: if it has only images of one task, they
        know it (F29).
    :param init: see :data:`~reclaim.strategies.prompt_pool.Init`.
    :param query: ``"shared"``: by the model's own backbone with prompts off. ``"copy"``: by a copy made now, which
        stays the same whatever becomes of the backbone.
    :param generator: source of the random numbers, on the CPU; torch's default generator if not given.
    :raises TypeError: the model is not such a ViT, or a chosen block has no plain timm ``Attention``.
    :raises ValueError: it has a pool already, or an argument is out of its range.
    """
    vit = require_plain_vit(model)
    if pairing not in ("google", "reference"):
        raise ValueError(f"pairing must be 'google' or 'reference', got {pairing!r}")
    module = DualPromptPool(vit.embed_dim, train_choice, pool, top_k, train_vote, test_vote, init, generator)
    lengths = [g_length] * len(g_layers) + [e_length] * len(e_layers)
    pools = [0] * len(g_layers) + [pool] * len(e_layers)
    sizes = iter(zip(lengths, pools, strict=True))

    def make(attention: Any) -> PromptPrefix:
        length, entries = next(sizes)
        prefix = PromptPrefix(attention.qkv.out_features // 3, length, entries, pairing, init, generator)
        return prefix.to(attention.qkv.weight).train(attention.training)

    query_copy = copy_for(query, vit)
    prefixes = attach_modules(model, [*g_layers, *e_layers], "attn", PrefixAttention, "prefix", make)
    enter(vit, module.to(next(vit.parameters())), PromptedTransformer, query_copy)
    module.join(prefixes)
    for prefix in prefixes:
        prefix.requires_grad_(True)
    return module


def detach_dualprompt(model: nn.Module) -> DualPromptPool:
    """Remove DualPrompt's prompts from a model, in place, and return the pool. Frozen parameters stay frozen.

    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: it has no such prompts.
    """
    pool = leave(model, DualPromptPool)
    detach_peft(model, PromptPrefix)
    return pool


class DualPrompt(PoolTraining):
    """Trains the prompts of :func:`attach_dualprompt`: loss - pull * similarity of queries and keys, the gradient
    clipped.

    For a strategy on a frozen ViT, with a new Adam for each experience (F44)::

        attach_dualprompt(model)
        Naive(model=model, ..., criterion=TaskCrossEntropy(), plugins=[FreshOptimizer(), DualPrompt()])

    :param pull: weight c of the similarity: 1 in both public codes, 0.1 in PILOT (F43).
    :param clip, clip_over: see :class:`~reclaim.strategies.prompt_pool.PoolTraining` (F33).
    :param copy_prompts: at the start of experience t > 0, copy expert prompt t - 1 to t, as long as the pool has so
        many. Keys are not copied (F44).
    :raises ValueError: an argument is out of its range; before training, the model has no :class:`DualPromptPool`.
    """

    kind = DualPromptPool
    attach = "attach_dualprompt"

    def __init__(
        self, pull: float = 1.0, clip: float | None = 1.0, clip_over: ClipOver = "trained", copy_prompts: bool = True
    ) -> None:
        super().__init__(pull, clip, clip_over, copy_prompts)
