"""Runs many jobs: one core each, several in parallel, each recorded as soon as it is finished."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..config import Component, Config, ConfigError, config_hash
from ..data.streams import Stream
from ..recipes import Recipe, weights_sha256
from ..records.record import UNVERIFIED, Record, RecordError
from ..records.store import RecordStore
from .components import LeftRunningError
from .locks import RunLocks
from .runtime import HERE, Setup, is_lack_of_memory, process

BAR = "{l_bar}{bar}| {n:.6g}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
"""tqdm's own, but of hundredths of epochs."""
Tick = tuple[str, float]
"""A run by name, and how many of its epochs were finished since its last tick."""


@dataclass(frozen=True)
class Job:
    """A run to be made."""

    recipe: str
    config: Config
    stream: Stream
    seed: int
    hyperparameters_from: str
    setup: Setup = HERE

    @property
    def external(self) -> list[Component]:
        """Code from outside this project that takes part: the run is made in a process of its own."""
        parts = self.config.external.components.values() if self.config.external else ()
        return [*parts, *filter(None, [self.stream.made_by])]

    @property
    def place(self) -> tuple[str, str, str, int]:
        """The key of the run in a record store."""
        return self.recipe, self.stream.name, config_hash(self.config.as_dict()), self.seed

    def __str__(self) -> str:
        return f"{self.recipe} {self.stream.name} seed {self.seed}"


def jobs_of(
    recipe: Recipe, stream: Stream, seeds: Sequence[int], settings: Sequence[str] = (), setup: Setup = HERE
) -> list[Job]:
    """One job per seed; settings on top of the recipe's own make its hyper-parameters "given"."""
    config = recipe.config.set(settings)
    origin = recipe.origin_of(config)
    return [Job(recipe.name, config, stream, seed, origin, setup) for seed in seeds]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_jobs(
    jobs: Sequence[Job], store: RecordStore | None, n_jobs: int | None = None, again: bool = False, quiet: bool = False
) -> list[Record]:
    """The records of all jobs, in their order. Existing records are read, the others are made and written one by one.

    An interruption keeps finished runs, and checkpoints of unfinished ones. The same call then resumes them. Runs that
    another process is making into the same store are left to it, and their records waited for.

    :param store: where records are read and written. ``None`` makes every run and writes nothing. Checkpoints are in
        the folder ``<store>.checkpoints`` next to it, unless a job's setup names another folder.
    :param n_jobs: number of parallel runs; by default one per core.
    :param again: repeat runs that are already recorded.
    :raises RuntimeError: some runs failed; names them, after all others are finished and, with a store, recorded.
    :raises RecordError: before any run: a record is damaged, or was made from other images or weights than the job
        names, or the store is not writable or has no room.
    """
    known, failures = try_jobs(jobs, store, n_jobs, again, quiet)
    if failures:
        others = "no records are written" if not store else "the others are recorded" if known else "none is recorded"
        listed = "\n".join(f"  {job}: {type(error).__name__}: {error}" for job, error in failures.items())
        raise RuntimeError(f"{len(failures)} of {len(failures) + len(known)} runs failed, {others}:\n{listed}")
    return [known[job] for job in jobs]


def try_jobs(
    jobs: Sequence[Job], store: RecordStore | None, n_jobs: int | None = None, again: bool = False, quiet: bool = False
) -> tuple[dict[Job, Record], dict[Job, Exception]]:
    """Like :func:`run_jobs`, but returns the errors of failed runs in addition to the records of the others.

    Processes of ``torchrun`` make the runs together, one at a time. Only the first returns, the others end then.
    """
    if n_jobs is not None and n_jobs < 1:
        raise ValueError(f"the number of parallel runs must be at least 1, got {n_jobs}")
    if process()[1] > 1 and jobs:
        from .data_parallel import joined

        with joined(jobs[0].setup.device) as first:
            if first:
                return _try_jobs(jobs, store, 1, again, quiet)
            _follow()
            raise SystemExit
    return _try_jobs(jobs, store, n_jobs, again, quiet)


