"""Comparisons of methods, paired by seed; families of claims with Holm's correction; factorial designs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .estimates import ALPHA, NO_SPREAD, Estimate, moments, require_margin, require_probability

ClaimKind = Literal["superior", "noninferior"]
Outcome = Literal["holds", "contradicted", "undecided", "not run"]


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Estimate):
    """Mean over seeds of a - b, and the seeds used, each with its value.
    ``unmatched`` seeds have only one of the two values and are left out.
    """

    std: float | None
    seeds: tuple[int, ...]
    values: tuple[float, ...]
    unmatched: tuple[int, ...]

    @property
    def effect_size(self) -> float | None:
        """Cohen's d_z: the mean difference divided by the standard deviation of the differences; None without spread.

        It is biased upwards for few seeds (by a quarter at n = 5, a tenth at n = 10): see :attr:`hedges_g`.
        """
        return self.value / self.std if self.std else None

    @property
    def hedges_g(self) -> float | None:
        """d_z corrected for small-sample bias: multiplied by J(n - 1) (Hedges, J. Educ. Stat. 1981).

        None without spread or for n < 3: with two differences d_z has no mean that could be corrected.
        """
        if self.effect_size is None or self.n < 3:
            return None
        df = self.n - 1
        return self.effect_size * math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)

    @property
    def p_different(self) -> float:
        """Two-sided p-value against "a and b are equal"."""
        return min(1.0, 2 * min(self.p_above(0.0), self.p_below(0.0)))

    @property
    def p_superior(self) -> float:
        """One-sided p-value against "a is not better than b"."""
        return self.p_above(0.0)

    def p_noninferior(self, margin: float) -> float:
        """One-sided p-value against "a is worse than b by ``margin`` points or more"."""
        require_margin(margin)
        return self.p_above(-margin)


def paired_difference(a: Mapping[int, float], b: Mapping[int, float]) -> PairedDifference | None:
    """Difference a - b over the seeds that both have (seed -> value); None if there is no such seed.

    :raises ValueError: a value is not finite.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        return None
    values = tuple(_difference(a[seed], b[seed]) for seed in seeds)
    mean, std, n = moments(values)
    return PairedDifference(
        value=mean,
        standard_error=None if std is None else std / math.sqrt(n),
        df=None if std is None else n - 1,
        n=n,
        std=std,
        seeds=seeds,
        values=values,
        unmatched=tuple(sorted(a.keys() ^ b.keys())),
    )


