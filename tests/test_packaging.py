"""What is installed is whole, and what is published names no machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a new interpreter."""
    environment = {**os.environ, **({"PYTHONPATH": str(path)} if path else {})}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves files behind, and packs those that an earlier build left."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("strategies", "benchmark"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    python(
        "-c",
        "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])",
        str(built),
        cwd=source,
    )
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_wheel_is_whole(unpacked: Path) -> None:
    for name in ("strategies", "benchmark"):
        files = [
            path.relative_to(ROOT / name)
            for path in (ROOT / name).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        ]
        assert {"__init__.py", "py.typed"} <= {str(path) for path in files}
        missing = [path for path in files if not (unpacked / "reclaim" / name / path).is_file()]
        assert missing == []
    assert list((unpacked / "reclaim" / "benchmark" / "papers").glob("*.toml"))
    assert (unpacked / "reclaim" / "benchmark" / "assets" / "quickdraw345.npz").stat().st_size > 1_000_000


def test_reclaim_is_a_namespace(unpacked: Path) -> None:
    assert not (unpacked / "reclaim" / "__init__.py").exists()
    assert {path.name for path in unpacked.iterdir()} == {"reclaim", f"reclaim-{PROJECT['version']}.dist-info"}


def test_the_metadata(unpacked: Path) -> None:
    folder = unpacked / f"reclaim-{PROJECT['version']}.dist-info"
    metadata = (folder / "METADATA").read_text(encoding="utf-8")
    assert "\nLicense-Expression: MIT\n" in metadata
    assert (folder / "licenses" / "LICENSE").is_file()
    entry_points = (folder / "entry_points.txt").read_text(encoding="utf-8")
    assert "reclaim = reclaim.benchmark.cli:main" in entry_points
    assert "[pytest11]\nreclaim = reclaim.benchmark.checks.plugin" in entry_points


def test_the_wheel_works_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    code = (
        "import reclaim.strategies as s, reclaim.benchmark as b, reclaim.benchmark.cli; "
        "print(s.__file__); print(b.__file__)"
    )
    found = [Path(line) for line in python("-c", code, cwd=tmp_path, path=unpacked).splitlines()]
    assert found == [unpacked / "reclaim" / name / "__init__.py" for name in ("strategies", "benchmark")]
    listed = python("-m", "reclaim.benchmark.cli", "list", "claims", cwd=tmp_path, path=unpacked)
    assert "slca/alignment" in listed


@pytest.mark.parametrize(
    "module",
    [
        "checks.plugin",
        "cli",
        "papers.protocols",
        "records.store",
        "report.leaderboard",
        "verdicts.counting",
        "verdicts.submission",
    ],
)
def test_reading_records_options_and_commands_needs_no_torch(module: str, tmp_path: Path) -> None:
    # checks.plugin is loaded by every pytest of whoever installs this
    code = f"import sys, reclaim.benchmark.{module}; print(sorted({{'torch', 'avalanche', 'timm'}} & set(sys.modules)))"
    assert python("-c", code, cwd=tmp_path).strip() == "[]"


def test_versions_agree() -> None:
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    newest = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version


def test_the_pythons_agree() -> None:
    named = {c.rsplit(" ", 1)[-1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    first, last = min(named, key=_minor), max(named, key=_minor)
    assert PROJECT["requires-python"] == f">={first},<3.{_minor(last) + 1}"
    assert f"Python {first} to {last}" in (ROOT / "README.md").read_text(encoding="utf-8")


def _minor(version: str) -> int:
    return int(version.split(".")[1])


# Brackets keep these patterns from matching themselves.
FOREIGN = {
    "a package registry's host": re.compile(
        r"py[p]i\.(?:org|python)|python[h]osted\.|py[t]orch\.org/whl|ana[c]onda\.(?:org|com)|npm[j]s\.", re.I
    ),
    "a path of one machine": re.compile(r"(?<![\w.~-])/(?:[h]ome|[U]sers|[r]oot|[w]ork|[t]mp)/\w|\b[A-Z]:\\\\?[U]sers"),
}


def published_texts() -> Iterator[tuple[str, str]]:
    """Every text file that git tracks, or would with `git add`."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listing.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file():
            content = path.read_bytes()
            if b"\0" not in content:
                yield name, content.decode("utf-8")


def test_no_text_names_a_registry_or_a_machine() -> None:
    found = [
        f"{name}: {match[0]!r} is {what}"
        for name, text in published_texts()
        for what, pattern in FOREIGN.items()
        for match in pattern.finditer(text)
    ]
    assert found == []


@pytest.mark.parametrize("text", ["/tm" + "p/x", "see /hom" + "e/me", "https://pyp" + "i.org/simple", r"C:\User" + "s"])
def test_such_names_would_be_found(text: str) -> None:
    assert any(pattern.search(text) for pattern in FOREIGN.values())
