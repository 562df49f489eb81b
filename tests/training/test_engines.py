"""Studies on both engines: whatever fails, every run is recorded once, with the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reclaim.benchmark.data.streams import CANVASES
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import engines, jobs
from reclaim.benchmark.training.engines import (
    RAY_SETTINGS,
    RETRIES,
    Needs,
    TransientError,
    longest_first,
    progress_of,
    run_study,
    seconds_of,
)
from reclaim.benchmark.training.jobs import Job
from reclaim.benchmark.training.run import run
from reclaim.benchmark.training.runtime import Setup
from small_runs import SMALL, shrink, small_config, synthetic_record

TESTS = Path(__file__).parents[1]


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
    log = jobs.log_of(jobs.with_checkpoints(one, store))
    assert log
    log.parent.mkdir(parents=True)
    log.write_text("".join(f"line {n}\n" for n in range(100)))
    makes(lambda *_: fail(ValueError("no")))
    _, failures = run_study({one: Needs()}, store, n_jobs=1, quiet=True)
    assert failures[one].splitlines() == ["ValueError: no", *(f"| line {n}" for n in range(90, 100))]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"null", b"7"])
def test_a_damaged_note_of_a_failure_is_named(content: bytes, makes: Any, store: RecordStore) -> None:
    one = job()
    makes(lambda *_: fail(ValueError("no")))
    run_study({one: Needs()}, store, n_jobs=1, quiet=True)
    (note,) = store.root.parent.rglob("*.failed")
    note.write_bytes(content)
    assert progress_of([one], store).failed[one].startswith(f"{note} cannot be read: ")


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


def test_runs_on_canvases_have_their_times(makes: Any, store: RecordStore) -> None:
    config = RECIPES["dense-sem-full"].config
    one, other = (Job("dense-sem-full", config, CANVASES, seed, "given") for seed in range(2))
    makes(lambda *_: None)
    made, failures = run_study({one: Needs()}, store, n_jobs=1, quiet=True)
    assert (list(made), failures) == ([one], {})
    assert seconds_of([other], store) == {other: 7.0}
    assert progress_of([one, other], store).seconds_left == 7.0
    assert longest_first([other, job()], store)[0] == other


def test_the_reasons_are_told_when_the_disk_is_full(
    makes: Any, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    makes(lambda *_: fail(ValueError("no")))
    monkeypatch.setattr(engines, "write_text", lambda *_: fail(OSError(28, "No space left on device")))
    with pytest.warns(UserWarning, match="--status will not know that linear .* failed: .*No space left"):
        _, failures = run_study({job(): Needs()}, store, n_jobs=1, quiet=True)
    assert [reason for reason in failures.values()] == ["ValueError: no"]


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


# --- Ray ---


def test_ray_tries_again_what_may_succeed_and_tells_why_the_others_failed(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    log = tmp_path / "log"

    def on_a_node(one: Job, root: Path) -> str | None:  # runs in another process, without a model
        with log.open("a") as file:
            file.write(f"{one.seed}\n")
        if one.seed == 1:
            os._exit(1)
        if one.seed == 2:
            return "FloatingPointError: the loss is NaN"
        if one.seed == 3:
            raise TransientError("OSError: the disk is away")
        RecordStore(root).write(records[one.seed])
        return None

    study = {job("linear", seed): Needs() for seed in range(4)}
    records = {one.seed: synthetic_record(one.recipe, SMALL.name, one.seed, config=one.config) for one in study}
    monkeypatch.setattr(engines, "_make_on_a_node", on_a_node)
    made, failures = run_study(study, store, "ray", n_jobs=1, quiet=True)
    assert {one.seed for one in made} == {0}
    reasons = {one.seed: reason for one, reason in failures.items()}
    assert reasons[1].startswith("WorkerCrashedError: ")
    assert reasons[1].endswith(f" (tried {1 + RETRIES} times)")
    assert reasons[2] == "FloatingPointError: the loss is NaN"
    assert reasons[3] == f"OSError: the disk is away (tried {1 + RETRIES} times)"
    assert Counter(log.read_text().split()) == {"0": 1, "1": 1 + RETRIES, "2": 1, "3": 1 + RETRIES}
    assert {one.seed: reason for one, reason in progress_of(list(study), store).failed.items()} == reasons


STUDY = [("slca", 0), ("linear", 0), ("lora-aepg", 1), ("slca", 2)]
_make_on_a_node = engines._make_on_a_node


def make_slowed_and_logged(one: Job, root: Path) -> str | None:
    """Stands in for ``engines._make_on_a_node``."""
    if not hasattr(RecordStore, "logged"):
        slow_and_log()
    return _make_on_a_node(one, root)


def slow_and_log() -> None:
    """In each worker: small drawings, a wait after each checkpoint, and a line of what happens."""
    from reclaim.benchmark.training.checkpoints import Checkpoint

    shrink(pytest.MonkeyPatch())
    log, save, load, write = Path(os.environ["RECLAIM_LOG"]), Checkpoint.save, Checkpoint.load, RecordStore.write

    def note(*words: Any) -> None:
        with log.open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    def slow(self: Any, strategy: Any) -> None:
        save(self, strategy)
        note("saved", os.getpid(), os.getppid(), self.path.stem)
        time.sleep(0.3)

    def loaded(self: Any, fresh: Any) -> Any:
        strategy = load(self, fresh)
        note("fresh" if strategy is fresh else "resumed", os.getpid(), self.path.stem)
        return strategy

    def written(self: Any, record: Record) -> Path:
        note("written", os.getpid(), record.recipe, record.seed)
        return write(self, record)

    for owner, name, instead in (
        (Checkpoint, "save", slow),
        (Checkpoint, "load", loaded),
        (RecordStore, "write", written),
    ):
        setattr(owner, name, instead)
    RecordStore.logged = True  # type: ignore[attr-defined]


DRIVER = """
import sys
from pathlib import Path
import ray
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import engines
from reclaim.benchmark.training.engines import Needs, run_study
from training import test_engines as here

