"""Leaderboards: the same records, the same bytes; every number with its interval;
nothing damaged, foreign or outdated on them.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from outside_records import IMAGES, PLUGIN, on_own_images, ours, theirs, with_backbone
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import Config
from reclaim.benchmark.data.drawings import downstream
from reclaim.benchmark.data.streams import STREAMS, class_order
from reclaim.benchmark.papers.protocols import Protocol, protocol_of
from reclaim.benchmark.papers.published import claims
from reclaim.benchmark.recipes import RECIPES, recipes_of
from reclaim.benchmark.records.provenance import PACKAGES
from reclaim.benchmark.records.record import UNVERIFIED, Record, RecordError
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.report import figures
from reclaim.benchmark.report.leaderboard import (
    COLUMNS,
    FORMATS,
    account,
    as_csv,
    as_json,
    as_latex,
    markdown,
    rows,
    write,
    write_docs,
    write_figures,
)
from reclaim.benchmark.stats.estimates import mean_interval
from reclaim.benchmark.verdicts.claims import judge_claims
from reclaim.benchmark.verdicts.counting import OTHER_CONFIGURATION, OTHER_WEIGHTS, current, reasons
from small_runs import synthetic_record


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


def sample() -> list[Record]:
    return [
        *(synthetic_record("slca", "split-quickdraw-10", seed, last_acc=60 + seed, entropy=0.5) for seed in range(10)),
        *(synthetic_record("linear", "split-quickdraw-10", seed, last_acc=50 - seed) for seed in range(2)),
        *(synthetic_record("joint", "split-quickdraw-10", seed, last_acc=70) for seed in range(1)),
        *(synthetic_record("slca", "split-quickdraw-5", seed, last_acc=65) for seed in range(3)),
    ]


def page(records: list[Record]) -> str:
    return markdown(rows(records), judge_claims(records))


def test_rows_are_means_over_seeds_by_stream_and_accuracy() -> None:
    found = rows(sample()[::-1])
    assert [(row.stream, row.recipe, len(row.seeds)) for row in found] == [
        ("split-quickdraw-5", "slca", 3),
        ("split-quickdraw-10", "joint", 1),
        ("split-quickdraw-10", "slca", 10),
        ("split-quickdraw-10", "linear", 2),
    ]
    slca = found[2]
    assert slca.seeds == tuple(range(10))
    assert slca.numbers.keys() == set(COLUMNS)
    assert slca.numbers["last_acc"] == mean_interval([60.0 + seed for seed in range(10)])
    assert slca.numbers["final_entropy"].mean == 0.5
    assert found[1].numbers["last_acc"].interval is None  # one run has none
    assert (slca.trained_parameters, slca.bytes_kept, slca.seconds, slca.clock) == (1234, 56, None, "")
    assert slca.pretraining_overlap == "0"


def test_the_time_of_a_run_is_processor_time_where_that_is_known() -> None:
    records = [synthetic_record("slca", seed=seed) for seed in range(3)]
    for record, times in zip(
        records,
        ({"wall_seconds": 9.0, "cpu_seconds": None}, {"wall_seconds": 99.0, "cpu_seconds": 5.0}, {}),
        strict=True,
    ):
        record.provenance.update(times)
    (row,) = rows(records)
    assert (row.seconds, row.clock) == (5.0, "processor")
    assert ", 5 s<br>" in page(records)
    for record in records:
        record.provenance["cpu_seconds"] = None
    (row,) = rows(records)
    assert (row.seconds, row.clock) == (54.0, "wall")
    assert ", 54 (wall) s<br>" in page(records)


def test_ties_are_named_by_rank() -> None:
    spread = (0.0, 0.5, 1.0, 0.5, 1.5)
    means = {"slca": 60, "seqft-slow": 50, "slca-olor": 60.5, "slca-pp": 60.5, "linear": 40}
    records = [
        synthetic_record(recipe, seed=seed, last_acc=mean + spread[(seed + shift) % 5])
        for shift, (recipe, mean) in enumerate(means.items())
        for seed in range(5)
    ]
    table = rows([*records, synthetic_record("joint")])
    lines = [
        [cell.strip() for cell in line.split("|")[1:3]] for line in page(records).splitlines() if line.startswith("| ")
    ]
    ties = {
        method.partition("<br>")[2].partition(",")[0]: (place.split(" ")[0], place.partition("<br>")[2])
        for place, method in lines
        if place[:1].isdigit()
    }
    # two share the first place
    assert ties == {
        "`slca-olor`": ("1", "1, 3"),
        "`slca-pp`": ("1", "1, 3"),
        "`slca`": ("3", "1"),
        "`seqft-slow`": ("4", "-"),
        "`linear`": ("5", "-"),
    }
    for text in (as_latex(table), page(records)):
        assert '"Not separated from" names the ranks' in text
    (row,) = (line for line in as_latex(table).splitlines() if " Joint training " in line)
    assert [cell.strip() for cell in row.split("&")][:2] == ["-", "-"]
    singles = [synthetic_record(recipe, last_acc=mean) for recipe, mean in means.items()]  # anybody may have any place
    assert "| 3 [1, 5]" in page(singles)
    assert "<br>1, 4-5 |" in page(singles)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="TeX is not installed")
def test_latex_tables_fit_a4(tmp_path: Path) -> None:
    """A table for each group of every stream: some narrower than the text, some wider; none by a space or an indent."""
    records = [
        synthetic_record(r.name, r.home, seed, last_acc=50 + seed)
        for r in recipes_of("embedded").values()
        if r.config.epochs and not r.fact
        for seed in range(2)
    ]
    table = rows([*records, *sample()[-3:]])
    streams = [as_latex([row for row in table if row.stream == s]) for s in dict.fromkeys(r.stream for r in table)]
    assert len(streams) > 2
    text = "\n".join(streams)
    (needs,) = set(re.findall(r"^% needs (.*)$", text, re.MULTILINE))
    document = f"\\documentclass[a4paper]{{article}}\n{needs}\n\\begin{{document}}\n{text}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout


def test_latex_names_its_packages_and_shrinks_to_the_line() -> None:
    text = as_latex(rows(sample()))
    assert text.startswith("% needs \\usepackage{booktabs, graphicx}\n")
    assert text.count("\\resizebox{") == text.count("\\end{tabular}}")


def test_claims_say_their_margin_and_unit() -> None:
    lines = [
        line for line in page(sample()).splitlines() if line.startswith(("| **holds", "| **undecided", "| **not run"))
    ]
    rows_of = {line.split("|")[2].partition("<br>")[2].strip(): line for line in lines}
    assert "(by 1.00 or more)" in rows_of["`slca/logit-normalisation`"]
    assert "final_entropy (nats, less is better)" in rows_of["`aepg/epg-entropy`"]
    assert "Where less is better, the sign is reversed" in page(sample())


def test_files_of_streams_without_records_are_named_and_left(store: RecordStore, tmp_path: Path) -> None:
    store.write(sample()[0])
    folder = tmp_path / "pages"
    folder.mkdir()
    (folder / "quickdraw-1.tex").write_text("of last year")
    (folder / "notes.md").write_text("mine")
    with pytest.warns(
        UserWarning, match=r"quickdraw-1\.tex is out of date: no record of quickdraw-1 counts; delete it"
    ) as warned:
        write(store, folder, ["csv"])
    assert len(warned) == 1
    assert (folder / "quickdraw-1.tex").read_text() == "of last year"


def test_what_trains_nothing_has_no_entropy() -> None:
    record = synthetic_record("ncm")
    record.result.update(entropy=[], train_loss=[])
    (row,) = rows([record])
    assert "final_entropy" not in row.numbers
    (line,) = csv.DictReader(io.StringIO(as_csv(rows([record]))))
    assert (line["final_entropy_mean"], line["last_acc_mean"], line["epochs"]) == ("", "50.0", "0")
    assert "`ncm`" in page([record])


def test_recipes_that_turn_a_switch_are_not_ranked(store: RecordStore, tmp_path: Path) -> None:
    for recipe in ("slca", "slca.f3"):
        store.write(synthetic_record(recipe))
    write(store, tmp_path)
    page = (tmp_path / "embedded.md").read_text()
    assert "`slca`" in page
    assert "slca.f3" not in page


def test_all_pages_judge_a_claim_on_a_recipe_that_turns_a_switch(store: RecordStore, tmp_path: Path) -> None:
    claim = next(claim for claim in claims("embedded") if RECIPES[claim.better].fact)
    for seed in range(5):
        store.write(synthetic_record(claim.better, claim.stream, seed, last_acc=60.0 + seed))
        store.write(synthetic_record(claim.worse, claim.stream, seed, last_acc=50.0))
    (verdict,) = (v for v in judge_claims(store.load()[0]) if v.claim is claim)
    assert verdict.outcome == "holds"
    write(store, tmp_path)
    write_docs(store, tmp_path / "docs")
    (line,) = (line for line in (tmp_path / "embedded.md").read_text().splitlines() if f"`{claim.id}`" in line)
    assert line.startswith("| **holds**")
    (row,) = re.findall(rf'<tr class="row" id="{claim.id}".*?</tr>', (tmp_path / "index.html").read_text(), re.DOTALL)
    assert " holds</span>" in row
    held = (tmp_path / "docs/findings.md").read_text().partition("## What held")[2].partition("## ")[0]
    assert f"`{claim.id}`" in held


def test_the_page_shows_what_the_records_say() -> None:
    page_text = page(sample())
    assert "Nothing here was measured on a paper's data" in page_text
    for stream in ("split-quickdraw-5", "split-quickdraw-10"):
        assert f"## {stream}" in page_text
    assert "## quickdraw-1" not in page_text
    (row,) = (line for line in page_text.splitlines() if "`joint`, n = 1 " in line and "| **70.00**" in line)
    assert "±" not in row
    assert row.startswith("| -<br>- |")
    (row,) = (line for line in page_text.splitlines() if "| SLCA<br>" in line and "64.50" in line)
    interval = mean_interval([60.0 + seed for seed in range(10)]).interval
    assert interval is not None
    assert f"64.50 ± {(interval[1] - interval[0]) / 2:.2f}" in row
    assert ", n = 10 |" in row
    assert row.startswith("| 1 [1, 1]<br>")
    assert "given" in row
    assert "**not run**" in page_text
    assert page_text.endswith("|\n")


def test_the_table_holds_all_numbers_unrounded() -> None:
    text = as_csv(rows(sample()))
    assert "\r" not in text
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(line["stream"], line["tier"], line["recipe"], line["n"]) for line in table] == [
        (r.stream, "embedded", r.recipe, str(len(r.seeds))) for r in rows(sample())
    ]
    interval = mean_interval([60.0 + seed for seed in range(10)]).interval
    assert interval is not None
    assert float(table[2]["last_acc_low"]) == interval[0]
    assert float(table[2]["last_acc_mean"]) == 64.5
    assert table[1]["last_acc_low"] == table[1]["last_acc_std"] == ""
    assert all(f"{column}_{part}" in table[0] for column in COLUMNS for part in ("mean", "std", "low", "high"))


def test_the_order_in_which_records_were_made_does_not_show(tmp_path: Path) -> None:
    pages = []
    for name, records in (("a", sample()), ("b", sample()[::-1])):
        store = RecordStore(tmp_path / name)
        for record in records:
            store.write(record)
        if name == "b":  # a checkout on Windows
            for path in store.root.rglob("*.json"):
                path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        written = write(store, tmp_path / f"{name}-pages" / "deep")
        pages.append([path.read_bytes() for path in written])
        assert sorted(path.name for path in written) == sorted(
            path.name for path in (tmp_path / f"{name}-pages" / "deep").iterdir()
        )
    assert pages[0] == pages[1]
    assert not any(b"\r" in page for page in pages[0])


def test_a_page_is_replaced_whole(store: RecordStore, tmp_path: Path) -> None:
    store.write(sample()[0])
    folder = tmp_path / "pages"
    first = [path.read_bytes() for path in write(store, folder)]
    store.write(sample()[1])
    assert [path.read_bytes() for path in write(store, folder)] != first


def test_what_is_not_of_this_tier_or_time_is_left_out(store: RecordStore) -> None:
    shown = synthetic_record("slca", seed=0, last_acc=40)
    left_out = [
        synthetic_record(
            "slca", seed=1, last_acc=99, config=RECIPES["slca"].config.set(["lr=0.77"])
        ),  # another configuration
        synthetic_record("slca", seed=1000, last_acc=99),  # a seed of the choice of hyper-parameters
        synthetic_record("slca.main.slca", "split-cifar100-10", last_acc=99, config=Config()),  # a published cell's
        synthetic_record("slca.main.slca", "split-quickdraw-10", last_acc=99, config=Config()),
        synthetic_record("slca", "stream-of-another-version", last_acc=99),
        synthetic_record("recipe-of-another-version", last_acc=99, config=Config()),
    ]
    for record in [shown, *left_out]:
        store.write(record)
    pages = [
        path.read_text(encoding="utf-8")
        for path in write(store, store.root.parent / "pages", ["markdown", "csv", "json", "svg"])
    ]
    assert all("99.0" not in page for page in pages)
    assert rows([shown])[0].seeds == (0,)
    assert "40.00" in pages[0]


def test_damaged_and_foreign_files_are_named_and_skipped(store: RecordStore, tmp_path: Path) -> None:
    path = store.write(sample()[0])
    store.write(sample()[1])
    path.write_text("{")
    (store.root / "notes.txt").write_text("mine")
    for written in (write, write_docs):
        with pytest.warns(UserWarning, match="skipped") as warned:
            written(store, tmp_path / "pages")
        assert [re.sub(r".*(/|\\)", "", str(w.message)).split(":")[0] for w in warned] == ["notes.txt", "0.json"]
        assert all(str(w.message).startswith("skipped ") for w in warned)
    assert "| **61.00**" in (tmp_path / "pages" / "embedded.md").read_text()


def test_nothing_to_show_is_an_error(store: RecordStore, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no records of any recipe's present configuration, or .*make some with `reclaim run`"
    ):
        write(store, tmp_path / "pages")
    store.write(synthetic_record("slca", config=RECIPES["slca"].config.set(["lr=0.77"])))
    with pytest.raises(ValueError, match="no records of any recipe's present configuration"):
        write(store, tmp_path / "pages")
    store.write(synthetic_record("slca.f3"))  # the fidelity page's
    with pytest.raises(ValueError, match="no records of any recipe's present configuration"):
        write(store, tmp_path / "pages")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="is a file"):
        write(RecordStore(tmp_path / "file"), tmp_path / "pages")


def test_runs_of_published_cells_alone_are_shown_on_the_page(store: RecordStore, tmp_path: Path) -> None:
    protocol = protocol_of("slca/main/slca/split-cifar100-10")
    assert isinstance(protocol, Protocol)
    for seed in range(2):
        store.write(synthetic_record("slca.main.slca", "split-cifar100-10", seed, 91.5, config=protocol.configs[0]))
    (tmp_path / "embedded.csv").write_text("of last year")
    with pytest.warns(UserWarning, match=r"embedded\.csv is out of date") as warned:
        (path,) = write(store, tmp_path)
    assert len(warned) == 1
    assert "91.50; the same with every seed" in path.read_text(encoding="utf-8")
    assert len(write_docs(store, tmp_path / "docs")) == 4
    with pytest.raises(
        ValueError,
        match="holds runs of published cells or on canvases alone, and only the page shows these: ask for html",
    ):
        write(store, tmp_path / "none", ["csv", "latex"])


def test_every_stream_has_its_place() -> None:
    records = [synthetic_record("slca", stream) for stream in reversed(STREAMS)]
    assert [row.stream for row in rows(records)] == list(STREAMS)


# --- protocols ---


def test_recipes_of_different_protocols_share_no_ranking() -> None:
    best = synthetic_record("lora-ce", last_acc=90)  # five epochs
    found = {row.recipe: row for row in rows([*sample(), best, synthetic_record("lora-epg", last_acc=80)])}
    ranks = {
        name: (row.rank.rank, row.ranked) if row.rank else None
        for name, row in found.items()
        if row.stream == "split-quickdraw-10"
    }
    assert ranks == {"lora-ce": (1, 2), "lora-epg": (2, 2), "slca": (1, 2), "linear": (2, 2), "joint": None}
    order = [row.recipe for row in rows([*sample(), best])]
    assert order == ["slca", "joint", "slca", "linear", "lora-ce"]  # that of most rows first
    text = page([*sample(), best])
    assert re.findall("^##+ .*$", text, re.MULTILINE)[:5] == [
        "## split-quickdraw-5",
        "### 3 epochs on each experience, quickdraw_vit",
        "## split-quickdraw-10",
        "### 3 epochs on each experience, quickdraw_vit",
        "### 5 epochs on each experience, quickdraw_vit",
    ]


def test_a_recipe_alone_has_no_rank() -> None:
    (row,) = rows([synthetic_record("slca")])
    assert (row.rank, row.ranked) == (None, 0)


def test_curves_and_matrices_are_means_over_seeds() -> None:
    records = [synthetic_record("slca", "split-quickdraw-uneven", seed, last_acc=50) for seed in range(2)]
    # 200 images of each task but the last two: 120 and 80
    records[1].result["accuracy"] = [[90.0] * t + [40.0] for t in range(11)]
    (row,) = rows(records)
    assert row.matrices["accuracy"][3] == [70.0, 70.0, 70.0, 45.0]
    last = (9 * 200 + 120) / 2000 * 90 + 80 / 2000 * 40
    assert row.curves["accuracy"][10].interval == pytest.approx(mean_interval([50.0, last]).interval)
    assert [len(row.curves[key]) for key in ("accuracy", "accuracy_task_known", "entropy")] == [11, 11, 33]
    assert row.curves["entropy"][2].mean == 1.0


# --- other formats ---


def test_json_holds_rows_with_curves_and_matrices() -> None:
    table = [row for row in rows(sample()) if row.stream == "split-quickdraw-10"]
    document = json.loads(as_json(table))
    assert document["tier"] == "embedded"
    assert "comparable" in document["note"]
    joint, slca, linear = document["rows"]
    assert (joint["rank"], joint["reference"], slca["reference"]) == (None, True, False)
    assert (slca["rank"]["rank"], slca["rank"]["of"], linear["rank"]["rank"]) == (1, 2, 2)
    interval = mean_interval([60.0 + seed for seed in range(10)]).interval
    assert interval is not None
    assert slca["numbers"]["last_acc"] == pytest.approx(
        {"mean": 64.5, "std": 3.02765, "low": interval[0], "high": interval[1]}, abs=1e-6
    )
    assert joint["numbers"]["last_acc"] == {"mean": 70.0}
    assert len(slca["curves"]["accuracy"]) == len(slca["matrices"]["accuracy"]) == 10


def test_latex_has_a_booktabs_table_per_protocol() -> None:
    text = as_latex(
        [row for row in rows([*sample(), synthetic_record("lora-ce")]) if row.stream == "split-quickdraw-10"]
    )
    assert text.count("\\toprule") == text.count("\\bottomrule") == 2
    for table in text.split("\\toprule")[1:]:
        label = table.split("\\\\")[-2]  # the last line, and no comment
        assert "\\multicolumn{9}{l}" in label
        assert "Embedded tier" in label
        assert "not comparable with a paper's" in label
        assert "%" not in label
    assert "SLCA" in text
    (row,) = (line for line in text.splitlines() if " SLCA " in line)
    assert row.rstrip().endswith("\\\\")
    assert "64.50 ± " in row


def test_formats(store: RecordStore, tmp_path: Path) -> None:
    for record in sample():
        store.write(record)
    streams = ("split-quickdraw-5", "split-quickdraw-10")
    each = {f"{stream}.{end}" for stream in streams for end in ("md", "csv", "json")}
    assert {path.name for path in write(store, tmp_path / "a")} == {
        "embedded.md",
        "embedded.csv",
        "embedded.svg",
        "index.html",
    } | each
    assert {path.name for path in write(store, tmp_path / "b", ["latex"])} == {f"{stream}.tex" for stream in streams}
    assert {path.name for path in write(store, tmp_path / "c", FORMATS)} > each
    with pytest.raises(ValueError, match=r"unknown format 'pdf': choose one of markdown, csv"):
        write(store, tmp_path / "d", ["pdf"])
    alone = (tmp_path / "a" / "split-quickdraw-5.md").read_text()
    assert "no number here is comparable with any paper's number" in alone
    assert "split-quickdraw-10" not in alone


# --- the command ---


def leaderboard(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["leaderboard", *map(str, arguments)])


def check(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["check", *map(str, arguments)])


def test_the_command_warns_once_of_what_it_skips(store: RecordStore, tmp_path: Path) -> None:
    store.write(sample()[0])
    (store.root / "notes.txt").write_text("mine")
    done = leaderboard(
        "--records", store.root, "--output", tmp_path / "pages", "--docs", tmp_path / "docs", "--format", "latex"
    )
    assert done.exit_code == 0, done.output
    assert done.stderr.count("notes.txt: not a record") == 1
    assert "warning: skipped" in done.stderr
    assert [path.name for path in (tmp_path / "pages").iterdir()] == ["split-quickdraw-10.tex"]
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {
        "fidelity.md",
        "findings.md",
        "coverage.md",
        "why-numbers-disagree.md",
    }


def test_the_command_writes_figures_where_it_is_told(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(sample()[0])
    monkeypatch.setattr(
        figures,
        "write",
        lambda table, checks, folder, verdicts: [folder / f"{len(table)} row, {len(checks) > 200}.png"],
    )
    done = leaderboard(
        "--records", store.root, "--output", tmp_path, "--format", "csv", "--figures", tmp_path / "figures"
    )
    assert f"wrote {tmp_path / 'figures' / '1 row, True.png'}" in done.output


def test_the_command_checks_foreign_records_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.json").write_text("{\n")
    record = synthetic_record("slca")
    record.result.update(data_sha256=downstream().sha256, entropy=[1.0] * len(record.result["entropy"]))
    record.result["hyperparameters_from"] = RECIPES["slca"].hyperparameters_from
    record.provenance.update(dict.fromkeys(PACKAGES, "1.0"))
    (tmp_path / "b.json").write_text(json.dumps({"result": record.result, "provenance": record.provenance}) + "\n")
    good, both = check("b.json"), check("a.json", "b.json")
    assert (good.exit_code, both.exit_code) == (0, 1)
    assert (
        f"b.json: sound; copy it to leaderboards/records/slca/split-quickdraw-10/{record.config_hash}/0.json; shown"
        in good.output
    )
    assert "a.json: not a record to merge\n  is not JSON" in both.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]

    nowhere = check("b.json", "--records", "nowhere")
    assert "there is no folder nowhere: name a record store with --records" in nowhere.output
    for folder, options in (("leaderboards/records", ()), ("mine", ("--records", "mine"))):
        path = RecordStore(folder).write(record)
        assert f"b.json: sound; already on record, {path}: they agree" in check("b.json", *options).output


# --- records from outside ---


def board(folder: Path, stream: str = "split-quickdraw-10") -> dict[str, Any]:
    """The rows of a board by key."""
    document = json.loads((folder / f"{stream}.json").read_text())
    return {
        (f"{row['recipe']}@{row['config_hash']}" if row.get("settings") else row["recipe"]): row
        for row in document["rows"]
    }


def shown(folder: Path, *records: Record, formats: Sequence[str] = FORMATS, beside: bool = True) -> Path:
    """The pages of these records, in a store of their own, beside a few of ours."""
    first, second = RecordStore(folder / "ours"), RecordStore(folder / "theirs")
    if beside:
        for recipe in ("slca", "linear", "joint"):
            for seed in range(2):
                first.write(ours(recipe, seed=seed))
    for record in records:
        second.write(record)
    write([first, second], folder / "pages", formats)
    return folder / "pages"


def test_a_recipe_from_outside_is_ranked_and_marked(tmp_path: Path) -> None:
    records = [theirs(seed=seed) for seed in range(2)]
    pages = shown(tmp_path, *records)
    rows_of = board(pages)
    assert rows_of["their-method"]["external"] == ["their_pkg.method:Their"]
    assert rows_of["their-method"]["title"] == "their-method (external)"
    assert rows_of["their-method"]["rank"]["of"] == rows_of["slca"]["rank"]["of"] == 3  # joint is a reference
    assert "their-method" in rows_of["slca"]["rank"]["tied_with"]
    assert "external" not in rows_of["slca"]
    for name in ("embedded.md", "split-quickdraw-10.md", "split-quickdraw-10.tex", "embedded.svg", "index.html"):
        assert "their-method (external)" in (pages / name).read_text(), name
    assert '"External" marks a recipe that is not' in (pages / "split-quickdraw-10.md").read_text()
    lines = {line["recipe"]: line for line in csv.DictReader(io.StringIO((pages / "embedded.csv").read_text()))}
    assert (lines["their-method"]["external"], lines["slca"]["external"]) == ("their_pkg.method:Their", "")
    told = str(account([RecordStore(tmp_path / "ours"), RecordStore(tmp_path / "theirs")]))
    assert told == "8 of 8 records are shown"


def test_what_differs_in_settings_alone_is_external_too(tmp_path: Path) -> None:
    pages = shown(tmp_path, theirs("my-slca", settings=["lr=0.77"], external=None))
    assert board(pages)["my-slca"]["external"] is True
    lines = {line["recipe"]: line for line in csv.DictReader(io.StringIO((pages / "embedded.csv").read_text()))}
    assert lines["my-slca"]["external"] == "true"


def test_claims_do_not_use_records_from_outside(tmp_path: Path) -> None:
    without = shown(tmp_path / "a", formats=["markdown"])
    with_them = shown(tmp_path / "b", theirs(), on_own_images("slca"), on_own_images("linear"), formats=["markdown"])
    claims = [(folder / "embedded.md").read_text().split("## Claims")[1] for folder in (without, with_them)]
    assert claims[0] == claims[1]
    # under our name and with our configuration, but on other images
    disguised = on_own_images("slca", "split-quickdraw-10", seed=3)
    assert disguised.config_hash == ours().config_hash
    assert current([disguised, theirs(), theirs("slca"), on_own_images("slca")]) == []


def test_configurations_of_one_recipe_from_outside_are_not_pooled(tmp_path: Path) -> None:
    other_source = {"base": "slca", "plugins": [PLUGIN | {"sha256": "cd" * 32}]}
    records = [theirs(), theirs(seed=1, settings=["lr=0.77"]), theirs(seed=1, external=other_source)]
    pages = shown(tmp_path, *records)
    found = {row["title"]: row for key, row in board(pages).items() if key.startswith("their-method@")}
    assert len(found) == 3
    assert all(len(row["seeds"]) == 1 and row["rank"]["of"] == 5 for row in found.values())
    lr = RECIPES["slca"].config.lr
    assert found.keys() == {
        f"their-method (external: external.plugins[0].sha256={source}, lr={rate})"
        for source, rate in (("abababababab", lr), ("abababababab", 0.77), ("cdcdcdcdcdcd", lr))
    }
    text = (pages / "split-quickdraw-10.md").read_text()
    assert all(f"`their-method@{record.config_hash}`" in text for record in records)
    lines = list(csv.DictReader(io.StringIO((pages / "embedded.csv").read_text())))
    assert len({line["settings"] for line in lines}) == 4


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (partial(theirs, rehearsal=True), "a rehearsal"),
        (partial(theirs, weights_sha256="0" * 64), "other starting weights than its base's"),
        (partial(theirs, settings=["part=validation"]), "not sound"),
        (
            partial(theirs, "SLCA"),
            "a recipe from outside under the name of one of ours: SLCA on split-quickdraw-10, slca is",
        ),
        (partial(theirs, "slca"), "code from outside under the name of one of our recipes"),
        (partial(theirs, data_sha256="0" * 64), "not sound"),
        (partial(theirs, test_counts=[200] * 10, class_order=list(range(100))), "not the one of seed 0"),
        (partial(theirs, "n" * 101), "a name of more than 100 characters"),
        (partial(on_own_images, stream="Split-QuickDraw-10"), "split-quickdraw-10 is a stream of this project"),
        (partial(on_own_images, rehearsal=True), "a rehearsal"),
        (partial(on_own_images, own_stream={"sizes": [50] * 2, "train_counts": [800] * 2}), "birds has 2 experiences"),
    ],
)
def test_what_is_not_ranked_is_in_the_account(record: Callable[[], Record], why: str, tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "theirs")
    store.write(ours())
    store.write(record())
    write(store, tmp_path / "pages")
    told = str(account(store))
    assert told.startswith("1 of 2 records are shown, 1 are left out:\n")
    assert why in told
    assert len(board(tmp_path / "pages")) == 1


def test_a_seed_of_the_choice_is_not_ranked(tmp_path: Path) -> None:
    record = theirs(class_order=class_order(100, 1000))
    record.result["seed"] = 1000
    store = RecordStore(tmp_path / "theirs")
    store.write(record)
    assert "1: a seed on which hyper-parameters are chosen: their-method" in str(account(store))


def test_streams_of_ones_own_have_boards_of_their_own(tmp_path: Path) -> None:
    records = [on_own_images(recipe, seed=seed) for recipe in ("slca", "linear", "their-method") for seed in range(2)]
    pages = shown(tmp_path, *records, beside=False)
    assert {path.name for path in pages.iterdir()} == {"birds.md", "birds.csv", "birds.json", "birds.tex", "index.html"}
    document = json.loads((pages / "birds.json").read_text())
    assert (document["tier"], document["stream"], document["classes_per_experience"]) == ("own", "birds", [10] * 10)
    found = board(pages, "birds")
    assert found["slca"]["title"] == "SLCA"
    assert "external" not in found["slca"]
    assert found["their-method"]["external"] == ["their_pkg.method:Their"]
    assert all(row["rank"]["of"] == 3 for row in found.values())
    for name in ("birds.md", "birds.json", "birds.tex", "index.html"):
        text = (pages / name).read_text()
        assert "Somebody's own images" in text or "Somebody&#39;s own images" in text
        assert "mbedded tier" not in text.split('<section id="cells">')[0].split("<script>")[0]
    assert "100 classes in 10 experiences (10 x 10), a folder of images, images 111111111111" in (
        pages / "birds.md"
    ).read_text().replace("\n", " ")


def test_streams_of_ones_own_stand_beside_ours(tmp_path: Path) -> None:
    pages = shown(tmp_path, on_own_images("slca"), on_own_images("linear", settings=["lr=0.77"]), theirs())
    assert "birds" not in (pages / "embedded.md").read_text()
    assert "birds" not in (pages / "embedded.csv").read_text()
    assert 'id="own:birds"' in (pages / "index.html").read_text()
    assert {row["title"] for row in board(pages, "birds").values()} == {
        "SLCA",
        f"{RECIPES['linear'].title} (lr=0.77 instead of {RECIPES['linear'].config.lr})",
    }


def test_two_sets_of_images_under_one_name_are_not_pooled(tmp_path: Path) -> None:
    alias = on_own_images("linear", data_sha256="3" * 64, data_aliases=[IMAGES])
    shape = {"sizes": [10] * 10, "train_counts": [800] * 10}
    records = [
        on_own_images("slca"),
        alias,
        on_own_images("slca", seed=1, data_sha256="2" * 64),
        on_own_images("slca", seed=2, own_stream=shape | {"split": {"seed": 3, "test": 0.2}}),
        on_own_images("slca", "Birds", seed=3),
        on_own_images("slca", "embedded", seed=4),
        on_own_images("slca", "middle", seed=5),
    ]
    pages = shown(tmp_path, *records, beside=False)
    boards = {path.stem: json.loads(path.read_text())["rows"] for path in pages.glob("*.json")}
    assert len({name.casefold() for name in boards}) == len(boards) == 6
    assert all(re.fullmatch(r"([Bb]irds|embedded|middle)@[0-9a-f]{12}", name) for name in boards)
    assert sorted([len(found) for found in boards.values()]) == [1, 1, 1, 1, 1, 2]  # the alias is of the same images
    assert "Others of this name have other images" in next(pages.glob("birds@*.md")).read_text()


def test_joint_training_is_a_reference_on_a_stream_of_ones_own(tmp_path: Path) -> None:
    for sizes in ([100], [10] * 10):
        joint = on_own_images("joint", own_stream={"sizes": sizes, "train_counts": [8000 // len(sizes)] * len(sizes)})
        pages = shown(tmp_path / str(len(sizes)), on_own_images("slca"), joint, beside=False)
        assert board(pages, "birds")["joint"]["reference"] is True


def test_other_weights_of_one_backbone_are_another_group(tmp_path: Path) -> None:
    tagged = ["backbone=vit_tiny.some_tag"]
    records = [
        on_own_images("slca", settings=tagged, weights_sha256="7" * 64),
        on_own_images("linear", settings=tagged, weights_sha256="8" * 64),
    ]
    pages = shown(tmp_path, *records, beside=False)
    assert {row["backbone"] for row in board(pages, "birds").values()} == {
        f"vit_tiny.some_tag, weights {digit * 12}" for digit in "78"
    }


def test_a_backbone_from_outside_is_a_group_of_its_own(tmp_path: Path) -> None:
    external = {"base": "slca", "backbone": PLUGIN}
    pages = shown(tmp_path, theirs(external=external, weights_sha256="7" * 64))
    row = board(pages)["their-method"]
    assert (row["backbone"], row["rank"]) == ("their_pkg.method:Their", None)


HOSTILE = "a|b <script>alert(1)</script> \x1b[31m \n% \\input{x} `c` ]( $x$ & _y_ " + "long" * 100


def test_text_of_others_is_shown_as_text(tmp_path: Path) -> None:
    records = []
    for seed, rate in enumerate(("x", HOSTILE)):
        plugin = PLUGIN | {"arguments": {HOSTILE: rate}}
        external = {"base": HOSTILE, "plugins": [plugin], "loss": PLUGIN | {"path": f"{'p' * 5000}:L"}}
        record = theirs("a+b_c." + "n" * 90, seed, (), external, weights_sha256="7" * 64)
        records.append(with_backbone(HOSTILE, record))
        split = {"sizes": [10] * 10, "train_counts": [1] * 10, "split": {HOSTILE: HOSTILE}}
        records.append(with_backbone(HOSTILE, on_own_images("slca", seed=seed, own_stream=split)))
    pages = shown(tmp_path, *records)
    told = str(account([RecordStore(tmp_path / "theirs")]))
    texts = {path.name: path.read_text() for path in pages.iterdir()} | {"account": told}
    for name, text in texts.items():
        assert "\x1b" not in text, name
    ElementTree.fromstring(texts["embedded.svg"])
    assert "<script>alert" not in texts["index.html"]
    for name in ("embedded.md", "split-quickdraw-10.md", "birds.md"):
        assert "<script>" not in texts[name].replace("\\<", ""), name
        for table in re.findall(r"(?:^\|.*\n)+", texts[name], re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    for name in ("split-quickdraw-10.tex", "birds.tex"):
        for line in texts[name].splitlines():
            assert line.startswith("%") or "\\input" not in line


def test_nothing_of_a_record_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_pkg").mkdir()
    (tmp_path / "their_pkg" / "__init__.py").write_text("print('imported')\nraise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    made_by = {"sizes": [10] * 10, "train_counts": [800] * 10, "made_by": PLUGIN}
    store = RecordStore(tmp_path / "theirs")
    paths = [store.write(record) for record in (theirs(), on_own_images(own_stream=made_by))]
    done = leaderboard("--records", store.root, "--output", tmp_path / "pages", "--docs", tmp_path / "docs")
    assert (done.exit_code, "imported" in done.output) == (0, False), done.output
    checked = check(*paths, "--records", store.root)
    assert (checked.exit_code, "imported\n" in checked.output) == (0, False), checked.output
    assert "their_pkg" not in sys.modules


def test_the_command_shows_several_stores(tmp_path: Path) -> None:
    first, second = RecordStore(tmp_path / "ours"), RecordStore(tmp_path / "theirs")
    first.write(ours())
    for record in (ours(), theirs()):
        second.write(record)
    stores = ("--records", first.root, "--records", second.root)
    done = leaderboard(*stores, "--output", tmp_path / "pages", "--format", "json")
    assert done.exit_code == 0, done.output
    assert "2 of 3 records are shown, 1 are left out:\n  1: a run that another store has: counted once:" in done.output
    changed = ours()
    changed.result["trained_parameters"] += 1
    second.write(changed)
    done = leaderboard(*stores, "--output", tmp_path / "pages")
    assert done.exit_code == 1
    assert "contradict each other" in done.output
    assert "there is no folder nowhere" in leaderboard("--records", first.root, "--records", "nowhere").output


def test_figures_show_records_from_outside(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    store = RecordStore(tmp_path / "theirs")
    for record in (ours("linear"), theirs(), theirs(seed=1, settings=["lr=0.77"]), on_own_images()):
        store.write(record)
    written = {path.name for path in write_figures(store, tmp_path / "figures")}
    assert {"birds-last-acc.svg", "birds-accuracy.png", "birds-matrix-their-method.svg"} <= written


# --- the middle tier ---


def of_the_middle(recipe: str, *accuracies: float) -> list[Record]:
    stream = RECIPES[recipe].home
    return [synthetic_record(recipe, stream, seed, last_acc=value) for seed, value in enumerate(accuracies)]


def test_the_middle_tier_has_a_board_of_its_own(tmp_path: Path) -> None:
    records = [*of_the_middle("lite-slca", 60, 61, 62), *of_the_middle("lite-slow", 50, 51, 52)]
    embedded = [synthetic_record("slca", seed=seed, last_acc=40 + seed) for seed in range(3)]
    store, alone = RecordStore(tmp_path / "both"), RecordStore(tmp_path / "alone")
    for record in records:
        store.write(record)
    for record in embedded:
        store.write(record)
        alone.write(record)
    written = {path.name for path in write(store, tmp_path / "boards")}
    assert written >= {"middle.md", "middle.csv", "split-cifar10-5.md", "split-cifar10-5.csv", "split-cifar10-5.json"}
    write(alone, tmp_path / "without")
    for name in ("embedded.md", "embedded.csv", "embedded.svg", "split-quickdraw-10.md"):
        assert (tmp_path / "boards" / name).read_bytes() == (tmp_path / "without" / name).read_bytes(), "pooled"
    shown, without = ((tmp_path / name / "index.html").read_text(encoding="utf-8") for name in ("boards", "without"))
    for name in ("lite-slca@split-cifar10-5", "slca/middle-alignment"):
        assert f'<tr class="row" id="{name}"' in shown
        assert f'id="{name}"' not in without
    text = (tmp_path / "boards" / "middle.md").read_text(encoding="utf-8")
    assert "SLCA, Lite0" in text
    assert "the first 500 training and 200 test images of each class" in text
    assert "`slca/middle-alignment`" in text
    assert "quickdraw" not in text
    lines = list(csv.DictReader((tmp_path / "boards" / "middle.csv").open(encoding="utf-8", newline="")))
    assert [(line["recipe"], line["tier"], line["rank"]) for line in lines] == [
        ("lite-slca", "middle", "1"),
        ("lite-slow", "middle", "2"),
    ]
    assert {line["pretraining_overlap"] for line in lines} == {"10"}
    assert str(account(store)) == "9 of 9 records are shown"


def test_runs_on_canvases_alone_are_shown_on_the_page(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r")
    for seed in range(2):
        store.write(synthetic_record("dense-sem-full", "quickdraw-canvases", seed, last_acc=30 + seed))
    (path,) = write(store, tmp_path / "boards")
    assert "dense-sem-full" in path.read_text(encoding="utf-8")
    assert str(account(store)) == "2 of 2 records are shown"
    with pytest.raises(ValueError, match="ask for html"):
        write(store, tmp_path / "boards", ["markdown"])
    assert "a run on canvases (--format html shows it)" in str(account(store, ["markdown"]))


def test_the_middle_tier_alone_is_written(tmp_path: Path) -> None:
    store = RecordStore(tmp_path / "r")
    for record in of_the_middle("lite-slow", 60, 61):
        store.write(record)
    assert "middle.md" in {path.name for path in write(store, tmp_path / "boards")}


def test_records_of_the_middle_tier_count_by_images_and_weights() -> None:
    sound, small, others = of_the_middle("lite-slca", 60, 61, 62)
    small.result["remarks"] = [UNVERIFIED]
    others.result["weights_sha256"] = "0" * 64
    elsewhere = synthetic_record("lite-slca", "split-quickdraw-10")
    changed = synthetic_record("lite-slca", "split-cifar10-5", config=RECIPES["lite-slca"].config.set(["lr=0.5"]))
    found = [reason and reason.kind for reason in reasons([sound, small, others, elsewhere, changed])]
    assert found == [
        None,
        UNVERIFIED,
        OTHER_WEIGHTS,
        "a recipe on a stream of another tier",
        OTHER_CONFIGURATION,
    ]
