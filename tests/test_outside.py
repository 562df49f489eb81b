"""What the pages say that somebody from outside can do, done: their files are written and their commands run, in order.

Only the drawings are fewer.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from reclaim.benchmark.cli import main
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import jobs
from small_runs import make_few, make_few_isolated

ROOT = Path(__file__).parents[1]

BLOCK = re.compile(r"^```(python file=(?P<file>\S+)|toml|sh)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)


def steps(page: Path, section: str = "") -> Iterator[tuple[str, str]]:
    """Files to write, by name, and commands to run, in the order of the page."""
    text = page.read_text(encoding="utf-8")
    if section:
        text = re.split(r"^## ", text.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    for block in BLOCK.finditer(text):
        if block["file"]:
            yield block["file"], block["text"]
        elif block[1] == "toml" and block["text"].startswith("base"):
            yield "mine.toml", block["text"]
        elif block[1] == "sh":
            yield from (("", line.split("  #")[0].strip()) for line in block["text"].splitlines())


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the records of ours, as in a clone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(jobs, "_make", make_few)
    monkeypatch.setattr(jobs, "_make_isolated", make_few_isolated)
    (tmp_path / "leaderboards").symlink_to(ROOT / "leaderboards", target_is_directory=True)
    yield tmp_path
    for name in ("mine", "stream"):
        sys.modules.pop(name, None)


def follow(folder: Path, page: Path, section: str = "") -> list[str]:
    """Write the files, run the commands, and return what these print."""
    printed = []
    for file, text in steps(page, section):
        if file:
            (folder / file).write_text(text, encoding="utf-8")
            continue
        program, *arguments = shlex.split(text)
        assert program == "reclaim"
        paths: list[str] = []
        for argument in arguments:  # as a shell does
            paths += sorted(str(path) for path in Path.cwd().glob(argument)) if "*" in argument else [argument]
        answer = CliRunner().invoke(main, paths)
        assert answer.exit_code == 0, f"{text}\n{answer.output}"
        printed.append(answer.output)
    return printed


def test_rank_your_method(clone: Path) -> None:
    sweep, compare, check, board = follow(clone, ROOT / "docs" / "rank-your-method.md")
    assert "lr" in sweep
    assert {"mine", "seqft-slow", "slca"} <= set(compare.split())
    assert "is not separated from mine" in compare or "than mine" in compare
    assert check.count("external") >= 5
    assert "mine:WeightAveraging" in check
    records, _ = RecordStore(clone / "records").load()
    assert {r.result["hyperparameters_from"] for r in records if r.recipe == "mine"} == {"validation"}
    page = (clone / "board" / "split-quickdraw-10.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|") and "external" in line]
    assert len(rows) == 1
    assert rows[0].split("|")[1].strip()[0].isdigit(), rows  # its rank among ours
    total = len(list((clone / "leaderboards" / "records").rglob("*.json"))) + 5
    assert f" of {total} records are shown" in board


def test_contributing_from_outside(clone: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "emu", "fox"):
        (clone / "pets" / name).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(clone / "pets" / name / f"{i}.png")
    told = follow(clone, ROOT / "CONTRIBUTING.md", "From outside, in ten lines each")
    run, data, images, compared, stream, check, board = told
    assert "mine on split-quickdraw-5, n = 2" in run
    assert "complete" in data
    assert "linear on pets-2, n = 1" in images
    assert "minus linear" in compared
    assert "linear on stream-make_benchmark, n = 1" in stream
    assert "mine:Shrink" in check
    assert "records are shown" in board
    assert "external" in (clone / "board" / "split-quickdraw-5.md").read_text(encoding="utf-8")
    assert (clone / "board" / "pets-2.md").is_file()


def test_what_a_page_shows_is_short() -> None:
    for name, text in steps(ROOT / "CONTRIBUTING.md", "From outside, in ten lines each"):
        lines: list[Any] = [
            line for line in text.splitlines() if line.strip() and not line.startswith(("import", "from"))
        ]
        assert len(lines) <= 10, name
