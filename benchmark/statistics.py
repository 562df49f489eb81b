"""From runs to verdicts: intervals, equivalence with a published number, and claims tested on differences paired by seed.

Everything here is a Student-t estimate (:class:`Estimate`): our mean against a published one (Welch), against a printed value taken as a
constant (one sample), one method against another (paired). ``scipy.stats`` has the distributions; nothing is rounded here.

What is done where the t distribution has nothing to say:

- One value has no standard deviation: no interval, every p-value is 1, the verdict is ``undecided``.
- No spread at all (all values alike, standard deviation 0): the interval shrinks to a point, which says nothing of how sure it is. The
  p-values then are those of the exact sign test, ``2 ** -n`` on the side where the values are: two equal values never decide, six do.
- A printed number is rounded. ``Published.rounding`` is half a unit of its last digit; the printed mean may be off by it and the printed
  standard deviation is taken to be larger by it (so "0.0" printed to 0.1 stands for 0.05). Both only make it harder to decide.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Verdict = Literal["reproduced", "above", "below", "undecided", "no reference", "not run"]
LimitedBy = Literal["ours", "published"]
ClaimKind = Literal["superior", "noninferior"]
Outcome = Literal["holds", "contradicted", "undecided", "not run"]

ALPHA = 0.05
MAX_SEEDS = 100
"""Largest number of seeds that :func:`seeds_needed` considers."""

NO_SPREAD = 1e-9
"""Standard deviations below this (in points) are rounding errors of equal values."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean or a difference of means whose error follows Student's t.

    ``standard_error`` and ``df`` are None when nothing can be said of the error (one value). ``n`` counts our own values, ``rounding`` is
    by how much the estimate may be off because a printed number in it was rounded. All in the unit of the values (points).
    """

    value: float
    standard_error: float | None
    df: float | None
    n: int
    rounding: float = 0.0

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float] | None:
        """Two-sided interval, None when there is no standard error; widened by the rounding on both sides."""
        _probability("level", level)
        if self.standard_error is None or self.df is None:
            return None
        half = self.rounding + (self.standard_error * float(stats.t.ppf((1 + level) / 2, self.df)) if self.standard_error > 0 else 0.0)
        return self.value - half, self.value + half

    def p_above(self, bound: float) -> float:
        """One-sided p-value against "the true value is at most ``bound``"."""
        return self._p(self.value - self.rounding - bound)

    def p_below(self, bound: float) -> float:
        """One-sided p-value against "the true value is at least ``bound``"."""
        return self._p(bound - self.value - self.rounding)

    def _p(self, distance: float) -> float:
        if self.standard_error is None or self.df is None:
            return 1.0
        if self.standard_error > 0:
            return float(stats.t.sf(distance / self.standard_error, self.df))
        return 2.0**-self.n if distance > 0 else 1.0


@dataclass(frozen=True)
class MeanInterval:
    """Mean, sample standard deviation (n - 1) and t interval of ``n`` values; the last two are None for n = 1."""

    mean: float
    std: float | None
    n: int
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Published:
    """A printed result: mean, standard deviation (n - 1) over ``n`` runs, and half a unit of the last printed digit, all in points.

    Without ``std`` the mean can only be taken as a constant.

    :raises ValueError: for a number that is not finite, a negative std or rounding, or a std over fewer than 2 runs.
    """

    mean: float
    std: float | None = None
    n: int | None = None
    rounding: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"published mean is {self.mean}: a finite number is needed")
        if not 0 <= self.rounding < math.inf:
            raise ValueError(f"published rounding is {self.rounding}: half a unit of the last printed digit is needed, 0 if unknown")
        if self.std is not None and not 0 <= self.std < math.inf:
            raise ValueError(f"published std is {self.std}: a finite number that is not negative is needed, None if not printed")
        if self.std is not None and (self.n is None or self.n < 2):
            raise ValueError(f"published std {self.std} over {self.n} runs: a std needs at least 2; pass std=None for a single run")

    def as_constant(self) -> Published:
        """The printed mean without its own error (its rounding stays)."""
        return replace(self, std=None, n=None)

    @property
    def error(self) -> tuple[float, float]:
        """Standard deviation with its rounding, and number of runs; (0, infinity) when the mean is a constant."""
        return (0.0, math.inf) if self.std is None or self.n is None else (self.std + self.rounding, float(self.n))


# --- means and differences ---


def mean_interval(values: Sequence[float], level: float = 1 - ALPHA) -> MeanInterval:
    """Mean, sample standard deviation and two-sided Student-t interval of one value per seed.

    :raises ValueError: without values, or when one is not finite.
    """
    mean, std, n = _moments(values)
    df = None if std is None else n - 1
    estimate = Estimate(value=mean, standard_error=None if std is None else std / math.sqrt(n), df=df, n=n)
    return MeanInterval(mean, std, n, estimate.interval(level))


def welch(ours: MeanInterval, published: Published) -> Estimate:
    """Our mean less the published one: Welch's t (Biometrika 1947), Satterthwaite's degrees of freedom.

    For a published mean without std this is the one-sample t, the printed value taken as a constant.
    """
    difference = ours.mean - published.mean
    if ours.std is None:
        return Estimate(value=difference, standard_error=None, df=None, n=ours.n, rounding=published.rounding)
    error, df = _welch_error(ours.std, ours.n, *published.error)
    return Estimate(value=difference, standard_error=float(error), df=float(df), n=ours.n, rounding=published.rounding)


def tost(difference: Estimate, margin: float) -> float:
    """p-value of two one-sided tests (Schuirmann 1987) against "the true difference is ``margin`` points or more, either way"."""
    _margin(margin)
    return max(difference.p_above(-margin), difference.p_below(margin))


def prediction_interval(published: Published, n: int, level: float = 1 - ALPHA) -> tuple[float, float] | None:
    """Where the mean of ``n`` new runs falls with probability ``level`` if they are like the published ones (Patil, Peng and Leek 2016).

    Uses the published standard deviation alone, ``m0 +- t(n0 - 1) s0 sqrt(1 / n0 + 1 / n)``; None without one.
    """
    _probability("level", level)
    if published.std is None:
        return None
    std, n0 = published.error
    half = published.rounding + float(stats.t.ppf((1 + level) / 2, n0 - 1)) * std * math.sqrt(1 / n0 + 1 / n)
    return published.mean - half, published.mean + half


# --- a published cell ---


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


def judge_cell(values: Sequence[float], published: Published | None, margin: float, alpha: float = ALPHA) -> CellVerdict:
    """Verdict on a published cell from one value per seed of ours.

    ``reproduced``: TOST rejects at ``alpha``; ``above`` / ``below``: the (1 - alpha) interval of the difference lies beyond the margin;
    ``undecided``: neither, and ``limited_by`` says whose error is to blame; ``no reference``: no number (or, for Welch, no std) is
    published; ``not run``: no values.

    :param margin: points within which two means count as equal.
    """
    _margin(margin)
    _probability("alpha", alpha)
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
    return CellVerdict(ours, _column(ours, published, margin, alpha), constant, inside, published_leaves(published, alpha))


def verdict(difference: Estimate, margin: float, alpha: float = ALPHA) -> Verdict:
    """``reproduced``, ``above``, ``below`` or ``undecided``: at most one of the first three can be true of one difference."""
    if tost(difference, margin) < alpha:
        return "reproduced"
    if difference.p_above(margin) < alpha / 2:
        return "above"
    if difference.p_below(-margin) < alpha / 2:
        return "below"
    return "undecided"


def published_leaves(published: Published, alpha: float = ALPHA) -> float:
    """Half-width of TOST's interval, in points, that the published n0 and std leave when our own error is zero."""
    within, _ = _thresholds(0.0, math.inf, published, 0.0, alpha)
    return 0.0 - float(within)


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
    within, beyond = _thresholds(std, more, published, margin, alpha)
    decided = (abs(difference.value) < within) | (abs(difference.value) > beyond)
    needed = seeds_needed(std, published, margin, difference.value, alpha=alpha, more_than=ours.n)
    return replace(column, limited_by="ours" if decided.any() else "published", seeds_needed=needed)


