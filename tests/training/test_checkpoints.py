"""Checkpoints: whatever ends a run, and whenever, what goes on from there ends with the same bits."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reclaim.benchmark.config import Config, config_hash
from reclaim.benchmark.data.cache import make_cache
from reclaim.benchmark.data.images import ImageData, ImageList
from reclaim.benchmark.data.streams import Stream
from reclaim.benchmark.data.transforms import ImageTransform
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import build, checkpoints, jobs
from reclaim.benchmark.training import run as runner
from reclaim.benchmark.training.checkpoints import Checkpoint
from reclaim.benchmark.training.jobs import Job, run_jobs
from reclaim.benchmark.training.observer import Effort
from reclaim.benchmark.training.run import run
from reclaim.benchmark.training.runtime import HERE, Setup, all_set_aside, previous, unfinished
from small_runs import SMALL, drawings, shrink, small_config, synthetic_record

TESTS = Path(__file__).parents[1]


class Interrupted(Exception):
    """Ends a run in place of a signal."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(checkpoints=tmp_path / "checkpoints", checkpoint_minutes=0)


def file_of(setup: Setup) -> Path:
    assert setup.checkpoints
    (path,) = setup.checkpoints.glob("*.checkpoint")
    return path


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Call it with n: from now on a run ends when it has written its n-th checkpoint, counted anew for each."""
    save = Checkpoint.save

    def after(n: int) -> None:
        def save_and_end(self: Any, strategy: Any) -> None:
            save(self, strategy)
            self.written = getattr(self, "written", 0) + 1
            if self.path and self.written == n:
                raise Interrupted

        monkeypatch.setattr(Checkpoint, "save", save_and_end)

    return after


def finish(make: Callable[[], Record], at_end: Callable[[], Any] = lambda: None) -> tuple[Record, int]:
    """What comes of a run that is started again whenever it is interrupted, and how often that was."""
    for attempt in range(100):
        random.seed(attempt)
        np.random.seed(attempt)
        torch.manual_seed(attempt)
        try:
            return make(), attempt
        except Interrupted:
            at_end()
    raise AssertionError("it does not advance")


@functools.cache
def undisturbed() -> dict[str, Any]:
    """The result of the shortest of all runs."""
    return run("linear", small_config("linear", "epochs=1"), SMALL, 0).result


CASES: dict[str, tuple[str, list[str]]] = {
    "slca": ("slca", []),
    "slca-low-rank": ("slca-low-rank", []),
    "slca-shared": ("slca-shared", []),
    "slca-pp": ("slca-pp", []),
    "olor-previous-epg": ("slca-olor-aepg", ["olor.anchor=previous"]),
    "olor-adam-cosine": ("olor-1", []),
    "l2sp": ("l2sp-1", []),
    "llrd": ("llrd-1", []),
    "wise-ft-alignment": ("wise-ft-1", ["alignment.epochs=1", "alignment.samples_per_class=8"]),
    "weight-average": ("weight-average-1", []),
    "aepg-stream": ("lora-aepg", ["annealing.horizon=stream"]),
    "lae-alignment": ("lae-lora-ce-ca", []),
    "inflora-alignment": ("inflora-ca", []),
    "ewc": ("ewc", []),
    "lwf": ("lwf", []),
    "replay": ("replay", []),
    "gdumb": ("gdumb", []),
    "bic": ("bic", []),
    "der++": ("der++", ["batch_size=5"]),
    "lda": ("lda", []),
    "prompts-vote-shuffled": ("l2p-vote-shuffled", []),
    "aper": ("aper-finetune", []),
    "micro-batches": ("slow-aepg", ["micro_batch=8"]),
    "fp16": ("linear", ["precision=fp16"]),
}


@pytest.mark.trains
@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_ends_with_the_same_bits(case: str, setup: Setup, interrupt: Callable[[int], None]) -> None:
    recipe, settings = CASES[case]
    config = small_config(recipe, *settings)
    whole = run(recipe, config, SMALL, 3)
    image = drawings().train[0, 0].numpy().tobytes()

    def no_image_is_in_it() -> None:
        assert image not in file_of(setup).read_bytes()

    # with two epochs: before the first alignment, within the second experience, after it, and in the third
    interrupt(2)
    again, interruptions = finish(lambda: run(recipe, config, SMALL, 3, setup=setup), no_image_is_in_it)
    assert interruptions == (1 if config.epochs == 0 else 2 if config.train_in == "first" else 4)
    assert json.dumps(again.result) == json.dumps(whole.result)


@pytest.mark.parametrize("cached", [False, True])
def test_photographs_stay_where_they_are(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: Callable[[int], None]
) -> None:
    def images(n: int) -> ImageList:
        labels = np.arange(3 * n) % 3
        return ImageList(
            Path("/nowhere"),
            np.random.RandomState(n).randint(0, 256, (3 * n, 16, 16, 3), np.uint8),
            tuple(labels.tolist()),
        )

    data = ImageData("clrs25", ("a", "b", "c"), images(12), images(4))
    make_cache(data, tmp_path / "cache")
    monkeypatch.setattr(runner, "read_images", lambda *args, **kwargs: data)
    transforms = ImageTransform("pad-random-crop", 16, flip=0.5), ImageTransform("as-is", 16)
    monkeypatch.setattr(runner, "prepared", lambda *args: transforms)
    settings = ["backbone=resnet10t", "images={}", "memory.method=replay", "memory.size=9", "epochs=2", "batch_size=6"]
    config, stream = Config().set(settings), Stream("photographs", (1, 2), "", "paper", "clrs25")
    setup = Setup(root=tmp_path, cache=tmp_path / "cache" if cached else None, checkpoint_minutes=0)
    whole = run("any", config, stream, 0, setup=setup)
    setup = replace(setup, checkpoints=tmp_path / "checkpoints")
    pixels: Any = data.train.images

    def no_image_is_in_it() -> None:
        content = file_of(setup).read_bytes()
        assert not any(image.tobytes() in content for image in pixels)

    interrupt(1)
    again, interruptions = finish(lambda: run("any", config, stream, 0, setup=setup), no_image_is_in_it)
    assert interruptions == 6
    assert json.dumps(again.result) == json.dumps(whole.result)


def test_a_checkpoint_is_as_large_as_what_it_keeps(setup: Setup) -> None:
    config = small_config("lda")
    record = run("lda", config, SMALL, 0, setup=setup)
    model = sum(p.nbytes for p in build.make_backbone(config).parameters()) + 4 * 6 * 129
    assert 0 < file_of(setup).stat().st_size - model - record.result["bytes_kept"] < 300_000  # of JSON


def test_the_digest_of_the_code_sees_every_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "room").mkdir()
    monkeypatch.setattr(checkpoints.resources, "files", lambda package: tmp_path)
    digests = []
    for path in (tmp_path / "top.py", tmp_path / "room" / "module.py"):
        path.write_text("a = 1")
        digests.append(checkpoints._code.__wrapped__())
    assert len(set(digests)) == 2


# --- kill -9 ---

KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path

import pytest
from reclaim.benchmark.training import checkpoints
from reclaim.benchmark.training.run import run
from reclaim.benchmark.training.runtime import HERE, Setup
from small_runs import SMALL, shrink, small_config

shrink(pytest.MonkeyPatch())
checkpoints._code()  # so that an editor beside this test does no harm
chance, total, folder = random.Random(0), int(sys.argv[1]), Path(sys.argv[2])
log = folder / "log"

def start(recipe, setup, output):
    \"\"\"A process of its own that has imported everything; it shares nothing else.\"\"\"
    child = os.fork()
    if child:
        return child
    try:
        load = checkpoints.Checkpoint.load
        def logged(self, fresh):
            strategy = load(self, fresh)
            if strategy is not fresh:
                with log.open("a") as file:
                    file.write(f"{strategy.clock.train_exp_counter}.{strategy.clock.train_exp_epochs}\\n")
            return strategy
        checkpoints.Checkpoint.load = logged
        record = run(recipe, small_config(recipe), SMALL, 0, setup=setup)
        output.with_suffix(".tmp").write_text(json.dumps(record.result))
        os.replace(output.with_suffix(".tmp"), output)
    finally:
        os._exit(not output.exists())

def end(child, moment):
    \"\"\"Kills it when it has had so many seconds of a processor, however busy that is with others.\"\"\"
    while True:
        ended, status, usage = os.wait4(child, os.WNOHANG)
        if ended:
            assert os.WIFSIGNALED(status) or status == 0, status
            return os.WIFSIGNALED(status), usage.ru_utime + usage.ru_stime
        if time.clock_gettime((~child << 3) | 2) >= moment:  # clock_getcpuclockid()
            os.kill(child, signal.SIGKILL)
        time.sleep(0.001)

kills = runs = 0
seconds = {}
while kills < total:
    recipe = ("slca-olor", "lora-aepg", "bic", "slca")[runs % 4]
    runs += 1
    whole, output = folder / recipe, folder / str(runs)
    if recipe not in seconds:
        _, seconds[recipe] = end(start(recipe, HERE, whole), 1e9)
    setup = Setup(checkpoints=folder / "checkpoints" / str(runs), checkpoint_minutes=0)
    while not output.exists():
        moment = chance.uniform(0, seconds[recipe]) if kills < total else 1e9
        killed, _ = end(start(recipe, setup, output), moment)
        kills += killed
    assert output.read_text() == whole.read_text(), recipe
print(json.dumps([kills, runs]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="makes its processes by fork, and reads their clocks")
def test_killed_at_any_moment(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", KILLS, "20", str(tmp_path)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert process.returncode == 0, process.stderr
    kills, runs = json.loads(process.stdout)
    assert kills == 20
    assert "the run starts from the beginning" not in process.stderr
    resumed = (tmp_path / "log").read_text().split()
    # not all from one place: within experiences, and between them
    assert len(resumed) >= 5
    assert len(set(resumed)) >= 3
    assert runs >= 1


# --- what is not this run's checkpoint ---


def spoil(name: str, path: Path) -> None:
    content = path.read_bytes()
    changed = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "without its last byte": content[:-1],
        "longer": content + b"\0",
        "a bit flipped": content[:-99] + bytes([content[-99] ^ 4]) + content[-98:],
        "a bit of the objects flipped": content[:5000] + bytes([content[5000] ^ 4]) + content[5001:],
        "no header": content[:30] + content[40:],
        "another kind of file": b"PK\3\4" + content,
    }
    path.write_bytes(changed[name])


@pytest.fixture
def never_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "decode", lambda *args: pytest.fail("this must not be made objects of"))


@pytest.mark.usefixtures("never_decoded")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty", "was not written by this version of reclaim"),
        ("half", r"is damaged \(its length is wrong\)"),
        ("without its last byte", r"is damaged \(its length is wrong\)"),
        ("longer", r"is damaged \(its length is wrong\)"),
        ("a bit flipped", r"is damaged \(its SHA-256 is wrong\)"),
        ("a bit of the objects flipped", r"is damaged \(its SHA-256 is wrong\)"),
        ("no header", r"cannot be read \(JSONDecodeError"),
        ("another kind of file", "was not written by this version of reclaim"),
    ],
)
def test_a_damaged_checkpoint_is_reported_and_not_used(
    name: str, reason: str, setup: Setup, interrupt: Callable[[int], None]
) -> None:
    config = small_config("linear", "epochs=1")
    interrupt(1)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup)
    path = file_of(setup)
    spoil(name, path)
    spoiled = path.read_bytes()
    interrupt(100)
    with pytest.warns(
        UserWarning, match=rf"the checkpoint {path} {reason}.*: the run starts from the beginning; the file is now "
    ) as caught:
        record = run("linear", config, SMALL, 0, setup=setup)
    assert len(caught) == 1
    assert record.result == undisturbed()
    assert [aside.read_bytes() for aside in all_set_aside(path)] == [spoiled]
    setup.discard_checkpoint(record.recipe, record.stream, record.config_hash, record.seed)
    assert list(path.parent.iterdir()) == []


def test_the_one_before_a_damaged_one_is_used(
    setup: Setup, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("linear", "epochs=1")
    interrupt(4)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup)
    path = file_of(setup)
    spoil("a bit flipped", path)
    interrupt(100)
    begun: list[tuple[int, int]] = []
    load = Checkpoint.load

    def logged(self: Checkpoint, fresh: Any) -> Any:
        strategy = load(self, fresh)
        begun.append((strategy.clock.train_exp_counter, strategy.clock.train_exp_epochs))
        return strategy

    monkeypatch.setattr(Checkpoint, "load", logged)
    with pytest.warns(UserWarning, match="is damaged .*: the one before it is used"):
        record = run("linear", config, SMALL, 0, setup=setup)
    assert begun == [(1, 1)]  # the fourth was after the second experience, the third within it
    assert record.result == undisturbed()
    assert previous(path).exists()
    setup.discard_checkpoint(record.recipe, record.stream, record.config_hash, record.seed)
    assert list(path.parent.iterdir()) == []


def test_killed_between_two_names_the_one_before_is_used(setup: Setup, interrupt: Callable[[int], None]) -> None:
    config = small_config("linear", "epochs=1")
    interrupt(3)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup)
    file_of(setup).unlink()
    interrupt(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run("linear", config, SMALL, 0, setup=setup).result == undisturbed()


def signed(path: Path, change: Callable[[list[Any]], None]) -> None:
    """Change the objects in a checkpoint, with a matching length and SHA-256, as somebody who means harm would."""
    magic, header, rest = path.read_bytes().split(b"\n", 2)
    content = json.loads(header)
    nodes, tensors = json.loads(rest[: content["objects"]]), rest[content["objects"] : -32]
    change(nodes)
    objects = json.dumps(nodes).encode()
    content["objects"] = len(objects)
    whole = b"\n".join((magic, json.dumps(content).encode(), objects + tensors))
    path.write_bytes(whole + hashlib.sha256(whole).digest())


HARM: dict[str, tuple[list[Any], str]] = {
    "a function": (["code", "os:system"], "names os:system"),
    "a call": (["object", "os:system", ["touch harmed"], None, [], []], "names os:system"),
    "a partial call": (["partial", [1], ["touch harmed"], []], "names os:system"),
    "a method": (["method", [0], "subprocess:Popen.__init__"], "names subprocess:Popen.__init__"),
    "a class": (["object", "subprocess:Popen", ["touch harmed"], None, [], []], "names subprocess:Popen"),
    "a class of classes": (["object", "builtins:type", ["a", [0], [0]], None, [], []], "names builtins:type"),
    "eval": (["code", "builtins:eval"], "names builtins:eval"),
    "an unpickler": (["code", "torch.serialization:load"], "names torch.serialization:load"),
    "no kind": (["root"], "an unknown kind of node: 'root'"),
    "memory that is not there": (["tensor", 0, "float32", 0, [2**40], [1], False, []], "beyond its memory"),
    "memory before its own": (["tensor", 0, "float32", -9, [2], [1], False, []], "beyond its memory"),
    "what is no dtype": (["tensor", 0, "load", 0, [1], [1], False, []], "torch.load is no kind of number"),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_checkpoint_runs_no_code(
    harm: str, setup: Setup, interrupt: Callable[[int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("linear", "epochs=1")
    interrupt(1)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup)
    node, reason = HARM[harm]

    def change(nodes: list[Any]) -> None:
        nodes.append(node)
        nodes[0][1].append([len(nodes) - 1])
        if harm == "a partial call":
            nodes[-1][1] = [len(nodes)]
            nodes.append(["code", "os:system"])

    signed(file_of(setup), change)
    monkeypatch.chdir(tmp_path)
    interrupt(100)
    with pytest.warns(UserWarning, match=f"cannot be read .*{re.escape(reason)}"):
        assert run("linear", config, SMALL, 0, setup=setup).result == undisturbed()
    assert not (tmp_path / "harmed").exists()


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


def test_a_pickle_is_no_checkpoint(setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config("linear", "epochs=1")
    path = setup.checkpoint_of("linear", SMALL.name, config_hash(config.as_dict()), 0)
    assert path
    path.parent.mkdir()
    monkeypatch.chdir(tmp_path)
    for name in (path, previous(path)):
        name.write_bytes(pickle.dumps(Harmful()))
    with pytest.warns(UserWarning, match="was not written by this version of reclaim") as caught:
        assert run("linear", config, SMALL, 0, setup=setup).result == undisturbed()
    assert [str(w.message).partition(": ")[2].partition(";")[0] for w in caught] == [
        "the one before it is used, if there is one",
        "the run starts from the beginning",
    ]
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),  # torch's
    ],
    ids=repr,
)
def test_a_checkpoint_that_cannot_be_read_now_stays(
    error: Exception, setup: Setup, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("linear", "epochs=1")
    interrupt(2)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup)
    content = file_of(setup).read_bytes()
    interrupt(100)

    def fail(*args: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "_read", fail)
        with pytest.raises(type(error)):
            run("linear", config, SMALL, 0, setup=setup)
    assert file_of(setup).read_bytes() == content
    assert run("linear", config, SMALL, 0, setup=setup).result == undisturbed()


@pytest.mark.parametrize("key", ["torch", "code", "cpu_model", "data", "weights", "workers"])
def test_a_checkpoint_of_another_run_is_not_used(
    key: str, setup: Setup, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config("linear", "epochs=1")
    interrupt(1)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup)
    interrupt(100)
    monkeypatch.setattr(checkpoints, "decode", lambda *args: pytest.fail("this must not be made objects of"))
    init = Checkpoint.__init__

    def elsewhere(self: Checkpoint, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if self._run:
            self._run[key] = "9"

    monkeypatch.setattr(Checkpoint, "__init__", elsewhere)
    with pytest.warns(
        UserWarning, match=rf"belongs to another run \({key} was .* and is '9'\): the run starts from the beginning"
    ):
        record = run("linear", config, SMALL, 0, setup=setup)
    assert record.result == undisturbed()


def test_all_checkpoints_of_another_run_are_kept(
    setup: Setup, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be good where they were made: what cannot be used here is not lost, nor what came before it."""
    config = small_config("linear", "epochs=1")
    interrupt(2)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup)
    path = file_of(setup)
    made = {path.read_bytes(), previous(path).read_bytes()}
    assert len(made) == 2
    interrupt(1)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(checkpoints, "_code", lambda: "of another version")
        with pytest.warns(UserWarning, match="belongs to another run"), pytest.raises(Interrupted):
            run("linear", config, SMALL, 0, setup=setup)
    assert {aside.read_bytes() for aside in all_set_aside(path)} == made
    interrupt(100)
    with pytest.warns(UserWarning, match="belongs to another run"):
        record = run("linear", config, SMALL, 0, setup=setup)
    assert record.result == undisturbed()
    assert len(all_set_aside(path)) == 3
    assert made < {aside.read_bytes() for aside in all_set_aside(path)}


