"""Choosing the best epoch of each experience by its accuracy on held-out images, instead of taking the last.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from .features import extract_logits
from .runs import classes_of


class BestEpoch(SupervisedPlugin[Any]):
    """After each experience, restores the weights of its best epoch on held-out images,
    which OLOR's code saves first (F14).

    After each epoch it measures the accuracy of the online model in eval mode, over all classes seen, on the held-out
    images of the experience. Ties go to the earlier epoch. It restores ``model.state_dict()``, in place. State kept
    elsewhere (the optimizer's, LAE's second expert) stays as the last epoch left it. Module modes and torch's global
    generator do not change.

    List it before plugins that use the trained model: EWC, LwF. Alignment and averages come after it in any order.

    The model may be any one.

    :param validation: experiences with the held-out images; ``validation[t]`` has the classes of experience t, under
        the same labels.
    :raises ValueError: before training, the two experiences have different classes, or there are no held-out images.
    """

    place = -1

    def __init__(self, validation: Sequence[Any]) -> None:
        super().__init__()
        self.validation = validation
        self.accuracies: list[float] = []
        """In percent, of each epoch of the last experience trained on."""
        self._best: dict[str, Any] = {}

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        t = strategy.experience.current_experience
        if t >= len(self.validation) or not len(self.validation[t].dataset):
            raise ValueError(
                f"experience {t} has no held-out images, and validation has {len(self.validation)} experiences: "
                f"give it one for each experience of the stream"
            )
        trained, held_out = (classes_of(e) for e in (strategy.experience, self.validation[t]))
        if trained != held_out:
            raise ValueError(
                f"experience {t} has the classes {trained}, its held-out images have {held_out}: "
                f"use the same class order for both streams"
            )
        self.accuracies, self._best = [], {}

    @torch.no_grad()
    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        held_out = self.validation[strategy.experience.current_experience].dataset.eval()
        workers = kwargs.get("num_workers", 0)
        logits, targets = extract_logits(strategy.model, held_out, strategy.eval_mb_size, strategy.device, workers)
        accuracy = 100 * float((logits.argmax(dim=1) == targets).double().mean())
        if accuracy > max(self.accuracies, default=-1.0):
            self._best = copy.deepcopy(strategy.model.state_dict())
        self.accuracies.append(accuracy)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._best:
            strategy.model.load_state_dict(_grown(self._best, strategy.model.state_dict()))
            self._best = {}


def _grown(saved: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """A saved state in the shapes of the present one. Avalanche's classifiers grow when other classes are evaluated."""
    states = {**now}
    for name, tensor in saved.items():
        if isinstance(tensor, torch.Tensor) and name in now and tensor.shape != now[name].shape:
            states[name] = now[name].clone()
            states[name][tuple(slice(n) for n in tensor.shape)] = tensor
        else:
            states[name] = tensor
    return states
