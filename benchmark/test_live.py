"""Part (a) of the paper check: headline recipes trained now, held against their committed records."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from reclaim.benchmark.engines import Job, jobs_of, run_jobs
from reclaim.benchmark.paper_check import ROWS, record_store
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records import Record, RecordStore, compare
from reclaim.benchmark.streams import find_stream

pytestmark = pytest.mark.paper_check

SEED = 0
HEADLINE = {name: recipe for name, recipe in RECIPES.items() if recipe.headline}


@pytest.fixture(scope="module")
def store(pytestconfig: pytest.Config) -> RecordStore:
    return record_store(pytestconfig)


@pytest.fixture(scope="module")
def live(pytestconfig: pytest.Config) -> Mapping[str, tuple[Job, Record]]:
    """Recipe -> its job and the run just made; all of them at once, one per core."""
    if pytestconfig.getoption("--records-only"):
        pytest.skip("--records-only trains nothing")
    jobs = [jobs_of(recipe, find_stream(recipe.home), [SEED])[0] for recipe in HEADLINE.values()]
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        records = run_jobs(jobs, None, pytestconfig.getoption("--paper-jobs"))
    return {job.recipe: (job, record) for job, record in zip(jobs, records, strict=True)}


@pytest.mark.parametrize("recipe", HEADLINE)
def test_live_run_agrees_with_its_record(
    recipe: str, live: Mapping[str, tuple[Job, Record]], store: RecordStore, pytestconfig: pytest.Config
) -> None:
    job, record = live[recipe]
    committed = store.get(*job.place)
    if committed is None:
        pytest.fail(f"{job} is not on record under its present configuration: `reclaim run {recipe} --seeds 1`")
    comparison = compare(record, committed)
    pytestconfig.stash[ROWS].append(
        (
            f"live {job}",
            f"Last-Acc {record.metrics()['last_acc']:.2f}",
            f"{committed.metrics()['last_acc']:.2f} on record",
            ("same bits" if comparison.exact else "within tolerance") if comparison.agree else "DIFFERS",
        )
    )
    assert comparison.agree, str(comparison)
