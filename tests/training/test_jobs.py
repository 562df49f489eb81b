"""Many runs: each on record as soon as it ends, none made twice, and nothing finished is lost,
whatever happens to the others.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from reclaim.benchmark.data.streams import CANVASES, STREAMS, find_stream
from reclaim.benchmark.papers.protocols import find_cell
from reclaim.benchmark.recipes import RECIPES, find_recipe
from reclaim.benchmark.records import store as stores
from reclaim.benchmark.records.record import UNVERIFIED, Record, RecordError, compare
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import checkpoints, locks
from reclaim.benchmark.training import jobs as engines
from reclaim.benchmark.training import run as runner
from reclaim.benchmark.training.jobs import Job, Tick, jobs_of, run_jobs, try_jobs
from reclaim.benchmark.training.locks import RunLocks
from reclaim.benchmark.training.runtime import Setup
from reclaim.strategies.heads import ContinualModel
from small_runs import SMALL, make_small, shrink, small_config, synthetic_record

TESTS = Path(__file__).parents[1]
STREAM = STREAMS["split-quickdraw-5"]


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


def jobs(n: int) -> list[Job]:
    return [Job("linear", small_config("linear"), STREAM, seed, "given") for seed in range(n)]


class Maker:
    """Stands in for training: makes records at once, and remembers of which jobs."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.instead: dict[int, Callable[[Job], Record]] = {}

    def __call__(self, job: Job, advance: Callable[[Tick], Any]) -> Record:
        self.made.append(job.seed)
        for _ in job.stream.sizes:
            advance((str(job), job.config.epochs))
        if job.seed in self.instead:
            return self.instead[job.seed](job)
        return synthetic_record(job.recipe, job.stream.name, job.seed, last_acc=10 + job.seed, config=job.config)


@pytest.fixture
def maker(monkeypatch: pytest.MonkeyPatch) -> Maker:
    found = Maker()
    monkeypatch.setattr(engines, "_make", found)
    return found


def fail(error: BaseException) -> Callable[[Job], Record]:
    def instead(job: Job) -> Record:
        raise error

    return instead


def seeds_on_record(store: RecordStore) -> list[int]:
    records, problems = store.load()
    assert not problems
    return [record.seed for record in records]


def test_runs_come_in_the_order_of_their_jobs(maker: Maker, store: RecordStore) -> None:
    records = run_jobs(jobs(3)[::-1], store, 1)
    assert [record.seed for record in records] == [2, 1, 0]
    assert seeds_on_record(store) == [0, 1, 2]
    assert run_jobs([], store, 1) == []


def test_a_run_is_written_when_it_ends(maker: Maker, store: RecordStore) -> None:
    seen = []

    def look(job: Job) -> Record:
        seen.append(seeds_on_record(store))
        return synthetic_record("linear", STREAM.name, job.seed, config=job.config)

    maker.instead = dict.fromkeys(range(3), look)
    run_jobs(jobs(3), store, 1)
    assert seen == [[], [0], [0, 1]]


def test_what_is_on_record_is_not_run_again(maker: Maker, store: RecordStore) -> None:
    first = run_jobs(jobs(2), store, 1)
    assert maker.made == [0, 1]
    assert run_jobs(jobs(3), store, 1)[:2] == first
    assert maker.made == [0, 1, 2]
    run_jobs(jobs(2), store, 1, again=True)
    assert maker.made == [0, 1, 2, 0, 1]
    # another configuration is another run
    run_jobs([Job("linear", small_config("linear", "lr=0.7"), STREAM, 0, "given")], store, 1)
    assert maker.made == [0, 1, 2, 0, 1, 0]


def test_a_record_of_other_weights_is_made_anew(maker: Maker, store: RecordStore) -> None:
    (record,) = run_jobs(jobs(1), store, 1)
    record.result["weights_sha256"] = "0" * 64
    store.write(record)
    assert run_jobs(jobs(1), store, 1)[0].result["weights_sha256"] != "0" * 64
    assert maker.made == [0, 0]
    assert run_jobs(jobs(1), store, 1) == store.load()[0]
    assert maker.made == [0, 0]


