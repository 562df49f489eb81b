"""The library: what is on record is read, the rest is run, and both come back as dataclasses or frames."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reclaim.benchmark import compare, frame, load_records, run
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records.metrics import METRICS
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import jobs
from reclaim.benchmark.training.jobs import Job, Tick
from small_runs import synthetic_record

STREAM = "split-quickdraw-5"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The runs that are made, at once and in this process; recipe ``seqft-fast`` fails."""
    found: list[Job] = []

    def make(job: Job, advance: Callable[[Tick], Any]) -> Record:
        found.append(job)
        if job.recipe == "seqft-fast":
            raise ValueError("this one fails")
        accuracy = 60.0 + job.seed % 2 if job.recipe == "slca" else 40.0 + job.seed % 3
        return synthetic_record(job.recipe, job.stream.name, job.seed, accuracy, config=job.config)

    monkeypatch.setattr(jobs, "_make", make)
    monkeypatch.chdir(tmp_path)
    return found


def test_run_makes_what_is_missing_and_reads_the_rest(made: list[Job]) -> None:
    first = run("slca", STREAM, seeds=2, jobs=1)
    assert [(r.recipe, r.stream, r.seed) for r in first] == [("slca", STREAM, 0), ("slca", STREAM, 1)]
    assert [record.seed for record in run("slca", STREAM, seeds=[1, 5], jobs=1)] == [1, 5]
    assert [job.seed for job in made] == [0, 1, 5]
    run("slca", STREAM, seeds=1, again=True, jobs=1)
    assert [job.seed for job in made] == [0, 1, 5, 0]
    assert len(load_records("records")) == 3


def test_integers_of_numpy_are_integers(made: list[Job]) -> None:
    run("slca", STREAM, seeds=np.arange(2), settings={"epochs": np.int64(3)}, records=None, jobs=1)
    assert [(type(job.seed), job.seed, job.config.epochs) for job in made] == [(int, 0, 3), (int, 1, 3)]


def test_an_unknown_metric_is_refused_before_any_run(made: list[Job]) -> None:
    with pytest.raises(ValueError, match="metric is 'acc': choose one of last_acc"):
        compare(["slca", "linear"], STREAM, seeds=1, metric="acc", jobs=1)
    assert made == []


def test_a_script_without_a_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"from reclaim.benchmark import run\nrun('ncm', '{STREAM}', seeds=2, records=None, jobs=2)\n")
    answer = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300, check=False)
    assert answer.returncode == 1
    assert 'with its calls under if __name__ == "__main__":' in answer.stderr.splitlines()[-1]


def test_run_takes_settings_and_the_environment(made: list[Job], tmp_path: Path) -> None:
    run("slca", STREAM, settings={"lr": 0.5, "alignment.tau": 0.25}, records=None, jobs=1, threads=2)
    (job,) = made
    assert job.config.lr == 0.5
    assert job.config.alignment is not None
    assert job.config.alignment.tau == 0.25
    assert job.setup.threads == 2
    assert not (tmp_path / "records").exists()


