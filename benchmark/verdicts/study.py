"""What a study can decide and what it costs, before it is run: the effects that a claim's seeds find, the power of a
cell's test.

F-numbers are those of docs/fidelity.md.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median

from scipy import optimize, stats
from tabulate import tabulate

from ..papers.protocols import Uncovered, find_cell, protocol_of, run_of
from ..papers.published import CLAIMS, Cell, Claim, Table, cells, claims, confirmatory_plan, planned_seeds, tables
from ..recipes import RECIPES
from ..records.record import Record
from ..stats.estimates import ALPHA, Published
from ..stats.power import MAX_SEEDS, published_leaves, seeds_needed, verdict_probabilities
from .cells import CellCheck, check_cells
from .claims import judge_claims

SEEDS = (3, 5, 10, 20)
POWER = 0.8


def plan(name: str, records: Sequence[Record], std: float | None = None) -> str:
    """The plan of a claim, a cell or a table, as a text.

    :param records: those that count (:func:`reclaim.benchmark.verdicts.counting.current`): they tell the spread between
        seeds, and a run's cost.
    :param std: instead of the spread on record: of a claim's paired differences, of a cell's runs; in points.
    :raises ValueError: nothing has this name, or the std is not a positive number.
    """
    if std is not None and not 0 < std < math.inf:
        raise ValueError(f"std is {std}: give a number of points above 0")
    of_tiers = [claim for tier in CLAIMS for claim in claims(tier)]
    for claim in of_tiers:
        if claim.id == name:
            return plan_claim(claim, records, std)
    for cell in cells():
        if cell.id == name:
            return plan_cell(cell, records, std)
    for table in tables():
        if table.id == name:
            return plan_table(table, records, std)
    everything = [*(claim.id for claim in of_tiers), *(table.id for table in tables()), *(cell.id for cell in cells())]
    similar = difflib.get_close_matches(name, everything, n=3, cutoff=0.3) or [table.id for table in tables()]
    raise ValueError(
        f"no claim, cell or table is called {name!r}: did you mean {', '.join(similar)}? (`reclaim list claims` and "
        "`cells` show the names)"
    )


# --- claims ---


def detectable_effect(n: int, alpha: float) -> float:
    """The paired effect, in standard deviations of the differences, that a two-sided t test over ``n`` seeds finds with
    80% power.

    By the noncentral t distribution; ``alpha`` is that of this one test, half of it a side, so for Holm's first step
    the family's over its number of claims.

    :raises ValueError: fewer than 2 seeds.
    """
    if n < 2:
        raise ValueError(f"n is {n}: at least 2 seeds are needed for a t test")
    critical = float(stats.t.ppf(1 - alpha / 2, n - 1))

    def shortfall(noncentrality: float) -> float:
        return float(stats.nct.sf(critical, n - 1, noncentrality)) - POWER

    # a sample's std is below three times the true one all but always: even over two seeds
    return float(optimize.brentq(shortfall, 0.0, 3 * critical + 5)) / math.sqrt(n)


def seeds_to_detect(effect: float, alpha: float) -> int | None:
    """The smallest number of seeds over which a two-sided t test finds a paired effect of this size with 80% power;
    None if :data:`~reclaim.benchmark.stats.power.MAX_SEEDS` do not.

    :param effect: in standard deviations of the differences, at least 0.
    """
    return next((n for n in range(2, MAX_SEEDS + 1) if effect > 0 and detectable_effect(n, alpha) <= effect), None)


def plan_claim(claim: Claim, records: Sequence[Record], std: float | None = None) -> str:
    """The true differences that :data:`SEEDS` find with 80% power, and what they cost."""
    family = [c for c in claims(claim.tier) if c.family == claim.family] if claim.family == "confirmatory" else [claim]
    _, alpha = confirmatory_plan(claim.tier)
    unit, digits = _unit(claim), 2 if _unit(claim) == "points" else 4
    differences = {verdict.claim.id: verdict.difference for verdict in judge_claims(records, claim.tier)}
    own = differences[claim.id]
    alike = [c for c in claims(claim.tier) if (c.stream, _unit(c)) == (claim.stream, unit)]
    others = [d.std for d in (differences[c.id] for c in alike) if d is not None and d.std]
    if std is not None:
        spread = f"{std:g} {unit} (--std)"
    elif own is not None and own.std:
        std, spread = own.std, f"{own.std:.{digits}f} {unit} over {own.n} seeds on record"
    elif others:
        std = median(others)
        source = (
            f"the median of {count(len(others), 'claim')} on {claim.stream}, of this one nothing "
            "is on record; --std sets it"
        )
        spread = f"{std:.{digits}f} {unit}, {source}"
    else:
        spread = "not known, no runs on record: effects are in its units; --std sets it"
    costs = [_cost(records, name, claim.stream, RECIPES[name].config.epochs) for name in (claim.better, claim.worse)]
    rows = []
    for n in SEEDS:
        effect = detectable_effect(n, alpha / len(family))
        points = "-" if std is None else f"{effect * std - claim.margin:+.{digits}f}"
        rows.append(
            (
                f"{n}{' (planned)' * (n == planned_seeds(claim))}",
                f"{effect:.2f}",
                points,
                _time([(n, cost) for cost in costs]),
            )
        )
    step = (
        f"Holm's first step of {len(family)} claims at {100 * alpha:g}%, two-sided"
        if len(family) > 1
        else f"alone at {100 * alpha:g}%, two-sided"
    )
    bound = (
        f"holds if the difference is above -{claim.margin:g} {unit} ({claim.margin_reason})\n" if claim.margin else ""
    )
    header = ("seeds", "effect (std) found with 80% power", f"true difference ({unit})", "processor time")
    effect_of = "\nThe effect is counted from the margin: (true difference + margin) / std." if claim.margin else ""
    return (
        f"{claim.id}: {claim} on {claim.stream}, {claim.metric}\n{claim.text}; {claim.family}, {step}\n{bound}"
        "std of the paired differences: "
        f"{spread}\n\n{tabulate(rows, headers=header, disable_numparse=True)}{effect_of}{_guesses(costs)}"
    )


def _unit(claim: Claim) -> str:
    return "nats" if claim.metric == "final_entropy" else "points"


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
    printed = f"{cell.published.mean:g}" + (
        "" if published.std is None else f" +- {published.std:g} over {published.n} runs"
    )
    head = f"{cell.id}: {printed}; margin {margin:g} points ({cell.table.margin_reason})\nour std: {spread.source}"
    if spread.std is None:
        return head
    cost = _cost_of(records, cell)
    needed = [
        n
        for n in (_seeds_needed(way, spread.std, margin) for way in (published, published.as_constant()))
        if n is not None
    ]
    rows = []
    for n in (*SEEDS, math.inf):
        ways = ((published, True), (published, False)) if published.std is not None else ()
        powers = [f"{_power(spread.std, n, *way, margin):.2f}" for way in (*ways, (published.as_constant(), True))]
        label, time = ("no limit", "-") if math.isinf(n) else (str(n), _time([(int(n), cost)]))
        rows.append((label, *["-"] * (3 - len(powers)), *powers, time))
    welch = "- (no published std)" if published.std is None else _needed(published, spread.std, margin)
    header = (
        "seeds",
        "ours = printed mean",
        "ours = the paper's true mean",
        "printed mean as a constant",
        "processor time",
    )
    return (
        f"{head}\n\nP(reproduced) if\n{tabulate(rows, headers=header, disable_numparse=True)}\n\n"
        f"seeds needed for 80% power, if our true mean is the printed one: {welch}\n"
        f"as a constant: {_needed(published.as_constant(), spread.std, margin)}"
        f"{_new_orders([(cell, max(needed, default=None))])}{_guesses([cost])}{_to_rehearse(cell, cost)}"
    )


def plan_table(table: Table, records: Sequence[Record], std: float | None = None) -> str:
    """For every cell of a table the probability of "reproduced" by number of seeds, and the seeds needed; then the cost
    of all.
    """
    checks = [check for check in check_cells(records).values() if check.cell.table == table]
    rows: list[tuple[str, ...]] = []
    runs: dict[tuple[str, str], int] = {}
    costs: dict[tuple[str, str], _Cost] = {}
    planned: list[tuple[Cell, int | None]] = []
    for check in checks:
        cell, spread = check.cell, _spread(check, std)
        published = _printed(cell.published if cell.published.std is not None else cell.published.as_constant())
        printed = f"{cell.published.mean:g}" + ("" if published.std is None else f" +- {published.std:g}")
        if spread.std is None:
            rows.append((cell.id, printed, "-", *["-"] * len(SEEDS), "-"))
            continue
        powers = [_power(spread.std, n, published, True, table.margin) for n in SEEDS]
        needed = _seeds_needed(published, spread.std, table.margin)
        planned.append((cell, needed))
        if needed is not None:
            place = cell.recipe, cell.stream
            runs[place] = max(runs.get(place, 0), needed)
            costs[place] = _cost_of(records, cell)
        rows.append(
            (
                cell.id,
                printed,
                f"{spread.std:.2f}",
                *(f"{p:.2f}" for p in powers),
                _needed(published, spread.std, table.margin, short=True),
            )
        )
    header = ("cell", "published", "our std", *(f"n = {n}" for n in SEEDS), "seeds needed")
    time = _time([(n, costs[place]) for place, n in runs.items()])
    cost = "their cost is not known, no runs on record" if time == "-" else f"{time} of processor time"
    without = len(checks) - len(planned)
    beside = f" (not counting {without} without a published std or runs on record)" if without else ""
    return (
        f"{table.id}: {len(checks)} cells, margin {table.margin:g} points ({table.margin_reason})\n"
        "P(reproduced) by number of our seeds if our true mean is the printed one; "
        "our std is "
        f"{'that of the runs on record, else the published one' if std is None else f'{std:g} points (--std)'}\n\n"
        f"{tabulate(rows, headers=header, disable_numparse=True)}\n\n"
        f"{sum(n is not None for _, n in planned)} of {len(planned)} cells{beside} can be decided with 80% power "
        f"and up to {MAX_SEEDS} seeds: {sum(runs.values())} runs of {len(runs)} recipes and streams; {cost}\n"
        f"Each cell by itself; for the table's sentence Holm's first step tests at {100 * ALPHA / len(checks):.2g}%."
        f"{_new_orders(planned)}{_guesses(costs.values())}"
    )


def _new_orders(planned: Sequence[tuple[Cell, int | None]]) -> str:
    """What has to be said where the seeds needed are more than a paper's whose seeds are class orders (F2)."""
    beyond = [
        cell
        for cell, needed in planned
        if needed is not None and cell.seeds and needed > len(cell.seeds) and cell.kind.varied == "class_order"
    ]
    if not beyond:
        return ""
    which = "this cell takes" if len(planned) == 1 else f"{count(len(beyond), 'cell')} take{'s' * (len(beyond) == 1)}"
    return (
        f"\nF2: the paper's {len(beyond[0].seeds)} seeds are as many class orders, and {which} more: those are new "
        "class orders, "
        "which the paper did not run, not a better look at the same."
    )


