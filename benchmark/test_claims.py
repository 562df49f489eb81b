"""Part (b) of the paper check: the papers' claims on the embedded tier, over the runs on record."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from reclaim.benchmark.paper_check import ROWS, records_to_judge
from reclaim.benchmark.published import Claim, ClaimVerdict, claims, judge_claims

pytestmark = pytest.mark.paper_check


@pytest.fixture(scope="module")
def verdicts(pytestconfig: pytest.Config) -> Mapping[str, ClaimVerdict]:
    return {verdict.claim.id: verdict for verdict in judge_claims(records_to_judge(pytestconfig))}


@pytest.mark.parametrize("claim", claims(), ids=lambda claim: claim.id)
def test_verdict_is_the_expected_one(claim: Claim, verdicts: Mapping[str, ClaimVerdict], pytestconfig: pytest.Config) -> None:
    verdict = verdicts[claim.id]
    pytestconfig.stash[ROWS].append(
        (
            f"{claim.id}: {claim.better} {'>' if claim.kind == 'superior' else '>='} {claim.worse}",
            str(verdict),
            f"{'> 0' if claim.kind == 'superior' else f'> -{claim.margin}'}, {claim.family}",
            verdict.outcome,
        )
    )
    if verdict.outcome == "not run":
        pytest.skip(f"no runs on record of {claim.better} and {claim.worse} on {claim.stream} with a seed in common")
    if claim.expected is None:
        pytest.fail(f"{claim.id} has no expected verdict yet; the records say {verdict.outcome!r}: write it into papers/claims.toml")
    assert verdict.outcome == claim.expected, f"verdict changed from {claim.expected!r} to {verdict.outcome!r}: {verdict}"
