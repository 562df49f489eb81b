"""Studies on both engines: whatever fails, every run is recorded once, with the bits of an undisturbed one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import engines, jobs
from reclaim.benchmark.training.engines import RETRIES, Needs, longest_first, progress_of, run_study, seconds_of
from reclaim.benchmark.training.jobs import Job
from reclaim.benchmark.training.runtime import Setup
from small_runs import SMALL, small_config, synthetic_record


def job(recipe: str = "linear", seed: int = 0, *settings: str) -> Job:
    return Job(recipe, small_config(recipe, *settings), SMALL, seed, "given", Setup(checkpoint_minutes=0))


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


@pytest.fixture
def makes(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Job, int], Any]], list[Job]]:
    """Runs that cost nothing; each first asks what happens to it at its so manieth time."""

    def with_(happens: Callable[[Job, int], Any]) -> list[Job]:
        begun: list[Job] = []

        def make(one: Job, advance: Callable[[jobs.Tick], Any]) -> Record:
            begun.append(replace(one, setup=replace(one.setup, checkpoints=None)))
            happens(one, begun.count(begun[-1]))
            record = synthetic_record(one.recipe, one.stream.name, one.seed, config=one.config)
            record.provenance["wall_seconds"] = 7.0
            return record

        monkeypatch.setattr(jobs, "_make", make)
        return begun

    return with_


def fail(error: Exception) -> None:
    raise error


def test_a_transient_failure_is_tried_again_and_a_permanent_one_is_not(makes: Any, store: RecordStore) -> None:
    def happens(one: Job, time: int) -> None:
        if one.seed == 1 and time <= 2:
            raise OSError("the disk was away")
        if one.seed == 2:
            raise FloatingPointError("the loss is NaN")
        if one.seed == 3:
            raise OSError("the disk is away")

    begun = makes(happens)
    study = {job("linear", seed): Needs() for seed in range(5)}
    made, failures = run_study(study, store, n_jobs=1, quiet=True)
    assert {one.seed for one in made} == {0, 1, 4}
    assert Counter(one.seed for one in begun) == {0: 1, 1: 3, 2: 1, 3: 1 + RETRIES, 4: 1}
    assert {one.seed: reason for one, reason in failures.items()} == {
        2: "FloatingPointError: the loss is NaN",
        3: f"OSError: the disk is away (tried {1 + RETRIES} times)",
    }
    far = progress_of(list(study), store)
    assert {one.seed for one in far.done} == {0, 1, 4}
    assert {one.seed: reason for one, reason in far.failed.items()} == {
        one.seed: reason for one, reason in failures.items()
    }
    assert (far.running, far.waiting) == ((), ())
    # the same command goes on, and what failed is forgotten
    again = makes(lambda one, time: None)
    made, failures = run_study(study, store, n_jobs=1, quiet=True)
    assert (len(made), failures) == (5, {})
    assert sorted(one.seed for one in again) == [2, 3]
    assert progress_of(list(study), store).failed == {}


def test_the_end_of_a_failed_runs_log_is_told(makes: Any, store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    one = job()
    log = jobs.log_of(jobs._with_checkpoints(one, store))
    assert log
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    makes(lambda *_: fail(ValueError("no")))
    _, failures = run_study({one: Needs()}, store, n_jobs=1, quiet=True)
    assert failures[one].splitlines() == ["ValueError: no", *(f"| line {n}" for n in range(90, 100))]


def test_the_longest_come_first_by_what_is_on_record(makes: Any, store: RecordStore) -> None:
    few, many, other = job("linear", 0, "epochs=1"), job("linear", 0, "epochs=9"), job("ewc", 0, "epochs=3")
    assert longest_first([few, many, other], store) == [many, other, few]
    assert seconds_of([few], store) == {few: None}
    record = synthetic_record("ewc", SMALL.name, 5, config=other.config)
    record.provenance["wall_seconds"] = 1000.0
    store.write(record)
    seconds = seconds_of([few, many, other], store)
    assert seconds[other] == 1000.0
    assert seconds[many] == pytest.approx(9 * seconds[few])
    assert longest_first([few, other], store) == [other, few]


def test_what_is_running_is_seen_and_left_alone(makes: Any, store: RecordStore) -> None:
    seen: list[Any] = []
    study = [job("linear", 0), job("linear", 1)]
    makes(lambda one, _: seen.append(progress_of(study, store)))
    run_study(dict.fromkeys(study, Needs()), store, n_jobs=1, quiet=True)
    first = seen[0]
    assert [one.seed for one, _ in first.running] == [0]
    assert first.running[0][1].startswith(f"process {os.getpid()} on ")
    assert [one.seed for one in first.waiting] == [1]
    assert first.seconds_left is None
    assert seen[1].seconds_left == 7.0


@pytest.mark.parametrize("wrong", [{"cores": 0.0}, {"gpus": -1.0}, {"gpus": 1.5}, {"memory_gb": -1.0}])
def test_needs_that_nothing_can_meet_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="cores must be above 0"):
        Needs(**wrong)


def test_more_than_the_cluster_has_is_refused() -> None:
    engines._require_room({"CPU": 2.0, "memory": 8 * 2**30}, {job(): Needs(2, 0, 8)})
    with pytest.raises(ValueError, match="needs 3 of CPU, the whole cluster has 2: lower its needs"):
        engines._require_room({"CPU": 2.0}, {job(): Needs(3)})
    with pytest.raises(ValueError, match=r"needs 0.5 of GPU, the whole cluster has 0"):
        engines._require_room({"CPU": 2.0}, {job(): Needs(1, 0.5)})


def test_an_unknown_engine_is_refused(store: RecordStore) -> None:
    with pytest.raises(ValueError, match="the engine is 'slurm': choose local or ray"):
        run_study({job(): Needs()}, store, "slurm")
