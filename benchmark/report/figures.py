"""Figures for papers and slides, by matplotlib, which is optional: every figure as SVG and as PNG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..papers.headers import papers
from ..stats.estimates import MeanInterval
from ..verdicts.cells import CellCheck
from ..verdicts.claims import ClaimVerdict
from .board import METRICS, Row, by_group, headline, label, tier_name
from .forest import forests, interval_of
from .page import published_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STYLES = (
    ("#0072b2", "-"),
    ("#d55e00", "--"),
    ("#009e73", ":"),
    ("#cc79a7", "-."),
    ("#000000", (0, (8, 3))),
    ("#e69f00", (0, (3, 2))),
)
"""Colours of Okabe and Ito with a dash pattern each, so that a figure can be read without its colours."""

PUBLISHED, RERUN = "#6b7680", "#d55e00"
VERDICTS: dict[str, str] = {"holds": "#009e73", "undecided": "#8a6d1a", "contradicted": "#d55e00", "not run": PUBLISHED}
LONGEST = 60
"""Most cells of a forest plot that can be read."""
HEAT, LIGHT = "Blues", 71.5
"""Of accuracy matrices: the colours, and the percent up to which black can be read on them better than white."""


def write(
    table: Sequence[Row], checks: Mapping[str, CellCheck], folder: Path, verdicts: Sequence[ClaimVerdict] = ()
) -> list[Path]:
    """Write the figures of every stream, of every family of claims (``claims-<tier>-<family>``) and of every published
    table (a forest plot, of a long one for each stream), each file as ``.svg`` and ``.png``; and ``card.png``, 1200 x
    630 pixels, the verdicts on the planned claims to be shared.

    :raises ValueError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("figures need matplotlib: pip install 'reclaim[figures]'") from None
    drawings: dict[str, Callable[[Figure], None]] = {}
    for stream in dict.fromkeys(row.stream for row in table):
        members = [row for row in table if row.stream == stream]
        drawings |= _of_stream(stream, members)
    run = [v for v in verdicts if v.difference]
    for tier, family in dict.fromkeys((v.claim.tier, v.claim.family) for v in run):
        of_family = [v for v in verdicts if (v.claim.tier, v.claim.family) == (tier, family)]
        drawings[f"claims-{tier}-{family}"] = _claims(of_family, f"{family.capitalize()} claims, {tier_name(tier)}")
    for name in dict.fromkeys(str(check.cell.table) for check in checks.values()):
        cells = [check for check in checks.values() if str(check.cell.table) == name]
        stem = f"cells-{name.replace('/', '-')}"
        if len(cells) <= LONGEST:
            drawings[stem] = _forest(cells)
            continue
        for stream in dict.fromkeys(check.cell.stream for check in cells):
            drawings[f"{stem}-{stream}"] = _forest([check for check in cells if check.cell.stream == stream])
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    # the salt names what an SVG file refers to within itself; without it the names are random
    style: Any = {
        "svg.hashsalt": "reclaim",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.parse_math": False,  # a dollar in somebody else's title is a dollar
    }
    with matplotlib.rc_context(style):
        for name, draw in drawings.items():
            figure = Figure(layout="constrained")
            draw(figure)
            for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
                paths.append(folder / f"{name}.{kind}")
                figure.savefig(paths[-1], dpi=150, metadata=metadata)
        tiers = {v.claim.tier for v in run}  # whose claims all count, also those that were not run
        if planned := [v for v in verdicts if v.claim.family == "confirmatory" and v.claim.tier in tiers]:
            figure = Figure(figsize=(12, 6.3))
            _card(figure, planned, checks)
            paths.append(folder / "card.png")
            figure.savefig(paths[-1], dpi=100, metadata={"Software": None})
    return paths


