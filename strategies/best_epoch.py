"""The best epoch instead of the last one, by images that are not trained on."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin

from .features import extract_features
from .heads import require_continual_model


class BestEpoch(SupervisedPlugin[Any]):
    """After each experience puts back the weights of its epoch that was best on held-out images: what OLOR's code saves first (F14).

    After each epoch it takes the accuracy of the online model in eval mode, over all classes seen, on the held-out images of the
    experience; of equal epochs the first counts. What is put back is ``model.state_dict()``, in place; what others keep besides (the
    optimizer's state, LAE's second expert) stays as the last epoch left it. Modes and torch's global generator are not touched.

    List it before whatever works on the trained model: EWC, LwF, classifier alignment.

    :param validation: experiences whose images are held out; ``validation[t]`` has the classes of experience t, under the same labels.
    :raises ValueError: while training, the two experiences are of different classes.
    :raises TypeError: while training, a model that is not a :class:`~reclaim.strategies.heads.ContinualModel`.
    """

    def __init__(self, validation: Sequence[Any]) -> None:
        super().__init__()
        self.validation = validation
        self.accuracies: list[float] = []
        """In percent, of the epochs of the experience trained on last."""
        self._best: dict[str, Any] = {}

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        t = strategy.experience.current_experience
        trained, held_out = (sorted(set(e.classes_in_this_experience)) for e in (strategy.experience, self.validation[t]))
        if trained != held_out:
            raise ValueError(
                f"experience {t} brings the classes {trained}, its held-out images are of {held_out}: make both streams in one class order"
            )
        self.accuracies, self._best = [], {}

    @torch.no_grad()
    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        model = require_continual_model(strategy.model, "BestEpoch")
        held_out = self.validation[strategy.experience.current_experience].dataset.eval()
        workers = kwargs.get("num_workers", 0)
        features, targets = extract_features(model, held_out, strategy.eval_mb_size, strategy.device, workers)
        predicted = model.heads(features.to(model.heads.group_anchor)).argmax(dim=1).cpu()
        accuracy = 100 * float((predicted == targets).double().mean())
        if accuracy > max(self.accuracies, default=-1.0):
            self._best = copy.deepcopy(model.state_dict())
        self.accuracies.append(accuracy)

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._best:
            strategy.model.load_state_dict(self._best)
            self._best = {}
