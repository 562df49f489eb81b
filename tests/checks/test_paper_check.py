"""`pytest benchmark/ --paper-check`: on records with known verdicts it passes, fails and skips as it says,
and prints its table.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from reclaim.benchmark.checks import session
from reclaim.benchmark.checks.session import missing_jobs
from reclaim.benchmark.config import config_hash
from reclaim.benchmark.papers import published
from reclaim.benchmark.papers.protocols import find_cell
from reclaim.benchmark.papers.published import CLAIMS, Claim, cells, claims, planned_seeds
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.record import UNVERIFIED, Record, RecordError
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.stats.paired import Outcome, holm
from reclaim.benchmark.training.jobs import Job
from reclaim.benchmark.verdicts import cells as cell_checks
from reclaim.benchmark.verdicts import claims as verdicts_of_claims
from reclaim.benchmark.verdicts.cells import check_cells, judge_tables
from reclaim.benchmark.verdicts.counting import current, merge, not_counted
from small_runs import synthetic_record

pytest_plugins = ["pytester"]

BENCHMARK = Path(session.__file__).parent
PARTS = ("test_live.py", "test_claims.py", "test_cells.py")
ALL_CLAIMS = [claim for tier in CLAIMS for claim in claims(tier)]
HEADLINE = [recipe for recipe in recipes_of("embedded").values() if recipe.headline]
CELL = cells()[0]
ALL = {cell.id: cell for cell in cells()}


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    (tmp_path / "records").mkdir()
    return RecordStore(tmp_path / "records")


@pytest.fixture
def check(pytester: pytest.Pytester, store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs pytest on the package's checks, in this process, so that what is patched here is patched there."""

    def refuse(*args: object, **kwargs: object) -> None:
        pytest.fail("something was trained")

    monkeypatch.setattr(session, "run_jobs", refuse)

    def run(*arguments: str, part: str | None = None, records: bool = True) -> pytest.RunResult:
        place = ["--paper-records", str(store.root)] if records else []
        parts = [str(BENCHMARK / name) for name in ([part] if part else PARTS)]
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", *parts, *place, *arguments)

    return run


@pytest.fixture
def one_claim(monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome | None], Claim]:
    """The only claim is one about records that the test writes, planned with five seeds; its expected verdict is what
    the test says.
    """

    def put(expected: Outcome | None) -> Claim:
        claim = dataclasses.replace(claims()[0], family="exploratory", expected=expected)
        for module in (published, verdicts_of_claims):
            monkeypatch.setattr(module, "claims", lambda tier="embedded": (claim,) if tier == "embedded" else ())
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
    assert outcomes["skipped"] == len(ALL_CLAIMS) + len(HEADLINE) + 1 + len(cells())
    assert result.ret == 0
    result = check("-rs", part="test_live.py")
    result.stdout.fnmatch_lines(["*pass --paper-check*"])
    assert "paper check" not in result.stdout.str()


def test_without_records_everything_is_not_run(check: Any) -> None:
    result = check("--paper-check", "--paper-records-only", "-rs")
    assert result.parseoutcomes()["skipped"] == len(ALL_CLAIMS) + len(HEADLINE) + 1 + len(cells())
    assert result.ret == 0
    text = result.stdout.str()
    assert "--paper-records-only trains nothing" in text
    assert f"not run: no record of {CELL.recipe} on {CELL.stream}" in text
    assert f"no runs on record of {claims()[0].better} and {claims()[0].worse} on {claims()[0].stream}" in text
    table = text[text.index("paper check =") :]
    result.stdout.fnmatch_lines(["claim or live run *ours *reference *verdict"])
    # cells without runs are counted in their table's sentence, claims named one by one
    for name in dict.fromkeys(cell.table for cell in cells()):
        n = sum(cell.table == name for cell in cells())
        assert f"{name}: {n} not run" in table.splitlines()
    assert all(f"{claim.id}: {claim.better} " in table for claim in ALL_CLAIMS)
    assert sum(line.rstrip().endswith("  not run") for line in table.splitlines()) == len(ALL_CLAIMS)


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
    expected: str | None,
    runs: tuple[list[float], list[float]],
    passes: bool,
    check: Any,
    one_claim: Any,
    store: RecordStore,
) -> None:
    claim = one_claim(expected)
    write_runs(store, claim, *runs)
    result = check("--paper-check", "--paper-records-only", part="test_claims.py")
    result.assert_outcomes(passed=int(passes), failed=int(not passes))
    result.stdout.fnmatch_lines(
        [f"*{claim.id}: {claim.better} > {claim.worse} *n = {len(runs[0])}* > 0 points, exploratory *"]
    )
    if expected is None:
        result.stdout.fnmatch_lines(
            ["*has no expected verdict yet; the records say 'holds': write it into papers/claims.toml*"]
        )
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
    result = check("--paper-check", "--paper-records-only", part="test_claims.py")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"skipped {store.root / 'notes.txt'}: not a record*"])


# --- cells ---

