"""What the page says of claims, in sentences that are computed from the numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ..papers.published import Claim, confirmatory_plan
from ..records.metrics import LESS_IS_BETTER
from ..stats.words import p_in_words
from ..verdicts.claims import ClaimVerdict
from ..verdicts.study import count
from .board import Row
from .findings import PAPER_METHODS


def unit_of(claim: Claim) -> str:
    return "nats" if claim.metric == "final_entropy" else "points"


def family_of(verdict: ClaimVerdict, verdicts: Sequence[ClaimVerdict]) -> int:
    """Over how many claims Holm's correction runs: those of its family and tier; 1 for one that is tested alone."""
    claim = verdict.claim
    if claim.family != "confirmatory":
        return 1
    return sum((v.claim.family, v.claim.tier) == (claim.family, claim.tier) for v in verdicts)


def why(verdict: ClaimVerdict, family: int) -> str:
    """Such as "Worse by 1.5 points; before correction this excludes 0; after Holm over 11 claims p = 0.039, above
    0.025: undecided."

    :param family: :func:`family_of`.
    """
    claim, difference = verdict.claim, verdict.difference
    if difference is None:
        return "Not run: no seed has both recipes."
    size = _size(verdict)
    if verdict.note:
        return f"{size} over {verdict.note}: undecided until all of them are run."
    _, alpha = confirmatory_plan(claim.tier)
    bound = -claim.margin
    of_bound = f"-{claim.margin:g} (the margin)" if claim.margin else "0"
    interval = difference.interval()
    parts = [size]
    if interval and difference.std:
        beyond = "lies above" if interval[0] > bound else "lies below" if interval[1] < bound else "includes"
        if not claim.margin:
            beyond = "includes" if beyond == "includes" else "excludes"
        begin = "before correction this" if family > 1 else "its 95% interval"
        parts.append(f"{begin} {beyond} {of_bound}")
    else:
        parts.append(f"the same in {count(difference.n, 'seed')}: the sign test decides")
    against = verdict.outcome == "contradicted" or (verdict.outcome == "undecided" and difference.value < bound)
    p = verdict.judged.reverse_p if against else verdict.judged.p
    after = f"after Holm over {family} claims " if family > 1 else ""
    side = "below" if p < alpha / 2 else "above"
    shown = "p < 0.0001" if p < 1e-4 else f"p = {p_in_words(p, alpha / 2)}"
    parts.append(f"{after}{shown}, {side} {alpha / 2:g}: {verdict.outcome}")
    return "; ".join(parts) + "."


def _size(verdict: ClaimVerdict) -> str:
    """The difference in words, such as "Worse by 1.5 points"."""
    assert verdict.difference is not None
    value, unit = verdict.difference.value, unit_of(verdict.claim)
    if value == 0:
        return "No difference"
    size = f"{abs(value):.1f}" if abs(value) >= 1 else f"{abs(value):.2f}" if abs(value) >= 0.005 else "less than 0.005"
    entropy = verdict.claim.metric in LESS_IS_BETTER
    if value > 0:
        return f"{'As claimed' if entropy else 'Better'} by {size} {unit}"
    return f"{'The other way round' if entropy else 'Worse'} by {size} {unit}"


def beside(verdicts: Sequence[ClaimVerdict], table: Sequence[Row]) -> str:
    """What stands beside those of a paper's planned claims that hold: what its method was compared with, planned or
    not, and that ends more accurate. Empty where nothing does.

    :param verdicts: of one paper and one tier.
    """
    planned = [v for v in verdicts if v.claim.family == "confirmatory" and unit_of(v.claim) == "points"]
    for stream in dict.fromkeys(v.claim.stream for v in planned if v.outcome == "holds"):
        rows = {row.key: row for row in table if row.stream == stream and not row.variant and not row.outside}
        own = [rows[v.claim.better] for v in planned if v.claim.stream == stream and v.claim.better in rows]
        against = [rows[v.claim.worse] for v in verdicts if v.claim.stream == stream and v.claim.worse in rows]
        against = [row for row in against if not row.joint and row.recipe not in PAPER_METHODS]
        if not own or not against:
            continue
        best, other = (max(found, key=lambda row: row.numbers["last_acc"].mean) for found in (own, against))
        reached, theirs = (row.numbers["last_acc"].mean for row in (best, other))
        if theirs <= reached:
            continue
        said = [f"“{v.claim.text}” is {v.outcome}" for v in verdicts if v.claim.worse == other.key]
        return (
            f"Beside these: {other.title} reaches {theirs:.1f}, {best.title} {reached:.1f} "
            f"(Last-Acc, {stream}); {', '.join(said)}."
        )
    return ""