def _spread(check: CellCheck, std: float | None) -> _Spread:
    if std is not None:
        return _Spread(std, f"{std:g} points (--std)")
    ours = check.judged.ours if check.judged else None
    if ours is not None and ours.std is not None:
        return _Spread(ours.std, f"{ours.std:.2f} points over {ours.n} seeds on record")
    if check.cell.published.std is not None:
        return _Spread(
            check.cell.published.error[0], "taken to be the published one, rounded up: no runs on record; --std sets it"
        )
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


@dataclass(frozen=True)
class _Cost:
    """Median processor time of a run in seconds, None where nothing says; ``guess`` says of what else it is if not of
    its own runs.
    """

    seconds: float | None
    guess: str = ""


def _cost_of(records: Sequence[Record], cell: Cell) -> _Cost:
    try:
        recipe, _, _ = find_cell(cell.id)
    except ValueError:  # it cannot be run here: only what is on record counts
        return _cost(records, cell.recipe, cell.stream, None)
    return _cost(records, cell.recipe, cell.stream, recipe.config.epochs)


def _cost(records: Sequence[Record], recipe: str, stream: str, epochs: int | None) -> _Cost:
    """Of the recipe's own runs, else the median over those of the same stream and number of epochs.

    Processor time; wall time of runs on an accelerator, and of the first records, which have it alone.
    """
    found: dict[str, list[float]] = {}
    for record in records:
        device = record.provenance.get("accelerator")  # for which the processor mostly waits
        seconds = (None if device else record.provenance.get("cpu_seconds")) or record.provenance.get("wall_seconds")
        if (
            record.stream == stream
            and seconds
            and (record.recipe == recipe or record.result["config"].get("epochs") == epochs)
        ):
            found.setdefault(record.recipe, []).append(float(seconds))
    if recipe in found:
        return _Cost(median(found[recipe]))
    others = [median(times) for times in found.values()]
    guess = (
        f"no run of {recipe} on record, taken to be the median of {count(len(others), 'recipe')} "
        f"of {epochs} epochs on {stream}"
    )
    return _Cost(median(others), guess) if others else _Cost(None)


def _to_rehearse(cell: Cell, cost: _Cost) -> str:
    covered = not isinstance(protocol_of(run_of(cell)), Uncovered)
    return f"\ncost: `reclaim rehearse {run_of(cell)}` projects it" if covered and cost.seconds is None else ""


def _time(runs: Sequence[tuple[int, _Cost]]) -> str:
    """What so many runs at so much each take, with a ~ where something in it is a guess."""
    known = [n * cost.seconds for n, cost in runs if cost.seconds is not None]
    guessed = any(cost.guess for _, cost in runs)
    return f"{'~' * guessed}{_duration(sum(known))}" if len(known) == len(runs) else "-"


def _guesses(costs: Iterable[_Cost]) -> str:
    return "".join(f"\n~: {guess}" for guess in dict.fromkeys(cost.guess for cost in costs) if guess)


def count(number: int, noun: str, plural: str = "s") -> str:
    """Such as "1 run" and "2,000 runs"."""
    return f"{number:,} {noun}{'' if number == 1 else plural}"


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