BELOW = "slca/main/slca/split-cifar100-10/last_acc"
REPRODUCED = "slca/main/slca/split-imagenet-r-10/last_acc"
UNDECIDED = "slca/main/seqft+sl/split-cifar100-10/inc_acc"
WITHOUT_STD = "slca/main/joint/split-imagenet-r-10/last_acc"
MIXED = "slca/main/slca/split-cub200-10/last_acc"
SCRATCH = "aepg/table-3/resnet50-alpha-0.5/cifar10-1/last_acc"
NOT_RUN = "slca/main/lwf/split-cub200-10/last_acc"


def record_of(name: str, seed: int = 0, last_acc: float = 50.0, settings: tuple[str, ...] = ()) -> Record:
    """A run of a cell by its paper's protocol, but for the settings."""
    recipe, stream, _ = find_cell(name)
    return synthetic_record(recipe.name, stream.name, seed, last_acc, config=recipe.config.set(settings))


@pytest.fixture
def judged(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> RecordStore:
    """Runs of five of six cells, which are all that there are."""
    few = tuple(ALL[name] for name in (BELOW, REPRODUCED, UNDECIDED, WITHOUT_STD, MIXED, NOT_RUN))
    monkeypatch.setattr(published, "cells", lambda: few)
    monkeypatch.setattr(cell_checks, "cells", lambda: few)
    for name, shift, step in (
        (BELOW, -8.0, 0.1),
        (REPRODUCED, 0.0, 0.05),
        (UNDECIDED, 0.0, 0.1),
        (WITHOUT_STD, 0.0, 2.0),
    ):
        for seed in range(5):
            value = ALL[name].published.mean + shift + step * (seed - 2)
            store.write(record_of(name, seed, value))
    for seed, precision in enumerate(("fp32", "bf16")):
        store.write(record_of(MIXED, seed, settings=(f"precision={precision}",)))
    return store


def verdicts_of(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    assert document["schema"] == 1
    return document


def test_cells_are_judged_one_by_one(check: Any, judged: RecordStore, tmp_path: Path) -> None:
    verdicts, xml = tmp_path / "verdicts.json", tmp_path / "junit.xml"
    command = ("--paper-check", "--paper-records-only", "--paper-verdicts", str(verdicts), "--junitxml", str(xml))
    result = check(*command, part="test_cells.py")
    # records of two configurations fail their own cell alone
    result.assert_outcomes(passed=3, failed=2, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "cell *ours *published *re-runs *margin *verdict *as a constant *prediction interval",
            f"{BELOW} *, n = 5 *91.53 +- 0.28 (n = 3) *89.3, 91.57, 91.26, * 1  *below *below *not in 90.* to 92.*",
            f"{REPRODUCED} *reproduced *reproduced *  in 7*",
            f"{WITHOUT_STD} *79.6 *undecided *undecided *-",
            f"{MIXED} *n = 2 *not judged*",
            f"{UNDECIDED}: undecided, limited by: published; seeds needed: none: "
            f"the published n0 and std alone leave +-*",
            f"{WITHOUT_STD}: undecided, limited by: ours; seeds needed: * in all",
            "slca/main: 0 of 6 reproduced, family error 5% (Holm); one by one: 1 below, 1 not judged, 1 not run, "
            "1 reproduced, 2 undecided (1 qualified and not counted as reproduced)",
        ],
        consecutive=False,
    )
    text = result.stdout.str()
    assert "and 2 more: of the class orders 5 are new ones" in text
    assert "(F2)" not in text  # the seeds vary what the paper's do
    assert f"the records of {ALL[MIXED].recipe} on split-cub200-10 are of 2 configurations" in text
    assert "(--paper-margin)" not in text
    assert "OVERRIDDEN" not in text

    document = verdicts_of(verdicts)
    found = {entry["id"]: entry for entry in document["cells"]}
    assert {name: entry["verdict"] for name, entry in found.items()} == {
        **{BELOW: "below", REPRODUCED: "reproduced", UNDECIDED: "undecided"},
        **{WITHOUT_STD: "undecided", MIXED: "not judged", NOT_RUN: "not run"},
    }
    below = found[BELOW]
    assert below["ours"]["mean"] == pytest.approx(83.53, abs=0.05)
    assert below["seeds"] == list(range(5))
    assert (below["margin"], below["margin_reason"]) == (1.0, ALL[BELOW].table.margin_reason)
    assert below["prediction_interval"][0] < 91.53 < below["prediction_interval"][1]
    # somebody else's numbers stand beside, and are in none of ours
    assert sorted(again["value"] for again in below["reruns"]) == [87.5, 89.21, 89.3, 91.26, 91.57]
    assert below["published"]["mean"] == 91.53
    (table,) = document["tables"]
    assert (table["reproduced"], table["cells"], table["alpha"]) == (0, 6, 0.05)

    cases = {
        case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")}
        for case in ElementTree.parse(xml).iter("testcase")
    }
    properties = cases[f"test_published_cell[{BELOW}]"]
    assert properties["verdict"] == "below"
    assert json.loads(properties["ours"] or "") == below["ours"]
    assert cases[f"test_published_cell[{NOT_RUN}]"]["verdict"] == "not run"

    # the same records, told apart in two stores that share one of them
    first, second = tmp_path / "first", tmp_path / "second"
    place = Path(ALL[BELOW].recipe, ALL[BELOW].stream)
    shutil.copytree(judged.root / place, first / place)
    shutil.copytree(judged.root, second)
    (shared,) = second.glob(f"{place}/*/0.json")
    for path in shared.parent.glob("[1-9].json"):
        path.unlink()
    result = check(
        *command, "--paper-records", str(first), "--paper-records", str(second), part="test_cells.py", records=False
    )
    result.assert_outcomes(passed=3, failed=2, skipped=1)
    result.stdout.fnmatch_lines([f"counted once: {shared} is equal to {first}*0.json"])
    again = verdicts_of(verdicts)
    assert (again["cells"], again["tables"]) == (document["cells"], document["tables"])


def test_strict_and_overrides(check: Any, judged: RecordStore, tmp_path: Path) -> None:
    result = check("--paper-check", "--paper-records-only", "--paper-strict", part="test_cells.py")
    result.assert_outcomes(passed=1, failed=4, skipped=1)
    verdicts = tmp_path / "verdicts.json"
    options = ("--paper-margin", "20", "--paper-alpha", "0.2", "--paper-verdicts", str(verdicts))
    result = check("--paper-check", "--paper-records-only", "--paper-strict", *options, part="test_cells.py")
    result.assert_outcomes(passed=4, failed=1, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "OVERRIDDEN for cells and tables: --paper-margin 20, --paper-alpha 0.2",
            f"{BELOW} * 20 (--paper-margin) *reproduced*",
            "*family error 20% (Holm)*",
        ]
    )
    document = verdicts_of(verdicts)
    assert {entry["margin_reason"] for entry in document["cells"]} == {"--paper-margin"}
    assert document["options"]["strict"] is True
    assert document["options"]["alpha"] == 0.2


