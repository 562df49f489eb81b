"""LAE, Learning-Accumulation-Ensemble (Gao et al., ICCV 2023, arXiv 2303.10070):
the framework in which aEPG's paper compares losses.

The PEFT modules of a model are the online expert. From the second experience on, the offline expert is a slow copy of
them. Both share backbone and heads. Both predict, and the larger of a class's two probabilities counts
(:func:`combine`).

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn
from torch.nn import functional as F

from .parts import parts_of, trained_classes
from .peft_module import peft_modules, peft_parameters
from .runs import Owner, classes_of, experiences_before, require_lasting
from .wrappers import unwrap


def combine(online_logits: Tensor, offline_logits: Tensor) -> Tensor:
    """Logits (N, C) of the two experts to scores (N, C):
    the elementwise maximum of their log-softmaxes over all C classes.

    The logarithm is monotone, so the argmax is that of the maximum of the two softmaxes, which is LAE's prediction. The
    scores are unnormalised log-probabilities, at least float32, and finite even where a logit marks a class as unseen.

    :raises ValueError: the shapes are others.
    """
    if online_logits.ndim != 2 or online_logits.shape != offline_logits.shape:
        shapes = f"{tuple(online_logits.shape)} and {tuple(offline_logits.shape)}"
        raise ValueError(
            f"expected two tensors of logits of one shape (N, C), got {shapes}: both experts take the same images"
        )
    dtype = torch.promote_types(online_logits.dtype, torch.float32)
    return torch.maximum(
        F.log_softmax(online_logits, dim=1, dtype=dtype), F.log_softmax(offline_logits, dim=1, dtype=dtype)
    )


class LAE(SupervisedPlugin[Any]):
    """Keeps the offline expert and adds its prediction.

    For a strategy on any model with PEFT modules::

        attach_lora(model)
        Naive(model=model, ..., criterion=TaskCrossEntropy(), plugins=[PEFTSchedule(30), LAE()])

    The copy is made when training starts on the second experience, and never again. The second one it is by the
    strategy's clock or by its number in the stream, or if the model already has heads, none of them for a class of this
    experience: weights from elsewhere were loaded.
    After every optimizer step from then on, including steps with frozen modules, offline <- decay * offline + (1 -
    decay) * online.

    In evaluation, once there is a copy, a second forward pass follows, and ``strategy.mb_output`` becomes the result of
    :func:`combine`. These are unnormalised log-probabilities: a criterion that begins with a softmax, as all here do,
    sees the maximum of the two softmaxes divided by its sum. Training uses only the online expert, and so does
    classifier alignment: its aligned heads fit the online features, and the offline expert uses them, too.

    The copy belongs to the strategy and its model. With another strategy on another model it has no vote, and training
    starts without it.

    :param decay: of the exponential moving average, in [0, 1]: 0.999 in aEPG's paper, 0.9999 in LAE's configuration
        (F18). 1 never changes the copy, 0 is the online expert only.
    :raises ValueError: ``decay`` is out of its range; before training, the model has no PEFT modules; while training or
        evaluating, they are not those that were copied.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        self.decay = decay
        self._offline: list[Tensor] = []
        self._owner = Owner()
        self._has_earlier_heads = False

    @property
    def bytes_kept(self) -> int:
        """Bytes of the offline expert, 0 until there is one."""
        return sum(t.nbytes for t in self._offline)

    @contextmanager
    def offline(self, model: nn.Module) -> Iterator[None]:
        """A context in which the model's PEFT modules hold the offline expert's values and no gradients are recorded.

        For predicting without Avalanche, with the model in eval mode::

            logits = model(images)
            with lae.offline(model):
                predictions = combine(logits, model(images)).argmax(dim=1)

        Before there is an offline expert, this changes nothing: the same code predicts what the online expert does.

        :raises ValueError: the model's PEFT modules are not those that were copied.
        """
        modules = self._parameters(model) if self._offline else []
        with torch.no_grad():
            online = [p.clone() for p in modules]
            try:
                _write(modules, self._offline)
                yield
            finally:
                _write(modules, online)

    def before_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        # here the model has no head yet for the classes of this experience
        trained = trained_classes(parts_of(strategy.model, "LAE").classifier) or set()
        self._has_earlier_heads = bool(trained) and trained.isdisjoint(classes_of(strategy.experience))

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        model = strategy.model
        if not peft_modules(model):
            raise ValueError(
                "LAE needs PEFT modules in the model, which has none: attach some first, attach_lora(model, ...)"
            )
        require_lasting(unwrap(model), "LAE")
        if self._owner.changes_to(strategy, strategy.model):
            self._offline = []
        if self._offline:
            # the model may be on another device now
            self._offline = [copy.to(p.device) for copy, p in zip(self._offline, self._parameters(model), strict=True)]
        elif self._has_earlier_heads or experiences_before(strategy) > 0:
            # in half precision a step of 1 - decay would be rounded away
            self._offline = [
                p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for p in peft_parameters(model)
            ]

    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._offline:
            online = [
                p.detach().to(copy.dtype)
                for copy, p in zip(self._offline, self._parameters(strategy.model), strict=True)
            ]
            torch._foreach_lerp_(self._offline, online, 1 - self.decay)

    def after_eval_forward(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self._offline and not self._owner.is_another(strategy, strategy.model):
            with self.offline(strategy.model):
                strategy.mb_output = combine(strategy.mb_output, strategy.forward())

    def _parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """The parameters of the online expert, checked against those that were copied."""
        parameters = list(peft_parameters(model))
        if [p.shape for p in parameters] != [copy.shape for copy in self._offline]:
            raise ValueError(
                f"the model's PEFT modules have changed since LAE copied them: {len(self._offline)} tensors then, "
                f"{len(parameters)} now, "
                "or of other shapes: attach all modules before the second experience, and leave them in the model"
            )
        return parameters


def _write(parameters: list[nn.Parameter], values: list[Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
    # autocast caches low-precision copies of parameters and does not notice that these have changed
    torch.clear_autocast_cache()
