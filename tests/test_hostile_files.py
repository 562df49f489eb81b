"""Files from elsewhere run no code: what a pickle would do in each place where one could be put. What is nested too
deeply is named.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reclaim import benchmark, strategies
from reclaim.benchmark.checks.conform import check
from reclaim.benchmark.config import Config, ConfigError
from reclaim.benchmark.data.cifar import _unpickled
from reclaim.benchmark.data.readers import _food_part
from reclaim.benchmark.data.verify import read_images
from reclaim.benchmark.recipes import RecipeError, choices_in
from reclaim.benchmark.records.record import RecordError
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.toml_files import read_document
from reclaim.benchmark.training import sweep
from reclaim.strategies.backbones import read_weights


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


PICKLES = {
    "a call": Harmful(),
    "in a dictionary": {"data": Harmful(), "labels": [0]},
    "in an array": np.array([Harmful()], dtype=object),
}


def golden(path: Path) -> None:
    check(path.rename(path.with_suffix(".npz")))


def record(path: Path) -> None:
    folder = path.parent / "records" / "linear" / "small" / ("0" * 12)
    folder.mkdir(parents=True)
    path.rename(folder / "0.json")
    RecordStore(path.parent / "records").get("linear", "small", "0" * 12, 0)


READERS: dict[str, tuple[Callable[[Path], Any], type[Exception]]] = {
    "weights": (read_weights, ValueError),
    "record": (record, RecordError),
    "golden file": (golden, ValueError),
    "data set": (_unpickled, ValueError),
}


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", PICKLES)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("write", ["pickle", "torch", "numpy"])
def test_a_pickle_is_refused(write: str, reader: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        if write == "pickle":
            pickle.dump(PICKLES[kind], file)
        elif write == "torch":
            torch.save({"weight": PICKLES[kind]}, file)
        else:
            np.savez(file, weight=np.array([PICKLES[kind]], dtype=object))
    read, error = READERS[reader]
    with pytest.raises(error):
        read(path)
    assert not (tmp_path / "harmed").exists()


def test_it_would_have_done_harm(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Harmful()))
    assert (tmp_path / "harmed").exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("kind", PICKLES)
def test_unverified_cifar_runs_nothing(name: str, kind: str, tmp_path: Path) -> None:
    folder = tmp_path / {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}[name]
    folder.mkdir()
    batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]
    for file in batches if name == "cifar10" else ["train", "test", "meta"]:
        (folder / file).write_bytes(pickle.dumps(PICKLES[kind]))
    with pytest.raises(ValueError, match="is not a pickle of CIFAR's"):
        read_images(name, tmp_path, verify=False)
    assert not (tmp_path / "harmed").exists()


DEEP = "[" * 100_000
"""Nested too deeply to be read: Python's readers of JSON and TOML raise no ValueError at it."""

NESTED: dict[str, Callable[[Path], Any]] = {
    "recipes": lambda path: read_document(path, RecipeError),
    "choices": choices_in,
    "choices to be added to": sweep.read,
    "images of Food-101": _food_part,
}


@pytest.mark.parametrize("kind", NESTED)
def test_what_is_nested_too_deeply_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "file.toml"
    path.write_text(f"a = {DEEP}" if kind == "recipes" else DEEP)
    with pytest.raises(ValueError, match=r"file\.toml (is not|cannot be read)"):
        NESTED[kind](path)


def test_a_setting_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lr must be a finite number, got '\[\["):
        Config().set([f"lr={DEEP}"])


LOADERS = re.compile(r"pickle\.loads?\(|Unpickler\(|torch\.load\(|allow_pickle=True|joblib\.load|shelve|marshal\.load")
SAFE = ("pickle.Unpickler):", "weights_only=True")


def test_nothing_in_the_packages_unpickles_a_file() -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for package in (benchmark, strategies)
        for path in sorted(Path(package.__file__ or "").parent.rglob("*.py"))
        for line in path.read_text().splitlines()
        if LOADERS.search(line) and not any(safe in line for safe in SAFE)
    ]
    assert found == []