def test_the_sentence_of_a_table_is_adjusted_over_all_its_cells(judged: RecordStore) -> None:
    records, _, _ = merge([judged])
    for margin, reproduced in ((None, 0), (2.0, 1)):
        checks = check_cells(current(records), margin=margin)
        p = [check.column.p_equivalence or 1.0 if check.column else 1.0 for check in checks.values()]
        (table,) = judge_tables(checks)
        assert table["reproduced"] == sum(value < 0.05 for value in holm(p)) == reproduced
        # one cell is reproduced by itself at either margin; among six, what was not run counted, at the wider one alone
        assert table["verdicts"]["reproduced"] == sum(value < 0.05 for value in p) == 1
    assert check_cells([], papers=("aepg",)) == {}


def test_only_runs_by_the_paper_s_protocol_count() -> None:
    plain = record_of(BELOW)
    other_arithmetic = record_of(BELOW, 1, settings=("precision=bf16", "micro_batch=64"))
    rehearsal = record_of(BELOW, 2)
    rehearsal.result["rehearsal"] = True
    other = [record_of(BELOW, 3, settings=(setting,)) for setting in ("lr=0.02", "part=validation", "alignment=null")]
    # the protocol of a cell is that of its stream, too
    elsewhere = synthetic_record(ALL[BELOW].recipe, "split-imagenet-r-10", config=find_cell(BELOW)[0].config)
    other_method = synthetic_record(ALL[NOT_RUN].recipe, ALL[NOT_RUN].stream, config=find_cell(MIXED)[0].config)
    of_recipe, rehearsed = synthetic_record("slca"), synthetic_record("slca", seed=1)
    rehearsed.result["rehearsal"] = True
    small_copy = record_of(BELOW, 4)
    small_copy.result["remarks"] = [UNVERIFIED]
    records = [plain, other_arithmetic, rehearsal, *other, elsewhere, other_method, of_recipe, rehearsed, small_copy]
    assert current(records) == [plain, other_arithmetic, of_recipe]
    notes = not_counted([*records, other[0]])
    run = BELOW.rpartition("/")[0]
    assert f"not counted: 1 of {run}: a rehearsal" in notes
    assert f"not counted: 1 of {run}: {UNVERIFIED}" in notes
    assert f"not counted: 2 of {run}: not made by the paper's protocol: lr=0.02 instead of 0.01" in notes
    assert any(
        note.startswith("not counted: 1 of slca/main/lwf/split-cub200-10: not made by the paper's protocol: ")
        for note in notes
    )
    assert any(
        "slca/main/slca/split-imagenet-r-10: not made" in note and "epochs=20 instead of 50" in note for note in notes
    )
    assert "not counted: 1 of slca on split-quickdraw-10: a rehearsal" in notes
    assert len(notes) == 8