def _try_jobs(
    jobs: Sequence[Job], store: RecordStore | None, n_jobs: int | None, again: bool, quiet: bool
) -> tuple[dict[Job, Record], dict[Job, Exception]]:
    # before looking for records, which may take long: what another process records meanwhile is noticed
    written = {job: store.written(*job.place) if store else None for job in jobs}
    known = on_record(jobs, store, again) if store else {}
    missing = [job for job in dict.fromkeys(jobs) if job not in known]
    if store and missing:
        store.require_writable()
    n_jobs = min(n_jobs or available_cores(), max(1, len(missing)))
    failures: dict[Job, Exception] = {}
    placed = {job: with_checkpoints(job, store) for job in (*known, *missing)}

    def discard_checkpoint(job: Job) -> None:
        placed[job].setup.discard_checkpoint(*job.place)

    with (
        RunLocks(beside_store(store) if store else None) as locks,
        tqdm(
            total=sum(epochs_of(job) for job in missing),
            unit="epoch",
            disable=quiet or not missing,
            smoothing=0.05,
            bar_format=BAR,
        ) as bar,
    ):
        for job in known:  # its checkpoint remains if the run ended between writing its record and removing it
            path = placed[job].setup.checkpoint_of(*job.place)
            if path and path.exists() and locks.take(*job.place):  # else it is being made --again
                discard_checkpoint(job)
                locks.release(*job.place)

        def advance(tick: Tick) -> None:
            label, epochs = tick
            left = sum(job not in known and job not in failures for job in missing)
            bar.set_description_str(f"{label}, {left} of {len(missing)} runs to go")
            bar.update(epochs)

        def finish(job: Job, make: Callable[[], Record]) -> None:
            try:
                record = make()
                if store:
                    _write(store, record)
                known[job] = record
                discard_checkpoint(job)
            except Exception as error:
                failures[job] = _out_of_memory(error, job, n_jobs) or error
                _let_go(error)
                if isinstance(
                    error, FloatingPointError | LeftRunningError
                ):  # it would diverge again, or hide the fault
                    discard_checkpoint(job)
            finally:
                locks.release(*job.place)

        waiting, named = deque(missing), set[Job]()

        def take() -> Job | None:
            """The next run that no other process is making, locked; None if there is none at the moment."""
            for _ in range(len(waiting)):
                job = waiting.popleft()
                if job.setup.rehearsal:
                    return job
                if not locks.take(*job.place):
                    waiting.append(job)
                    if job not in named and not quiet:
                        named.add(job)
                        bar.write(f"{locks.holder(*job.place)} is making {job}: its record is waited for", sys.stderr)
                    continue
                if not store or store.written(*job.place) == written[job]:
                    return job
                if (record := _made_elsewhere(job, store, failures)) is None and job not in failures:
                    return job
                if record:
                    known[job] = record
                    advance((f"{job}, made by another process", epochs_of(job)))
                locks.release(*job.place)
            return None

        if process()[1] > 1 or (n_jobs == 1 and not any(job.external for job in waiting)):
            while waiting:
                if found := take():
                    make = _lead if process()[1] > 1 else _make
                    finish(found, lambda make=make, job=found: make(placed[job], advance))  # type: ignore[misc]
                elif waiting:
                    time.sleep(POLL)
        elif waiting:
            _in_processes(take, waiting, placed, n_jobs, finish, advance)
    return known, failures


def on_record(jobs: Sequence[Job], store: RecordStore, again: bool = False) -> dict[Job, Record]:
    """The jobs that :func:`run_jobs` would not make, because their records are in the store.

    :raises RecordError: a record is damaged, or was made from other images or weights than its job names.
    """
    known: dict[Job, Record] = {}
    for job in jobs:
        record = store.get(*job.place) if job.setup.rehearsal or not again else None
        if record and job.setup.rehearsal and not record.result.get("rehearsal"):
            raise RecordError(
                f"{job} is already recorded: a rehearsal would replace it, give another folder for the records"
            )
        if record and not again and _stands_for(job, record):
            known[job] = record
    _require_same_start(known)
    return known


def on_record_elsewhere(jobs: Sequence[Job], store: RecordStore) -> dict[Job, Record]:
    """The jobs whose records are in a store that is only read. Those of other images or weights than their jobs name
    are left alone.

    :raises RecordError: a record is damaged.
    """
    found = {job: record for job in jobs if (record := store.get(*job.place)) and _stands_for(job, record)}
    clashing = {job for job, *_ in _other_starts(found)}
    return {job: record for job, record in found.items() if job not in clashing}


