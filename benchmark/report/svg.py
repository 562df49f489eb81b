"""Pictures as inline SVG: the geometry is made here, the markup by templates/; the same bytes from the same numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from ..stats.estimates import Estimate, MeanInterval


@functools.cache
def templates() -> jinja2.Environment:
    """The package's templates. Values are escaped, except in Markdown; a missing value is an error."""
    folder = resources.files("reclaim.benchmark.report") / "templates"
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=lambda name: name is None or not name.endswith(".md"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


@dataclass(frozen=True)
class Scale:
    """From numbers to pixels, linearly, with a tick at ``low`` and every ``step`` from there; values beyond the ends
    are drawn at the ends.

    Pixels are strings with at most one decimal, so that the last bits of a number do not show.
    """

    low: float
    high: float
    step: float
    start: float
    end: float

    @classmethod
    def around(
        cls,
        values: Iterable[float],
        start: float,
        end: float,
        steps: int = 6,
        limits: tuple[float, float] = (-math.inf, math.inf),
    ) -> Scale:
        """A scale that holds all values within the limits, in at most about ``steps`` steps of 1, 2 or 5 times a power
        of ten.
        """
        inside = [min(max(value, limits[0]), limits[1]) for value in values]
        least, most = min(inside), max(inside)
        rough = (most - least) / steps
        if rough <= 1e-9 * max(1.0, abs(most), abs(least)):  # equal but for rounding: no step could be told from 0
            rough = 1.0
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
        # a millionth of a step: a value on a tick is not beyond it by its rounding error
        low, high = step * math.floor(least / step + 1e-6), step * math.ceil(most / step - 1e-6)
        return cls(low, high if high > low else low + step, step, start, end)

    @property
    def ticks(self) -> list[float]:
        return [self.low + self.step * k for k in range(math.floor((self.high - self.low) / self.step + 1e-6) + 1)]

    def at(self, value: float) -> str:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        # adding 0 turns -0.0 into 0.0
        return f"{round(self.start + share * (self.end - self.start), 1) + 0:.1f}".removesuffix(".0")


def ends(summaries: Iterable[MeanInterval]) -> list[float]:
    """The ends of all intervals, and the means of what has none."""
    return [end for summary in summaries for end in summary.interval or (summary.mean,)]


# --- means with their intervals, a row each ---

PLOT, MEANS, ROW, HEADING, TOP = 440, 70, 24, 30, 46
"""Pixels: width of a plot, of the means beside it, and heights."""

LETTER = 7.5
"""Width of a letter of the labels in pixels, in the widest of the usual fonts."""


def _room(labels: Iterable[str]) -> int:
    """Width of the column of labels."""
    return max(250, math.ceil(18 + LETTER * max(map(len, labels), default=0)))


def dot_plot(title: str, axis: str, groups: Sequence[tuple[str, Sequence[tuple[str, MeanInterval]]]]) -> str:
    """A row per entry of each group: its mean as a dot with the 95% interval as a bar, in percent; readable on light
    and on dark pages.

    Dots, unlike bars, need no zero: the axis begins and ends around the intervals.
    """
    labels = _room(label for _, entries in groups for label, _ in entries)
    x = Scale.around(ends(e for _, entries in groups for _, e in entries), labels, labels + PLOT, limits=(0, 100))
    placed, y = [], TOP
    for heading, entries in groups:
        if len(groups) > 1:
            y += HEADING
        placed.append(
            (
                heading,
                y - 12,
                [(label, summary, y + ROW * row + ROW // 2) for row, (label, summary) in enumerate(entries)],
            )
        )
        y += ROW * len(entries)
    return (
        templates()
        .get_template("dot_plot.svg")
        .render(
            title=title,
            axis=axis,
            groups=placed,
            headed=len(groups) > 1,
            x=x,
            width=labels + PLOT + MEANS,
            labels=labels,
            top=TOP,
            bottom=y,
        )
    )


def effect_plot(title: str, axis: str, effects: Sequence[tuple[str, Estimate]]) -> str:
    """A row per effect (label, difference), on a scale that holds 0; readable on light and on dark pages. Empty without
    effects.
    """
    if not effects:
        return ""
    values = [end for _, e in effects for end in (0.0, *(e.interval() or (e.value,)))]
    labels = _room(label for label, _ in effects)
    x = Scale.around(values, labels, labels + PLOT)
    rows = [(label, e, TOP + 18 * k + 9) for k, (label, e) in enumerate(effects)]
    return (
        templates()
        .get_template("effects.svg")
        .render(
            title=title,
            axis=axis,
            rows=rows,
            x=x,
            width=labels + PLOT + MEANS,
            labels=labels,
            top=TOP,
            bottom=TOP + 18 * len(rows),
        )
    )


# --- from one mean to another, a step each ---


@dataclass(frozen=True)
class Bar:
    """A step from ``before`` to ``after``.

    :ivar interval: of ``after``; None where it has none.
    :ivar is_end: where the steps begin or end: ``after`` is drawn as a dot.
    """

    label: str
    before: float
    after: float
    interval: tuple[float, float] | None
    is_end: bool = False

    @property
    def shown(self) -> str:
        return f"{self.after:.1f}" if self.is_end else f"{round(self.after - self.before, 2) + 0.0:+.2f}"


def waterfall_plot(title: str, axis: str, groups: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """A row per bar of each group, on one scale of distances from where the group begins; readable on light and on dark
    pages.
    """
    labels = _room(bar.label for _, bars in groups for bar in bars)
    width = labels + PLOT + MEANS
    values = [
        end - bars[0].after
        for _, bars in groups
        for bar in bars
        for end in (bar.before, bar.after, *(bar.interval or ()))
    ]
    x = Scale.around(values, labels, labels + PLOT)
    placed, y = [], TOP
    for heading, bars in groups:
        y += HEADING
        rows = [(bar, y + ROW * row + ROW // 2) for row, bar in enumerate(bars)]
        placed.append((heading, y - 12, bars[0].after, rows))
        y += ROW * len(bars)
    return (
        templates()
        .get_template("waterfall.svg")
        .render(title=title, axis=axis, groups=placed, x=x, width=width, labels=labels, top=TOP, bottom=y)
    )
