"""docs/fidelity.md against the code: every fact is there, its default is the argument's, its tests and settings exist."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import cast

import pytest
from reclaim import strategies
from reclaim.benchmark.config import Alignment, Annealing, Config, Lora, Olor

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
CALLS = re.findall(r"`(\w+\([^`]*\))`", PAGE)
TESTS = re.findall(r"`(test_\w+)\.py::(test_\w+)`", PAGE)
SETTINGS = re.findall(r"setting `([\w.]+)`", PAGE)
PARTS = {"alignment": Alignment, "olor": Olor, "annealing": Annealing, "lora": Lora}


def test_every_fact_has_its_place() -> None:
    assert {int(number) for number in re.findall(r"\*\*F(\d+)\*\*", PAGE)} == set(range(1, 27))


@pytest.mark.parametrize("call", CALLS)
def test_the_default_on_the_page_is_the_arguments(call: str) -> None:
    node = cast(ast.Call, ast.parse(call, mode="eval").body)
    called = Config if ast.unparse(node.func) == "Config" else getattr(strategies, ast.unparse(node.func))
    parameters = inspect.signature(called).parameters
    for keyword in node.keywords:
        assert parameters[str(keyword.arg)].default == ast.literal_eval(keyword.value), call


@pytest.mark.parametrize(("file", "test"), TESTS, ids=str)
def test_the_tests_on_the_page_exist(file: str, test: str) -> None:
    assert re.search(rf"^ *def {test}\(", (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("setting", SETTINGS)
def test_the_settings_on_the_page_exist(setting: str) -> None:
    *part, name = setting.split(".")
    assert name in (PARTS[part[0]] if part else Config).__dataclass_fields__
