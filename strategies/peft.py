"""LAE's small trainable modules inside a frozen backbone (LAE is the framework that aEPG builds on),
and when they train.

:func:`attach_lora`, :func:`attach_adapter` and :func:`attach_prefix` change a timm ViT in place. :func:`detach_peft`
and :func:`detach_lora` change it back. :class:`PEFTSchedule` decides which parameters of a continual model train in
which epoch.

While a layer has such a module, its class is a subclass that uses the module. Afterwards it has its own class again.
The backbone's own modules and parameters, and their names, never change.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeVar

import torch
from avalanche.training.plugins import SupervisedPlugin
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import Parts, parts_of
from .peft_module import PEFTModule, peft_modules, peft_parameters, require_vision_transformer
from .runs import Owner, experiences_before


class LoRA(PEFTModule):
    """LAE's low-rank update of the keys' and values' part of a qkv layer: W_k + s_k B_k A_k and W_v + s_v B_v A_v.

    ``A`` (2, rank, in_features), ``B`` (2, width, rank) and the learnable ``scale`` s (2,) hold k at index 0 and v at
    index 1. A starts Kaiming-uniform with a = sqrt 5 (uniform within +-1/sqrt(in_features)), B at 0 and s at 1, so that
    a new module changes nothing.

    :param in_features: width of the tokens.
    :param width: width of the keys, and of the values.
    :param rank: 4 in aEPG's paper, 5 in LAE's configuration (F18).
    :param generator: source of A's random numbers; torch's default generator if not given.
    """

    def __init__(self, in_features: int, width: int, rank: int = 4, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"the rank of LoRA must be at least 1, got {rank}")
        self.A = nn.Parameter(torch.empty(2, rank, in_features))
        self.B = nn.Parameter(torch.zeros(2, width, rank))
        self.scale = nn.Parameter(torch.ones(2))
        for matrix in self.A.unbind():
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5), generator=generator)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Right (2 rank, in_features) and left (2 width, 2 rank) factor of the update of the stacked [W_k; W_v]; s is
        in the left.
        """
        return self.A.flatten(0, 1), torch.block_diag(*(self.scale[:, None, None] * self.B))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., in_features) to what is added to their keys and values (..., 2 width)."""
        right, left = self.factors()
        return F.linear(F.linear(tokens, right), left)

    def weight_update(self) -> Tensor:
        """The same as a matrix (2 width, in_features)."""
        right, left = self.factors()
        return left @ right


class LoRALinear(nn.Linear):
    """A qkv layer with :class:`LoRA`: its output plus LoRA's."""

    lora: LoRA

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., in_features) to queries, keys and values (..., 3 width)."""
        return super().forward(tokens) + F.pad(self.lora(tokens), (self.out_features // 3, 0))


class Adapter(PEFTModule):
    """LAE's bottleneck in parallel to the attention sub-layer, with the same input h (norm1's output):
    attn(h) + s up(GELU(down(h))).

    ``down`` and ``up`` are linear layers with bias, ``scale`` s () is learnable. down's weight starts Kaiming-uniform
    with a = sqrt 5 (uniform within +-1/sqrt(width)), up's and both biases at 0 and s at 1, so that a new module changes
    nothing.

    :param width: width of the tokens.
    :param hidden: units between down and up; 5 in LAE's configuration.
    :param generator: source of down's random numbers; torch's default generator if not given.
    """

    def __init__(self, width: int, hidden: int = 5, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if hidden < 1:
            raise ValueError(f"an adapter needs at least 1 hidden unit, got hidden={hidden}")
        # skip torch's own initialisation, which draws from the global generator
        self.down = nn.utils.skip_init(nn.Linear, width, hidden)
        self.up = nn.utils.skip_init(nn.Linear, hidden, width)
        self.scale = nn.Parameter(torch.ones(()))
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., width) to what is added to the sub-layer's output (..., width)."""
        return self.scale * self.up(F.gelu(self.down(tokens)))


