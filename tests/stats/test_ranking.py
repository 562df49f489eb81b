"""Ranks with intervals and ties: by hand, against scipy, by simulation, and what any ranking must have."""

from __future__ import annotations

import itertools
import math
import time
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reclaim.benchmark.stats.paired import holm
from reclaim.benchmark.stats.ranking import RankInterval, rank_intervals
from scipy import stats

Runs = dict[str, dict[int, float]]

boards = st.dictionaries(
    st.sampled_from("abcdef"),
    st.dictionaries(st.integers(0, 6), st.integers(0, 20).map(float), min_size=2, max_size=6),
    min_size=1,
)


def board(means: list[float], n: int, generator: np.random.Generator, of_seed: float = 0.0, std: float = 1.0) -> Runs:
    """Methods 0, 1, ... with these true means on the same seeds: an effect of the seed, and an error of each run."""
    values = np.asarray(means)[:, None] + generator.normal(0, of_seed, n) + generator.normal(0, std, (len(means), n))
    return {str(k): dict(enumerate(row)) for k, row in enumerate(values.tolist())}


def test_what_a_seed_does_to_all_methods_cancels() -> None:
    # seeds are 10 apart, methods 1, and runs 0.01
    places = rank_intervals(board([1.0, 3.0, 2.0], 8, np.random.default_rng(0), of_seed=10.0, std=0.01))
    assert places == {"1": RankInterval(1, 1, 1, ()), "2": RankInterval(2, 2, 2, ()), "0": RankInterval(3, 3, 3, ())}
    assert list(places) == ["1", "2", "0"]


def test_without_common_seeds_it_does_not() -> None:
    runs = board([1.0, 3.0], 8, np.random.default_rng(0), of_seed=10.0, std=0.01)
    runs["0"] = {seed + 8: value for seed, value in runs["0"].items()}
    assert rank_intervals(runs) == {"1": RankInterval(1, 1, 2, ("0",)), "0": RankInterval(2, 1, 2, ("1",))}


def test_seeds_that_only_some_methods_have() -> None:
    runs = board([1.0, 3.0, 2.0], 10, np.random.default_rng(0), std=0.1)
    runs["2"] = {seed: value for seed, value in runs["2"].items() if seed < 5}
    assert [(place.rank, place.low, place.high) for place in rank_intervals(runs).values()] == [
        (1, 1, 1),
        (2, 2, 2),
        (3, 3, 3),
    ]


def test_equal_methods_share_a_place() -> None:
    same = {0: 0.1 + 0.2, 1: 1.0, 2: 5.0}
    runs = {"b": same, "a": {**same, 0: 0.3}, "c": {seed: value - 3 + 0.1 * seed for seed, value in same.items()}}
    assert rank_intervals(runs) == {
        "a": RankInterval(1, 1, 2, ("b",)),
        "b": RankInterval(1, 1, 2, ("a",)),
        "c": RankInterval(3, 3, 3, ()),
    }


def test_a_single_run_may_have_any_place() -> None:
    runs: Runs = board([5.0, 3.0, 1.0], 8, np.random.default_rng(0), std=0.1)
    runs["single"] = {0: 4.0}
    places = rank_intervals(runs)
    assert places["single"] == RankInterval(2, 1, 4, ("0", "1", "2"))
    assert places["0"] == RankInterval(1, 1, 2, ("single",))
    assert places["2"] == RankInterval(4, 3, 4, ("single",))


def test_one_method_and_none() -> None:
    assert rank_intervals({"a": {0: 1.0, 1: 2.0}}) == {"a": RankInterval(1, 1, 1, ())}
    assert rank_intervals({}) == {}


def test_ties_are_holm_over_all_pairs_of_scipys_tests() -> None:
    runs = board([0.0, 0.8, 1.6, 2.4, 3.2], 7, np.random.default_rng(5), of_seed=3.0, std=0.5)
    places = rank_intervals(runs, resamples=100)
    pairs = list(itertools.combinations(runs, 2))
    p = holm([stats.ttest_rel(list(runs[a].values()), list(runs[b].values())).pvalue for a, b in pairs])
    tied = {pair for pair, value in zip(pairs, p, strict=True) if value >= 0.05}
    assert 0 < len(tied) < len(pairs)
    for name, place in places.items():
        others = [other for other in places if (name, other) in tied or (other, name) in tied]
        assert place.tied_with == tuple(others)


