"""The page on why published numbers disagree: paths of paired differences, and re-runs beside the papers' numbers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest
from reclaim.benchmark.papers.facts import FACTS, Switch
from reclaim.benchmark.recipes import RECIPES
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.report.disagree import METHODS, page, path, paths, picture, places
from small_runs import synthetic_record

PILOT = ["slca@authors.f60", "slca@authors.f61", "slca@authors.f62", "slca@authors.f63"]
MAMMOTH = ["slca@authors.f66", "slca@authors.f67", "slca@authors.f68"]


def runs(recipe: str, accuracies: dict[int, float]) -> list[Record]:
    return [synthetic_record(recipe, RECIPES[recipe].home, seed, accuracy) for seed, accuracy in accuracies.items()]


AUTHORS = {0: 60.0, 1: 62.0, 2: 64.0}


def shifted(by: float) -> dict[int, float]:
    return {seed: value + by for seed, value in AUTHORS.items()}


def whole(pilot: float) -> list[Record]:
    """The path to PILOT, whose single steps sum to +1."""
    steps = zip(PILOT, (-1.0, 2.0, -3.0, 3.0), strict=True)
    return [
        *runs("slca@authors", AUTHORS),
        *(record for name, by in steps for record in runs(name, shifted(by))),
        *runs("slca@pilot", shifted(pilot)),
    ]


# --- paths ---


def test_the_steps_are_what_the_end_has() -> None:
    pilot, mammoth = paths("slca", [])
    assert (pilot.start.name, pilot.end.name, mammoth.end.name) == ("slca@authors", "slca@pilot", "slca@mammoth")
    assert (list(pilot.steps), pilot.rest) == (PILOT, ())
    assert (list(mammoth.steps), mammoth.rest) == (MAMMOTH, ("alignment.task_index=true",))
    assert (pilot.total, pilot.left, pilot.at) == (None, None, None)
    assert set(pilot.steps.values()) == {None}


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_run_a_method_has_its_path(method: str) -> None:
    ends = [name for name in RECIPES if re.fullmatch(rf"{method}@\w+", name)]
    start = f"{method}@authors" if f"{method}@authors" in RECIPES else method
    assert [found.end.name for found in paths(method, [])] == [name for name in ends if name != start]


def test_the_bars_sum_to_the_whole() -> None:
    found = path(RECIPES["slca@authors"], RECIPES["slca@pilot"], whole(pilot=-2.5))
    steps = [difference.value for difference in found.steps.values() if difference]
    assert found.total is not None
    assert found.left is not None
    assert len(steps) == 4
    assert found.total.value == pytest.approx(sum(steps) + found.left.value, abs=1e-9)
    assert found.total.value == pytest.approx(-2.5)
    assert found.left.value == pytest.approx(-3.5)
    assert found.at == pytest.approx(62.0)


def test_what_is_left_counts_seeds_that_all_have() -> None:
    records = [r for r in whole(-2.5) if (r.recipe, r.seed) != (PILOT[0], 1)]
    found = path(RECIPES["slca@authors"], RECIPES["slca@pilot"], records)
    first = found.steps[PILOT[0]]
    assert first is not None
    assert first.seeds == (0, 2)
    assert found.total is not None
    assert found.total.seeds == (0, 1, 2)
    assert found.left is not None
    assert found.left.seeds == (0, 2)


def test_other_streams_and_recipes_do_not_count() -> None:
    records = [synthetic_record("slca@pilot", "split-quickdraw-20", 0, 90.0), *runs("slca", AUTHORS)]
    assert paths("slca", records)[0].total is None


# --- the page ---


def test_without_records_the_page_is_whole() -> None:
    text = page([])
    assert picture([]) == ""
    assert "![" not in text
    assert all(f"`{name}`" in text for name in (*PILOT, *MAMMOTH, "slca@pilot", "slca@mammoth"))
    assert text.count("| not run | - | 0 |") >= len(PILOT) + len(MAMMOTH) + 4
    assert text.endswith("|\n")


def test_with_records_the_numbers_stand_there() -> None:
    text = page(whole(pilot=-2.5))
    assert "![" in text
    assert "`slca@authors.f61` | +2.00 | the same in 3 seeds | 3 |\n" in text
    assert "**all at once**, from 62.00 to 59.50 | `slca@pilot` | -2.50 | the same in 3 seeds | 3 |\n" in text
    assert text == page(whole(pilot=-2.5)[::-1])


def test_what_cannot_act_is_named() -> None:
    text = page([])
    for fact in FACTS:
        if isinstance(fact, Switch) and fact.paper == "slca" and fact.cannot_act:
            assert f"{fact.id} ({fact.title}): {fact.cannot_act}" in text
    assert re.search(r"Cannot act on drawings.* F60 .*F64 .*F69 ", text)


def test_the_picture_is_svg_with_a_row_for_each_bar() -> None:
    drawn = picture(whole(pilot=-2.5))
    root = ElementTree.fromstring(drawn)
    names = {"svg": "http://www.w3.org/2000/svg"}
    texts = [element.text or "" for element in root.iterfind("svg:text", names)]
    assert [text for text in texts if text.startswith(("F6", "slca@", "together"))] == [
        "slca@authors",
        "F60 the backbone and its norm",
        "F61 batch size",
        "F62 epochs of alignment",
        "F63 epochs",
        "together, and the rest",
        "slca@pilot",
    ]
    assert len(root.findall("svg:path", names)) == 5
    assert len(root.findall("svg:circle", names)) == 2


def test_paths_begin_at_one_place_in_the_picture_whatever_their_accuracy() -> None:
    far = [*runs("dualprompt", {0: 20.0, 1: 21.0}), *runs("dualprompt@twin", {0: 17.5, 1: 18.5})]
    root = ElementTree.fromstring(picture([*whole(pilot=-2.5), *far]))
    dots = [float(dot.get("cx", "")) for dot in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert len(dots) == 4
    assert dots[:2] == dots[2:]  # the same -2.5 from 62.0 and from 20.5
    assert dots[1] < dots[0]


# --- re-runs ---


def test_copied_digits_are_marked_and_do_not_count() -> None:
    place = next(p for p in places() if (p.method, p.stream) == ("SLCA", "split-imagenet-r-10"))
    assert place.published == {"last_acc": 77.0, "inc_acc": 81.17}
    assert [run.source for run in place.runs if not run.counts] == ["FACET"]
    text = page([])
    assert text.count("**copied: the paper's digits, not counted**") == 1
    others = [run.last_acc for run in place.runs if run.counts]
    assert 77.0 not in others
    assert f"| SLCA | `split-imagenet-r-10` | Last-Acc | 77.00 | {len(others)} | " in text


def test_the_same_digits_count_once() -> None:
    place = next(p for p in places() if (p.method, p.stream) == ("SLCA", "split-cifar100-10"))
    digits = [(run.last_acc, run.inc_acc) for run in place.runs]
    assert len(set(digits)) == len(digits)
    assert 89.3 in {last for last, _ in digits}


def test_the_numbers_of_other_methods_own_papers() -> None:
    found = {(p.method, p.stream): p.published.get("last_acc") for p in places()}
    assert found["L2P", "split-cifar100-10"] == 83.83
    assert found["DualPrompt", "split-imagenet-r-10"] == 68.13
    assert found["InfLoRA", "split-imagenet-r-10"] == 75.65
    own = next(p for p in places() if (p.method, p.stream) == ("L2P", "split-cifar100-10"))
    assert any("F71" in run.source for run in own.runs)


def test_infloras_seeds_over_images_and_over_tasks() -> None:
    text = page([])
    assert "| images | 75.34 ± 0.25 | 80.60 ± 0.48 |\n| tasks | 74.81 ± 0.39 | 80.19 ± 0.62 |" in text
    assert "| images | 86.33 ± 0.81 | 91.18 ± 0.40 |\n| tasks | 86.33 ± 0.81 | 91.18 ± 0.40 |" in text
