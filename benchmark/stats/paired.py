"""Method against method, paired by seed; families of claims with Holm's correction; factorial designs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .estimates import ALPHA, Estimate, moments, require_margin, require_probability

ClaimKind = Literal["superior", "noninferior"]
Outcome = Literal["holds", "contradicted", "undecided", "not run"]


@dataclass(frozen=True, kw_only=True)
class PairedDifference(Estimate):
    """Mean over seeds of a - b, with the seeds it rests on; ``unmatched`` seeds have only one of the two and are left out."""

    std: float | None
    seeds: tuple[int, ...]
    unmatched: tuple[int, ...]

    @property
    def effect_size(self) -> float | None:
        """Cohen's d_z, the mean difference over the standard deviation of the differences; None without spread.

        Too large on average where seeds are few (by a quarter at n = 5, a tenth at n = 10): see :attr:`hedges_g`.
        """
        return self.value / self.std if self.std else None

    @property
    def hedges_g(self) -> float | None:
        """d_z without its small-sample bias: times J(n - 1) (Hedges, J. Educ. Stat. 1981); None without spread or for n < 3.

        With two differences d_z has no mean that could be corrected.
        """
        if self.effect_size is None or self.n < 3:
            return None
        df = self.n - 1
        return self.effect_size * math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)

    @property
    def p_different(self) -> float:
        """Two-sided p-value against "a and b are alike"."""
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
    """Difference a - b over the seeds that both have (seed -> value); None when there is no such seed.

    :raises ValueError: when a value is not finite.
    """
    seeds = tuple(sorted(a.keys() & b.keys()))
    if not seeds:
        return None
    mean, std, n = moments([a[seed] - b[seed] for seed in seeds])
    return PairedDifference(
        value=mean,
        standard_error=None if std is None else std / math.sqrt(n),
        df=None if std is None else n - 1,
        n=n,
        std=std,
        seeds=seeds,
        unmatched=tuple(sorted(a.keys() ^ b.keys())),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Scand. J. Statist. 1979), in the order given.

    A test not yet made enters as 1, so that the family keeps its size.

    :raises ValueError: for a p-value outside 0..1.
    """
    p = np.asarray(p_values, dtype=float)
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p-values are {list(p_values)}: each must lie in 0..1; pass 1 for a test that was not made")
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))), 1.0)
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Judgement:
    """Outcome of a claim, and its p-values after Holm over its family.

    ``p`` speaks for the claim (small: it holds), ``reverse_p`` against it (small: it is contradicted).
    """

    outcome: Outcome
    p: float
    reverse_p: float


def judge_claim(
    kind: ClaimKind, difference: PairedDifference | None, margin: float = 0.0, alpha: float = ALPHA
) -> Outcome:
    """Outcome of one claim about a - b that stands alone.

    ``superior`` holds if its p-value is below ``alpha`` and is contradicted if the (1 - alpha) interval lies below 0. ``noninferior``
    holds if the one-sided lower bound lies above ``-margin`` and is contradicted if the (1 - alpha) interval lies below ``-margin``. Else
    ``undecided``; ``not run`` without seeds.

    :param margin: points; positive for ``noninferior``, 0 for ``superior``.
    """
    (judged,) = judge_family([(kind, difference, margin)], alpha)
    return judged.outcome


def claim_p(kind: ClaimKind, difference: PairedDifference | None, margin: float = 0.0) -> float:
    """One-sided p-value that speaks for a claim, before Holm; 1 when nothing was run.

    :raises ValueError: for an unknown kind, or a margin that does not go with it.
    """
    if kind not in ("superior", "noninferior"):
        raise ValueError(f"claim kind is {kind!r}: choose 'superior' or 'noninferior'")
    require_margin(margin)
    if (kind == "noninferior") != (margin > 0):
        raise ValueError(
            f"a claim of kind {kind!r} has margin {margin}: 'noninferior' needs a positive one, 'superior' has none (0)"
        )
    if difference is None:
        return 1.0
    return difference.p_superior if kind == "superior" else difference.p_noninferior(margin)


def judge_family(
    claims: Sequence[tuple[ClaimKind, PairedDifference | None, float]], alpha: float = ALPHA
) -> list[Judgement]:
    """Judge every claim (kind, difference, margin) of one family; claims not run keep their place in it.

    Holm runs twice: over the p-values for the claims at ``alpha``, which is how likely any false ``holds`` is at most, and over those of
    the reverse sides ("a - b lies below ``-margin``") at ``alpha / 2``, one tail of the (1 - alpha) interval, as likely as any false
    ``contradicted`` is at most.
    """
    require_probability("alpha", alpha)
    p_values = holm([claim_p(*claim) for claim in claims])
    reverse = holm([1.0 if difference is None else difference.p_below(-margin) for _, difference, margin in claims])

    def outcome(difference: PairedDifference | None, p: float, reverse_p: float) -> Outcome:
        if difference is None:
            return "not run"
        return "holds" if p < alpha else "contradicted" if reverse_p < alpha / 2 else "undecided"

    found = zip(claims, p_values, reverse, strict=True)
    return [Judgement(outcome(difference, p, reverse_p), p, reverse_p) for (_, difference, _), p, reverse_p in found]


# --- factorial designs ---


def factorial_effects(runs: Mapping[frozenset[str], Mapping[int, float]]) -> dict[frozenset[str], PairedDifference]:
    """Main and interaction effects in a full factorial of k factors at two levels, paired by seed; by size, then by name.

    The effect of some factors is the mean of the cells that lack an even number of them (0 counts) less the mean of the other cells: its
    contrast divided by 2^(k - 1). Of one factor that is the mean with it less the mean without it; of two, half of what the effect of one
    gains from the other; each averaged over the factors that are not named. The seeds that count are those of all cells.

    :param runs: cell (the factors that are present; none is a cell too) -> seed -> value; all 2^k cells of the factors that occur.
    :return: non-empty set of factors -> effect; nothing when no seed is common to all cells.
    :raises ValueError: a cell has no runs, no factor occurs, or a value is not finite.
    """
    factors = sorted(frozenset[str]().union(*runs))
    cells = [frozenset(cell) for size in range(len(factors) + 1) for cell in itertools.combinations(factors, size)]
    if not factors:
        raise ValueError("runs have no factor: give a cell for every combination of at least one")
    if missing := [" + ".join(sorted(cell)) or "none" for cell in cells if not runs.get(cell)]:
        raise ValueError(
            f"no runs with these of the factors {', '.join(factors)}: {'; '.join(missing)}; all {len(cells)} cells are needed"
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