@given(boards, st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_methods_and_seeds_does_not_matter(runs: Runs, random: Random) -> None:
    shuffled = {
        name: dict(random.sample(list(runs[name].items()), len(runs[name])))
        for name in random.sample(list(runs), len(runs))
    }
    assert list(rank_intervals(shuffled, resamples=50).items()) == list(rank_intervals(runs, resamples=50).items())


@given(boards)
@settings(max_examples=50, deadline=None)
def test_turning_the_sign_mirrors_the_places(runs: Runs) -> None:
    mirrored = rank_intervals(
        {name: {seed: -value for seed, value in values.items()} for name, values in runs.items()}, resamples=50
    )
    for name, place in rank_intervals(runs, resamples=50).items():
        assert place.low <= place.rank <= place.high
        assert (mirrored[name].low, mirrored[name].high) == (len(runs) + 1 - place.high, len(runs) + 1 - place.low)
        assert set(mirrored[name].tied_with) == set(place.tied_with)


def test_methods_that_are_alike_are_told_apart_as_often_as_the_level_says() -> None:
    # 5.9% of 4,000 boards; 20% if the deviations were not stretched
    rng = np.random.default_rng(1)
    studies = 400
    apart = sum(
        rank_intervals(board([0.0, 0.0], 5, rng, of_seed=3.0), resamples=400)["0"].low == 2 for _ in range(studies)
    )
    apart += sum(
        rank_intervals(board([0.0, 0.0], 5, rng, of_seed=3.0), resamples=400)["0"].high == 1 for _ in range(studies)
    )
    assert apart / studies == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / studies))


def test_intervals_hold_the_true_places() -> None:
    rng = np.random.default_rng(2)
    studies, found, width = 200, 0, 0
    for _ in range(studies):
        places = rank_intervals(board([4.0, 3.0, 2.0, 1.0], 5, rng, of_seed=5.0), resamples=400)
        found += sum(places[str(k)].low <= k + 1 <= places[str(k)].high for k in range(4))
        width += sum(place.high - place.low for place in places.values())
    # places are whole numbers, so that the intervals may hold more than the level
    assert found / (4 * studies) >= 0.95 - 4 * math.sqrt(0.05 * 0.95 / studies)
    assert width / (4 * studies) < 2


def test_the_same_seed_draws_the_same() -> None:
    runs = board(list(np.linspace(0, 3, 12)), 5, np.random.default_rng(3))
    first, again, other = (rank_intervals(runs, resamples=20, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_a_higher_level_is_wider() -> None:
    runs = board(list(np.linspace(0, 3, 8)), 5, np.random.default_rng(3))
    narrow, wide = rank_intervals(runs, level=0.8, resamples=500), rank_intervals(runs, level=0.99, resamples=500)
    assert all(wide[name].low <= place.low and place.high <= wide[name].high for name, place in narrow.items())
    assert all(set(place.tied_with) <= set(wide[name].tied_with) for name, place in narrow.items())
    assert wide != narrow


def test_fifty_methods_take_seconds_at_most() -> None:
    runs = board(list(np.linspace(0, 20, 50)), 10, np.random.default_rng(4), of_seed=2.0)
    started = time.process_time()
    places = rank_intervals(runs)
    assert time.process_time() - started < 10  # a third of a second where it was written
    assert [place.rank for place in places.values()] == list(range(1, 51))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"runs": {"a": {0: 1.0}, "b": {}}}, "runs of b: give at least one value"),
        ({"runs": {"a": {0: 1.0}, "b": {0: math.nan}}}, "runs of b: .* finite"),
        ({"runs": {}, "level": 95}, "level is 95"),
        ({"runs": {}, "resamples": 0}, "resamples is 0"),
    ],
)
def test_impossible_settings_are_named(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        rank_intervals(**arguments)
