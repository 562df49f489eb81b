"""Whose the state of a plugin is."""

from __future__ import annotations

import copy
import gc
import pickle
from typing import Any

import pytest
import torch
from reclaim.strategies.runs import Owner, classes_of, experiences_before
from torch import nn
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


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_a_wrapped_model_is_the_same(wrap: Any) -> None:
    owner, model = Owner(), nn.Linear(2, 2)
    assert not owner.changes_to(Strategy(), wrap(model))
    assert not owner.changes_to(Strategy(), wrap(model))
    assert not owner.is_another(model)
    assert owner.changes_to(Strategy(), wrap(nn.Linear(2, 2)))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda owner: pickle.loads(pickle.dumps(owner))])
def test_a_copy_belongs_to_its_first_user(again: object) -> None:
    owner = Owner()
    owner.changes_to(strategy := Strategy())
    twin = again(owner)  # type: ignore[operator]
    assert not twin.changes_to(user := Strategy())
    assert twin.is_another(strategy)
    assert not twin.is_another(user)


def test_experiences_before() -> None:
    for clock, number, expected in ((0, 0, 0), (2, 0, 2), (0, 3, 3), (1, 1, 1)):
        strategy = Strategy(clock=Strategy(train_exp_counter=clock), experience=Strategy(current_experience=number))
        assert experiences_before(strategy) == expected
    assert experiences_before(Strategy(experience=Strategy())) == 0


def test_classes_of() -> None:
    targets = Strategy(targets=[4, 1, 4])
    assert classes_of(Strategy(classes_in_this_experience=(3, 0), dataset=targets)) == [0, 3]
    assert classes_of(Strategy(dataset=targets)) == [1, 4]
    task = Strategy(classes_in_this_experience=[1, 4, 7])
    for access, expected in ((True, [1, 4, 7]), (False, [1, 4])):
        part = Strategy(dataset=targets, origin_experience=task, access_task_boundaries=access)
        assert classes_of(part) == expected
    assert classes_of(Strategy(dataset=targets, origin_experience=None, access_task_boundaries=True)) == [1, 4]
    with pytest.raises(ValueError, match=r"cannot tell the classes of this Strategy: .*restrict=False"):
        classes_of(Strategy(dataset=Strategy()))
