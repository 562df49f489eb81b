"""A verdict on other data, another split, changed settings or a natural reading says so, and does not count."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from reclaim.benchmark.papers.protocols import Protocol, find_cell, protocol_of, run_names
from reclaim.benchmark.papers.published import cells
from reclaim.benchmark.records.record import UNVERIFIED, Record, compare, image_sets, validate
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.report.show import show_cells
from reclaim.benchmark.verdicts.cells import CellCheck, check_cells, judge_tables
from reclaim.benchmark.verdicts.counting import current, merge
from small_runs import synthetic_record

CELL = next(cell for cell in cells() if cell.id == "slca/main/slca/split-imagenet-r-10/last_acc")
OTHER = "NOT the papers' split: 0.8 / 0.2 by seed 0, for there is neither a train.txt nor a train/ in imagenet-r/"


def runs(
    name: str = CELL.id,
    settings: tuple[str, ...] = (),
    change: Callable[[Record], None] = lambda record: None,
    off: float = 0.0,
) -> list[Record]:
    """Five runs whose mean is the published one, or that far from it."""
    recipe, stream, _ = find_cell(name)
    cell = next(cell for cell in cells() if cell.id == name)
    made = []
    for seed in range(5):
        value = cell.published.mean + off + 0.05 * (seed - 2)
        record = synthetic_record(recipe.name, stream.name, seed, value, config=recipe.config.set(settings))
        change(record)
        made.append(record)
    return made


def remarked(remark: str) -> Callable[[Record], None]:
    return lambda record: record.result.update(remarks=[remark])


def judged(records: list[Record], name: str = CELL.id) -> tuple[CellCheck, str]:
    """The check of the cell, and the sentence of a table that has no other."""
    check = check_cells(records)[name]
    (table,) = judge_tables({name: check})
    return check, table["sentence"]


def test_a_run_of_the_papers_own_counts() -> None:
    check, sentence = judged(runs())
    assert (check.verdict, check.qualifiers, check.words) == ("reproduced", [], "reproduced")
    assert ": 1 of " in sentence
    assert "qualified" not in sentence


@pytest.mark.parametrize(
    ("settings", "change", "qualifier"),
    [
        ((), remarked(OTHER), "another split"),
        (
            (),
            remarked("the split is that of train.txt and test.txt: the papers' if"),
            "split not verified",
        ),
        ((), remarked("the split is that of the folders train/ and val/: the papers' if"), "split not verified"),
        ((), remarked(UNVERIFIED), "unverified images"),
        (("precision=bf16",), lambda record: None, "changed settings: precision=bf16 instead of fp32"),
        ((), lambda record: record.result.update(varied="class_order+initialisation"), "seeds of another kind"),
    ],
)
def test_a_qualified_verdict_does_not_count(
    settings: tuple[str, ...], change: Callable[[Record], None], qualifier: str
) -> None:
    check, sentence = judged(runs(settings=settings, change=change))
    assert (check.verdict, check.qualifiers) == ("reproduced", [qualifier])
    assert check.words == f"reproduced ({qualifier})"
    assert check.row()[5] == check.words
    assert json.loads(json.dumps(check.as_dict()))["qualifiers"] == [qualifier]
    assert ": 0 of " in sentence
    assert sentence.endswith("(1 qualified and not counted as reproduced)")


def test_a_natural_reading_is_named() -> None:
    name = next(cell.id for cell in cells() if cell.paper == "aepg" and cell.stream.startswith("split-food101"))
    protocol = protocol_of(name.rpartition("/")[0])
    assert protocol.readings[-1] == "stream"
    check, _ = judged(runs(name), name)
    assert check.qualifiers[0].startswith(f"natural reading: {', '.join(protocol.readings[:3])}")
    # every source "our reading" is one
    for run in run_names():
        protocol = protocol_of(run)
        ours = [key for key, (_, source) in getattr(protocol, "settings", {}).items() if "our reading" in source]
        assert not ours or set(ours) <= set(protocol.readings)


@pytest.mark.parametrize(("off", "verdict"), [(0.0, "reproduced"), (9.0, "above"), (-9.0, "below")])
@pytest.mark.parametrize("method", ["dualprompt", "bic"])
def test_a_natural_reading_of_the_setting_is_said_in_the_verdict(off: float, verdict: str, method: str) -> None:
    """F71: never just "above" or "below", wherever a verdict is shown."""
    name = f"slca/main/{method}/split-cifar100-10/last_acc"
    records = runs(name, off=off)
    check, sentence = judged(records, name)
    assert check.verdict == verdict
    assert check.qualifiers[0] == "setting: natural reading"
    assert check.words == check.row()[5] == f"{verdict} ({'; '.join(check.qualifiers)})"
    assert check.as_dict()["qualifiers"][0] == "setting: natural reading"
    assert ": 0 of " in sentence
    assert f"{verdict} (setting: natural reading" in show_cells(name.rpartition("/")[0], records)


def test_what_two_numbers_are_stands_beside_both() -> None:
    """Four fields, in the table, in JSON and in what `reclaim show` prints; a mixture is said, and moves no verdict."""
    name = "slca/main/slca/split-cifar100-10/last_acc"
    (plain, _), records = judged(runs(name), name), runs(name)
    for record in records:
        record.result["class_order"] = sorted(record.result["class_order"])
    check, _ = judged(records, name)
    assert (check.verdict, check.qualifiers) == (plain.verdict, plain.qualifiers)
    said = (
        "the order of the classes is shuffled by numpy seed in the published number and natural in ours: not the same"
    )
    assert said in check.remarks
    document = json.loads(json.dumps(check.as_dict()))
    for side, order, split_sha256 in (
        ("published", "shuffled by numpy seed", "unknown"),
        ("ours", "natural", records[0].result["data_sha256"]),
    ):
        found = {key: document[side][key] for key in ("varied", "class_order", "averaged", "split", "split_sha256")}
        assert found == {
            **{"varied": "class_order", "class_order": order, "averaged": "images"},
            **{"split": "official", "split_sha256": split_sha256},
        }
    published, ours = check.sides
    assert published.startswith(
        "published: seeds vary class order; class order shuffled by numpy seed; mean over images"
    )
    assert ours.startswith("ours: seeds vary class order; class order natural; mean over images; split official (")
    assert document["sides"] == [published, ours]
    shown = show_cells(name.rpartition("/")[0], records)
    assert "published: seeds vary class order" in shown
    assert "ours: seeds vary class order; class order natural" in shown


def test_where_nothing_was_run_nothing_is_said_to_have_failed() -> None:
    checks = check_cells([])
    for table in judge_tables(checks):
        assert table["sentence"] == f"{table['table']}: {table['cells']} not run"
        assert table["reproduced"] == table["qualified"] == 0


GRID = "aepg/table-2/lora-focal/split-imagenet-r-10/task_avg_last_acc"


def of_grid(values: dict[int, list[float]]) -> list[Record]:
    """Runs of the candidates of the grid of :data:`GRID`, by their place: the accuracies of seeds 0, 1, ..."""
    recipe, stream, _ = find_cell(GRID)
    protocol = protocol_of(GRID.rpartition("/")[0])
    assert isinstance(protocol, Protocol)
    return [
        synthetic_record(recipe.name, stream.name, seed, value, config=protocol.configs[place])
        for place, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


def test_the_best_of_a_grid_is_chosen_on_the_seeds_that_all_have() -> None:
    """One lucky seed does not make a candidate the best."""
    check, _ = judged(of_grid({0: [81.8, 80.0, 79.7], 1: [81.5], 2: [70.0, 70.0]}), GRID)
    assert len(check.runs) == 3
    assert check.in_part is False


def test_a_grid_in_part_does_not_fail_the_check() -> None:
    check, _ = judged(of_grid({0: [20.0, 20.5, 19.5]}), GRID)
    assert check.verdict == "below"
    assert "the best of 1 of the grid's 3" in check.words
    assert check.in_part


# --- one set of images in several layouts ---


def of_layout(sha256: str, *aliases: str, remark: str = "") -> Callable[[Record], None]:
    return lambda record: record.result.update(
        data_sha256=sha256 * 64, data_aliases=[alias * 64 for alias in aliases], remarks=[remark] if remark else []
    )


def test_a_store_pooled_from_three_layouts_is_judged_as_one(tmp_path: Path) -> None:
    """Two of today's layouts, and a record of an earlier version, which has no alias."""
    lists, folders = runs(change=of_layout("a", "b")), runs(change=of_layout("a", "c"))
    (earlier, *_) = runs(change=lambda record: record.result.update(data_sha256="c" * 64))
    pooled = [earlier, lists[1], folders[2], lists[3], folders[4]]
    assert len(image_sets(pooled)) == 1
    stores = [RecordStore(tmp_path / name) for name in "xyz"]
    for store, some in zip(stores, (pooled[:1], pooled[1:3], pooled[3:]), strict=True):
        for record in some:
            validate({"result": record.result, "provenance": record.provenance})
            store.write(record)
    records, _, notes = merge(stores)
    assert notes == []
    check, sentence = judged(current(records))
    assert (check.problem, check.verdict) == (None, "reproduced")
    assert ": 1 of " in sentence


