"""What an import loads: torch alone for the optimizers and the plain losses.
And the lazy names of reclaim.strategies.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from reclaim import strategies

HEAVY = {"avalanche", "matplotlib", "pytest", "scipy", "sklearn", "tensorboard", "timm", "torchvision", "wandb"}
PACKAGE = Path(str(strategies.__file__)).parent


def modules_after(*statements: str) -> list[set[str]]:
    """Names in ``sys.modules`` of a new interpreter after each of the statements."""
    lines = ["import json, sys", "loaded = []"]
    for statement in statements:
        lines += [statement, "loaded.append(list(sys.modules))"]
    code = "\n".join([*lines, "print(json.dumps(loaded))"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [set(names) for names in json.loads(done.stdout)]


def top_level(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    ("statement", "own"),
    [
        ("import reclaim.strategies.olor", {"olor"}),
        ("from reclaim.strategies import OLORSGD, OLORAdam", {"olor"}),
        ("import reclaim.strategies.losses", {"checks", "losses"}),
        ("from reclaim.strategies import epg_loss, focal_loss, symmetric_cross_entropy", {"checks", "losses"}),
        ("from reclaim.strategies import ClassGaussians", {"gaussians"}),
    ],
)
def test_torch_is_enough(statement: str, own: set[str]) -> None:
    of_torch, loaded = modules_after("import torch", statement)
    assert not top_level(loaded) & HEAVY
    ours = {"reclaim", "reclaim.strategies", *(f"reclaim.strategies.{name}" for name in own)}
    more = loaded - of_torch
    assert ours <= more
    assert (
        len(more) <= len(ours) + 3
    )  # some version of torch may not have loaded a module of the standard library that we import
    assert top_level(more) <= {"reclaim", *sys.stdlib_module_names}


def test_the_package_itself_loads_nothing() -> None:
    (loaded,) = modules_after("import reclaim.strategies")
    assert not top_level(loaded) & {*HEAVY, "torch", "numpy"}
    assert {name for name in loaded if name.startswith("reclaim.strategies")} == {"reclaim.strategies"}


def names_for_type_checkers() -> dict[str, str]:
    """Name -> module in the TYPE_CHECKING block of the package."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_the_lazy_names_are_those_that_type_checkers_see() -> None:
    assert names_for_type_checkers() == strategies._MODULE_OF
    assert sorted(strategies.__all__) == sorted(strategies._MODULE_OF)
    assert set(strategies.__all__) <= set(dir(strategies))


@pytest.mark.parametrize("name", strategies.__all__)
def test_every_name_resolves(name: str) -> None:
    assert getattr(strategies, name) is getattr(
        import_module(f"reclaim.strategies.{strategies._MODULE_OF[name]}"), name
    )


def test_no_name_is_that_of_a_module() -> None:
    """Importing a submodule sets the attribute of its name in the package: a lazy name like that would be lost."""
    assert not {path.stem for path in PACKAGE.glob("*.py")} & set(strategies.__all__)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"module 'reclaim.strategies' has no attribute 'OLORAdamW'"):
        _ = strategies.OLORAdamW  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match=r"cannot import name 'OLORAdamW' from 'reclaim.strategies'"):
        from reclaim.strategies import OLORAdamW  # type: ignore[attr-defined]  # noqa: F401
