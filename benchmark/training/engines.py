"""Makes the runs of a study: the longest first, on this machine or by Ray on many.

Either way a run is made by :func:`~reclaim.benchmark.training.jobs.try_jobs` where it is placed: locked, going on
from its checkpoint, and recorded by itself. So a run is recorded once, whoever began it, and a study is continued by
starting it again. Records and checkpoints lie on a file system that all machines share.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from ..files import write_text
from ..records.record import Record
from ..records.store import RecordStore
from .jobs import Job, beside_store, epochs_of, log_of, on_record, try_jobs, with_checkpoints
from .locks import RunLocks

RETRIES = 3
"""How often a run is started again after a transient failure, each time from its last checkpoint."""

TRANSIENT = (OSError, MemoryError, BrokenProcessPool)
"""Failures that may not come again: a disk or network that was away, a machine too full, a killed process."""


@dataclass(frozen=True)
class Needs:
    """What one run occupies.

    :ivar cores: of the processor.
    :ivar gpus: also a fraction of one, such as 0.5: two runs share it.
    :ivar memory_gb: of the machine; 0: not counted.
    """

    cores: float = 1.0
    gpus: float = 0.0
    memory_gb: float = 0.0

    def __post_init__(self) -> None:
        if self.cores <= 0 or self.gpus < 0 or self.memory_gb < 0 or (self.gpus > 1 and self.gpus % 1):
            raise ValueError(f"{self}: cores must be above 0, gpus a fraction of one or whole, memory_gb at least 0")


RAY_SETTINGS = {"worker_niceness": 0}
"""Of a Ray that is started here. By its default, 15, a run stands still while anything else wants the processor."""


class TransientError(RuntimeError):
    """A run ended by what may not come again."""


def seconds_of(jobs: Sequence[Job], store: RecordStore) -> dict[Job, float | None]:
    """How long each run takes: the median of those of its configuration on record, else of its recipe's or of all
    records by the epoch; None where nothing is on record.
    """
    records, _ = store.load()
    walls: dict[tuple[str, ...], list[float]] = {}
    by_epoch: dict[str, list[float]] = {}
    for record in records:
        wall = record.provenance.get("wall_seconds")
        if wall:
            walls.setdefault((record.recipe, record.stream, record.config_hash), []).append(float(wall))
            experiences = 1 if record.dense else len(record.result["accuracy"])
            epochs = max(1, int(record.result["config"].get("epochs", 1))) * experiences
            for key in (record.recipe, ""):
                by_epoch.setdefault(key, []).append(float(wall) / epochs)
    found: dict[Job, float | None] = {}
    for job in jobs:
        rate = by_epoch.get(job.recipe) or by_epoch.get("")
        known = walls.get(job.place[:3])
        found[job] = median(known) if known else epochs_of(job) * median(rate) if rate else None
    return found


def longest_first(jobs: Sequence[Job], store: RecordStore) -> list[Job]:
    """Runs in the order in which they are started: with the longest at the end, the machines would wait for it alone.
    Where no time is known, by the number of epochs.
    """
    seconds = seconds_of(jobs, store)
    return sorted(jobs, key=lambda job: (seconds[job] or 0.0, epochs_of(job)), reverse=True)


def run_study(
    needs: Mapping[Job, Needs],
    store: RecordStore,
    engine: str = "local",
    n_jobs: int | None = None,
    address: str | None = None,
    quiet: bool = False,
) -> tuple[dict[Job, Record], dict[Job, str]]:
    """The records of a study's runs, and why the others failed. Those on record are not made again.

    :param needs: the runs, with what each occupies; the local engine counts runs, not needs.
    :param engine: "local" or "ray".
    :param n_jobs: on this machine alone, runs at a time, or cores that Ray may use; by default as many as it has.
    :param address: of a running Ray cluster, such as "auto"; None: Ray on this machine alone.
    :raises RecordError: before any run: a record is damaged, or the store is not writable.
    :raises ValueError: there is no such engine, or Ray is not installed.
    """
    if engine not in ("local", "ray"):
        raise ValueError(f"the engine is {engine!r}: choose local or ray")
    known = on_record(list(needs), store)
    missing = longest_first([job for job in needs if job not in known], store)
    if not missing:
        return known, {}
    store.require_writable()
    for job in missing:
        _failure_of(job, store).unlink(missing_ok=True)
    if engine == "local":
        made, failures = _locally(missing, store, n_jobs, quiet)
    else:
        made, failures = _by_ray(missing, needs, store, n_jobs, address, quiet)
    for job, reason in failures.items():
        try:
            _failure_of(job, store).parent.mkdir(parents=True, exist_ok=True)
            write_text(_failure_of(job, store), json.dumps({"reason": reason}))
        except OSError as error:  # a full disk, which may be why the run failed; the reason is returned in any case
            warnings.warn(f"--status will not know that {job} failed: {error}", stacklevel=2)
    return {**known, **made}, failures


def _locally(
    jobs: Sequence[Job], store: RecordStore, n_jobs: int | None, quiet: bool
) -> tuple[dict[Job, Record], dict[Job, str]]:
    known: dict[Job, Record] = {}
    reasons: dict[Job, str] = {}
    todo = list(jobs)
    for attempt in range(1 + RETRIES):
        made, failures = try_jobs(todo, store, n_jobs, quiet=quiet)
        known |= made
        for job, error in failures.items():
            reasons[job] = _reason(job, store, error, 1 + attempt)
        todo = [job for job in todo if isinstance(failures.get(job), TRANSIENT)]
        if not todo:
            break
    return known, {job: reason for job, reason in reasons.items() if job not in known}


def _reason(job: Job, store: RecordStore, error: BaseException, attempts: int) -> str:
    """The error, how often it was tried, and the end of the run's log."""
    tries = f" (tried {attempts} times)" if attempts > 1 else ""
    log = log_of(with_checkpoints(job, store))
    tail = log.read_text(errors="replace").splitlines()[-10:] if log and log.is_file() else []
    return "\n".join([f"{type(error).__name__}: {error}{tries}", *(f"| {line}" for line in tail)])


