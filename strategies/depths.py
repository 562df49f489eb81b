"""The relative depth i/n of each parameter in a model, which the rollback of OLOR (arXiv 2401.10962)
depends on (F8).

It needs torch only: what it must know of timm, Avalanche, peft, transformers and torchvision it sees in the model.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from torch import nn

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_HEAD = re.compile(r"(\w+_)?(head|heads|classifier|classifiers)|fc|last_linear|score|aux_?(logits)?\d?", re.IGNORECASE)
_NEW = re.compile(r"lora_\w+|(\w+_)?adapters?(_\w+)?|modules_to_save|(\w+_)?prompts?|prompt_(embeddings|tokens)")
_LATE = re.compile(r"(\w+_)?(proj|projection|logit_scale|logit_bias|temperature)")
_GROWING = ("IncrementalClassifier", "MultiHeadClassifier", "TaskHeads")
"""Avalanche's and this package's classifiers."""
_PREDICTOR = re.compile(r"(^|\.)roi_heads\.\w+_predictor\.")


def layer_depths(
    model: nn.Module, counting: Literal["layers", "tensors"] = "layers", exclude: Iterable[nn.Parameter] = ()
) -> dict[nn.Parameter, float]:
    """Relative depth i/n of each pretrained parameter of a model: 0 at the input, 1 at the output.

    Every parameter with a depth is rolled back, so what is new gets none and does not count:

    - PEFT modules: Reclaim's, peft's (all but the ``base_layer``, ``modules_to_save`` and prompts), and modules or
      parameters called ``lora_...``, ``adapter`` or ``prompts``.
    - The head. In a timm model it is ``get_classifier()``. In a transformers model it is all outside of the base model.
      Elsewhere it is known by its name only (``head``, ``classifier``, ``fc``, ``..._head`` and the like, a detector's
      ``roi_heads.*_predictor``, in the outermost module that has one), by being Avalanche's (``IncrementalClassifier``,
      ``TaskHeads``), by standing behind the only backbone of a ``Sequential``, or as the last ``Linear`` behind a chain
      of blocks. Of a plain ``Sequential`` that is not beside a backbone, such as the ``classifier`` of torchvision's
      VGG, only the last layer is new.

    Exclude everything else that is not pretrained. Of a torchvision detector with ``weights_backbone`` alone that is
    all outside of ``model.backbone.body``, of an SSD all outside of ``model.backbone.features``. A head that is to be
    rolled back, or another layer, can be added to the result:
    ``{**layer_depths(model), **dict.fromkeys(model.fc.parameters(), 1.0)}``.

    :param counting: F8. ``"layers"`` (the text): patch embedding, tokens and position embedding (a ConvNet's stem) are
        0, block j is j + 1, and what comes after the last block, such as the final norm, is n. The blocks are those of
        timm's ``group_matcher``, wherever in the model it is. Elsewhere they are the items of a ``Sequential`` or
        ``ModuleList`` that holds several of one class with two or more weight matrices each; in stages, those of every
        stage. In a model with no such chain each submodule is a layer, in order of registration, and so is each item of
        a ``Sequential`` or ``ModuleList``. Wrappers, such as ``torch.compile``'s and ``DataParallel``, are no layers.
        ``"tensors"`` (the code): each parameter tensor counts, in the order of ``model.parameters()``.
    :param exclude: parameters that are not pretrained. They get no depth and do not count.
    :raises ValueError: unknown ``counting``, no parameter left, or one in ``exclude`` that the model does not have.
    :raises TypeError: ``exclude`` holds something else than parameters, such as a module or a name.
    :warns UserWarning: one layer of a model without a ``group_matcher`` holds more than half of the weights, in several
        tensors: they all share a depth.
    """
    if counting not in ("layers", "tensors"):
        raise ValueError(f"counting must be 'layers' or 'tensors', got {counting!r}")
    excluded = {*_checked(model, exclude), *_additions(model), *_timm_classifiers(model), *_heads(model)}
    layers = [[p] for p in model.parameters()] if counting == "tensors" else _merged(_pieces(model, excluded))
    layers = [kept for layer in layers if (kept := [p for p in layer if p not in excluded])]
    if not layers:
        raise ValueError(
            f"no parameter of {type(model).__name__} is left to give a depth to: exclude only what is not pretrained"
        )
    if counting == "layers":
        _warn_of_a_heavy_layer(model, layers)
    # With a single layer n would be 0; its depth 0 makes lambda = iota_1 (F11). A parameter shared by two layers counts
    # in the first.
    n = max(len(layers) - 1, 1)
    return {p: i / n for i, layer in reversed(list(enumerate(layers))) for p in layer}


def describe_depths(model: nn.Module, depths: Mapping[nn.Parameter, float] | None = None) -> str:
    """A table of the depths i/n: a line for each, from the input to the output, with the number of its weights and the
    modules and parameters that it is of. The last line has what is not rolled back, which should be all that is new and
    nothing that is pretrained.

    A module is named once where all of its parameters share a depth, ``layer1.{0-2}`` are three items of ``layer1``,
    and ``fc.weight`` is a parameter.

    :param depths: what an optimizer is given; None: :func:`layer_depths` of the model.
    :raises ValueError: a depth is of a parameter that the model does not have.
    """
    known = layer_depths(model) if depths is None else depths
    _checked(model, known, "depths")
    places: dict[float | None, list[str]] = defaultdict(list)
    for name, depth in _shared(model, known):
        places[depth].append(name)
    weights: Counter[float | None] = Counter()
    for parameter in model.parameters():
        weights[known.get(parameter)] += parameter.numel()
    lines = [("depth", "weights", "of")]
    for depth in sorted(places, key=lambda depth: math.inf if depth is None else depth):
        shown = "none" if depth is None else f"{depth:.3f}"
        lines.append((shown, f"{weights[depth]:,}", ", ".join(_braced(places[depth]))))
    width = max(len(number) for _, number, _ in lines)
    return "\n".join(f"{depth:>5}  {number:>{width}}  {of}" for depth, number, of in lines)


def _checked(model: nn.Module, parameters: Iterable[Any], argument: str = "exclude") -> list[nn.Parameter]:
    """Modules and names, and parameters of a copy, would name nothing, silently."""
    if isinstance(parameters, nn.Module) or not isinstance(parameters, Iterable):
        parameters = [parameters]
    parameters, own = list(parameters), {*model.parameters()}
    for parameter in parameters:
        if not isinstance(parameter, nn.Parameter):
            raise TypeError(
                f"{argument} holds {parameter!r:.80}, a {type(parameter).__name__}: give parameters, such as those of "
                f"model.head.parameters()"
            )
    if strangers := [tuple(parameter.shape) for parameter in parameters if parameter not in own]:
        raise ValueError(
            f"{argument} holds {len(strangers)} parameters that {type(model).__name__} does not have, the first of "
            f"shape {strangers[0]}: give those of this model, as it is now"
        )
    return parameters


def _shared(
    module: nn.Module, depths: Mapping[nn.Parameter, float], name: str = ""
) -> Iterator[tuple[str, float | None]]:
    """The outermost modules whose parameters share a depth, and the parameters of none, each by name."""
    found = [*dict.fromkeys(depths.get(p) for p in module.parameters())]
    if len(found) == 1 and name:
        yield name, found[0]
        return
    for own, parameter in module.named_parameters(name, recurse=False):
        yield own, depths.get(parameter)
    for child_name, child in module.named_children():
        if next(child.parameters(), None) is not None:
            yield from _shared(child, depths, f"{name}.{child_name}".lstrip("."))


def _braced(names: Iterable[str]) -> Iterator[str]:
    """Siblings one after another as ``parent.{a, b}``, and their numbers as spans."""
    for parent, group in itertools.groupby(names, lambda name: name.rpartition(".")[0]):
        of_parent = [name.rpartition(".")[2] for name in group]
        spans: list[list[str]] = []
        for own in of_parent:
            if spans and own.isdigit() and spans[-1][-1].isdigit() and int(own) == int(spans[-1][-1]) + 1:
                spans[-1].append(own)
            else:
                spans.append([own])
        told = ", ".join(span[0] if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans)
        inner = told if len(of_parent) == 1 else f"{{{told}}}"
        yield f"{parent}.{inner}" if parent else told


# What a module is


def _own(module: nn.Module, name: str) -> Any:
    """What the module or its class itself has: wrappers pass on attributes of what they wrap, whose parameters have
    other names there.
    """
    return inspect.getattr_static(module, name, None)


def _knows_its_layers(module: nn.Module) -> bool:
    return _own(module, "group_matcher") is not None


def _matrices(module: nn.Module) -> int:
    return sum(p.ndim > 1 for p in module.parameters())


def _is_chain(module: nn.Module) -> bool:
    """Whether it is a container of blocks: several modules of one class with two or more weight matrices each."""
    blocks = Counter(type(item) for item in module.children() if _matrices(item) > 1)
    return isinstance(module, _CONTAINERS) and max(blocks.values(), default=0) > 1


def _is_net(module: nn.Module) -> bool:
    """Whether it holds layers, rather than being one."""
    return any(_knows_its_layers(part) or _is_chain(part) for part in module.modules())


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Children with parameters. Of peft's model only the base model counts."""
    children = {name: child for name, child in module.named_children() if next(child.parameters(), None) is not None}
    return {"base_model": children["base_model"]} if "base_model" in children and _is_peft(module) else children


def _is_peft(module: nn.Module) -> bool:
    return "peft_config" in vars(module)


# What is new


def _additions(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of modules of parameter-efficient fine-tuning, and of classifiers that grow with the classes."""
    for module in model.modules():
        # by name: modules of both kinds take seconds to import
        if any(cls.__name__ in ("PEFTModule", *_GROWING) for cls in type(module).__mro__):
            yield from module.parameters()
        elif isinstance(_own(module, "adapter_layer_names"), tuple):  # a layer of peft, around the pretrained one
            pretrained = {*getattr(module, "base_layer", nn.Module()).parameters()}
            yield from (p for p in module.parameters() if p not in pretrained)
        elif _is_peft(module) and (base := dict(module.named_children()).get("base_model")):  # prompts stand beside it
            pretrained = {*base.parameters()}
            yield from (p for p in module.parameters() if p not in pretrained)
    for name, parameter in model.named_parameters():
        if any(_NEW.fullmatch(part) for part in name.split(".")):
            yield parameter


def _timm_classifiers(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if _own(module, "get_classifier") is not None:
            classifier = module.get_classifier()  # type: ignore[operator]
            # timm's distilled models have two
            for head in classifier if isinstance(classifier, (tuple, list)) else [classifier]:
                if isinstance(head, nn.Module):
                    yield from head.parameters()


def _heads(model: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of the head of a model that is not timm's: that of the outermost module which has one."""
    yield from (p for name, p in model.named_parameters() if _PREDICTOR.search(name))
    nets = [model]
    while nets:
        net = nets.pop()
        if _knows_its_layers(net):
            continue
        children = _children(net)
        heads = {name: children.pop(name) for name in _heads_among(net, children)}
        for head in heads.values():
            yield from _new_part(head, beside=children)
        if not heads:
            nets += [child for child in children.values() if len(children) == 1 or _is_net(child)]


def _heads_among(net: nn.Module, children: dict[str, nn.Module]) -> list[str]:
    if len(children) < 2:  # a wrapper
        return []
    prefix = _own(net, "base_model_prefix")
    if isinstance(prefix, str) and prefix in children:  # a transformers model: all but the base model is for the task
        return [name for name in children if name != prefix]
    named = [
        name
        for name, child in children.items()
        if _HEAD.fullmatch(name.lstrip("_")) or (_own(child, "adaptation") and not _is_net(child))
    ]
    named = [name for name in named if name != "_conv_head"]  # the last layer of efficientnet_pytorch's backbone
    # what knows its layers is the backbone, whatever its name
    named = [name for name in named if name != "roi_heads" and not _holds_layers_that_it_knows(children[name])]
    if named or isinstance(prefix, str):
        return named
    nets = [i for i, child in enumerate(children.values()) if _is_net(child)]
    if isinstance(net, nn.Sequential) and len(nets) == 1 and _is_backbone("", list(children.values())[nets[0]]):
        return list(children)[nets[0] + 1 :]
    last = list(children)[-1]
    return [last] if nets and isinstance(children[last], nn.Linear) else []


def _holds_layers_that_it_knows(module: nn.Module) -> bool:
    return any(_knows_its_layers(part) for part in module.modules())


def _is_backbone(name: str, module: nn.Module) -> bool:
    return name == "backbone" or (_is_net(module) and not isinstance(module, _CONTAINERS))


def _new_part(head: nn.Module, beside: dict[str, nn.Module]) -> Iterator[nn.Parameter]:
    if type(head) is nn.Sequential and not any(_is_backbone(name, other) for name, other in beside.items()):
        layers = [module for module in head.modules() if not [*module.children()] and _matrices(module)]
        yield from layers[-1].parameters() if layers else ()
    else:
        yield from head.parameters()


# Layers


class _Piece(NamedTuple):
    parameters: list[nn.Parameter]
    is_block: bool


def _pieces(module: nn.Module, excluded: set[nn.Parameter]) -> list[_Piece]:
    """Blocks of a model, and what stands before, between and after them, from the input to the output."""
    if _knows_its_layers(module):
        return [_Piece(layer, i > 0) for i, layer in enumerate(_timm_layers(module))]
    children = {name: child for name, child in _children(module).items() if not excluded.issuperset(child.parameters())}
    own = list(module.parameters(recurse=False))
    if len(children) == 1 and not own:
        (child,) = children.values()
        return _pieces(child, excluded)
    # timm's few models that have a classifier and no group_matcher keep the depths that they always had
    if not _is_net(module) or _own(module, "get_classifier") is not None:
        return [_Piece(layer, True) for layer in _submodules(module, children)]
    # a module's own tensors are tokens and embeddings, but for the last projection of CLIP's towers, and scales
    late = [p for name, p in module.named_parameters(recurse=False) if _LATE.fullmatch(name)]
    pieces = [_Piece(early, False)] if (early := [p for p in own if not any(p is one for one in late)]) else []
    for child in children.values():
        if _is_net(child):
            pieces += _pieces(child, excluded)
        else:
            pieces.append(_Piece(list(child.parameters()), _is_chain(module) and _matrices(child) > 1))
    return [*pieces, _Piece(late, False)] if late else pieces


def _submodules(module: nn.Module, children: dict[str, nn.Module]) -> list[list[nn.Parameter]]:
    """Each child is a layer, and of a container each item."""
    own = list(module.parameters(recurse=False))
    if len(children) == 1 and not own:
        (child,) = children.values()
        return _submodules(child, _children(child))
    layers: list[list[nn.Parameter]] = []
    for child in children.values():
        inner = isinstance(child, (nn.Sequential, nn.ModuleList))
        layers += _submodules(child, _children(child)) if inner else [list(child.parameters())]
    # A module's own tensors are tokens and embeddings: input.
    return [own + layers[0], *layers[1:]] if own and layers else layers or [own]


def _merged(pieces: list[_Piece]) -> list[list[nn.Parameter]]:
    """The layers: a piece each, but all before the first block is one, and so is all after the last."""
    blocks = [i for i, piece in enumerate(pieces) if piece.is_block]
    if not blocks:
        return [piece.parameters for piece in pieces]
    first, last = blocks[0], blocks[-1]
    before = [*itertools.chain(*(piece.parameters for piece in pieces[:first]))]
    after = [*itertools.chain(*(piece.parameters for piece in pieces[last + 1 :]))]
    return [before, *(piece.parameters for piece in pieces[first : last + 1]), after]


def _timm_layers(model: Any) -> list[list[nn.Parameter]]:
    from timm.models import group_parameters  # a model with a group_matcher has loaded timm

    matcher = model.group_matcher(coarse=False)
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


def _warn_of_a_heavy_layer(model: nn.Module, layers: list[list[nn.Parameter]]) -> None:
    if _holds_layers_that_it_knows(model):
        return
    weights = [sum(p.numel() for p in layer) for layer in layers]
    heaviest = max(weights)
    layer = layers[weights.index(heaviest)]
    # a single tensor that heavy cannot be divided, and neither can a linear layer
    if 2 * heaviest <= sum(weights) or sum(p.ndim > 1 for p in layer) < 2:
        return
    if 2 * max(p.numel() for p in layer) > sum(weights):
        return
    names = [name for name, p in model.named_parameters() if any(p is held for held in layer)]
    warnings.warn(
        f"layer {weights.index(heaviest)} of 0 to {len(layers) - 1} of {type(model).__name__}, from {names[0]} to "
        f"{names[-1]}, holds {heaviest / sum(weights):.0%} of the weights, which all get one depth: put its blocks "
        "into a Sequential or ModuleList, or give depths of your own, a dict from parameter to i/n",
        UserWarning,
        stacklevel=3,
    )