# --- what the seeds of the two sides vary ---

PUBLISHED_VARIED = {"slca": "class_order"}
"""What the seeds of a paper vary, in the words of a record's ``varied``, where that is known (F2)."""


def comparable(varied: str, paper: str) -> bool | None:
    """Whether a std over seeds that vary ``varied`` (of a record) is of the kind that the paper prints; None where it does not say."""
    return varied == PUBLISHED_VARIED[paper] if paper in PUBLISHED_VARIED else None


def caveats(varied: Collection[str], seeds: Collection[int], published_seeds: Collection[int], paper: str) -> list[str]:
    """What a reader of Welch's column has to know because the two sides' seeds are not alike, or not independent; a sentence each.

    :param varied: what our seeds vary, of every record.
    :param seeds: our seeds.
    :param published_seeds: the paper's own; empty if it does not name them.
    """
    kinds = {kind: kind.replace("_", " ").replace("+", " and ") for kind in sorted(set(varied))}
    notes = []
    if len(kinds) > 1:
        notes.append(f"the seeds of some runs vary {', of others '.join(kinds.values())}: their std is of no one kind, keep one")
    for kind, words in kinds.items():
        if comparable(kind, paper) is None:
            notes.append(f"the paper does not say what its seeds vary, ours vary {words}: the two stds may be of different kinds")
        elif not comparable(kind, paper):
            theirs = PUBLISHED_VARIED[paper].replace("_", " ")
            notes.append(
                f"the published std covers {theirs} only (F2), ours {words}: the two stds are not comparable, "
                f"run with seeding={PUBLISHED_VARIED[paper]}"
            )
    if PUBLISHED_VARIED.get(paper) == "class_order" and kinds and published_seeds:
        if shared := sorted(set(seeds) & set(published_seeds)):
            notes.append(
                f"of the class orders {len(shared)} are the paper's own (seeds {', '.join(map(str, shared))}): both means share their "
                "effects, and Welch, which takes the two sides as independent, is conservative"
            )
        if new := set(seeds) - set(published_seeds):
            notes.append(f"of the class orders {len(new)} are new ones, which the paper did not run")
    return notes


