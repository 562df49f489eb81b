"""Differences, intervals and p-values in words: with as many digits as it takes to see on which side of a bound they
are, because verdicts hang on it.
"""

from __future__ import annotations

from .estimates import ALPHA, NO_SPREAD, Estimate


def signed(value: float, unit: str = "points") -> str:
    """With a sign and two decimals (nats: four), or as many as it takes to tell it from 0."""
    if abs(value) <= NO_SPREAD:
        return "0"
    digits = 4 if unit == "nats" else 2
    while not round(value, digits):
        digits += 1
    return f"{value:+.{digits}f}"


def span(interval: tuple[float, float] | None, unit: str = "points") -> str:
    """An interval of a difference, such as "+0.10 to +1.30"."""
    return f"{signed(interval[0], unit)} to {signed(interval[1], unit)}" if interval else "-"


def bracketed(estimate: Estimate, unit: str = "points") -> str:
    """A difference with its 95% interval, such as "+0.70 [+0.10, +1.30]"; alone where one value has no interval, and
    without spread, whose interval of no width would say that it is exact.
    """
    interval = estimate.interval()
    spread = (
        f" [{signed(interval[0], unit)}, {signed(interval[1], unit)}]" if interval and estimate.standard_error else ""
    )
    return f"{signed(estimate.value, unit)}{spread}"


def p_in_words(p: float | None, bound: float = ALPHA) -> str:
    """Two digits, or as many as it takes to be on the right side of the bound."""
    if p is None:
        return "-"
    return next((text for d in range(2, 17) if (float(text := f"{p:.{d}g}") < bound) == (p < bound)), f"{p:g}")
