"""What a study can decide and what it costs, before it is run: the effects that a claim's seeds find, the power of a cell's test."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from scipy import optimize, stats
from tabulate import tabulate

from .paper_check import CellCheck, check_cells
from .published import Cell, Claim, Table, cells, claims, confirmatory_plan, judge_claims, planned_seeds, tables
from .records import Record
from .statistics import ALPHA, MAX_SEEDS, Published, published_leaves, seeds_needed, verdict_probabilities

SEEDS = (3, 5, 10, 20)
POWER = 0.8


def plan(name: str, records: Sequence[Record], std: float | None = None) -> str:
    """The plan of a claim, a cell or a table, as a text.

    :param records: those that count (:func:`reclaim.benchmark.paper_check.current`): they tell the spread between seeds, and a run's cost.
    :param std: instead of the spread on record: of a claim's paired differences, of a cell's runs; in points.
    :raises ValueError: nothing has this name, or the std is not a positive number.
    """
    if std is not None and not 0 < std < math.inf:
        raise ValueError(f"std is {std}: give a number of points above 0")
    for claim in claims():
        if claim.id == name:
            return plan_claim(claim, records, std)
    for cell in cells():
        if cell.id == name:
            return plan_cell(cell, records, std)
    for table in tables():
        if table.id == name:
            return plan_table(table, records, std)
    everything = [*(claim.id for claim in claims()), *(table.id for table in tables()), *(cell.id for cell in cells())]
    similar = difflib.get_close_matches(name, everything, n=3, cutoff=0.3) or [table.id for table in tables()]
    raise ValueError(
        f"no claim, cell or table is called {name!r}: did you mean {', '.join(similar)}? (`reclaim list claims` and `cells` show the names)"
    )


# --- claims ---


def detectable_effect(n: int, alpha: float) -> float:
    """The paired effect, in standard deviations of the differences, that a one-sided t test over ``n`` seeds finds with 80% power.

    By the noncentral t distribution; ``alpha`` is that of this one test, so for Holm's first step the family's over its number of claims.

    :raises ValueError: fewer than 2 seeds.
    """
    if n < 2:
        raise ValueError(f"n is {n}: at least 2 seeds are needed for a t test")
    critical = float(stats.t.ppf(1 - alpha, n - 1))

    def shortfall(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, n - 1, noncentrality)) - POWER

    # a sample's std is below three times the true one all but always: even over two seeds
    return float(optimize.brentq(shortfall, 0.0, 3 * critical + 5)) / math.sqrt(n)


def plan_claim(claim: Claim, records: Sequence[Record], std: float | None = None) -> str:
    """The true differences that :data:`SEEDS` find with 80% power, and what they cost."""
    family = [other for other in claims() if other.family == claim.family] if claim.family == "confirmatory" else [claim]
    _, alpha = confirmatory_plan()
    (difference,) = (verdict.difference for verdict in judge_claims(records) if verdict.claim.id == claim.id)
    if std is not None:
        spread = f"{std:g} points (--std)"
    elif difference is not None and difference.std:
        std, spread = difference.std, f"{difference.std:.2f} points over {difference.n} seeds on record"
    else:
        spread = "not known, no runs on record: effects are in its units; --std sets it"
    seconds = [_seconds(records, recipe, claim.stream) for recipe in (claim.better, claim.worse)]
    rows = []
    for n in SEEDS:
        effect = detectable_effect(n, alpha / len(family))
        points = "-" if std is None else f"{effect * std - claim.margin:+.2f}"
        rows.append((f"{n}{' (planned)' * (n == planned_seeds(claim))}", f"{effect:.2f}", points, _cost(seconds, n)))
    step = f"Holm's first step of {len(family)} claims at {100 * alpha:g}%" if len(family) > 1 else f"alone at {100 * alpha:g}%"
    bound = f"holds if the difference lies above -{claim.margin:g} points ({claim.margin_reason})\n" if claim.margin else ""
    header = ("seeds", "effect (std) found with 80% power", "true difference (points)", "processor time")
    effect_of = "\nThe effect is counted from the margin: (true difference + margin) / std." if claim.margin else ""
    return (
        f"{claim.id}: {claim} on {claim.stream}, {claim.metric}\n{claim.text}; {claim.family}, {step}\n{bound}"
        f"std of the paired differences: {spread}\n\n{tabulate(rows, headers=header, disable_numparse=True)}{effect_of}"
    )


# --- cells ---


@dataclass(frozen=True)
class _Spread:
    """Our standard deviation, and where it comes from; None when nothing says."""

    std: float | None
    source: str


def plan_cell(cell: Cell, records: Sequence[Record], std: float | None = None) -> str:
    """Probability of "reproduced" by number of seeds, the seeds needed, and what they cost."""
    check = check_cells(records)[cell.id]
    spread, published, margin = _spread(check, std), _printed(cell.published), cell.table.margin
    printed = f"{cell.published.mean:g}" + ("" if published.std is None else f" +- {published.std:g} over {published.n} runs")
    head = f"{cell.id}: {printed}; margin {margin:g} points ({cell.table.margin_reason})\nour std: {spread.source}"
    if spread.std is None:
        return head
    seconds = _seconds(records, cell.recipe, cell.stream)
    rows = []
    for n in (*SEEDS, math.inf):
        ways = ((published, True), (published, False)) if published.std is not None else ()
        powers = [f"{_power(spread.std, n, *way, margin):.2f}" for way in (*ways, (published.as_constant(), True))]
        label, cost = ("no limit", "-") if math.isinf(n) else (str(n), _cost([seconds], int(n)))
        rows.append((label, *["-"] * (3 - len(powers)), *powers, cost))
    welch = "- (no published std)" if published.std is None else _needed(published, spread.std, margin)
    header = ("seeds", "ours = printed mean", "ours = the paper's true mean", "printed mean as a constant", "processor time")
    return (
        f"{head}\n\nP(reproduced) if\n{tabulate(rows, headers=header, disable_numparse=True)}\n\n"
        f"seeds needed for 80% power, if our true mean is the printed one: {welch}\n"
        f"as a constant: {_needed(published.as_constant(), spread.std, margin)}"
    )


def plan_table(table: Table, records: Sequence[Record], std: float | None = None) -> str:
    """For every cell of a table the probability of "reproduced" by number of seeds, and the seeds needed; then the cost of all."""
    checks = [check for check in check_cells(records).values() if check.cell.table == table]
    rows: list[tuple[str, ...]] = []
    runs: dict[tuple[str, str], int] = {}
    decidable = 0
    for check in checks:
        cell, spread = check.cell, _spread(check, std)
        published = _printed(cell.published if cell.published.std is not None else cell.published.as_constant())
        printed = f"{cell.published.mean:g}" + ("" if published.std is None else f" +- {published.std:g}")
        if spread.std is None:
            rows.append((cell.id, printed, "-", *["-"] * len(SEEDS), "-"))
            continue
        powers = [_power(spread.std, n, published, True, table.margin) for n in SEEDS]
        needed = _seeds_needed(published, spread.std, table.margin)
        if needed is not None:
            decidable += 1
            place = cell.recipe, cell.stream
            runs[place] = max(runs.get(place, 0), needed)
        rows.append(
            (cell.id, printed, f"{spread.std:.2f}", *(f"{p:.2f}" for p in powers), _needed(published, spread.std, table.margin, short=True))
        )
    header = ("cell", "published", "our std", *(f"n = {n}" for n in SEEDS), "seeds needed")
    seconds = [(n, _seconds(records, *place)) for place, n in runs.items()]
    known = [n * s for n, s in seconds if s is not None]
    cost = f"{_duration(sum(known))} of processor time" if len(known) == len(seconds) else "their cost is not known, no runs on record"
    return (
        f"{table.id}: {len(checks)} cells, margin {table.margin:g} points ({table.margin_reason})\n"
        "P(reproduced) by number of our seeds if our true mean is the printed one; "
        f"our std is {'that of the runs on record, else the published one' if std is None else f'{std:g} points (--std)'}\n\n"
        f"{tabulate(rows, headers=header, disable_numparse=True)}\n\n"
        f"{decidable} of {len(checks)} cells can be decided with 80% power and up to {MAX_SEEDS} seeds: "
        f"{sum(runs.values())} runs of {len(runs)} recipes and streams; {cost}\n"
        f"Each cell by itself; for the table's sentence Holm's first step tests at {100 * ALPHA / len(checks):.2g}%."
    )


def _spread(check: CellCheck, std: float | None) -> _Spread:
    if std is not None:
        return _Spread(std, f"{std:g} points (--std)")
    ours = check.judged.ours if check.judged else None
    if ours is not None and ours.std is not None:
        return _Spread(ours.std, f"{ours.std:.2f} points over {ours.n} seeds on record")
    if check.cell.published.std is not None:
        return _Spread(check.cell.published.error[0], "taken to be the published one, rounded up: no runs on record; --std sets it")
    return _Spread(None, "not known: none is published, and no runs are on record; give --std")


@functools.cache
def _power(std: float, n: float, published: Published, given: bool, margin: float) -> float:
    return verdict_probabilities(std, n, published, margin, given_published=given)["reproduced"]


@functools.cache
def _seeds_needed(published: Published, std: float, margin: float) -> int | None:
    return seeds_needed(std, published, margin, power=POWER)


def _printed(published: Published) -> Published:
    """What of it decides the power: not the mean. Many cells of a table share the rest, which is computed once."""
    return replace(published, mean=0.0)


def _needed(published: Published, std: float, margin: float, short: bool = False) -> str:
    if (n := _seeds_needed(published, std, margin)) is not None:
        return str(n)
    leaves = published_leaves(published)
    if leaves < margin:
        return f"none up to {MAX_SEEDS}"
    return f"none: +-{leaves:.2f}" if short else f"none: the published n0 and std alone leave +-{leaves:.2f}"


# --- cost ---


def _seconds(records: Sequence[Record], recipe: str, stream: str) -> float | None:
    """Median processor time of a run; the first records have wall time alone."""
    found = [
        record.provenance.get("cpu_seconds") or record.provenance.get("wall_seconds")
        for record in records
        if (record.recipe, record.stream) == (recipe, stream)
    ]
    known = [float(seconds) for seconds in found if seconds]
    return median(known) if known else None


def _cost(seconds: Sequence[float | None], n: int) -> str:
    known = [s for s in seconds if s is not None]
    return _duration(n * sum(known)) if len(known) == len(seconds) else "-"


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
