"""A measured mean against a published one: equivalence within a margin (TOST), and the verdict."""

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
    """One way of holding our runs against a printed mean: verdict, difference, its interval, TOST's p-value.

    Only an ``undecided`` column says what limits it and how many seeds in all would decide (None: no number up to :data:`MAX_SEEDS`).
    """

    verdict: Verdict
    difference: Estimate | None = None
    interval: tuple[float, float] | None = None
    p_equivalence: float | None = None
    limited_by: LimitedBy | None = None
    seeds_needed: int | None = None


@dataclass(frozen=True)
class CellVerdict:
    """What our runs say of a published cell.

    ``sampled`` counts the error of the published mean (Welch), ``constant`` takes the printed value as exact up to its rounding; a cell
    without published std has only the second. ``published_leaves`` is the half-width of TOST's interval with infinitely many seeds of
    ours.
    """

    ours: MeanInterval | None
    sampled: Column
    constant: Column
    in_prediction_interval: bool | None = None
    published_leaves: float | None = None

    def seeds_in_words(self, column: Column) -> str:
        """How many seeds of ours would decide an ``undecided`` column of this cell; empty for any other verdict."""
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
    """Verdict on a published cell from one value per seed of ours.

    ``reproduced``: TOST rejects at ``alpha``; ``above`` / ``below``: the (1 - alpha) interval of the difference lies beyond the margin;
    ``undecided``: neither, and ``limited_by`` says whose error is to blame; ``no reference``: no number (or, for Welch, no std) is
    published; ``not run``: no values.

    :param margin: points within which two means count as equal.
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
    """``reproduced``, ``above``, ``below`` or ``undecided``: at most one of the first three can be true of one difference."""
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
    # a single run has no std of its own: the published one is the best guess at it
    std = ours.std if ours.std is not None else published.std
    if std is None:
        return replace(column, limited_by="ours")
    # Finite numbers too: Welch's degrees of freedom fall towards n0 - 1, so that infinitely many seeds can decide less than twenty.
    more = np.append(np.arange(ours.n + 1, 10 * MAX_SEEDS + 1, dtype=float), math.inf)
    within, beyond = thresholds(std, more, published, margin, alpha)
    decided = (abs(difference.value) < within) | (abs(difference.value) > beyond)
    needed = seeds_needed(std, published, margin, difference.value, alpha=alpha, more_than=ours.n)
    return replace(column, limited_by="ours" if decided.any() else "published", seeds_needed=needed)
