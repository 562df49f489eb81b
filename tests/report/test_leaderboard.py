"""Leaderboards: the same records, the same bytes; every number with its interval;
nothing damaged, foreign or outdated on them.
"""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import Config
from reclaim.benchmark.data.drawings import downstream
from reclaim.benchmark.data.streams import STREAMS
from reclaim.benchmark.papers.protocols import Protocol, protocol_of
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records.provenance import PACKAGES
from reclaim.benchmark.records.record import Record, RecordError
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.report import figures
from reclaim.benchmark.report.leaderboard import (
    COLUMNS,
    FORMATS,
    as_csv,
    as_json,
    as_latex,
    markdown,
    rows,
    write,
    write_docs,
)
from reclaim.benchmark.stats.estimates import mean_interval
from reclaim.benchmark.verdicts.claims import judge_claims
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
    assert "| 5 " in page(records)
    for record in records:
        record.provenance["cpu_seconds"] = None
    (row,) = rows(records)
    assert (row.seconds, row.clock) == (54.0, "wall")
    assert "| 54 (wall) " in page(records)


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
        [cell.strip() for cell in line.split("|")[1:5]] for line in page(records).splitlines() if line.startswith("| ")
    ]
    ties = {recipe: (rank.split(" ")[0], tied) for rank, tied, _, recipe in lines if rank[:1].isdigit()}
    # two share the first place
    assert ties == {
        "`slca-olor`": ("1", "1, 3"),
        "`slca-pp`": ("1", "1, 3"),
        "`slca`": ("3", "1"),
        "`seqft-slow`": ("4", "-"),
        "`linear`": ("5", "-"),
    }
    for text in (as_latex(table), page(records)):
        assert '"Tied with" names the ranks' in text
    (row,) = (line for line in as_latex(table).splitlines() if " Joint training " in line)
    assert [cell.strip() for cell in row.split("&")][:2] == ["-", "-"]
    singles = [synthetic_record(recipe, last_acc=mean) for recipe, mean in means.items()]  # anybody may have any place
    assert "| 3 [1, 5]" in page(singles)
    assert "| 1, 4-5 " in page(singles)


def test_claims_say_their_margin_and_unit() -> None:
    rows_of = {line.split("|")[3].strip(): line for line in page(sample()).splitlines() if line.startswith("| **")}
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


def test_the_page_shows_what_the_records_say() -> None:
    page_text = page(sample())
    assert "Nothing here was measured on a paper's data" in page_text
    for stream in ("split-quickdraw-5", "split-quickdraw-10"):
        assert f"## {stream}" in page_text
    assert "## quickdraw-1" not in page_text
    (row,) = (line for line in page_text.splitlines() if "`joint` " in line and "| 70.00 " in line)
    assert "| 70.00 " in row
    assert "±" not in row
    assert row.startswith("| - ")
    (row,) = (line for line in page_text.splitlines() if "| SLCA " in line and "64.50" in line)
    interval = mean_interval([60.0 + seed for seed in range(10)]).interval
    assert interval is not None
    assert f"64.50 ± {(interval[1] - interval[0]) / 2:.2f}" in row
    assert "| 10 " in row
    assert row.startswith("| 1 [1, 1] ")
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
    assert "| 61.00 |" in (tmp_path / "pages" / "embedded.md").read_text().replace("  ", "")


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
    assert "91.50 ± 0.00" in path.read_text(encoding="utf-8")
    assert len(write_docs(store, tmp_path / "docs")) == 3
    with pytest.raises(
        ValueError, match="holds runs of published cells alone, and only the page shows these: ask for html"
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
    assert {path.name for path in (tmp_path / "docs").iterdir()} == {"fidelity.md", "findings.md", "coverage.md"}


def test_the_command_writes_figures_where_it_is_told(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(sample()[0])
    monkeypatch.setattr(
        figures, "write", lambda table, checks, folder: [folder / f"{len(table)} row, {len(checks) > 200}.png"]
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
