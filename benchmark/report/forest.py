"""Planned claims with their intervals: on one scale that holds them all, and on one around 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..papers.headers import papers
from ..verdicts.claims import ClaimVerdict
from .board import tier_name
from .sentences import unit_of
from .svg import Scale, templates

PANEL, NARROW_PANEL = (4.0, 316.0), (4.0, 236.0)
"""First and last pixel of a panel: on the page, and in the picture of claims beside their labels."""


@dataclass(frozen=True)
class Forest:
    """Claims in one unit.

    :ivar near: around 0, as wide as the nearer half of the claims needs; None where ``whole`` is no wider.
    """

    unit: str
    verdicts: list[ClaimVerdict]
    whole: Scale
    near: Scale | None


def forests(verdicts: Sequence[ClaimVerdict], panel: tuple[float, float] = PANEL) -> list[Forest]:
    """One for claims in points and one for those in nats, where there are any."""
    found = ((unit, [v for v in verdicts if unit_of(v.claim) == unit]) for unit in ("points", "nats"))
    return [_forest(unit, members, panel) for unit, members in found if members]


def _forest(unit: str, verdicts: list[ClaimVerdict], panel: tuple[float, float]) -> Forest:
    ends = [end for v in verdicts for end in (0.0, *interval_of(v), -v.claim.margin)]
    farthest = sorted(max(map(abs, interval_of(v))) for v in verdicts if v.difference)
    whole = Scale.around(ends, *panel, steps=4)
    near = farthest[(len(farthest) - 1) // 2] if farthest else 0.0
    zoomed = Scale.around((-near, near), *panel, steps=4) if near else None
    narrower = zoomed is not None and zoomed.high - zoomed.low < whole.high - whole.low
    return Forest(unit, verdicts, whole, zoomed if narrower else None)


def interval_of(verdict: ClaimVerdict) -> tuple[float, ...]:
    """The ends of the interval that is drawn, the one that agrees with the verdict where there is one; of a single
    seed its difference.
    """
    difference = verdict.difference
    if difference is None:
        return ()
    return verdict.adjusted_interval or difference.interval() or (difference.value,)


def picture(verdicts: Sequence[ClaimVerdict]) -> str:
    """The planned claims of every measured tier as SVG, for light and for dark pages; empty where none was run."""
    planned = [v for v in verdicts if v.claim.family == "confirmatory"]
    measured = dict.fromkeys(v.claim.tier for v in planned if v.difference)
    of_tiers = [(tier, [v for v in planned if v.claim.tier == tier]) for tier in measured]
    groups = [(tier_name(tier), forest) for tier, of_tier in of_tiers for forest in forests(of_tier, NARROW_PANEL)]
    if not groups:
        return ""
    names = {key: paper.name for key, paper in papers().items()}
    return templates().get_template("claims.svg").render(groups=groups, names=names, interval_of=interval_of)