# --- planning ---


def verdict_probabilities(
    our_std: float,
    n: float,
    published: Published,
    margin: float,
    difference: float = 0.0,
    alpha: float = ALPHA,
    given_published: bool = True,
) -> dict[str, float]:
    """Probabilities of ``reproduced``, ``above``, ``below`` and ``undecided``, by quadrature over the sample standard deviations.

    With margin 0 ``reproduced`` cannot happen and ``undecided`` is the coverage of Welch's interval.

    :param our_std: true standard deviation of our runs.
    :param n: number of our seeds, at least 2; ``math.inf`` for the limit.
    :param difference: our true mean less the printed mean (``given_published``), or less the true published mean.
    :param given_published: the printed mean and std are facts and only our seeds are drawn; otherwise the printed std is the true one,
        and the published side is drawn as well: what one could expect before the paper was written.
    """
    _margin(margin)
    _probability("alpha", alpha)
    if not n >= 2:
        raise ValueError(f"n is {n}: at least 2 seeds are needed for a standard deviation")
    if not 0 <= our_std < math.inf:
        raise ValueError(f"our_std is {our_std}: a finite number that is not negative is needed")
    std0, n0 = published.error
    std, weight = _sample_stds(our_std, n)
    variance = our_std**2 / n
    if given_published or std0 == 0:
        within, beyond = _thresholds(std, n, published, margin, alpha)
    else:
        drawn, drawn_weight = _sample_stds(std0, n0)
        error, df = _welch_error(std[:, None], n, drawn[None, :], n0)
        within, beyond = _thresholds_of(error, df, n, published.rounding, margin, alpha)
        weight = weight[:, None] * drawn_weight[None, :]
        variance += std0**2 / n0
    # a scale of exactly 0 would divide 0 by 0 where the difference lies on a threshold
    law = (difference, max(math.sqrt(variance), 1e-12))
    inside = np.maximum(within, 0.0)
    reproduced = float(np.sum(weight * (stats.norm.cdf(inside, *law) - stats.norm.cdf(-inside, *law))))
    above, below = float(np.sum(weight * stats.norm.sf(beyond, *law))), float(np.sum(weight * stats.norm.cdf(-beyond, *law)))
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
    """Smallest number of our seeds, up to ``max_seeds``, that decides (reproduced, above, below) with probability ``power``; None if none.

    Every number is tried, because power is not monotone in it. The printed mean and std are facts here; our true mean lies ``difference``
    from the printed one. :func:`published_leaves` says what the published side alone leaves open. ``more_than`` seeds are there already.
    """
    _probability("power", power)
    for n in range(max(2, more_than + 1), max_seeds + 1):
        if 1 - verdict_probabilities(our_std, n, published, margin, difference, alpha)["undecided"] >= power:
            return n
    return None