@pytest.mark.parametrize(("key", "what"), [("weights_sha256", "backbones"), ("data_sha256", "sets of images")])
def test_runs_of_other_weights_or_images_are_not_pooled(key: str, what: str) -> None:
    records = [record_of(BELOW, seed, 91.5 + seed) for seed in range(3)]
    assert check_cells(records)[BELOW].problem is None
    records[1].result[key] = "e" * 64
    check = check_cells(records)[BELOW]
    assert f"are of 2 {what}, " in (check.problem or "")
    assert check.verdict is None
    # drawn at random, weights are others in every run
    records = [record_of(SCRATCH, seed) for seed in range(2)]
    records[1].result[key] = "e" * 64
    assert (check_cells(records)[SCRATCH].problem is None) == (key == "weights_sha256")


def test_how_the_arithmetic_was_done_stands_beside_the_verdict() -> None:
    def judge(*settings: str) -> cell_checks.CellCheck:
        return check_cells([record_of(BELOW, seed, 91.5 + 0.1 * seed, settings) for seed in range(3)])[BELOW]

    assert judge().deviations == ["device=cpu"]
    for record in (foreign := judge()).runs:
        record.provenance.pop("accelerator")  # which the schema does not ask for
    assert dataclasses.replace(foreign).deviations == ["device=cpu"]
    assert "made with device=cpu" in judge().remarks
    check = judge("precision=bf16", "compile=true")
    assert sorted(check.deviations) == ["compile=true instead of false", "device=cpu", "precision=bf16 instead of fp32"]
    records = [record_of(BELOW, seed, 91.5) for seed in range(3)]
    records[1].provenance["accelerator"] = "NVIDIA H200"
    assert check_cells(records)[BELOW].deviations == ["device=cpu", "device=NVIDIA H200"]
    assert check.verdict == judge().verdict
    assert f"made with {', '.join(check.deviations)}" in check.remarks
    assert check.as_dict()["deviations"] == check.deviations


def test_every_record_that_does_not_count_is_noted() -> None:
    changed = RECIPES["slca"].config.set(["lr=0.77"])
    other_weights = synthetic_record("slca")
    other_weights.result["weights_sha256"] = "0" * 64
    middle = next(iter(recipes_of("middle")))
    records = [
        synthetic_record("slca"),
        *(synthetic_record("slca", seed=seed, config=changed) for seed in range(2)),
        other_weights,
        synthetic_record("slca", seed=1000),
        synthetic_record(middle, "cifar10-5", config=RECIPES[middle].config),
        synthetic_record("theirs", config=changed),
        synthetic_record("slca", "split-cub200-10"),
    ]
    assert current(records) == records[:1]
    assert not_counted(records) == [
        f"not counted: 2 of slca on split-quickdraw-10: another configuration than the recipe's: "
        f"lr=0.77 instead of {RECIPES['slca'].config.lr:g}",
        "not counted: 1 of slca on split-quickdraw-10: other starting weights than the recipe's",
        "not counted: 1 of slca on split-quickdraw-10: a seed on which hyper-parameters are chosen",
        f"not counted: 1 of {middle} on cifar10-5: a recipe on a stream of another tier",
        "not counted: 1 of theirs on split-quickdraw-10: no recipe or published cell of that name and stream",
        "not counted: 1 of slca on split-cub200-10: not of its stream and seed (`reclaim check` says more): "
        "result.config is for drawings, which split-cub200-10 is not made of",
    ]


def test_the_best_of_a_papers_grid_is_taken() -> None:
    """F23: one coefficient for both metrics of the run, and said."""
    names = [f"aepg/table-2/lora-focal/split-cub200-10/task_avg_{metric}_acc" for metric in ("last", "inc")]
    records = [
        record_of(names[0], seed, last_acc, (f"loss.coefficient={g}",))
        for g, last_acc in ((1.0, 70.0), (0.5, 80.0))
        for seed in range(3)
    ]
    records.append(record_of(names[0], 3, 80.0, ("loss.coefficient=0.5",)))
    assert current(records) == records
    checks = check_cells(records)
    for name in names:
        assert {run.result["config"]["loss"]["coefficient"] for run in checks[name].runs} == {0.5}
        assert len(checks[name].runs) == 4
        assert "loss.coefficient=0.5: the best of 2 on record, of 3 in the paper's grid (F23)" in checks[name].remarks
    assert current([record_of(names[0], settings=("loss.coefficient=3",))]) == []
    mixed = check_cells([*records, record_of(names[0], 4, 80.0, ("loss.coefficient=0.5", "precision=bf16"))])[names[0]]
    assert mixed.problem is not None


# --- stores ---