def _claims(verdicts: Sequence[ClaimVerdict], title: str) -> Callable[[Figure], None]:
    """Claims with their intervals in the colours of their verdicts, those in nats apart."""

    def draw(figure: Figure) -> None:
        run = [v for v in verdicts if v.difference]
        parts = forests(run)
        figure.set_size_inches(9, 1.1 + 0.22 * len(run) + 0.5 * len(parts))
        heights = [len(part.verdicts) + 1 for part in parts]
        for axes, part in zip(
            figure.subplots(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0], parts, strict=True
        ):
            for y, v in enumerate(part.verdicts):
                assert v.difference is not None
                colour, interval = VERDICTS[v.outcome], interval_of(v)
                axes.plot(interval, [y] * len(interval), color=colour, linewidth=1.8)
                axes.plot(
                    v.difference.value, y, "o", color=colour, markersize=4.5, fillstyle=_fill(v.outcome), zorder=3
                )
                if v.claim.margin:
                    axes.plot([-v.claim.margin] * 2, [y - 0.4, y + 0.4], ":", color=PUBLISHED, linewidth=1)
            axes.axvline(0, color="black", linewidth=1)
            axes.set_yticks(
                range(len(part.verdicts)), [f"{v.claim.text}: {v.outcome}" for v in part.verdicts], fontsize=7
            )
            axes.set_ylim(len(part.verdicts) - 0.5, -0.5)
            axes.grid(axis="x", alpha=0.3)
            axes.set_xlabel(f"difference in {part.unit}\nright of 0 supports the claim", fontsize=7)
        left = len(verdicts) - len(run)
        figure.suptitle(f"{title}{f', {left} not run' if left else ''}", fontsize=10)

    return draw


def _fill(outcome: str) -> Literal["none", "full"]:
    return "none" if outcome == "undecided" else "full"


def _card(figure: Figure, planned: Sequence[ClaimVerdict], checks: Mapping[str, CellCheck]) -> None:
    """A line for each paper and measured tier: how many of its planned claims hold, as words and as a bar."""
    keys = list(dict.fromkeys((v.claim.paper, v.claim.tier) for v in planned))
    several = len({tier for _, tier in keys}) > 1
    figure.text(0.06, 0.86, "Do the claims hold?", fontsize=40, weight="bold")
    axes = figure.add_axes((0.06, 0.2, 0.88, 0.58))
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(len(keys), 0)
    for line, (key, tier) in enumerate(keys):
        own = sorted(
            (v.outcome for v in planned if (v.claim.paper, v.claim.tier) == (key, tier)), key=list(VERDICTS).index
        )
        held = own.count("holds")
        paper = papers()[key]
        axes.text(0, line + 0.42, f"{paper.name}", fontsize=28, weight="bold")
        beside = f"{paper.venue}, {tier_name(tier)}" if several else paper.venue
        axes.text(0.17, line + 0.42, beside, fontsize=15 if several else 18, color=PUBLISHED)
        axes.text(1, line + 0.42, f"{held} of {len(own)} planned claims hold", fontsize=22, ha="right")
        for place, outcome in enumerate(own):
            axes.barh(
                line + 0.62,
                1 / len(own) - 0.008,
                0.2,
                left=place / len(own),
                color=VERDICTS[outcome] if outcome != "undecided" else "white",
                edgecolor=VERDICTS[outcome],
                hatch="//" if outcome == "undecided" else None,
            )
    run = sum(bool(check.runs) for check in checks.values())
    of_one = "" if several else f"{tier_name(keys[0][1])}; "
    said = f"Reclaim: {of_one}{run} of {len(checks)} published numbers run. Hatched: undecided."
    figure.text(0.06, 0.08, said, fontsize=18, color=PUBLISHED)


def _of_stream(stream: str, table: Sequence[Row]) -> dict[str, Callable[[Figure], None]]:
    drawn = headline(table, len(STYLES))
    drawings = {f"{stream}-last-acc": _dots(table)}
    for key, title, x, y in (
        ("accuracy", "accuracy", "tasks seen", "percent of their test images right"),
        ("entropy", "entropy", "epoch, over all experiences", "entropy of the training predictions, nats"),
    ):
        series = [(label(row, table), row.curves[key]) for row in drawn if len(row.curves[key]) > 1]
        if series:
            drawings[f"{stream}-{title}"] = _curves(table[0], x, y, series)
    for row in drawn:
        if len(row.matrices["accuracy"]) > 1:
            drawings[f"{stream}-matrix-{row.key}"] = _matrices(row)
    return drawings


def _warn(figure: Any, row: Row) -> None:
    """In small print, what the figure must not be taken for."""
    figure.supxlabel(row.note, fontsize=5, color=PUBLISHED)