def test_each_run_has_its_own(setup: Setup) -> None:
    assert setup.checkpoints
    made = [("linear", "lr=0.5", 0), ("linear", "lr=0.5", 1), ("linear", "lr=0.6", 0), ("other", "lr=0.5", 0)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, setting, seed in made:
            run(name, small_config("linear", "epochs=1", setting), SMALL, seed, setup=setup)
    assert len(list(setup.checkpoints.glob("*.checkpoint"))) == 4
    assert setup.checkpoint_of("linear", "small", "0" * 12, 0) not in setup.checkpoints.iterdir()


# --- when it is written, and what may go wrong then ---


def test_epochs_wait_for_their_time_and_experiences_do_not(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[tuple[int, int]] = []
    monkeypatch.setattr(
        Checkpoint,
        "save",
        lambda self, strategy: saved.append((strategy.clock.train_exp_counter, strategy.clock.train_exp_epochs)),
    )
    config = small_config("linear", "epochs=2")
    run("linear", config, SMALL, 0, setup=setup)
    assert saved == [(0, 1), (0, 2), (1, 2), (1, 1), (1, 2), (2, 2), (2, 1), (2, 2), (3, 2)]
    saved.clear()
    run("linear", config, SMALL, 0, setup=Setup(checkpoints=setup.checkpoints))
    assert saved == [(1, 2), (2, 2), (3, 2)]


def test_nothing_is_written_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("linear", small_config("linear"), SMALL, 0, setup=Setup(checkpoint_minutes=0))
    assert list(tmp_path.iterdir()) == []
    assert HERE.checkpoints is None


def test_what_a_killed_write_left_is_overwritten(setup: Setup, interrupt: Callable[[int], None]) -> None:
    config = small_config("linear", "epochs=1")
    interrupt(1)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup)
    rest = unfinished(file_of(setup))
    rest.write_bytes(b"half of a checkpoint")
    record, _ = finish(lambda: run("linear", config, SMALL, 0, setup=setup))
    assert record.result == undisturbed()
    assert not rest.exists()


def test_an_unwritable_folder_is_a_warning(setup: Setup) -> None:
    assert setup.checkpoints
    setup.checkpoints.write_text("a file")
    config = small_config("linear", "epochs=1")
    with pytest.warns(UserWarning, match=r"cannot write the checkpoint .*: the run continues without it"):
        record = run("linear", config, SMALL, 0, setup=setup)
    assert record.result == undisturbed()


def test_a_full_disk_is_a_warning_and_is_not_filled(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        run("linear", small_config("linear", "epochs=1"), SMALL, 0, setup=setup)
    assert setup.checkpoints
    assert list(setup.checkpoints.iterdir()) == []


def test_progress_and_time_count_what_was_done_before(setup: Setup, interrupt: Callable[[int], None]) -> None:
    config = small_config("linear", "epochs=1")
    calls: list[tuple[int, int]] = []
    interrupt(4)
    with pytest.raises(Interrupted):
        run("linear", config, SMALL, 0, setup=setup, progress=lambda *call: calls.append(call))
    before = len(calls)
    assert calls == [(done, 3) for done in range(1, before + 1)]
    run("linear", config, SMALL, 0, setup=setup, progress=lambda *call: calls.append(call))
    assert 0 < before < 3
    assert calls[before:] == [(done, 3) for done in range(before, 4)]  # what was done before is told at once

    effort = Effort()
    effort._zero = effort._zero[0] - 100, effort._zero[1] - 50
    later = pickle.loads(pickle.dumps(effort))
    assert later.started == effort.started
    assert later.wall_seconds == pytest.approx(100, abs=10)
    assert later.cpu_seconds == pytest.approx(50, abs=10)


def test_a_compiled_backbone_is_compiled_again(
    setup: Setup, interrupt: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr(runner, "compile_backbone", compiled.append)
    interrupt(2)
    _, interruptions = finish(
        lambda: run("linear", small_config("linear", "epochs=1", "compile=true"), SMALL, 0, setup=setup)
    )
    assert len(compiled) == interruptions + 1
    assert all(
        any(p is q for q in model.parameters()) for model in compiled for p in model.heads.heads[:1].parameters()
    )


# --- tensors ---


def test_tensors_keep_layout_and_what_they_share(tmp_path: Path, setup: Setup) -> None:
    class Benchmark:
        streams: dict[str, Any] = {}  # noqa: RUF012

    whole = torch.arange(24.0)
    picture = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    parameter = torch.nn.Parameter(torch.randn(3))
    state = {
        "whole": whole,
        "part": whole[4:12].view(2, 4).T,
        "picture": picture,
        "empty": torch.empty(0, 5),
        "half": torch.randn(3).bfloat16(),
        "leaf": torch.ones(2, requires_grad=True),
        "parameter": parameter,
        "keyed": {parameter: torch.ones(1)},
    }

    class Strategy(dict):  # type: ignore[type-arg]
        def _make_empty_loss(self) -> None: ...

    globals()["Strategy"] = Strategy
    Strategy.__qualname__ = "Strategy"
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", {}, Benchmark())
    fresh = Strategy()
    assert checkpoint.load(fresh) is fresh
    checkpoint.save(Strategy(state))
    found: Any = checkpoint.load(fresh)
    assert found is not fresh
    for key, tensor in state.items():
        if isinstance(tensor, torch.Tensor):
            assert torch.equal(found[key], tensor)
            for attribute in ("dtype", "requires_grad"):
                assert getattr(found[key], attribute) == getattr(tensor, attribute)
            assert found[key].stride() == tensor.stride()
            assert type(found[key]) is type(tensor)
            assert found[key].data_ptr() % 64 == 0 or key == "part"
    found["part"][0, 0] = -1
    assert found["whole"][4] == -1
    assert whole[4] == 4
    assert found["parameter"] in found["keyed"]


# --- many runs ---


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "records")


def test_checkpoints_lie_beside_the_records_until_these_are_written(
    store: RecordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Job("linear", small_config("linear"), SMALL, 0, "given")
    folder = store.root.parent / "records.checkpoints"
    seen: list[Path] = []
    error: list[BaseException] = []

    def make(job: Job, advance: Callable[[jobs.Tick], Any]) -> Record:
        path = job.setup.checkpoint_of(*job.place)
        assert path
        assert path.parent == job.setup.checkpoints
        path.parent.mkdir(exist_ok=True)
        for file in (path, unfinished(path)):
            file.write_text("")
        seen.append(path)
        if error:
            raise error[0]
        return synthetic_record(job.recipe, job.stream.name, job.seed, config=job.config)

    monkeypatch.setattr(jobs, "_make", make)
    error[:] = [KeyboardInterrupt()]
    with pytest.raises(KeyboardInterrupt):
        run_jobs([job], store, 1)
    assert {path.suffix for path in folder.iterdir()} == {".checkpoint", ".unfinished"}  # to go on from
    error[:] = [OSError("a disk went away")]
    with pytest.raises(RuntimeError, match="a disk went away"):
        run_jobs([job], store, 1)
    assert len(list(folder.iterdir())) == 2
    error[:] = [FloatingPointError("diverged")]
    with pytest.raises(RuntimeError, match="diverged"):
        run_jobs([job], store, 1)
    assert list(folder.iterdir()) == []

    error.clear()
    write = store.write
    monkeypatch.setattr(store, "write", lambda record: (seen[-1].stat(), write(record)))  # still there
    run_jobs([job], store, 1)
    assert list(folder.iterdir()) == []
    assert store.get(*job.place)
    # killed between the record and its removal
    seen[-1].write_text("")
    run_jobs([job], store, 1)
    assert list(folder.iterdir()) == []
    # a folder of one's own
    own = Job("linear", job.config, SMALL, 1, "given", Setup(checkpoints=store.root.parent / "own"))
    run_jobs([own], store, 1)
    assert seen[-1].parent.name == "own"
    assert not seen[-1].exists()


def test_without_a_store_there_are_no_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(job: Job, advance: Callable[[jobs.Tick], Any]) -> Record:
        assert job.setup.checkpoints is None
        return synthetic_record(job.recipe, job.stream.name, job.seed, config=job.config)

    monkeypatch.setattr(jobs, "_make", make)
    run_jobs([Job("linear", small_config("linear"), SMALL, 0, "given")], None, 1)
