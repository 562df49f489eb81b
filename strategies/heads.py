"""One linear head per experience, and the model that all strategies here use: a backbone with such heads.

SLCA, and the LAE code that aEPG builds on, give each task its own linear layer and train it on the logits of that
task's classes only. At test time they concatenate the logits of all heads so far. No task identity is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from avalanche.models import BaseModel, DynamicModule, IncrementalClassifier, MultiHeadClassifier
from torch import Tensor, nn

from .runs import classes_of
from .wrappers import unwrap

UNSEEN = -1000.0
"""Logit of a class without a head: finite in float16, and never the largest."""

CLASSIFIER_NAMES = frozenset(
    ("classifier", "classifiers", "fc", "head", "heads", "last_linear", "linear", "logits", "output", "score")
)
"""What torchvision, timm, Avalanche and others call the layer that classifies."""


class TaskHeads(DynamicModule):
    """Linear heads, one per experience, with each logit in the column of its class id.

    It grows by Avalanche's model adaptation, in training only: classes without a head get a new one. Earlier heads are
    frozen unless one of their classes occurs in the experience again. Evaluating unseen classes adds no head. It only
    widens the output with :data:`UNSEEN` logits, so that the criterion is defined.

    :param in_features: width d of the features.
    :param init_std: standard deviation of a new head's weights (truncated normal, cut at +-2 absolute); the bias starts
        at 0. 0.02 in SLCA's code, 0.001 in aEPG's protocol.
    :param freeze_earlier: stop gradients to the heads of earlier experiences.
    """

    def __init__(self, in_features: int, init_std: float = 0.02, freeze_earlier: bool = True) -> None:
        super().__init__()
        if in_features < 1:
            raise ValueError(
                f"in_features must be at least 1, got {in_features}: pass the width of the backbone's features"
            )
        if init_std < 0:
            raise ValueError(f"init_std must not be negative, got {init_std}")
        self.in_features = in_features
        self.init_std = init_std
        self.freeze_earlier = freeze_earlier
        self.heads = nn.ModuleList()
        self.head_classes: list[list[int]] = []
        # An optimizer made before the first experience has this empty tensor in its group for heads. Avalanche then
        # adds every new head to the group of its sibling, not to the backbone's.
        self.group_anchor = nn.Parameter(torch.empty(0))
        self._eval_width = 0

    @property
    def classes(self) -> list[int]:
        """Ids of all classes seen, in the order of the heads."""
        return [c for classes in self.head_classes for c in classes]

    def adaptation(self, experience: Any) -> None:
        """Add a head for the new classes of an experience (training), or make room for its logits (evaluation).

        Plugins may train in eval mode, to keep batch statistics or dropout as they are: with gradients, on an
        experience of a stream "train...", it is training all the same.
        """
        present = classes_of(experience)
        stream = getattr(getattr(experience, "_origin_stream", None), "name", None) or ""  # the property may fail
        if not (self.training or (torch.is_grad_enabled() and stream.startswith("train"))):
            self._eval_width = max(self._eval_width, present[-1] + 1)
            return
        new = sorted(set(present) - set(self.classes))
        if new:
            self.add_head(new)
        for head, classes in zip(self.heads, self.head_classes, strict=True):
            head.requires_grad_(not self.freeze_earlier or bool(set(classes) & set(present)))

    def add_head(self, classes: Sequence[int]) -> nn.Linear:
        """Append a head for ``classes`` (ids that no head has yet) and return it."""
        known = set(classes) & set(self.classes)
        if known or len(set(classes)) != len(classes) or min(classes, default=-1) < 0:
            raise ValueError(
                f"a new head needs distinct, non-negative ids of unseen classes, got {list(classes)} (already known: "
                f"{sorted(known)})"
            )
        head = nn.Linear(self.in_features, len(classes), device=self.group_anchor.device, dtype=self.group_anchor.dtype)
        nn.init.trunc_normal_(head.weight, std=self.init_std) if self.init_std else nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        self.heads.append(head)
        self.head_classes.append([int(c) for c in classes])
        return head

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, d) to logits (N, largest class id + 1)."""
        if not self.heads and not self.training and self._eval_width:  # evaluated before its first training
            return features.new_full((len(features), self._eval_width), UNSEEN)
        return self.combine([head(features) for head in self.heads])

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """One (N, c_t) tensor of logits per head to logits (N, largest class id + 1), each in its class's column."""
        if not self.heads:
            raise RuntimeError(
                "the model has no head yet: train it on an experience, or call heads.add_head(classes), "
                "before the forward pass"
            )
        classes = self.classes
        joined = torch.cat(list(logits), dim=1)
        width = max(max(classes) + 1, 0 if self.training else self._eval_width)
        if width == len(classes) and classes == list(range(width)):
            return joined
        columns = torch.tensor(classes, device=joined.device)
        return joined.new_full((len(joined), width), UNSEEN).index_copy(1, columns, joined)

    @property
    def rivals(self) -> list[list[int]]:
        """The classes, those together whose logits are ever compared: all of them."""
        return [self.classes]

    def rows(self) -> tuple[Tensor, Tensor]:
        """Copies of the weights (C, d) and biases (C,) of all heads, in the order of :attr:`classes`."""
        linears: list[Any] = list(self.heads)
        return torch.cat([h.weight.detach() for h in linears]), torch.cat([h.bias.detach() for h in linears])

    @torch.no_grad()
    def write(self, weights: Tensor, biases: Tensor) -> None:
        """The opposite of :meth:`rows`, in place."""
        sizes = [len(c) for c in self.head_classes]
        linears: list[Any] = list(self.heads)
        for head, weight, bias in zip(linears, weights.split(sizes), biases.split(sizes), strict=True):
            head.weight.copy_(weight)
            head.bias.copy_(bias)

    def resize(self, in_features: int) -> None:
        """From now on the heads are for features of another width. Those that exist start anew, at zero."""
        self.in_features = in_features
        for i, head in enumerate(self.heads):
            old: Any = head
            new = nn.Linear(in_features, old.out_features, device=old.weight.device, dtype=old.weight.dtype)
            for parameter in new.parameters():
                nn.init.zeros_(parameter).requires_grad_(old.weight.requires_grad)
            self.heads[i] = new

    def snapshot(self) -> list[Tensor]:
        """Copies of all weights and biases, for :meth:`restore`."""
        return [p.detach().clone() for p in self.heads.parameters()]

    @torch.no_grad()
    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Restore a snapshot in place. Heads added since then do not change."""
        for parameter, saved in zip(self.heads.parameters(), snapshot, strict=False):
            parameter.copy_(saved)

    def get_extra_state(self) -> dict[str, Any]:
        return {"head_classes": self.head_classes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.head_classes = [list(c) for c in state["head_classes"]]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        # A checkpoint may have more heads than a new model: add them first, so that loading is strict.
        saved = state_dict.get(prefix + "_extra_state", {"head_classes": []})["head_classes"]
        for classes in saved[len(self.heads) :]:
            self.add_head(classes)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


class ContinualModel(nn.Module, BaseModel):  # type: ignore[misc]
    """A backbone that returns one feature vector per image, with :class:`TaskHeads` on top.

    :param backbone: maps images (N, C, H, W) to features (N, d). A timm model is stripped of its classifier
        (``reset_classifier(0)``).
    :param in_features: d; by default a timm model's ``num_features``.
    :param init_std: see :class:`TaskHeads`.
    :param autocast: bfloat16 or float16 for the backbone's matrix products. Heads, and everything computed from
        features, stay in float32.
    :param keep_classifier: put the heads on the outputs of a classifier that the backbone still has.
    :raises ValueError: the backbone still has its classifier, or the width of its features is unknown.
    """

    def __init__(
        self,
        backbone: nn.Module,
        in_features: int | None = None,
        init_std: float = 0.02,
        freeze_earlier: bool = True,
        autocast: torch.dtype | None = None,
        keep_classifier: bool = False,
    ) -> None:
        super().__init__()
        classifier = find_classifier(backbone)
        reset_classifier: Any = getattr(backbone, "reset_classifier", None)
        if keep_classifier:
            in_features = in_features or getattr(classifier and classifier[1], "out_features", None)
        elif reset_classifier is not None:
            reset_classifier(0)
        elif classifier is not None and _is_named_as_one(*classifier):
            name, layer = classifier
            raise ValueError(
                f"{type(backbone).__name__} still has its classifier, {name} ({_sizes(layer)}), and the heads would be "
                f"put on its outputs: {_without(classifier)}; or leave the model as it is, because most plugins work "
                f"with a model's own classifier; or, if these outputs are the features, keep_classifier=True"
            )
        if in_features is None:
            in_features = getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features", None)
            if in_features is None:
                raise ValueError(
                    f"cannot tell the feature width of {type(backbone).__name__}: it has no num_features; "
                    f"pass in_features"
                )
        self.backbone = backbone
        self.autocast = autocast
        self.extension: nn.Module | None = None
        self.heads = TaskHeads(int(in_features), init_std, freeze_earlier)

    def extend(self, extension: nn.Module, width: int) -> None:
        """From now on the model's features are ``extension(features, images)`` (N, width) of the backbone's.

        The heads that exist start anew, at zero: their features are others now. The parameters of the backbone keep
        their names. The extension is moved to the backbone's device.

        :raises ValueError: the model has an extension already.
        """
        if self.extension is not None:
            raise ValueError(
                f"the model's features go through {type(self.extension).__name__} already, and "
                f"{type(extension).__name__} would be the second: use one of them, or another ContinualModel"
            )
        self.extension = extension.to(self.heads.group_anchor.device)
        self.heads.resize(width)

    def features(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to features (N, d), those of the extension if there is one."""
        if self.autocast:
            with torch.autocast(images.device.type, self.autocast):
                features = self.backbone(images).float()
        else:
            features = self.backbone(images)
        if self.extension is not None:
            features = self.extension(features, images)
        if features.ndim != 2 or features.shape[1] != self.heads.in_features:
            raise ValueError(
                f"the backbone returned features of shape {tuple(features.shape)}, expected (N, "
                f"{self.heads.in_features}): "
                "pass in_features, or a backbone that pools its output"
            )
        return features

    def get_features(self, x: Tensor) -> Tensor:
        """The same as :meth:`features`, under the name that Avalanche's ``BaseModel`` has for it."""
        return self.features(x)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, C, H, W) to logits (N, largest class id + 1)."""
        logits: Tensor = self.heads(self.features(images))
        return logits


def find_classifier(model: nn.Module) -> tuple[str, nn.Module] | None:
    """Name and module of the layer that makes logits of features, by the structure of the model alone.

    It is the only :class:`TaskHeads`, ``IncrementalClassifier`` or ``MultiHeadClassifier``; else what a timm model's
    ``get_classifier`` returns, or the last layer, if it is an ``nn.Linear``. ``None`` if there is none, or several.
    """
    model = unwrap(model)
    kinds = (TaskHeads, IncrementalClassifier, MultiHeadClassifier)
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]
    outermost = [(n, m) for n, m in found if not any(m is not other and m in other.modules() for _, other in found)]
    if outermost:
        return outermost[0] if len(outermost) == 1 else None
    inside = model
    while not isinstance(inside, nn.Sequential) and len(children := _trainable_children(inside)) == 1:
        inside = children[0]  # a model around a model
    linear = _last_linear(inside)
    return None if linear is None else (next(name for name, m in model.named_modules() if m is linear), linear)


def _last_linear(module: nn.Module) -> nn.Linear | None:
    if isinstance(module, nn.Linear):
        return module
    get_classifier: Any = getattr(module, "get_classifier", None)
    if get_classifier is not None:
        classifier = get_classifier()
        return classifier if isinstance(classifier, nn.Linear) else None
    children = _trainable_children(module)
    if isinstance(module, nn.Sequential):
        return _last_linear(children[-1]) if children else None
    # of another module, only what ends in such a layer by all appearances: not a layer with a linear map inside
    is_model = len(children) > 1 and isinstance(children[-1], (nn.Linear, nn.Sequential))
    return _last_linear(children[-1]) if is_model else None


def _trainable_children(module: nn.Module) -> list[nn.Module]:
    return [child for child in module.children() if next(child.parameters(), None) is not None]


def _is_named_as_one(name: str, layer: nn.Module) -> bool:
    """Whether the last layer of a backbone is a classifier and not a projection of the features."""
    return not isinstance(layer, nn.Linear) or bool(CLASSIFIER_NAMES & set(name.split(".")))


def _sizes(layer: nn.Module) -> str:
    sizes = f", {layer.in_features} to {layer.out_features}" if isinstance(layer, nn.Linear) else ""
    return type(layer).__name__ + sizes


def _without(classifier: tuple[str, nn.Module]) -> str:
    name, layer = classifier
    width = getattr(layer, "in_features", None) or "their width"
    return (
        f"put nn.Identity() in the place of {name} (in a timm model, reset_classifier(0)) and pass in_features={width}"
    )


def require_continual_model(model: nn.Module, who: str) -> ContinualModel:
    """The model, or the one inside what :func:`unwrap` removes, checked to be a :class:`ContinualModel`.

    :param who: what needs it, for the message.
    :raises TypeError: it is another kind of model. The message says how to wrap it.
    """
    model = unwrap(model)
    if not isinstance(model, ContinualModel):
        classifier = None if hasattr(model, "reset_classifier") else find_classifier(model)
        first = f"{_without(classifier)}, and " if classifier else ""
        raise TypeError(
            f"{who} needs a backbone with heads of its own, got {type(model).__name__}: {first}wrap it, "
            f"ContinualModel(backbone)"
        )
    return model