def _dots(table: Sequence[Row]) -> Callable[[Figure], None]:
    """Last-Acc of all rows, by group."""

    def draw(figure: Figure) -> None:
        groups = by_group(table)
        figure.set_size_inches(6, 1.2 + 0.2 * len(table) + 0.4 * len(groups))
        parts = figure.subplots(
            len(groups), 1, sharex=True, squeeze=False, height_ratios=[len(rows) + 1 for _, rows in groups]
        )[:, 0]
        for axes, (group, rows) in zip(parts, groups, strict=True):
            for y, row in enumerate(rows):
                _dot(axes, row.numbers["last_acc"], y, STYLES[0][0])
            axes.set_yticks(range(len(rows)), [row.title for row in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.grid(axis="x", alpha=0.3)
            axes.set_title(str(group), loc="left", fontsize=8)
        parts[-1].set_xlabel("Last-Acc in percent, mean and 95% interval")
        figure.suptitle(table[0].stream, fontsize=10)
        _warn(figure, table[0])

    return draw


def _dot(axes: Axes, summary: MeanInterval, y: float, colour: str) -> None:
    if summary.interval:
        axes.plot(summary.interval, (y, y), color=colour, linewidth=1.8)
    axes.plot(summary.mean, y, "o", color=colour, markersize=4)


def _curves(row: Row, x: str, y: str, series: Sequence[tuple[str, Sequence[MeanInterval]]]) -> Callable[[Figure], None]:
    from matplotlib.ticker import MaxNLocator

    def draw(figure: Figure) -> None:
        figure.set_size_inches(6, 3.6)
        axes = figure.subplots()
        for (name, points), (colour, dashes) in zip(series, STYLES, strict=False):
            at = range(1, len(points) + 1)
            axes.plot(at, [p.mean for p in points], color=colour, linestyle=dashes, label=name)
            if all(p.interval for p in points):
                low, high = zip(*(p.interval for p in points if p.interval), strict=True)
                axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
        axes.set_title(f"{row.stream}, means with 95% intervals", loc="left", fontsize=10)
        _warn(figure, row)

    return draw


def _matrices(row: Row) -> Callable[[Figure], None]:
    """The accuracy matrix, task not known and task known."""

    def draw(figure: Figure) -> None:
        size = len(row.matrices["accuracy"])
        figure.set_size_inches(2.4 + 0.5 * size, 1.4 + 0.25 * size)
        for axes, key, title in zip(
            figure.subplots(1, 2), ("accuracy", "accuracy_task_known"), ("task not known", "task known"), strict=True
        ):
            square = [[*line, *[float("nan")] * (size - len(line))] for line in row.matrices[key]]
            axes.imshow(square, cmap=HEAT, vmin=0, vmax=100)
            for t, line in enumerate(row.matrices[key]):
                for i, value in enumerate(line):
                    axes.text(
                        i,
                        t,
                        f"{value:.0f}",
                        ha="center",
                        va="center",
                        fontsize=6,
                        color="white" if value > LIGHT else "black",
                    )
            axes.set_xticks(range(size), range(1, size + 1), fontsize=6)
            axes.set_yticks(range(size), range(1, size + 1), fontsize=6)
            axes.set_xlabel("on task")
            axes.set_title(title, fontsize=8)
        figure.axes[0].set_ylabel("after task")
        figure.suptitle(f"{row.title}, {row.stream}: percent right", fontsize=9)
        _warn(figure, row)

    return draw


def _forest(checks: Sequence[CellCheck]) -> Callable[[Figure], None]:
    """The cells of a table: published, what others got, ours."""

    def draw(figure: Figure) -> None:
        figure.set_size_inches(7, 1.4 + 0.2 * len(checks))
        axes = figure.subplots()
        for y, check in enumerate(checks):
            published = check.cell.published
            axes.fill_betweenx(
                (y - 0.45, y + 0.45), published.mean - check.margin, published.mean + check.margin, color="#eceff1"
            )
            if interval := published_interval(published):
                axes.plot(interval, (y - 0.15, y - 0.15), color=PUBLISHED, linewidth=1.5)
            axes.plot(published.mean, y - 0.15, "s", color=PUBLISHED, markersize=3.5)
            for again in check.cell.reruns:
                axes.plot(again.value, y - 0.15, "D", color=RERUN, fillstyle="none", markersize=3.5)
            if check.judged and check.judged.ours:
                _dot(axes, check.judged.ours, y + 0.2, STYLES[0][0])
        names = [
            f"{c.cell.method} ({c.cell.id.split('/')[2]}), {c.cell.stream}, {METRICS[c.cell.metric]}: {c.words}"
            for c in checks
        ]
        axes.set_yticks(range(len(checks)), names, fontsize=6)
        axes.set_ylim(len(checks) - 0.5, -0.5)
        axes.grid(axis="x", alpha=0.3)
        axes.set_xlabel(
            "percent\nsquare: published, with its 95% interval; diamond: others; dot: ours; band: margin", fontsize=7
        )
        axes.set_title(str(checks[0].cell.table), loc="left", fontsize=9)

    return draw