ray.init(address=sys.argv[1], log_to_driver=False)
engines._make_on_a_node = here.make_slowed_and_logged
study = {here.job(recipe, seed): Needs() for recipe, seed in here.STUDY}
made, failures = run_study(study, RecordStore(sys.argv[2]), "ray", quiet=True)
assert not failures, failures
assert len(made) == len(study)
"""


@pytest.mark.trains
@pytest.mark.skipif(sys.platform != "linux", reason="kills processes")
def test_a_worker_a_node_and_the_driver_are_killed(
    tmp_path: Path, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    log = tmp_path / "log"
    log.touch()
    monkeypatch.setenv("RECLAIM_LOG", str(log))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

    def lines(kind: str) -> list[list[str]]:
        return [line.split()[1:] for line in log.read_text().splitlines() if line.startswith(kind)]

    def wait(what: Callable[[], Any]) -> Any:
        while not (found := what()):
            assert driver.poll() in (None, 0), driver.communicate()[1]
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        return found

    def under_way() -> list[list[str]]:
        """Of each run that a living process saved and has not written: the process, and its parent."""
        saved = {}
        for kind, pid, *rest in (line.split() for line in log.read_text().splitlines()):
            if kind == "saved" and pid not in killed and Path("/proc", pid).exists():
                saved[pid] = [pid, *rest]
            elif kind == "written":  # the process goes on with another run
                saved.pop(pid, None)
        return [*saved.values()]

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", DRIVER, cluster.address, str(store.root)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    killed: set[str] = set()
    driver: Any = None
    end = time.monotonic() + 900
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8, "_system_config": RAY_SETTINGS}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        second = cluster.add_node(num_cpus=1, object_store_memory=10**8)
        raylet = str(second.all_processes["raylet"][0].process.pid)
        driver = start()
        # a worker, not of the second node: a new one there might come too late for a run
        pid, *_ = wait(lambda: [one for one in under_way() if one[1] != raylet])[0]
        killed.add(pid)
        os.kill(int(pid), signal.SIGKILL)
        # the second node, while a run is under way there
        wait(lambda: raylet in [parent for _, parent, _ in under_way()])
        cluster.remove_node(second, allow_graceful=False)
        killed |= {line[0] for line in lines("saved") if line[1] == raylet}
        # the driver
        wait(under_way)
        driver.kill()
        driver.wait()
        driver = start()
        wait(lambda: driver.poll() is not None)
        assert driver.returncode == 0, driver.communicate()[1]
    finally:
        if driver:
            driver.kill()
        cluster.shutdown()
    assert sorted((recipe, int(seed)) for _, recipe, seed in lines("written")) == sorted(STUDY)
    assert len(lines("resumed")) >= 2
    records, problems = store.load()
    assert (len(records), problems) == (len(STUDY), [])
    shrink(monkeypatch)
    for record in records:
        whole = run(record.recipe, small_config(record.recipe), SMALL, record.seed)
        assert json.loads(json.dumps(whole.result)) == record.result
    assert [*tmp_path.glob("records.checkpoints/*.checkpoint")] == []