# --- Ray ---


def _by_ray(
    jobs: Sequence[Job],
    needs: Mapping[Job, Needs],
    store: RecordStore,
    n_jobs: int | None,
    address: str | None,
    quiet: bool,
) -> tuple[dict[Job, Record], dict[Job, str]]:
    try:
        import ray
    except ImportError as error:
        raise ValueError("the engine ray is not installed: pip install 'reclaim[ray]'") from error
    began = not ray.is_initialized()
    if began and address:
        ray.init(address, log_to_driver=False)
    elif began:
        ray.init("local", num_cpus=n_jobs, include_dashboard=False, log_to_driver=False, _system_config=RAY_SETTINGS)
    make = ray.remote(_make_on_a_node)
    root = store.root.resolve()
    try:
        _require_room(ray.cluster_resources(), {job: needs[job] for job in jobs})
        pending: dict[Any, Job] = {}
        for job in jobs:
            need = needs[job]
            task = make.options(
                name=str(job),
                num_cpus=need.cores,
                num_gpus=need.gpus,
                memory=int(need.memory_gb * 2**30) or None,
                max_retries=RETRIES,  # a killed worker or node
                retry_exceptions=[TransientError],
            )
            pending[task.remote(_anywhere(job), root)] = job
        reasons: dict[Job, str] = {}
        with tqdm(total=len(pending), unit="run", disable=quiet) as bar:
            while pending:
                for done in ray.wait(list(pending))[0]:
                    job = pending.pop(done)
                    try:
                        reason = ray.get(done)
                    except ray.exceptions.RayTaskError as error:
                        reason = str(error.cause)
                        if isinstance(error.cause, TransientError):
                            reason += f" (tried {1 + RETRIES} times)"
                    except ray.exceptions.RayError as error:
                        reason = f"{type(error).__name__}: {str(error).splitlines()[0]} (tried {1 + RETRIES} times)"
                    if reason:
                        reasons[job] = reason
                    bar.set_description_str(f"{job}{', failed' if reason else ''}")
                    bar.update()
    finally:
        if began:
            ray.shutdown()
    return on_record([job for job in jobs if job not in reasons], store), reasons


def _require_room(resources: Mapping[str, float], needs: Mapping[Job, Needs]) -> None:
    """Refuse what no cluster of this size can ever place: Ray would wait for a larger one.

    :raises ValueError: a run needs more than the whole cluster has.
    """
    for job, need in needs.items():
        for what, wanted, unit in (("CPU", need.cores, 1), ("GPU", need.gpus, 1), ("memory", need.memory_gb, 2**30)):
            if wanted * unit > resources.get(what, 0.0):
                has = resources.get(what, 0.0) / unit
                raise ValueError(f"{job} needs {wanted:g} of {what}, the whole cluster has {has:g}: lower its needs")


def _anywhere(job: Job) -> Job:
    """With absolute paths: the processes of a cluster work in folders of their own."""
    setup = job.setup
    places = {key: path.absolute() for key in ("root", "cache", "weights") if (path := getattr(setup, key))}
    return replace(job, setup=replace(setup, **places))


def _make_on_a_node(job: Job, root: Path) -> str | None:
    """Make one run where Ray has placed it. None: it is on record; else why not.

    :raises TransientError: it may succeed another time.
    """
    store = RecordStore(root)
    _, failures = try_jobs([job], store, 1, quiet=True)
    for error in failures.values():
        reason = _reason(job, store, error, 1)
        if isinstance(error, TRANSIENT):
            raise TransientError(reason)
        return reason
    return None


# --- how far it is ---


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    :ivar failed: run -> why it failed, the last time.
    :ivar seconds_left: of all runs that are not done, one after another, as long as those on record took; None if
        nothing is on record.
    """

    done: tuple[Job, ...]
    running: tuple[tuple[Job, str], ...]
    failed: Mapping[Job, str]
    waiting: tuple[Job, ...]
    seconds_left: float | None


def progress_of(jobs: Sequence[Job], store: RecordStore) -> Progress:
    """How far a study is. Reads only; also while it runs, from any machine that sees the store."""
    known = on_record(jobs, store)
    running, failed, waiting = [], {}, []
    for job in (job for job in jobs if job not in known):
        holder = RunLocks(beside_store(store)).held_by(*job.place)
        if holder:
            running.append((job, holder))
        elif _failure_of(job, store).is_file():
            failed[job] = _reason_noted(_failure_of(job, store))
        else:
            waiting.append(job)
    left = list(seconds_of([job for job in jobs if job not in known], store).values())
    total = None if any(seconds is None for seconds in left) else sum(seconds or 0.0 for seconds in left)
    return Progress(tuple(known), tuple(running), failed, tuple(waiting), total)


def _reason_noted(note: Path) -> str:
    try:
        return str(json.loads(note.read_text("utf-8"))["reason"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        return f"{note} cannot be read: {error}"


def _failure_of(job: Job, store: RecordStore) -> Path:
    recipe, stream, config_hash, seed = job.place
    return beside_store(store) / f"{recipe}.{stream}.{config_hash}.{seed}.failed"
