"""The relative depth i/n of each parameter in a model, which the rollback of OLOR (arXiv 2401.10962)
depends on (F8).

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from timm.models import group_parameters
from torch import nn

from .heads import ContinualModel
from .peft_module import peft_parameters


def layer_depths(
    model: nn.Module, counting: Literal["layers", "tensors"] = "layers", exclude: Iterable[nn.Parameter] = ()
) -> dict[nn.Parameter, float]:
    """Relative depth i/n of each pretrained parameter of a model: 0 at the input, 1 at the output.

    Of a :class:`~reclaim.strategies.heads.ContinualModel` only the backbone counts. A timm model's classifier and all
    PEFT modules are left out. Exclude everything else that is not pretrained: every parameter with a depth is rolled
    back.

    :param counting: F8. ``"layers"`` (the text): patch embedding, tokens and position embedding (a ConvNet's stem) are
        0, block j is j + 1, and what comes after the last block, such as the final norm, is n. The blocks are those of
        timm's ``group_matcher``; in a model without one each submodule is a layer, in order of registration, and so is
        each item of a ``Sequential`` or ``ModuleList``. ``"tensors"`` (the code): each parameter tensor counts, in the
        order of ``model.parameters()``.
    :param exclude: parameters that are not pretrained, such as the head of a model that is not timm's. They get no
        depth and do not count.
    :raises ValueError: unknown ``counting``, or no parameter left.
    """
    if counting not in ("layers", "tensors"):
        raise ValueError(f"counting must be 'layers' or 'tensors', got {counting!r}")
    if isinstance(model, ContinualModel):
        model = model.backbone
    excluded = {*exclude, *peft_parameters(model), *_classifier_parameters(model)}
    layers = [[p] for p in model.parameters()] if counting == "tensors" else _layers(model)
    layers = [kept for layer in layers if (kept := [p for p in layer if p not in excluded])]
    if not layers:
        raise ValueError(
            f"no parameter of {type(model).__name__} is left to give a depth to: exclude only what is not pretrained"
        )
    # With a single layer n would be 0; its depth 0 makes lambda = iota_1 (F11). A parameter shared by two layers counts
    # in the first.
    n = max(len(layers) - 1, 1)
    return {p: i / n for i, layer in reversed(list(enumerate(layers))) for p in layer}


def _classifier_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        get_classifier = getattr(module, "get_classifier", None)
        if get_classifier is not None:
            classifier = get_classifier()
            # timm's distilled models have two
            for head in classifier if isinstance(classifier, (tuple, list)) else [classifier]:
                if isinstance(head, nn.Module):
                    yield from head.parameters()


def _layers(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of each layer, from the input to the output."""
    group_matcher = getattr(model, "group_matcher", None)
    if group_matcher is not None:
        return _timm_layers(model, group_matcher(coarse=False))
    own = list(model.parameters(recurse=False))
    children = [child for child in model.children() if next(child.parameters(), None) is not None]
    if len(children) == 1 and not own:
        return _layers(children[0])
    layers: list[list[nn.Parameter]] = []
    for child in children:
        layers += _layers(child) if isinstance(child, (nn.Sequential, nn.ModuleList)) else [list(child.parameters())]
    # A module's own tensors are tokens and embeddings: input.
    return [own + layers[0], *layers[1:]] if own and layers else layers or [own]


def _timm_layers(model: nn.Module, matcher: Any) -> list[list[nn.Parameter]]:
    if isinstance(matcher, dict):
        matcher = {name: _own_layer_for_the_rest(spec) for name, spec in matcher.items()}
    layer_of = group_parameters(model, matcher, reverse=True)
    last = max(layer_of.values(), default=0)
    layers: dict[int, list[nn.Parameter]] = defaultdict(list)
    before_blocks = True
    for name, parameter in model.named_parameters():
        layer = layer_of[name]
        before_blocks = before_blocks and not 0 < layer < last
        # timm puts tensors that match no pattern last, even a token or norm of the input. Those are registered before
        # the blocks.
        layers[0 if before_blocks and last > 1 else layer].append(parameter)
    return [layers[i] for i in sorted(layers)]


def _own_layer_for_the_rest(spec: Any) -> Any:
    """A pattern of timm's matcher that adds the final norm to the last block (suffix 99999),
    as one of a layer after that block.
    """
    if not isinstance(spec, (list, tuple)):
        return spec
    return [(pattern, (math.inf,) if suffix == (99999,) else suffix) for pattern, suffix in spec]
