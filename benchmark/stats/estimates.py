"""Means, differences and their intervals over a few seeds.

Everything here is a Student-t estimate (:class:`Estimate`). There are three kinds: our mean against a published one
(Welch), our mean against a printed value treated as a constant (one sample), and one method against another (paired).
The distributions come from ``scipy.stats``. Nothing is rounded here.

Special cases:

- One value has no standard deviation: there is no interval, every p-value is 1, and the verdict is ``undecided``.
- No spread (all values equal, standard deviation 0): the interval shrinks to a point, which is not a measure of
  certainty. The p-values are then those of the exact sign test, ``2 ** -n`` on the side of the values. Two equal values
  never decide, six do.
- Printed numbers are rounded. ``Published.rounding`` is half a unit of the last digit. The printed mean may be off by
  it, and the printed standard deviation is increased by it (so "0.0" printed to 0.1 counts as 0.05). Both only make it
  harder to decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

ALPHA = 0.05

NO_SPREAD = 1e-9
"""Standard deviations and differences below this (in points) are rounding errors of equal values and count as 0."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean or a difference of means whose error follows Student's t.

    ``standard_error`` and ``df`` are None when the error is unknown (one value). ``n`` is the number of our own values.
    ``rounding`` is how far the estimate may be off because a printed number in it was rounded. All are in the unit of
    the values (points).
    """

    value: float
    standard_error: float | None
    df: float | None
    n: int
    rounding: float = 0.0

    def interval(self, level: float = 1 - ALPHA) -> tuple[float, float] | None:
        """Two-sided interval, widened by the rounding on both sides; None without a standard error."""
        require_probability("level", level)
        if self.standard_error is None or self.df is None:
            return None
        half = self.rounding + (
            self.standard_error * float(stats.t.ppf((1 + level) / 2, self.df)) if self.standard_error > 0 else 0.0
        )
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
        return 2.0**-self.n if distance > NO_SPREAD else 1.0


@dataclass(frozen=True)
class MeanInterval:
    """Mean, sample standard deviation (n - 1) and t interval of ``n`` values; the last two are None for n = 1."""

    mean: float
    std: float | None
    n: int
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        """Mean and half-width of the interval, such as "62.30 ± 0.50"; the mean alone where there is no interval or
        no spread, since "± 0.00" would say that it is exact.
        """
        if self.interval is None or self.std == 0:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ± {(self.interval[1] - self.interval[0]) / 2:.2f}"


@dataclass(frozen=True)
class Published:
    """A printed result: mean, standard deviation (n - 1) over ``n`` runs,
    and half a unit of the last printed digit, in points.

    Without ``std`` the mean can only be treated as a constant.

    :raises ValueError: a number is not finite, the std or rounding is negative, or the std is over fewer than 2 runs.
    """

    mean: float
    std: float | None = None
    n: int | None = None
    rounding: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.mean):
            raise ValueError(f"published mean is {self.mean}: it must be a finite number")
        if not 0 <= self.rounding < math.inf:
            raise ValueError(
                f"published rounding is {self.rounding}: give half a unit of the last printed digit, or 0 if unknown"
            )
        if self.std is not None and not 0 <= self.std < math.inf:
            raise ValueError(f"published std is {self.std}: give a finite number of at least 0, or None if not printed")
        if self.std is not None and (self.n is None or self.n < 2):
            raise ValueError(
                f"published std {self.std} over {self.n} runs: a std needs at least 2; pass std=None for a single run"
            )

    def as_constant(self) -> Published:
        """The printed mean without its standard deviation; its rounding stays."""
        return replace(self, std=None, n=None)

    @property
    def error(self) -> tuple[float, float]:
        """Standard deviation plus rounding, and number of runs; (0, infinity) if the mean is a constant."""
        return (0.0, math.inf) if self.std is None or self.n is None else (self.std + self.rounding, float(self.n))


def mean_interval(values: Sequence[float], level: float = 1 - ALPHA) -> MeanInterval:
    """Mean, sample standard deviation and two-sided Student-t interval of one value per seed.

    :raises ValueError: there are no values, or one is not finite.
    """
    mean, std, n = moments(values)
    df = None if std is None else n - 1
    estimate = Estimate(value=mean, standard_error=None if std is None else std / math.sqrt(n), df=df, n=n)
    return MeanInterval(mean, std, n, estimate.interval(level))


def welch(ours: MeanInterval, published: Published) -> Estimate:
    """Our mean minus the published one: Welch's t (Biometrika 1947) with Satterthwaite's degrees of freedom.

    For a published mean without std this is the one-sample t: the printed value is a constant.
    """
    difference = ours.mean - published.mean
    if ours.std is None:
        return Estimate(value=difference, standard_error=None, df=None, n=ours.n, rounding=published.rounding)
    error, df = welch_error(ours.std, ours.n, *published.error)
    return Estimate(value=difference, standard_error=float(error), df=float(df), n=ours.n, rounding=published.rounding)


def tost(difference: Estimate, margin: float) -> float:
    """p-value of TOST (Schuirmann 1987) against "the true difference is ``margin`` points or more in
    either direction".
    """
    require_margin(margin)
    return max(difference.p_above(-margin), difference.p_below(margin))


def prediction_interval(published: Published, n: int, level: float = 1 - ALPHA) -> tuple[float, float] | None:
    """Interval that contains the mean of ``n`` new runs with probability ``level`` if they are like the published ones.

    Patil, Peng and Leek (2016). It uses the published standard deviation only: ``m0 +- t(n0 - 1) s0 sqrt(1 / n0 + 1 /
    n)``. None without one.
    """
    require_probability("level", level)
    if published.std is None:
        return None
    std, n0 = published.error
    half = published.rounding + float(stats.t.ppf((1 + level) / 2, n0 - 1)) * std * math.sqrt(1 / n0 + 1 / n)
    return published.mean - half, published.mean + half


def welch_error(
    std: ArrayLike, n: ArrayLike, std0: ArrayLike, n0: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Standard error of the difference and its degrees of freedom, elementwise; without spread, the
    smaller side's df.
    """
    n, n0 = np.asarray(n, dtype=float), np.asarray(n0, dtype=float)
    ours, theirs = np.square(std) / n, np.square(std0) / n0
    total = np.asarray(ours + theirs)
    spread = total > NO_SPREAD**2
    with np.errstate(invalid="ignore"):
        df = np.where(
            spread, np.square(total) / (np.square(ours) / (n - 1) + np.square(theirs) / (n0 - 1)), np.minimum(n, n0) - 1
        )
    return np.where(spread, np.sqrt(total), 0.0), df


def moments(values: Sequence[float]) -> tuple[float, float | None, int]:
    """Mean, sample standard deviation (None for one value) and number of values."""
    array = np.asarray(values, dtype=float)
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"values are {list(values)}: give a flat, non-empty sequence of finite numbers")
    # sorted, so that the result does not depend on the order of the seeds, down to the last bit
    array = np.sort(array)
    mean = float(array.mean())
    if array.size == 1:
        return mean, None, 1
    std = float(array.std(ddof=1))
    return mean, std if std > NO_SPREAD else 0.0, array.size


def require_margin(margin: float) -> None:
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin is {margin}: give a finite number of points, at least 0")


def require_probability(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} is {value}: give a probability strictly between 0 and 1")
