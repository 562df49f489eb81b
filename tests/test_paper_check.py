"""`pytest benchmark/ --paper-check`: on records with known verdicts it passes, fails and skips as it says, and prints its table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reclaim.benchmark import engines, paper_check, published
from reclaim.benchmark.config import Config
from reclaim.benchmark.engines import Job
from reclaim.benchmark.published import Claim, cells, claims
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records import Record, RecordStore
from reclaim.benchmark.statistics import Outcome
from small_runs import synthetic_record

pytest_plugins = ["pytester"]

BENCHMARK = Path(paper_check.__file__).parent
PARTS = ("test_live.py", "test_claims.py", "test_paper_tables.py")
HEADLINE = [recipe for recipe in RECIPES.values() if recipe.headline]
CELL = cells()[0]


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


@pytest.fixture
def check(pytester: pytest.Pytester, store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs pytest on the package's checks, in this process, so that what is patched here is patched there."""

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("something was trained")

    monkeypatch.setattr(engines, "run_jobs", refuse)
    monkeypatch.setattr(paper_check, "run_jobs", refuse)

    def run(*arguments: str, part: str | None = None, records: bool = True) -> pytest.RunResult:
        place = ["--records", str(store.root)] if records else []
        parts = [str(BENCHMARK / name) for name in ([part] if part else PARTS)]
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *parts, *place, *arguments)

    return run


@pytest.fixture
def one_claim(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome | None], Claim]:
    """The only claim is one about records that the test writes; its expected verdict is what the test says."""

    def put(expected: Outcome | None) -> Claim:
        claim = dataclasses.replace(claims()[0], expected=expected)
        monkeypatch.setattr(published, "claims", lambda: (claim,))
        return claim

    return put


def write_runs(store: RecordStore, claim: Claim, better: list[float], worse: list[float]) -> None:
    for recipe, values in ((claim.better, better), (claim.worse, worse)):
        for seed, value in enumerate(values):
            store.write(synthetic_record(recipe, claim.stream, seed, last_acc=value))


HOLDS = [55.0, 57.0, 58.0, 58.0, 61.0], [50.0, 51.0, 52.0, 53.0, 54.0]


def test_without_its_option_everything_is_skipped(check: Any) -> None:
    result = check()
    outcomes = result.parseoutcomes()
    assert set(outcomes) <= {"skipped", "warnings", "warning"}
    assert outcomes["skipped"] == len(claims()) + len(HEADLINE) + len(cells())
    assert result.ret == 0
    result = check("-rs", part="test_live.py")
    result.stdout.fnmatch_lines(["*pass --paper-check*"])
    assert "paper check" not in result.stdout.str()


def test_without_records_everything_is_not_run(check: Any) -> None:
    result = check("--paper-check", "--records-only", "-rs")
    assert result.parseoutcomes()["skipped"] == len(claims()) + len(HEADLINE) + len(cells())
    assert result.ret == 0
    text = result.stdout.str()
    assert "--records-only trains nothing" in text
    assert f"not run: no record of {CELL.recipe} on {CELL.stream}" in text
    assert f"no runs on record of {claims()[0].better} and {claims()[0].worse} on {claims()[0].stream}" in text
    table = text[text.index("paper check =") :]
    result.stdout.fnmatch_lines(["claim or cell *ours *reference *verdict"])
    # cells without runs are counted by table, claims named one by one
    rows = [line for line in table.splitlines() if " cells of " in f" {line}"]
    assert sum(int(row.split()[0]) if row[0].isdigit() else 1 for row in rows) == len(cells())
    assert all(f"{claim.id}: {claim.better} " in table for claim in claims())
    assert sum(line.rstrip().endswith("not run") for line in table.splitlines()) == len(rows) + len(claims())


