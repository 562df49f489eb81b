"""Recipes of one's own: from a file or a module to a configuration, and what is wrong with them."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import Component, Config, config_hash, differences, from_dict
from reclaim.benchmark.recipes import RECIPES, RecipeError
from reclaim.benchmark.training.components import ComponentError, component_of
from reclaim.benchmark.training.own import recipe_of

METHOD = """
from functools import partial

import torch
from avalanche.training.plugins import SupervisedPlugin
from helper_of_mine import FACTOR


class Plugin(SupervisedPlugin):
    def __init__(self, strength: float = FACTOR, names=()):
        super().__init__()
        self.strength = strength


class Loss(torch.nn.CrossEntropyLoss):
    pass


class Optimizer(torch.optim.SGD):
    def __init__(self, params, momentum=0.0):
        super().__init__(params, lr=0.01, momentum=momentum)


def backbone(width):
    return torch.nn.Linear(width, width)


def not_a_plugin():
    return 5


recipe = {"base": "linear", "plugins": [Plugin, partial(Plugin, strength=2.0)], "loss": Loss}


def build():
    return {"name": "built", "base": "slca", "optimizer": {"path": "my_own:Optimizer", "arguments": {"momentum": 0.5}}}


def fails():
    raise RuntimeError("out of ideas")


