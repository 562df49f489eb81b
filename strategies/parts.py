"""The parts of any model that plugins need: the features of a batch, the classifier, and the rest, the backbone.

A :class:`~reclaim.strategies.heads.ContinualModel` has them by name. Of another model the classifier is Avalanche's
``IncrementalClassifier`` or ``MultiHeadClassifier``, or a last ``nn.Linear``
(:func:`~reclaim.strategies.heads.find_classifier`). Its features are what the classifier is given: so they are right
whatever the model does before, and ``get_features`` is not needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from avalanche.models import IncrementalClassifier, MultiHeadClassifier
from avalanche.models.utils import avalanche_forward
from torch import Tensor, nn

from .heads import ContinualModel, TaskHeads, find_classifier
from .wrappers import unwrap


class ClassifierRows:
    """The rows of a model's own classifier in place of :class:`~reclaim.strategies.heads.TaskHeads`.

    :param classifier: an ``nn.Linear``, ``IncrementalClassifier`` or ``MultiHeadClassifier``.
    :param tasks: the classes (ids) that each experience brought. Other rows are left alone.
    """

    def __init__(self, classifier: nn.Module, tasks: Iterable[Sequence[int]]) -> None:
        self.classifier = classifier
        self.head_classes = [list(classes) for classes in tasks if classes]

    @property
    def classes(self) -> list[int]:
        """Ids of all classes, in the order of :meth:`rows`."""
        return [c for classes in self.head_classes for c in classes]

    @property
    def rivals(self) -> list[list[int]]:
        """The classes, those together whose logits are ever compared: of a ``MultiHeadClassifier`` those of a task."""
        if not isinstance(self.classifier, MultiHeadClassifier):
            return [self.classes]
        linear_of = {c: linear for c, linear in self._linears()}
        layers = dict.fromkeys(linear_of.values())
        return [[c for c in self.classes if linear_of[c] is linear] for linear in layers]

    def rows(self) -> tuple[Tensor, Tensor]:
        """Copies of the weights (C, d) and biases (C,)."""
        weights, biases = zip(*((linear.weight[c], linear.bias[c]) for c, linear in self._linears()), strict=True)
        return torch.stack(weights).detach(), torch.stack(biases).detach()

    @torch.no_grad()
    def write(self, weights: Tensor, biases: Tensor) -> None:
        """The opposite of :meth:`rows`, in place."""
        for (c, linear), weight, bias in zip(self._linears(), weights, biases, strict=True):
            linear.weight[c].copy_(weight)
            linear.bias[c].copy_(bias)

    def snapshot(self) -> list[Tensor]:
        """Copies of all weights and biases, for :meth:`restore`."""
        return [p.detach().clone() for p in self._all()]

    @torch.no_grad()
    def restore(self, snapshot: Sequence[Tensor]) -> None:
        """Restore a snapshot in place. Rows and heads added since then do not change."""
        for parameter, saved in zip(self._all(), snapshot, strict=False):
            parameter[: len(saved)].copy_(saved)

    def _linears(self) -> list[tuple[int, Any]]:
        """Each class with the layer that has its row."""
        classifier: Any = self.classifier
        if not isinstance(classifier, MultiHeadClassifier):
            layer = getattr(classifier, "classifier", classifier)
            return [(c, layer) for c in self.classes]
        layers = {c: classifier.classifiers[task].classifier for task, own in _trained_by_task(classifier) for c in own}
        return [(c, layers[c]) for c in self.classes]

    def _all(self) -> list[Tensor]:
        # new heads come last
        return [p for m in self.classifier.modules() if isinstance(m, nn.Linear) for p in (m.weight, m.bias)]


Heads = TaskHeads | ClassifierRows


@dataclass(frozen=True)
class Parts:
    """A model without its wrappers, and its classifier. Make it with :func:`parts_of`."""

    model: nn.Module
    classifier: nn.Module

    def features(self, images: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """Images (N, ...) to features (N, d).

        :param task_labels: (N,), for Avalanche's multi-task models only.
        :raises ValueError: the model does not call its classifier once on a matrix.
        """
        if isinstance(self.model, ContinualModel):
            return self.model.features(images)
        return self._forward(images, task_labels)[0]

    def check(self, images: Tensor, task_labels: Tensor | None = None) -> Tensor:
        """As :meth:`features`, but also checks that the model's output is that of its classifier.

        :raises ValueError: it is not.
        """
        if isinstance(self.model, ContinualModel):
            return self.model.features(images)
        features, logits, output = self._forward(images, task_labels)
        if not (
            isinstance(output, Tensor)
            and output.shape == logits.shape
            and torch.equal(output.nan_to_num(), logits.nan_to_num())
        ):
            raise ValueError(
                f"the output of {type(self.model).__name__} is not that of its classifier, "
                f"{type(self.classifier).__name__}: let the model end in the classifier, without a softmax or anything "
                f"else behind it"
            )
        return features

    def _forward(self, images: Tensor, task_labels: Tensor | None) -> tuple[Tensor, Tensor, Any]:
        calls: list[tuple[Any, Any]] = []
        handle = self.classifier.register_forward_hook(lambda _, inputs, output: calls.append((inputs, output)))
        try:
            output = avalanche_forward(self.model, images, task_labels)
        finally:
            handle.remove()
        inputs = calls[0][0] if len(calls) == 1 else ()
        if not inputs or not isinstance(inputs[0], Tensor) or inputs[0].ndim != 2:
            given = [tuple(getattr(x, "shape", ())) for inputs, _ in calls for x in inputs[:1]]
            raise ValueError(
                f"{type(self.model).__name__} must call its classifier, {type(self.classifier).__name__}, once, on "
                f"features (N, d), but the classifier was given {given or 'nothing'}"
            )
        return inputs[0], calls[0][1], output

    def heads(self, tasks: Iterable[Sequence[int]]) -> Heads:
        """What to read, align and write: the :class:`~reclaim.strategies.heads.TaskHeads`, or the rows of a classifier.

        :param tasks: the classes that each experience brought; ``TaskHeads`` know theirs.
        """
        self._require_plain("alignment")
        return self.classifier if isinstance(self.classifier, TaskHeads) else ClassifierRows(self.classifier, tasks)

    def require_classes(self, classes: Iterable[int], who: str, alone: bool = False) -> None:
        """Check, once the model is adapted to an experience, that it has a row for each class, and has learned no
        others.

        :param classes: with statistics, and of the experience.
        :param alone: no row of another class may compete with theirs, either.
        :raises ValueError: it is not so.
        """
        self._require_plain(who)
        expected, layer = set(classes), type(self.classifier).__name__
        known = trained_classes(self.classifier)
        if known is not None:
            require_same_classes(known, expected, who)
            return
        rows = int(getattr(self.classifier, "classifier", self.classifier).out_features)  # type: ignore[arg-type]
        if max(expected, default=0) >= rows:
            raise ValueError(
                f"class {max(expected)} has no row in the {layer} of {type(self.model).__name__}, which has {rows}: "
                f"make it wider, or use Avalanche's IncrementalClassifier"
            )
        if alone and len(expected) < rows:
            raise ValueError(
                f"{who} writes the rows of the classes seen, {sorted(expected)}, and the other rows of the {layer}, "
                f"which has {rows}, would compete with them: use Avalanche's IncrementalClassifier(masking=True), or a "
                f"ContinualModel"
            )

    def _require_plain(self, who: str) -> None:
        """:raises ValueError: a linear layer of the classifier is not W x + b of its own weights: a cosine classifier,
        or one whose weight is computed of others.
        """
        for layer in self.classifier.modules():
            if isinstance(layer, nn.Linear) and (
                type(layer).forward is not nn.Linear.forward or "weight" not in layer._parameters
            ):
                raise ValueError(
                    f"{who} reads and writes the weights of a classifier W x + b, and {type(layer).__name__} of "
                    f"{type(self.model).__name__} computes something else, or W of other tensors: use a plain "
                    f"nn.Linear, or ContinualModel(backbone)"
                )

    def backbone_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, of all but the classifier's."""
        of_classifier = set(self.classifier.parameters())
        return {name: p for name, p in self.model.named_parameters() if p not in of_classifier}

    def eval_backbone(self) -> None:
        """Put all modules but the classifier into eval mode."""
        of_classifier = set(self.classifier.modules())
        for module in self.model.modules():
            if module not in of_classifier:
                module.training = False


