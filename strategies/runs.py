"""What a plugin has to know of the run that it is in: whose its state is, what was trained before, on which classes."""

from __future__ import annotations

import weakref
from typing import Any


class Owner:
    """The objects that the state of a plugin belongs to: the strategy and its model.

    Someone may use a plugin again, for another strategy. Its state must not come along. A new strategy on the same
    model goes on with the state, and so does the same strategy on a model that has replaced the old one.

    The objects are not kept alive. A copy, pickled or not, belongs to nobody until it is used, and then to its user: a
    checkpoint goes on with its state.
    """

    def __init__(self) -> None:
        self._objects: list[weakref.ref[Any]] = []

    def is_another(self, *objects: Any) -> bool:
        """Whether the state belongs to others: to none of ``objects``."""
        known = [reference() for reference in self._objects]
        return bool(known) and not any(a is b for a in objects for b in known)

    def changes_to(self, *objects: Any) -> bool:
        """Whether the state belonged to others. From now on it belongs to ``objects``."""
        changes = self.is_another(*objects)
        self._objects = [weakref.ref(thing) for thing in objects]
        return changes

    def __reduce__(self) -> tuple[type[Owner], tuple[()]]:
        return Owner, ()
