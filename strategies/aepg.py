"""Expected policy gradient (EPG) and its annealing from cross-entropy, aEPG (arXiv 2602.14078).

Classification is seen as a one-step decision: the policy is the softmax p of the logits, the reward is 1 for the true
label y, and the expected reward is J = E[p_y]. The gradient of -p_y in the logits is p_y (p - onehot(y)), which is p_y
times that of cross-entropy. So samples that the model gets badly wrong hardly count, and the entropy of the predictions
falls. aEPG starts with cross-entropy, which does learn from such samples, and ends with EPG.

The formulas are functions in :mod:`~reclaim.strategies.losses`, which need torch only. The classes here are criteria
for Avalanche.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, Literal

from avalanche.training.supervised import JointTraining
from torch import Tensor

from .losses import SCHEDULES, annealed_epg_loss, annealing_weight, epg_loss
from .runs import Owner, is_online
from .task_loss import TaskLoss


class EPGLoss(TaskLoss):
    """Expected policy gradient: the mean of -p_y, a number in [-1, 0].

    In Avalanche it sees only the current experience's classes (:class:`~reclaim.strategies.task_loss.TaskLoss`);
    elsewhere it is a plain criterion. Half-precision logits are converted to float32, and the loss is float32. In a
    task with a single class p_y is 1 and the gradient 0, as with cross-entropy.
    """

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return epg_loss(logits, targets)


class AnnealedEPGLoss(TaskLoss):
    """Annealed EPG: the mean of alpha_t CE + (1 - alpha_t) EPG, with alpha falling from (nearly) 1 to
    (nearly) 0 over T optimizer steps.

    In evaluation, Avalanche's or after ``loss.eval()``, it is cross-entropy. With an alpha that anneals, a validation
    loss would fall by the annealing alone, and mislead early stopping and schedules such as ``ReduceLROnPlateau``. The
    training loss does fall so: stop and schedule by a validation loss or accuracy. With a constant alpha the loss is
    the same in evaluation.

    As the criterion of an Avalanche strategy it counts t and T itself. Elsewhere pass ``total_steps``, call
    :meth:`step` after every optimizer step, and call :meth:`restart` at the start of every later task::

        loss = AnnealedEPGLoss(total_steps=epochs * len(loader))
        for images, targets in batches:
            loss(model(images), targets).backward()
            optimizer.step()
            loss.step()

    :param schedule: "sigmoid", the paper's: alpha_t = sigmoid(tau (T - 2t) / T). From its ablation "linear": (T - t) /
        T, "cosine": 1/2 + 1/2 cos(pi t / T), or a constant alpha in [0, 1].
    :param tau: steepness of the sigmoid.
    :param horizon: what T counts in Avalanche (F22). "task": the optimizer steps of the current experience (epochs x
        minibatches, including epochs with frozen modules); t starts from 0 in each experience. "stream": the steps of
        the whole stream that the experience comes from; t is not reset. Future experiences are counted by their own
        data. Samples of a replay buffer count only once they are in the buffer. At experience 0 of a stream, and in
        another strategy on another model, t starts from 0. In an online stream a "task" is all parts of a task where
        the stream gives access to its boundaries, and otherwise each part: alpha then hardly falls, which a warning
        says, and the horizon should be the stream. If each delivery is a benchmark of its own, pass ``total_steps`` of
        all of them.
    :param total_steps: T. In Avalanche it replaces the count. With horizon "stream", t then goes on from one stream to
        the next, until :meth:`restart`.
    :param restrict: see :class:`~reclaim.strategies.task_loss.TaskLoss`.
    :raises ValueError: an option is unknown or out of its range.
    """

    def __init__(
        self,
        schedule: Literal["sigmoid", "linear", "cosine"] | float = "sigmoid",
        tau: float = 6.0,
        horizon: Literal["task", "stream"] = "task",
        total_steps: int | None = None,
        restrict: bool = True,
    ) -> None:
        super().__init__(restrict)
        if isinstance(schedule, str):
            if schedule not in SCHEDULES:
                raise ValueError(
                    f"schedule must be one of {', '.join(SCHEDULES)}, or a constant alpha in [0, 1], got {schedule!r}"
                )
        elif not 0 <= schedule <= 1:
            raise ValueError(f"a constant alpha must be in [0, 1], got schedule={schedule}")
        if not (math.isfinite(tau) and tau > 0):
            raise ValueError(f"tau must be positive and finite, got {tau}")
        if horizon not in ("task", "stream"):
            raise ValueError(f"horizon must be 'task' or 'stream', got {horizon!r}")
        self.schedule = schedule
        self.tau = tau
        self.horizon = horizon
        self.t = 0
        self.total_steps: int | None = None
        self._count_steps = total_steps is None
        self._owner = Owner()
        if total_steps is not None:
            self.restart(total_steps)

    @property
    def alpha(self) -> float:
        """Weight of cross-entropy at the current step t. After t = T it keeps its last value.

        :raises RuntimeError: T is unknown.
        """
        if not isinstance(self.schedule, str):
            return float(self.schedule)
        if self.total_steps is not None:
            # without any step (no epochs, or no full batch) it stays at the start
            progress = min(self.t / max(self.total_steps, 1), 1.0)
        else:
            raise RuntimeError(
                "the number T of training steps is unknown: pass AnnealedEPGLoss(total_steps=...), "
                "or make the loss the criterion of an Avalanche strategy"
            )
        return annealing_weight(progress, self.schedule, self.tau)

    def step(self) -> None:
        """Advance t by one optimizer step."""
        self.t += 1

    def restart(self, total_steps: int | None = None) -> None:
        """Reset t to 0 for a new task.

        :param total_steps: T of the new task; by default that of the last one.
        :raises ValueError: T is below 1.
        """
        if total_steps is not None:
            if total_steps < 1:
                raise ValueError(f"total_steps must be at least 1, got {total_steps}")
            self.total_steps = total_steps
        self.t = 0

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        evaluating = self._evaluating or not self.training
        return annealed_epg_loss(logits, targets, 1.0 if evaluating and isinstance(self.schedule, str) else self.alpha)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, *args, **kwargs)
        experience, parts, begins = strategy.experience, 1, self._owner.changes_to(strategy, strategy.model)
        if self.horizon == "stream":
            begins |= self._count_steps and experience.current_experience == 0
        elif is_online(experience) and experience.access_task_boundaries:
            parts = experience.sub_stream_length
            begins |= experience.is_first_subexp
        else:
            begins = True
        if begins:
            self.restart()
        if self._count_steps and (begins or self.horizon == "stream" or self.total_steps is None):
            batches = parts * len(strategy.dataloader)
            if self.horizon == "stream":
                batches += _batches_to_come(strategy, **kwargs)
            self.total_steps = self.t + strategy.train_epochs * batches
        if self.horizon == "task" and parts == 1 and is_online(experience) and isinstance(self.schedule, str):
            warnings.warn(
                f"alpha anneals anew in each part of an online stream, over T = {self.total_steps} steps: use "
                f"{type(self).__name__}(horizon='stream'), and total_steps as well for a stream without an end",
                stacklevel=2,
            )

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.step()


def _batches_to_come(strategy: Any, **kwargs: Any) -> int:
    """Minibatches per epoch of all experiences after the current one, counted with the strategy's own data loader."""
    if isinstance(strategy, JointTraining):  # which trains on all of them now
        return 0
    batches, ahead = 0, copy.copy(strategy)  # a shallow one: what adaptation sets is not the strategy's
    for experience in strategy.experience.origin_stream:
        if experience.current_experience > strategy.experience.current_experience:
            ahead.experience = experience
            ahead.train_dataset_adaptation(**kwargs)
            ahead.make_train_dataloader(**kwargs)
            batches += len(ahead.dataloader)
    return batches
