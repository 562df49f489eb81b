"""The command: what it prints, what it refuses, and that an error is one line and not a traceback."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from reclaim.benchmark import cli
from reclaim.benchmark.api import compare, run
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import flatten, shown
from reclaim.benchmark.data import drawings
from reclaim.benchmark.data.streams import DENSE_STREAMS, PAPER_STREAMS, STREAMS
from reclaim.benchmark.papers.protocols import Uncovered, find_cell, protocol_of, run_of
from reclaim.benchmark.papers.published import CLAIMS, cells, claims
from reclaim.benchmark.recipes import RECIPES, Recipe, recipes_of
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.report.tables import table
from reclaim.benchmark.training import jobs as engines
from reclaim.benchmark.training import sweep as tuning
from reclaim.benchmark.training.jobs import Job
from reclaim.benchmark.verdicts.cells import check_cells
from reclaim.strategies.backbones import KNOWN_BACKBONES
from small_runs import shrink, synthetic_record

GOLDEN = Path(__file__).parent / "golden"


def reclaim(*arguments: object, fails: bool = False) -> str:
    """Output of the command, whose exit code must be 0, or not 0 and without a traceback."""
    result: Result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if not fails:
        assert result.exit_code == 0, result.output
    else:
        assert result.exit_code != 0, result.output
        assert isinstance(result.exception, SystemExit), result.exception
        assert "Error: " in result.output
    return result.output


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Few drawings, and an empty working directory."""
    shrink(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Nothing is trained: the jobs that would have been."""
    found: list[Job] = []

    def make(job: Job, advance: Any) -> Record:
        found.append(job)
        score = 10 + job.seed % 1000 + 1000 * job.config.lr
        return synthetic_record(job.recipe, job.stream.name, job.seed, last_acc=min(score, 99), config=job.config)

    monkeypatch.setattr(engines, "_make", make)
    return found


# --- help, list ---


def test_help_mentions_every_command() -> None:
    text = reclaim("--help")
    assert set(main.commands) == {
        *(
            "list",
            "show",
            "run",
            "compare",
            "rehearse",
            "sweep",
            "check",
            "leaderboard",
            "conform",
            "plan",
            "data",
            "pretrain",
            "weights",
        ),
    }
    for name in main.commands:
        assert re.search(rf"^  {name}  +\w", text, re.MULTILINE)
        for words in ([name], *([name, below] for below in getattr(main.commands[name], "commands", ()))):
            result = CliRunner().invoke(main, [*words, "--help"], prog_name="reclaim")
            assert result.exit_code == 0, result.output
            assert f"Usage: reclaim {' '.join(words)} " in result.output
            assert "Error" not in result.output
    assert re.search(r"version \d+\.\d+", reclaim("--version"))
    assert "No such command 'rnu'" in reclaim("rnu", fails=True)


def test_list_shows_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quickdraw_vit.json").write_text(
        json.dumps({"held_out_accuracy": 43.21, "parameters": 1_420_000, "fingerprint": "f" * 64})
    )
    monkeypatch.setattr(cli, "asset", lambda name: tmp_path / name)
    everything = reclaim("list")
    words = {
        "recipes": [*RECIPES],
        "streams": [*STREAMS, *DENSE_STREAMS, *PAPER_STREAMS],
        "backbones": ["quickdraw_vit", "43.2%", "1.42 M", *KNOWN_BACKBONES, "timm"],
        "claims": [claim.id for tier in CLAIMS for claim in claims(tier)],
    }
    for thing, names in words.items():
        text = reclaim("list", thing)
        for name in names:
            assert name in text
            assert name in everything
    text = reclaim("list", "cells")
    assert all(cell.id in text for cell in cells())


def test_show_shows_one_thing_in_full(small: Path) -> None:
    for name, recipe in RECIPES.items():
        text = reclaim("show", name)
        assert recipe.title in text
        assert recipe.description in text
        assert "no record of its present configuration" in text
        for key, value in flatten(recipe.config.as_dict()).items():
            assert re.search(rf"^{re.escape(key)} +{re.escape(shown(value))}$", text, re.MULTILINE)
    assert "10, 10, 10, 10, 10, 10, 10, 10, 10, 6, 4" in reclaim("show", "split-quickdraw-uneven")
    assert claims()[0].text in reclaim("show", claims()[0].id)
    assert str(cells()[0].published.mean) in reclaim("show", cells()[0].id)
    for name, known in KNOWN_BACKBONES.items():
        text = reclaim("show", name)
        assert known.source in text
        assert re.search(rf"^fingerprint +{known.fingerprint or 'unknown'}$", text, re.MULTILINE)


def test_show_of_a_recipe_has_its_scores_and_verdicts(tmp_path: Path) -> None:
    claim = next(claim for claim in claims() if claim.family == "exploratory")
    store = RecordStore(tmp_path / "r")
    for seed in range(5):
        store.write(synthetic_record(claim.better, claim.stream, seed, last_acc=50 + seed))
        store.write(synthetic_record(claim.worse, claim.stream, seed, last_acc=30 + seed % 2))
    text = reclaim("show", claim.better, "--records", store.root)
    assert f"{claim.better} on {claim.stream}, n = 5" in text
    assert re.search(r"^last_acc +52\.00 +1\.58 +50\.04 to 53\.96$", text, re.MULTILINE)
    assert re.search(rf"^{re.escape(claim.id)} .* holds +\+21\.60", text, re.MULTILINE)
    assert re.search(r"^verdict +holds$", reclaim("show", claim.id, "--records", store.root), re.MULTILINE)


def test_a_recipe_that_trains_nothing_has_scores_without_an_entropy(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r")
    for seed in range(2):
        record = synthetic_record("ncm", "split-quickdraw-10", seed, last_acc=50 + seed)
        record.result.update(entropy=[], train_loss=[])
        store.write(record)
    for command in (("show", "ncm"), ("run", "ncm", "--seeds", 2)):
        text = reclaim(*command, "--records", store.root)
        assert re.search(r"^last_acc +50\.50 ", text, re.MULTILINE)
        assert "final_entropy" not in text


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("slcaa", "slca"), ("split-quickdraw-11", "split-quickdraw-1"), ("slca/aligment", "slca/alignment"), ("", "slca")],
)
def test_show_of_an_unknown_name_suggests_others(name: str, suggestion: str) -> None:
    text = reclaim("show", name, fails=True)
    assert f"nothing is called {name!r}" in text
    assert suggestion in text.split("did you mean", 1)[1]


def test_list_of_what_is_no_list() -> None:
    assert "did you mean `reclaim show slca`?" in reclaim("list", "slca", fails=True)
    assert "the lists are recipes, streams, backbones, claims, cells" in reclaim("list", "slcaa", fails=True)


def test_tables_fit_a_terminal_and_are_whole_elsewhere() -> None:
    rows = [("a name", "a description of some forty characters", "more"), ("another", "short", None)]
    wide = table(rows, ("name", "what", "rest"))
    assert "a description of some forty characters" in wide
    narrow = table(rows, ("name", "what", "rest"), width=40)
    assert max(map(len, narrow.splitlines())) <= 40
    assert "".join(narrow.split()).count("characters") == 1
    under_long_headers = table(rows, ("a long header", "another header", "one more"), width=50)
    assert max(map(len, under_long_headers.splitlines())) <= 50
    assert table(rows, ("name", "what", "rest"), width=200) == wide
    numbers = table([("1,234,567", "two words and some more", "0.5")], ("n", "what", "rest"), width=30)
    assert "1,234,567" in numbers
    assert max(map(len, numbers.splitlines())) <= 30


def test_verdicts_have_colours_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed(**environment: str) -> str:
        @click.command()
        def command() -> None:
            cli._echo("claim  verdict\na/holds  holds\nb  undecided  x")

        return CliRunner().invoke(command, color=True, env=environment).output

    assert "\x1b[32mholds" in printed()
    assert printed().count("\x1b[32m") == 1  # the word in its own column, not in a name
    assert "\x1b[33mundecided" in printed()
    assert "\x1b[" not in printed(NO_COLOR="1")


# --- run ---


def test_run_trains_records_and_summarises(small: Path) -> None:
    arguments = (
        "run",
        "linear",
        "small",
        "--seeds",
        2,
        "--jobs",
        1,
        "--set",
        "epochs=1",
        "--set",
        "batch_size=64",
        "--records",
        small / "r",
    )
    text = reclaim(*arguments)
    records, problems = RecordStore(small / "r").load()
    assert not problems
    assert [(r.recipe, r.stream, r.seed, r.result["config"]["epochs"]) for r in records] == [
        ("linear", "small", seed, 1) for seed in (0, 1)
    ]
    assert {r.result["hyperparameters_from"] for r in records} == {"given"}
    assert "linear on small, n = 2" in text
    for metric in ("last_acc", "inc_acc", "task_avg_last_acc", "forgetting", "final_entropy"):
        assert re.search(rf"^{metric} +-?\d+\.\d\d +\d+\.\d\d +-?\d", text, re.MULTILINE)
    mean = sum(r.metrics()["last_acc"] for r in records) / 2
    assert f"{mean:.2f}" in text

    files = {path: path.read_bytes() for path in (small / "r").rglob("*.json")}
    recorded, place = text[text.index("linear on small") :].split("recorded: ")
    assert place.strip() == f"{small / 'r' / 'linear' / 'small' / records[0].config_hash / '0.json'} and 1 more"
    # read, not run: no progress bar
    assert reclaim(*arguments).split() == [*recorded.split(), *f"on record already: {place}".split()]
    assert {path: path.read_bytes() for path in (small / "r").rglob("*.json")} == files
    reclaim(*arguments, "--again")
    again = RecordStore(small / "r").load()[0]
    assert [r.result for r in again] == [r.result for r in records]
    assert [r.provenance["started"] for r in again] != [r.provenance["started"] for r in records]


def test_run_with_one_seed_has_no_interval(made: list[Job], tmp_path: Path) -> None:
    text = reclaim("run", "slca", "--records", tmp_path)
    assert "slca on split-quickdraw-10, n = 1" in text
    assert "none (one run)" in text
    assert [job.seed for job in made] == [0]
    assert made[0].config == RECIPES["slca"].config
    assert made[0].hyperparameters_from == RECIPES["slca"].hyperparameters_from


def test_a_cell_ends_with_the_published_value_and_the_verdict(made: list[Job], small: Path) -> None:
    (small / "leaderboards" / "records").mkdir(parents=True)
    name = "slca/main/slca/split-cifar100-10"
    text = reclaim("run", "--cell", f"{name}/last_acc", "--seeds", 3)
    scores, _, verdicts = text.partition(f"\n\n{name}")
    assert "slca.main.slca on split-cifar100-10, n = 3" in scores
    records, _ = RecordStore(small / "leaderboards" / "records").load()
    judged = check_cells(records)
    for cell in (cell for cell in cells() if run_of(cell) == name):
        (line,) = (line for line in verdicts.splitlines() if line.startswith(f"{cell.metric}  "))
        check = judged[cell.id]
        assert f"{check.judged.ours.mean:.2f}" in line  # type: ignore[union-attr]
        assert f"{cell.published.mean:g}" in line
        assert str(check.verdict) in line
    assert "note: made with device=cpu" in verdicts
    # those on record already are judged again, a changed setting qualifies, and not every run has a number
    assert reclaim("run", "--cell", name, "--seeds", 3).rstrip().endswith(verdicts.rstrip())
    assert "changed settings" in _unwrapped(reclaim("run", "--cell", name, "--precision", "bf16"))
    unpublished = "olor/grid/olor/svhn-1/vit_base_patch16_224.augreg_in21k"
    assert f"{unpublished}: no published value to compare with" in reclaim(
        "run", "--cell", unpublished, "--root", small
    )
    assert "published" not in reclaim("run", "linear-1")


def _unwrapped(text: str) -> str:
    return re.sub(r"\s+", " ", text)


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", [0]), ("3", [0, 1, 2]), ("3-5", [3, 4, 5]), ("7-7", [7]), ("1993-1994", [1993, 1994])]
)
def test_seeds(text: str, seeds: list[int], made: list[Job], tmp_path: Path) -> None:
    reclaim("run", "linear-1", "--seeds", text, "--records", tmp_path, "--jobs", 1)
    assert [job.seed for job in made] == seeds


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [1993, 1996, 1997]), ("0-2", [0, 1, 2]), ("0-0", [0]), ("1993-1993", [1993])]
)
def test_seeds_of_a_cell_are_the_papers_unless_a_range_is_given(
    text: str, seeds: list[int], made: list[Job], small: Path
) -> None:
    reclaim("run", "--cell", "slca/main/slca/split-cifar100-10", "--seeds", text, "--records", small / "records")
    assert [job.seed for job in made] == seeds


@pytest.mark.parametrize(
    "text", ["5-3", "0", "-3", "3-", "-", "", "ten", "1.5", "1-2-3", "-2-1", "99999999999999", "0-4294967296"]
)
def test_bad_seeds_are_refused(text: str, made: list[Job], tmp_path: Path) -> None:
    assert f"{text!r}: give a number of seeds, such as 10, or a range" in reclaim(
        "run", "linear", f"--seeds={text}", "--records", tmp_path, fails=True
    )
    assert made == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["slcaa"], "unknown recipe 'slcaa': did you mean slca"),
        (["slca", "split-cub200-10"], "split-cub200-10 consists of photographs, and slca trains on drawings"),
        (["slca", "quickdraw-2"], "unknown stream 'quickdraw-2': did you mean quickdraw-1"),
        (["slca", "--set", "alignmnt.tau=1"], "did you mean alignment"),
        (["slca", "--set", "lr=fast"], "lr must be a finite number, got 'fast'"),
        (["slca", "--set", "lr"], "cannot read 'lr': write key=value"),
        (["linear", "--set", "olor={}"], "freezes the backbone"),
        (["slca", "--jobs", "0"], "0 is not in the range"),
        (["slca", "--device", "abacus"], "'abacus' cannot be used here"),
        (["slca", "--device", "cuda:99"], "'cuda:99' cannot be used here"),
        (["slca", "--device", ""], "'' cannot be used here"),
        ([], "name a RECIPE"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_run_refuses_what_it_does_not_know(
    arguments: list[str], complaint: str, made: list[Job], tmp_path: Path
) -> None:
    assert complaint in reclaim("run", *arguments, "--records", tmp_path / "r", fails=True)
    assert made == []
    assert not (tmp_path / "r").exists()


def test_places_where_no_record_can_be_are_named_first(made: list[Job], small: Path) -> None:
    assert "there is no folder leaderboards/records" in reclaim("run", "linear", fails=True).replace("\\", "/")
    (small / "file").write_text("")
    assert f"the records folder {small / 'file'} is a file" in reclaim(
        "run", "linear", "--records", small / "file", fails=True
    )
    assert f"cannot write into {small / 'file' / 'r'}" in reclaim(
        "run", "linear", "--records", small / "file" / "r", fails=True
    )
    assert made == []
    (small / "leaderboards" / "records").mkdir(parents=True)
    reclaim("run", "linear")
    assert len(list((small / "leaderboards" / "records").rglob("*.json"))) == 1


def test_a_full_disk_is_named_first(made: list[Job], small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    for command in ("run", "sweep"):
        text = reclaim(command, "linear", "--records", small / "r", fails=True)
        assert f"the disk of {small / 'r'} is full: 1.0 MiB are free, wanted 64 MiB for records" in text
    assert made == []


def test_a_diverging_run_is_reported_and_not_recorded(small: Path) -> None:
    text = reclaim(
        "run",
        "seqft-fast",
        "small",
        "--jobs",
        1,
        "--set",
        "lr=1e30",
        "--set",
        "epochs=1",
        "--records",
        small / "r",
        fails=True,
    )
    assert "1 of 1 runs failed" in text
    assert re.search(r"seqft-fast small seed 0: FloatingPointError: .*experience", text)
    assert [path for path in (small / "r").rglob("*") if path.is_file()] == []


def test_interrupting_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(engines, "_make", interrupt)
    assert "finished runs are kept, the same command continues" in reclaim(
        "run", "linear", "--records", tmp_path, fails=True
    )


# --- compare ---


def compared(*arguments: object, fails: bool = False) -> tuple[str, str]:
    """Standard output and standard error of `reclaim compare`."""
    result: Result = CliRunner().invoke(main, ["compare", *map(str, arguments)])
    assert (result.exit_code != 0) == fails, result.output
    assert not fails or isinstance(result.exception, SystemExit), result.exception
    return result.stdout, result.stderr


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.json")}


TINY = ("--stream", "small", "--set", "epochs=1", "--set", "batch_size=16", "--jobs", 1)


@pytest.mark.trains
def test_compare_makes_what_is_missing_and_says_what_follows(small: Path) -> None:
    shown, said = compared("linear", "ncm", *TINY, "--seeds", 2)
    assert "4 runs, 0 on record, 4 to make, 1 at a time; how long is not known: no run of linear, ncm" in said
    records, problems = RecordStore(small / "records").load()
    assert not problems
    assert [(r.recipe, r.stream, r.seed) for r in records] == [
        (recipe, "small", seed) for recipe in ("linear", "ncm") for seed in (0, 1)
    ]
    means = {name: sum(r.metrics()["last_acc"] for r in records if r.recipe == name) / 2 for name in ("linear", "ncm")}
    for name, mean in means.items():
        assert re.search(rf"^{name} +{mean:.2f} ", shown, re.MULTILINE)
    assert re.search(r"^ncm is (better|worse) than linear|^ncm is not separated from linear", shown, re.MULTILINE)

    files = stamps(small / "records")
    again, said = compared("linear", "ncm", *TINY, "--seeds", 2)
    assert again == shown
    assert said == "4 runs, 4 on record\n"
    more, said = compared("linear", "ncm", *TINY, "--seeds", 3, "--format", "json")
    assert re.search(
        r"6 runs, 4 on record, 2 to make, 1 at a time: about \d+\.\d min, as long as those on record", said
    )
    assert [row["seeds"] for row in json.loads(more)["rows"]] == [[0, 1, 2]] * 2
    assert {path: stamp for path, stamp in stamps(small / "records").items() if path in files} == files
    compared("linear", "ncm", *TINY, "--seeds", 2, "--again")
    assert all(stamps(small / "records")[path] > stamp for path, stamp in files.items())


def test_an_interrupted_comparison_goes_on_from_there(
    made: list[Job], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = engines._make

    def interrupted(job: Job, advance: Any) -> Record:
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(job, advance)

    command = ("linear", "ewc", "--seeds", 2, "--jobs", 1)
    with monkeypatch.context() as patch:
        patch.setattr(engines, "_make", interrupted)
        _, said = compared(*command, fails=True)
    assert "finished runs are kept, the same command continues" in said
    files = stamps(small / "records")
    assert len(files) == 3
    shown, said = compared(*command)
    assert "4 runs, 3 on record, 1 to make" in said
    assert len(made) == 4
    assert {path: stamp for path, stamp in stamps(small / "records").items() if path in files} == files
    assert "ewc" in shown


def test_runs_of_a_checkout_are_used_and_nothing_is_written_there(made: list[Job], small: Path) -> None:
    shared = RecordStore(small / "leaderboards" / "records")
    for seed in range(3):
        shared.write(synthetic_record("linear", seed=seed, last_acc=50 + seed))
    files = stamps(shared.root)
    shown, said = compared("linear", "ewc", "--seeds", 3, "--jobs", 1)
    assert "6 runs, 3 on record, 3 to make" in said
    assert {job.recipe for job in made} == {"ewc"}
    assert re.search(r"^linear +51\.00 ± ", shown, re.MULTILINE)
    assert stamps(shared.root) == files
    assert len(stamps(small / "records")) == 3
    # other settings are other runs, and --again makes them all
    compared("linear", "--seeds", 1, "--jobs", 1, "--set", "lr=0.5")
    compared("linear", "--seeds", 1, "--jobs", 1, "--again")
    assert [job.recipe for job in made[3:]] == ["linear", "linear"]
    assert stamps(shared.root) == files
    assert len(stamps(small / "records")) == 5
    # the store of a checkout can be named, as for `run`
    compared("linear", "--seeds", 4, "--records", shared.root, "--jobs", 1)
    assert len(stamps(shared.root)) == 4


def test_a_recipe_that_fails_does_not_stop_the_others(
    made: list[Job], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = engines._make

    def failing(job: Job, advance: Any) -> Record:
        if job.recipe == "ewc":
            raise FloatingPointError("the loss is NaN")
        return make(job, advance)

    monkeypatch.setattr(engines, "_make", failing)
    shown, said = compared("linear", "ewc", "lwf", "--seeds", 2, "--jobs", 1, fails=True)
    assert "Traceback" not in shown + said
    assert "ewc has no runs (FloatingPointError: the loss is NaN)." in shown
    assert re.search(r"^ewc +- .* failed ", shown, re.MULTILINE)
    assert re.search(r"^lwf +\d", shown, re.MULTILINE)
    assert "4 of 6 runs made" in said
    document, _ = compared("linear", "ewc", "--seeds", 2, "--jobs", 1, "--format", "json", fails=True)
    assert json.loads(document)["rows"][1]["failures"] == ["FloatingPointError: the loss is NaN"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "Missing argument 'RECIPE...'"),
        (["slcaa"], "unknown recipe 'slcaa': did you mean slca"),
        (["slca", "linear", "slca"], "slca is named twice"),
        (["slca", "linear", "--stream", "quickdraw-2"], "unknown stream 'quickdraw-2': did you mean quickdraw-1"),
        (
            ["slca", "linear", "--stream", "split-cub200-10"],
            "split-cub200-10 consists of photographs, and slca, linear",
        ),
        (["linear", "slca", "--set", "olor={}"], "linear: trainable="),
        (["linear", "slca", "--metric", "accuracy"], "'accuracy' is not one of"),
        (["linear", "slca", "--seeds", "0"], "'0': give a number of seeds"),
        (["linear", "slca", "--seeds", "4000000000"], "at most 1000 at a time"),
        (["linear", "slca", "--seeds", "5-4000000000"], "at most 1000 at a time"),
        (["linear", "slca", "--device", "abacus"], "'abacus' cannot be used here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_compare_refuses_before_anything_runs(
    arguments: list[str], complaint: str, made: list[Job], small: Path
) -> None:
    _, said = compared(*arguments, fails=True)
    assert complaint in said
    assert made == []
    assert list(small.iterdir()) == []


def test_records_of_other_images_are_refused_before_anything_runs(made: list[Job], small: Path) -> None:
    store = RecordStore(small / "records")
    store.write(synthetic_record("linear"))
    other = synthetic_record("ewc")
    other.result["data_sha256"] = "1" * 64
    store.write(other)
    _, said = compared("linear", "ewc", "--seeds", 3, fails=True)
    assert "the records are of different images" in said
    assert made == []


# --- sweep ---


def test_sweep_writes_the_best_candidate_of_the_validation_part(made: list[Job], small: Path) -> None:
    text = reclaim("sweep", "linear", "slca", "--seeds", 2, "--jobs", 1)
    assert {job.config.part for job in made} == {"validation"}
    assert {job.seed for job in made} == {1000, 1001}
    assert len(made) == 2 * 2 * 4
    assert f"16 runs, 0 of them on record in {Path('sweeps', 'records')}" in text
    choices = json.loads((small / "chosen.json").read_text())
    assert list(choices) == ["linear", "slca"]
    for name, choice in choices.items():
        candidates = RECIPES[name].candidates()
        assert [c["settings"] for c in choice["candidates"]] == candidates
        assert choice["seeds"] == [1000, 1001]
        scores = [c["score"] for c in choice["candidates"]]
        assert choice["settings"] == candidates[scores.index(max(scores))]  # the first of several
        assert RECIPES[name].with_settings(choice["settings"])
        assert re.search(rf"{max(scores):.2f} +chosen", text)
        # what it prints leads to the choice
        (command,) = (line for line in text.splitlines() if line.startswith(f"reclaim run {name} --set"))
        settings = shlex.split(command)[4::2]
        assert RECIPES[name].config.set(settings) == RECIPES[name].with_settings(choice["settings"])

    path = small / "mine.json"
    reclaim("sweep", "linear-1", "--seeds", 1, "--jobs", 1, "--output", path)
    reclaim("sweep", "linear", "--seeds", 2, "--jobs", 1, "--output", path)
    merged = json.loads(path.read_text())
    assert list(merged) == ["linear", "linear-1"]
    assert merged["linear"] == choices["linear"]
    assert len(made) == 16 + 4  # the runs of the first sweep were kept


def test_an_interrupted_sweep_goes_on_from_there(made: list[Job], small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = engines._make

    def interrupted(job: Job, advance: Any) -> Record:
        if len(made) == 3:
            raise KeyboardInterrupt
        return make(job, advance)

    command = ("sweep", "linear", "--jobs", 1)
    with monkeypatch.context() as patch:
        patch.setattr(engines, "_make", interrupted)
        text = reclaim(*command, fails=True)
    assert "finished runs are kept, the same command continues" in text
    assert not (small / "chosen.json").exists()
    assert len(made) == 3
    assert "4 runs, 3 of them on record" in reclaim(*command)
    assert len(made) == 4
    choice = json.loads((small / "chosen.json").read_text())["linear"]
    made.clear()
    reclaim(*command, "--records", small / "elsewhere", "--output", small / "whole.json")
    assert len(made) == 4
    assert json.loads((small / "whole.json").read_text())["linear"] == choice


def test_sweep_changes_the_package_only_in_a_checkout_and_when_asked(
    made: list[Job], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = small / "reclaim" / "benchmark" / "assets" / "chosen.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    monkeypatch.setattr(cli, "asset", lambda name: file.with_name(name))
    reclaim("sweep", "linear", "--jobs", 1)
    assert "is an installed package, and --adopt writes into a checkout" in reclaim(
        "sweep", "linear", "--adopt", fails=True
    )
    assert file.read_text() == "{}"
    (small / "reclaim" / "pyproject.toml").write_text("")
    assert "pass one of them" in reclaim("sweep", "linear", "--adopt", "--output", "c.json", fails=True)
    reclaim("sweep", "linear", "--adopt")
    assert json.loads(file.read_text()) == json.loads((small / "chosen.json").read_text())


def test_sweep_refuses_what_has_no_choice(made: list[Job], small: Path) -> None:
    assert "'slca-no-norm' has no grid to choose from: it is tuned as 'slca'" in reclaim(
        "sweep", "slca-no-norm", fails=True
    )
    assert "unknown recipe 'nothing'" in reclaim("sweep", "nothing", fails=True)
    assert made == []
    assert list(small.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "cannot write"),
        ("{", "is not JSON"),
        ("[1]", "is no file of choices"),
        ('{"linear": 1}', "is no file of choices"),
    ],
)
def test_sweep_checks_its_file_before_hours_of_training(
    content: str | None, complaint: str, made: list[Job], small: Path
) -> None:
    path = small / "c.json"
    if content is None:
        path = small / "nowhere" / "c.json"
    else:
        path.write_text(content)
    assert complaint in reclaim("sweep", "linear", "--output", path, fails=True)
    assert made == []


def test_the_default_sweep_is_all_recipes_with_a_grid(monkeypatch: pytest.MonkeyPatch, small: Path) -> None:
    asked = []

    def sweep(recipes: list[Recipe], *rest: object) -> dict[str, Any]:
        asked.append([recipe.name for recipe in recipes])
        return {}

    monkeypatch.setattr(tuning, "sweep", sweep)
    reclaim("sweep")
    assert asked == [[name for name, recipe in recipes_of("embedded").items() if recipe.grid]]


# --- leaderboard ---


def test_leaderboard_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r")
    for seed in range(3):
        store.write(synthetic_record("slca", seed=seed, last_acc=40 + seed))
    outputs = []
    for folder in ("a", "b"):
        text = reclaim("leaderboard", "--records", store.root, "--output", tmp_path / folder)
        files = sorted((tmp_path / folder).iterdir())
        assert {path.name for path in files} >= {"embedded.md", "embedded.csv"}
        assert all(str(path) in text for path in files)
        outputs.append([path.read_bytes() for path in files])
    assert outputs[0] == outputs[1]


def mixed_store(folder: Path) -> RecordStore:
    """Records that a leaderboard shows, and one or two for every reason to leave one out."""
    store = RecordStore(folder)
    changed = RECIPES["slca"].config.set(["lr=0.77"])
    other_weights = synthetic_record("slca", seed=3)
    other_weights.result["weights_sha256"] = "0" * 64
    rehearsal = synthetic_record("slca", seed=4)
    rehearsal.result["rehearsal"] = True
    cell = next(cell for cell in cells() if not isinstance(protocol_of(run_of(cell)), Uncovered))
    run, stream, _ = find_cell(cell.id)
    middle = next(iter(recipes_of("middle")))
    for record in (
        *(synthetic_record("slca", seed=seed) for seed in range(3)),
        *(synthetic_record("linear", seed=seed) for seed in range(3)),
        *(synthetic_record("slca", seed=seed, last_acc=60, config=changed) for seed in range(2)),
        other_weights,
        rehearsal,
        synthetic_record("slca", seed=1000),
        synthetic_record("slca", "split-cub200-10"),
        synthetic_record("slca.f3"),
        synthetic_record(middle, "cifar10-5", config=RECIPES[middle].config),
        synthetic_record("theirs"),
        synthetic_record(run.name, stream.name, config=run.config),
        synthetic_record(run.name, stream.name, 1, config=run.config.set(["lr=0.77"])),
    ):
        store.write(record)
    (store.root / "notes.txt").write_text("mine")
    return store


def test_leaderboard_accounts_for_every_record(tmp_path: Path) -> None:
    store = mixed_store(tmp_path / "r")
    command = ("leaderboard", "--records", store.root, "--output", tmp_path / "out")

    def accounted(*options: object) -> tuple[int, int, str]:
        text = reclaim(*command, *options).split("\n", 1)[1]
        found = re.search(r"^(\d+) of (\d+) records are shown, (\d+) are left out:$", text, re.MULTILINE)
        assert found
        shown, total, left_out = map(int, found.groups())
        lines = text[found.end() :].strip().splitlines()
        assert shown + left_out == total == len([path for path in store.root.rglob("*") if path.is_file()])
        assert sum(int(line.split(":")[0]) for line in lines) == left_out
        return shown, left_out, text

    shown, _, text = accounted()
    assert shown == 7  # of both recipes, and the cell's
    for line in (
        "2: another configuration than the recipe's (--variants shows them): slca on split-quickdraw-10, lr=0.77 "
        f"instead of {RECIPES['slca'].config.lr:g} (2)",
        "1: other starting weights than the recipe's (--variants shows them): slca on split-quickdraw-10",
        "1: a rehearsal: slca on split-quickdraw-10",
        "1: a seed on which hyper-parameters are chosen: slca on split-quickdraw-10",
        "1: a recipe on a stream of another tier: ",
        "1: not sound (`reclaim check` says more): theirs on split-quickdraw-10, ",
        "1: not made by the paper's protocol: ",
        "1: not of its stream and seed (`reclaim check` says more): slca on split-cub200-10, ",
        "1: a recipe of docs/fidelity.md (--docs writes it): slca.f3 on split-quickdraw-10",
        f"1: a file that cannot be read: {store.root / 'notes.txt'}",
    ):
        assert f"\n  {line}" in text
    assert accounted("--docs", tmp_path / "docs")[0] == shown + 1
    assert accounted("--format", "csv")[0] == shown - 1
    assert accounted("--variants")[0] == shown + 3


def test_leaderboard_shows_variants_on_request(tmp_path: Path) -> None:
    store = mixed_store(tmp_path / "r")
    names = ("split-quickdraw-10.md", "split-quickdraw-10.json", "split-quickdraw-10.csv", "index.html")

    def written(folder: str, *options: object) -> dict[str, str]:
        reclaim("leaderboard", "--records", store.root, "--output", tmp_path / folder, *options)
        return {name: (tmp_path / folder / name).read_text() for name in names}

    plain, varied = written("plain"), written("varied", "--variants")
    assert not any("ariant" in text for name, text in plain.items() if name != "index.html")
    mark = f"lr=0.77 instead of {RECIPES['slca'].config.lr:g}"
    assert all(mark in text for text in varied.values())
    assert "other starting weights than the recipe" in varied["split-quickdraw-10.md"]
    assert "has no rank" in varied["split-quickdraw-10.md"]
    rows = json.loads(varied["split-quickdraw-10.json"])["rows"]
    own = json.loads(plain["split-quickdraw-10.json"])["rows"]
    assert [row for row in rows if "variant" not in row] == own  # ranks, too, are what they were
    (changed,) = (row for row in rows if row.get("variant") == [mark])
    assert (changed["recipe"], changed["seeds"], changed["rank"]) == ("slca", [0, 1], None)
    assert "reclaim run slca split-quickdraw-10 --seeds 2 --set lr=0.77" in varied["index.html"]
    ids = re.findall(r' id="([^"]+)"', varied["index.html"])
    assert len(ids) == len(set(ids))


def test_records_that_do_not_count_are_named_where_nothing_else_is(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r")
    store.write(synthetic_record("slca", config=RECIPES["slca"].config.set(["lr=0.77"])))
    command = ("leaderboard", "--records", store.root, "--output", tmp_path / "out")
    text = reclaim(*command, fails=True)
    assert "0 of 1 records are shown, 1 are left out:" in text
    assert "slca on split-quickdraw-10, lr=0.77 instead of" in text
    assert "slca on split-quickdraw-10" not in reclaim(*command, "--variants")
    assert (tmp_path / "out" / "split-quickdraw-10.md").exists()
    text = reclaim("show", "slca", "--records", store.root)
    assert "not counted: 1 of slca on split-quickdraw-10: another configuration than the recipe's: lr=0.77" in text


def test_leaderboard_of_nothing_says_so(tmp_path: Path) -> None:
    command = ("leaderboard", "--records", tmp_path / "r", "--output", tmp_path)
    assert f"there is no folder {tmp_path / 'r'}: name a record store with --records" in reclaim(*command, fails=True)
    (tmp_path / "r").mkdir()
    assert "make some with `reclaim run`" in reclaim(*command, fails=True)


# --- conform ---


def test_conform_accepts_the_golden_files() -> None:
    text = reclaim("conform", GOLDEN / "olor_adam_a.npz", GOLDEN / "lae_lora.npz", GOLDEN / "lae_prefix.npz")
    assert re.search(r"olor_adam_a.npz +parameters over all steps +\S+ +1e-05 +ok", text)
    assert re.search(r"lae_lora.npz +tokens_adapted +\S+ +1e-05 +ok", text)
    assert re.search(r"lae_prefix.npz +tokens_adapted +\S+ +1e-05 +ok", text)
    assert "BEYOND" not in text


def test_conform_fails_beyond_the_tolerance(tmp_path: Path) -> None:
    with np.load(GOLDEN / "olor_sgd_a.npz") as archive:
        arrays = dict(archive)
    arrays["param_0_0"] = arrays["param_0_0"] + np.float32(1e-3)
    np.savez(tmp_path / "perturbed.npz", **arrays)
    result = CliRunner().invoke(main, ["conform", str(GOLDEN / "olor_sgd_a.npz"), str(tmp_path / "perturbed.npz")])
    assert result.exit_code == 1
    assert re.search(r"olor_sgd_a.npz .* ok", result.output)
    assert re.search(r"perturbed.npz .* 0.001 +1e-05 +BEYOND", result.output)


def test_conform_refuses_what_is_no_golden_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", x=np.zeros(2))
    assert "other.npz is no golden file known here: its arrays are x" in reclaim(
        "conform", tmp_path / "other.npz", fails=True
    )
    assert "cannot read" in reclaim("conform", tmp_path / "absent.npz", fails=True)
    assert "Missing argument" in reclaim("conform", fails=True)


# --- pretrain ---


def test_pretrain_from_the_command_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from reclaim.benchmark.training import pretrain

    pytest.importorskip("torch.optim._muon", reason="pretraining needs torch >= 2.9")
    whole = drawings.upstream()
    few = drawings.Drawings(
        whole.train[:3, :4].contiguous(), whole.test[:3, :2].contiguous(), whole.names[:3], "0" * 64
    )
    monkeypatch.setattr(pretrain, "upstream", lambda: few)
    text = reclaim("pretrain", "quickdraw", "--epochs", 1, "--seed", 3, "--output", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "quickdraw_vit.json").read_text())
    assert (report["config"]["epochs"], report["config"]["seed"]) == (1, 3)
    assert report["fingerprint"] in text
    assert f"{report['held_out_accuracy']:.2f}% on held-out" in text
    assert "is not 'quickdraw'" in reclaim("pretrain", "imagenet", fails=True)
    assert "cannot be used here" in reclaim("pretrain", "quickdraw", "--device", "abacus", fails=True)
    assert "0 is not in the range" in reclaim("pretrain", "quickdraw", "--epochs", 0, fails=True)


# --- journeys ---


def own_recipe(folder: Path, base: str = "linear", name: str = "mine.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f'base = "{base}"\n[grid]\nlr = [0.01, 0.02, 0.03, 0.04]\n')
    return folder / name


def test_the_choice_for_a_recipe_of_ones_own_is_where_it_looks(made: list[Job], small: Path) -> None:
    path = own_recipe(small / "sub")
    text = reclaim("sweep", "sub/mine.toml", "--seeds", 1, "--jobs", 1)
    assert "\nreclaim run sub/mine.toml\n" in text
    assert json.loads((small / "sub" / "chosen.json").read_text())["mine"]["settings"] == {"lr": 0.04}
    assert not (small / "chosen.json").exists()
    assert "0.04" in reclaim("show", path)
    text = reclaim("sweep", "sub/mine.toml", "--seeds", 1, "--jobs", 1, "--output", "other.json")
    assert "\nreclaim run sub/mine.toml --set lr=0.04\n" in text


def test_two_recipes_of_one_name_are_not_chosen_for_at_once(made: list[Job], small: Path) -> None:
    own_recipe(small / "a")
    own_recipe(small / "b", "seqft-slow")
    assert "mine is named twice, or is the name of two" in reclaim("sweep", "a/mine.toml", "b/mine.toml", fails=True)
    own_recipe(small / "b", name="other.toml")
    assert "look for their choices in" in reclaim("sweep", "a/mine.toml", "b/other.toml", fails=True)
    assert made == []


def test_nothing_is_chosen_where_every_candidate_diverges(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(job: Job, advance: Any) -> Record:
        raise FloatingPointError("the loss is NaN")

    monkeypatch.setattr(engines, "_make", diverge)
    text = reclaim("sweep", "linear", "--seeds", 1, "--jobs", 1, fails=True)
    assert "every candidate of linear diverged: there is nothing to choose" in text
    assert not (small / "chosen.json").exists()


@pytest.mark.parametrize("option", [("--size", 32), ("--tasks", 3), ("--test-share", 0.3), ("--split-seed", 1)])
def test_options_of_ones_own_images_are_not_ignored_for_a_cell(option: tuple[str, Any], made: list[Job]) -> None:
    text = reclaim("run", "--cell", "slca/main/slca/split-cifar100-10", *option, fails=True)
    assert f"{option[0]} is of --images FOLDER" in text
    assert made == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--root", "nowhere"), "consists of drawings, which ship: leave out --root"),
        (("--root", "nowhere", "--cache", "x"), "leave out --root and --cache"),
        (("--weights", "nofile"), "whose weights ship: leave out the weights nofile"),
    ],
)
@pytest.mark.parametrize("command", [("run", "ncm"), ("compare", "slca", "ncm")])
def test_places_of_images_and_weights_are_not_ignored_for_drawings(
    command: tuple[str, ...], options: tuple[str, ...], said: str, small: Path, made: list[Job]
) -> None:
    assert said in reclaim(*command, *options, "--records", "r", fails=True)
    assert made == []


def test_a_tilde_is_the_home_directory(small: Path, made: list[Job], monkeypatch: pytest.MonkeyPatch) -> None:
    """Shells leave it alone in --records=~/r."""
    monkeypatch.setenv("HOME", str(small / "home"))
    reclaim("run", "linear", "--records=~/r", "--jobs", 1)
    assert (small / "home" / "r" / "linear").is_dir()
    run("linear", records="~/r2", jobs=1)
    assert (small / "home" / "r2" / "linear").is_dir()
    assert not (small / "~").exists()


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = [sys.executable, "-m", "reclaim.benchmark.cli", "list", "cells"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_a_study_that_is_not_there_or_named_as_a_recipe_is_said_to_be(small: Path) -> None:
    assert "there is no file nostudy.toml" in reclaim("run", "nostudy.toml", "--status", fails=True)
    (small / "s.toml").write_text('[[runs]]\nrecipes = ["linear"]\n')
    assert "s.toml is a study" in reclaim("compare", "s.toml", "slca", fails=True)
    (small / "t.toml").write_text('[[run]]\nrecipes = ["linear"]\n')
    assert "t.toml is no recipe: a study has [[runs]]" in reclaim("run", "t.toml", fails=True)


def test_a_study_with_a_failed_run_fails_whatever_became_of_its_mark(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (small / "s.toml").write_text('[[runs]]\nrecipes = ["linear"]\n')

    def fail(job: Job, advance: Any) -> Record:
        raise ValueError("broken")

    monkeypatch.setattr(engines, "_make", fail)
    monkeypatch.setattr(
        "reclaim.benchmark.cli.progress_of",
        lambda jobs, store: SimpleNamespace(done=[], running=[], failed={}, waiting=jobs, seconds_left=None),
    )
    assert "1 of 1 runs failed" in reclaim("run", "s.toml", "--jobs", 1, fails=True)


def test_a_study_finds_the_modules_beside_it_from_any_folder(
    small: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("elsewhere")
    (place / "beside_it.py").write_text('RECIPE = {"base": "linear", "settings": {"lr": 0.5}}\n')
    (place / "s.toml").write_text('[[runs]]\nrecipes = ["beside_it:RECIPE"]\n')
    assert "1 runs: 0 done" in reclaim("run", place / "s.toml", "--status")


def test_the_plan_of_a_run_is_that_of_its_cells(tmp_path: Path) -> None:
    text = reclaim("plan", "slca/main/slca/split-cifar100-10", "--records", RecordStore(tmp_path).root)
    assert "slca/main/slca/split-cifar100-10/last_acc" in text
    assert "slca/main/slca/split-cifar100-10/inc_acc" in text


def test_nothing_named_and_no_runs_at_a_time_are_refused() -> None:
    with pytest.raises(ValueError, match="no recipe is named"):
        compare([])
    with pytest.raises(ValueError, match="jobs is 0: give a number of runs at a time"):
        run("linear", jobs=0, records=None)
    with pytest.raises(ValueError, match=r"settings is .*: give a dictionary"):
        run("linear", settings=["lr=0.1"], records=None)  # type: ignore[arg-type]
