"""Visual prompt tuning (VPT; Jia et al., ECCV 2022), a baseline of OLOR: learned tokens next to those of the image, in
a frozen ViT.

:func:`attach_prompts` adds them to a timm ViT in place, :func:`detach_prompts` removes them. They are PEFT modules
(:mod:`~reclaim.strategies.peft_module`): code that counts, schedules or skips such modules treats prompts alike.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .peft_module import PEFTModule, freeze_backbone, require_vision_transformer


class Prompts(PEFTModule):
    """Learned ``tokens`` (tokens, width) between a ViT's own tokens (such as the class token) and those of the image.

    They start uniform within +-sqrt(6 / (3 patch_area + width)), as in VPT's code: Xavier's bound for a patch embedding
    of three channels. The actual number of channels does not matter. A new module does change the outputs. Two options
    of the code are missing here: dropout on prompts, and a projection of them.

    :param width: width of the tokens.
    :param tokens: how many; 10 in OLOR.
    :param patch_area: pixels of a patch.
    :param after: number of the ViT's own tokens; 1 for a class token.
    :param generator: source of the tokens' random numbers; torch's default generator if not given.
    """

    def __init__(
        self,
        width: int,
        tokens: int = 10,
        patch_area: int = 256,
        after: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if tokens < 1:
            raise ValueError(f"prompts need at least 1 token, got tokens={tokens}")
        self.tokens = nn.Parameter(torch.empty(tokens, width))
        self.after = after
        self._hooks: list[Any] = []
        bound = math.sqrt(6 / (3 * patch_area + width))
        nn.init.uniform_(self.tokens, -bound, bound, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (N, L, width) to those with the prompts among them (N, L + number of prompts, width)."""
        own, image = tokens.tensor_split([self.after], dim=1)
        return torch.cat([own, self.tokens.expand(len(tokens), -1, -1), image], dim=1)

    def remove(self, tokens: Tensor) -> Tensor:
        """The inverse: tokens (N, L + number of prompts, width) without those at the prompts' positions."""
        own, _, image = tokens.tensor_split([self.after, self.after + len(self.tokens)], dim=1)
        return torch.cat([own, image], dim=1)

    def enter(self, first: nn.Module, last: nn.Module) -> None:
        """Insert the prompts at the input of block ``first``, as its child ``prompts``, and remove them at the output
        of block ``last``.
        """
        first.add_module("prompts", self)
        self._hooks = [first.register_forward_pre_hook(self._before), last.register_forward_hook(self._after)]

    def leave(self) -> None:
        """Remove the hooks of :meth:`enter`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    # bound methods: in a copy of the model they belong to the copy's prompts

    def _before(self, block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return self(inputs[0]), *inputs[1:]

    def _after(self, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self.remove(output)


def attach_prompts(
    model: nn.Module, tokens: int = 10, deep: bool = True, generator: torch.Generator | None = None
) -> list[Prompts]:
    """Put new :class:`Prompts` into a timm ViT, in place, freeze the rest of it,
    and return them in the order of the blocks.

    Names and identity of all parameters stay; those of block j's prompts are added as ``blocks.<j>.prompts.tokens``.
    The blocks see ``tokens`` more tokens, the rest of the model as many as before. Heads of a
    :class:`~reclaim.strategies.heads.ContinualModel` train as always. No attention mask may be used.

    OLOR gives VPT 10 prompts. Its code does not say whether they are shallow or deep: the line that would pass the
    number to a ViT is commented out, so that this mode would train only the head. The default is deep, as in the main
    results of VPT's authors.

    :param model: a timm ``VisionTransformer``, or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :param tokens: how many in each block.
    :param deep: ``True``: each block has its own prompts, which replace those of the block before. ``False``: the
        prompts of the first block pass through all blocks.
    :param generator: see :class:`Prompts`; on the CPU.
    :raises TypeError: the model is not such a ViT (a ConvNet has no tokens).
    :raises ValueError: the model has prompts already, or ``tokens`` is below 1.
    """
    vit: Any = require_vision_transformer(model)
    if _prompts(vit):
        raise ValueError("this ViT has prompts already: call detach_prompts(model) first")
    weight = next(vit.parameters())
    spans = [(block, block) for block in vit.blocks] if deep else [(vit.blocks[0], vit.blocks[-1])]
    area = math.prod(vit.patch_embed.patch_size)
    modules = [Prompts(vit.embed_dim, tokens, area, vit.num_prefix_tokens, generator).to(weight) for _ in spans]
    freeze_backbone(vit)
    for module, (first, last) in zip(modules, spans, strict=True):
        module.train(first.training).enter(first, last)
    return modules


def detach_prompts(model: nn.Module) -> list[Prompts]:
    """Remove all prompts from a model, in place, and return them in the order of the blocks.
    Frozen parameters stay frozen.

    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: there are none.
    """
    vit = require_vision_transformer(model)
    modules = _prompts(vit)
    if not modules:
        raise ValueError("no prompts are attached to this model: there is nothing to detach")
    for module in modules:
        module.leave()
    for block in vit.blocks:
        if hasattr(block, "prompts"):
            del block.prompts
    return modules


def _prompts(vit: nn.Module) -> list[Prompts]:
    return [module for module in vit.modules() if isinstance(module, Prompts)]