class AdapterAttention(Attention):
    """An attention sub-layer with :class:`Adapter`: its output plus the adapter's."""

    adapter: Adapter

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Tokens (N, L, width) to tokens (N, L, width)."""
        return super().forward(x, *args, **kwargs) + self.adapter(x)


class Prefix(PEFTModule):
    """LAE's prefix: learned keys and values that every token attends to, in addition to those of the tokens.

    ``tokens`` (2, tokens, width) and the learnable ``scale`` s (2,) hold k at index 0 and v at index 1; the keys are
    s_k tokens_k, the values s_v tokens_v, split over the heads. The tokens start uniform in [0, 0.01], s at 1. A new
    module does change the outputs.

    LAE's code puts them after the class token's key and value. Attention does not depend on the order of the keys, so
    here they come first. A ViT without a class token can have a prefix, too.

    :param width: width of the keys, and of the values, of all heads together.
    :param tokens: how many keys, and values; 10 in LAE's configuration.
    :param generator: source of the tokens' random numbers; torch's default generator if not given.
    """

    def __init__(self, width: int, tokens: int = 10, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"a prefix needs at least 1 token, got tokens={tokens}")
        self.tokens = nn.Parameter(torch.empty(2, tokens, width))
        self.scale = nn.Parameter(torch.ones(2))
        nn.init.uniform_(self.tokens, 0, 0.01, generator=generator)

    def forward(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (N, heads, L, d) to those with the prefix in front (N, heads, tokens + L, d)."""
        batch, heads, _, width = keys.shape
        scaled = self.scale[:, None, None] * self.tokens
        own_keys, own_values = (
            scaled.unflatten(2, (heads, width)).transpose(1, 2)[:, None].expand(-1, batch, -1, -1, -1)
        )
        return torch.cat([own_keys, keys], dim=2), torch.cat([own_values, values], dim=2)

    def compensate(self, weights: Tensor) -> Tensor:
        """Attention weights (..., tokens + L) with those of the prefix divided by their sum. The others
        do not change.
        """
        own, others = weights.tensor_split([self.tokens.shape[1]], dim=-1)
        # 1e-12 is 0 in float16
        total = own.sum(dim=-1, keepdim=True).clamp(min=max(1e-12, torch.finfo(own.dtype).tiny))
        return torch.cat([own / total, others], dim=-1)


