"""Weights that are averaged for prediction while training goes on from its own: WiSE-FT's interpolation with the
pretrained ones (Wortsman et al., CVPR 2022, arXiv 2109.01903), and an exponential average over the steps of training.

Both are written into the model after an experience. Classifier alignment and heads in closed form see the averaged
weights, Avalanche's EWC and LwF those of training, wherever they are listed, and so does evaluation within an
experience. Before the next experience the weights of training are put back: averages never feed back into training. The
papers have one experience; what becomes of them in a stream is Reclaim's own choice.
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from .checks import require_fraction
from .features import require_used
from .parts import parts_of
from .runs import Owner, require_lasting, starts_over, take_place
from .wrappers import unwrap


class _Averaging(SupervisedPlugin[Any]):
    """Writes other weights into the model after each experience, and puts those of training back before the next one.

    Weights are known by their names, so what replaces a model's parameters, as a classifier that grows does, keeps
    its averages.
    """

    place = 1

    def __init__(self) -> None:
        super().__init__()
        self._trained: dict[str, Tensor] = {}  # the weights of training, while the model has others
        self._owner = Owner()

    def _forget(self) -> None:
        """Drop the state of another strategy with another model."""
        self._trained = {}

    def _averages(self, model: nn.Module) -> dict[str, Tensor]:
        """Name -> what to predict with, in the shapes of the model's parameters."""
        raise NotImplementedError

    def before_training(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        take_place(self, strategy)

    def after_train_dataset_adaptation(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        # after alignment has put back its heads, before any plugin looks at the weights and before the model grows
        if self._owner.changes_to(strategy, strategy.model):
            self._forget()
        if not starts_over(strategy):
            self._write(strategy.model, self._trained)
        self._trained = {}

    def after_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        averages = self._averages(strategy.model)
        named = dict(unwrap(strategy.model).named_parameters())
        self._trained = {name: named[name].detach().clone() for name in averages}
        self._write(strategy.model, averages)

    @staticmethod
    @torch.no_grad()
    def _write(model: nn.Module, values: dict[str, Tensor]) -> None:
        named = dict(unwrap(model).named_parameters())
        for name, value in values.items():
            if name in named and _fits(value, named[name]):
                named[name].copy_(_fitted(value, named[name]))


def _fits(value: Tensor, parameter: Tensor) -> bool:
    """Whether it is the same parameter, which may have grown; heads of another width of features are new ones."""
    return value.shape[1:] == parameter.shape[1:] and len(value) <= len(parameter) if value.ndim else True


def _fitted(value: Tensor, parameter: Tensor) -> Tensor:
    """``value`` in the shape of the parameter, whose own values fill what a classifier has grown since."""
    if value.shape == parameter.shape:
        return value
    grown = parameter.detach().to(value.dtype, copy=True)
    grown[tuple(slice(n) for n in value.shape)] = value
    return grown


class WiSEFT(_Averaging):
    """WiSE-FT: predicts with theta_0 + alpha (theta - theta_0), an interpolation of the pretrained weights and the
    fine-tuned ones (Wortsman et al., 2022, equation 1).

    theta_0 is the backbone at the start of the first experience, theta the one after the experience. Heads are not
    interpolated: the paper's have a zero-shot counterpart, these are new. Neither are buffers, such as batch
    statistics. In a stream, training goes on from the fine-tuned weights, and each experience is interpolated towards
    the same theta_0. With another strategy and another model, theta_0 is taken anew.

    :param alpha: in [0, 1]: 1 is fine-tuning alone, 0 the pretrained backbone under the trained heads.
    :raises ValueError: alpha is out of its range; after training, a parameter of theta_0 has another shape, or is
        missing.
    """

    def __init__(self, alpha: float = 0.5) -> None:
        super().__init__()
        require_fraction(alpha=alpha)
        self.alpha = alpha
        self._theta_0: dict[str, Tensor] = {}

    @property
    def bytes_kept(self) -> int:
        """Bytes of theta_0, and of the fine-tuned weights while the model has the interpolated ones."""
        return sum(t.nbytes for t in (*self._theta_0.values(), *self._trained.values()))

    def _forget(self) -> None:
        super()._forget()
        self._theta_0 = {}

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if not self._theta_0:
            require_used(strategy, "WiSEFT")
            parameters = parts_of(strategy.model, "WiSEFT").backbone_parameters()
            self._theta_0 = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def _averages(self, model: nn.Module) -> dict[str, Tensor]:
        parameters = parts_of(model, "WiSEFT").backbone_parameters()
        for name, start in self._theta_0.items():
            have = tuple(parameters[name].shape) if name in parameters else None
            if have != tuple(start.shape):
                raise ValueError(
                    f"WiSEFT interpolates {name} with a value of shape {tuple(start.shape)}, but in the model it now "
                    f"{'is missing' if have is None else f'has {have}'}: make a new WiSEFT for another backbone"
                )
        self._theta_0 = {name: start.to(parameters[name].device) for name, start in self._theta_0.items()}
        return {name: start.lerp(parameters[name], self.alpha) for name, start in self._theta_0.items()}


class WeightAverage(_Averaging):
    """Predicts with an exponential average of all trained weights, heads included:
    average <- decay * average + (1 - decay) * theta after each step.

    The average of a weight begins with its value after the first step that trains it, and goes on over experiences. A
    weight that is not trained at a step, as of a frozen head, keeps its average. Buffers, such as batch statistics, are
    those of training. With another strategy and another model it begins anew.

    ``torch.optim.swa_utils.AveragedModel`` averages a copy of the whole model: that one does not get the heads that
    later experiences add, and does not pickle.

    :param decay: in [0, 1): 0 is training without an average; an average is over some 1 / (1 - decay) steps.
    :raises ValueError: decay is out of its range; before training, the model has PEFT modules that begin anew in each
        experience.
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}: at 1 the average would never move")
        self.decay = decay
        self._average: dict[str, Tensor] = {}

    @property
    def bytes_kept(self) -> int:
        """Bytes of the averages, and of the weights of training while the model has the averages."""
        return sum(t.nbytes for t in (*self._average.values(), *self._trained.values()))

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        require_lasting(unwrap(strategy.model), "WeightAverage")

    def _forget(self) -> None:
        super()._forget()
        self._average = {}

    @torch.no_grad()
    def after_update(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        averages, values = [], []
        for name, p in unwrap(strategy.model).named_parameters():
            if p.requires_grad and p.grad is not None:
                # in half precision a step of 1 - decay would be rounded away
                value = p.detach().to(torch.promote_types(p.dtype, torch.float32))
                average = self._average.get(name)
                begins = average is None or not _fits(average, value)
                average = value.clone() if average is None or begins else _fitted(average.to(value.device), value)
                self._average[name] = average
                averages.append(average)
                values.append(value)
        if averages:
            torch._foreach_lerp_(averages, values, 1 - self.decay)

    def _averages(self, model: nn.Module) -> dict[str, Tensor]:
        named = dict(unwrap(model).named_parameters())
        return {
            name: _fitted(average, named[name])
            for name, average in self._average.items()
            if name in named and _fits(average, named[name])
        }
