"""What the tests of `pytest benchmark/ --paper-check` share: which records they judge."""

from __future__ import annotations

import warnings

import pytest

from .engines import Job, run_jobs
from .published import cells
from .pytest_options import ROWS
from .recipes import RECIPES, weights_sha256
from .records import Record, RecordStore, config_hash, default_store
from .streams import find_stream
from .tuning import SEEDS

__all__ = ["ROWS", "record_store", "records_to_judge"]

_JUDGED = pytest.StashKey[list[Record]]()


def record_store(config: pytest.Config) -> RecordStore:
    """The store that --records names, or the working directory's."""
    folder = config.getoption("--records")
    return RecordStore(folder) if folder else default_store()


def records_to_judge(config: pytest.Config) -> list[Record]:
    """The records of the recipes' present configurations, made anew with --fresh; damaged files are warned of and skipped."""
    if _JUDGED not in config.stash:
        records, problems = record_store(config).load()
        for problem in problems:
            warnings.warn(f"skipped {problem}", stacklevel=2)
        records = current(records)
        if config.getoption("--fresh"):
            jobs = [
                Job(r.recipe, RECIPES[r.recipe].config, find_stream(r.stream), r.seed, r.result["hyperparameters_from"])
                for r in records
                if r.recipe in RECIPES  # those of published cells cannot be made here
            ]
            with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
                records = run_jobs(jobs, None, config.getoption("--paper-jobs"))
        config.stash[_JUDGED] = records
    return config.stash[_JUDGED]


def current(records: list[Record]) -> list[Record]:
    """The records that count.

    Of a recipe: those made with its present configuration from the present weights, on seeds that no choice of hyper-parameters used. Of
    a published cell: those on the official test images.

    :raises ValueError: the records of a published cell are of more than one configuration, which must not be pooled.
    """
    made_with = {name: (config_hash(recipe.config.as_dict()), weights_sha256(recipe.config)) for name, recipe in RECIPES.items()}
    of_cells = {cell.recipe for cell in cells()}
    hashes: dict[tuple[str, str], str] = {}
    counted = []
    for record in records:
        if record.recipe in RECIPES:
            if record.seed < min(SEEDS) and made_with[record.recipe] == (record.config_hash, record.result["weights_sha256"]):
                counted.append(record)
        elif record.recipe in of_cells and record.result["config"].get("part") == "test":
            known = hashes.setdefault((record.recipe, record.stream), record.config_hash)
            if known != record.config_hash:
                raise ValueError(
                    f"the records of {record.recipe} on {record.stream} are of two configurations, {known} and {record.config_hash}: "
                    "move one of them out of the store"
                )
            counted.append(record)
    return counted
