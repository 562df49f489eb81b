"""Pictures as inline SVG: the geometry is made here, the markup by templates/; the same bytes from the same numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2

from ..stats.estimates import MeanInterval


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
        rough = (most - least) / steps or 1.0
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


# --- curves ---


@dataclass(frozen=True)
class Curve:
    """A line through the means and the band of their intervals, as SVG path data; ``band`` is empty where there are
    none.
    """

    key: str
    label: str
    line: str
    band: str


@dataclass(frozen=True)
class Chart:
    """Curves over 1, 2, ..., n on common axes."""

    title: str
    x_label: str
    y_label: str
    x: Scale
    y: Scale
    curves: tuple[Curve, ...]
    width: int
    height: int


def chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[tuple[str, str, Sequence[MeanInterval]]],
    size: tuple[int, int] = (560, 300),
    limits: tuple[float, float] = (0.0, 100.0),
) -> Chart | None:
    """A chart of series (key, label, a mean and interval at 1, 2, ...); None when none has two points."""
    width, height = size
    longest = max((len(points) for _, _, points in series), default=0)
    if longest < 2:
        return None
    x = Scale(1, longest, math.ceil((longest - 1) / 10), 44, width - 12)
    y = Scale.around(ends(p for _, _, points in series for p in points), height - 40, 12, limits=limits)
    curves = tuple(
        Curve(key, label, _line([p.mean for p in points], x, y), _band(points, x, y)) for key, label, points in series
    )
    return Chart(title, x_label, y_label, x, y, curves, width, height)


def _line(values: Sequence[float], x: Scale, y: Scale) -> str:
    return "M" + "L".join(f"{x.at(t)} {y.at(value)}" for t, value in enumerate(values, start=1))


def _band(points: Sequence[MeanInterval], x: Scale, y: Scale) -> str:
    intervals = [point.interval for point in points]
    if None in intervals:
        return ""
    upper = [f"{x.at(t)} {y.at(i[1])}" for t, i in enumerate(intervals, start=1) if i]
    lower = [f"{x.at(t)} {y.at(i[0])}" for t, i in enumerate(intervals, start=1) if i]
    return "M" + "L".join(upper + lower[::-1]) + "Z"


# --- means with their intervals, a row each ---

WIDTH, LABELS, ROW, HEADING, TOP, BOTTOM = 760, 250, 24, 30, 46, 46


def dot_plot(title: str, axis: str, groups: Sequence[tuple[str, Sequence[tuple[str, MeanInterval]]]]) -> str:
    """A row per entry of each group: its mean as a dot with the 95% interval as a bar, in percent; readable on light
    and on dark pages.

    Dots, unlike bars, need no zero: the axis begins and ends around the intervals.
    """
    x = Scale.around(ends(e for _, entries in groups for _, e in entries), LABELS, WIDTH - 70, limits=(0, 100))
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
            width=WIDTH,
            labels=LABELS,
            top=TOP,
            bottom=y,
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
    """A row per bar of each group, in percent; readable on light and on dark pages."""
    values = [end for _, bars in groups for bar in bars for end in (bar.before, bar.after, *(bar.interval or ()))]
    x = Scale.around(values, LABELS, WIDTH - 70, limits=(0, 100))
    placed, y = [], TOP
    for heading, bars in groups:
        y += HEADING
        placed.append((heading, y - 12, [(bar, y + ROW * row + ROW // 2) for row, bar in enumerate(bars)]))
        y += ROW * len(bars)
    return (
        templates()
        .get_template("waterfall.svg")
        .render(title=title, axis=axis, groups=placed, x=x, width=WIDTH, labels=LABELS, top=TOP, bottom=y)
    )