def test_stores_are_merged(tmp_path: Path) -> None:
    first, second = RecordStore(tmp_path / "a"), RecordStore(tmp_path / "b")
    for store, seeds in ((first, (0, 1, 2)), (second, (0, 1, 3))):
        for seed in seeds:
            record = synthetic_record("slca", seed=seed, last_acc=50)
            if store is second and seed == 1:
                record = synthetic_record("slca", seed=seed, last_acc=50.5)
                record.provenance["cpu_model"] = "another processor"
            store.write(record)
    (second.root / "notes.txt").write_text("mine")
    records, (damaged,), notes = merge([first, second])
    assert [record.seed for record in records] == [0, 1, 2, 3]
    assert records[1].metrics()["last_acc"] == 50  # the earlier store's
    assert damaged.path == second.root / "notes.txt"
    assert [note.split(":")[0] for note in notes] == ["counted once", "counted once"]
    assert f"{second.root}" in notes[0]
    assert "is equal to" in notes[0]
    assert "is within tolerance of" in notes[1]
    for seed in (0, 2):
        second.write(synthetic_record("slca", seed=seed, last_acc=60))
    with pytest.raises(RecordError, match="contradict each other") as error:
        merge([first, second])
    assert str(error.value).count("do not agree to the last bit, largest deviation 10.00 points") == 2
    assert all(
        f"{path}" in str(error.value) for path in (*first.root.rglob("[02].json"), *second.root.rglob("[02].json"))
    )


def test_stores_that_contradict_each_other_end_the_check(
    check: Any, one_claim: Any, store: RecordStore, tmp_path: Path
) -> None:
    claim = one_claim("holds")
    write_runs(store, claim, *HOLDS)
    other = RecordStore(tmp_path / "other")
    write_runs(other, claim, [1.0], [1.0])
    result = check("--paper-check", "--paper-records-only", "--paper-records", str(other.root), part="test_claims.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: records of the same configuration and seed contradict each other*", f"*{store.root}*{other.root}*"]
    )


def test_a_store_that_pytest_takes_for_tests_is_named(
    check: Any, one_claim: Any, store: RecordStore, tmp_path: Path
) -> None:
    claim = one_claim("holds")
    write_runs(store, claim, *HOLDS)
    second = RecordStore(tmp_path / "second")
    write_runs(second, claim, *HOLDS)
    result = check(str(second.root), "--paper-check", "--paper-records-only", part="test_claims.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {second.root} looks like a record store: repeat --paper-records before each"])

    (second.root / "test_mine.py").write_text("def test_it(): pass\n")  # it is both
    check(str(second.root), "--paper-check", "--paper-records-only", part="test_claims.py").assert_outcomes(passed=2)


# --- missing runs ---


def test_what_the_claims_need_is_known() -> None:
    jobs = missing_jobs([])
    assert len({job.place for job in jobs}) == len(jobs)
    confirmatory = next(claim for claim in claims() if claim.family == "confirmatory")
    for recipe in (confirmatory.better, confirmatory.worse):
        mine = [job.seed for job in jobs if (job.recipe, job.stream.name) == (recipe, confirmatory.stream)]
        assert mine == list(range(planned_seeds(confirmatory)))
    of_olor = missing_jobs([], ["olor"])
    assert {job.recipe for job in of_olor} == {
        name for c in (*claims(), *claims("dense")) if c.paper == "olor" for name in (c.better, c.worse)
    }
    made = [synthetic_record(job.recipe, job.stream.name, job.seed) for job in of_olor]
    assert missing_jobs(made[1:], ["olor"]) == of_olor[:1]


