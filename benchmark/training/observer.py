"""Measurements during a run: accuracies, training loss and entropy, time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor

from ..data.experiences import Mixed
from .data_parallel import summed


class Observer(SupervisedPlugin[Any]):
    """Collects the content of a record: accuracies in percent with and without the task known, training loss and
    entropy per epoch.

    The entropy (nats) is that of the softmax over the current experience's classes on the training batches, as in
    aEPG's figures.

    Nothing is read back from the device within an epoch or an evaluated experience.

    :raises FloatingPointError: after an epoch with a loss, or an evaluation with a logit, that is NaN or infinite.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy: list[list[float]] = []
        self.accuracy_task_known: list[list[float]] = []
        self.entropy: list[float] = []
        self.train_loss: list[float] = []
        self.correct: list[bool] = []
        self.test_counts: list[int] = []
        self.effort = Effort()
        self._trained: dict[str, int] = {}

    @property
    def trained_parameters(self) -> int:
        """Number of weights that required a gradient in at least one epoch."""
        return sum(self._trained.values())

    def before_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._trained |= {name: p.numel() for name, p in strategy.model.named_parameters() if p.requires_grad}
        self._batches: list[tuple[int, Tensor, Tensor]] = []
        self._classes = torch.tensor(sorted(strategy.experience.classes_in_this_experience), device=strategy.device)

    @torch.no_grad()
    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        log_p = torch.log_softmax(strategy.mb_output[:, self._classes].float(), dim=1)
        # of a batch that several processes share, each counts its own images
        n = getattr(strategy, "counted", len(log_p))
        self._batches.append((n, strategy.loss.detach().reshape(()), (log_p.exp() * log_p).sum()))

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        counts, of_batches, negative_entropies = zip(*self._batches, strict=True)
        losses, entropies = torch.stack(of_batches).tolist(), torch.stack(negative_entropies).tolist()
        sums, self._batches = np.zeros(3), []
        for n, loss, entropy in zip(counts, losses, entropies, strict=True):
            sums += [n, n * loss, -entropy] if n else 0
        sums = summed(sums)
        if not np.isfinite(sums[1]):
            loss = next(iter(np.array(losses)[~np.isfinite(losses)]), sums[1])
            where = f"experience {strategy.clock.train_exp_counter}, epoch {strategy.clock.train_exp_epochs}"
            raise FloatingPointError(f"the loss became {loss} in {where}: lower the learning rate")
        self.train_loss.append(float(sums[1] / sums[0]))
        self.entropy.append(float(sums[2] / sums[0]))

    def before_eval(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.accuracy.append([])
        self.accuracy_task_known.append([])
        self.correct, self.test_counts = [], []

    def before_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        experience = strategy.experience
        self._mixed = experience if isinstance(experience, Mixed) else None
        classes = self._mixed.classes_of if self._mixed else [sorted(experience.classes_in_this_experience)]
        self._eval_classes = [torch.tensor(of_experience, device=strategy.device) for of_experience in classes]
        self._finite: list[Tensor] = []
        self._hits: list[Tensor] = []
        self._hits_task_known: list[Tensor] = []

    def after_eval_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        logits, targets = strategy.mb_output, strategy.mb_y
        self._finite.append(torch.isfinite(logits).all())
        # of each experience, what it would predict if it were the task
        of_parts = [classes[logits[:, classes].argmax(1)] == targets for classes in self._eval_classes]
        self._hits.append(logits.argmax(1) == targets)
        self._hits_task_known.append(torch.stack(of_parts))

    def after_eval_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        # Non-finite weights after the last step or the alignment first show here; argmax would hide them in an
        # accuracy.
        if not torch.stack(self._finite).all():
            seen = strategy.clock.train_exp_counter
            raise FloatingPointError(
                f"a logit is NaN or infinite when evaluated after {seen} experience(s): lower the learning rate"
            )
        hits, of_parts = torch.cat(self._hits).cpu().numpy(), torch.cat(self._hits_task_known, 1).cpu().numpy()
        task_known = of_parts[self._mixed.part_of if self._mixed else 0, np.arange(len(hits))]
        self._finite, self._hits, self._hits_task_known = [], [], []
        rows = _rows_of(self._mixed) if self._mixed else [np.arange(len(hits))]
        for of_experience in rows:
            self.correct += hits[of_experience].tolist()
            self.test_counts.append(len(of_experience))
            self.accuracy[-1].append(100 * float(np.mean(hits[of_experience])))
            self.accuracy_task_known[-1].append(100 * float(np.mean(task_known[of_experience])))


def _rows_of(mixed: Mixed) -> list[np.ndarray]:
    """For each experience its images' rows in the mixed order, in the experience's own order."""
    rows = [np.flatnonzero(mixed.part_of == part) for part in range(len(mixed.classes_of))]
    return [of_experience[np.argsort(mixed.place[of_experience])] for of_experience in rows]


class Ticker(SupervisedPlugin[Any]):
    """Tells how many epochs of a run are finished; if there is one only, also its hundredths. It is no part of a
    checkpoint's state: a loaded one is replaced.

    :param progress: called with the epochs finished and their total.
    """

    def __init__(self, progress: Callable[[float, int], object], total: int) -> None:
        super().__init__()
        self._progress, self._total, self._done, self._batches = progress, total, 0.0, 0

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self._batches += 1
        if self._total == 1 and self._batches < len(strategy.dataloader):
            self.reach(100 * self._batches // len(strategy.dataloader) / 100)

    def after_training_epoch(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.reach(math.floor(self._done) + 1)

    def reach(self, done: float) -> None:
        """At least so many epochs are finished: also those of a checkpoint, and of an experience that trains
        nothing.
        """
        if done > self._done:
            self._done = done
            self._progress(min(done, self._total), self._total)


class Effort:
    """Start time of a run, and the time it took, including the time before the checkpoint if it was resumed."""

    def __init__(self) -> None:
        self.started = datetime.now(timezone.utc)
        self.__setstate__({"started": self.started, "seconds": (0.0, 0.0)})

    @property
    def wall_seconds(self) -> float:
        return time.monotonic() - self._zero[0]

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self._zero[1]

    def __getstate__(self) -> dict[str, Any]:
        return {"started": self.started, "seconds": (self.wall_seconds, self.cpu_seconds)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.started = state["started"]
        wall, cpu = state["seconds"]
        self._zero = time.monotonic() - wall, time.process_time() - cpu
