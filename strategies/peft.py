"""Small trainable modules inside a frozen backbone, as LAE (the framework that aEPG builds on) puts them, and when they train.

:func:`attach_lora` and :func:`detach_lora` change a timm ViT in place and back; :class:`PEFTSchedule` says which parameters of a
continual model train in which epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, Literal, cast

import torch
from avalanche.training.plugins import SupervisedPlugin
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from .heads import ContinualModel, require_continual_model


class PEFTModule(nn.Module):
    """A module of parameter-efficient fine-tuning: what trains while the backbone around it does not."""


def peft_modules(model: nn.Module) -> list[PEFTModule]:
    """All modules of parameter-efficient fine-tuning in a model, in its order (that of the blocks)."""
    return [module for module in model.modules() if isinstance(module, PEFTModule)]


def peft_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of :func:`peft_modules`."""
    for module in peft_modules(model):
        yield from module.parameters()


class LoRA(PEFTModule):
    """LAE's low-rank update of the keys' and values' part of a qkv layer: W_k + s_k B_k A_k and W_v + s_v B_v A_v.

    ``A`` (2, rank, in_features), ``B`` (2, width, rank) and the learnable ``scale`` s (2,) hold k at index 0 and v at index 1. A starts
    Kaiming-uniform with a = sqrt 5 (uniform within +-1/sqrt(in_features)), B at 0 and s at 1, so that a new module changes nothing.

    :param in_features: width of the tokens.
    :param width: width of the keys, and of the values.
    :param rank: 4 in aEPG's paper, 5 in LAE's configuration (F18).
    :param generator: source of A's random numbers; torch's default one when not given.
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
        """Right (2 rank, in_features) and left (2 width, 2 rank) factor of the update of the stacked [W_k; W_v]; s is in the left."""
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
    """Stands in for a qkv layer: its output plus LoRA's. Has the very parameters of that layer, under the same names."""

    def __init__(self, plain: nn.Linear, lora: LoRA) -> None:
        # not nn.Linear's: it would make a weight of its own
        nn.Module.__init__(self)
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.weight, self.bias = plain.weight, plain.bias
        self.lora = lora
        self.train(plain.training)
        # in a tuple, where torch does not see a submodule
        self._plain = (plain,)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (..., in_features) to queries, keys and values (..., 3 width)."""
        return super().forward(tokens) + F.pad(self.lora(tokens), (self.out_features // 3, 0))

    def plain(self) -> nn.Linear:
        """The layer that this one stands in for, with the parameters as they are now."""
        (plain,) = self._plain
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)


def attach_lora(model: nn.Module, blocks: Iterable[int] = range(5), rank: int = 4, generator: torch.Generator | None = None) -> list[LoRA]:
    """Put a new :class:`LoRA` into chosen blocks of a timm ViT, in place, and return them in the order of ``blocks``.

    Names and identity of all parameters stay; those of block j's module are added as ``blocks.<j>.attn.qkv.lora.<A|B|scale>``.
    Nothing is frozen here: leave that to :class:`PEFTSchedule`, or call ``model.requires_grad_(False)`` before.

    :param model: a timm ``VisionTransformer``, or a :class:`ContinualModel` on one.
    :param blocks: indices of blocks, from 0; 0-4 in aEPG's protocol.
    :param rank: see :class:`LoRA`.
    :param generator: see :class:`LoRA`; on the CPU.
    :raises TypeError: the model is no such ViT, or a chosen block has no plain qkv layer (one that has LoRA already, for instance).
    :raises ValueError: a block is not there or named twice, none is named, or the rank is below 1.
    """
    vit = _vision_transformer(model)
    chosen = list(blocks)
    if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= index < len(vit.blocks) for index in chosen):
        raise ValueError(f"blocks must be distinct indices from 0 to {len(vit.blocks) - 1} of this ViT, at least one, got {chosen}")
    attentions = [getattr(vit.blocks[index], "attn", None) for index in chosen]
    for index, attention in zip(chosen, attentions, strict=True):
        qkv = getattr(attention, "qkv", None)
        if type(qkv) is not nn.Linear:
            raise TypeError(
                f"LoRA needs a plain Linear attn.qkv in block {index}, found {type(qkv).__name__}"
                + (": call detach_lora(model) first" if isinstance(qkv, LoRALinear) else "")
            )
    modules = []
    for attention in attentions:
        plain = cast(nn.Linear, cast(nn.Module, attention).qkv)
        lora = LoRA(plain.in_features, plain.out_features // 3, rank, generator).to(plain.weight).train(plain.training)
        cast(nn.Module, attention).qkv = LoRALinear(plain, lora)
        modules.append(lora)
    return modules


@torch.no_grad()
def detach_lora(model: nn.Module, merge: bool = False) -> list[LoRA]:
    """Take all :class:`LoRA` modules out of a model, in place, and return them in the order of the blocks.

    The model is then what it was before they were attached: the same modules with the same parameters.

    :param merge: add each module's update to the weight of its layer, so that the outputs stay as they are, up to rounding.
    :raises TypeError: the model is not a timm ViT or a :class:`ContinualModel` on one.
    :raises ValueError: no LoRA is attached.
    """
    modules = []
    for block in _vision_transformer(model).blocks:
        attention = getattr(block, "attn", None)
        adapted = getattr(attention, "qkv", None)
        if isinstance(adapted, LoRALinear):
            plain = adapted.plain()
            if merge:
                plain.weight[plain.out_features // 3 :] += adapted.lora.weight_update()
            cast(nn.Module, attention).qkv = plain
            modules.append(adapted.lora)
    if not modules:
        raise ValueError("no LoRA is attached to this model: there is nothing to detach")
    return modules


def _vision_transformer(model: nn.Module) -> VisionTransformer:
    vit = model.backbone if isinstance(model, ContinualModel) else model
    # Models that only resemble it (BEiT, EVA) may read the weight of qkv without calling the layer, and would silently ignore LoRA.
    if not isinstance(vit, VisionTransformer):
        raise TypeError(f"LoRA goes into a timm VisionTransformer, or a ContinualModel on one, got {type(vit).__name__}")
    return vit


class PEFTSchedule(SupervisedPlugin[Any]):
    """Which parameters of the backbone train in which epoch (F17); the heads are left as they are.

    Parameters that are frozen when the first training starts stay frozen in either mode.

    :param frozen_epochs: first epochs of an experience in which only the head trains; 30 of 50 in aEPG's protocol.
    :param freeze: "peft", LAE's code: the backbone never trains, the modules in it (:func:`peft_modules`) wait for ``frozen_epochs``
        in every experience but the first. "backbone", the paper's text: the whole backbone, modules included, waits for
        ``frozen_epochs`` in every experience and then trains in full.
    """

    def __init__(self, frozen_epochs: int = 30, freeze: Literal["peft", "backbone"] = "peft") -> None:
        super().__init__()
        if frozen_epochs < 0:
            raise ValueError(f"frozen_epochs must not be negative, got {frozen_epochs}")
        if freeze not in ("peft", "backbone"):
            raise ValueError(f"freeze must be 'peft' or 'backbone', got {freeze!r}")
        self.frozen_epochs = frozen_epochs
        self.freeze = freeze
        self._fixed: list[nn.Parameter] | None = None

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        """Freeze what must not train in the first epoch.

        :raises TypeError: the model is not a :class:`ContinualModel`.
        :raises ValueError: nothing would ever train but the heads: there are fewer epochs than frozen ones, or no modules.
        """
        backbone = require_continual_model(strategy.model, "PEFTSchedule").backbone
        if self.frozen_epochs > strategy.train_epochs:
            raise ValueError(f"frozen_epochs={self.frozen_epochs} is more than the strategy's train_epochs={strategy.train_epochs}")
        if self.freeze == "peft" and not peft_modules(backbone):
            raise ValueError("the backbone has no PEFT modules to train: call attach_lora(model, ...) first")
        if self._fixed is None:
            self._fixed = [p for p in backbone.parameters() if not p.requires_grad]
        self._apply(backbone, strategy, epoch=0)

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._apply(strategy.model.backbone, strategy, epoch=strategy.clock.train_exp_epochs)

    def _apply(self, backbone: nn.Module, strategy: Any, epoch: int) -> None:
        thawed = epoch >= self.frozen_epochs
        if self.freeze == "peft":
            backbone.requires_grad_(False)
            for parameter in peft_parameters(backbone):
                parameter.requires_grad_(thawed or strategy.experience.current_experience == 0)
        else:
            backbone.requires_grad_(thawed)
        for parameter in self._fixed or ():
            parameter.requires_grad_(False)