def test_missing_runs_are_made_into_the_first_store(
    check: Any, one_claim: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = one_claim("holds")
    monkeypatch.setattr(session, "claims", lambda tier="embedded": (claim,) if tier == "embedded" else ())
    first, second = RecordStore(tmp_path / "first"), RecordStore(tmp_path / "second")
    n = planned_seeds(claim)
    for seed in range(n):
        second.write(synthetic_record(claim.better, claim.stream, seed, last_acc=70 + seed))
    asked: list[tuple[str, int]] = []

    def run_jobs(
        jobs: list[Job], store: RecordStore | None, n_jobs: int | None = None, quiet: bool = False
    ) -> list[Record]:
        assert store is not None
        assert store.root == first.root
        asked.extend((job.recipe, job.seed) for job in jobs)
        return [synthetic_record(job.recipe, job.stream.name, job.seed, last_acc=50) for job in jobs]

    monkeypatch.setattr(session, "run_jobs", run_jobs)
    stores = ("--paper-records", str(first.root), "--paper-records", str(second.root))
    result = check("--paper-check", "--paper-run-missing", *stores, part="test_claims.py", records=False)
    result.assert_outcomes(passed=1)
    assert asked == [(claim.worse, seed) for seed in range(n)]


# --- live ---


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> dict[str, Record]:
    """Recipe -> what training it now gives."""
    runs = {recipe.name: synthetic_record(recipe.name, recipe.home, 0, last_acc=60) for recipe in HEADLINE}

    def run_jobs(
        jobs: list[Job], store: RecordStore | None, n_jobs: int | None = None, quiet: bool = False
    ) -> list[Record]:
        assert store is None  # the committed record must not be overwritten
        assert [(job.recipe, job.seed) for job in jobs] == [(recipe.name, 0) for recipe in HEADLINE]
        return [runs[job.recipe] for job in jobs]

    monkeypatch.setattr(session, "run_jobs", run_jobs)
    return runs


def test_live_runs_agree_with_their_records(check: Any, live: dict[str, Record], store: RecordStore) -> None:
    for record in live.values():
        store.write(record)
    files = {path: path.read_bytes() for path in store.root.rglob("*.json")}
    result = check("--paper-check", part="test_live.py")
    result.assert_outcomes(passed=len(HEADLINE), skipped=1)  # that of the middle tier, which needs images
    for recipe in HEADLINE:
        result.stdout.fnmatch_lines([f"live {recipe.name} {recipe.home} seed 0 *60.00 on record *same bits"])
    assert {path: path.read_bytes() for path in store.root.rglob("*.json")} == files


def test_a_live_run_that_differs_or_has_no_record_fails(
    check: Any, live: dict[str, Record], store: RecordStore
) -> None:
    same, other_bits, other_machine, far, *_, absent = HEADLINE
    for recipe in HEADLINE[:-1]:
        store.write(live[recipe.name])
    for recipe, accuracy in ((other_bits, 61), (other_machine, 60), (far, 90)):
        record = synthetic_record(recipe.name, recipe.home, 0, last_acc=accuracy)
        if recipe is not other_bits:
            record.provenance["cpu_model"] = "another processor"
        store.write(record)
    result = check("--paper-check", part="test_live.py")
    result.assert_outcomes(passed=len(HEADLINE) - 3, failed=3, skipped=1)
    text = result.stdout.str()
    verdicts = {
        recipe.name: next(line for line in text.splitlines() if line.startswith(f"live {recipe.name} "))
        for recipe in HEADLINE[:-1]
    }
    assert verdicts[same.name].endswith("same bits")
    assert verdicts[other_bits.name].endswith("DIFFERS")
    assert verdicts[other_machine.name].endswith("within tolerance")
    assert verdicts[far.name].endswith("DIFFERS")
    result.stdout.fnmatch_lines(
        [f"*{absent.name} {absent.home} seed 0 is not on record *`reclaim run {absent.name} --seeds 1`*"]
    )
    result.stdout.fnmatch_lines(["*do not agree to the last bit, largest deviation 1.00 points*"])


def test_fresh_makes_every_run_anew(
    check: Any, one_claim: Any, store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = one_claim("contradicted")
    write_runs(store, claim, *HOLDS)
    store.write(record_of(CELL.id))
    asked: list[tuple[str, int]] = []

    def run_jobs(
        jobs: list[Job], store: RecordStore | None, n_jobs: int | None = None, quiet: bool = False
    ) -> list[Record]:
        assert store is None
        assert n_jobs == 1
        asked.extend((job.recipe, job.seed) for job in jobs)
        values = dict(zip((claim.better, claim.worse), HOLDS[::-1], strict=True))
        return [
            synthetic_record(job.recipe, job.stream.name, job.seed, last_acc=values[job.recipe][job.seed])
            for job in jobs
        ]

    monkeypatch.setattr(session, "run_jobs", run_jobs)
    result = check("--paper-check", "--paper-fresh", "--paper-jobs", "1", part="test_claims.py")
    result.assert_outcomes(passed=1)
    assert sorted(asked) == sorted((recipe, seed) for recipe in (claim.better, claim.worse) for seed in range(5))


# --- in several processes ---

TRAINS_NOTHING = """
from reclaim.benchmark.checks import session
from reclaim.benchmark.records.store import RecordStore

def run_jobs(jobs, store, n_jobs=None, quiet=False):
    return [RecordStore({root!r}).get(*job.place) for job in jobs]

session.run_jobs = run_jobs
"""


def test_in_several_processes_it_finds_the_same(pytester: pytest.Pytester, store: RecordStore) -> None:
    pytest.importorskip("xdist")
    write_runs(store, claims()[0], *HOLDS)
    for recipe in HEADLINE[:-1]:  # one has no record, and fails
        if not store.path_of(recipe.name, recipe.home, config_hash(recipe.config.as_dict()), 0).exists():
            store.write(synthetic_record(recipe.name, recipe.home, 0, last_acc=60))
    for seed in range(5):
        store.write(record_of(BELOW, seed, 80 + 0.1 * seed))
    (store.root / "notes.txt").write_text("mine")
    root = str(store.root)
    pytester.makepyfile(trains_nothing=TRAINS_NOTHING.format(root=root))
    pytester.syspathinsert()
    parts = [str(BENCHMARK / name) for name in PARTS]
    command = ("-p", "no:cacheprovider", "-p", "trains_nothing", *parts)
    summaries, documents, outcomes = [], [], []
    for n, processes in enumerate(((), ("-n", "2"))):
        path = pytester.path / f"{n}.json"
        options = ("--paper-check", "--paper-records", root, "--paper-verdicts", str(path), "--tb=no", "-q")
        result = pytester.runpytest_subprocess(*command, *options, *processes)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        text = result.stdout.str()
        summaries.append(text[text.index("= paper check =") : text.index("= short test summary info =")])
        documents.append(path.read_text())
        outcomes.append({kind: n for kind, n in result.parseoutcomes().items() if kind != "warnings"})
    assert summaries[0] == summaries[1]
    assert f"skipped {store.root / 'notes.txt'}: not a record" in summaries[0]
    assert documents[0] == documents[1]
    document = json.loads(documents[0])
    assert len(document["claims"]) == len(ALL_CLAIMS)
    assert len(document["cells"]) == len(cells())
    assert len(document["live"]) == len(HEADLINE) - 1
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--paper-fresh",), "--paper-fresh trains in one process, --paper-jobs at a time"),
        (("--paper-run-missing",), "--paper-run-missing trains in one process, --paper-jobs at a time"),
        (("--paper-records", "nowhere"), "there is no folder nowhere: name a record store with --paper-records"),
    ],
)
def test_what_cannot_be_done_in_several_processes_is_refused_before_they_start(
    options: tuple[str, ...], complaint: str, pytester: pytest.Pytester, store: RecordStore
) -> None:
    pytest.importorskip("xdist")
    place = () if "--paper-records" in options else ("--paper-records", str(store.root))
    result = pytester.runpytest_subprocess("-n", "2", str(BENCHMARK), "--paper-check", *options, *place)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in result.stderr.str()
    assert "INTERNALERROR" not in result.stdout.str()


