"""The verdict on every claim, over the runs on record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..papers.published import Claim, ClaimTier, claims, confirmatory_plan, planned_seeds
from ..records.metrics import LESS_IS_BETTER
from ..records.record import Record, metric_of
from ..stats.paired import Judgement, Outcome, PairedDifference, judge_family, paired_difference
from ..stats.words import bracketed, p_in_words, signed


@dataclass(frozen=True)
class ClaimVerdict:
    """The verdict on a claim: difference = better - worse, paired by seed; positive supports the claim.

    For metrics where less is better, such as forgetting, the sign is reversed.

    :ivar judged: ``undecided`` as long as seeds are missing that the claim was planned with.
    """

    claim: Claim
    judged: Judgement
    difference: PairedDifference | None

    @property
    def outcome(self) -> Outcome:
        return self.judged.outcome

    @property
    def note(self) -> str:
        """What keeps the runs on record from a verdict; empty where nothing does."""
        planned, n = planned_seeds(self.claim), self.difference.n if self.difference else 0
        return f"{n} of {planned} planned seeds" if 0 < n < planned else ""

    @property
    def p_name(self) -> str:
        """Which p-value belongs to the outcome: "p" speaks for the claim, "reverse p" against it; both one-sided, after
        Holm over the family.
        """
        return "reverse p" if self.outcome == "contradicted" else "p"

    @property
    def adjusted_p(self) -> float:
        """The p-value that belongs to the outcome: :attr:`p_name`."""
        return self.judged.reverse_p if self.outcome == "contradicted" else self.judged.p

    @property
    def adjusted_interval(self) -> tuple[float, float] | None:
        """The interval that agrees with the verdict; None as long as planned seeds are missing, and for a claim that is
        tested alone: that is its 95% interval.
        """
        return self.judged.interval if self.claim.family == "confirmatory" and not self.note else None

    def __str__(self) -> str:
        if self.difference is None:
            return "-"
        unit = "nats" if self.claim.metric in LESS_IS_BETTER else "points"
        bound = confirmatory_plan(self.claim.tier)[1] / 2
        low_high = [signed(end, unit) for end in self.adjusted_interval or ()]
        adjusted = f", adjusted [{', '.join(low_high)}]" if low_high else ""
        p = "" if self.note else f", {self.p_name} = {p_in_words(self.adjusted_p, bound)}"
        other = f", reverse p = {p_in_words(self.judged.reverse_p, bound)}" if self.outcome == "undecided" and p else ""
        return f"{bracketed(self.difference, unit)}{adjusted}, n = {self.note or self.difference.n}{p}{other}"

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON values, unrounded."""
        claim, difference = self.claim, self.difference
        return {
            "id": claim.id,
            "verdict": self.outcome,
            "expected": claim.expected,
            **{
                key: getattr(claim, key)
                for key in (
                    "family",
                    "kind",
                    "better",
                    "worse",
                    "stream",
                    "metric",
                    "margin",
                    "margin_reason",
                    "earlier",
                )
            },
            "difference": difference and difference.value,
            "interval": difference and difference.interval(),
            "adjusted_interval": self.judged.interval,
            "std": difference and difference.std,
            "effect_size": difference and difference.effect_size,
            "hedges_g": difference and difference.hedges_g,
            "seeds": list(difference.seeds) if difference else [],
            "unmatched": list(difference.unmatched) if difference else [],
            "note": self.note,
            "adjusted_p": self.adjusted_p,
            "p_name": self.p_name,
            "adjusted_reverse_p": self.judged.reverse_p,
        }


def judge_claims(runs: Sequence[Record], tier: ClaimTier = "embedded") -> list[ClaimVerdict]:
    """The verdict on every claim of a tier, two-sided at 5%; Holm runs over its confirmatory family on each side, each
    exploratory claim is tested alone. Nothing is pooled over tiers.

    Only the seeds that a claim was planned with count, and only all of them together decide: neither adding seeds until
    a claim holds nor stopping when it does is possible. A claim with some of them is ``undecided``, and keeps its place
    in the family as if it was not run.

    :param runs: of the recipes' present configurations; one per recipe, stream and seed.
    """
    _, alpha = confirmatory_plan(tier)
    values: dict[tuple[str, str], dict[int, Record]] = {}
    for record in runs:
        values.setdefault((record.recipe, record.stream), {})[record.seed] = record
    differences = {claim.id: _difference(claim, values) for claim in claims(tier)}
    families = [[claim for claim in claims(tier) if claim.family == "confirmatory"]]
    families += [[claim] for claim in claims(tier) if claim.family == "exploratory"]
    verdicts = {}
    for family in families:
        found = [differences[claim.id] for claim in family]
        whole = [d if d and d.n == planned_seeds(claim) else None for claim, d in zip(family, found, strict=True)]
        judged = judge_family([(claim.kind, d, claim.margin) for claim, d in zip(family, whole, strict=True)], alpha)
        for claim, judgement, difference in zip(family, judged, found, strict=True):
            if difference and judgement.outcome == "not run":
                judgement = replace(judgement, outcome="undecided")
            verdicts[claim.id] = ClaimVerdict(claim, judgement, difference)
    return [verdicts[claim.id] for claim in claims(tier)]


def _difference(claim: Claim, values: Mapping[tuple[str, str], Mapping[int, Record]]) -> PairedDifference | None:
    sign, planned = -1.0 if claim.metric in LESS_IS_BETTER else 1.0, planned_seeds(claim)
    better, worse = (
        {
            seed: sign * metric_of(record, claim.metric)
            for seed, record in values.get((recipe, claim.stream), {}).items()
            if seed < planned
        }
        for recipe in (claim.better, claim.worse)
    )
    return paired_difference(better, worse)