class PrefixAttention(Attention):
    """An attention sub-layer with :class:`Prefix`. Never fused, because the weights change between
    softmax and values.
    """

    prefix: Prefix

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens (N, L, width) to tokens (N, L, width).

        :raises ValueError: an attention mask is given, or ``is_causal``.
        """
        if attn_mask is not None or is_causal:
            raise ValueError(
                "attention with a prefix takes no mask, got attn_mask or is_causal: call the model without them"
            )
        queries, keys, values = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        keys, values = self.prefix(self.k_norm(keys), values)
        weights = (self.q_norm(queries) * self.scale @ keys.transpose(-2, -1)).softmax(dim=-1)
        output = (self.attn_drop(self.prefix.compensate(weights)) @ values).transpose(1, 2).flatten(2)
        # older versions of timm have neither norm nor gate
        norm, gate = getattr(self, "norm", None), getattr(self, "gate", None)
        if norm is not None:
            output = norm(output)
        if gate is not None:
            output = output * gate(x).sigmoid()
        return self.proj_drop(self.proj(output))


def attach_lora(
    model: nn.Module, blocks: Iterable[int] = range(5), rank: int = 4, generator: torch.Generator | None = None
) -> list[LoRA]:
    """Put a new :class:`LoRA` into chosen blocks of a timm ViT, in place, and return them in the order of ``blocks``.

    Names and identity of all parameters stay; those of block j's module are added as
    ``blocks.<j>.attn.qkv.lora.<A|B|scale>``. This function freezes nothing: use :class:`PEFTSchedule`, or call
    ``model.requires_grad_(False)`` before. A block can have LoRA together with an adapter or a prefix.

    :param model: a timm ``VisionTransformer``, or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :param blocks: indices of blocks, from 0; 0-4 in aEPG's protocol.
    :param rank: see :class:`LoRA`.
    :param generator: see :class:`LoRA`; on the CPU.
    :raises TypeError: the model is not such a ViT, or a chosen block has no plain qkv layer (perhaps it has LoRA
        already).
    :raises ValueError: a block does not exist or is named twice, no block is named, or the rank is below 1.
    """

    def make(qkv: Any) -> LoRA:
        return LoRA(qkv.in_features, qkv.out_features // 3, rank, generator).to(qkv.weight).train(qkv.training)

    return attach_modules(model, blocks, "attn.qkv", LoRALinear, "lora", make)


def attach_adapter(
    model: nn.Module, blocks: Iterable[int] = range(5), hidden: int = 5, generator: torch.Generator | None = None
) -> list[Adapter]:
    """Put a new :class:`Adapter` into chosen blocks of a timm ViT, in place,
    and return them in the order of ``blocks``.

    As :func:`attach_lora`; the parameters are added as
    ``blocks.<j>.attn.adapter.<scale|down.weight|down.bias|up.weight|up.bias>``.

    :param hidden: see :class:`Adapter`.
    :param generator: see :class:`Adapter`; on the CPU.
    :raises TypeError: the model is not such a ViT, or a chosen block has no plain timm ``Attention`` (perhaps it has an
        adapter or a prefix already).
    :raises ValueError: a block does not exist or is named twice, no block is named, or ``hidden`` is below 1.
    """

    def make(attention: Any) -> Adapter:
        return Adapter(attention.qkv.in_features, hidden, generator).to(attention.qkv.weight).train(attention.training)

    return attach_modules(model, blocks, "attn", AdapterAttention, "adapter", make)


def attach_prefix(
    model: nn.Module, blocks: Iterable[int] = range(5), tokens: int = 10, generator: torch.Generator | None = None
) -> list[Prefix]:
    """Put a new :class:`Prefix` into chosen blocks of a timm ViT, in place, and return them in the order of ``blocks``.

    As :func:`attach_lora`; the parameters are added as ``blocks.<j>.attn.prefix.<tokens|scale>``.

    :param tokens: see :class:`Prefix`.
    :param generator: see :class:`Prefix`; on the CPU.
    :raises TypeError: the model is not such a ViT, or a chosen block has no plain timm ``Attention`` (perhaps it has an
        adapter or a prefix already).
    :raises ValueError: a block does not exist or is named twice, no block is named, or ``tokens`` is below 1.
    """

    def make(attention: Any) -> Prefix:
        return (
            Prefix(attention.qkv.out_features // 3, tokens, generator)
            .to(attention.qkv.weight)
            .train(attention.training)
        )

    return attach_modules(model, blocks, "attn", PrefixAttention, "prefix", make)


def detach_peft(model: nn.Module, kind: type[PEFTModule] = PEFTModule) -> list[PEFTModule]:
    """Remove all attached modules from a model, in place, and return them in the model's order (that of the blocks).

    The model is then as before they were attached: the same modules and parameters, with the same names.

    :param kind: only modules of this class, such as :class:`Adapter`.
    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: no such module is attached.
    """
    vit = require_vision_transformer(model)
    adapted: list[nn.Module] = [layer for layer in vit.modules() if isinstance(layer, _ADAPTED)]
    places = {
        child: (layer, name) for layer in adapted for name, child in layer.named_children() if isinstance(child, kind)
    }
    if not places:
        raise ValueError(f"no {kind.__name__} is attached to this model: there is nothing to detach")
    modules = [module for module in peft_modules(vit) if module in places]
    for layer, name in places.values():
        delattr(layer, name)
        layer.__class__ = _plain_class(type(layer))
    return modules


@torch.no_grad()
def detach_lora(model: nn.Module, merge: bool = False) -> list[LoRA]:
    """Remove all :class:`LoRA` modules from a model, as :func:`detach_peft` does.

    :param merge: add each module's update to the weight of its layer, so that the outputs stay the same up to rounding.
    """
    layers = [layer for layer in require_vision_transformer(model).modules() if isinstance(layer, LoRALinear)]
    modules = [layer.lora for layer in layers]
    detach_peft(model, LoRA)
    if merge:
        for layer, lora in zip(layers, modules, strict=True):
            layer.weight[layer.out_features // 3 :] += lora.weight_update()
    return modules


_ADAPTED = (LoRALinear, AdapterAttention, PrefixAttention)
ModuleT = TypeVar("ModuleT", bound=PEFTModule)


def attach_modules(
    model: nn.Module,
    blocks: Iterable[int],
    path: str,
    adapted: type[nn.Module],
    name: str,
    make: Callable[[nn.Module], ModuleT],
    detach: str = "detach_peft",
) -> list[ModuleT]:
    """Set the class of the layer at ``path`` in chosen blocks to ``adapted``, add the module that ``make`` returns as
    ``name``, and return the modules in the order of ``blocks``.

    Everything is checked before anything changes.

    :param adapted: a subclass of the layer's class, and of no other.
    :param detach: the function that undoes it, for the message.
    :raises TypeError: the model is not a timm ViT, or a chosen block has no plain such layer.
    :raises ValueError: a block does not exist or is named twice, or no block is named.
    """
    vit = require_vision_transformer(model)
    chosen = list(blocks)
    if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= index < len(vit.blocks) for index in chosen):
        raise ValueError(
            f"blocks must be distinct indices from 0 to {len(vit.blocks) - 1} of this ViT, at least one, got {chosen}"
        )
    plain = _plain_class(adapted)
    layers = []
    for index in chosen:
        layer = dict(vit.blocks[index].named_modules()).get(path)
        if layer is None or type(layer) is not plain:
            remedy = detach if isinstance(layer, adapted) else "detach_peft" if isinstance(layer, _ADAPTED) else ""
            raise TypeError(
                f"{name} needs a plain {plain.__name__} {path} in block {index}, found {type(layer).__name__}"
                + (f": call {remedy}(model) first" if remedy else "")
            )
        layers.append(layer)
    modules = [make(layer) for layer in layers]
    for layer, module in zip(layers, modules, strict=True):
        layer.__class__ = adapted
        layer.add_module(name, module)
    return modules


def _plain_class(adapted: type[nn.Module]) -> type[nn.Module]:
    (plain,) = adapted.__bases__
    return plain


class PEFTSchedule(SupervisedPlugin[Any]):
    """Decides which parameters of the backbone train in which epoch (F17). It does not change the heads.

    Parameters that are frozen when the first training of a model starts stay frozen in either mode. What is the first
    experience the strategy's clock and the stream say; where each delivery is a stream of its own, the clock.

    :param frozen_epochs: number of first epochs of an experience in which only the head trains; 30 of 50 in aEPG's
        protocol.
    :param freeze: "peft", LAE's code: the backbone never trains, the modules in it (:func:`peft_modules`) wait for
        ``frozen_epochs`` in every experience but the first. "backbone", the paper's text: the whole backbone, modules
        included, waits for ``frozen_epochs`` in every experience and then trains in full.
    """

    def __init__(self, frozen_epochs: int = 30, freeze: Literal["peft", "backbone"] = "peft") -> None:
        super().__init__()
        if frozen_epochs < 0:
            raise ValueError(f"frozen_epochs must not be negative, got {frozen_epochs}")
        if freeze not in ("peft", "backbone"):
            raise ValueError(f"freeze must be 'peft' or 'backbone', got {freeze!r}")
        self.frozen_epochs = frozen_epochs
        self.freeze = freeze
        self._fixed: list[str] | None = None
        self._owner = Owner()
        self._is_first = True

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Freeze what must not train in the first epoch.

        :raises TypeError: no classifier is found in the model.
        :raises ValueError: only the heads would ever train: there are fewer epochs than frozen ones, or no PEFT
            modules.
        """
        parts = parts_of(strategy.model, "PEFTSchedule")
        if self.frozen_epochs > strategy.train_epochs:
            raise ValueError(
                f"frozen_epochs={self.frozen_epochs} is more than the strategy's train_epochs={strategy.train_epochs}"
            )
        if self.freeze == "peft" and not peft_modules(parts.model):
            raise ValueError("the backbone has no PEFT modules to train: attach some first, attach_lora(model, ...)")
        if self._owner.changes_to(strategy, strategy.model) or self._fixed is None:
            backbone = parts.backbone_parameters()
            self._fixed = [name for name, p in backbone.items() if not p.requires_grad]
            if self.freeze == "backbone" and len(self._fixed) == len(backbone):
                self._fixed = None
                raise ValueError(
                    "the whole backbone is frozen already, perhaps by a training that was interrupted, and what is "
                    "frozen stays so: call requires_grad_(True) on what shall train, or use FrozenBackbone"
                )
        self._is_first = experiences_before(strategy) == 0
        self._apply(parts, epoch=0)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._apply(parts_of(strategy.model, "PEFTSchedule"), epoch=strategy.clock.train_exp_epochs)

    def _apply(self, parts: Parts, epoch: int) -> None:
        thawed = epoch >= self.frozen_epochs
        backbone = parts.backbone_parameters()
        for parameter in backbone.values():
            parameter.requires_grad_(thawed and self.freeze == "backbone")
        if self.freeze == "peft":
            for parameter in peft_parameters(parts.model):
                parameter.requires_grad_(thawed or self._is_first)
        for name in self._fixed or ():
            backbone[name].requires_grad_(False)