POLL = 0.2
"""Seconds between two looks at what other processes have finished."""


def _made_elsewhere(job: Job, store: RecordStore, failures: dict[Job, Exception]) -> Record | None:
    """The record that another process has written meanwhile, if it stands for the job."""
    try:
        record = store.get(*job.place)
        if record is None or not _stands_for(job, record):
            return None
        _require_same_start({job: record})
    except (ValueError, OSError) as error:
        failures[job] = error
        return None
    return record


def _write(store: RecordStore, record: Record) -> None:
    """Write a record, at worst elsewhere: the run took hours.

    :raises RecordError: it is not in the store; says where it is kept instead.
    """
    try:
        store.write(record)
    except RecordError as error:
        kept = _keep(record)
        if kept is None:
            raise
        raise RecordError(
            f"{error}. The run is finished and its record is kept in {kept}: once the store can be written into, copy "
            "what is in that folder there"
        ) from error


def _keep(record: Record) -> Path | None:
    """A store of its own, in the first folder that takes one, with the record in it; None if it is invalid, too."""
    for parent in (Path(tempfile.gettempdir()), Path.cwd(), Path.home()):
        with contextlib.suppress(OSError):
            folder = Path(tempfile.mkdtemp(prefix="reclaim-kept-", dir=parent))
            try:
                RecordStore(folder).write(record)
            except RecordError:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                return folder
    return None


def _stands_for(job: Job, record: Record) -> bool:
    """Whether a record is what the job would produce.

    Both are rehearsals or neither is; its images were verified if the job's must be; and it has the weights that the
    job would start from, if they are known without reading them.
    """
    return (
        bool(record.result.get("rehearsal")) == job.setup.rehearsal
        and (job.setup.unverified or job.setup.rehearsal or UNVERIFIED not in record.result.get("remarks", ()))
        and weights_sha256(job.config) in (None, record.result["weights_sha256"])
    )


def _require_same_start(known: Mapping[Job, Record]) -> None:
    """Refuse records of other images or weights than their jobs name.

    Such records must not be used in place of the jobs, and days of work must not be replaced without being asked for.
    """
    for job, there, here in _other_starts(known):
        raise RecordError(
            f"{job} is already recorded with other {there} there, {here} here; --again replaces it, another --records "
            "folder keeps both"
        )


def _other_starts(known: Mapping[Job, Record]) -> Iterator[tuple[Job, str, str]]:
    """The jobs whose records are of other images or weights, with those there and those here.

    Only what a job names explicitly, a folder or a file, is read for this check.
    """
    for job, record in known.items():
        made_by = job.stream.made_by and job.stream.made_by.as_dict()
        if made_by != (there := record.result.get("own_stream", {}).get("made_by")):
            raise RecordError(
                f"{job} is already recorded with {'other code' if there else 'other images'}: "
                f"{(there or record.result)['sha256' if there else 'data_sha256'][:12]}... there; --again replaces it, "
                f"another --records folder keeps both"
            )
    named = {job: record for job, record in known.items() if job.config.images and not job.setup.rehearsal}
    starts: dict[Any, dict[str, tuple[str, ...]]] = {}
    for job, record in named.items():
        surroundings = (
            job.stream.dataset,
            job.setup.root,
            job.config.backbone,
            job.setup.weights,
            job.setup.unverified,
            job.config.images
            and (job.config.images.protocol, job.config.images.size),  # on which a fingerprint depends
        )
        if surroundings not in starts:
            from .run import start  # imported late, see _make

            starts[surroundings] = start(job.stream, job.config, job.setup)
        for what, here in starts[surroundings].items():
            there = record.images if what == "data_sha256" else {record.result[what]}
            if there.isdisjoint(here):
                kind = "images" if what == "data_sha256" else "weights"
                yield job, f"{kind}: {record.result[what][:12]}...", f"{here[0][:12]}..."


def _at_a_time(job: Job) -> int:
    """Images that pass through the backbone at a time in training."""
    return min(filter(None, (job.config.batch_size, job.config.micro_batch, job.setup.at_a_time)))


