"""Ranks of methods. A rank is an estimate too, so it has an interval and ties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .estimates import ALPHA, NO_SPREAD
from .paired import holm, paired_difference


@dataclass(frozen=True)
class RankInterval:
    """Rank of one method: 1 is the largest mean, equal means share a rank.

    ``low`` and ``high`` are the best and the worst plausible rank. ``tied_with`` lists the methods that do not differ
    significantly from this one, best first.
    """

    rank: int
    low: int
    high: int
    tied_with: tuple[str, ...]


def rank_intervals(
    runs: Mapping[str, Mapping[int, float]], level: float = 1 - ALPHA, resamples: int = 10_000, seed: int = 0
) -> dict[str, RankInterval]:
    """Rank of every method (name -> seed -> value, larger is better) with its interval and its ties; best first.

    The interval is a Bayesian bootstrap (Rubin, Ann. Statist. 1981). A resample draws one weight per seed and uses it
    for all methods that have the seed, so that effects of the seed shared by all of them cancel. A method's mean is the
    weighted mean over its own seeds, and the ranks are recomputed. Methods may thus have different seeds, but seed
    effects cancel only between methods that share the seed. Resamples of few values vary too little. Therefore each
    mean's deviations are stretched so that their variance is s^2 / n and their interval is as wide as Student's
    (Hesterberg, Am. Stat. 2015). The error of a single run is unknown: it may have any rank, also in the intervals of
    the others. For runs without any spread the interval is a point.

    Two methods are tied unless the two-sided t test on their differences paired by seed is significant at 1 - ``level``
    after Holm's correction over all pairs. With fewer than two common seeds they are always tied. Ties are not
    transitive: A may be tied with B, B with C, and A beat C.

    :param level: confidence level of each single interval, not of all together.
    :param seed: of the resampling. The order of names and seeds does not matter.
    :raises ValueError: a method has no run, or one that is not finite; ``level`` or ``resamples`` is out of range.
    """
    if bad := [name for name, values in runs.items() if not values or not all(map(math.isfinite, values.values()))]:
        raise ValueError(
            f"runs of {', '.join(bad)}: give at least one value, all of them finite, or leave out methods without runs"
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level}: give a probability strictly between 0 and 1")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}: give at least 1")
    if not runs:
        return {}

    mean_of = {name: fmean(values.values()) for name, values in runs.items()}
    names = sorted(runs, key=lambda name: (-mean_of[name], name))
    means = np.array([mean_of[name] for name in names])
    drawn = _resampled_means([runs[name] for name in names], means, level, resamples, np.random.default_rng(seed))
    rank, last = _places(means[None, :])
    best, worst = _places(drawn)
    low = np.quantile(best, (1 - level) / 2, axis=0, method="lower")
    high = np.quantile(worst, (1 + level) / 2, axis=0, method="higher")

    pairs = list(itertools.combinations(names, 2))
    differences = [paired_difference(runs[a], runs[b]) for a, b in pairs]
    adjusted = holm([1.0 if difference is None else difference.p_different for difference in differences])
    tied = {pair for pair, p in zip(pairs, adjusted, strict=True) if p >= 1 - level}
    return {
        name: RankInterval(
            rank=int(rank[0, k]),
            low=int(min(low[k], rank[0, k])),
            high=int(max(high[k], last[0, k])),
            tied_with=tuple(other for other in names if (name, other) in tied or (other, name) in tied),
        )
        for k, name in enumerate(names)
    }


def _resampled_means(
    runs: list[Mapping[int, float]],
    means: NDArray[np.float64],
    level: float,
    resamples: int,
    generator: np.random.Generator,
) -> NDArray[np.float64]:
    """Means of the methods under random weights of the seeds; shape (resamples, methods)."""
    seeds = sorted(set[int]().union(*runs))
    has = np.array([[seed in values for values in runs] for seed in seeds], dtype=float)
    deviations = np.array(
        [[values.get(seed, mean) - mean for values, mean in zip(runs, means, strict=True)] for seed in seeds]
    )
    # Exponential weights, normalised over any set of seeds, are uniform on its simplex: variance s^2 (n - 1) / (n (n +
    # 1)).
    weights = generator.standard_exponential((resamples, len(seeds)))
    n = has.sum(axis=0)
    df = np.maximum(n - 1, 1)
    tail = (1 + level) / 2
    stretch = np.sqrt((n + 1) / df) * stats.t.ppf(tail, df) / stats.norm.ppf(tail)
    drawn = means + stretch * (weights @ deviations) / (weights @ has)
    single = n == 1
    drawn[:, single] = generator.choice((-math.inf, math.inf), (resamples, int(single.sum())))
    return np.asarray(drawn)


def _places(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best and worst rank of each method among equals. ``values`` and both results have shape (resamples, methods)."""
    columns = [values[:, [k]] for k in range(values.shape[1])]
    best = np.stack([1 + (values > column + NO_SPREAD).sum(axis=1) for column in columns], axis=1)
    worst = np.stack([(values >= column - NO_SPREAD).sum(axis=1) for column in columns], axis=1)
    return best, worst
