"""Input that nobody wrote on purpose: success or an error that says what is wrong, never anything else.

``make soak`` sets RECLAIM_SOAK to a number of inputs for each.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reclaim.benchmark.checks.conform import check
from reclaim.benchmark.config import Config, ConfigError
from reclaim.benchmark.records.record import RecordError
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.studies import StudyError, read_study
from reclaim.benchmark.training.states import code_in, decode, encode
from small_runs import synthetic_record

fuzzed = settings(
    max_examples=int(os.environ.get("RECLAIM_SOAK", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS, lambda of: st.lists(of, max_size=3) | st.dictionaries(st.text(max_size=8), of, max_size=3), max_leaves=8
)


@fuzzed
@given(key=st.sampled_from(["lr", "epochs", "memory.size", "images.protocol", "alignment.tau", "x", ""]), value=VALUES)
def test_settings(key: str, value: Any) -> None:
    with suppress(ConfigError):
        Config().set([f"{key}={json.dumps(value)}"])


@fuzzed
@given(text=st.text(max_size=30))
def test_settings_of_any_text(text: str) -> None:
    with suppress(ConfigError):
        Config().set([text])


@fuzzed
@given(content=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_studies_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(StudyError):
        read_study(path)


@fuzzed
@given(
    recipes=st.lists(st.sampled_from(["slca", "linear", "mine.toml", "a:b", "../x", "", "\\n"]), max_size=2),
    streams=st.lists(st.sampled_from(["split-quickdraw-5", "split-cifar100-10", "x"]), max_size=2),
    seeds=st.integers(-1, 3) | st.lists(st.integers(-1, 3), max_size=3),
    key=st.sampled_from(["epochs", "lr", "memory", "x"]),
    value=st.integers(-2, 9) | st.booleans(),
)
def test_studies_of_any_values(
    recipes: list[str], streams: list[str], seeds: Any, key: str, value: Any, tmp_path: Path
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        f"[[runs]]\nrecipes = {json.dumps(recipes)}\nstreams = {json.dumps(streams)}\nseeds = {json.dumps(seeds)}\n"
        f"settings.{key} = {json.dumps(value)}\n"
    )
    with suppress(StudyError):
        assert all(job.seed >= 0 for job in read_study(path))


RECORD = synthetic_record("linear", "split-quickdraw-10", 0)


@fuzzed
@given(key=st.sampled_from(sorted(RECORD.result)), value=VALUES)
def test_records_with_any_value(key: str, value: Any, tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    path = store.write(RECORD) or store.path_of(RECORD.recipe, RECORD.stream, RECORD.config_hash, RECORD.seed)
    document = json.loads(path.read_text())
    document["result"][key] = value
    path.write_text(json.dumps(document))
    with suppress(RecordError):
        store.get(RECORD.recipe, RECORD.stream, RECORD.config_hash, RECORD.seed)


@fuzzed
@given(content=st.binary(max_size=300))
def test_golden_files_of_any_bytes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"any\.npz"):
        check(path)


@fuzzed
@given(names=st.lists(st.text("abcdefgh_", min_size=1, max_size=8), max_size=4), size=st.integers(0, 3))
def test_golden_files_of_any_arrays(names: list[str], size: int, tmp_path: Path) -> None:
    np.savez(tmp_path / "any.npz", **{name: np.zeros(size) for name in names if name != "file"})
    with pytest.raises(ValueError, match=r"any\.npz"):
        check(tmp_path / "any.npz")


@fuzzed
@given(value=st.recursive(SCALARS, lambda of: st.lists(of) | st.tuples(of) | st.dictionaries(st.text(), of)))
def test_states_come_back_as_they_were(value: Any) -> None:
    nodes, storages = encode(value, [], code_in(value))
    assert repr(decode(json.loads(json.dumps(nodes)), storages, [], {})) == repr(value)
