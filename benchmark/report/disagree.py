"""docs/why-numbers-disagree.md: from the setting of a method's authors to that of each framework, a step for each
single difference, and what published re-runs say.

The steps are the records of recipes that turn one difference (``fact``); the re-runs are those of papers/reruns.toml.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..config import flatten, shown
from ..papers.facts import FACTS, Switch
from ..papers.published import Cell, cells
from ..papers.reruns import OtherRun, Summary, reruns
from ..recipes import RECIPES, Recipe
from ..records.record import Record, metric_of
from ..stats.estimates import mean_interval
from ..stats.paired import PairedDifference, paired_difference
from ..stats.words import bracketed, signed
from .svg import Bar, templates, waterfall_plot
from .tables import markdown_table

PICTURE = "why-numbers-disagree.svg"
METRIC = "last_acc"
METHODS = {"slca": "SLCA", "l2p": "L2P", "dualprompt": "DualPrompt"}
"""Recipes whose name with an @ is that method as others run it -> name of the method in papers/."""

Values = Mapping[str, Mapping[int, float]]
"""Recipe -> seed -> the metric on the home stream of the path, of one or more recipes."""


@dataclass(frozen=True)
class Path:
    """From one setting of a method to another's, in points of the metric, paired by seed.

    :ivar steps: recipes that each turn one thing of the start into what the end has -> its difference from the start.
    :ivar rest: settings in which the ends differ and that no step turns.
    :ivar total: the end less the start; None without a seed of both.
    :ivar left: the total less the sum of all steps, over seeds that all were run on: what steps do together, and what
        ``rest`` does.
    :ivar at: mean of the start over the seeds of the total.
    """

    start: Recipe
    end: Recipe
    steps: Mapping[str, PairedDifference | None]
    rest: tuple[str, ...]
    total: PairedDifference | None
    left: PairedDifference | None
    at: float | None


def start_of(method: str) -> Recipe | None:
    """The recipe from which the paths of a method start: as its authors run it, where that is not the plain one."""
    return RECIPES.get(f"{method}@authors") or RECIPES.get(method)


def paths(method: str, records: Sequence[Record]) -> list[Path]:
    """A path to each way in which others run a method, in the order of recipes.toml.

    :param method: of :data:`METHODS`.
    """
    start = start_of(method)
    others = [recipe for name, recipe in RECIPES.items() if name.startswith(f"{method}@") and recipe.fact is None]
    return [path(start, end, records) for end in others if start and end.name != start.name]


def path(start: Recipe, end: Recipe, records: Sequence[Record]) -> Path:
    """The path between two recipes. Its steps are the recipes that are named after the start, turn a fact and agree
    with the end in everything that they turn.
    """
    first, last = _settings(start), _settings(end)
    apart = {key for key in first.keys() | last.keys() if first.get(key) != last.get(key)}
    steps, covered = [], set()
    for recipe in RECIPES.values():
        if recipe.fact is None or recipe.name.rpartition(".")[0] != start.name or recipe.home != start.home:
            continue
        turned = _settings(recipe)
        keys = {key for key in first.keys() | turned.keys() if first.get(key) != turned.get(key)}
        if keys <= apart and all(turned.get(key) == last.get(key) for key in keys):
            steps.append(recipe.name)
            covered |= keys
    wanted = {start.name, end.name, *steps}
    values: dict[str, dict[int, float]] = {name: {} for name in wanted}
    for record in records:
        if record.recipe in wanted and record.stream == start.home:
            values[record.recipe][record.seed] = metric_of(record, METRIC)
    total = paired_difference(values[end.name], values[start.name])
    return Path(
        start,
        end,
        {name: paired_difference(values[name], values[start.name]) for name in steps},
        tuple(f"{key}={shown(last.get(key))}" for key in sorted(apart - covered)),
        total,
        _left(start.name, end.name, steps, values),
        statistics.fmean(values[start.name][seed] for seed in total.seeds) if total else None,
    )


def _left(start: str, end: str, steps: Sequence[str], values: Values) -> PairedDifference | None:
    seeds = set.intersection(*(set(values[name]) for name in (start, end, *steps)))
    total = {seed: values[end][seed] - values[start][seed] for seed in seeds}
    parts = {seed: sum(values[name][seed] - values[start][seed] for name in steps) for seed in seeds}
    return paired_difference(total, parts)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return flatten(asdict(recipe.config))


# --- the page ---


def page(records: Sequence[Record]) -> str:
    """The page in Markdown; what has no records says so.

    :param records: those that count (:func:`reclaim.benchmark.verdicts.counting.current`).
    """
    found = {method: paths(method, records) for method in METHODS}
    parts = [_of_method(method, of) for method, of in found.items() if of]
    return (
        templates()
        .get_template("disagree.md")
        .render(
            picture=PICTURE if picture(records) else "",
            methods="\n".join(parts),
            reruns=_beside(),
            details=_details(),
            inflora="\n".join(_seeds(summary) for summary in reruns().summaries),
        )
    )


def picture(records: Sequence[Record]) -> str:
    """The paths as SVG; empty where none was run."""
    groups = [(found.end.title, _bars(found)) for method in METHODS for found in paths(method, records) if found.total]
    if not groups:
        return ""
    return waterfall_plot(
        "From the authors' setting to each framework's",
        "Last-Acc on drawings: points from where each begins, with 95% intervals",
        groups,
    )


def _bars(found: Path) -> list[Bar]:
    """The start, a bar for each step, what is left, and the end. The last bars begin where the steps before end."""
    assert found.total is not None
    assert found.at is not None
    bars, at = [Bar(found.start.name, found.at, found.at, None, is_end=True)], found.at
    for name, difference in (*found.steps.items(), ("together, and the rest", found.left)):
        if difference is None:
            continue
        interval = difference.interval()
        ends = (at + interval[0], at + interval[1]) if interval else None
        bars.append(Bar(fact_of(name), at, at + difference.value, ends))
        at += difference.value
    interval = found.total.interval()
    ends = (found.at + interval[0], found.at + interval[1]) if interval else None
    end = found.at + found.total.value
    return [*bars, Bar(found.end.name, end, end, ends, is_end=True)]


def fact_of(name: str) -> str:
    """Such as "F61 batch size", of the recipe that turns it; the name itself, if it turns nothing."""
    recipe = RECIPES.get(name)
    fact = next((fact for fact in FACTS if recipe and fact.id == recipe.fact), None)
    return f"{fact.id} {_short(fact)}" if isinstance(fact, Switch) else name


def _short(switch: Switch) -> str:
    """The title without whose difference it is."""
    return switch.title.rpartition(": ")[2]


def _of_method(method: str, found: Sequence[Path]) -> str:
    start = found[0].start
    parts = [f"## {METHODS[method]}, as others run it\n"]
    for each in found:
        parts.append(f"### From `{start.name}` to `{each.end.name}`\n\n{each.end.description}\n")
        rows = [
            (f"**{fact_of(name).partition(' ')[0]}** {fact_of(name).partition(' ')[2]}", f"`{name}`", *_cells(diff))
            for name, diff in each.steps.items()
        ]
        rest = f"; besides {', '.join(f'`{setting}`' for setting in each.rest)}" if each.rest else ""
        rows.append((f"what they do together{rest}", "", *_cells(each.left)))
        rows.append((f"**all at once**{_from_to(each)}", f"`{each.end.name}`", *_cells(each.total)))
        parts.append(markdown_table(rows, ("difference", "recipe", "points", "95% interval", "n"), padded=False) + "\n")
    idle = [fact for fact in FACTS if isinstance(fact, Switch) and fact.paper == method and fact.cannot_act]
    if idle:
        listed = "; ".join(f"{fact.id} ({fact.title}): {fact.cannot_act}" for fact in idle)
        parts.append(f"Cannot act on drawings, and is in no bar: {listed}.\n")
    return "\n".join(parts)


def _from_to(found: Path) -> str:
    if found.total is None or found.at is None:
        return ""
    return f", from {found.at:.2f} to {found.at + found.total.value:.2f}"


def _cells(difference: PairedDifference | None) -> tuple[str, str, str]:
    if difference is None:
        return "not run", "-", "0"
    value, _, interval = bracketed(difference).partition(" ")
    same = f"the same in {difference.n} seeds" if difference.n > 1 else "-"
    return value, interval or same, str(difference.n)


# --- published re-runs ---

NAMES = {"last_acc": "Last-Acc", "inc_acc": "Inc-Acc"}
OF_TASKS = {f"{metric}_task": f"{name}, mean over tasks" for metric, name in NAMES.items()}
"""What others may have instead; no paper's number is one."""


