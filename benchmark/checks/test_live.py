"""Part (a) of the paper check: headline recipes trained now, held against their committed records."""

from __future__ import annotations

from collections.abc import Container, Mapping

import pytest
from reclaim.benchmark.checks.session import records_on_record, train
from reclaim.benchmark.checks.stash import enter, is_worker
from reclaim.benchmark.data.streams import find_stream
from reclaim.benchmark.papers.published import claims
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.record import Record, compare
from reclaim.benchmark.training.jobs import Job, jobs_of
from reclaim.benchmark.training.runtime import Setup

pytestmark = pytest.mark.paper_check

SEED = 0
MIDDLE = "lite-frozen-ca"
"""The run of the middle tier that is made live where its images are: the features of each image once, then heads."""
HEADLINE = {name: recipe for name, recipe in recipes_of("embedded").items() if recipe.headline}


def papers_about(recipe: str) -> pytest.MarkDecorator:
    return pytest.mark.paper_keys(*{claim.paper for claim in claims() if recipe in (claim.better, claim.worse)})


def train_live(config: pytest.Config, recipes: Container[str | None]) -> dict[str, tuple[Job, Record]]:
    """Recipe -> its job and the run just made, of the headline recipes among these."""
    jobs = [
        jobs_of(recipe, find_stream(recipe.home), [SEED])[0] for name, recipe in HEADLINE.items() if name in recipes
    ]
    return {job.recipe: (job, record) for job, record in zip(jobs, train(config, jobs, None), strict=True)}


@pytest.fixture(scope="module")
def all_live(request: pytest.FixtureRequest) -> Mapping[str, tuple[Job, Record]]:
    """The runs of all tests of this session at once, one per core."""
    chosen = {item.callspec.params.get("recipe") for item in request.session.items if hasattr(item, "callspec")}
    return train_live(request.config, chosen)


@pytest.fixture
def live(recipe: str, request: pytest.FixtureRequest) -> tuple[Job, Record]:
    if request.config.getoption("--paper-records-only"):
        pytest.skip("--paper-records-only trains nothing")
    if is_worker(request.config):  # the others train the other recipes meanwhile
        return train_live(request.config, [recipe])[recipe]
    runs: Mapping[str, tuple[Job, Record]] = request.getfixturevalue("all_live")
    return runs[recipe]


@pytest.mark.parametrize("recipe", [pytest.param(name, id=name, marks=papers_about(name)) for name in HEADLINE])
def test_live_run_agrees_with_its_record(recipe: str, live: tuple[Job, Record], request: pytest.FixtureRequest) -> None:
    _hold_against_its_record(*live, request)


def test_live_run_of_the_middle_tier_agrees_with_its_record(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--paper-records-only"):
        pytest.skip("--paper-records-only trains nothing")
    root = request.config.getoption("--paper-root")
    if root is None:
        pytest.skip(
            f"{MIDDLE} needs the images of CIFAR-10: `reclaim data fetch cifar10 --root data`, --paper-root data"
        )
    recipe = RECIPES[MIDDLE]
    (job,) = jobs_of(recipe, find_stream(recipe.home), [SEED], setup=Setup(root=root))
    (record,) = train(request.config, [job], None)
    _hold_against_its_record(job, record, request)


def _hold_against_its_record(job: Job, record: Record, request: pytest.FixtureRequest) -> None:
    committed = [
        r for r in records_on_record(request.config) if (r.recipe, r.stream, r.config_hash, r.seed) == job.place
    ]
    if not committed:
        pytest.fail(f"{job} is not on record under its present configuration: `reclaim run {job.recipe} --seeds 1`")
    comparison = compare(record, committed[0])
    verdict = ("same bits" if comparison.exact else "within tolerance") if comparison.agree else "DIFFERS"
    accuracies = [r.metrics()["last_acc"] for r in (record, committed[0])]
    entry = {"id": str(job), "verdict": verdict, "last_acc": accuracies[0], "on_record": accuracies[1]}
    row = (f"live {job}", f"Last-Acc {accuracies[0]:.2f}", f"{accuracies[1]:.2f} on record", verdict)
    enter(request, "live", entry, row)
    assert comparison.agree, str(comparison)
