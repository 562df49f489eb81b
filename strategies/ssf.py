"""SSF: scaling and shifting the features of a frozen ViT (Lian et al., NeurIPS 2022, 2210.08823).

:func:`attach_ssf` adds a scale and a shift per channel after the layers of a timm ViT, in place; :func:`detach_ssf`
removes them, or merges them into the weights. They are PEFT modules (:mod:`~reclaim.strategies.peft_module`): code
that counts, schedules or skips such modules treats them alike.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .peft_module import PEFTModule, freeze_backbone, peft_modules, require_vision_transformer


class SSF(PEFTModule):
    """y = scale * x + shift per channel (the paper's Eq. 5), of the output of one layer.

    ``scale`` (width,) starts from N(1, std^2), ``shift`` (width,) from N(0, std^2). A new module does change the
    outputs.

    :param width: channels of the layer's output.
    :param std: 0.02 in the code of the authors; 0: a new module changes nothing.
    :param channel: dimension of the channels; 1 after a convolution.
    :param generator: source of the random numbers; torch's default generator if not given.
    """

    def __init__(
        self, width: int, std: float = 0.02, channel: int = -1, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        if std < 0:
            raise ValueError(f"the standard deviation of new scales must not be negative, got std={std}")
        self.scale = nn.Parameter(1 + std * torch.randn(width, generator=generator))
        self.shift = nn.Parameter(std * torch.randn(width, generator=generator))
        self.channel = channel
        self._hooks: list[Any] = []

    def forward(self, outputs: Tensor) -> Tensor:
        """Outputs of the layer, of any shape with ``width`` channels, to those scaled and shifted."""
        if self.channel == -1:
            return outputs * self.scale + self.shift
        shape = [-1 if i == self.channel else 1 for i in range(outputs.ndim)]
        return outputs * self.scale.view(shape) + self.shift.view(shape)

    def enter(self, layer: nn.Module) -> None:
        """Scale and shift the outputs of a layer, as its child ``ssf``."""
        layer.add_module("ssf", self)
        self._hooks = [layer.register_forward_hook(self._after)]

    def leave(self, layer: nn.Module) -> None:
        """The inverse of :meth:`enter`."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        del layer.ssf

    # a bound method: in a copy of the model it belongs to the copy's module

    def _after(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self(output)


def attach_ssf(model: nn.Module, std: float = 0.02, generator: torch.Generator | None = None) -> list[SSF]:
    """Put a new :class:`SSF` after each layer of a timm ViT, in place, freeze the rest of it, and return them in the
    order of the layers.

    The layers are, as in the code of the authors: the patch embedding's last convolution, and its norm if it has one;
    norm1, norm2 and all linear layers of every block (qkv, proj, fc1, fc2); the last norm, before or after the pooling.
    Names and identity of all parameters stay; those of a layer's module are added as ``<layer>.ssf.<scale|shift>``.
    Heads of a :class:`~reclaim.strategies.heads.ContinualModel` train as always.

    :param model: a timm ``VisionTransformer``, or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :param std: see :class:`SSF`.
    :param generator: see :class:`SSF`; on the CPU.
    :raises TypeError: the model is not such a ViT.
    :raises ValueError: the ViT has PEFT modules already, or ``std`` is negative.
    """
    vit: Any = require_vision_transformer(model)
    if present := peft_modules(vit):
        raise ValueError(f"this ViT has modules already, such as {type(present[0]).__name__}: detach them first")
    layers = _layers(vit)
    modules = [
        SSF(len(layer.weight), std, 1 if isinstance(layer, nn.Conv2d) else -1, generator).to(layer.weight)
        for layer in layers
    ]
    freeze_backbone(vit)
    for layer, module in zip(layers, modules, strict=True):
        module.train(layer.training).enter(layer)
    return modules


@torch.no_grad()
def detach_ssf(model: nn.Module, merge: bool = False) -> list[SSF]:
    """Remove all :class:`SSF` modules from a model, in place, and return them in the order of the layers. Frozen
    parameters stay frozen.

    :param merge: scale the weights of the layers and shift their biases instead, so that the outputs stay the same up
        to rounding (the paper's Eq. 7). A layer without a bias gets one.
    :raises TypeError: the model is not a timm ViT or a :class:`~reclaim.strategies.heads.ContinualModel` on one.
    :raises ValueError: there are none.
    """
    vit = require_vision_transformer(model)
    found: list[tuple[Any, SSF]] = [
        (layer, ssf) for layer in vit.modules() if isinstance(ssf := getattr(layer, "ssf", None), SSF)
    ]
    if not found:
        raise ValueError("no SSF is attached to this model: there is nothing to detach")
    for layer, ssf in found:
        ssf.leave(layer)
        if merge:
            layer.weight.mul_(ssf.scale.view(-1, *[1] * (layer.weight.ndim - 1)))
            if layer.bias is None:
                layer.bias = nn.Parameter(ssf.shift.detach().clone(), requires_grad=layer.weight.requires_grad)
            else:
                layer.bias.mul_(ssf.scale).add_(ssf.shift)
    return [ssf for _, ssf in found]


def _layers(vit: Any) -> list[Any]:
    """The layers to scale and shift, in the order in which they compute."""
    layers: list[Any] = [[m for m in vit.patch_embed.modules() if isinstance(m, nn.Conv2d)][-1]]
    layers.append(getattr(vit.patch_embed, "norm", None))
    for block in vit.blocks:
        linear = {part: [m for m in part.modules() if isinstance(m, nn.Linear)] for part in (block.attn, block.mlp)}
        layers += [block.norm1, *linear[block.attn], block.norm2, *linear[block.mlp]]
    layers += [vit.norm, vit.fc_norm]
    return [layer for layer in layers if getattr(layer, "weight", None) is not None]
