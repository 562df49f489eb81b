"""Leaderboards: the same records, the same bytes; every number with its interval; nothing damaged, foreign or outdated on them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from reclaim.benchmark.config import Config
from reclaim.benchmark.leaderboard import COLUMNS, as_csv, markdown, rows, write
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records import Record, RecordError, RecordStore
from reclaim.benchmark.statistics import mean_interval
from reclaim.benchmark.streams import STREAMS
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
    assert (slca.trained_parameters, slca.bytes_kept, slca.seconds) == (1234, 56, None)
    assert slca.pretraining_overlap == "0"


def test_the_time_of_a_run_is_processor_time_where_that_is_known() -> None:
    records = [synthetic_record("slca", seed=seed) for seed in range(3)]
    for record, times in zip(
        records, ({"wall_seconds": 9.0, "cpu_seconds": None}, {"wall_seconds": 99.0, "cpu_seconds": 5.0}, {}), strict=True
    ):
        record.provenance.update(times)
    (row,) = rows(records)
    assert row.seconds == 7.0
    assert "| 7 " in markdown(records)


def test_what_trains_nothing_has_no_entropy() -> None:
    record = synthetic_record("ncm")
    record.result.update(entropy=[], train_loss=[])
    (row,) = rows([record])
    assert "final_entropy" not in row.numbers
    (line,) = csv.DictReader(io.StringIO(as_csv([record])))
    assert (line["final_entropy_mean"], line["last_acc_mean"], line["epochs"]) == ("", "50.0", "0")
    assert "`ncm`" in markdown([record])


def test_recipes_that_turn_a_switch_are_not_ranked(store: RecordStore, tmp_path: Path) -> None:
    for recipe in ("slca", "slca.f3"):
        store.write(synthetic_record(recipe))
    write(store, tmp_path)
    page = (tmp_path / "embedded.md").read_text()
    assert "`slca`" in page
    assert "slca.f3" not in page


def test_the_page_shows_what_the_records_say() -> None:
    page = markdown(sample())
    assert "Nothing here was measured on a paper's data" in page
    for stream in ("split-quickdraw-5", "split-quickdraw-10"):
        assert f"## {stream}" in page
    assert "## quickdraw-1" not in page
    (row,) = (line for line in page.splitlines() if "`joint`" in line and line.startswith("| Joint"))
    assert "| 70.00 " in row
    assert "±" not in row
    (row,) = (line for line in page.splitlines() if line.startswith("| SLCA ") and "64.50" in line)
    interval = mean_interval([60.0 + seed for seed in range(10)]).interval
    assert interval is not None
    assert f"64.50 ± {(interval[1] - interval[0]) / 2:.2f}" in row
    assert "| 10 " in row
    assert "given" in row
    assert "**not run**" in page
    assert page.endswith("|\n")


def test_the_table_holds_all_numbers_unrounded() -> None:
    text = as_csv(sample())
    assert "\r" not in text
    table = list(csv.DictReader(io.StringIO(text)))
    assert [(line["stream"], line["recipe"], line["n"]) for line in table] == [
        (r.stream, r.recipe, str(len(r.seeds))) for r in rows(sample())
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
        assert sorted(path.name for path in written) == sorted(path.name for path in (tmp_path / f"{name}-pages" / "deep").iterdir())
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
        synthetic_record("slca", seed=1, last_acc=99, config=RECIPES["slca"].config.set(["lr=0.77"])),  # another configuration
        synthetic_record("slca", seed=1000, last_acc=99),  # a seed of the choice of hyper-parameters
        synthetic_record("slca.main.slca", "split-cifar100-10", last_acc=99, config=Config()),  # a published cell's
        synthetic_record("slca.main.slca", "split-quickdraw-10", last_acc=99, config=Config()),
        synthetic_record("slca", "stream-of-another-version", last_acc=99),
        synthetic_record("recipe-of-another-version", last_acc=99, config=Config()),
    ]
    for record in [shown, *left_out]:
        store.write(record)
    pages = [path.read_text(encoding="utf-8") for path in write(store, store.root.parent / "pages")]
    assert all("99.0" not in page for page in pages)
    assert rows([shown])[0].seeds == (0,)
    assert "40.00" in pages[0]


def test_damaged_and_foreign_files_are_named(store: RecordStore, tmp_path: Path) -> None:
    path = store.write(sample()[0])
    store.write(sample()[1])
    path.write_text("{")
    (store.root / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"(?s)damaged records:.*notes\.txt: not a record.*0\.json: is cut short"):
        write(store, tmp_path / "pages")
    assert not (tmp_path / "pages").exists()


def test_nothing_to_show_is_an_error(store: RecordStore, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no records of any recipe's present configuration in .*make some with `reclaim run`"):
        write(store, tmp_path / "pages")
    store.write(synthetic_record("slca", config=RECIPES["slca"].config.set(["lr=0.77"])))
    with pytest.raises(ValueError, match="no records of any recipe's present configuration"):
        write(store, tmp_path / "pages")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="is a file"):
        write(RecordStore(tmp_path / "file"), tmp_path / "pages")


def test_every_stream_has_its_place() -> None:
    records = [synthetic_record("slca", stream) for stream in reversed(STREAMS)]
    assert [row.stream for row in rows(records)] == list(STREAMS)