def test_the_home_stream_is_the_default(made: list[Job]) -> None:
    assert run("slca", records=None, jobs=1)[0].stream == "split-quickdraw-10"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"recipe": "slka"}, "unknown recipe 'slka'"),
        ({"stream": "split-quickdraw-4"}, "unknown stream"),
        ({"stream": "split-cub200-10"}, "consists of photographs, and slca trains on drawings"),
        ({"seeds": 0}, "seeds is 0: give a number of seeds"),
        ({"seeds": 1.5}, "seeds is 1.5: give"),
        ({"seeds": 4_000_000_000}, "seeds are more than 1000: give at most"),
        ({"seeds": itertools.count()}, "seeds are more than 1000: give at most"),
        ({"settings": {"lr": 1j}}, "settings is .*complex.*use Python's numbers"),
        ({"seeds": [-1]}, r"seeds is \[-1\]"),
        ({"seeds": [1.5]}, r"seeds is \[1.5\]"),
        ({"settings": {"learning_rate": 1}}, "slca: unknown setting 'learning_rate'"),
        ({"settings": {"lr": -1}}, "lr must be positive"),
        ({"tasks": 3}, "--tasks is of --images FOLDER, which is missing"),
        ({"images": "nowhere"}, "nowhere"),
        ({"backbone": "no_such_model"}, "unknown backbone 'no_such_model'"),
        ({"gpu": True}, "unknown argument 'gpu': the environment of a run has cache, checkpoint_minutes"),
    ],
)
def test_what_is_wrong_is_said_before_any_run(made: list[Job], arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        run(arguments.pop("recipe", "slca"), arguments.pop("stream", STREAM), **arguments)
    assert made == []


def test_a_mapping_is_a_recipe(made: list[Job]) -> None:
    (record,) = run({"name": "mine", "base": "slca", "settings": {"lr": 0.25}}, STREAM, jobs=1)
    assert record.recipe == "mine"
    assert record.result["config"] == RECIPES["slca"].config.set(["lr=0.25"]).as_dict()


def test_compare_pairs_by_seed_and_says_what_failed(made: list[Job]) -> None:
    compared = compare(["slca", "linear", "seqft-fast"], STREAM, seeds=4, jobs=1)
    first, second, failed = compared.rows
    assert (first.verdict, second.verdict, failed.verdict) == ("first", "worse", "no runs")
    assert second.difference is not None
    assert second.difference.value == pytest.approx((-20 - 20 - 18 - 21) / 4)
    assert failed.failures == ("ValueError: this one fails",)
    assert "linear is worse than slca" in compared.conclusion
    n = len(made)
    assert compare(["slca", "linear"], STREAM, seeds=4, jobs=1).rows[1].difference == second.difference
    assert len(made) == n  # read


def test_compare_reads_the_records_of_a_checkout_and_leaves_them(made: list[Job]) -> None:
    shipped = RecordStore(Path("leaderboards", "records"))
    shipped.write(synthetic_record("slca", STREAM, 0, 61.0))
    compare(["slca", "linear"], STREAM, seeds=2, jobs=1)
    assert [(job.recipe, job.seed) for job in made] == [("slca", 1), ("linear", 0), ("linear", 1)]
    assert len(load_records(shipped.root)) == 1
    assert len(load_records("records")) == 3
    assert len(load_records("records", shipped.root)) == 4


def test_a_recipe_is_compared_once(made: list[Job]) -> None:
    with pytest.raises(ValueError, match="slca is named twice"):
        compare(["slca", "linear", "slca"], STREAM)


def test_files_that_are_no_records_are_warned_of(made: list[Job]) -> None:
    run("slca", STREAM, jobs=1)
    Path("records", "notes.txt").write_text("mine")
    with pytest.warns(UserWarning, match=r"skipped .*notes.txt"):
        assert len(load_records("records")) == 1
    with pytest.raises(ValueError, match="there is no folder nowhere"):
        load_records("nowhere")


def test_frames(made: list[Job]) -> None:
    records = run("slca", STREAM, seeds=3, jobs=1)
    table = frame(records)
    assert list(table["seed"]) == [0, 1, 2]
    assert set(METRICS) <= set(table.columns)
    assert table["last_acc"].mean() == pytest.approx(sum(r.metrics()["last_acc"] for r in records) / 3)
    assert not table["external"].any()
    rows = frame(compare(["slca", "linear"], STREAM, seeds=3, jobs=1))
    assert list(rows.index) == ["slca", "linear"]
    assert rows.loc["linear", "verdict"] == "worse"
    assert frame([]).empty


def test_frames_without_pandas_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install 'reclaim\[pandas\]'"):
        frame([])


def test_naming_the_library_loads_no_torch() -> None:
    code = "import reclaim.benchmark as b, sys; assert set(b.__all__) <= set(dir(b)); print('torch' in sys.modules)"
    code += "; b.load_records; print('torch' in sys.modules); b.nothing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "False"]
    assert "module 'reclaim.benchmark' has no attribute 'nothing'" in done.stderr
