"""Runs with code from outside: what it may not do, where it fails, and that the other runs go on."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reclaim.benchmark.config import Component
from reclaim.benchmark.records.record import Record
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import isolation
from reclaim.benchmark.training import jobs as engines
from reclaim.benchmark.training.components import ComponentError, LeftRunningError, call, component_of, load
from reclaim.benchmark.training.isolation import isolated
from reclaim.benchmark.training.jobs import Job, log_of, run_jobs, try_jobs
from reclaim.benchmark.training.own import recipe_of
from small_runs import SETTINGS, SMALL, make_small, make_small_isolated, small_config

METHOD = '''
import os
import random
import threading

import numpy
import torch
from avalanche.training.plugins import SupervisedPlugin
from avalanche.training.supervised import Naive
from torch import manual_seed


class Neutral(SupervisedPlugin):
    """Does nothing."""


class Loss:
    """Cross-entropy of the experience's classes, in three lines."""

    def __call__(self, logits, targets):
        return torch.nn.functional.cross_entropy(logits, targets)


def returns_none(**given):
    return None


class Named(SupervisedPlugin):
    """Does what it is told, in the experience of that number."""

    def __init__(self, what, at=0):
        super().__init__()
        self.what, self.at = what, at

    def before_training_exp(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == self.at:
            globals()[self.what]()


def fail():
    raise KeyError("in the third experience")


def seed():
    torch.manual_seed(0)


def seed_by_name():
    manual_seed(0)


def seed_numpy():
    numpy.random.seed(0)


def seed_python():
    random.seed(0)


def change_dtype():
    torch.set_default_dtype(torch.float64)


def change_threads():
    torch.set_num_threads(7)


def seed_in_a_fork():
    with torch.random.fork_rng():
        torch.manual_seed(0)


def draw_of_its_own():
    torch.rand(3, generator=torch.Generator().manual_seed(0))
    numpy.random.default_rng(0).normal()
    random.Random(0).random()


def leave_a_thread():
    threading.Thread(target=wait_for_ever, name="left").start()


def wait_for_ever():
    threading.Event().wait()


def end_the_process():
    os._exit(3)


def exit_python():
    raise SystemExit(1)


class Strange(Exception):
    def __str__(self):
        raise ValueError("no text")


def fail_strangely():
    raise Strange


class NoTensor:
    def __call__(self, logits, targets):
        return 5


def print_much():
    for _ in range(30):
        print("x" * 100_000)


class Unpicklable(SupervisedPlugin):
    def __init__(self):
        super().__init__()
        self.function = lambda: 1


class Strategy(Naive):
    def __init__(self, *, remark="", **kwargs):
        super().__init__(**kwargs)
        self.remark = remark

    def training_epoch(self, **kwargs):
        super().training_epoch(**kwargs)
'''


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The module ``outside`` in a folder on the path, for this process and those that it starts."""
    folder = tmp_path_factory.mktemp("code")
    (folder / "outside.py").write_text(METHOD)
    sys.path.insert(0, str(folder))
    yield folder / "outside.py"
    sys.path.remove(str(folder))
    sys.modules.pop("outside", None)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecordStore:
    monkeypatch.setattr(engines, "_make", make_small)
    monkeypatch.setattr(engines, "_make_isolated", make_small_isolated)
    return RecordStore(tmp_path / "records")


def line_of(module: Path, text: str) -> int:
    return next(n for n, line in enumerate(module.read_text().splitlines(), 1) if text in line)


def job(name: str, seed: int = 0, base: str = "linear", **parts: Any) -> Job:
    recipe = recipe_of({"name": name, "base": base, **parts})
    return Job(name, recipe.config.set(SETTINGS), SMALL, seed, "given")


def told(what: str, at: int = 0) -> dict[str, Any]:
    return {"plugins": [{"path": "outside:Named", "arguments": {"what": what, "at": at}}]}


# --- in one process ---


def in_isolation(action: Callable[[], Any], tmp_path: Path | None = None) -> None:
    with isolated([component_of("outside:fail")], tmp_path and tmp_path / "log"):
        action()


def function(name: str) -> Any:
    return load(component_of(f"outside:{name}"))


@pytest.mark.parametrize(
    ("name", "called", "remedy"),
    [
        ("seed", "torch.manual_seed()", "torch.Generator()"),
        ("seed_numpy", "numpy.random.seed()", "numpy.random.default_rng"),
        ("seed_python", "random.seed()", "random.Random"),
        ("change_dtype", "torch.set_default_dtype()", "pass it where you make a tensor"),
        ("change_threads", "torch.set_num_threads()", "must not depend on the number of cores"),
    ],
)
def test_what_belongs_to_the_run_is_refused_with_file_and_line(
    name: str, called: str, remedy: str, module: Path
) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_default_dtype(), torch.get_num_threads()
    with pytest.raises(ComponentError) as caught:
        in_isolation(function(name))
    line = line_of(module, f"    {called.removesuffix('()')}(")
    assert f"{called} is called in {module}, line {line}: " in str(caught.value)
    assert remedy in str(caught.value)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert (torch.get_default_dtype(), torch.get_num_threads()) == before[2:]


def test_generators_of_its_own_and_forks_are_fine() -> None:
    in_isolation(function("draw_of_its_own"))
    in_isolation(function("seed_in_a_fork"))


def test_this_project_may_seed_also_below_code_from_outside() -> None:
    """The run reseeds in hooks, which a strategy from outside calls."""
    from reclaim.benchmark.training.build import Reseeding

    reseed = Reseeding(3)
    with isolated([component_of("outside:fail")], None):
        exec("reseed._reseed(strategy, 0)", {"__name__": "outside", "reseed": reseed, "strategy": _Clocked()})
    assert torch.initial_seed() == int(np.random.SeedSequence((3, 0, 0)).generate_state(1)[0])


class _Clocked:
    class clock:
        train_exp_counter = 0


def test_functions_are_themselves_again_afterwards() -> None:
    originals = [getattr(place, name) for place, name, _ in isolation.FORBIDDEN]
    with pytest.raises(ComponentError):
        in_isolation(function("seed"))
    assert [getattr(place, name) for place, name, _ in isolation.FORBIDDEN] == originals
    function("seed_by_name")()  # outside a run it may do as it likes, under whatever name it imported the function


def test_an_error_names_file_and_line(module: Path) -> None:
    with pytest.raises(ComponentError) as caught:
        in_isolation(function("fail"))
    line = line_of(module, 'KeyError("in the third')
    assert str(caught.value) == f"outside:fail: KeyError: 'in the third experience' ({module}, line {line}, in fail)"


@pytest.mark.parametrize(
    ("name", "said"), [("exit_python", "SystemExit: 1"), ("fail_strangely", "Strange: (its text cannot be had)")]
)
def test_every_way_to_fail_is_an_error_with_a_line(name: str, said: str, module: Path) -> None:
    with pytest.raises(ComponentError) as caught:
        in_isolation(function(name))
    assert said in str(caught.value)
    assert f"{module}, line" in str(caught.value)


def test_what_fails_outside_its_lines_names_it() -> None:
    with pytest.raises(ComponentError, match=r"AttributeError: .*no line of outside:fail took part: look at what it"):
        in_isolation(lambda: (5).backward())  # type: ignore[attr-defined]


def test_an_error_of_megabytes_is_cut() -> None:
    def shout() -> None:
        exec(compile("raise ValueError('x' * 5_000_000)", function("fail").__code__.co_filename, "exec"))

    with pytest.raises(ComponentError) as caught:
        in_isolation(shout)
    assert "5,000,000 characters" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_an_error_of_ours_stays_what_it_is() -> None:
    def diverge() -> None:
        raise FloatingPointError("the loss became nan")

    with pytest.raises(FloatingPointError):
        in_isolation(diverge)
    with pytest.raises(ValueError, match="not theirs"):
        in_isolation(lambda: (_ for _ in ()).throw(ValueError("not theirs")))


def test_standard_output_is_for_results_whoever_prints() -> None:
    code = "import os; from reclaim.benchmark.training.jobs import _as_worker as w; w(); os.write(1, b'as C code does')"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert (shown.stdout, shown.stderr) == ("", "as C code does")


def test_what_is_printed_goes_into_a_file_up_to_a_megabyte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    in_isolation(function("print_much"), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        in_isolation(lambda: warnings.warn("a checkpoint cannot be written", stacklevel=1))
    written = (tmp_path / "log").read_text()
    assert isolation.PRINTED <= len(written) < isolation.PRINTED + 100
    assert written.endswith("the rest is not kept\n")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "a checkpoint cannot be written" in shown.err


def test_threads_that_are_left_are_named(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "GRACE", 0.1)
    ends = []
    monkeypatch.setattr(isolation.util, "Finalize", lambda *args, **kwargs: ends.append(args))
    done = threading.Event()
    leave = threading.Thread(target=done.wait, name="left")
    try:
        with pytest.raises(LeftRunningError, match=r"left running after the run: thread left.*: end them"):
            in_isolation(leave.start)
        assert ends  # the process does not wait for them
    finally:
        done.set()
    monkeypatch.setattr(isolation, "GRACE", 60)
    in_isolation(lambda: threading.Thread(target=lambda: None).start())  # one that ends is fine


def test_processes_that_are_left_are_ended(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its end the run's process, and so the command, would wait for them for ever."""
    monkeypatch.setattr(isolation, "GRACE", 0.1)
    monkeypatch.setattr(isolation.util, "Finalize", lambda *args, **kwargs: None)
    left = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,), name="left")
    with pytest.raises(LeftRunningError, match=r"left running after the run: process left.*: end them"):
        in_isolation(left.start)
    left.join(60)
    assert left.exitcode


@pytest.mark.parametrize(
    ("kind", "path", "complaint"),
    [
        (
            "strategy",
            "outside:returns_none",
            "strategy outside:returns_none returned None .*, not an Avalanche strategy",
        ),
        ("plugin", "outside:returns_none", "not an Avalanche plugin.*outside.py, line"),
        ("optimizer", "outside:returns_none", "does not fit returns_none"),
        ("backbone", "outside:returns_none", "not a torch.nn.Module"),
        ("loss", "outside:returns_none", "not something that is called|called with logits and targets"),
    ],
)
def test_what_a_component_returns_is_looked_at(kind: Any, path: str, complaint: str) -> None:
    named = dict.fromkeys(("model", "optimizer")) if kind == "strategy" else {}
    positional = [[]] if kind == "optimizer" else []
    with pytest.raises(ComponentError, match=complaint):
        call(kind, component_of(path), *positional, **named)


def test_other_source_than_was_named_is_refused() -> None:
    with pytest.raises(ComponentError, match="the source of outside:fail is another than when this run was named"):
        load(Component("outside:fail", {}, "0" * 64))


# --- runs ---


def same_result(a: Record, b: Record) -> None:
    ours = {"recipe", "config", "config_hash"}
    assert {k: v for k, v in a.result.items() if k not in ours} == {k: v for k, v in b.result.items() if k not in ours}


@pytest.mark.trains
def test_a_part_that_does_nothing_changes_no_bit(store: RecordStore) -> None:
    """A neutral plugin and a strategy that adds nothing give the run of the recipe that they start from; a loss and
    an optimizer from outside that are ours, too.
    """
    base = Job("linear", small_config("linear"), SMALL, 0, "given")
    jobs = [
        base,
        job("neutral", plugins=["outside:Neutral"]),
        job("strategy", strategy={"path": "outside:Strategy", "arguments": {"remark": "none"}}),
        job("loss", loss="reclaim.strategies:TaskCrossEntropy"),
        job("optimizer", optimizer={"path": "torch.optim:SGD", "arguments": {"momentum": 0.9}}),
    ]
    plain, *others = run_jobs(jobs, store, 2)
    for record in others:
        same_result(plain, record)
        assert record.external
        assert RecordStore(store.root).get(record.recipe, SMALL.name, record.config_hash, 0) == record


@pytest.mark.trains
def test_a_failing_component_stops_no_other_run(store: RecordStore, module: Path) -> None:
    """In the third experience, or with its whole process: the others are recorded, and the store is whole."""
    jobs = [
        job("fails", **told("fail", at=2)),
        Job("linear", small_config("linear"), SMALL, 0, "given"),
        job("ends", **told("end_the_process")),
        job("seeds", **told("seed", at=1)),
        job("leaves", **told("leave_a_thread")),
        job("prints", **told("print_much")),
        job("exits", **told("exit_python")),
        job("returns", loss="outside:NoTensor"),
        job("fine", plugins=["outside:Neutral"]),
    ]
    known, failures = try_jobs(jobs, store, 2, quiet=True)
    assert {j.recipe for j in known} == {"linear", "prints", "fine"}
    said = {j.recipe: str(error) for j, error in failures.items()}
    assert f"{module}, line {line_of(module, 'in the third experience')}, in fail" in said["fails"]
    assert "its process ended at once: killed for want of memory, or ended by the code of outside:Named" in said["ends"]
    assert f"is called in {module}, line {line_of(module, 'torch.manual_seed(0)')}" in said["seeds"]
    assert "left running after the run: thread left" in said["leaves"]
    assert "SystemExit" in said["exits"]
    assert "outside:NoTensor" in said["returns"]
    records, problems = store.load()
    assert (len(records), problems) == (3, [])
    logs = list(store.root.parent.glob("records.checkpoints/prints*.log"))
    assert [path.stat().st_size > 2**20 for path in logs] == [True]
    # what left threads is not taken up where it had ended, which would hide them
    assert not list(store.root.parent.glob("records.checkpoints/leaves*.checkpoint"))


@pytest.mark.trains
def test_a_method_that_cannot_be_pickled_runs_without_checkpoints(store: RecordStore) -> None:
    (record,) = run_jobs([job("unpicklable", plugins=["outside:Unpicklable"])], store, 1)
    assert record.external == ("outside:Unpicklable",)
    assert not list(store.root.parent.glob("records.checkpoints/*.checkpoint"))


@pytest.mark.trains
def test_a_run_goes_on_from_its_checkpoint(store: RecordStore, tmp_path: Path) -> None:
    """Interrupted in the second experience, and finished by the same command: the bits of a run in one go."""
    flag = tmp_path / "go-on"
    part = {"path": "outside_too:Stops", "arguments": {"flag": str(flag)}}
    folder = Path(sys.modules["outside"].__file__ or "").parent
    (folder / "outside_too.py").write_text(
        "import pathlib\nfrom avalanche.training.plugins import SupervisedPlugin\n\n\n"
        "class Stops(SupervisedPlugin):\n    def __init__(self, flag):\n        super().__init__()\n"
        "        self.flag = flag\n\n    def before_training_exp(self, strategy, **kwargs):\n"
        "        if strategy.clock.train_exp_counter == 1 and not pathlib.Path(self.flag).exists():\n"
        "            raise ConnectionError('gone')\n"
    )
    stopping = job("stops", plugins=[part])
    _, failures = try_jobs([stopping], store, 1, quiet=True)
    assert "outside_too.py, line 12" in str(failures[stopping])
    checkpoint = next(store.root.parent.glob("records.checkpoints/stops*.checkpoint"))
    flag.touch()
    (resumed,) = run_jobs([stopping], store, 1, quiet=True)
    assert not checkpoint.exists()
    (whole,) = run_jobs([stopping], RecordStore(tmp_path / "other"), 1, quiet=True)
    assert resumed.result == whole.result


def test_the_log_lies_beside_the_checkpoint(store: RecordStore) -> None:
    named = job("neutral", plugins=["outside:Neutral"])
    assert log_of(named) is None
    placed = engines.with_checkpoints(named, store)
    path = log_of(placed)
    assert path is not None
    assert path.parent == placed.setup.checkpoints
