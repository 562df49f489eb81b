"""Records: what passes the schema, what the store does with anything else, and when two runs agree."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reclaim.benchmark.config import ConfigError, config_hash
from reclaim.benchmark.records.metrics import metrics, pack_bits
from reclaim.benchmark.records.provenance import provenance, same_kind_of_machine
from reclaim.benchmark.records.record import RESULT_KEYS, Record, RecordError, compare, metric_of, validate
from reclaim.benchmark.records.store import RecordStore, default_store

COUNTS = [4, 2, 6]
CORRECT = [True, True, True, False, False, True, True, True, True, False, False, False]


def make_result(
    recipe: str = "slca", stream: str = "split-quickdraw-10", seed: int = 1, **config: Any
) -> dict[str, Any]:
    config = {"numerics": 1, "lr": 0.01, "epochs": 2, "switches": {"F2": True, "milestones": [18]}} | config
    return {
        "schema": 1,
        "recipe": recipe,
        "stream": stream,
        "seed": seed,
        "config": config,
        "config_hash": config_hash(config),
        "varied": "class_order+initialisation",
        "accuracy": [[100.0], [75.0, 50.0], [75.0, 50.0, 50.0]],
        "accuracy_task_known": [[100.0], [100.0, 50.0], [75.0, 100.0, 100 / 3]],
        "test_counts": COUNTS,
        "correct": pack_bits(CORRECT),
        "entropy": [1.5, 0.25, 1.25],
        "train_loss": [2.0, 0.1, 1.0],
        "class_order": [4, 0, 3, 1, 2],
        "data_sha256": "0" * 64,
        "weights_sha256": "f" * 64,
        "trained_parameters": 1234,
        "bytes_kept": 0,
        "hyperparameters_from": "validation",
    }


MACHINE = {
    "torch": "2.6.0",
    "platform": "Linux",
    "cpu_capability": "AVX2",
    "cpu_model": "a processor",
    "threads": 1,
    "accelerator": None,
}


def make_record(*args: Any, **kwargs: Any) -> Record:
    return Record(make_result(*args, **kwargs), dict(MACHINE))


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


# --- writing and reading ---


def test_round_trip(store: RecordStore) -> None:
    record = make_record()
    path = store.write(record)
    assert path == store.root / "slca" / "split-quickdraw-10" / record.config_hash / "1.json"
    assert store.load() == ([record], [])
    assert store.get("slca", "split-quickdraw-10", record.config_hash, 1) == record
    assert store.get("slca", "split-quickdraw-10", record.config_hash, 2) is None
    assert [p.name for p in path.parent.iterdir()] == ["1.json"]


def test_properties_of_a_record() -> None:
    record = make_record(seed=7)
    assert (record.recipe, record.stream, record.seed) == ("slca", "split-quickdraw-10", 7)
    assert record.metrics() == metrics(record.result["accuracy"], COUNTS)
    assert record.metrics_task_known() == metrics(record.result["accuracy_task_known"], COUNTS)
    assert record.correct().tolist() == CORRECT


numbers = st.floats(allow_nan=False, allow_infinity=False)


@given(
    config=st.dictionaries(
        st.text(), st.one_of(numbers, st.integers(), st.text(), st.booleans(), st.none(), st.lists(numbers))
    ),
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    curve=st.lists(st.tuples(st.floats(0, 10), numbers)),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sound_record_comes_back(
    tmp_path: Path,
    config: dict[str, Any],
    counts: list[int],
    curve: list[tuple[float, float]],
    seed: int,
    data: st.DataObject,
) -> None:
    result = make_result(seed=seed)
    bits = data.draw(st.lists(st.booleans(), min_size=sum(counts), max_size=sum(counts)))
    last = [100 * float(part.mean()) for part in np.split(np.array(bits), np.cumsum(counts)[:-1])]
    rows = [data.draw(st.lists(st.floats(0, 100), min_size=t + 1, max_size=t + 1)) for t in range(len(counts) - 1)]
    config["numerics"] = 3
    result |= {"config": config, "config_hash": config_hash(config), "test_counts": counts, "correct": pack_bits(bits)}
    result |= {"accuracy": [*rows, last], "accuracy_task_known": [*rows, last]}
    result |= {"entropy": [nats for nats, _ in curve], "train_loss": [loss for _, loss in curve]}
    record, store = Record(result, dict(MACHINE)), RecordStore(tmp_path)
    store.write(record)
    assert store.get(record.recipe, record.stream, record.config_hash, seed) == record


def test_records_come_in_a_fixed_order(store: RecordStore) -> None:
    made = [make_record(recipe, stream, seed) for recipe in ("b", "a") for stream in ("t", "s") for seed in (10, 9)]
    for record in made:
        store.write(record)
    found, problems = store.load()
    assert [(r.recipe, r.stream, r.seed) for r in found] == [(a, b, c) for a in "ab" for b in "st" for c in (9, 10)]
    assert problems == []


def test_an_empty_store(store: RecordStore) -> None:
    assert store.load() == ([], [])


def test_same_record_same_bytes(store: RecordStore) -> None:
    first = store.write(make_record()).read_bytes()
    assert store.write(make_record()).read_bytes() == first


def test_truncation_at_any_byte_is_reported(store: RecordStore) -> None:
    path = store.write(make_record())
    other = make_record(seed=2)
    store.write(other)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        found, problems = store.load()
        assert found == [other]
        assert [problem.path for problem in problems] == [path]
        assert str(path) in str(problems[0])


def test_a_damaged_record_is_not_silently_absent(store: RecordStore) -> None:
    record = make_record()
    path = store.write(record)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordError, match=r"1\.json.*not JSON|1\.json.*cut short"):
        store.get(record.recipe, record.stream, record.config_hash, 1)


def test_foreign_files_are_reported(store: RecordStore) -> None:
    path = store.write(make_record())
    moved = path.with_name("2.json")
    moved.write_bytes(path.read_bytes())
    contents = {
        path.with_name("notes.txt"): b"hello",
        path.with_name(".3.json.0123.tmp"): b"{",
        path.with_name("4.json"): b"[]\n",
        path.with_name("5.json"): b"\xff\xfe\n",
        path.with_name("6.json"): b"[" * 100_000 + b"\n",
    }
    for place, content in contents.items():
        place.write_bytes(content)
    found, problems = store.load()
    assert len(found) == 1
    reasons = {problem.path: problem.reason for problem in problems}
    assert list(reasons) == sorted([moved, *contents])
    assert str(path) in reasons[moved]
    for name, part in {
        "notes.txt": "not a record",
        ".3.json.0123.tmp": "interrupted",
        "4.json": "wanted a dict",
        "5.json": "read",
    }.items():
        assert part in reasons[path.with_name(name)]


# --- writing goes wrong ---


def test_crash_before_the_rename_keeps_the_old_record(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = make_record(), make_record()
    new.result["train_loss"] = [9.0, 9.0, 9.0]
    path = store.write(old)

    def crash(source: Any, target: Any) -> None:
        assert json.loads(Path(source).read_text())["result"] == new.result, (
            "the temporary file is whole before it is renamed"
        )
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(KeyboardInterrupt):
            store.write(new)
    assert store.load() == ([old], [])
    assert list(path.parent.iterdir()) == [path]
    store.write(new)
    assert store.load() == ([new], [])


def test_a_killed_process_leaves_the_old_record(store: RecordStore, tmp_path: Path) -> None:
    old = make_record()
    path = store.write(old)
    new = copy.deepcopy(old)
    new.result["train_loss"] = [9.0, 9.0, 9.0]
    (tmp_path / "new.json").write_text(json.dumps([new.result, new.provenance]))
    script = (
        "import json, os, sys; from reclaim.benchmark.records.record import Record; from "
        "reclaim.benchmark.records.store import RecordStore\n"
        "os.replace = lambda source, target: os._exit(9)\n"
        "RecordStore(sys.argv[1]).write(Record(*json.load(open(sys.argv[2]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, store.root, tmp_path / "new.json"], check=False, capture_output=True
    )
    assert done.returncode == 9, done.stderr
    found, problems = store.load()
    assert found == [old]
    assert [problem.path.suffix for problem in problems] == [".tmp"]
    assert path.exists()


def test_a_record_is_flushed_before_it_is_renamed(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def watch(name: str, function: Callable[..., None]) -> None:
        def watched(*arguments: Any) -> None:
            calls.append(name)
            function(*arguments)

        monkeypatch.setattr(os, name, watched)

    watch("fsync", os.fsync)
    watch("replace", os.replace)
    store.write(make_record())
    assert calls[:2] == ["fsync", "replace"]
    assert calls[2:] == (["fsync"] if os.name == "posix" else [])


def test_a_folder_that_cannot_be_made_is_named(store: RecordStore) -> None:
    store.root.mkdir()
    (store.root / "slca").write_text("in the way")
    with pytest.raises(RecordError, match=r"cannot write into .*slca.*--records"):
        store.write(make_record())


def test_a_folder_that_cannot_be_written_is_named(store: RecordStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(RecordError, match=r"cannot write into .*split-quickdraw-10.*Permission denied.*--records"):
        store.write(make_record())


def test_an_unsound_record_is_not_written(store: RecordStore) -> None:
    record = make_record()
    record.result["train_loss"][1] = float("nan")
    with pytest.raises(RecordError, match="train_loss"):
        store.write(record)
    assert not store.root.exists()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("")
    with pytest.raises(RecordError, match="is a file"):
        RecordStore(tmp_path / "records")


@pytest.mark.parametrize("name", ["..", "a/b", "", ".hidden", "a b"])
def test_names_stay_inside_the_store(store: RecordStore, name: str) -> None:
    with pytest.raises(RecordError, match="recipe"):
        store.path_of(name, "s", "0" * 12, 1)
    with pytest.raises(RecordError, match="stream"):
        store.path_of("r", name, "0" * 12, 1)


def test_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordError, match="--records"):
        default_store()
    (tmp_path / "leaderboards" / "records").mkdir(parents=True)
    assert default_store().root == Path("leaderboards") / "records"


# --- the schema ---

Edit = Callable[[dict[str, Any]], Any]


def test_a_sound_record_passes() -> None:
    validate({"result": make_result(), "provenance": dict(MACHINE)})


@pytest.mark.parametrize("key", list(RESULT_KEYS))
def test_every_key_is_needed_and_checked(key: str) -> None:
    missing = make_result()
    del missing[key]
    with pytest.raises(RecordError, match=f"result lacks {key}"):
        validate({"result": missing, "provenance": MACHINE})
    with pytest.raises(RecordError, match=rf"result\.{key} is None"):
        validate({"result": make_result() | {key: None}, "provenance": MACHINE})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", 2),
        ("schema", True),
        ("recipe", "../slca"),
        ("seed", -1),
        ("seed", 1.0),
        ("seed", True),
        ("config", {"lr": 0.1}),
        ("config", {"numerics": True}),
        ("config", {"numerics": 1, "lr": float("nan")}),
        ("config", {"numerics": 1, "milestones": (18,)}),
        ("config", {"numerics": 1, 3: "three"}),
        ("config_hash", "0" * 12),
        ("config_hash", "xyz"),
        ("varied", "epochs"),
        ("accuracy", []),
        ("accuracy", [[100.0], [75.0, 50.0], [75.0, 50.0]]),
        ("accuracy", [[100.0, 0.0], [75.0, 50.0], [75.0, 50.0, 50.0]]),
        ("accuracy", [[float("nan")], [75.0, 50.0], [75.0, 50.0, 50.0]]),
        ("accuracy", [[100.1], [75.0, 50.0], [75.0, 50.0, 50.0]]),
        ("accuracy", [[True], [75.0, 50.0], [75.0, 50.0, 50.0]]),
        ("accuracy_task_known", [[100.0], [75.0, 50.0]]),
        ("test_counts", [4, 2]),
        ("test_counts", [4, 2, 0]),
        ("correct", pack_bits(CORRECT[:-5])),
        ("correct", pack_bits([not CORRECT[0], *CORRECT[1:]])),
        # as many right in all, but in other tasks
        ("correct", pack_bits(CORRECT[::-1])),
        ("correct", "!"),
        ("entropy", [1.5, -0.25, 1.25]),
        ("entropy", [1.5, float("inf"), 1.25]),
        ("train_loss", [2.0, 0.1]),
        ("train_loss", [2.0, "0.1", 1.0]),
        ("class_order", [4, 0, 4]),
        ("class_order", []),
        ("data_sha256", "0" * 63),
        ("weights_sha256", "F" * 64),
        ("trained_parameters", 1.5),
        ("bytes_kept", -1),
        ("bytes_kept", 10**400),
        ("trained_parameters", 2**63),
        ("entropy", [1e308, 1e308, 1e308]),
        ("hyperparameters_from", "guess"),
    ],
)
def test_wrong_values_are_named(key: str, value: Any) -> None:
    with pytest.raises(RecordError, match=rf"result\.({key}|correct) is .*: run it again, or delete the file"):
        validate({"result": make_result() | {key: value}, "provenance": MACHINE})


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(RecordError, match="result has unknown keys extra"):
        validate({"result": make_result() | {"extra": 1}, "provenance": MACHINE})
    with pytest.raises(RecordError, match="record has unknown keys extra"):
        validate({"result": make_result(), "provenance": MACHINE, "extra": 1})


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (None, "provenance"),
        ({}, "torch"),
        ({"torch": "2.6.0"}, "platform"),
        (MACHINE | {"x": float("nan")}, "provenance"),
        (MACHINE | {"cpu_seconds": 1e308}, "provenance.cpu_seconds"),
        (MACHINE | {"wall_seconds": -1}, "provenance.wall_seconds"),
    ],
)
def test_provenance_is_checked(found: Any, named: str) -> None:
    with pytest.raises(RecordError, match=named):
        validate({"result": make_result(), "provenance": found})


def test_nan_in_a_file_is_reported(store: RecordStore) -> None:
    path = store.write(make_record())
    path.write_text(path.read_text().replace("[2.0, 0.1, 1.0]", "[2.0, NaN, 1.0]"))
    found, problems = store.load()
    assert found == []
    assert "result.train_loss is [2.0, nan, 1.0]" in problems[0].reason


# --- the hash ---


def test_the_hash_knows_values_and_not_order() -> None:
    assert config_hash({"a": 1, "b": [1, {"c": 2.5, "d": None}]}) == config_hash(
        {"b": [1, {"d": None, "c": 2.5}], "a": 1}
    )
    assert config_hash({"a": 1}) != config_hash({"a": 2})
    # SHA-256 of '{"a":1}', by sha256sum
    assert config_hash({"a": 1}) == "015abd7f5cc5"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, Path("x")])
def test_a_config_that_is_not_json(value: Any) -> None:
    with pytest.raises(ConfigError, match="not JSON"):
        config_hash({"a": value})
    record = make_record()
    record.result["config"]["a"] = value
    with pytest.raises(RecordError, match=r"result\.config is .*, wanted a dict of JSON values"):
        validate({"result": record.result, "provenance": record.provenance})


def test_a_hash_that_is_not_the_configurations() -> None:
    record = make_record()
    record.result["config_hash"] = "0" * 12
    with pytest.raises(RecordError, match=r"result\.config_hash is '0{12}', wanted .*the hash of result\.config"):
        validate({"result": record.result, "provenance": record.provenance})


# --- provenance and comparison ---


def test_provenance_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    start = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))
    found = provenance(start, start + timedelta(seconds=90), 89.5, cpu_seconds=80.0)
    validate({"result": make_result(), "provenance": found})
    assert (found["started"], found["ended"]) == ("2026-01-02T01:00:00+00:00", "2026-01-02T01:01:30+00:00")
    assert (found["wall_seconds"], found["cpu_seconds"], found["accelerator"]) == (89.5, 80.0, None)
    assert (found["commit"], found["dirty"]) == (None, None)
    for key in (
        "torch",
        "torchvision",
        "timm",
        "avalanche-lib",
        "numpy",
        "reclaim",
        "python",
        "cpu_model",
        "cpu_capability",
    ):
        assert isinstance(found[key], str), key
    assert found["threads"] >= 1
    # in bytes: an interpreter with torch in it takes more than 50 MB and less than a TB
    assert 50e6 < found["peak_memory_bytes"] < 1e12
    assert same_kind_of_machine(found, provenance(start, start, 1.0))


def test_provenance_knows_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def git(*arguments: str) -> str:
        mine = ("user.name=a", "user.email=a@b", "commit.gpgsign=false", "core.hooksPath=/dev/null")
        command = ["git", *(part for setting in mine for part in ("-c", setting)), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "first")
    now = datetime.now(timezone.utc)
    clean = provenance(now, now, 0.0)
    assert (clean["commit"], clean["dirty"]) == (git("rev-parse", "HEAD"), False)
    RecordStore(tmp_path / "leaderboards" / "records").write(make_record())
    assert provenance(now, now, 0.0)["dirty"] is False, "records alone do not make a tree dirty"
    (tmp_path / "changed.py").write_text("")
    assert provenance(now, now, 0.0)["dirty"] is True


@pytest.mark.parametrize("key", ["torch", "cpu_capability", "cpu_model", "threads", "accelerator"])
def test_kinds_of_machine(key: str) -> None:
    assert same_kind_of_machine(MACHINE, dict(MACHINE) | {"platform": "another kernel", "wall_seconds": 3})
    assert not same_kind_of_machine(MACHINE, dict(MACHINE) | {key: "another"})
    without = {k: v for k, v in MACHINE.items() if k != key}
    assert not same_kind_of_machine(without, without)


def edited(edit: Edit, **machine: Any) -> Record:
    result = make_result()
    edit(result)
    return Record(result, MACHINE | machine)


def set_accuracy(t: int, i: int, value: float) -> Edit:
    return lambda result: result["accuracy"][t].__setitem__(i, value)


def test_equal_runs_agree_anywhere() -> None:
    for machine in ({}, {"torch": "2.7.0"}):
        comparison = compare(make_record(), edited(lambda result: None, **machine))
        assert comparison.agree
        assert comparison.exact is (not machine)
        assert (comparison.differing, comparison.largest, comparison.where) == ((), 0.0, None)
        assert "same accuracies" in str(comparison)


def test_the_same_machine_must_give_the_same_bits() -> None:
    # the last bit of one loss
    comparison = compare(
        make_record(), edited(lambda result: result["train_loss"].__setitem__(1, np.nextafter(0.1, 1).item()))
    )
    assert comparison.exact
    assert not comparison.agree
    assert comparison.failures == ("train_loss differs",)


@pytest.mark.parametrize("machine", [{"cpu_capability": "AVX512"}, {"threads": 2}, {"accelerator": "a GPU"}])
def test_another_machine_may_differ_by_half_a_point_and_one_image(machine: dict[str, Any]) -> None:
    # task 0 has four images: 0.5 + 25 points
    near, far = (
        compare(make_record(), edited(set_accuracy(1, 0, value), **machine)) for value in (75 - 25.5, 75 - 25.6)
    )
    assert near.agree
    assert not near.exact
    assert (near.differing, near.largest, near.where) == (("accuracy",), pytest.approx(25.5), "accuracy[1][0]")
    assert not far.agree
    assert "accuracy[1][0]" in far.failures[0]
    assert "25.60 points at accuracy[1][0]" in str(far)


def test_the_task_known_matrix_counts_too() -> None:
    comparison = compare(
        make_record(),
        edited(lambda result: result["accuracy_task_known"][2].__setitem__(2, 100 / 3 + 17.5), cpu_capability="AVX512"),
    )
    assert not comparison.agree
    assert comparison.where == "accuracy_task_known[2][2]"


def test_one_accelerator_is_not_held_to_bits() -> None:
    # the same GPU twice: sums there have no fixed order
    a, b = (edited(set_accuracy(1, 0, value), accelerator="a GPU") for value in (75.0, 76.0))
    assert not compare(a, b).exact
    assert compare(a, b).agree


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_sha256", "1" * 64),
        ("class_order", [0, 1, 2, 3, 4]),
        ("bytes_kept", 8),
        ("test_counts", [4, 4, 6]),
        ("varied", "class_order"),
    ],
)
def test_what_is_not_measured_must_be_equal_anywhere(key: str, value: Any) -> None:
    comparison = compare(make_record(), edited(lambda result: result.__setitem__(key, value), torch="2.7.0"))
    assert comparison.failures == (f"{key} differs",)


@pytest.mark.parametrize(
    "other", [make_record("lora"), make_record(stream="quickdraw-1"), make_record(seed=2), make_record(lr=0.02)]
)
def test_only_runs_of_one_configuration_are_compared(other: Record) -> None:
    with pytest.raises(RecordError, match="one configuration and seed"):
        compare(make_record(), other)


def test_other_processes_that_load_draw_other_crops() -> None:
    loading = {"loading": {"workers": 4, "cache": False}}
    far, other = (
        edited(set_accuracy(1, 0, 0.0), **loading),
        edited(lambda result: result.update(data_sha256="e" * 64), **loading),
    )
    assert compare(make_record(), far).agree
    assert not compare(make_record(), far).exact
    assert "but for the crops" in str(compare(make_record(), far))
    assert compare(make_record(), other).failures == ("data_sha256 differs",)
    alike = edited(lambda result: None, **loading)
    assert compare(alike, edited(lambda result: None, **loading)).exact
    assert not compare(alike, far).agree


def test_a_record_of_another_project_has_numbers_without_our_settings() -> None:
    """The schema asks of ``config`` for ``numerics`` alone, and of ``provenance`` for torch and platform."""
    record = make_record()
    record.result["config"] = {"numerics": 1}
    record.result["config_hash"] = config_hash(record.result["config"])
    validate({"result": record.result, "provenance": {"torch": "2.6.0", "platform": "Linux"}})
    record.result["entropy"] = record.result["train_loss"] = [9.0, 1.0, 9.0, 2.0, 9.0, 3.0]
    assert metric_of(record, "final_entropy") == 2.0
    assert metric_of(record, "last_acc") == record.metrics()["last_acc"]
