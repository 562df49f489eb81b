"""Rehearsals: a cell's run at its real shapes, short, marked, counted by no check; and what is projected from it."""

from __future__ import annotations

import gc
import re
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from reclaim.benchmark.cli import main
from reclaim.benchmark.config import Alignment, Config, Images
from reclaim.benchmark.data.images import hold_out
from reclaim.benchmark.data.streams import Stream, find_stream
from reclaim.benchmark.data.verify import read_images
from reclaim.benchmark.papers.protocols import find_cell
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import build, rehearsal
from reclaim.benchmark.training.jobs import Job, _stands_for
from reclaim.benchmark.training.rehearsal import (
    PAIRS,
    STEP_IMAGES,
    STEPS,
    Stopwatch,
    UnknownTimeError,
    batch_seconds,
    project,
    shortened,
)
from reclaim.benchmark.training.runtime import Setup
from reclaim.benchmark.verdicts.counting import current
from reclaim.strategies.heads import ContinualModel

CELL = "aepg/table-3/resnet50-alpha-0.5/cifar10-1"


class Tiny(torch.nn.Module):
    """Instead of a ResNet-50, which takes seconds."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 8, stride=8)
        self.norm = torch.nn.LayerNorm(4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.norm(self.convolution(images).mean((2, 3)))
        return features


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Backbones that were made: name, weights and side of the images."""
    found: list[Any] = []

    def create(name: str, weights: Any = None, img_size: int | None = None) -> Tiny:
        found.append((name, weights, img_size))
        return Tiny()

    monkeypatch.setattr(build, "create_backbone", create)
    return found


