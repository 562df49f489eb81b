"""docs/fidelity.md: where the papers' texts and codes disagree or are silent, the switch for each such place, and its
measured effect.

The facts are those of facts.toml; the effects come from the records of the recipes that turn a switch.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from ..papers.facts import FACTS, Note, Switch
from ..papers.headers import papers
from ..recipes import RECIPES, Recipe, recipes_of
from ..records.record import Record, metric_of
from ..stats.estimates import ALPHA
from ..stats.paired import PairedDifference, paired_difference
from ..stats.words import bracketed
from .svg import effect_plot, templates
from .tables import markdown_table

HEADER = ("", "text and code", "default and argument", "measured effect")
PICTURE = "fidelity.svg"


def page(records: Sequence[Record]) -> str:
    """The page in Markdown: an introduction, for each paper a table of its switches and its notes, and the embedded
    tier's departures.

    :param records: those that count (:func:`reclaim.benchmark.verdicts.counting.current`).
    """
    parts = []
    for paper, header in papers().items():
        switches = [fact for fact in FACTS if isinstance(fact, Switch) and fact.paper == paper]
        notes = [fact for fact in FACTS if isinstance(fact, Note) and fact.paper == paper]
        table = markdown_table([_row(switch, records) for switch in switches], HEADER, padded=False)
        parts.append(f"## {header.label}\n\n{table}\n")
        parts += [_paragraph(note) for note in notes]
    return (
        templates()
        .get_template("fidelity.md")
        .render(papers="\n".join(parts), picture=PICTURE if picture(records) else "")
    )


def picture(records: Sequence[Record]) -> str:
    """The effects of all switches that were turned, as SVG; empty where none was."""
    switches = [fact for fact in FACTS if isinstance(fact, Switch)]
    found = [(s, recipe, effect(recipe, records)) for s in switches for recipe in turned_by(s)]
    return effect_plot(
        "What turning a switch did",
        "points of the paper's accuracy, embedded tier; 95% interval, not corrected",
        [(f"{s.id} {recipe.name}", difference) for s, recipe, difference in found if difference],
    )


def turned_by(switch: Switch) -> list[Recipe]:
    """The recipes that turn a switch."""
    return [recipe for recipe in recipes_of("embedded").values() if recipe.fact == switch.id]


def effect(recipe: Recipe, records: Sequence[Record]) -> PairedDifference | None:
    """What turning a switch did: a recipe with a ``fact`` less the recipe that it is named after, paired by seed, on
    its home stream.

    In points of the paper's metric; None when there is no seed that both were run on.
    """
    return paired_difference(*_turned_and_default(recipe, records))


def std_ratio(a: Mapping[int, float], b: Mapping[int, float]) -> tuple[float, tuple[float, float]] | None:
    """Standard deviation of a over that of b, and its 95% interval, over the seeds that both have (seed -> value).

    The interval is Pitman's and Morgan's (Biometrika 1939) for correlated normal values. None below three seeds, or
    when one of the two has no spread.
    """
    seeds = sorted(a.keys() & b.keys())
    x, y = (np.array([values[seed] for seed in seeds]) for values in (a, b))
    if len(seeds) < 3 or not (np.ptp(x) > 0 and np.ptp(y) > 0):
        return None
    variances = float(x.var() / y.var())
    t = float(stats.t.ppf(1 - ALPHA / 2, len(seeds) - 2))
    k = 1 + 2 * (1 - float(np.corrcoef(x, y)[0, 1]) ** 2) * t**2 / (len(seeds) - 2)
    width = k + math.sqrt(max(k**2 - 1, 0.0))
    return math.sqrt(variances), (math.sqrt(variances / width), math.sqrt(variances * width))


def _row(switch: Switch, records: Sequence[Record]) -> tuple[str, ...]:
    title = f"**{switch.id}** {switch.title}" if switch.id[1:].isdigit() else f"{switch.title} (no number)"
    arguments = ", ".join(f"`{call}`" for call in switch.arguments) or "none"
    settings = f"; setting {', '.join(f'`{setting}`' for setting in switch.settings)}" if switch.settings else ""
    tests = ", ".join(f"`{test}`" for test in switch.tests) or "-"
    effects = [_measured(recipe, switch, records) for recipe in turned_by(switch)]
    effects += [f"cannot act: {switch.cannot_act}"] if switch.cannot_act else []
    return (
        title,
        f"Text: {switch.text}<br>Code: {switch.code}",
        f"Default: {switch.default}<br>{arguments}{settings}",
        f"{'<br>'.join(effects)}<br>Test: {tests}",
    )


def _measured(recipe: Recipe, switch: Switch, records: Sequence[Record]) -> str:
    away = "" if recipe.home == _default_of(recipe).home else f" on {recipe.home}"
    name = f"(`{recipe.name}`{away})"
    found = effect(recipe, records)
    if found is None:
        return f"not run {name}"
    ratio = std_ratio(*_turned_and_default(recipe, records)) if switch.spread else None
    stds = (
        f", standard deviation over seeds {ratio[0]:.2f} [{ratio[1][0]:.2f}, {ratio[1][1]:.2f}] times the default's"
        if ratio
        else ""
    )
    return f"{bracketed(found)}, n = {found.n}{stds} {name}"


def _turned_and_default(recipe: Recipe, records: Sequence[Record]) -> tuple[dict[int, float], dict[int, float]]:
    """Seed -> the paper's metric on the recipe's home stream, of the recipe and of the one in which it turns a
    switch.
    """
    metric = papers()[next(fact.paper for fact in FACTS if fact.id == recipe.fact)].metric
    turned, default = (
        {r.seed: metric_of(r, metric) for r in records if (r.recipe, r.stream) == (name, recipe.home)}
        for name in (recipe.name, _default_of(recipe).name)
    )
    return turned, default


def _default_of(recipe: Recipe) -> Recipe:
    """The recipe in which this one turns a switch; its name is this one's up to the last dot."""
    return RECIPES[recipe.name.rpartition(".")[0]]


def _paragraph(note: Note) -> str:
    tests = f" Tests: {', '.join(f'`{test}`' for test in note.tests)}." if note.tests else ""
    return (
        textwrap.fill(f"**{note.id}** (note) {note.text}{tests}", 125, break_long_words=False, break_on_hyphens=False)
        + "\n"
    )
