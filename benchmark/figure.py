"""The picture of a leaderboard: means and intervals of one stream as an SVG, the same bytes from the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .statistics import MeanInterval

WIDTH, LABELS, ROW, TOP, BOTTOM = 760, 250, 26, 46, 46


def dot_plot(title: str, axis: str, entries: Sequence[tuple[str, MeanInterval]]) -> str:
    """A row per entry: its mean as a dot with the 95% interval as a bar, in percent; readable on light and on dark pages."""
    height = TOP + ROW * len(entries) + BOTTOM
    # dots, unlike bars, need no zero: the axis begins and ends at the tens around the intervals
    ends = [end for _, e in entries for end in e.interval or (e.mean,)]
    bottom, top = max(0, 10 * int(min(ends) // 10)), min(100, 10 * (int(max(ends) // 10) + 1))

    def x(percent: float) -> str:
        return f"{LABELS + (WIDTH - LABELS - 70) * (percent - bottom) / (top - bottom):.1f}"

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        "<style>text{fill:#24292f}.grid{stroke:#8c959f;stroke-opacity:.35}.mark{stroke:#0072b2;fill:#0072b2}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.mark{stroke:#56b4e9;fill:#56b4e9}}</style>",
        f'<text x="8" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for tick in range(bottom, top + 1, 10):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{TOP - 8}" y2="{height - BOTTOM + 4}"/>')
        parts.append(f'<text x="{x(tick)}" y="{height - BOTTOM + 20}" text-anchor="middle">{tick}</text>')
    for row, (label, summary) in enumerate(entries):
        y = TOP + ROW * row + ROW // 2
        parts.append(f'<text x="{LABELS - 10}" y="{y + 4}" text-anchor="end">{escape(label)}</text>')
        if summary.interval:
            low, high = summary.interval
            parts.append(f'<line class="mark" stroke-width="3" x1="{x(max(low, bottom))}" x2="{x(min(high, top))}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="mark" cx="{x(summary.mean)}" cy="{y}" r="5"/>')
        parts.append(f'<text x="{WIDTH - 8}" y="{y + 4}" text-anchor="end">{summary.mean:.1f}</text>')
    parts.append(f'<text x="{x((top + bottom) / 2)}" y="{height - 4}" text-anchor="middle">{escape(axis)}</text>')
    return "\n".join([*parts, "</svg>", ""])
