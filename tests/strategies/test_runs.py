"""Whose the state of a plugin is."""

from __future__ import annotations

import copy
import gc
import pickle

import pytest
from reclaim.strategies.runs import Owner
from trained import Strategy


def test_state_belongs_to_a_strategy_and_its_model() -> None:
    owner, first, second, model, other = Owner(), Strategy(), Strategy(), Strategy(), Strategy()
    assert not owner.changes_to(first, model)
    assert not owner.changes_to(first, model)
    assert not owner.changes_to(second, model), "a new strategy on the same model"
    assert not owner.changes_to(second, other), "a model that replaces the strategy's"
    assert owner.is_another(first, model)
    assert not owner.is_another(first, other)
    assert owner.changes_to(first, model)
    assert not owner.is_another(first, other)


def test_it_keeps_nothing_alive_and_mistakes_nothing_new_for_the_old() -> None:
    owner = Owner()
    for _ in range(20):  # new objects may get the addresses of old ones
        strategy, model = Strategy(), Strategy()
        owner.changes_to(strategy, model)
        del strategy, model
        gc.collect()
        assert owner.changes_to(Strategy(), Strategy())


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda owner: pickle.loads(pickle.dumps(owner))])
def test_a_copy_belongs_to_its_first_user(again: object) -> None:
    owner = Owner()
    owner.changes_to(strategy := Strategy())
    twin = again(owner)  # type: ignore[operator]
    assert not twin.changes_to(user := Strategy())
    assert twin.is_another(strategy)
    assert not twin.is_another(user)
