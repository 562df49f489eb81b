"""docs/fidelity.md against the code: every fact is there, its default is the argument's, its tests exist; and F2, which is the runner's."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import NoReturn, cast

import numpy as np
import pytest
import torch
from reclaim import strategies
from reclaim.benchmark import runner
from reclaim.benchmark.config import Alignment, Annealing, Config, Lora, Olor, Seeding
from reclaim.benchmark.streams import find_stream

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


@pytest.mark.parametrize(("seeding", "torch_seeds"), [("class_order", [1, 1]), ("class_order+initialisation", [5, 6])])
def test_f2_what_a_seed_varies(seeding: Seeding, torch_seeds: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    class EnoughSeenError(Exception):
        pass

    def stop(config: Config) -> NoReturn:
        seen.append(torch.initial_seed())
        raise EnoughSeenError

    orders: list[list[int]] = []
    seen: list[int] = []
    monkeypatch.setattr(runner, "make_benchmark", lambda stream, order, part: orders.append(list(order)))
    monkeypatch.setattr(runner, "make_model", stop)
    for seed in (5, 6):
        with pytest.raises(EnoughSeenError):
            runner.run("slca", Config(seeding=seeding), find_stream("split-quickdraw-10"), seed)
    assert orders == [np.random.RandomState(seed).permutation(100).tolist() for seed in (5, 6)]
    assert seen == torch_seeds
