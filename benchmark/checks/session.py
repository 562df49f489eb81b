"""What one pytest session judges: the records of its stores, and the runs that it makes itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data.streams import DENSE, MIDDLE, find_stream
from ..papers.published import claims, planned_seeds
from ..recipes import RECIPES
from ..records.record import Record
from ..records.store import RecordStore, default_store, named_store
from ..training.jobs import Job, jobs_of, run_jobs
from ..training.runtime import HERE, Setup
from ..verdicts.counting import current, merge, not_counted
from .stash import JUDGED, RECORDS, is_worker

if TYPE_CHECKING:
    import pytest


OPTION = "--paper-records"
"""That names stores here."""


def load(config: pytest.Config) -> tuple[list[Record], list[str]]:
    """The records of the stores that --paper-records names, or of the working directory's, and notes on what is not
    counted.

    :raises RecordError: a store is missing, or two contradict each other.
    """
    folders = config.getoption("--paper-records") or []
    made = folders[:1] if config.getoption("--paper-run-missing") else []
    stores = [RecordStore(f) if f in made else named_store(f, OPTION) for f in folders] or [default_store(OPTION)]
    records, damaged, repeated = merge(stores)
    return records, [*(f"skipped {problem}" for problem in damaged), *repeated, *not_counted(records)]


def missing_jobs(records: list[Record], papers: Sequence[str] | None = None) -> list[Job]:
    """The runs that the claims of these papers (None: all claims) need on streams of drawings and canvases, and that
    are not on record.
    """
    on_record = {(record.recipe, record.stream, record.seed) for record in current(records)}
    seeds: dict[tuple[str, str], int] = {}
    for claim in (*claims(), *claims(DENSE)):
        if papers is None or claim.paper in papers:
            for recipe in (claim.better, claim.worse):
                place = recipe, claim.stream
                seeds[place] = max(seeds.get(place, 0), planned_seeds(claim))
    missing = []
    for (recipe, stream), n in seeds.items():
        absent = [seed for seed in range(n) if (recipe, stream, seed) not in on_record]
        missing += jobs_of(RECIPES[recipe], find_stream(stream), absent)
    return missing


def records_on_record(config: pytest.Config) -> list[Record]:
    """Every record of the stores; --paper-run-missing makes what is missing, and those are among them."""
    records = config.stash[RECORDS]
    if config.getoption("--paper-run-missing") and (jobs := missing_jobs(records, config.getoption("--paper-only"))):
        folders = config.getoption("--paper-records")
        records += train(config, jobs, RecordStore(folders[0]) if folders else default_store(OPTION))
    return records


def records_to_judge(config: pytest.Config) -> list[Record]:
    """The records of the recipes' present configurations; with --paper-fresh their runs made again, which are not
    written, and the records of those that cannot be made here.
    """
    if JUDGED not in config.stash:
        records = current(records_on_record(config))
        if config.getoption("--paper-fresh"):
            root = config.getoption("--paper-root")
            jobs = [
                Job(
                    r.recipe,
                    RECIPES[r.recipe].config,
                    find_stream(r.stream),
                    r.seed,
                    r.result["hyperparameters_from"],
                    HERE if RECIPES[r.recipe].tier != MIDDLE else Setup(root=root),
                )
                for r in records
                # those of published cells cannot be made here, those of the middle tier need its images
                if r.recipe in RECIPES and (root or RECIPES[r.recipe].tier != MIDDLE)
            ]
            made = train(config, jobs, None)
            again = {job.place for job in jobs}
            # what cannot be made here is judged as it is on record
            records = [*made, *(r for r in records if (r.recipe, r.stream, r.config_hash, r.seed) not in again)]
        config.stash[JUDGED] = records
    return config.stash[JUDGED]


def train(config: pytest.Config, jobs: Sequence[Job], store: RecordStore | None) -> list[Record]:
    """Run the jobs with their progress shown, --paper-jobs at a time."""
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        return run_jobs(jobs, store, config.getoption("--paper-jobs"), quiet=is_worker(config))
