"""A method of somebody else: a package installed by pip into a fresh environment is run, compared, checked and shown,
without a change in this one.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner
from reclaim.benchmark.cli import main

ROOT = Path(__file__).parents[1]

METHOD = '''
"""Somebody's method."""

import torch
from avalanche.training.plugins import SupervisedPlugin


class GradientNoise(SupervisedPlugin):
    """Adds noise to gradients, from a generator of its own."""

    def __init__(self, scale: float, seed: int = 0):
        super().__init__()
        self.scale, self.generator = scale, torch.Generator().manual_seed(seed)

    def before_update(self, strategy, **kwargs):
        for p in strategy.model.parameters():
            if p.grad is not None:
                p.grad += self.scale * torch.randn(p.shape, generator=self.generator)


class Margin:
    """Cross-entropy with a margin on the true class."""

    def __init__(self, margin=0.1):
        self.margin = margin

    def __call__(self, logits, targets):
        true = torch.nn.functional.one_hot(targets, logits.shape[1])
        return torch.nn.functional.cross_entropy(logits - self.margin * true, targets)


class Patches(torch.nn.Module):
    """The mean of random features of patches."""

    num_features = 64

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(1, self.num_features, 7, stride=7)

    def forward(self, images):
        return self.patches(images).relu().mean(dim=(2, 3))


class SignSGD(torch.optim.Optimizer):
    """Steps of the learning rate in the direction of the gradient's sign."""

    def __init__(self, params, share=0.01):
        super().__init__(params, {"share": share})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p -= group["lr"] * group["share"] * p.grad.sign()
'''

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "thirdparty-cl"
version = "1.2"
[tool.setuptools]
packages = ["thirdparty_cl"]
"""

RECIPE = """
base = "linear"
title = "Third party's"
plugins = [{ path = "thirdparty_cl.method:GradientNoise", arguments = { scale = 0.001 } }]
loss = "thirdparty_cl:Margin"
optimizer = { path = "thirdparty_cl.method:SignSGD", arguments = { share = 0.05 } }
backbone = "thirdparty_cl.method:Patches"
settings.epochs = 1
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of an environment that sees this one's packages, with the third party's installed."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)})
    (Path(packages) / "outer.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n", encoding="utf-8"
    )
    source = tmp_path_factory.mktemp("thirdparty")
    (source / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (source / "thirdparty_cl").mkdir()
    (source / "thirdparty_cl" / "__init__.py").write_text("from .method import Margin\n", encoding="utf-8")
    (source / "thirdparty_cl" / "method.py").write_text(METHOD, encoding="utf-8")
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    made = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    wheel = source / made.stdout.split()[-1]
    offline = ["--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", "-q", *offline, str(wheel)], check=True)
    return python


def reclaim(python: Path, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [python, "-m", "reclaim.benchmark.cli", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_run_compared_checked_and_shown(environment: Path, tmp_path: Path) -> None:
    before = _ours()
    (tmp_path / "third.toml").write_text(RECIPE, encoding="utf-8")
    fast = ["--seeds", "2", "--set", "batch_size=64"]

    told = reclaim(environment, "run", "third.toml", "split-quickdraw-5", *fast, cwd=tmp_path)
    assert "third on split-quickdraw-5, n = 2" in told
    paths = sorted((tmp_path / "records" / "third" / "split-quickdraw-5").glob("*/*.json"))
    assert [path.stem for path in paths] == ["0", "1"]
    external = json.loads(paths[0].read_text())["result"]["config"]["external"]
    assert external["base"] == "linear"
    assert external["plugins"][0]["arguments"] == {"scale": 0.001}
    assert external["loss"]["path"] == "thirdparty_cl:Margin"
    parts = (*external["plugins"], *(external[kind] for kind in ("loss", "optimizer", "backbone")))
    (hash_of_source,) = {part["sha256"] for part in parts}
    assert len(hash_of_source) == 64

    stamps = [path.stat().st_mtime_ns for path in paths]
    told = reclaim(
        *(environment, "compare", "third.toml", "linear", "--stream", "split-quickdraw-5"),
        *(*fast, "--set", "epochs=1"),
        cwd=tmp_path,
    )
    assert "minus third" in told
    assert "linear" in told
    assert [path.stat().st_mtime_ns for path in paths] == stamps  # what is on record is not run again

    told = reclaim(environment, "check", *map(str, paths), "--records", "records", cwd=tmp_path)
    code = ("thirdparty_cl.method:GradientNoise", "thirdparty_cl.method:Patches", hash_of_source[:12])
    for words in ("external", *code, "base: linear", "of a backbone from outside"):
        assert words in told
    # here nobody has the package, and the same is said: nothing of a record is looked for
    with pytest.raises(ImportError):
        __import__("thirdparty_cl")
    here = CliRunner().invoke(main, ["check", *map(str, paths), "--records", str(tmp_path / "records")])
    assert here.exit_code == 0
    assert here.output.replace(f"{tmp_path}/records", "records") == told.replace(f"{tmp_path}/records", "records")

    ours = ROOT / "leaderboards" / "records"
    reclaim(environment, "leaderboard", "--records", str(ours), "--records", "records", "--output", "b", cwd=tmp_path)
    page = (tmp_path / "b" / "split-quickdraw-5.md").read_text(encoding="utf-8")
    assert [line for line in page.splitlines() if "third" in line and "external" in line]
    assert "external" in (tmp_path / "b" / "index.html").read_text(encoding="utf-8")
    assert _ours() == before


def _ours() -> str:
    """Content of both packages."""
    digest = hashlib.sha256()
    for path in sorted(path for name in ("strategies", "benchmark") for path in (ROOT / name).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
