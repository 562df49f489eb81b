"""CODA-Prompt: prompts that are weighted sums of components, each experience training its own (Smith et al., CVPR 2023,
2211.13218).

:func:`attach_coda` adds the components to a timm ViT in place, :func:`detach_coda` removes them, and
:class:`CODAPrompt` runs them through the experiences.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import require_not_negative
from .features import eval_mode
from .parts import parts_of
from .peft import attach_modules
from .peft_module import PEFTModule, freeze_backbone, peft_modules, require_vision_transformer
from .runs import Owner


class CODAComponents(PEFTModule):
    """The components of one block: M prompts ``prompts`` (M, length, width), with ``keys`` (M, width) and ``attention``
    (M, width).

    For a query q (width,), component m weighs cos(q * A_m, K_m) (the paper's Eq. 5 and 6). The first half of the
    weighted sum of the prompts are keys, the second half values, in front of those of the tokens.

    Experience t trains the components of its share; those of earlier experiences are used and stay. A share starts with
    random rows of norm 1, orthogonal to each other and to the earlier ones, and those of later experiences at zero, as
    in the code (fact coda-init). Without a query the module does nothing.

    :param width: of tokens and queries.
    :param components: M, of all experiences together.
    :param length: of a prompt; even.
    :param experiences: how many share the components: M // experiences each, the rest unused.
    :param generator: source of the random numbers; torch's default generator if not given.
    """

    begins_anew = True

    def __init__(
        self,
        width: int,
        components: int = 100,
        length: int = 8,
        experiences: int = 10,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if length < 2 or length % 2:
            raise ValueError(f"length must be even and at least 2, half of it keys, half values, got {length}")
        if experiences < 1 or not experiences <= components <= width:
            raise ValueError(
                f"{components} components for {experiences} experiences and tokens of width {width}: each experience "
                f"needs one, and no more than the width can be orthogonal"
            )
        self.share = components // experiences
        self.experiences = experiences
        self.prompts = nn.Parameter(torch.zeros(components, length, width))
        self.keys = nn.Parameter(torch.zeros(components, width))
        self.attention = nn.Parameter(torch.zeros(components, width))
        self.experience: Tensor
        self.register_buffer("experience", torch.tensor(-1))  # that was begun last
        self.query: Tensor | None = None
        self._draw(0, generator)

    @property
    def rows(self) -> slice:
        """Those of the present experience; before the first one, of the first."""
        experience = max(int(self.experience), 0)
        return slice(experience * self.share, (experience + 1) * self.share)

    def begin(self, generator: torch.Generator | None = None) -> None:
        """Begin the next experience, and draw its components.

        :raises ValueError: there is no share for one more.
        """
        if int(self.experience) + 1 >= self.experiences:
            raise ValueError(
                f"CODA-Prompt's components are shared by {self.experiences} experiences, and this is one more: "
                f"attach_coda(model, experiences=...) with as many as there will be"
            )
        self.experience += 1
        if self.experience:
            self._draw(self.rows.start, generator)

    @torch.no_grad()
    def _draw(self, first: int, generator: torch.Generator | None) -> None:
        for part in (self.prompts, self.keys, self.attention):
            rows = part.flatten(1).float()  # there is no QR in half precision
            new = torch.randn(self.share, rows.shape[1], generator=generator).to(rows)
            joined = torch.cat([rows[:first], new]).T
            # the columns of Q are those of Gram and Schmidt, up to their signs
            q, r = torch.linalg.qr(joined)
            signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)
            part[first : first + self.share] = (q * signs).T[first:].view(self.share, *part.shape[1:])

    def used(self) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts, keys and attention of the experiences so far; gradients reach those of the present one alone."""
        prompts, keys, attention = (
            torch.cat([p[: self.rows.start].detach(), p[self.rows]]) for p in (self.prompts, self.keys, self.attention)
        )
        return prompts, keys, attention

    def weights(self, queries: Tensor) -> Tensor:
        """Queries (N, width) to the weights of the components used (N, m)."""
        _, keys, attention = self.used()
        return torch.einsum("nmd,md->nm", F.normalize(queries[:, None] * attention, dim=2), F.normalize(keys, dim=1))

    def forward(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (N, width) to keys and values (N, length / 2, width)."""
        prompts, _, _ = self.used()
        keys, values = torch.einsum("nm,mld->nld", self.weights(queries), prompts).chunk(2, dim=1)
        return keys, values

    def overlap(self) -> Tensor:
        """How far the components used are from orthogonal: the sum over prompts, keys and attention of the mean square
        of B B^T - I (the paper's Eq. 7).
        """
        total = self.keys.new_zeros(())
        for part in self.used():
            rows = part.flatten(1)
            total = total + (rows @ rows.T - torch.eye(len(rows), device=rows.device)).square().mean()
        return total


class CODAAttention(Attention):
    """An attention sub-layer with :class:`CODAComponents`."""

    coda: CODAComponents

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens (N, L, width) to tokens (N, L, width).

        :raises ValueError: an attention mask is given, or ``is_causal``, and there is a query.
        """
        if self.coda.query is None:
            masks: dict[str, Any] = {"attn_mask": attn_mask, "is_causal": is_causal}
            return super().forward(x, **{name: mask for name, mask in masks.items() if mask})
        if attn_mask is not None or is_causal:
            raise ValueError("attention with prompts takes no mask, got attn_mask or is_causal: call without them")
        queries, keys, values = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        own = [p.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2) for p in self.coda(self.coda.query)]
        keys = torch.cat([own[0].to(keys), self.k_norm(keys)], dim=2)
        values = torch.cat([own[1].to(values), values], dim=2)
        weights = (self.q_norm(queries) * self.scale @ keys.transpose(-2, -1)).softmax(dim=-1)
        output = (self.attn_drop(weights) @ values).transpose(1, 2).flatten(2)
        # older versions of timm have neither norm nor gate
        norm, gate = getattr(self, "norm", None), getattr(self, "gate", None)
        if norm is not None:
            output = norm(output)
        if gate is not None:
            output = output * gate(x).sigmoid()
        return self.proj_drop(self.proj(output))


class _Query(nn.Module):
    """Gives all components the query of a batch: the features that the ViT makes of it without them."""

    def __init__(self) -> None:
        super().__init__()
        self.hooks: list[Any] = []

    def enter(self, vit: nn.Module) -> None:
        vit.add_module("coda_query", self)
        self.hooks = [vit.register_forward_pre_hook(self._before), vit.register_forward_hook(self._after)]

    def leave(self, vit: Any) -> None:
        for hook in self.hooks:
            hook.remove()
        del vit.coda_query

    def _before(self, vit: Any, inputs: tuple[Any, ...]) -> None:
        # an interrupted pass has left its query, as has each that checkpointing computes again up to what it needs
        self._give(vit, None)
        with eval_mode(vit):
            query = vit.forward_head(vit.forward_features(*inputs), pre_logits=True)
        self._give(vit, query)

    def _after(self, vit: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self._give(vit, None)

    @staticmethod
    def _give(vit: nn.Module, query: Tensor | None) -> None:
        for components in coda_components(vit):
            components.query = query


def coda_components(model: nn.Module) -> list[CODAComponents]:
    """All :class:`CODAComponents` in a model, in its order (that of the blocks)."""
    return [module for module in model.modules() if isinstance(module, CODAComponents)]


def attach_coda(
    model: nn.Module,
    experiences: int,
    blocks: Iterable[int] = range(5),
    components: int = 100,
    length: int = 8,
    generator: torch.Generator | None = None,
) -> list[CODAComponents]:
    """Put new :class:`CODAComponents` into chosen blocks of a timm ViT, in place, freeze the rest of it, and return
    them in the order of ``blocks``.

    Names and identity of all parameters stay; those of block j are added as
    ``blocks.<j>.attn.coda.<prompts|keys|attention>``. Each forward pass is then two: one without prompts, in eval mode
    and without gradients, whose features are the query, and one with them. Heads of a
    :class:`~reclaim.strategies.heads.ContinualModel` train as always.

    :param model: a timm ``VisionTransformer``, or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :param experiences: how many there will be, see :class:`CODAComponents`: the method has to know.
    :param blocks: indices of blocks, from 0; 0-4 in the paper.
    :param components: see :class:`CODAComponents`, as the other arguments.
    :raises TypeError: the model is not such a ViT, or a chosen block has no plain timm ``Attention``.
    :raises ValueError: the ViT has PEFT modules already, a block does not exist or is named twice, no block is named,
        or an argument is out of its range.
    """
    vit: Any = require_vision_transformer(model)
    if present := peft_modules(vit):
        raise ValueError(f"this ViT has modules already, such as {type(present[0]).__name__}: detach them first")

    def make(attention: Any) -> CODAComponents:
        module = CODAComponents(vit.embed_dim, components, length, experiences, generator)
        return module.to(attention.qkv.weight).train(attention.training)

    modules = attach_modules(model, blocks, "attn", CODAAttention, "coda", make, "detach_coda")
    freeze_backbone(vit)
    for module in modules:
        module.requires_grad_(True)
    _Query().train(vit.training).enter(vit)
    return modules


def detach_coda(model: nn.Module) -> list[CODAComponents]:
    """Remove all components from a model, in place, and return them in the order of the blocks. Frozen parameters stay
    frozen.

    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: there are none.
    """
    vit: Any = require_vision_transformer(model)
    layers: list[Any] = [layer for layer in vit.modules() if isinstance(layer, CODAAttention)]
    if not layers:
        raise ValueError("no CODA-Prompt is attached to this model: there is nothing to detach")
    modules = [layer.coda for layer in layers]
    vit.coda_query.leave(vit)
    for layer in layers:
        del layer.coda
        layer.__class__ = Attention
    return modules


class CODAPrompt(SupervisedPlugin[Any]):
    """Begins each experience's share of the components, and adds ``weight`` times their
    :meth:`~CODAComponents.overlap`, summed over blocks, to the loss.

    For a strategy on a model with components::

        attach_coda(model, experiences=10)
        Naive(model=model, ..., criterion=TaskCrossEntropy(), plugins=[FreshOptimizer(), CODAPrompt()])

    The optimizer sees whole tensors. After each of its steps the rows of all other experiences are written back, so
    that neither weight decay nor an old momentum moves them.

    :param weight: of the overlap, at least 0 (lambda in the text); 0 in the code (fact coda-orthogonality).
    :param seed: of the components that an experience begins with.
    :raises ValueError: ``weight`` is negative; before training, the model has no components, or the experience is one
        more than they are shared by.
    """

    def __init__(self, weight: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        require_not_negative(weight=weight)
        self.weight = weight
        self.seed = seed
        self._before: list[Tensor] = []
        self._owner = Owner()
        self._begun = False  # an experience that has not ended yet

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        modules = self._modules(strategy)
        if not self._owner.changes_to(strategy, strategy.model) and self._begun:
            return  # it was interrupted, and goes on with the components it has
        self._begun = True
        generator = torch.Generator().manual_seed(self.seed + int(modules[0].experience) + 1)
        for module in modules:
            module.begin(generator)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._begun = False

    def before_backward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self.weight:
            overlaps = [module.overlap() for module in self._modules(strategy)]
            strategy.loss = strategy.loss + self.weight * torch.stack(overlaps).sum()

    def before_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._before = [p.detach().clone() for m in self._modules(strategy) for p in m.parameters()]

    @torch.no_grad()
    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        parameters = [(m.rows, p) for m in self._modules(strategy) for p in m.parameters()]
        for (rows, parameter), before in zip(parameters, self._before, strict=True):
            before[rows] = parameter[rows]
            parameter.copy_(before)
        self._before = []

    def _modules(self, strategy: Any) -> list[CODAComponents]:
        modules = coda_components(parts_of(strategy.model, "CODAPrompt").model)
        if not modules:
            raise ValueError("the model has no components: attach some first, attach_coda(model, experiences)")
        return modules
