"""What all modules of parameter-efficient fine-tuning (PEFT) have in common: LAE's, SLCA++'s LoRA and VPT's prompts.

Code that counts, schedules or skips PEFT modules finds them by their base class :class:`PEFTModule`.
"""

from __future__ import annotations

from collections.abc import Iterator

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from .heads import ContinualModel, find_classifier
from .wrappers import unwrap


class PEFTModule(nn.Module):
    """Base class of the modules that train while the backbone around them is frozen.

    :cvar begins_anew: its parameters get new values when an experience begins, so that an average over the steps of
        several means nothing.
    """

    begins_anew = False


def peft_modules(model: nn.Module) -> list[PEFTModule]:
    """All PEFT modules in a model, in its order (that of the blocks)."""
    return [module for module in model.modules() if isinstance(module, PEFTModule)]


def peft_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of :func:`peft_modules`."""
    for module in peft_modules(model):
        yield from module.parameters()


def freeze_backbone(vit: nn.Module) -> None:
    """Freeze a ViT, in place, but for its own classifier, if it has one: heads train as they did before."""
    _, classifier = find_classifier(vit) or ("", nn.Module())
    heads = {*classifier.parameters()}
    for parameter in vit.parameters():
        if parameter not in heads:
            parameter.requires_grad_(False)


def require_vision_transformer(model: nn.Module) -> VisionTransformer:
    """The model, or the backbone of a :class:`~reclaim.strategies.heads.ContinualModel`,
    as a timm ``VisionTransformer``.

    :raises TypeError: it is another kind of model.
    """
    inner = unwrap(model)
    vit = inner.backbone if isinstance(inner, ContinualModel) else inner
    # Similar models (BEiT, EVA) may read the weight of qkv without calling the layer. They would silently ignore LoRA.
    if not isinstance(vit, VisionTransformer):
        raise TypeError(
            f"PEFT modules go into a timm VisionTransformer, or a ContinualModel on one, got {type(vit).__name__}"
        )
    return vit