@pytest.mark.parametrize("verified_first", [True, False])
def test_of_a_run_twice_the_one_on_verified_images_counts(verified_first: bool, tmp_path: Path) -> None:
    verified, unverified = runs()[0], runs(change=remarked(UNVERIFIED))[0]
    stores = [RecordStore(tmp_path / name) for name in "xy"]
    for store, record in zip(stores, (verified, unverified) if verified_first else (unverified, verified), strict=True):
        store.write(record)
    records, _, (note,) = merge(stores)
    assert [record.result.get("remarks") for record in records] == [None]
    assert note.startswith(f"counted once: {stores[verified_first].root}")


def test_other_images_are_not_pooled() -> None:
    mixed = [*runs(change=of_layout("a", "b"))[:3], *runs(change=of_layout("d", "e"))[3:]]
    assert len(image_sets(mixed)) == 2
    check, _ = judged(mixed)
    assert check.problem is not None
    assert "2 sets of images" in check.problem
    # known under one name by the first, under another by the last, and under both by the third
    chained = [runs(change=of_layout(*names))[0] for names in (("a",), ("d",), ("e", "a", "d"))]
    assert len(image_sets(chained)) == 1


def test_one_run_in_two_layouts_agrees_with_itself() -> None:
    lists, folders = (
        runs(change=of_layout("a", alias, remark=f"the split is that of {alias}"))[0] for alias in ("b", "c")
    )
    assert compare(lists, folders).agree
    elsewhere = runs(change=of_layout("d", "e"))[0]
    assert "data_sha256 differs" in str(compare(lists, elsewhere))
