"""APER: a backbone adapted to the first experience, beside the pretrained one (Zhou et al., IJCV 2024, 2303.07338;
called ADAM in its first versions and in its code).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from .closed_form import CosineClassMean
from .heads import require_continual_model
from .peft import Adapter, LoRA, Prefix, detach_peft
from .peft_module import peft_modules
from .prompts import Prompts, detach_prompts
from .ssf import SSF, detach_ssf


class BesidePretrained(nn.Module):
    """Joins to the features of a backbone those of a frozen one, which is always in eval mode. Its parameters become
    buffers: no optimizer is to see them.
    """

    def __init__(self, pretrained: nn.Module) -> None:
        super().__init__()
        self.pretrained = pretrained.eval()
        for module in pretrained.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, parameter.detach())

    def train(self, mode: bool = True) -> BesidePretrained:
        """Has no effect."""
        return self

    def forward(self, features: Tensor, images: Tensor) -> Tensor:
        """Features (N, d) of images (N, C, H, W) to (N, 2 d): first those of the frozen backbone."""
        with torch.no_grad():
            return torch.cat([self.pretrained(images), features], dim=1)


class APER(CosineClassMean):
    """Adapts the backbone to the first experience, and names the class whose mean has the largest cosine with the
    image's features, those of the pretrained and of the adapted backbone joined.

    What trains in the first experience is up to the model: PEFT modules, or all of it. It must train in that one only
    (:class:`~reclaim.strategies.first_experience.FirstExperienceOnly`)::

        attach_ssf(model)
        Naive(model=model, ..., train_epochs=5, plugins=[FirstExperienceOnly(), APER()])

    Before its training, the backbone is copied, without its PEFT modules. After it, :class:`BesidePretrained` doubles
    the width of the heads (:meth:`~reclaim.strategies.heads.ContinualModel.extend`); those that were trained are
    dropped, as in the code. Everything else is as in :class:`~reclaim.strategies.closed_form.CosineClassMean`.

    :raises TypeError: before training, the model is not a :class:`~reclaim.strategies.heads.ContinualModel`, or has
        PEFT modules that cannot be taken out of a copy.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pretrained: nn.Module | None = None
        self._pretrained_bytes = 0
        self._extended = False  # the model, by this plugin

    @property
    def bytes_kept(self) -> int:
        """Bytes of the means and counts, in double precision, and of the pretrained backbone."""
        return super().bytes_kept + self._pretrained_bytes

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        require_continual_model(strategy.model, "APER")
        super().before_training(strategy, *args, **kwargs)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, *args, **kwargs)
        if not self._means and not self._extended and self._pretrained is None:  # else after an interruption
            self._pretrained = copy_without_modules(require_continual_model(strategy.model, "APER").backbone)
            self._pretrained_bytes = sum(t.nbytes for t in self._pretrained.state_dict().values())

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._pretrained is not None:
            model = require_continual_model(strategy.model, "APER")
            model.extend(BesidePretrained(self._pretrained), 2 * model.heads.in_features)
            self._pretrained, self._extended = None, True
        super().after_training_exp(strategy, *args, **kwargs)

    def _forget(self) -> None:
        super()._forget()
        self._pretrained, self._extended = None, False


def copy_without_modules(backbone: nn.Module) -> nn.Module:
    """A copy of a backbone, without LAE's modules, prompts or SSF: what it was before they were attached.

    :raises TypeError: it has other PEFT modules.
    """
    plain = copy.deepcopy(backbone)
    for kinds, detach in (((LoRA, Adapter, Prefix), detach_peft), (Prompts, detach_prompts), (SSF, detach_ssf)):
        if any(isinstance(module, kinds) for module in peft_modules(plain)):  # type: ignore[arg-type]
            detach(plain)
    if others := peft_modules(plain):
        raise TypeError(
            f"cannot take {type(others[0]).__name__} out of a copy of the backbone: use LoRA, adapters, prefixes, "
            f"prompts or SSF"
        )
    return plain