def test_speed_is_not_measured_in_several_processes(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    path = pytester.makepyfile(test_fast="import pytest\n@pytest.mark.paper_speed\ndef test_it(): pass\n")
    result = pytester.runpytest_subprocess("-n", "1", "-rs", str(path))
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*processes beside it would be measured, too: leave -n out*"])


# --- options ---


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            ("--paper-fresh", "--paper-records-only"),
            "--paper-fresh trains every run, --paper-records-only none: pass one of them",
        ),
        (
            ("--paper-fresh", "--paper-run-missing"),
            "--paper-run-missing trains what is not on record, --paper-fresh every run",
        ),
        (("--paper-margin", "-1"), "'-1': give a number of points above 0"),
        (("--paper-margin", "wide"), "'wide': give a number of points above 0"),
        (("--paper-jobs", "0"), "'0': give a whole number of runs, at least 1"),
        (("--paper-jobs", "1.5"), "'1.5': give a whole number of runs, at least 1"),
        (("--paper-require-run", "--collect-only"), "--collect-only judges none: pass one of them"),
        (("--paper-alpha", "5"), "'5': give a probability strictly between 0 and 1"),
        (("--paper-only", "slca,olar"), "unknown paper 'olar': choose of slca, olor, inflora, aepg"),
        (
            ("--paper-verdicts", "nowhere/verdicts.json"),
            "--paper-verdicts nowhere/verdicts.json: name a file in a folder that is there",
        ),
        (("--paper-records", "nowhere"), "there is no folder nowhere: name a record store with --paper-records"),
        (("--paper-records", __file__), "is a file: name a folder instead"),
    ],
)
def test_bad_options_are_named(options: tuple[str, ...], complaint: str, check: Any) -> None:
    result = check("--paper-check", *options, part="test_claims.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert complaint in result.stderr.str()


@pytest.mark.parametrize(
    "option", ["--paper-strict", "--paper-require-run", "--paper-fresh", "--paper-run-missing", "--paper-verdicts=v"]
)
def test_options_of_the_check_are_refused_without_it(option: str, check: Any) -> None:
    result = check(option, part="test_claims.py")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"{option.split('=')[0]} is about what --paper-check finds" in result.stderr.str()


def test_a_store_for_missing_runs_must_be_writable(check: Any) -> None:
    options = ("--paper-run-missing", "--paper-records", f"{__file__}/r")
    result = check("--paper-check", *options, part="test_claims.py", records=False)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"cannot write into {__file__}" in result.stderr.str().replace("\n", " ")


@pytest.mark.parametrize("more", [(), ("--paper-check",)])
def test_a_store_that_is_missing_is_named_before_anything_is_imported(
    more: tuple[str, ...], pytester: pytest.Pytester
) -> None:
    pytester.makepyfile(test_slow="raise RuntimeError('was imported')")
    result = pytester.runpytest_inprocess("--paper-records", "nosuch", *more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert "there is no folder nosuch: name a record store with --paper-records" in result.stderr.str()
    assert "was imported" not in result.stdout.str()


def test_a_claim_or_cell_without_a_run_fails_where_runs_are_required(
    check: Any, one_claim: Any, judged: RecordStore, tmp_path: Path
) -> None:
    options = ("--paper-check", "--paper-records-only", "--paper-require-run")
    claim = one_claim("holds")
    result = check(*options, part="test_claims.py")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            f"no runs on record of {claim.better} and {claim.worse} on {claim.stream} *, and --paper-require-run *",
            "ERROR: --paper-require-run: no claim, cell or live run of this check had a run to judge",
        ]
    )
    write_runs(judged, claim, *HOLDS)
    result = check(*options, part="test_claims.py")
    result.assert_outcomes(passed=1)
    assert "ERROR" not in result.stdout.str()
    result = check(*options, part="test_cells.py")
    result.assert_outcomes(passed=3, failed=3)
    assert f"not run: no record of {ALL[NOT_RUN].recipe} on {ALL[NOT_RUN].stream} counts, and" in result.stdout.str()