def test_a_cell_is_rehearsed_to_a_record_that_no_check_counts(tmp_path: Path, asked: list[Any]) -> None:
    arguments = [
        "rehearse",
        CELL,
        "slca/main/seqft+sl/split-cifar100-10",
        "--jobs",
        "1",
        "--root",
        str(tmp_path / "data"),
    ]
    result = CliRunner().invoke(main, [*arguments, "--records", str(tmp_path / "records")])
    assert result.exit_code == 0, result.output
    assert "2 of 2 rehearsed" in result.output
    assert asked == [  # random weights
        ("resnet50_cifar", None, 32),
        ("vit_base_patch16_224.augreg_in21k", None, 224),
    ]
    records, problems = RecordStore(tmp_path / "records").load()
    assert not problems
    for record, tasks in zip(records, (1, 10), strict=True):
        assert record.result["rehearsal"] is True
        assert len(record.result["accuracy"]) == tasks
        *ones, last = record.result["test_counts"]
        part = STEP_IMAGES // 4
        assert (ones, last) == ([1] * (tasks - 1), STEPS // 2 * (STEP_IMAGES + part))
        for key in ("steps", "later_steps", "tests"):
            timings = record.provenance["rehearsal"][key]
            assert [images for images, _ in timings] == [STEP_IMAGES, part] * PAIRS
            assert all(seconds > 0 for _, seconds in timings)
    whole = [
        replace(record, result={**record.result, "config": find_cell(CELL)[0].config.as_dict()}) for record in records
    ]
    assert current(records) == current(whole) == []


def test_of_all_one_run_of_each_kind_is_timed(
    tmp_path: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("seqft+sl/split-cifar100-10", "seqft+sl/split-cub200-10", "slca/split-cifar100-10", "slca/split-cub200-10")
    runs = [find_cell(f"slca/main/{name}") for name in names]
    monkeypatch.setattr("reclaim.benchmark.cli.covered_runs", lambda: runs)
    records = str(tmp_path / "records")
    arguments = ["rehearse", "all", "--jobs", "1", "--root", str(tmp_path / "data"), "--records", records]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "4 of 4 rehearsed, 2 of them timed, one of each kind; no check counts their records" in result.output
    rows = {(row[0], row[1]): row for row in (re.split(r"  +", line) for line in result.output.splitlines()) if row[1:]}
    for recipe, stream, _ in runs:
        (record,) = (
            found
            for found in RecordStore(tmp_path / "records").load()[0]
            if (found.recipe, found.stream) == (recipe.name, stream.name)
        )
        timed = stream.name == "split-cifar100-10"
        assert ("steps" in record.provenance["rehearsal"]) == timed
        assert rows[recipe.name, stream.name][3].endswith(" h") or "not known" in rows[recipe.name, stream.name][3]
        if recipe.config.alignment and not timed:
            assert record.result["config"]["alignment"]["epochs"] == 1
    # after an interruption the others are made, and the table is of all
    store = RecordStore(tmp_path / "records")
    written = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.json")}
    lost = next(path for path in written if "slca.main.slca/" in path.as_posix())
    lost.unlink()
    again = CliRunner().invoke(main, [*arguments, "--missing"])
    assert "4 of 4 rehearsed, 2 of them timed" in again.output
    assert [p for p in written if p.stat().st_mtime_ns != written[p]] == [lost]


def test_what_is_shortened_is_the_batch(tmp_path: Path) -> None:
    recipe, stream, _ = find_cell("slca/main/slca/split-cifar100-10")
    config, setup = shortened(recipe.config, stream, tmp_path, Setup(threads=2))
    assert config == replace(recipe.config, batch_size=STEP_IMAGES, drop_last=True)
    assert setup == Setup(threads=2, root=tmp_path / "1-a-class", rehearsal=True)
    assert (tmp_path / "1-a-class" / "cifar-100-python" / "SYNTHETIC.txt").is_file()


def test_bic_has_images_to_hold_out_and_one_to_train_on(tmp_path: Path) -> None:
    recipe, stream, _ = find_cell("slca/main/bic/split-cifar100-10")
    _, setup = shortened(recipe.config, stream, tmp_path, Setup())
    data = read_images(stream.dataset, setup.root or tmp_path, verify=False)
    memory = recipe.config.memory
    assert memory is not None
    assert len(data.train) / stream.n_classes > memory.held_out * memory.size / stream.sizes[0]


def on_a_line(fixed: float, per_image: float) -> list[tuple[int, float]]:
    return [(images, fixed + per_image * images) for images in (8, 2)] * PAIRS


MEASURED = {
    "steps": on_a_line(0.0, 0.5),
    "later_steps": on_a_line(0.0, 0.25),
    "tests": on_a_line(0.0, 0.1),
    "load_seconds": 0.01,
    "closing_seconds": 7.0,
    "activation_bytes_per_image": 100.0,
    "fixed_bytes": 1000,
}


def seconds_of(measured: dict[str, Any], config: Config, stream: Stream, workers: int = 0) -> float:
    """Of the projection of measurements without a spread."""
    projected = project(measured, config, stream, workers)
    assert projected.seconds, projected.unknown
    least, most = projected.seconds
    assert least == pytest.approx(most)
    return least


def test_the_projection_is_the_real_lengths_times_what_was_measured() -> None:
    stream = find_stream("split-cifar100-10")
    config = Config(epochs=20, batch_size=128, images=Images("slca"))
    tests = sum(1000 * (t + 1) for t in range(10))
    # the first experience at its own rate, the others at that of the second
    trained = 20 * (5_000 * 0.5 + 45_000 * 0.25)
    seconds = trained + 20 * 50_000 * 0.01 + tests * 0.11 + 7.0
    assert seconds_of(MEASURED, config, stream) == pytest.approx(seconds)
    assert project(MEASURED, config, stream).bytes == pytest.approx(1000 + 100 * 128)
    aligned = replace(config, alignment=Alignment())
    assert seconds_of(MEASURED, aligned, stream) == pytest.approx(seconds + 50_000 * 0.11)
    micro = replace(config, micro_batch=16)  # one more forward pass
    assert seconds_of(MEASURED, micro, stream) == pytest.approx(seconds + 20 * 50_000 * 0.1)
    assert project(MEASURED, micro, stream).bytes == pytest.approx(1000 + 100 * 16)
    held = replace(config, images=Images("olor", hold_out=True), epochs=1)
    assert seconds_of(MEASURED, held, find_stream("cifar100-1")) == pytest.approx(45_000 * 0.51 + 10_000 * 0.11 + 7.0)
    # one experience, which is tested once
    assert seconds_of(MEASURED, replace(config, joint=True), stream) == pytest.approx(
        20 * 50_000 * 0.51 + 10_000 * 0.11 + 7.0
    )


def test_the_projection_of_modules_that_are_frozen_at_first() -> None:
    """The steps of a later experience train no module:
    so do 30 of its 50 epochs, the others cost what the first experience's do.
    """
    config, stream = find_cell("aepg/table-2/lora-ce/split-cub200-10")[0].config, find_stream("split-cifar100-10")
    expected = 5_000 * 50 * 0.5 + 45_000 * (30 * 0.25 + 20 * 0.5)
    measured = MEASURED | {"load_seconds": 0.0, "tests": on_a_line(0.0, 1e-9)}
    assert seconds_of(measured, config, stream) == pytest.approx(expected + 7.0)


def test_workers_load_while_the_run_computes() -> None:
    config, stream = Config(epochs=20, images=Images("slca")), find_stream("cifar100-1")
    alone, two, many = (
        seconds_of(MEASURED | {"load_seconds": 4.0}, config, stream, workers) for workers in (0, 2, 1000)
    )
    assert alone == pytest.approx(20 * 50_000 * 4.5 + 10_000 * 4.1 + 7.0)
    assert two == pytest.approx(20 * 50_000 * 2.0 + 10_000 * 2.0 + 7.0)
    assert many == pytest.approx(20 * 50_000 * 0.5 + 10_000 * 0.1 + 7.0)


def test_what_a_step_costs_whatever_its_size_is_paid_once_a_step() -> None:
    """3 s for the optimizer and 0.5 s an image: not 7 s / 8 for each of 128 images, which is almost twice as much."""
    assert batch_seconds(on_a_line(3.0, 0.5), 128) == pytest.approx((67.0, 67.0))
    config, stream = Config(epochs=20, batch_size=128, images=Images("slca")), find_stream("cifar100-1")
    measured = MEASURED | {key: on_a_line(3.0, 0.5) for key in ("steps", "later_steps", "tests")}
    expected = (20 * 50_000 + 10_000) * (67 / 128 + 0.01) + 7.0
    assert seconds_of(measured, config, stream) == pytest.approx(expected)


def test_the_range_is_that_of_the_lines_through_neighbouring_steps() -> None:
    timings = [(8, 5.0), (2, 2.0), (8, 5.6), (2, 2.0), (8, 5.6), (2, 2.6)]
    assert batch_seconds(timings, 8) == pytest.approx((5.0, 5.6))  # of this size: nothing to extrapolate
    assert batch_seconds(timings, 14) == pytest.approx((8.0, 9.2))
    config, stream = Config(epochs=1, batch_size=14, images=Images("slca")), find_stream("cifar100-1")
    measured = MEASURED | {"steps": timings, "load_seconds": 0.0, "tests": on_a_line(0.0, 0.1)}
    projected = project(measured, config, stream)
    rest = 10_000 * 0.1 + 7.0
    assert projected.seconds == pytest.approx((50_000 * 8.0 / 14 + rest, 50_000 * 9.2 / 14 + rest))
    assert str(projected) == "8.2 to 9.4 h"
    assert str(project(MEASURED, config, stream)) == "7.4 h"


@pytest.mark.parametrize(
    ("timings", "images", "why"),
    [
        ([(8, 5.0), (2, 2.0), (8, 15.5), (2, 2.0)], 128, "8 images took 5 s and 16 s, 3.1 times as long"),
        ([(8, 5.0), (2, 0.5), (8, 5.0), (2, 2.0)], 8, "2 images took 0.5 s and 2 s, 4.0 times as long"),
        ([(8, 2.0), (2, 1.5), (8, 1.5), (2, 2.0)], 128, "8 images took 1.5 s, 2 took 2 s: no line leads"),
        ([(1, 2.0), (1, 2.0)], 128, "1 images took 2 s, 1 took 2 s: no line leads from these to 128"),
    ],
    ids=["noisy", "noisy, small", "negative slope", "one size"],
)
@pytest.mark.parametrize("key", ["steps", "later_steps", "tests"])
def test_where_the_time_cannot_be_known_the_projection_says_so(
    key: str, timings: list[tuple[int, float]], images: int, why: str
) -> None:
    with pytest.raises(UnknownTimeError, match=re.escape(why)):
        batch_seconds(timings, images)
    config = Config(epochs=20, batch_size=images, images=Images("slca"))
    projected = project(MEASURED | {key: timings}, config, find_stream("cifar100-1"))
    assert projected.seconds is None
    assert str(projected).startswith(f"not known: {why}")
    assert projected.bytes == pytest.approx(1000 + 100 * images)  # memory is known


def test_a_batch_as_large_as_the_real_one_needs_no_line() -> None:
    """An accelerator may need the same time for a part of a batch."""
    assert batch_seconds([(128, 0.5), (32, 0.5), (128, 0.6), (32, 0.6)], 128) == (0.5, 0.6)


class Clock:
    """Stands in for the module ``time``."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Strategy:
    """What a stopwatch looks at."""

    eval_mb_size = 8
    plugins = ()
    stopped = False

    def __init__(self) -> None:
        self.model = torch.nn.Linear(4, 3)
        self.optimizer = torch.optim.SGD(self.model.parameters(), 0.1)

    @property
    def mb_x(self) -> torch.Tensor:
        return self.mbatch[0]

    def stop_training(self) -> None:
        self.stopped = True

    def batch(self) -> None:
        self.mbatch = [torch.rand(8, 4), torch.zeros(8, dtype=torch.long)]


def test_a_stopwatch_that_does_not_time_ends_each_experience_after_a_step() -> None:
    strategy, stopwatch = Strategy(), Stopwatch(3, timed=False)
    for _ in range(3):
        strategy.stopped = False
        stopwatch.before_training_exp(strategy)
        stopwatch.before_training_epoch(strategy)
        strategy.batch()
        stopwatch.before_training_iteration(strategy)
        stopwatch.after_training_iteration(strategy)
        assert strategy.stopped
    assert stopwatch.as_dict().keys() == {"activation_bytes_per_image", "fixed_bytes"}


def test_a_stopwatch_times_steps_of_two_sizes_without_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(rehearsal, "time", clock)
    strategy, stopwatch = Strategy(), Stopwatch(3)
    for t in range(3):
        strategy.stopped, step = False, 0
        stopwatch.before_training_exp(strategy)
        while not strategy.stopped:
            stopwatch.before_training_epoch(strategy)
            clock.now += 100.0  # loading
            strategy.batch()
            stopwatch.before_training_iteration(strategy)
            slow = 50.0 if step < 2 else 0.0  # the first of each size
            clock.now += 3.0 + t + 0.5 * len(strategy.mb_x) + slow
            stopwatch.after_training_iteration(strategy)
            assert {len(part) for part in strategy.mbatch} == {len(strategy.mb_x)}
            step += 1
        assert step == (STEPS if t < 2 else 1)
    stopwatch._last_test = True
    for step in range(STEPS):
        strategy.batch()
        stopwatch.before_eval_iteration(strategy)
        clock.now += 1.0 + 0.1 * len(strategy.mb_x) + (9.0 if step < 2 else 0.0)
        stopwatch.after_eval_iteration(strategy)
    found = stopwatch.as_dict()
    for key, line in (
        ("steps", on_a_line(3.0, 0.5)),
        ("later_steps", on_a_line(4.0, 0.5)),
        ("tests", on_a_line(1.0, 0.1)),
    ):
        assert [n for n, _ in found[key]] == [n for n, _ in line]
        assert [seconds for _, seconds in found[key]] == pytest.approx([seconds for _, seconds in line])
    assert found["load_seconds"] == pytest.approx(100.0 / 8)
    assert batch_seconds(found["steps"], 128) == pytest.approx((67.0, 67.0))


def test_all_timed_steps_train_the_same_weights(tmp_path: Path) -> None:
    """Also where modules wait for one epoch: an epoch then has as many batches as steps are timed."""
    recipe, stream, _ = find_cell("aepg/table-2/lora-ce/split-cub200-10")
    short = recipe.config.set(["lora.frozen_epochs=1"])
    _, setup = shortened(short, stream, tmp_path, Setup())
    data = read_images(stream.dataset, setup.root or tmp_path, verify=False)
    assert len(data.train) * min(stream.sizes) / stream.n_classes >= STEPS * STEP_IMAGES


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_the_memory_of_a_batch_is_that_of_a_batch(autocast: torch.dtype | None) -> None:
    """What two images keep, times 64, is what 128 keep:
    but for what does not grow, such as the copies of weights in lower precision.
    """
    model = ContinualModel(timm.create_model("test_vit", img_size=32, num_classes=0), autocast=autocast)
    model.heads.add_head(range(3))
    found = {}
    for n in (2, 64):
        stopwatch = Stopwatch(1)
        stopwatch._measure_activations(model, torch.rand(n, 3, 32, 32))
        (images, whole), (part, half) = stopwatch.activation_bytes.items()
        assert (images, part) == (n, n // 2)
        per_image = (whole - half) / (images - part)
        found[n] = whole - per_image * images, per_image
    assert found[2][1] == pytest.approx(found[64][1], rel=0.02)
    assert found[2][0] + 64 * found[2][1] == pytest.approx(found[64][0] + 64 * found[64][1], rel=0.02)


def test_what_was_measured_is_let_go() -> None:
    model = ContinualModel(timm.create_model("test_vit", img_size=32, num_classes=0))
    model.heads.add_head(range(3))
    weights = [weakref.ref(p) for p in model.parameters()]
    Stopwatch(1)._measure_activations(model, torch.rand(2, 3, 32, 32))
    del model
    gc.collect()
    assert [weight for weight in weights if weight() is not None] == []


def test_on_an_accelerator_a_step_is_a_whole_batch_and_there_are_images_for_it(tmp_path: Path) -> None:
    slca, stream, _ = find_cell("slca/main/slca/split-cifar100-10")
    config, _ = shortened(slca.config, stream, tmp_path, Setup("cuda"))
    assert config.batch_size == slca.config.batch_size
    config, _ = shortened(replace(slca.config, micro_batch=32), stream, tmp_path, Setup("cuda", workers=4))
    assert (config.batch_size, config.micro_batch) == (32, None)
    olor, stream, _ = find_cell("olor/grid/olor/svhn-1/vit_base_patch16_224.augreg_in21k")
    _, setup = shortened(olor.config, stream, tmp_path, Setup("cuda", workers=4))
    assert setup.workers == 0
    train, _ = hold_out(read_images("svhn", setup.root or tmp_path, verify=False))
    assert (
        len(train[1]) >= olor.config.batch_size
    )  # without the last, incomplete batch, and without the fold that is held out


def test_a_rehearsal_stands_for_no_run_and_replaces_none(tmp_path: Path, asked: list[Any]) -> None:
    arguments = ["--records", str(tmp_path / "records"), "--root", str(tmp_path / "data")]
    assert CliRunner().invoke(main, ["rehearse", CELL, *arguments, "--jobs", "1"]).exit_code == 0
    (record,), _ = RecordStore(tmp_path / "records").load()
    recipe, stream, _ = find_cell(CELL)
    config, setup = shortened(recipe.config, stream, tmp_path / "data", Setup())
    job = Job(recipe.name, config, stream, 0, "paper", setup)
    assert _stands_for(job, record)
    assert not _stands_for(replace(job, setup=Setup()), record)
    real = replace(record, result={key: value for key, value in record.result.items() if key != "rehearsal"})
    RecordStore(tmp_path / "records").write(real)
    result = CliRunner().invoke(main, ["rehearse", CELL, *arguments, "--jobs", "1"])
    assert result.exit_code != 0
    assert "is already recorded: a rehearsal would replace it" in result.output
    assert RecordStore(tmp_path / "records").load()[0][0].result == real.result


@pytest.mark.parametrize("option", [["--seeds", "3"], ["--again"], ["--weights", "file.npz"], ["--unverified"]])
def test_a_rehearsal_has_no_option_of_a_real_run(option: list[str]) -> None:
    result = CliRunner().invoke(main, ["rehearse", CELL, *option])
    assert result.exit_code == 2
    assert "No such option" in result.output


def test_a_rehearsal_needs_a_cell() -> None:
    for names, complaint in (
        ([], "Missing argument"),
        (["slca/main/sca"], "did you mean"),
        (["olor/grid/vpt/svhn-1/convnext_base.clip_laion2b_augreg_ft_in12k_in1k"], "cannot be run"),
    ):
        result = CliRunner().invoke(main, ["rehearse", *names])
        assert result.exit_code != 0
        assert complaint in result.output