def _fewer_at_a_time(job: Job) -> int | None:
    """Half as many images as now; None if there is only one, or the method needs whole batches."""
    fewer = _at_a_time(job) // 2
    if not fewer or job.config.dense or process()[1] > 1:
        return None
    try:
        job.config.passing(fewer)
    except ConfigError:
        return None
    return fewer


def _out_of_memory(error: Exception, job: Job, n_jobs: int) -> Exception | None:
    """The error with what helps against it, if it is that torch had, or probably had, too little memory."""
    config = job.config
    if is_lack_of_memory(error):
        what = f"out of memory ({next(line for line in str(error).splitlines() if line.strip())})"
    elif isinstance(error, BrokenProcessPool) and job.external:
        code = ", ".join(component.path for component in job.external)
        return RuntimeError(f"its process ended at once: killed for want of memory, or ended by the code of {code}")
    elif isinstance(error, BrokenProcessPool):
        what = f"a process was killed, most often for want of memory ({error})"
    else:
        return None
    remedies = [f"--jobs {n_jobs // 2}"] if n_jobs > 1 else []
    if isinstance(error, BrokenProcessPool) and (fewer := _fewer_at_a_time(job)):  # else fewer were tried
        remedies.append(
            f"--micro-batch {fewer} (now {_at_a_time(job)} images at a time; the same gradient, but not for "
            f"backbones with batch normalisation)"
        )
    if config.precision == "fp32" and job.setup.device != "cpu" and not config.dense:  # canvases have no precision
        remedies.append("--precision bf16")
    return MemoryError(f"{what}: use {', or '.join(remedies) or 'a smaller batch_size'}")


def _let_go(error: Exception) -> None:
    """Free the model and the last batch of a failed run. The frames of its traceback refer to them, and the next run
    needs the memory.
    """
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _return_memory() -> None:
    """Give what earlier runs of this process have freed back to the system. glibc keeps it in pieces too small for the
    next run's batches, so that memory would grow from run to run; other C libraries have no such function.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def beside_store(store: RecordStore) -> Path:
    """Folder of the checkpoints and locks of a store's runs."""
    root = Path(os.path.abspath(store.root))
    return root.parent / f"{root.name}.checkpoints"


def with_checkpoints(job: Job, store: RecordStore | None) -> Job:
    """The run with the folder of the store's checkpoints, unless it names another or keeps none."""
    if (
        store is None or job.setup.checkpoints or job.setup.rehearsal
    ):  # a rehearsal is shorter than writing its checkpoints
        return job
    return replace(job, setup=replace(job.setup, checkpoints=beside_store(store)))


def epochs_of(job: Job) -> int:
    """Epochs of a run over all experiences; an experience without any counts as one."""
    return max(1, job.config.epochs) * (1 if job.config.joint else len(job.stream.sizes))


def _make_isolated(job: Job, advance: Callable[[Tick], Any]) -> Record:
    """A run with code from outside this project, in a process that makes no other run."""
    from .isolation import isolated

    with isolated(job.external, log_of(job)):
        return _make(job, advance)


def log_of(job: Job) -> Path | None:
    """File of what a run's code from outside prints, next to the run's checkpoint."""
    path = job.setup.checkpoint_of(*job.place)
    return path and path.with_suffix(".log")


def _follow() -> None:
    """Make the runs that the first of several processes makes, until it makes no more."""
    from .data_parallel import announced

    for job in announced():
        _make(job, lambda tick: None)


def _lead(job: Job, advance: Callable[[Tick], Any]) -> Record:
    """Make a run together with the other processes.

    :raises SystemExit: it failed, here or there. All processes have to end, for the others may wait for this one.
    """
    from .data_parallel import announce

    announce(job)
    try:
        return _make(job, advance)
    except Exception as error:
        raise SystemExit(f"{job}: {type(error).__name__}: {error}") from error