def _sample_stds(std: float, n: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights (Gauss-Legendre in probability) of the sample standard deviation of ``n`` normal values; shapes (k,) and (k,)."""
    if math.isinf(n) or std == 0:
        return np.array([std]), np.array([1.0])
    nodes, weights = _gauss_legendre()
    return std * np.sqrt(stats.chi2.ppf((nodes + 1) / 2, n - 1) / (n - 1)), weights / 2


@cache
def _gauss_legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # finding the nodes takes longer than all the rest of a probability
    return np.polynomial.legendre.leggauss(80)


def _welch_error(std: ArrayLike, n: ArrayLike, std0: ArrayLike, n0: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard error of the difference and its degrees of freedom (the smaller side's where there is no spread), elementwise."""
    n, n0 = np.asarray(n, dtype=float), np.asarray(n0, dtype=float)
    ours, theirs = np.square(std) / n, np.square(std0) / n0
    total = np.asarray(ours + theirs)
    spread = total > NO_SPREAD**2
    with np.errstate(invalid="ignore"):
        df = np.where(spread, np.square(total) / (np.square(ours) / (n - 1) + np.square(theirs) / (n0 - 1)), np.minimum(n, n0) - 1)
    return np.where(spread, np.sqrt(total), 0.0), df


def _thresholds(std: Any, n: Any, published: Published, margin: float, alpha: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """|difference| below the first means reproduced, above the second above or below; elementwise over our std and n."""
    error, df = _welch_error(std, n, *published.error)
    return _thresholds_of(error, df, n, published.rounding, margin, alpha)


def _thresholds_of(
    error: Any, df: Any, n: Any, rounding: float, margin: float, alpha: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    def half_width(tail: float) -> NDArray[np.float64]:
        without_spread = np.where(np.exp2(-np.asarray(n, dtype=float)) < tail, 0.0, math.inf)
        return np.where(error > 0, error * stats.t.ppf(1 - tail, df), without_spread)

    return margin - rounding - half_width(alpha), margin + rounding + half_width(alpha / 2)


# --- claims ---


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Estimate):
    """Mean over seeds of a - b, with the seeds it rests on; ``unmatched`` seeds have only one of the two and are left out."""

    std: float | None
    seeds: tuple[int, ...]
    unmatched: tuple[int, ...]

    @property
    def effect_size(self) -> float | None:
        """Cohen's d_z, the mean difference over the standard deviation of the differences; None without spread.

        Too large on average where seeds are few (by a quarter at n = 5, a tenth at n = 10): see :attr:`hedges_g`.
        """
        return self.value / self.std if self.std else None

    @property
    def hedges_g(self) -> float | None:
        """d_z without its small-sample bias: times J(n - 1) (Hedges, J. Educ. Stat. 1981); None without spread or for n < 3.

        With two differences d_z has no mean that could be corrected.
        """
        if self.effect_size is None or self.n < 3:
            return None
        df = self.n - 1
        return self.effect_size * math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)

    @property
    def p_different(self) -> float:
        """Two-sided p-value against "a and b are alike"."""
        return min(1.0, 2 * min(self.p_above(0.0), self.p_below(0.0)))

    @property
    def p_superior(self) -> float:
        """One-sided p-value against "a is not better than b"."""
        return self.p_above(0.0)

    def p_noninferior(self, margin: float) -> float:
        """One-sided p-value against "a is worse than b by ``margin`` points or more"."""
        _margin(margin)
        return self.p_above(-margin)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> PairedDifference | None:
    """Difference a - b over the seeds that both have (seed -> value); None when there is no such seed.

    :raises ValueError: when a value is not finite.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        return None
    mean, std, n = _moments([a[seed] - b[seed] for seed in seeds])
    return PairedDifference(
        value=mean,
        standard_error=None if std is None else std / math.sqrt(n),
        df=None if std is None else n - 1,
        n=n,
        std=std,
        seeds=seeds,
        unmatched=tuple(sorted(a.keys() ^ b.keys())),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Scand. J. Statist. 1979), in the order given.

    A test not yet made enters as 1, so that the family keeps its size.

    :raises ValueError: for a p-value outside 0..1.
    """
    p = np.asarray(p_values, dtype=float)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p-values are {list(p_values)}: each must lie in 0..1; pass 1 for a test that was not made")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))), 1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Judgement:
    """Outcome of a claim, and its p-values after Holm over its family.

    ``p`` speaks for the claim (small: it holds), ``reverse_p`` against it (small: it is contradicted).
    """

    outcome: Outcome
    p: float
    reverse_p: float


def judge_claim(kind: ClaimKind, difference: PairedDifference | None, margin: float = 0.0, alpha: float = ALPHA) -> Outcome:
    """Outcome of one claim about a - b that stands alone.

    ``superior`` holds if its p-value is below ``alpha`` and is contradicted if the (1 - alpha) interval lies below 0. ``noninferior``
    holds if the one-sided lower bound lies above ``-margin`` and is contradicted if the (1 - alpha) interval lies below ``-margin``. Else
    ``undecided``; ``not run`` without seeds.

    :param margin: points; positive for ``noninferior``, 0 for ``superior``.
    """
    (judged,) = judge_family([(kind, difference, margin)], alpha)
    return judged.outcome


def claim_p(kind: ClaimKind, difference: PairedDifference | None, margin: float = 0.0) -> float:
    """One-sided p-value that speaks for a claim, before Holm; 1 when nothing was run.

    :raises ValueError: for an unknown kind, or a margin that does not go with it.
    """
    if kind not in ("superior", "noninferior"):
        raise ValueError(f"claim kind is {kind!r}: choose 'superior' or 'noninferior'")
    _margin(margin)
    if (kind == "noninferior") != (margin > 0):
        raise ValueError(f"a claim of kind {kind!r} has margin {margin}: 'noninferior' needs a positive one, 'superior' has none (0)")
    if difference is None:
        return 1.0
    return difference.p_superior if kind == "superior" else difference.p_noninferior(margin)


def judge_family(claims: Sequence[tuple[ClaimKind, PairedDifference | None, float]], alpha: float = ALPHA) -> list[Judgement]:
    """Judge every claim (kind, difference, margin) of one family; claims not run keep their place in it.

    Holm runs twice: over the p-values for the claims at ``alpha``, which is how likely any false ``holds`` is at most, and over those of
    the reverse sides ("a - b lies below ``-margin``") at ``alpha / 2``, one tail of the (1 - alpha) interval, as likely as any false
    ``contradicted`` is at most.
    """
    _probability("alpha", alpha)
    p_values = holm([claim_p(*claim) for claim in claims])
    reverse = holm([1.0 if difference is None else difference.p_below(-margin) for _, difference, margin in claims])

    def outcome(difference: PairedDifference | None, p: float, reverse_p: float) -> Outcome:
        if difference is None:
            return "not run"
        return "holds" if p < alpha else "contradicted" if reverse_p < alpha / 2 else "undecided"

    found = zip(claims, p_values, reverse, strict=True)
    return [Judgement(outcome(difference, p, reverse_p), p, reverse_p) for (_, difference, _), p, reverse_p in found]


# --- factorial designs ---


def factorial_effects(runs: Mapping[frozenset[str], Mapping[int, float]]) -> dict[frozenset[str], PairedDifference]:
    """Main and interaction effects in a full factorial of k factors at two levels, paired by seed; by size, then by name.

    The effect of some factors is the mean of the cells that lack an even number of them (0 counts) less the mean of the other cells: its
    contrast divided by 2^(k - 1). Of one factor that is the mean with it less the mean without it; of two, half of what the effect of one
    gains from the other; each averaged over the factors that are not named. The seeds that count are those of all cells.

    :param runs: cell (the factors that are present; none is a cell too) -> seed -> value; all 2^k cells of the factors that occur.
    :return: non-empty set of factors -> effect; nothing when no seed is common to all cells.
    :raises ValueError: a cell has no runs, no factor occurs, or a value is not finite.
    """
    factors = sorted(frozenset[str]().union(*runs))
    cells = [frozenset(cell) for size in range(len(factors) + 1) for cell in itertools.combinations(factors, size)]
    if not factors:
        raise ValueError("runs have no factor: give a cell for every combination of at least one")
    if missing := [" + ".join(sorted(cell)) or "none" for cell in cells if not runs.get(cell)]:
        raise ValueError(f"no runs with these of the factors {', '.join(factors)}: {'; '.join(missing)}; all {len(cells)} cells are needed")
    common = frozenset.intersection(*(frozenset(runs[cell]) for cell in cells))
    incomplete = frozenset().union(*(runs[cell] for cell in cells)) - common
    effects = {}
    for effect in cells[1:]:
        even, odd = (
            {seed: float(np.mean([runs[cell][seed] for cell in cells if len(effect - cell) % 2 == parity])) for seed in common}
            for parity in (0, 1)
        )
        if difference := paired_difference(even, odd):
            effects[effect] = replace(difference, unmatched=tuple(sorted(incomplete)))
    return effects


def _moments(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, sample standard deviation (None for one value) and number."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"values are {list(values)}: a flat, non-empty sequence of finite numbers is needed")
    # sorted, so that the order of the seeds does not reach the last bit
    array = np.sort(array)
    mean = float(array.mean())
    if array.size == 1:
        return mean, None, 1
    std = float(array.std(ddof=1))
    return mean, std if std > NO_SPREAD else 0.0, array.size


def _margin(margin: float) -> None:
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin is {margin}: a finite number of points that is not negative is needed")


def _probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}: a probability strictly between 0 and 1 is needed")