@dataclass(frozen=True)
class Place:
    """A method on a stream, the number of its own paper, and what others have."""

    method: str
    stream: str
    published: Mapping[str, float]
    runs: tuple[OtherRun, ...]


def places() -> list[Place]:
    """Every method on every stream of reruns.toml, and SLCA's rows of L2P and DualPrompt (F71)."""
    given = [*reruns().runs, *_of_cells(cells())]
    keys = list(dict.fromkeys((run.method, run.stream) for run in given))
    return [
        Place(method, stream, _published(method, stream, given), tuple(_distinct(given, method, stream)))
        for method, stream in sorted(keys, key=lambda key: _order(key[0]))
    ]


def _order(method: str) -> int:
    return [*METHODS.values(), method].index(method)


def _published(method: str, stream: str, given: Iterable[OtherRun]) -> dict[str, float]:
    found = {
        cell.metric: cell.published.mean
        for cell in cells()
        if (cell.method, cell.stream, cell.paper) == (method, stream, method.lower()) and cell.metric in NAMES
    }
    for run in given:
        if (run.method, run.stream) == (method, stream) and run.published_last_acc is not None:
            found.setdefault("last_acc", run.published_last_acc)
    for summary in reruns().summaries:
        if (summary.method, summary.stream) == (method, stream):
            found.setdefault("last_acc", summary.published_last_acc)
            found.setdefault("inc_acc", summary.published_inc_acc)
    return found


