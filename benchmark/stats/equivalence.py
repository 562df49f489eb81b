"""Compares our mean with a published one: equivalence within a margin (TOST), and the verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .estimates import (
    ALPHA,
    Estimate,
    MeanInterval,
    Published,
    mean_interval,
    prediction_interval,
    require_margin,
    require_probability,
    tost,
    welch,
)
from .power import MAX_SEEDS, published_leaves, seeds_needed, thresholds

Verdict = Literal["reproduced", "above", "below", "undecided", "no reference", "not run"]
LimitedBy = Literal["ours", "published"]


@dataclass(frozen=True)
class Column:
    """One comparison of our runs with a printed mean: verdict, difference, its interval, TOST's p-value.

    ``limited_by`` and ``seeds_needed`` are set for an ``undecided`` column only. ``seeds_needed`` is the total number
    of seeds that would decide; None if no number up to :data:`MAX_SEEDS` does.
    """

    verdict: Verdict
    difference: Estimate | None = None
    interval: tuple[float, float] | None = None
    p_equivalence: float | None = None
    limited_by: LimitedBy | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True)
class CellVerdict:
    """Verdicts on a published cell.

    ``sampled`` includes the error of the published mean (Welch). ``constant`` treats the printed value as exact up to
    its rounding. A cell without a published std has only ``constant``. ``published_leaves`` is the half-width of TOST's
    interval with infinitely many seeds of ours.
    """

    ours: MeanInterval | None
    sampled: Column
    constant: Column
    in_prediction_interval: bool | None = None
    published_leaves: float | None = None

    def seeds_in_words(self, column: Column) -> str:
        """Number of seeds of ours that would decide an ``undecided`` column of this cell;
        empty for any other verdict.
        """
        if self.ours is None or column.difference is None or column.verdict != "undecided":
            return ""
        if column.seeds_needed is not None:
            return f"{column.seeds_needed} in all"
        if column.limited_by == "published":
            if column is self.constant:
                return f"none: the rounding of the printed value alone leaves +-{column.difference.rounding:g}"
            return f"none: the published n0 and std alone leave +-{self.published_leaves:.2f}"
        return "unknown: a single run has no std" if self.ours.n == 1 else f"none up to {MAX_SEEDS}"


def judge_cell(
    values: Sequence[float], published: Published | None, margin: float, alpha: float = ALPHA
) -> CellVerdict:
    """Verdict on a published cell from our values, one per seed.

    - ``reproduced``: TOST rejects at ``alpha``.
    - ``above`` / ``below``: the (1 - alpha) interval of the difference lies beyond the margin.
    - ``undecided``: neither; ``limited_by`` says whose error is too large.
    - ``no reference``: no number (or, for Welch, no std) is published.
    - ``not run``: no values.

    :param margin: largest difference, in points, at which two means count as equal.
    """
    require_margin(margin)
    require_probability("alpha", alpha)
    if len(values) == 0:
        return CellVerdict(None, Column("not run"), Column("not run"))
    ours = mean_interval(values, 1 - alpha)
    if published is None:
        return CellVerdict(ours, Column("no reference"), Column("no reference"))
    constant = _column(ours, published.as_constant(), margin, alpha)
    predicted = prediction_interval(published, ours.n, 1 - alpha)
    if predicted is None:
        return CellVerdict(ours, Column("no reference"), constant)
    inside = predicted[0] <= ours.mean <= predicted[1]
    return CellVerdict(
        ours, _column(ours, published, margin, alpha), constant, inside, published_leaves(published, alpha)
    )


def verdict(difference: Estimate, margin: float, alpha: float = ALPHA) -> Verdict:
    """``reproduced``, ``above``, ``below`` or ``undecided``. The first three exclude each other."""
    if tost(difference, margin) < alpha:
        return "reproduced"
    if difference.p_above(margin) < alpha / 2:
        return "above"
    if difference.p_below(-margin) < alpha / 2:
        return "below"
    return "undecided"


def _column(ours: MeanInterval, published: Published, margin: float, alpha: float) -> Column:
    difference = welch(ours, published)
    reading = verdict(difference, margin, alpha)
    column = Column(reading, difference, difference.interval(1 - alpha), tost(difference, margin))
    if reading != "undecided":
        return column
    # a single run has no std, so we use the published one as an estimate
    std = ours.std if ours.std is not None else published.std
    if std is None:
        return replace(column, limited_by="ours")
    # Also try finite numbers: Welch's degrees of freedom fall towards n0 - 1, so infinitely many seeds can decide less
    # than twenty.
    more = np.append(np.arange(ours.n + 1, 10 * MAX_SEEDS + 1, dtype=float), math.inf)
    within, beyond = thresholds(std, more, published, margin, alpha)
    decided = (abs(difference.value) < within) | (abs(difference.value) > beyond)
    needed = seeds_needed(std, published, margin, difference.value, alpha=alpha, more_than=ours.n)
    return replace(column, limited_by="ours" if decided.any() else "published", seeds_needed=needed)