@pytest.mark.parametrize(
    ("expected", "runs", "passes"),
    [
        ("holds", HOLDS, True),
        ("contradicted", HOLDS[::-1], True),  # agreement passes, also where the claim fails
        ("undecided", ([50.0], [40.0]), True),
        ("contradicted", HOLDS, False),
        ("holds", HOLDS[::-1], False),
        ("holds", ([50.0], [40.0]), False),
        (None, HOLDS, False),
    ],
)
def test_a_change_of_verdict_fails(
    expected: str | None, runs: tuple[list[float], list[float]], passes: bool, check: Any, one_claim: Any, store: RecordStore
) -> None:
    claim = one_claim(expected)
    write_runs(store, claim, *runs)
    result = check("--paper-check", "--records-only", part="test_claims.py")
    result.assert_outcomes(passed=int(passes), failed=int(not passes))
    result.stdout.fnmatch_lines([f"*{claim.id}: {claim.better} > {claim.worse} *n = {len(runs[0])}, p = * > 0, confirmatory *"])
    if expected is None:
        result.stdout.fnmatch_lines(["*has no expected verdict yet; the records say 'holds': write it into papers/claims.toml*"])
    elif not passes:
        result.stdout.fnmatch_lines([f"*verdict changed from '{expected}' to *"])


def test_outdated_and_damaged_records_are_not_judged(check: Any, one_claim: Any, store: RecordStore) -> None:
    claim = one_claim("holds")
    write_runs(store, claim, *HOLDS)
    outdated = RECIPES[claim.worse].config.set(["lr=0.77"])
    for seed in range(5):
        store.write(synthetic_record(claim.worse, claim.stream, seed, last_acc=99, config=outdated))
        # seeds on which hyper-parameters are chosen
        store.write(synthetic_record(claim.worse, claim.stream, 1000 + seed, last_acc=99))
        store.write(synthetic_record(claim.better, claim.stream, 1000 + seed, last_acc=1))
    other_weights = synthetic_record(claim.better, claim.stream, 5, last_acc=1)
    other_weights.result["weights_sha256"] = "0" * 64
    store.write(other_weights)
    store.write(synthetic_record(claim.worse, claim.stream, 5, last_acc=99))
    (store.root / "notes.txt").write_text("mine")
    result = check("--paper-check", "--records-only", part="test_claims.py")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*skipped *notes.txt: not a record*"])