def _difference(a: float, b: float) -> float:
    """Equal accuracies that were computed from other sums may differ in the last bit, which is no side of 0."""
    return 0.0 if abs(a - b) <= NO_SPREAD else a - b


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Scand. J. Statist. 1979), in the order given.

    Pass 1 for a test that was not made, so that the family keeps its size.

    :raises ValueError: a p-value is outside 0..1.
    """
    p = np.asarray(p_values, dtype=float)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p-values are {list(p_values)}: each must be in 0..1; pass 1 for a test that was not made")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))), 1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Judgement:
    """Outcome of a claim, its p-values after Holm's correction over its family, and the interval that agrees with it.

    A small ``p`` supports the claim (it holds). A small ``reverse_p`` contradicts it. Both are one-sided.

    :ivar interval: of the difference, each end at the level at which Holm tests this claim on that side: the claim
        holds if the interval lies above ``-margin``, and is contradicted if it lies below. None for a claim that was
        not run, and where the differences have no spread or only one seed: p alone decides there.
    """

    outcome: Outcome
    p: float
    reverse_p: float
    interval: tuple[float, float] | None = None


def claim_p(kind: ClaimKind, difference: PairedDifference | None, margin: float = 0.0) -> float:
    """One-sided p-value of a claim before Holm's correction (small: it holds); 1 if nothing was run.

    :raises ValueError: the kind is unknown, or the margin does not fit the kind.
    """
    if kind not in ("superior", "noninferior"):
        raise ValueError(f"claim kind is {kind!r}: choose 'superior' or 'noninferior'")
    require_margin(margin)
    if (kind == "noninferior") != (margin > 0):
        raise ValueError(
            f"a claim of kind {kind!r} has margin {margin}: 'noninferior' needs a positive margin, 'superior' needs 0"
        )
    if difference is None:
        return 1.0
    return difference.p_superior if kind == "superior" else difference.p_noninferior(margin)


def judge_family(
    claims: Sequence[tuple[ClaimKind, PairedDifference | None, float]], alpha: float = ALPHA
) -> list[Judgement]:
    """Judge every claim (kind, difference, margin) of one family. Claims that were not run count towards its size.

    Two-sided: Holm's correction is applied at ``alpha / 2`` to the p-values of the claims, which bounds the probability
    of any false ``holds`` by that, and at ``alpha / 2`` to those of the reverse sides ("a - b lies below ``-margin``"),
    which bounds that of any false ``contradicted``.
    """
    require_probability("alpha", alpha)
    p_for = [claim_p(*claim) for claim in claims]
    p_against = [1.0 if difference is None else difference.p_below(-margin) for _, difference, margin in claims]
    sides = zip(
        claims, holm(p_for), holm(p_against), _levels(p_for, alpha / 2), _levels(p_against, alpha / 2), strict=True
    )
    judged = []
    for (_, difference, _), p, reverse_p, level_for, level_against in sides:
        outcome: Outcome = "holds" if p < alpha / 2 else "contradicted" if reverse_p < alpha / 2 else "undecided"
        interval = None
        if difference is None:
            outcome = "not run"
        elif difference.standard_error:
            low, high = (difference.interval(1 - 2 * level) for level in (level_for, level_against))
            interval = (low[0], high[1]) if low and high else None
        judged.append(Judgement(outcome, p, reverse_p, interval))
    return judged


def _levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """The level at which Holm tests each p-value: ``alpha`` over the number of those not rejected before it.

    It stops at the first that it does not reject; those behind it are as far from rejection at the level of that one.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    levels, level = [0.0] * len(p_values), 0.0
    for rejected, i in enumerate(order):
        if rejected == 0 or p_values[order[rejected - 1]] < level:
            level = alpha / (len(p_values) - rejected)
        levels[i] = level
    return levels


# --- factorial designs ---


def factorial_effects(runs: Mapping[frozenset[str], Mapping[int, float]]) -> dict[frozenset[str], PairedDifference]:
    """Main and interaction effects in a full factorial of k factors at two levels, paired by seed;
    by size, then by name.

    The effect of a set of factors is its contrast divided by 2^(k - 1): the mean of the cells that lack an even number
    of these factors (0 counts) minus the mean of the other cells. For one factor that is the mean with it minus the
    mean without it. For two factors it is half of what the effect of one gains from the other. Each is averaged over
    the other factors. Only seeds that all cells have are used.

    :param runs: cell (the set of factors that are present, possibly empty) -> seed -> value; all 2^k cells of the
        factors that occur.
    :return: non-empty set of factors -> effect; empty if no seed is common to all cells.
    :raises ValueError: a cell has no runs, no factor occurs, or a value is not finite.
    """
    factors = sorted(frozenset[str]().union(*runs))
    cells = [frozenset(cell) for size in range(len(factors) + 1) for cell in itertools.combinations(factors, size)]
    if not factors:
        raise ValueError("runs have no factor: give a cell for every combination of at least one factor")
    if missing := [" + ".join(sorted(cell)) or "none" for cell in cells if not runs.get(cell)]:
        raise ValueError(
            f"no runs for these combinations of {', '.join(factors)}: {'; '.join(missing)}; "
            f"all {len(cells)} cells are needed"
        )
    common = frozenset.intersection(*(frozenset(runs[cell]) for cell in cells))
    incomplete = frozenset().union(*(runs[cell] for cell in cells)) - common
    effects = {}
    for effect in cells[1:]:
        even, odd = (
            {
                seed: float(np.mean([runs[cell][seed] for cell in cells if len(effect - cell) % 2 == parity]))
                for seed in common
            }
            for parity in (0, 1)
        )
        if difference := paired_difference(even, odd):
            effects[effect] = replace(difference, unmatched=tuple(sorted(incomplete)))
    return effects