def _of_cells(found: Sequence[Cell]) -> list[OtherRun]:
    """SLCA's rows of L2P and DualPrompt."""
    numbers: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in found:
        if cell.paper == "slca" and cell.metric in NAMES and cell.method in ("L2P", "DualPrompt"):
            numbers.setdefault((cell.method, cell.stream, "SLCA's table (F71)"), {})[cell.metric] = cell.published.mean
    return [
        OtherRun(method, stream, "re-run", source, last_acc=of.get("last_acc"), inc_acc=of.get("inc_acc"))
        for (method, stream, source), of in numbers.items()
    ]


def _distinct(given: Iterable[OtherRun], method: str, stream: str) -> list[OtherRun]:
    """The runs of a method on a stream; of several with the same digits the first."""
    kept: dict[tuple[Any, ...], OtherRun] = {}
    for run in given:
        if (run.method, run.stream) == (method, stream):
            digits = (run.last_acc, run.inc_acc, run.last_acc_task, run.inc_acc_task)
            kept.setdefault((run.seed, run.counts, *digits), run)
    return list(kept.values())


def _beside() -> str:
    """A row for each method, stream and metric that has two numbers."""
    rows = []
    for place in places():
        for metric, name in {**NAMES, **OF_TASKS}.items():
            own = [run for run in place.runs if metric in NAMES or run.evidence != "primary"]  # which has both
            values = [getattr(run, metric) for run in own if run.counts and getattr(run, metric) is not None]
            published = place.published.get(metric)
            if not values or len(values) + (published is not None) < 2:
                continue
            rows.append(
                (
                    place.method,
                    f"`{place.stream}`",
                    name,
                    "-" if published is None else f"{published:.2f}",
                    str(len(values)),
                    f"{min(values):.2f} to {max(values):.2f}",
                    f"{max(values) - min(values):.2f}",
                    "-" if published is None else signed(statistics.fmean(values) - published),
                )
            )
    header = ("method", "stream", "metric", "its paper", "others", "from, to", "spread", "mean of others - paper")
    return markdown_table(rows, header, padded=False)


def _details() -> str:
    rows = [
        (
            place.method,
            f"`{place.stream}`",
            _either(run, "last_acc"),
            _either(run, "inc_acc"),
            "**copied: the paper's digits, not counted**" if not run.counts else run.evidence,
            "; ".join(filter(None, (f"seed {run.seed}" if run.seed is not None else "", run.note, run.source))),
        )
        for place in places()
        for run in place.runs
    ]
    return markdown_table(rows, ("method", "stream", "Last-Acc", "Inc-Acc", "what", "source"), padded=False)


def _either(run: OtherRun, metric: str) -> str:
    """Over images, or where that is not there over tasks."""
    mean, of_tasks = getattr(run, metric), getattr(run, f"{metric}_task")
    if mean is None and of_tasks is not None:
        return f"{of_tasks:.2f} over tasks"
    return _number(mean, getattr(run, f"{metric}_std"))


def _number(mean: float | None, std: float | None) -> str:
    return "-" if mean is None else f"{mean:.2f}" + (f" ± {std:.2f}" if std is not None else "")


def _seeds(summary: Summary) -> str:
    """The authors' own seeds of one stream, over images and over tasks."""
    runs = [
        run
        for run in reruns().runs
        if (run.method, run.stream, run.evidence) == (summary.method, summary.stream, "primary")
        and run.seed in summary.seeds
    ]
    rows = []
    for over, ending in (("images", ""), ("tasks", "_task")):
        row = [over]
        for metric in NAMES:
            values = mean_interval([getattr(run, f"{metric}{ending}") for run in runs])
            row.append(f"{values.mean:.2f} ± {values.std or 0:.2f}")
        rows.append(tuple(row))
    rows.append(
        (f"published ({summary.published_source})", f"{summary.published_last_acc}", f"{summary.published_inc_acc}")
    )
    table = markdown_table(rows, ("averaged over", "Last-Acc", "Inc-Acc"), padded=False)
    seeds = ", ".join(map(str, summary.seeds))
    return f"`{summary.stream}`, {len(runs)} seeds ({seeds}), class order: {summary.class_order}.\n\n{table}\n"
