"""Part (b) of the paper check: the papers' claims on each tier, over the runs on record."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from reclaim.benchmark.checks.session import records_to_judge
from reclaim.benchmark.checks.stash import enter, skip_or_fail
from reclaim.benchmark.papers.published import CLAIMS, Claim, claims
from reclaim.benchmark.verdicts.claims import ClaimVerdict, judge_claims

pytestmark = pytest.mark.paper_check


@pytest.fixture(scope="module")
def verdicts(pytestconfig: pytest.Config) -> Mapping[str, ClaimVerdict]:
    records = records_to_judge(pytestconfig)
    return {verdict.claim.id: verdict for tier in CLAIMS for verdict in judge_claims(records, tier)}


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(claim, id=claim.id, marks=pytest.mark.paper_keys(claim.paper))
        for tier in CLAIMS
        for claim in claims(tier)
    ],
)
def test_verdict_is_the_expected_one(
    claim: Claim, verdicts: Mapping[str, ClaimVerdict], request: pytest.FixtureRequest
) -> None:
    verdict = verdicts[claim.id]
    unit = "nats" if claim.metric == "final_entropy" else "points"
    bound = f"> {-claim.margin:g} {unit}" if claim.kind == "noninferior" else f"> 0 {unit}"
    row = (f"{claim.id}: {claim}", str(verdict), f"{bound}, {claim.family}", verdict.outcome)
    enter(request, "claims", verdict.as_dict(), row)
    if verdict.outcome == "not run":
        skip_or_fail(
            request, f"no runs on record of {claim.better} and {claim.worse} on {claim.stream} with a seed in common"
        )
    if claim.expected is None:
        pytest.fail(
            f"{claim.id} has no expected verdict yet; the records say {verdict.outcome!r}: write it into "
            f"papers/{CLAIMS[claim.tier]}"
        )
    assert verdict.outcome == claim.expected, (
        f"verdict changed from {claim.expected!r} to {verdict.outcome!r}: {verdict}"
    )
