"""Expected policy gradient (EPG) and its annealing from cross-entropy, aEPG (arXiv 2602.14078).

Classification seen as a one-step decision: the policy is the softmax p of the logits, the reward is 1 for the true label y, and
the expected reward is J = E[p_y]. The gradient of -p_y in the logits is p_y (p - onehot(y)): cross-entropy's times p_y, so that
samples which the model gets wrong hardly count, and the entropy of the predictions falls. aEPG starts with cross-entropy, which
such samples do move, and ends with EPG.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from .losses import SCHEDULES, annealed_epg_loss, annealing_weight, epg_loss
from .task_loss import TaskLoss


class EPGLoss(TaskLoss):
    """Expected policy gradient: the mean of -p_y, a number in [-1, 0].

    A plain criterion, and in Avalanche one that sees the current experience's classes only (:class:`TaskLoss`). Half-precision logits are
    taken in float32, and the loss is float32. A task of a single class has p_y = 1 and no gradient, as with cross-entropy.
    """

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return epg_loss(logits, targets)


class AnnealedEPGLoss(TaskLoss):
    """Annealed EPG: the mean of alpha_t CE + (1 - alpha_t) EPG, with alpha falling from (nearly) 1 to (nearly) 0 over T optimizer steps.

    As the criterion of an Avalanche strategy it counts t and T by itself. Elsewhere pass ``total_steps`` and call :meth:`step` after
    every optimizer step, :meth:`restart` at the start of every further task::

        loss = AnnealedEPGLoss(total_steps=epochs * len(loader))
        for images, targets in batches:
            loss(model(images), targets).backward()
            optimizer.step()
            loss.step()

    :param schedule: "sigmoid": alpha_t = sigmoid(tau (T - 2t) / T), the paper's; of its ablation "linear": (T - t) / T, "cosine":
        1/2 + 1/2 cos(pi t / T), or a constant alpha in [0, 1].
    :param tau: steepness of the sigmoid.
    :param horizon: what T counts in Avalanche (F22). "task": the optimizer steps of the current experience (epochs x minibatches, the
        epochs with frozen modules included), t starting from 0 in each. "stream": those of the whole stream that the experience comes
        from, t running on. Experiences to come are counted by their own data: a replay buffer's samples count once they are there.
    :param total_steps: T; in Avalanche it replaces the count.
    :param restrict: see :class:`TaskLoss`.
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
                raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, or a constant alpha in [0, 1], got {schedule!r}")
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
        if total_steps is not None:
            self.restart(total_steps)

    @property
    def alpha(self) -> float:
        """Weight of cross-entropy at the current step t; from t = T on it stays at its last value.

        :raises RuntimeError: T is not known.
        """
        if not isinstance(self.schedule, str):
            return float(self.schedule)
        if self.total_steps is not None:
            progress = min(self.t / self.total_steps, 1.0)
        elif self._evaluating:
            # Avalanche evaluates a model that was never trained: alpha is what training will start from
            progress = 0.0
        else:
            raise RuntimeError(
                "the number T of training steps is not known: pass AnnealedEPGLoss(total_steps=...), "
                "or make the loss the criterion of an Avalanche strategy"
            )
        return annealing_weight(progress, self.schedule, self.tau)

    def step(self) -> None:
        """Advance t by one optimizer step."""
        self.t += 1

    def restart(self, total_steps: int | None = None) -> None:
        """Put t back to 0, for a new task of ``total_steps`` optimizer steps (as many as before when not given)."""
        if total_steps is not None:
            if total_steps < 1:
                raise ValueError(f"total_steps must be at least 1, got {total_steps}")
            self.total_steps = total_steps
        self.t = 0

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return annealed_epg_loss(logits, targets, self.alpha)

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().before_training_exp(strategy, *args, **kwargs)
        if self.horizon == "task":
            self.restart()
        if self._count_steps:
            batches = len(strategy.dataloader)
            if self.horizon == "stream":
                batches += _batches_to_come(strategy, **kwargs)
            self.total_steps = self.t + strategy.train_epochs * batches

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.step()


def _batches_to_come(strategy: Any, **kwargs: Any) -> int:
    """Minibatches per epoch of all experiences after the current one, as the strategy's own data loader makes them."""
    saved = strategy.experience, strategy.adapted_dataset, strategy.dataloader
    batches = 0
    try:
        for experience in saved[0].origin_stream:
            if experience.current_experience > saved[0].current_experience:
                strategy.experience = experience
                strategy.train_dataset_adaptation(**kwargs)
                strategy.make_train_dataloader(**kwargs)
                batches += len(strategy.dataloader)
    finally:
        strategy.experience, strategy.adapted_dataset, strategy.dataloader = saved
    return batches