def test_unverified_images_stand_for_no_verified_ones(maker: Maker, store: RecordStore) -> None:
    (record,) = run_jobs(jobs(1), store, 1)
    record.result["remarks"] = [UNVERIFIED]
    store.write(record)
    unverified = replace(jobs(1)[0], setup=Setup(unverified=True))
    run_jobs([unverified], store, 1)
    assert maker.made == [0]
    assert "remarks" not in run_jobs(jobs(1), store, 1)[0].result
    assert maker.made == [0, 0]


@pytest.mark.parametrize(("what", "kind"), [("data_sha256", "images"), ("weights_sha256", "weights")])
def test_a_record_of_other_images_or_weights_is_neither_shown_nor_replaced(
    what: str, kind: str, maker: Maker, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, stream, _ = find_cell("slca/main/slca/split-cifar100-10")
    job = Job(recipe.name, recipe.config, stream, 0, "paper", Setup(root=Path("data"), weights=Path("weights.npz")))
    (record,) = run_jobs([job], store, 1)
    found = {key: (record.result[key],) for key in ("data_sha256", "weights_sha256")}
    monkeypatch.setattr(runner, "start", lambda *start: found)
    assert run_jobs([job, replace(job, setup=replace(job.setup, workers=2))], store, 1) == [record, record]
    # under a name of earlier versions, too
    found[what] = ("d" * 64, record.result[what])
    assert run_jobs([job], store, 1) == [record]
    found[what] = ("e" * 64, "d" * 64)
    there = record.result[what][:12]
    with pytest.raises(
        RecordError,
        match=rf"{job} is already recorded with other {kind}: {there}\.\.\. there, e+\.\.\. here; --again replaces",
    ):
        run_jobs([job], store, 1)
    assert maker.made == [0]
    run_jobs([job], store, 1, again=True)
    assert maker.made == [0, 0]


def test_a_failed_run_leaves_no_model_behind(maker: Maker, store: RecordStore) -> None:
    left = []

    def diverge(job: Job) -> Record:
        model = torch.nn.Linear(2, 2)
        left.append(weakref.ref(model))
        raise FloatingPointError(f"the loss of {model} became nan")

    maker.instead = {
        0: diverge,
        1: lambda job: left.append(left[0]()) or synthetic_record("linear", STREAM.name, 1, config=job.config),
    }  # type: ignore[func-returns-value]
    _, failures = try_jobs(jobs(2), store, 1)
    assert left[1] is None
    assert "became nan" in str(next(iter(failures.values())))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no malloc_trim")
def test_what_earlier_runs_have_freed_is_returned_before_a_run() -> None:
    code = """
import os
from reclaim.benchmark.training.jobs import _return_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
blocks = [bytearray(20_000) for _ in range(10_000)]
kept = blocks[::100]  # too far apart for the free blocks between them to be the top of the heap
del blocks
freed = resident()
_return_memory()
print(freed - before, resident() - before)
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    kept_back, after = map(int, output.split())
    assert kept_back > 150e6
    assert after < kept_back / 4


def test_how_the_arithmetic_is_done_is_no_hyper_parameter() -> None:
    for cell, settings, origin in (
        ("slca/main/slca/split-cifar100-10", ["precision=bf16", "compile=true", "micro_batch=8"], "paper"),
        ("slca/main/slca/split-cifar100-10", ["precision=bf16", "lr=0.5"], "given"),
        ("aepg/table-2/lora-focal/split-cub200-10", ["loss.coefficient=2.0"], "paper"),  # of the paper's own grid
        ("aepg/table-2/lora-focal/split-cub200-10", ["loss.coefficient=3.0"], "given"),
    ):
        recipe, stream, _ = find_cell(cell)
        assert [job.hyperparameters_from for job in jobs_of(recipe, stream, [0], settings)] == [origin]
    slca = find_recipe("slca")
    assert jobs_of(slca, find_stream(slca.home), [0], ["precision=bf16"])[0].hyperparameters_from == "validation"


def test_the_same_job_twice_is_one_run(maker: Maker, store: RecordStore) -> None:
    records = run_jobs([*jobs(2), *jobs(2)], store, 1)
    assert maker.made == [0, 1]
    assert [record.seed for record in records] == [0, 1, 0, 1]


def test_without_a_store_every_run_is_made_and_none_written(
    maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_jobs(jobs(2), None, 1)
    run_jobs(jobs(2), None, 1)
    assert maker.made == [0, 1, 0, 1]
    assert list(tmp_path.iterdir()) == []


def test_a_failing_run_does_not_lose_the_others(maker: Maker, store: RecordStore) -> None:
    maker.instead = {1: fail(FloatingPointError("the loss became nan"))}
    with pytest.raises(
        RuntimeError,
        match=r"1 of 3 runs failed(.|\n)*linear split-quickdraw-5 seed 1: FloatingPointError: the loss became nan",
    ):
        run_jobs(jobs(3), store, 1)
    assert seeds_on_record(store) == [0, 2]
    maker.instead, maker.made = {}, []
    run_jobs(jobs(3), store, 1)
    assert maker.made == [1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nIf reserved memory is large, try ..."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
        RuntimeError("[enforce fail at alloc_cpu.cpp:76] DefaultCPUAllocator: not enough memory: you tried 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        BrokenProcessPool("A process in the process pool was terminated abruptly"),
    ],
    ids=str,
)
def test_too_little_memory_names_the_remedy(error: Exception, maker: Maker, store: RecordStore) -> None:
    maker.instead = {0: fail(error)}
    killed = isinstance(error, BrokenProcessPool)  # else the run itself has tried fewer images at a time
    remedy = r"--micro-batch 8 \(now 16 images" if killed else "a smaller batch_size"
    with pytest.raises(RuntimeError, match=rf"seed 0: MemoryError: .* use {remedy}") as raised:
        run_jobs(jobs(2), store, 1)
    assert str(error).splitlines()[0] in str(raised.value)
    assert "If reserved" not in str(raised.value)
    assert seeds_on_record(store) == [1]


def test_of_canvases_no_precision_is_advised() -> None:
    job = Job("dense-sem-full", RECIPES["dense-sem-full"].config, CANVASES, 0, "given", Setup("cuda"))
    error = engines._out_of_memory(torch.OutOfMemoryError("CUDA out of memory"), job, 1)
    assert str(error) == "out of memory (CUDA out of memory): use a smaller batch_size"


@pytest.mark.parametrize(
    ("settings", "device", "n_jobs", "remedies"),
    [
        ((), "cpu", 1, "--micro-batch 8 (now 16 images at a time"),
        (("micro_batch=6",), "cpu", 1, "--micro-batch 3 (now 6 images at a time"),
        (("micro_batch=600",), "cpu", 1, "--micro-batch 8 (now 16 images at a time"),
        (("micro_batch=1",), "cpu", 1, "a smaller batch_size"),
        ((), "cuda", 4, "--jobs 2, or --micro-batch 8 ("),
        (("micro_batch=1",), "cuda", 1, "--precision bf16"),
        (("micro_batch=1", "precision=bf16"), "cuda", 1, "a smaller batch_size"),
    ],
)
def test_only_what_is_left_is_advised(settings: tuple[str, ...], device: str, n_jobs: int, remedies: str) -> None:
    job = Job("linear", small_config("linear", *settings), STREAM, 0, "given", Setup(device))
    error = engines._out_of_memory(BrokenProcessPool("terminated abruptly"), job, n_jobs)
    assert f"(terminated abruptly): use {remedies}" in str(error)


@pytest.mark.trains
def test_a_run_short_of_memory_goes_on_with_fewer_images_at_a_time(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shrink(monkeypatch)
    slca = Job("slca", small_config("slca"), SMALL, 0, "given")
    (whole,) = run_jobs([slca], None, 1)
    passed: list[int] = []
    features, save = ContinualModel.features, checkpoints.Checkpoint.save
    limits: list[int] = []

    def limited(model: ContinualModel, images: torch.Tensor) -> torch.Tensor:
        if limits and len(images) > limits[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        passed.append(len(images))
        return features(model, images)

    def save_and_limit(*args: Any) -> None:  # after the first experience something else takes memory
        save(*args)
        limits.append(5)

    monkeypatch.setattr(ContinualModel, "features", limited)
    monkeypatch.setattr(checkpoints.Checkpoint, "save", save_and_limit)
    (record,) = run_jobs([slca], store, 1)
    assert max(passed) >= 16
    assert max(passed[-20:]) == 4
    assert record.provenance["at_a_time"] == 4
    assert record.config_hash == whole.config_hash
    assert record.result["train_loss"] == pytest.approx(whole.result["train_loss"], abs=1e-4)
    comparison = compare(whole, record)
    assert not comparison.exact
    assert comparison.agree, comparison
    said = capsys.readouterr().err
    assert "slca small seed 0: out of memory, goes on with 8 images at a time" in said
    assert "with 4 images" in said
    assert "with 2 images" not in said


@pytest.mark.trains
@pytest.mark.parametrize("recipe", ["l2p", "slca", "der++"])
def test_a_run_ends_where_fewer_images_do_not_help(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)

    def full(model: ContinualModel, images: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ContinualModel, "features", full)
    _, failures = try_jobs([Job(recipe, small_config(recipe), SMALL, 0, "given")], None, 1)
    (error,) = failures.values()
    assert isinstance(error, MemoryError)
    assert str(error) == "out of memory (CUDA out of memory): use a smaller batch_size"


def test_a_backbone_that_cannot_take_fewer_ends_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch normalisation, which is found when the strategy is made, is not what the user has to mend."""

    def run(*_: Any, setup: Setup, **__: Any) -> Record:
        if setup.at_a_time:
            raise ValueError("micro_batch=8 would normalise each micro-batch separately in bn1")
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(runner, "run", run)
    _, failures = try_jobs(jobs(1), None, 1)
    (error,) = failures.values()
    assert isinstance(error, MemoryError)
    assert str(error) == "out of memory (CUDA out of memory): use a smaller batch_size"


def test_other_errors_are_not_taken_for_it() -> None:
    (job,) = jobs(1)
    for error in (RuntimeError("shapes do not fit"), ValueError("out of memory"), MemoryError("of an array")):
        assert engines._out_of_memory(error, job, 1) is None


def test_a_record_that_is_not_sound_does_not_lose_the_others(maker: Maker, store: RecordStore) -> None:
    def unsound(job: Job) -> Record:
        record = synthetic_record("linear", STREAM.name, job.seed, config=job.config)
        record.result["entropy"][0] = float("nan")
        return record

    maker.instead = {0: unsound}
    with pytest.raises(RuntimeError, match=r"seed 0: RecordError: result\.entropy is"):
        run_jobs(jobs(2), store, 1)
    assert seeds_on_record(store) == [1]


def test_interrupting_keeps_what_is_finished(maker: Maker, store: RecordStore) -> None:
    maker.instead = {1: fail(KeyboardInterrupt())}
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs(3), store, 1)
    assert maker.made == [0, 1]
    assert seeds_on_record(store) == [0]


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_run_at_a_time_is_refused(n: int, maker: Maker, store: RecordStore) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {n}"):
        run_jobs(jobs(1), store, n)
    assert maker.made == []


