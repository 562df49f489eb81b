"""What a plugin has to know of the run that it is in: whose its state is, what was trained before, on which classes."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn

from .wrappers import unwrap


class Owner:
    """The objects that the state of a plugin belongs to: the strategy and its model.

    Someone may use a plugin again, for another strategy. Its state must not come along. A new strategy on the same
    model goes on with the state, and so does the same strategy on a model that has replaced the old one.

    A model is the same in ``DataParallel`` or compiled. The objects are not kept alive. A copy, pickled or not, belongs
    to nobody until it is used, and then to its user: a checkpoint goes on with its state.
    """

    def __init__(self) -> None:
        self._objects: list[weakref.ref[Any]] = []

    def is_another(self, *objects: Any) -> bool:
        """Whether the state belongs to others: to none of ``objects``."""
        known = [reference() for reference in self._objects]
        return bool(known) and not any(_inner(a) is b for a in objects for b in known)

    def changes_to(self, *objects: Any) -> bool:
        """Whether the state belonged to others. From now on it belongs to ``objects``."""
        changes = self.is_another(*objects)
        self._objects = [weakref.ref(_inner(thing)) for thing in objects]
        return changes

    def __getstate__(self) -> dict[str, Any]:
        return {"_objects": []}


def _inner(thing: Any) -> Any:
    return unwrap(thing) if isinstance(thing, nn.Module) else thing


def experiences_before(strategy: Any) -> int:
    """How many experiences were trained on before the present one: as many as the strategy's clock has counted, and not
    fewer than the stream says. Each delivery may be a benchmark of its own, and each strategy begin late in a stream.
    """
    clock = getattr(strategy, "clock", None)
    return max(
        0 if clock is None else int(clock.train_exp_counter), getattr(strategy.experience, "current_experience", 0)
    )


def require_counted(strategy: Any, who: str, experiences: int) -> None:
    """Check that the strategy's clock has counted the experiences that a plugin of Avalanche's keeps something of.

    Such plugins number experiences by that clock, which starts from 0 in each strategy, also on a trained model.

    :raises ValueError: the clock has counted fewer.
    """
    counted = strategy.clock.train_exp_counter
    if counted < experiences:
        raise ValueError(
            f"{who} keeps something of {experiences} experiences, but this strategy has trained on {counted}: "
            f"go on with the strategy that it was used in, set strategy.clock.train_exp_counter = {experiences}, "
            f"or make a new {who}"
        )


def classes_of(experience: Any) -> list[int]:
    """The class ids of an experience, ascending.

    Avalanche's online streams do not say which classes they have. Where they give access to the task's boundaries, they
    are those of the task, else those of the images at hand.

    :raises ValueError: neither the experience nor its dataset's ``targets`` tell.
    """
    for source in (experience, _task_of(experience)):
        if hasattr(source, "classes_in_this_experience"):
            return sorted({int(c) for c in source.classes_in_this_experience})
    targets = getattr(getattr(experience, "dataset", None), "targets", None)
    if targets is None:
        raise ValueError(
            f"cannot tell the classes of this {type(experience).__name__}: it has no classes_in_this_experience, and "
            "its dataset no targets: give the dataset a list of targets, or use the loss with restrict=False"
        )
    return sorted({int(c) for c in targets})


def is_online(experience: Any) -> bool:
    """Whether an experience is a part of a task, from one of Avalanche's online streams."""
    return "subexp_size" in vars(experience)  # not hasattr: reading it may be forbidden while training


def _task_of(experience: Any) -> Any:
    """The experience that an online stream was made of, if it gives access to that."""
    return experience.origin_experience if getattr(experience, "access_task_boundaries", False) else None


def images_at_a_time(strategy: Any) -> int:
    """Images of a pass without gradients: as many as training or evaluation passes at a time, whichever is more.

    :param strategy: one with a ``micro_batch`` trains on so many at a time, others on whole batches.
    """
    return max(getattr(strategy, "micro_batch", None) or strategy.train_mb_size, strategy.eval_mb_size or 1)