number = 5
part = partial(Plugin, strength=2.0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a method in it, which is the working directory."""
    (tmp_path / "my_own.py").write_text(METHOD)
    (tmp_path / "helper_of_mine.py").write_text("FACTOR = 0.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def write(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_starts_from_a_recipe(folder: Path) -> None:
    path = write(folder, 'base = "slca"\n[settings]\nlr = 0.5\nalignment.tau = 0.2\n')
    mine = recipe_of(path)
    assert (mine.name, mine.home, mine.tier) == ("mine", RECIPES["slca"].home, "embedded")
    assert mine.config == RECIPES["slca"].config.set(["lr=0.5", "alignment.tau=0.2"])
    assert mine.hyperparameters_from == "given"
    assert mine.config.external is None


def test_a_file_names_components(folder: Path) -> None:
    path = write(
        folder,
        """
        name = "ours"
        title = "Our method"
        base = "linear"
        plugins = ["my_own:Plugin", { path = "my_own:Plugin", arguments = { strength = 3, names = ["a", "b"] } }]
        loss = "my_own:Loss"
        optimizer = { path = "my_own:Optimizer", arguments = { momentum = 0.9 } }
        backbone = { path = "my_own:backbone", arguments = { width = 4 } }
        """,
    )
    mine = recipe_of(str(path))
    external = mine.config.external
    assert external is not None
    assert (mine.name, mine.title, external.base) == ("ours", "Our method", "linear")
    assert [component.arguments for component in external.plugins] == [{}, {"strength": 3, "names": ["a", "b"]}]
    assert list(external.components) == ["plugins[0]", "plugins[1]", "loss", "optimizer", "backbone"]
    assert mine.config.backbone == "my_own:backbone"
    assert from_dict(mine.config.as_dict()) == mine.config  # as a record has it
    assert set(differences(mine.config.as_dict(), RECIPES["linear"].config)) >= {"external.plugins", "backbone"}


def test_a_module_has_a_recipe_or_a_function_that_returns_one(folder: Path) -> None:
    assert recipe_of("my_own:recipe").name == "my_own"
    mine = recipe_of("my_own:recipe").config.external
    assert mine is not None
    assert [(c.path, c.arguments) for c in mine.plugins] == [
        ("my_own:Plugin", {}),
        ("my_own:Plugin", {"strength": 2.0}),
    ]
    assert mine.loss == component_of("my_own:Loss")
    built = recipe_of("my_own:build")
    assert built.name == "built"
    assert built.config.external is not None
    assert built.config.external.optimizer == component_of("my_own:Optimizer", momentum=0.5)


def test_a_published_cell_can_be_the_base(folder: Path) -> None:
    mine = recipe_of(write(folder, 'base = "slca/main/slca/split-cifar100-10"\nplugins = ["my_own:Plugin"]\n'))
    assert mine.home == "split-cifar100-10"
    assert mine.config.images is not None


def test_a_backbone_is_a_name_or_a_component(folder: Path) -> None:
    assert recipe_of({"name": "x", "base": "slca", "backbone": "test_vit"}).config.backbone == "test_vit"
    hub = recipe_of({"name": "x", "base": "slca", "backbone": "hf-hub:owner/name"}).config
    assert (hub.backbone, hub.external) == ("hf-hub:owner/name", None)
    with pytest.raises(ComponentError, match="missing a required argument: 'width'"):
        recipe_of({"name": "x", "base": "slca", "backbone": "my_own:backbone"})
    own = {"path": "my_own:backbone", "arguments": {"width": 4}}
    with pytest.raises(ValueError, match=r"backbone is 'test_vit', but the recipe brings its own, my_own:backbone"):
        recipe_of({"name": "x", "base": "slca", "backbone": own}).config.set(["backbone=test_vit"])


def test_a_shipped_recipe_is_itself() -> None:
    assert recipe_of("slca") is RECIPES["slca"]


def test_the_hash_follows_the_source(folder: Path) -> None:
    """An edit in the file, or in one that it imports, is another method; where it lies is not."""

    def hash_of(text: str, helper: str, place: str) -> str:
        there = folder / place
        there.mkdir()
        (there / "edited_by_me.py").write_text(text)
        (there / "beside_me.py").write_text(helper)
        (there / "unrelated.py").write_text(place)
        sys.path.insert(0, str(there))
        try:
            return component_of("edited_by_me:f").sha256
        finally:
            sys.path.remove(str(there))
            for name in ("edited_by_me", "beside_me"):
                sys.modules.pop(name, None)

    text = "import beside_me\ndef f():\n    return 1\n"
    first = hash_of(text, "x = 1\n", "a")
    assert first == hash_of(text, "x = 1\n", "b")
    assert first == hash_of(text.replace("\n", "\r\n"), "x = 1\n", "c")
    assert first != hash_of(text + "\n", "x = 1\n", "d")
    assert first != hash_of(text, "x = 2\n", "e")


def test_the_hash_of_a_package_is_that_of_all_its_modules(folder: Path) -> None:
    package = folder / "pack_of_mine"
    (package / "sub").mkdir(parents=True)
    for name, text in {"__init__": "", "sub/__init__": "from .deep import f\n", "sub/deep": "def f(): pass\n"}.items():
        (package / f"{name}.py").write_text(text)
    sys.path.insert(0, str(folder))
    before = component_of("pack_of_mine.sub:f")
    assert len(before.sha256) == 64
    (package / "sub" / "deep.py").write_text("def f(): return 1\n")
    assert component_of("pack_of_mine.sub:f").sha256 != before.sha256


def test_the_hash_holds_folders_without_init(folder: Path) -> None:
    """Imports between such folders need no ``__init__.py``, so a change in them is another method, too."""
    for place in ("methods_of_mine", "layers_of_mine"):
        (folder / place).mkdir()
    (folder / "methods_of_mine" / "one.py").write_text("from .two import f\nfrom layers_of_mine.deep import g\n")
    (folder / "methods_of_mine" / "two.py").write_text("def f(): pass\n")
    (folder / "layers_of_mine" / "deep.py").write_text("def g(): pass\n")
    sys.path.insert(0, str(folder))
    hashes = [component_of("methods_of_mine.one:f").sha256]
    for edited in ("methods_of_mine/two.py", "layers_of_mine/deep.py"):
        with (folder / edited).open("a") as file:
            file.write("# edited\n")
        hashes.append(component_of("methods_of_mine.one:f").sha256)
    assert len(set(hashes)) == 3
    (folder / "methods_of_mine" / ".#two.py").symlink_to("somebody@somewhere")  # an editor's lock
    (folder / "methods_of_mine" / ".hidden").mkdir()
    (folder / "methods_of_mine" / ".hidden" / "copy.py").write_text("")
    assert component_of("methods_of_mine.one:f").sha256 == hashes[-1]


def test_what_is_edited_in_a_session_is_imported_anew(folder: Path) -> None:
    assert recipe_of("my_own:recipe").config.lr != 0.125
    recipe = 'recipe = {"base": "linear", "settings": {"lr": 0.125}, "loss": "my_own:Added"}'
    (folder / "my_own.py").write_text(f"{METHOD}\n\nclass Added(Loss):\n    pass\n\n\n{recipe}\n")
    mine = recipe_of("my_own:recipe")
    assert mine.config.lr == 0.125
    assert mine.config.external == from_dict(mine.config.as_dict()).external


def test_modules_of_one_name_in_two_folders_are_refused(folder: Path) -> None:
    """Python would import the first for both, and the record would name the other."""
    for place, module in (("a", "plugin_a"), ("b", "plugin_b")):
        (folder / place).mkdir()
        (folder / place / f"{module}.py").write_text("from beside_both import f\n")
        (folder / place / "beside_both.py").write_text(f"def f(): return {place!r}\n")
        write(folder / place, f'base = "linear"\nloss = "{module}:f"\n', f"mine_{place}.toml")
    recipe_of(folder / "a" / "mine_a.toml")
    with pytest.raises(ComponentError, match=r"plugin_b:f needs the module 'beside_both' in .*beside_both.py, and"):
        recipe_of(folder / "b" / "mine_b.toml")
    (folder / "b" / "plugin_a.py").write_text("def f(): pass\n")
    with pytest.raises(ComponentError, match=r"needs the module 'plugin_a' in .* another in .*: rename one"):
        recipe_of(write(folder / "b", 'base = "linear"\nloss = "plugin_a:f"\n', "mine_c.toml"))


def test_a_module_in_an_archive_is_refused(folder: Path) -> None:
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.writestr("packed_one.py", "def f(): pass\n")
    sys.path.insert(0, str(folder / "packed.zip"))
    with pytest.raises(ComponentError, match=r"packed_one:f is in .*which is no file: unpack the archive"):
        component_of("packed_one:f")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "mine.toml: base is missing"),
        ('base = "slka"', "base is 'slka': unknown recipe 'slka': did you mean slca"),
        ('base = "no/such/cell"', "base is 'no/such/cell'"),
        ('base = "slca"\nname = "linear"', "name is 'linear', which is that of a shipped recipe"),
        ('base = "slca"\nname = "LINEAR"', "which is that of a shipped recipe"),
        ('base = "slca"\nname = "slca.main.SLCA"', "which is that of a shipped recipe, slca.main.slca"),
        ('base = "slca"\nname = "../x"', "name is '../x': write a name of letters"),
        ('base = "slca"\nplugin = ["a:b"]', "unknown key 'plugin', which is .*did you mean plugins"),
        ('base = "slca"\nplugins = "my_own:Plugin"', "plugins is 'my_own:Plugin': write a list"),
        ('base = "slca"\nplugins = ["my_own"]', r"plugins\[0\] is 'my_own': write an import path"),
        ('base = "slca"\nplugins = [{ path = "my_own:Plugin", strength = 1 }]', "unknown key 'strength'.*arguments"),
        ('base = "slca"\nplugins = [{ path = "my_own:Plugin", arguments = 1 }]', "arguments is 1: write a table"),
        ('base = "slca"\nloss = { path = "my_own:Loss", arguments = { at = 2020-01-01 } }', "is a date: records hold"),
        ('base = "slca"\nloss = { path = "my_own:Loss", arguments = { at = [inf] } }', "loss: inf is not finite"),
        ('base = "slca"\n[settings]\nlearning_rate = 1', "unknown setting 'learning_rate'"),
        ('base = "slca"\n[settings]\nlr = -1', "lr must be positive"),
        ('base = "slca"\n[grid]\nlr = [1, 2]', "2 candidates: make them 4"),
        ('base = "slca"\n[grid]\nlearning = [1, 2, 3, 4]', "unknown setting 'learning'"),
        ('base = "slca-olor"\noptimizer = "my_own:Optimizer"', "external.optimizer is in place of olor"),
        ('base = "lora-aepg"\nloss = "my_own:Loss"', "external.loss is in place of annealing"),
        ("base = ", "mine.toml is not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_key(folder: Path, text: str, complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        recipe_of(write(folder, text))


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere.toml", "there is no file nowhere.toml"),
        ("my_own:number", "my_own:number is of type int: make it a dictionary"),
        ("my_own:fails", r"my_own:fails\(\) failed: RuntimeError: out of ideas"),
        ("mine", "unknown recipe 'mine'.*or is it the file mine.toml"),
    ],
)
def test_what_is_no_recipe_is_refused(folder: Path, source: str, complaint: str) -> None:
    write(folder, 'base = "slca"')
    with pytest.raises(ValueError, match=complaint):
        recipe_of(source)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('plugins = ["my_one:Plugin"]', "there is no module 'my_one' in .*beside the recipe's file, or installed"),
        ('plugins = ["my_own.part:Plugin"]', "my_own.part:Plugin cannot be imported"),
        ('plugins = ["my_own:Plugn"]', "there is no 'Plugn' in my_own: did you mean Plugin"),
        ('plugins = ["my_own:number"]', "plugin my_own:number is 5 .int.: name a class or a function"),
        (
            'plugins = [{ path = "my_own:Plugin", arguments = { strenght = 1 } }]',
            r"is called with strenght, which does not fit Plugin\(.*strength.*\).*my_own.py, line 9\)",
        ),
        (
            'plugins = [{ path = "my_own:part", arguments = { a = 1 } }]',
            r"is called with a, which does not fit my_own:part",
        ),
        ('optimizer = { path = "my_own:Optimizer", arguments = { params = 1 } }', "given params by the run: leave it"),
        ('backbone = "my_own:backbone"', "missing a required argument: 'width'"),
        ('strategy = "my_own:Loss"', "strategy my_own:Loss is called with model, optimizer, criterion"),
        ('loss = "broken_one:Loss"', "SyntaxError.*broken_one.py, line 2"),
        ('loss = "fails_itself:Loss"', "ZeroDivisionError: .*fails_itself.py, line 3"),
        ('loss = "seeds_itself:Loss"', r"torch.random.manual_seed\(\)|torch.manual_seed\(\) is called in .*, line 2"),
        ('loss = "exits_itself:Loss"', "exits_itself:Loss cannot be imported: SystemExit: 3 .*exits_itself.py, line 2"),
        ('loss = "lacks_one:Loss"', "No module named 'not_installed_here'.*lacks_one.py, line 1"),
    ],
)
def test_a_component_that_cannot_be_used_is_refused_before_any_run(folder: Path, line: str, complaint: str) -> None:
    (folder / "broken_one.py").write_text("x = 1\ndef Loss(:\n")
    (folder / "fails_itself.py").write_text("\n\n1 / 0\n")
    (folder / "seeds_itself.py").write_text("import torch\ntorch.manual_seed(0)\ndef Loss(): pass\n")
    (folder / "exits_itself.py").write_text("import sys\nsys.exit(3)\n")
    (folder / "lacks_one.py").write_text("import not_installed_here\n")
    with pytest.raises(ComponentError, match=complaint):
        recipe_of(write(folder, f'base = "linear"\n{line}\n'))


def test_a_component_of_a_function_has_no_import_path(folder: Path) -> None:
    class Local:
        pass

    with pytest.raises(RecipeError, match="Local is defined within a function: define it in a module"):
        recipe_of({"name": "x", "base": "linear", "plugins": [Local]})


def test_a_choice_is_read_beside_the_file(folder: Path) -> None:
    path = write(folder, 'base = "linear"\nplugins = ["my_own:Plugin"]\n[grid]\nlr = [0.01, 0.02, 0.03, 0.04]\n')
    mine = recipe_of(path)
    assert (mine.config.lr, mine.hyperparameters_from) == (0.01, "given")
    choice: dict[str, Any] = {
        "settings": {"lr": 0.03},
        "made_for": mine.made_for,
        "candidates": [{"settings": candidate, "score": 1.0} for candidate in mine.candidates()],
    }
    (folder / "chosen.json").write_text(json.dumps({"mine": choice}))
    mine = recipe_of(path)
    assert (mine.config.lr, mine.hyperparameters_from) == (0.03, "validation")
    (folder / "my_own.py").write_text(METHOD + "\n")  # another method: its choice is to be made again
    mine = recipe_of(path)
    assert (mine.config.lr, mine.hyperparameters_from) == (0.01, "given")
    (folder / "chosen.json").write_text("{")
    with pytest.raises(RecipeError, match=r"chosen.json is not JSON"):
        recipe_of(path).config  # noqa: B018
    for other in ([], None, {"mine": {"candidates": []}}, {"mine": {**choice, "settings": 1}}):
        (folder / "chosen.json").write_text(json.dumps(other))
        with pytest.raises(RecipeError, match=r"chosen.json is no file of choices"):
            recipe_of(path).config  # noqa: B018


def test_the_command_says_what_is_wrong_in_one_line(folder: Path) -> None:
    write(folder, 'base = "linear"\nplugins = ["my_own:Plugn"]\n')
    answer = CliRunner().invoke(main, ["run", "mine.toml"])
    assert answer.exit_code == 1
    assert answer.output.startswith("Error: my_own:Plugn cannot be imported: there is no 'Plugn'")
    assert not (folder / "records").exists()


def test_absent_parts_change_no_hash() -> None:
    assert "external" not in Config().as_dict()
    assert config_hash(Config().as_dict()) == config_hash(from_dict(Config().as_dict()).as_dict())


@pytest.mark.parametrize("path", ["", "x", "a b:c", "a:b c", ":x", "x:", "a:b:c", "../x:y"])
def test_a_configuration_takes_import_paths_only(path: str) -> None:
    from reclaim.benchmark.config import External

    with pytest.raises(ValueError, match=r"external.loss is .*write an import path"):
        Config(external=External("linear", loss=Component(path)))
