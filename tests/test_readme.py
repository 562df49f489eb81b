"""README and docs are true: their Python runs, their commands exist, their links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from reclaim.benchmark import api, recipes
from reclaim.benchmark.cli import main
from reclaim.benchmark.papers import published
from reclaim.benchmark.studies import read_study
from reclaim.benchmark.training import jobs
from small_runs import make_tiny

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# a block of Python, and the block of text after it, which is what it prints
PYTHON = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)


def with_a(pattern: re.Pattern[str]) -> list[Any]:
    return [pytest.param(page, id=page.name) for page in PAGES if pattern.search(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", with_a(PYTHON))
def test_python_blocks_run_one_after_another(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in them are on few drawings, one after another: what is printed does not hang on how many there are."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "_make", make_tiny)
    monkeypatch.setattr(api, "available_cores", lambda: 1)
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in PYTHON.finditer(text):
        # so that a traceback names the page's line
        code = "\n" * text.count("\n", 0, block.start(1)) + block[1]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(code, str(page), "exec"), names)
        if block[2] is not None:
            assert printed.getvalue() == block[2]


# of our own files; a recipe from outside, which has a base, is run by test_outside.py
TOML = re.compile(r"^```toml\n(?!base = )(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", with_a(TOML))
def test_toml_blocks_are_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block is a study, or what a reader adds to one of our files: with it, the file must be read, and hold what it
    says.
    """
    for block in TOML.findall(page.read_text(encoding="utf-8")):
        if "runs" in published.tomllib.loads(block):
            path = tmp_path / "study.toml"
            path.write_text(block, encoding="utf-8")
            assert read_study(path)
            continue
        (name,) = published.tomllib.loads(block)
        if name in ("cell", "claim"):
            (entry,) = published.tomllib.loads(block)[name]
            file = "claims.toml" if name == "claim" else f"{entry['id'].split('/')[0]}.toml"
            document = published.tomllib.loads((published.FOLDER / file).read_text(encoding="utf-8"))
            document[name] = [other for other in document[name] if other["id"] != entry["id"]] + [entry]
            read = published._document
            monkeypatch.setattr(published, "_document", lambda asked: document if asked == file else read(asked))  # noqa: B023
            added = [one for one in getattr(published, f"{name}s").__wrapped__() if one.id == entry["id"]]
            monkeypatch.undo()
        else:
            path = tmp_path / "recipes.toml"
            shipped = Path(recipes.__file__).with_name("recipes.toml").read_text(encoding="utf-8")
            path.write_text(f"{shipped}\n{block}", encoding="utf-8")
            recipe = recipes.read_recipes(path)[name]
            assert len(recipe.candidates()) == 4
            added = [recipe]
        assert len(added) == 1, block


def shell_lines(text: str) -> list[str]:
    """Whole commands: the lines of shell blocks, without their comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [re.sub(r"^torchrun .* -m reclaim\.benchmark\.cli ", "reclaim ", line) for line in lines]


def commands(text: str) -> list[str]:
    """The same, and code in running text that starts with a command's name, where arguments may be left out."""
    return shell_lines(text) + re.findall(r"`((?:reclaim|make|pytest) [^`]+)`", text)


def found(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that arguments name, and what is left of them."""
    command: click.Command = main
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return command, arguments


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_commands_exist(page: Path, pytestconfig: pytest.Config) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in commands(page.read_text(encoding="utf-8")):
        program, *arguments = shlex.split(command)
        options = {argument.split("=")[0] for argument in arguments if argument.startswith("--")}
        if program == "reclaim":
            known, _ = found(arguments)
            assert options <= {name for parameter in known.params for name in parameter.opts}, command
        elif program == "pytest":
            for option in options:
                pytestconfig.getoption(option)  # raises on an unknown one
            assert all((ROOT / argument).exists() for argument in arguments if argument.endswith((".py", "/"))), command
        elif program == "make":
            assert f"\n{arguments[0]}:" in makefile, command
        else:
            assert program == "pip" or (ROOT / program).is_file(), command


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_whole_commands_are_understood(page: Path) -> None:
    for line in shell_lines(page.read_text(encoding="utf-8")):
        program, *arguments = shlex.split(line)
        if program == "reclaim":
            # raises on a missing argument, an unknown option or a bad value; runs nothing
            known, rest = found(arguments)
            known.make_context(str(known.name), rest)


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_links_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", [pytest.param(page, id=page.name) for page in PAGES])
def test_files_named_in_code_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:strategies|benchmark|tests|docs|leaderboards|\.ci)/[\w./-]*\w)`", page.read_text(encoding="utf-8")
    )
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_readme_opens_with_the_two_commands() -> None:
    first = re.search(r"^```sh\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert first is not None
    assert [line.split()[:2] for line in first[1].splitlines()] == [["make", "paper-check"], ["make", "test"]]


def test_a_plugin_takes_at_most_30_lines() -> None:
    block = PYTHON.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert block is not None
    assert len(block[1].splitlines()) <= 30


def test_the_map_names_every_room() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = [f"benchmark/{path.parent.name}/" for path in (ROOT / "benchmark").glob("*/__init__.py")]
    modules = [f"benchmark/{path.name}" for path in (ROOT / "benchmark").glob("[!_]*.py")]
    assert len(rooms) == 8
    assert [name for name in [*rooms, *modules] if f"`{name}`" not in page] == []
    assert {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))} == {
        *(Path(room).name for room in rooms),
        "strategies",
    }
