"""The record store under many writers and readers that are killed, without room, and with a wrong clock."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reclaim.benchmark.records.record import RecordError
from reclaim.benchmark.records.store import RecordStore
from small_runs import synthetic_record

WRITERS = int(os.environ.get("RECLAIM_SOAK", "100"))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="makes its processes by fork")


def child(work: Callable[[], Any]) -> int:
    """A process of its own that does the work and ends."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def damaged(store: RecordStore) -> list[Any]:
    """Files that are no record, apart from those of writes that are running or were killed."""
    return [problem for problem in store.load()[1] if problem.path.suffix != ".tmp"]


def test_writers_killed_at_random_damage_lose_and_double_nothing(tmp_path: Path) -> None:
    """A few at a time on the same ten places; every third is killed, and readers look on."""
    store, chance = RecordStore(tmp_path), random.Random(0)
    records = [synthetic_record("linear", "split-quickdraw-10", seed) for seed in range(10)]
    done = {record.seed: 0 for record in records}

    def write(n: int) -> None:
        for _ in range(100_000 if n % 3 == 0 else 20):  # those to be killed do not end before
            store.write(records[n % 10])

    def read() -> None:
        for _ in range(5):
            assert damaged(store) == []

    killed = 0
    for first in range(0, WRITERS, 8):
        batch = {child(lambda n=n: write(n)): n for n in range(first, first + 8)}
        readers = [child(read) for _ in range(2)]
        time.sleep(chance.uniform(0, 0.05))
        for pid, n in batch.items():
            if n % 3 == 0:
                os.kill(pid, signal.SIGKILL)
        for pid, n in batch.items():
            _, status = os.waitpid(pid, 0)
            if os.WIFSIGNALED(status):
                killed += 1
            else:
                assert status == 0
                done[n % 10] += 1
        assert [os.waitpid(pid, 0)[1] for pid in readers] == [0, 0]
    assert damaged(store) == []
    found, _ = store.load()
    assert {record.seed for record in found} >= {seed for seed, times in done.items() if times}
    assert len({record.seed for record in found}) == len(found)
    assert killed >= WRITERS // 3
    for record in found:
        assert record.result == records[record.seed].result


@pytest.mark.parametrize("room", [0, 100, 1000])
def test_a_full_disk_leaves_the_store_as_it_was(room: int, tmp_path: Path) -> None:
    """The file system takes no file longer than so many bytes."""
    import resource

    store = RecordStore(tmp_path)
    first, second = (synthetic_record("linear", "split-quickdraw-10", seed) for seed in (0, 1))
    store.write(first)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def write() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        for record in (first, second):
            with pytest.raises(RecordError, match="File too large"):
                store.write(record)

    assert os.waitpid(child(write), 0)[1] == 0
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(store.load()[0]) == 1


def test_a_clock_that_jumps_back_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RecordStore(tmp_path)
    record = synthetic_record("linear", "split-quickdraw-10", 0)
    store.write(record)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    store.write(record)
    os.utime(store.path_of(record.recipe, record.stream, record.config_hash, record.seed), (0, 0))
    (found,), problems = store.load()
    assert (found.result, problems) == (record.result, [])