@pytest.mark.parametrize("processes", [(), ("-n", "1")])
def test_a_check_of_nothing_fails_where_runs_are_required(
    processes: tuple[str, ...], pytester: pytest.Pytester, store: RecordStore
) -> None:
    """Where the tests themselves are skipped."""
    if processes:
        pytest.importorskip("xdist")
    part = str(BENCHMARK / "test_live.py")
    options = ("--paper-check", "--paper-records-only", "--paper-records", str(store.root), *processes)
    assert pytester.runpytest_subprocess(part, *options).ret == 0
    result = pytester.runpytest_subprocess(part, *options, "--paper-require-run")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert "ERROR: --paper-require-run: no claim, cell or live run of this check had a run" in result.stdout.str()


def test_without_a_folder_of_records_it_says_which_is_missing(check: Any) -> None:
    result = check("--paper-check", "--paper-records-only", part="test_claims.py", records=False)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*there is no folder leaderboards?records in *--paper-records*"])


def test_only_the_papers_asked_for_are_checked(check: Any) -> None:
    result = check("--paper-check", "--paper-only", "olor", "--collect-only", "-q")
    lines = [line for line in result.stdout.str().splitlines() if "::" in line]
    assert [line.split("[")[1].rstrip("]") for line in lines if "test_claims" in line] == [
        c.id for c in ALL_CLAIMS if c.paper == "olor"
    ]
    live = {line.split("[")[1].rstrip("]") for line in lines if "test_live_run_agrees" in line}
    assert live == {recipe.name for recipe in HEADLINE} & {
        name for c in claims() if c.paper == "olor" for name in (c.better, c.worse)
    }
    assert not [line for line in lines if "test_paper_tables" in line]


def test_it_runs_by_the_package_s_name_and_reads_records_without_pytest(tmp_path: Path, store: RecordStore) -> None:
    command = (
        "-m",
        "pytest",
        "-q",
        "--pyargs",
        "reclaim.benchmark",
        "--paper-check",
        "--paper-records-only",
        "--paper-only",
        "olor",
    )
    done = subprocess.run(
        [sys.executable, *command, "--paper-records", str(store.root)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "olor/full: olor-1 > full-1" in done.stdout
    code = (
        "import sys; sys.modules['pytest'] = None; from reclaim.benchmark.verdicts.cells import check_cells; "
        "from reclaim.benchmark.verdicts.counting import current"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_speed_tests_run_when_asked_for(pytester: pytest.Pytester) -> None:
    path = pytester.makepyfile(test_fast="import pytest\n@pytest.mark.paper_speed\ndef test_it(): pass\n")
    pytester.runpytest_inprocess(str(path.parent)).assert_outcomes(skipped=1)
    pytester.runpytest_inprocess(str(path)).assert_outcomes(passed=1)


def test_the_options_are_explained(pytester: pytest.Pytester) -> None:
    text = pytester.runpytest_inprocess("--help").stdout.str()
    for option in (
        "--paper-check",
        "--paper-fresh",
        "--paper-records-only",
        "--paper-records=DIR",
        "--paper-jobs=N",
        "--paper-run-missing",
        "--paper-margin=POINTS",
        "--paper-verdicts=FILE",
    ):
        assert option in text


def test_a_foreign_plugin_may_have_any_option_and_marker(pytester: pytest.Pytester) -> None:
    """This plugin is in every pytest of its environment; ``--strict`` is left out, which is pytest's own."""
    names = ("records", "records-only", "run-missing", "fresh", "verdicts", "paper", "margin", "alpha", "only", "jobs")
    pytester.makeconftest(f"""
        def pytest_addoption(parser):
            for name in {names}:
                parser.addoption("--" + name, action="store_true")

        def pytest_configure(config):
            for marker in ("speed", "papers"):
                config.addinivalue_line("markers", marker + ": of somebody else")
    """)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.speed
        @pytest.mark.papers("theirs")
        def test_theirs(pytestconfig):
            assert pytestconfig.getoption("records") and not pytestconfig.getoption("--paper-records")
    """)
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider", "--records", "--fresh", "--strict-markers")
    result.assert_outcomes(passed=1)


def test_every_option_and_marker_begins_with_paper(pytestconfig: pytest.Config) -> None:
    (group,) = (group for group in pytestconfig._parser._groups if group.name == "reclaim")
    options = [name for option in group.options for name in option.names()]
    assert len(options) == 13
    assert all(name.startswith("--paper-") for name in options)
    ours = [line for line in pytestconfig.getini("markers") if line.startswith("paper")]
    assert len(ours) == 3