def parts_of(model: nn.Module, who: str) -> Parts:
    """The parts of a model, in ``DataParallel`` or compiled or not.

    :param who: what needs them, for the message.
    :raises TypeError: no classifier is found in it.
    :raises ValueError: the classifier has no bias, or does not tell which classes it has learned.
    """
    model = unwrap(model)
    found = find_classifier(model)
    if found is None or found[1] is model:
        raise TypeError(
            f"{who} needs a backbone with a classifier, and {type(model).__name__} has none that can be told from the "
            f"backbone, or several: wrap a backbone without one, ContinualModel(backbone), or let the model end in "
            f"Avalanche's IncrementalClassifier or in an nn.Linear"
        )
    name, classifier = found
    linears = [m for m in classifier.modules() if isinstance(m, nn.Linear)]
    if any(linear.bias is None for linear in linears):
        raise ValueError(f"{who} needs a classifier with a bias: {name} of {type(model).__name__} has none")
    if isinstance(classifier, MultiHeadClassifier) and not classifier.masking:
        raise ValueError(
            f"{who} cannot tell which classes each head of {name} has learned: make MultiHeadClassifier(masking=True)"
        )
    return Parts(model, classifier)


def trained_classes(classifier: nn.Module) -> set[int] | None:
    """The classes that a classifier has been adapted to in training; ``None`` if it does not keep them.

    :raises ValueError: heads of several tasks have the same class.
    """
    if isinstance(classifier, TaskHeads):
        return set(classifier.classes)
    if isinstance(classifier, IncrementalClassifier):
        return set(classifier.active_units.nonzero().flatten().tolist()) if classifier.masking else None
    if isinstance(classifier, MultiHeadClassifier):
        classes = [c for _, own in _trained_by_task(classifier) for c in own]
        if len(set(classes)) < len(classes):
            twice = sorted({c for c in classes if classes.count(c) > 1})
            raise ValueError(
                f"the classes {twice} are in the heads of several tasks: give each class an id of its own "
                f"(class_ids_from_zero_in_each_exp=False)"
            )
        return set(classes)
    return None


def _trained_by_task(classifier: Any) -> list[tuple[str, list[int]]]:
    return [(str(task), classes) for task, classes in sorted(classifier.active_units.items())]


def require_same_classes(with_head: Iterable[int], with_statistics: Iterable[int], who: str) -> None:
    """:raises ValueError: some classes have a head but no statistics, or the other way round."""
    first, second = sorted(with_head), sorted(with_statistics)
    if first != second:
        raise ValueError(
            f"classes with a head {first} and classes with statistics {second} differ: {who} has to see every "
            f"experience, from the first on: use the plugin that has, which can be pickled"
        )
