"""What a plugin has to know of the run that it is in: whose its state is, what was trained before, on which classes."""

from __future__ import annotations

import math
import weakref
from typing import Any

from avalanche.training.plugins import GDumbPlugin
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


def take_place(plugin: Any, strategy: Any) -> None:
    """Move a plugin of a strategy behind those that must act on the weights before it does.

    After an experience come first what chooses the weights of training (``place`` below 0), then Avalanche's method
    plugins, which look at them (EWC's, LwF's and so on; a strategy appends its own), then averages of the weights (1),
    and last what reads the features and writes heads (2).
    """
    plugins = list(strategy.plugins)
    if plugin not in plugins or strategy.evaluator not in plugins:
        return
    at = plugins.index(plugin)
    # the evaluator and what follows it are of every strategy
    behind = plugins[at + 1 : plugins.index(strategy.evaluator)]
    earlier = [i for i, other in enumerate(behind) if _place(other) < plugin.place]
    if earlier:
        plugins.insert(at + 1 + earlier[-1] + 1, plugin)
        del plugins[at]
        # a new list: Avalanche is walking through the old one
        strategy.plugins = plugins


def _place(plugin: Any) -> float:
    if (own := getattr(plugin, "place", None)) is not None:
        return float(own)
    avalanches = any(c.__module__.startswith("avalanche.training.") for c in type(plugin).__mro__)
    return 0.0 if avalanches else math.inf


def starts_over(strategy: Any) -> bool:
    """Whether a plugin gives the model its initial weights again before every experience, as GDumb does: what others
    would put back is not wanted then.
    """
    return any(isinstance(plugin, GDumbPlugin) for plugin in strategy.plugins)


def require_lasting(model: nn.Module, who: str) -> None:
    """Check that no module begins anew with each experience, as some PEFT modules do.

    :raises ValueError: some do.
    """
    for module in model.modules():
        if getattr(module, "begins_anew", False):
            raise ValueError(
                f"{who} averages over all steps, and {type(module).__name__} gets new values when an experience "
                f"begins: use one of the two"
            )


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