def _make(job: Job, advance: Callable[[Tick], Any]) -> Record:
    make: Callable[..., Record]
    if job.config.dense:  # imported late: reading records needs neither torch nor Avalanche
        from .dense import run_dense as make
    else:
        from .run import run as make
    _return_memory()
    before = 0.0

    def progress(done: float, total: int) -> None:
        nonlocal before
        advance((str(job), done - before))
        before = done

    setup, lack = job.setup, None
    while True:
        try:
            return make(
                job.recipe,
                job.config,
                job.stream,
                job.seed,
                hyperparameters_from=job.hyperparameters_from,
                setup=setup,
                progress=progress,
            )
        except RuntimeError as error:
            fewer = _fewer_at_a_time(replace(job, setup=setup))
            if fewer is None or setup.rehearsal or not is_lack_of_memory(error):
                raise
            setup, lack = replace(setup, at_a_time=fewer), error
            _let_go(error)
        except ValueError as error:
            if lack:  # this backbone cannot take fewer, such as one with batch normalisation
                raise lack from error
            raise
        tqdm.write(f"{job}: out of memory, goes on with {fewer} images at a time", sys.stderr)


def _in_processes(
    take: Callable[[], Job | None],
    waiting: Sequence[Job],
    placed: Mapping[Job, Job],
    n_jobs: int,
    finish: Callable[[Job, Callable[[], Record]], None],
    advance: Callable[[Tick], None],
) -> None:
    context = _context()
    manager = SyncManager(ctx=context)
    with _interrupts_wait():
        try:
            manager.start(_as_worker)
        except EOFError as error:  # the new process imports the script of this one, and ended in it
            raise RuntimeError(
                "no process for runs can be started: a script needs to be a file, with its calls under if __name__ == "
                '"__main__":'
            ) from error
    with manager:
        messages = manager.Queue()
        worker = partial(
            ProcessPoolExecutor,
            mp_context=context,
            initializer=_as_worker,
            initargs=(multiprocessing.get_start_method(), dict(os.environ)),
        )
        pool = worker(n_jobs)
        # of runs with code from outside, each in a process of its own: what that code does to it, no other run meets
        alone: dict[Future[Record], ProcessPoolExecutor] = {}
        try:
            pending: dict[Future[Record], Job] = {}
            while pending or waiting:
                # Workers inherit the blocked signal: they ignore it themselves only after seconds of imports.
                with _interrupts_wait():
                    while len(pending) < n_jobs and (job := take()):
                        own = worker(1) if job.external else None
                        make = _make_isolated if own else _make
                        try:
                            future = (own or pool).submit(make, placed[job], messages.put)
                        except BrokenProcessPool:  # a process was killed: its runs have failed, this one has not begun
                            pool.shutdown(wait=False)
                            pool = worker(n_jobs)
                            future = pool.submit(make, placed[job], messages.put)
                        pending[future] = job
                        if own:
                            alone[future] = own
                with contextlib.suppress(queue.Empty):
                    advance(messages.get(timeout=POLL))
                for future in [future for future in pending if future.done()]:
                    finish(pending.pop(future), future.result)
                    if future in alone:
                        alone.pop(future).shutdown(wait=False)
            while not messages.empty():
                advance(messages.get())
        except BaseException:
            for each in (pool, *alone.values()):
                for process in list((each._processes or {}).values()):
                    process.terminate()
            raise
        finally:
            for each in (pool, *alone.values()):
                each.shutdown(cancel_futures=True)


def _context() -> BaseContext:
    """How processes for runs start.

    torch does not survive a fork once its threads run. So on Linux one process imports what runs need, does nothing
    else, and is forked for each; importing takes seconds. Elsewhere every process imports for itself, as in Python's
    own defaults from 3.14 on.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["reclaim.benchmark.training.run"])
    return context


def _as_worker(start_method: str | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal, exit when the parent exits, for whatever reason, and
    print nothing among the results.

    A worker that continued alone would write the same checkpoints as the run that replaces it.

    :param start_method: of processes that it starts itself, such as those that load images. Theirs would be as its own
        is, which takes seconds each, in every epoch.
    :param environment: the variables of the parent: the process that this one was forked from may be older than their
        values.
    """
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
    if start_method:
        multiprocessing.set_start_method(start_method, force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # standard output is for results: what C code or commands print, too
        os.dup2(2, 1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextlib.contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Delay Ctrl-C until the end of the block. Where signals cannot be blocked, it acts immediately."""
    if not hasattr(signal, "pthread_sigmask") or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = []
    answer = signal.signal(
        signal.SIGINT, lambda *_: came.append(True)
    )  # another thread, such as a progress bar's, lets it through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        signal.signal(signal.SIGINT, answer)
        if came:
            signal.raise_signal(signal.SIGINT)