def test_a_cell_with_runs_is_judged(check: Any, store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "cells", lambda: (CELL, cells()[1]))
    monkeypatch.setattr(paper_check, "cells", lambda: (CELL,))
    mean = CELL.published.mean
    for seed in range(5):
        store.write(synthetic_record(CELL.recipe, CELL.stream, seed, last_acc=mean - 8 + 0.1 * seed))
    result = check("--paper-check", "--records-only", "-k", CELL.id.replace("/", " and "), part="test_paper_tables.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"{CELL.id} * n = 5 *{mean} +- {CELL.published.std} * below; as a constant: below"])
    for seed in range(5):
        store.write(synthetic_record(CELL.recipe, CELL.stream, seed, last_acc=mean + 0.05 * (seed - 2)))
    result = check("--paper-check", "--records-only", "-k", CELL.id.replace("/", " and "), part="test_paper_tables.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"{CELL.id} * n = 5 *{mean} +- {CELL.published.std} *"])


def test_runs_of_a_cell_that_differ_are_not_pooled(check: Any, store: RecordStore) -> None:
    for seed, lr in enumerate((0.1, 0.2)):
        store.write(synthetic_record(CELL.recipe, CELL.stream, seed, config=Config(lr=lr)))
    result = check("--paper-check", "--records-only", "-k", CELL.id.replace("/", " and "), part="test_paper_tables.py")
    assert {"passed", "failed", "skipped"}.isdisjoint(result.parseoutcomes())
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*the records of {CELL.recipe} on {CELL.stream} are of two configurations*"])


# --- live ---


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> dict[str, Record]:
    """Recipe -> what training it now gives."""
    runs = {recipe.name: synthetic_record(recipe.name, recipe.home, 0, last_acc=60) for recipe in HEADLINE}

    def run_jobs(jobs: list[Job], store: RecordStore | None, n_jobs: int | None = None) -> list[Record]:
        assert store is None  # the committed record must not be overwritten
        assert [(job.recipe, job.seed) for job in jobs] == [(recipe.name, 0) for recipe in HEADLINE]
        return [runs[job.recipe] for job in jobs]

    monkeypatch.setattr(engines, "run_jobs", run_jobs)
    return runs


def test_live_runs_agree_with_their_records(
    check: Any, live: dict[str, Record], store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_jobs = engines.run_jobs
    for record in live.values():
        store.write(record)
    files = {path: path.read_bytes() for path in store.root.rglob("*.json")}
    monkeypatch.setattr(engines, "run_jobs", run_jobs)
    result = check("--paper-check", part="test_live.py")
    result.assert_outcomes(passed=len(HEADLINE))
    for recipe in HEADLINE:
        result.stdout.fnmatch_lines([f"live {recipe.name} {recipe.home} seed 0 *60.00 on record *same bits"])
    assert {path: path.read_bytes() for path in store.root.rglob("*.json")} == files


def test_a_live_run_that_differs_or_has_no_record_fails(check: Any, live: dict[str, Record], store: RecordStore) -> None:
    same, other_bits, other_machine, far, *_, absent = HEADLINE
    for recipe in HEADLINE[:-1]:
        store.write(live[recipe.name])
    for recipe, accuracy in ((other_bits, 61), (other_machine, 60), (far, 90)):
        record = synthetic_record(recipe.name, recipe.home, 0, last_acc=accuracy)
        if recipe is not other_bits:
            record.provenance["cpu_model"] = "another processor"
        store.write(record)
    result = check("--paper-check", part="test_live.py")
    result.assert_outcomes(passed=len(HEADLINE) - 3, failed=3)
    text = result.stdout.str()
    verdicts = {
        recipe.name: next(line for line in text.splitlines() if line.startswith(f"live {recipe.name} ")) for recipe in HEADLINE[:-1]
    }
    assert verdicts[same.name].endswith("same bits")
    assert verdicts[other_bits.name].endswith("DIFFERS")
    assert verdicts[other_machine.name].endswith("within tolerance")
    assert verdicts[far.name].endswith("DIFFERS")
    result.stdout.fnmatch_lines([f"*{absent.name} {absent.home} seed 0 is not on record *`reclaim run {absent.name} --seeds 1`*"])
    result.stdout.fnmatch_lines(["*do not agree to the last bit, largest deviation 1.00 points*"])


def test_fresh_makes_every_run_anew(check: Any, one_claim: Any, store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = one_claim("contradicted")
    write_runs(store, claim, *HOLDS)
    store.write(synthetic_record(CELL.recipe, CELL.stream))
    asked: list[tuple[str, int]] = []

    def run_jobs(jobs: list[Job], store: RecordStore | None, n_jobs: int | None = None) -> list[Record]:
        assert store is None
        assert n_jobs == 1
        asked.extend((job.recipe, job.seed) for job in jobs)
        values = dict(zip((claim.better, claim.worse), HOLDS[::-1], strict=True))
        return [synthetic_record(job.recipe, job.stream.name, job.seed, last_acc=values[job.recipe][job.seed]) for job in jobs]

    monkeypatch.setattr(paper_check, "run_jobs", run_jobs)
    result = check("--paper-check", "--fresh", "--paper-jobs", "1", part="test_claims.py")
    result.assert_outcomes(passed=1)
    assert sorted(asked) == sorted((recipe, seed) for recipe in (claim.better, claim.worse) for seed in range(5))


# --- options ---


def test_fresh_and_records_only_exclude_each_other(check: Any) -> None:
    result = check("--paper-check", "--fresh", "--records-only")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--fresh trains every run, --records-only none: pass one of them*"])


def test_records_that_are_a_file_are_named(check: Any, store: RecordStore) -> None:
    store.root.write_text("")
    result = check("--paper-check", "--records-only", part="test_claims.py")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*RecordError: the records folder {store.root} is a file*"])


def test_without_a_folder_of_records_it_says_which_is_missing(check: Any) -> None:
    result = check("--paper-check", "--records-only", part="test_claims.py", records=False)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*there is no folder leaderboards?records in *--records*"])


def test_speed_tests_run_when_asked_for(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_fast="import pytest\n@pytest.mark.speed\ndef test_it(): pass\n")
    pytester.runpytest_inprocess(str(path.parent)).assert_outcomes(skipped=1)
    pytester.runpytest_inprocess(str(path)).assert_outcomes(passed=1)


def test_the_options_are_explained(pytester: pytest.Pytester) -> None:
    text = pytester.runpytest_inprocess("--help").stdout.str()
    for option in ("--paper-check", "--fresh", "--records-only", "--records=DIR", "--paper-jobs=N"):
        assert option in text
