"""The fidelity page: every fact is there, its defaults, tests and settings are the code's,
and its effects are those of the records.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from reclaim import strategies
from reclaim.benchmark import config as config_module
from reclaim.benchmark.config import Config
from reclaim.benchmark.papers.facts import FACTS, FactError, Note, Switch, read_facts
from reclaim.benchmark.papers.headers import papers
from reclaim.benchmark.recipes import RECIPES, Recipe, recipes_of
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.report.fidelity import effect, page, std_ratio, turned_by
from reclaim.benchmark.stats.estimates import mean_interval
from scipy.stats import pearsonr
from small_runs import synthetic_record

ROOT = Path(__file__).parents[2]
SWITCHES = {fact.id: fact for fact in FACTS if isinstance(fact, Switch)}
TURNED = [recipe for recipe in recipes_of("embedded").values() if recipe.fact]


def settings(kind: type, prefix: str = "") -> Iterator[str]:
    """Every name that stands for one value in `reclaim run --set`."""
    for name, hint in typing.get_type_hints(kind).items():
        part = next((t for t in typing.get_args(hint) if dataclasses.is_dataclass(t)), None)
        yield from settings(cast(type, part), f"{prefix}{name}.") if part else (f"{prefix}{name}",)


def setting(config: Config, name: str) -> Any:
    return functools.reduce(lambda part, key: getattr(part, key, None), name.split("."), cast(Any, config))


# --- the table against the code ---


def test_every_number_stands_there_once() -> None:
    ids = [fact.id for fact in FACTS]
    assert len(set(ids)) == len(ids)
    numbers = sorted(int(i[1:]) for i in ids if re.fullmatch(r"F\d+", i))
    assert numbers == list(range(1, len(numbers) + 1))
    assert {fact.paper for fact in FACTS} == set(papers())


@pytest.mark.parametrize("call", [call for switch in SWITCHES.values() for call in switch.arguments])
def test_the_default_on_the_page_is_the_arguments(call: str) -> None:
    node = cast(ast.Call, ast.parse(call, mode="eval").body)
    called = getattr(config_module, ast.unparse(node.func), None) or getattr(strategies, ast.unparse(node.func))
    parameters = inspect.signature(called).parameters
    assert node.keywords
    for keyword in node.keywords:
        assert parameters[str(keyword.arg)].default == ast.literal_eval(keyword.value), call


@functools.cache
def functions_in(file: str) -> set[str]:
    """The names of all functions in a file of tests."""
    (path,) = (ROOT / "tests").rglob(file)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("test", [test for fact in FACTS for test in fact.tests])
def test_the_tests_on_the_page_exist(test: str) -> None:
    file, name = test.split("::")
    assert name in functions_in(file)


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_every_switch_is_tested(switch: Switch) -> None:
    assert switch.tests


@pytest.mark.parametrize("name", [name for switch in SWITCHES.values() for name in switch.settings])
def test_the_settings_on_the_page_exist(name: str) -> None:
    assert name in set(settings(Config))


@pytest.mark.parametrize("recipe", TURNED, ids=lambda recipe: recipe.name)
def test_a_recipe_turns_settings_of_its_switch_alone(recipe: Recipe) -> None:
    config, default = recipe.config, RECIPES[recipe.name.rpartition(".")[0]].config
    turned = [name for name in settings(Config) if setting(config, name) != setting(default, name)]
    assert turned
    assert set(turned) <= set(SWITCHES[str(recipe.fact)].settings)


@pytest.mark.parametrize("switch", SWITCHES.values(), ids=SWITCHES)
def test_a_switch_is_turned_or_says_why_it_cannot_be(switch: Switch) -> None:
    assert turned_by(switch) or switch.cannot_act


# --- facts.toml ---

TWO = """
[F1]
paper = "slca"
title = "the ridge"
text = "silent"
code = "is added"
default = "code"
arguments = ["SLCA()"]
tests = ["test_slca.py::test_ridge"]
spread = true