@pytest.fixture(params=["under a file", "in a place that takes no folders", "read-only"])
def unwritable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "under a file":
        (tmp_path / "file").write_text("")
        yield tmp_path / "file" / "records"
    elif request.param == "read-only":
        if os.name != "posix" or os.geteuid() == 0:
            pytest.skip("root may write anywhere")
        tmp_path.chmod(0o500)
        yield tmp_path / "records"
        tmp_path.chmod(0o700)
    else:
        if not Path("/proc").is_dir():
            pytest.skip("there is no /proc")
        yield Path("/proc/records")


def test_an_unwritable_store_is_named_before_anything_is_trained(unwritable: Path, maker: Maker) -> None:
    with pytest.raises(RecordError, match=rf"cannot write into {unwritable} \(.+\).*--records"):
        run_jobs(jobs(1), RecordStore(unwritable), 1)
    assert maker.made == []


def test_a_full_disk_is_named_before_anything_is_trained(
    maker: Maker, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * 2**20))
    with pytest.raises(RecordError, match=rf"{store.root} is full: 3\.0 MiB are free, wanted 64 MiB .*--records"):
        run_jobs(jobs(1), store, 1)
    assert maker.made == []


@pytest.mark.parametrize("also_full", [False, True])
def test_a_record_that_finds_the_disk_full_is_kept_elsewhere(
    also_full: bool, maker: Maker, store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first of the folders for temporary files, the working directory and home that takes it."""
    for name in ("tmp", "work", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "elsewhere")
    full = [store.root] + [tmp_path / "tmp"] * also_full
    write_text = stores.write_text

    def write(path: Path, text: str) -> None:
        if path.name == "1.json" and any(folder in path.parents for folder in full):
            raise OSError(errno.ENOSPC, "No space left on device")
        write_text(path, text)

    monkeypatch.setattr(stores, "write_text", write)
    with pytest.raises(
        RuntimeError, match=r"1 of 3 runs failed(.|\n)*No space left on device.*record is kept in"
    ) as error:
        run_jobs(jobs(3), store, 1)
    assert seeds_on_record(store) == [0, 2]
    (kept,) = (tmp_path / ("work" if also_full else "tmp")).iterdir()
    assert str(kept) in str(error.value)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    full.clear()
    shutil.copytree(kept, store.root, dirs_exist_ok=True)
    assert [record.seed for record in run_jobs(jobs(3), store, 1)] == [0, 1, 2]
    assert maker.made == [0, 1, 2]


def test_checking_the_store_leaves_nothing_behind(store: RecordStore) -> None:
    store.require_writable()
    assert list(store.root.iterdir()) == []


def test_a_store_that_is_only_read_need_not_be_writable(
    maker: Maker, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_jobs(jobs(1), store, 1)
    monkeypatch.setattr(RecordStore, "require_writable", lambda self: pytest.fail("nothing is to be written"))
    assert run_jobs(jobs(1), store, 1)[0].seed == 0


def test_a_damaged_record_is_named_before_anything_is_trained(maker: Maker, store: RecordStore) -> None:
    run_jobs(jobs(2), store, 1)
    path = store.path_of(*jobs(2)[1].place)
    path.write_text(path.read_text()[:-50])
    maker.made = []
    with pytest.raises(RecordError, match=rf"{path}: .*delete the file"):
        run_jobs(jobs(3), store, 1)
    assert maker.made == []
    run_jobs(jobs(3), store, 1, again=True)
    assert seeds_on_record(store) == [0, 1, 2]


def test_a_record_with_windows_line_ends_is_read(maker: Maker, store: RecordStore) -> None:
    (record,) = run_jobs(jobs(1), store, 1)
    path = store.path_of(*jobs(1)[0].place)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert run_jobs(jobs(1), store, 1) == [record]
    assert maker.made == [0]


def test_progress_names_the_run_and_what_is_left(
    maker: Maker, store: RecordStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run_jobs(jobs(2), store, 1)
    shown = capsys.readouterr().err
    assert "linear split-quickdraw-5 seed 1, 1 of 2 runs to go" in shown
    total = sum(job.config.epochs * len(job.stream.sizes) for job in jobs(2))
    assert f"{total}/{total}" in shown  # epochs
    run_jobs(jobs(2), store, 1)
    run_jobs(jobs(3), None, 1, quiet=True)
    assert capsys.readouterr().err == ""


def test_hundredths_of_an_epoch_are_shown(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engines, "_make", lambda job, advance: [advance(("a run", 0.07)) for _ in range(10)] and None)
    _, failures = engines.try_jobs(jobs(1), None, 1)
    assert failures == {}
    assert "0.7/" in capsys.readouterr().err


def test_two_at_a_time_give_what_one_after_another_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_make", make_small)
    config = small_config("slca-olor-aepg")
    made = [Job("slca-olor-aepg", config, SMALL, seed, "given") for seed in range(2)]
    diverging = Job("seqft-fast", small_config("seqft-fast", "lr=1e30"), SMALL, 0, "given")
    parallel, serial = RecordStore(tmp_path / "parallel"), RecordStore(tmp_path / "serial")
    with pytest.raises(
        RuntimeError, match=r"1 of 3 runs failed(.|\n)*seqft-fast small seed 0: FloatingPointError: .* experience 0"
    ):
        run_jobs([diverging, *made], parallel, 2)
    shrink(monkeypatch)
    for alone, beside in zip(run_jobs(made, serial, 1), run_jobs(made, parallel, 1), strict=True):
        assert alone.result == beside.result
        comparison = compare(alone, beside)
        assert comparison.exact
        assert comparison.agree


def make_or_die(job: Job, advance: Callable[[Tick], Any]) -> Record:
    """Stands in for ``jobs._make``: the kernel kills the process of seed 0."""
    if job.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return synthetic_record(job.recipe, job.stream.name, job.seed, config=job.config)


def test_what_is_recorded_while_the_images_are_read_is_not_made_again(
    maker: Maker, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_record = engines.on_record

    def slowly(*args: Any) -> Any:
        found = on_record(*args)
        first = jobs(1)[0]
        store.write(synthetic_record(first.recipe, first.stream.name, first.seed, config=first.config))
        return found

    monkeypatch.setattr(engines, "on_record", slowly)
    assert len(run_jobs(jobs(2), store, 1)) == 2
    assert maker.made == [1]


def test_weights_are_read_for_each_size_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Position embeddings are resampled to it, so that the fingerprint of one file is another."""
    recipe, sizes = RECIPES["lite-ncm"], []

    def start(stream: Any, config: Any, setup: Any) -> dict[str, tuple[str, ...]]:
        sizes.append(config.images.size)
        return {}

    monkeypatch.setattr(runner, "start", start)
    known = {}
    for size in (64, 96, 64):
        job = Job(
            "mine", recipe.config.set([f"images.size={size}"]), find_stream("split-cifar10-5"), len(known), "given"
        )
        known[job] = synthetic_record("mine", "split-cifar10-5", job.seed, config=job.config)
    engines._require_same_start(known)
    assert sizes == [64, 96]


@pytest.mark.skipif(sys.platform == "win32", reason="kills a process")
def test_a_killed_process_stops_no_run_that_waits(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_make", make_or_die)
    todo = jobs(6)
    made, failures = engines.try_jobs(todo, store, 2, quiet=True)
    assert {*made} | {*failures} == {*todo}
    assert todo[0] in failures
    assert len(failures) <= 2  # what was under way in the pool of the killed process
    assert "a process was killed, most often for want of memory" in str(failures[todo[0]])
    again, _ = engines.try_jobs(todo[1:], store, 2, quiet=True)
    assert {*again} == {*todo[1:]}


# --- two commands on one store ---


def locked(store: RecordStore, seed: int) -> Path:
    folder = store.root.parent / f"{store.root.name}.checkpoints"
    recipe, stream, config_hash, _ = jobs(1)[0].place
    folder.mkdir(exist_ok=True)
    return folder / f"{recipe}.{stream}.{config_hash}.{seed}.lock"


def test_a_run_that_another_process_makes_is_waited_for(
    maker: Maker, store: RecordStore, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are made first; its record is then read."""
    lock = FileLock(locked(store, 0))
    lock.acquire()

    def last(job: Job) -> Record:
        store.write(synthetic_record("linear", STREAM.name, 0, last_acc=77, config=job.config))
        lock.release()
        return synthetic_record("linear", STREAM.name, 2, config=job.config)

    maker.instead = {2: last}
    records = run_jobs(jobs(3), store, 1)
    assert maker.made == [1, 2]
    assert [record.seed for record in records] == [0, 1, 2]
    assert records[0].metrics()["last_acc"] == 77
    assert (
        "another process is making linear split-quickdraw-5 seed 0: its record is waited for" in capsys.readouterr().err
    )
    # nothing of a lock remains
    assert list(locked(store, 0).parent.iterdir()) == []


def test_a_run_that_another_process_gave_up_is_made(maker: Maker, store: RecordStore) -> None:
    lock = FileLock(locked(store, 0))
    lock.acquire()
    maker.instead = {1: lambda job: lock.release() or synthetic_record("linear", STREAM.name, 1, config=job.config)}  # type: ignore[func-returns-value]
    run_jobs(jobs(2), store, 1)
    assert maker.made == [1, 0]


@pytest.mark.parametrize("again", [False, True])
def test_a_record_that_was_written_before_the_lock_was_free_is_taken(
    again: bool, maker: Maker, store: RecordStore
) -> None:
    if again:
        run_jobs(jobs(2), store, 1)
        maker.made = []

    def other_finishes(job: Job) -> Record:
        store.write(synthetic_record("linear", STREAM.name, 1, last_acc=77, config=job.config))
        return synthetic_record("linear", STREAM.name, 0, config=job.config)

    maker.instead = {0: other_finishes}
    records = run_jobs(jobs(2), store, 1, again=again)
    assert maker.made == [0]
    assert records[1].metrics()["last_acc"] == 77


def test_a_record_of_other_weights_that_came_meanwhile_does_not_stand(maker: Maker, store: RecordStore) -> None:
    def other_finishes(job: Job) -> Record:
        record = synthetic_record("linear", STREAM.name, 1, config=job.config)
        record.result["weights_sha256"] = "0" * 64
        store.write(record)
        return synthetic_record("linear", STREAM.name, 0, config=job.config)

    maker.instead = {0: other_finishes}
    run_jobs(jobs(2), store, 1)
    assert maker.made == [0, 1]


def test_a_failed_run_is_unlocked(maker: Maker, store: RecordStore) -> None:
    for error in (ValueError("broken"), KeyboardInterrupt()):
        maker.instead = {0: fail(error)}
        with pytest.raises((RuntimeError, KeyboardInterrupt)):
            run_jobs(jobs(1), store, 1)
        assert list(locked(store, 0).parent.iterdir()) == []


def test_where_nothing_can_be_locked_it_says_so_and_goes_on(maker: Maker, store: RecordStore) -> None:
    (store.root.parent / f"{store.root.name}.checkpoints").write_text("a file")
    with pytest.warns(UserWarning, match=r"cannot lock .*: do not start the same runs twice"):
        run_jobs(jobs(1), store, 1)
    assert maker.made == [0]


TWO = """
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path
from reclaim.benchmark.training import jobs as engines
from reclaim.benchmark.cli import main
from small_runs import synthetic_record

records, n_jobs, seconds, host = sys.argv[1:]

def make(job, advance):
    Path(records).with_name(f"made-{job.seed}-{os.getpid()}").touch()
    time.sleep(float(seconds))
    return synthetic_record(job.recipe, job.stream.name, job.seed, config=job.config)

if __name__ == "__main__":
    socket.gethostname = lambda: host
    engines._make = make
    engines._context = lambda: multiprocessing.get_context("spawn")  # with nothing imported that is not needed here
    main(["run", "linear", "--seeds", "4", "--jobs", n_jobs, "--records", records])
"""


def start_two(folder: Path, store: RecordStore, n_jobs: int, seconds: float, host: str) -> subprocess.Popen[str]:
    """TWO, as if on a machine of this name that shares the folder."""
    script = folder / "two.py"
    script.write_text(TWO)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), str(store.root), str(n_jobs), str(seconds), host]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_two_commands_on_one_store_share_the_work(n_jobs: int, store: RecordStore, tmp_path: Path) -> None:
    processes = [start_two(tmp_path, store, n_jobs, 0.7, host) for host in ("one", "two")]
    try:
        for process in processes:
            shown, errors = process.communicate(timeout=240)
            assert process.returncode == 0, errors
            assert "linear on split-quickdraw-10, n = 4" in shown
    finally:
        for process in processes:
            process.kill()
    assert sorted(path.name.split("-")[1] for path in tmp_path.glob("made-*")) == ["0", "1", "2", "3"]
    assert seeds_on_record(store) == [0, 1, 2, 3]


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_a_file_system_without_a_lock_service_is_not_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """filelock 3.12 takes all errors for another process's lock; then the run would be waited for without end."""
    fcntl = pytest.importorskip("fcntl")

    def no_service(*args: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def taken(self: Any, **kwargs: Any) -> None:
        raise Timeout("a.lock")

    monkeypatch.setattr(locks.FileLock, "acquire", taken)
    with RunLocks(tmp_path) as mine:
        assert not mine.take("slca", "small", "0" * 12, 0)
        monkeypatch.setattr(fcntl, "flock", no_service)
        with pytest.warns(UserWarning, match="cannot lock .*No locks available.*: do not start the same runs twice"):
            assert mine.take("slca", "small", "0" * 12, 0)


def test_the_lock_of_a_killed_process_blocks_nobody(store: RecordStore, tmp_path: Path) -> None:
    first = start_two(tmp_path, store, 1, 600, "one")
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("made-0-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(tmp_path.glob("made-0-*"))
        second = start_two(tmp_path, store, 1, 0, "two")
        deadline = time.monotonic() + 120
        while len(list(store.root.rglob("[0-9].json"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(list(store.root.rglob("[0-9].json"))) == 3
        assert second.poll() is None  # it waits for the first
        first.kill()
        shown, errors = second.communicate(timeout=120)
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 0, errors
    assert f"process {first.pid} on one is making linear split-quickdraw-10 seed 0" in errors
    assert "n = 4" in shown
    assert len(list(tmp_path.glob("made-0-*"))) == 2
    assert seeds_on_record(store) == [0, 1, 2, 3]
    assert list((store.root.parent / f"{store.root.name}.checkpoints").iterdir()) == []  # no lock remains


SCRIPT = """
import multiprocessing
import signal
import sys
import time
from reclaim.benchmark.training import jobs as engines
from reclaim.benchmark.cli import main
from small_runs import synthetic_record

def make(job, advance):
    time.sleep(600 * job.seed)  # the first ends at once, the second never
    return synthetic_record(job.recipe, job.stream.name, job.seed, config=job.config)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it from the start
    engines._make = make
    if sys.argv[3] == "fast":
        engines._context = lambda: multiprocessing.get_context("spawn")  # with nothing imported
    main(["run", "linear", "--seeds", "2", "--jobs", sys.argv[2], "--records", sys.argv[1]])
"""


def start_script(folder: Path, store: RecordStore, n_jobs: int, how: str = "fast") -> subprocess.Popen[str]:
    """SCRIPT, as a terminal starts it, in a session of its own; its processes start "fast" or "slow"."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), str(store.root), str(n_jobs), how]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


Interrupted = Callable[..., str]


@pytest.fixture
def interrupted(store: RecordStore, tmp_path: Path) -> Interrupted:
    """Runs SCRIPT on so many processes, interrupts all when a condition on its process id holds,
    and returns what it showed.
    """

    def run(n_jobs: int, due: Callable[[int], bool], how: str = "fast") -> str:
        process = start_script(tmp_path, store, n_jobs, how)
        try:
            deadline = time.monotonic() + 120
            while not (holds := due(process.pid)) and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.02)
            assert holds, "what is to be interrupted was not seen"
            os.killpg(process.pid, signal.SIGINT)
            _, shown = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == 1, shown
        return shown

    return run


INTERRUPTED = "Error: interrupted: finished runs are kept, the same command continues"


@pytest.mark.skipif(os.name != "posix", reason="sends the signal that a terminal sends to all its processes")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_ctrl_c_keeps_what_is_finished_and_says_so(n_jobs: int, store: RecordStore, interrupted: Interrupted) -> None:
    shown = interrupted(n_jobs, lambda pid: bool(list(store.root.rglob("*.json"))))
    assert shown.rstrip().endswith(INTERRUPTED)
    assert "Traceback" not in shown
    assert seeds_on_record(store) == [0]


@pytest.mark.skipif(sys.platform != "linux", reason="counts processes in /proc")
def test_ctrl_c_while_the_workers_start(store: RecordStore, interrupted: Interrupted) -> None:
    def children(pid: int | str) -> list[str]:
        with contextlib.suppress(OSError):  # ended meanwhile
            return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return []

    # of the process that all others are forked from: the server of the queue, and a worker
    shown = interrupted(2, lambda pid: any(len(children(child)) >= 2 for child in children(pid)), "slow")
    assert shown.rstrip().endswith(INTERRUPTED)
    assert "Traceback" not in shown


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_no_worker_outlives_a_kill(store: RecordStore, tmp_path: Path) -> None:
    def of_session(sid: int) -> list[str]:
        """Ids of the processes of a session that have not ended."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # ended meanwhile
                state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
                found += [stat.parent.name] if int(session) == sid and state != "Z" else []
        return found

    def wait(due: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + 120
        while not due() and time.monotonic() < deadline:
            time.sleep(0.05)
        return due()

    process = start_script(tmp_path, store, 2)
    try:
        assert wait(lambda: bool(list(store.root.rglob("*.json"))))
        assert (
            len(of_session(process.pid)) >= 4
        )  # it, the tracker of resources, the server of the queue, and two workers or one
        process.kill()
        process.wait()
        assert wait(lambda: not of_session(process.pid))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every process imports for itself")
def test_a_process_has_imported_what_a_run_needs_and_the_present_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the process that it is forked from is older than the environment."""
    # a function of this module would import what this module does
    seen = "'reclaim.benchmark.training.run' in __import__('sys').modules, __import__('os').environ.get('RECLAIM_TEST')"
    for value in ("before", "after"):
        monkeypatch.setenv("RECLAIM_TEST", value)
        options = {"initializer": engines._as_worker, "initargs": (None, dict(os.environ))}
        with ProcessPoolExecutor(1, mp_context=engines._context(), **options) as pool:
            assert pool.submit(eval, seen).result() == (True, value)
