"""Planning: how likely a verdict is, and how many seeds it needs."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from .estimates import ALPHA, Published, require_margin, require_probability, welch_error

MAX_SEEDS = 100
"""Largest number of seeds that :func:`seeds_needed` tries."""


def published_leaves(published: Published, alpha: float = ALPHA) -> float:
    """Half-width of TOST's interval, in points, that remains from the published n0 and std if our own error is zero."""
    within, _ = thresholds(0.0, math.inf, published, 0.0, alpha)
    return 0.0 - float(within)


def verdict_probabilities(
    our_std: float,
    n: float,
    published: Published,
    margin: float,
    difference: float = 0.0,
    alpha: float = ALPHA,
    given_published: bool = True,
) -> dict[str, float]:
    """Probabilities of ``reproduced``, ``above``, ``below`` and ``undecided``,
    by quadrature over the sample standard deviations.

    With margin 0 ``reproduced`` is impossible, and ``undecided`` is the coverage of Welch's interval.

    :param our_std: true standard deviation of our runs.
    :param n: number of our seeds, at least 2; ``math.inf`` for the limit.
    :param difference: our true mean minus the printed mean (``given_published``), or minus the true published mean.
    :param given_published: if true, the printed mean and std are fixed and only our seeds are random. Otherwise the
        printed std is the true one and the published results are random too: the probability before the paper's runs
        were made.
    """
    require_margin(margin)
    require_probability("alpha", alpha)
    if not n >= 2:
        raise ValueError(f"n is {n}: at least 2 seeds are needed for a standard deviation")
    if not 0 <= our_std < math.inf:
        raise ValueError(f"our_std is {our_std}: give a finite number of at least 0")
    std0, n0 = published.error
    std, weight = _sample_stds(our_std, n)
    variance = our_std**2 / n
    if given_published or std0 == 0:
        within, beyond = thresholds(std, n, published, margin, alpha)
    else:
        drawn, drawn_weight = _sample_stds(std0, n0)
        error, df = welch_error(std[:, None], n, drawn[None, :], n0)
        within, beyond = _thresholds_of(error, df, n, published.rounding, margin, alpha)
        weight = weight[:, None] * drawn_weight[None, :]
        variance += std0**2 / n0
    # a scale of exactly 0 would divide 0 by 0 if the difference equals a threshold
    law = (difference, max(math.sqrt(variance), 1e-12))
    inside = np.maximum(within, 0.0)
    reproduced = float(np.sum(weight * (stats.norm.cdf(inside, *law) - stats.norm.cdf(-inside, *law))))
    above, below = (
        float(np.sum(weight * stats.norm.sf(beyond, *law))),
        float(np.sum(weight * stats.norm.cdf(-beyond, *law))),
    )
    return {"reproduced": reproduced, "above": above, "below": below, "undecided": 1.0 - reproduced - above - below}


def seeds_needed(
    our_std: float,
    published: Published,
    margin: float,
    difference: float = 0.0,
    power: float = 0.8,
    alpha: float = ALPHA,
    max_seeds: int = MAX_SEEDS,
    more_than: int = 1,
) -> int | None:
    """Smallest number of our seeds that decides (reproduced, above, below) with probability ``power``;
    None if there is none.

    Tries every number from ``more_than + 1`` (``more_than``: the seeds already run) to ``max_seeds``, because power is
    not monotone. The printed mean and std are fixed; our true mean minus the printed one is ``difference``.
    :func:`published_leaves` gives the uncertainty of the published side alone.
    """
    require_probability("power", power)
    for n in range(max(2, more_than + 1), max_seeds + 1):
        if 1 - verdict_probabilities(our_std, n, published, margin, difference, alpha)["undecided"] >= power:
            return n
    return None


def _sample_stds(std: float, n: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes (k,) and weights (k,) for the sample standard deviation of ``n`` normal values:
    Gauss-Legendre in probability.
    """
    if math.isinf(n) or std == 0:
        return np.array([std]), np.array([1.0])
    nodes, weights = _gauss_legendre()
    return std * np.sqrt(stats.chi2.ppf((nodes + 1) / 2, n - 1) / (n - 1)), weights / 2


@cache
def _gauss_legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # cached: finding the nodes takes longer than the rest of the computation
    return np.polynomial.legendre.leggauss(80)


def thresholds(
    std: Any, n: Any, published: Published, margin: float, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two thresholds on |difference|: reproduced below the first, above or below beyond the second. Elementwise over
    our std and n.
    """
    error, df = welch_error(std, n, *published.error)
    return _thresholds_of(error, df, n, published.rounding, margin, alpha)


def _thresholds_of(
    error: Any, df: Any, n: Any, rounding: float, margin: float, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    def half_width(tail: float) -> NDArray[np.float64]:
        without_spread = np.where(np.exp2(-np.asarray(n, dtype=float)) < tail, 0.0, math.inf)
        return np.where(error > 0, error * stats.t.ppf(1 - tail, df), without_spread)

    return margin - rounding - half_width(alpha), margin + rounding + half_width(alpha / 2)