["SLCA++"]
paper = "slca"
note = "Another paper."
"""


def read(folder: Path, text: str) -> tuple[Switch | Note, ...]:
    path = folder / "facts.toml"
    path.write_text(text, encoding="utf-8")
    return read_facts(path)


def test_facts_are_read_in_their_order(tmp_path: Path) -> None:
    tests = ("test_slca.py::test_ridge",)
    switch = Switch("F1", "slca", "the ridge", "silent", "is added", "code", ("SLCA()",), tests=tests, spread=True)
    assert read(tmp_path, TWO) == (switch, Note("SLCA++", "slca", "Another paper."))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('text = "silent"', 'txet = "silent"', "F1: unknown key 'txet', which is 'silent': did you mean text"),
        ('text = "silent"', "", "F1: text is missing: add a text"),
        ('text = "silent"', 'text = ""', "F1: text is '': write a text that is not empty"),
        ('"SLCA()"', "1", r"F1: arguments is \[1\]: write a list of texts"),
        ("spread = true", "spread = 1", "F1: spread is 1: write true or false"),
        ("test_slca.py::test_ridge", "test_ridge", r"F1: tests has 'test_ridge': write test_<file>\.py::test_<name>"),
        ('"slca"\nnote', '"slcb"\nnote', "SLCA\\+\\+: paper is 'slcb': write one of l2p, .*slca, .*aepg"),
        ("note =", 'title = "x"\nnote =', "SLCA\\+\\+: unknown key 'title', which is 'x': did you mean"),
        ('["SLCA++"]', "[F1]", "is not TOML: Cannot declare"),
    ],
)
def test_a_bad_fact_is_named(old: str, new: str, complaint: str, tmp_path: Path) -> None:
    assert TWO.count(old) == 1
    with pytest.raises(FactError, match=rf"^facts\.toml.*{complaint}"):
        read(tmp_path, TWO.replace(old, new))


# --- measured effects ---


def runs(recipe: str, accuracies: dict[int, float], stream: str = "split-quickdraw-10") -> list[Record]:
    return [synthetic_record(recipe, stream, seed, last_acc) for seed, last_acc in accuracies.items()]


def run_with(recipe: str, accuracy: list[list[float]], test_counts: list[int]) -> Record:
    whole = synthetic_record(recipe)
    return Record({**whole.result, "accuracy": accuracy, "test_counts": test_counts}, whole.provenance)


def measured(records: list[Record], recipe: str) -> str:
    """The last cell of the row that names the recipe."""
    (row,) = (line for line in page(records).splitlines() if line.startswith("|") and f"(`{recipe}`" in line)
    return row.split(" | ")[-1].partition("<br>Test: ")[0]


def test_the_effect_is_paired_by_seed_on_the_home_stream() -> None:
    default, turned = {0: 40.0, 1: 50.0, 2: 60.0, 3: 70.0, 7: 99.0}, {0: 41.0, 1: 50.5, 2: 62.0, 3: 70.0, 8: 1.0}
    elsewhere = [
        *runs("slca", {0: 1.0}, "split-quickdraw-5"),
        *runs("slca.f3", {0: 99.0}, "split-quickdraw-5"),
        *runs("slca.f4", {0: 2.0}),
    ]
    records = [*elsewhere, *runs("slca.f3", turned), *runs("slca", default)]
    found = effect(RECIPES["slca.f3"], records)
    expected = mean_interval([1.0, 0.5, 2.0, 0.0])
    assert found is not None
    assert found.interval() == pytest.approx(expected.interval)
    assert found.value == pytest.approx(expected.mean)
    assert found.seeds == (0, 1, 2, 3)
    assert measured(records, "slca.f3") == "+0.88 [-0.48, +2.23], n = 4 (`slca.f3`)"
    assert measured(records, "slca.f4") == "-38.00, n = 1 (`slca.f4`)"  # one seed has no interval
    assert measured(records, "slca.f6") == "not run (`slca.f6`)"


def test_the_home_stream_of_a_switch_may_be_another() -> None:
    records = [*runs("slca", {0: 50.0, 1: 50.0}), *runs("slca.f5", {0: 10.0, 1: 10.0})]
    assert measured(records, "slca.f5") == "not run (`slca.f5` on split-quickdraw-uneven)"
    uneven = [
        *runs("slca", {0: 50.0, 1: 50.0}, "split-quickdraw-uneven"),
        *runs("slca.f5", {0: 50.0, 1: 50.0}, "split-quickdraw-uneven"),
    ]
    assert measured([*records, *uneven], "slca.f5") == "0, n = 2 (`slca.f5` on split-quickdraw-uneven)"


@pytest.mark.parametrize(("turned", "value"), [("lora-aepg.f22", 50.0), ("slca-olor.anchor", 25.0)])
def test_aepg_averages_over_tasks_and_the_others_over_images(turned: str, value: float) -> None:
    default = turned.rpartition(".")[0]
    records = [run_with(name, [[first], [first, 0.0]], [10, 30]) for name, first in ((turned, 100.0), (default, 0.0))]
    found = effect(RECIPES[turned], records)
    assert found is not None
    assert found.value == value


def test_next_to_nothing_has_as_many_digits_as_it_takes() -> None:
    records = [run_with(name, [[accuracy]], [10]) for name, accuracy in (("slca", 50.0), ("slca.f3", 49.996))]
    assert measured(records, "slca.f3") == "-0.004, n = 1 (`slca.f3`)"


def test_the_ratio_of_standard_deviations_is_shown_for_what_seeds_vary() -> None:
    default, turned = {0: 40.0, 1: 50.0, 2: 60.0, 3: 70.0}, {0: 42.0, 1: 46.0, 2: 52.0, 3: 55.0}
    records = [*runs("slca", default), *runs("slca.f2", turned), *runs("slca.f3", turned)]
    ratio = std_ratio(turned, default)
    assert ratio is not None
    shown = f"standard deviation over seeds {ratio[0]:.2f} [{ratio[1][0]:.2f}, {ratio[1][1]:.2f}] times the default's"
    assert measured(records, "slca.f2") == f"-6.25 [-17.60, +5.10], n = 4, {shown} (`slca.f2`)"
    assert "deviation" not in measured(records, "slca.f3")


@pytest.mark.parametrize("n", [3, 10])
def test_the_interval_of_the_ratio_is_where_the_test_of_morgan_and_pitman_says_5_percent(n: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.normal(50, 2, n)
    y = 0.4 * x + rng.normal(0, 1, n)
    a, b = {**dict(enumerate(x)), 98: 0.0}, {**dict(enumerate(y)), 99: 0.0}
    found = std_ratio(a, b)
    assert found is not None
    value, (low, high) = found
    assert value == pytest.approx(np.std(x, ddof=1) / np.std(y, ddof=1))
    assert low < value < high
    for end in (low, high):
        assert pearsonr(x / end + y, x / end - y).pvalue == pytest.approx(0.05)
    inverse = std_ratio(b, a)
    assert inverse is not None
    assert inverse[1] == pytest.approx((1 / high, 1 / low))


def test_no_ratio_without_spread_or_seeds() -> None:
    spread, none = {0: 1.0, 1: 2.0, 2: 4.0}, {0: 0.1, 1: 0.1, 2: 0.1}
    assert std_ratio(spread, none) is std_ratio(none, spread) is None
    assert std_ratio(spread, {0: 1.0, 1: 2.0, 5: 4.0}) is None


# --- the page ---


def test_the_same_records_give_the_same_page() -> None:
    records = [
        record for recipe in ("slca", "slca.f2", "slca.f3") for record in runs(recipe, {0: 40.5, 1: 51.0, 2: 52.5})
    ]
    assert page(records) == page(records[::-1])


def test_the_tables_are_whole() -> None:
    text = page([])
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 4 + 2 * len({switch.paper for switch in SWITCHES.values()}) + len(SWITCHES)
    assert {row.count("|") for row in rows} == {5}
    assert all(f"(`{recipe.name}`" in text for recipe in TURNED)
    assert all(f"**{fact.id}** (note)" in text for fact in FACTS if fact.id not in SWITCHES)
    assert text.endswith(".\n")
    assert not text.endswith("\n\n")


def test_the_page_in_docs_says_what_the_table_says() -> None:
    """All but the effects and their picture, which `reclaim leaderboard` writes from the records."""

    def without_effects(text: str) -> list[str]:
        lines = [line.rpartition(" | ")[0] if line.startswith("|") else line for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith("![")]

    assert without_effects((ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")) == without_effects(page([]))
