"""Rehearsals: a cell's run at its real shapes, short, marked, counted by no check; and what is projected from it."""

from __future__ import annotations

import gc
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
from reclaim.benchmark.data.streams import find_stream
from reclaim.benchmark.data.verify import read_images
from reclaim.benchmark.papers.protocols import find_cell
from reclaim.benchmark.records.store import RecordStore
from reclaim.benchmark.training import build
from reclaim.benchmark.training.jobs import Job, _stands_for
from reclaim.benchmark.training.rehearsal import STEP_IMAGES, Stopwatch, project, shortened
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
    """Backbones that were made: name and weights."""
    found: list[Any] = []
    monkeypatch.setattr(build, "create_backbone", lambda name, weights=None: found.append((name, weights)) or Tiny())  # type: ignore[func-returns-value]
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
    assert asked == [("resnet50_cifar", None), ("vit_base_patch16_224.augreg_in21k", None)]  # random weights
    records, problems = RecordStore(tmp_path / "records").load()
    assert not problems
    for record, tasks in zip(records, (1, 10), strict=True):
        assert record.result["rehearsal"] is True
        assert len(record.result["accuracy"]) == tasks
        assert record.result["test_counts"] == [1] * tasks
        assert len(record.result["train_loss"]) == tasks  # an epoch each, of a step or two
        assert record.provenance["rehearsal"]["step_images"] == STEP_IMAGES
    whole = [
        replace(record, result={**record.result, "config": find_cell(CELL)[0].config.as_dict()}) for record in records
    ]
    assert current(records) == current(whole) == []


def test_what_is_shortened_is_the_batch_alone(tmp_path: Path) -> None:
    recipe, stream, _ = find_cell("slca/main/slca/split-cifar100-10")
    config, setup = shortened(recipe.config, stream, tmp_path, Setup(threads=2))
    assert config == replace(recipe.config, batch_size=STEP_IMAGES)
    assert setup == Setup(threads=2, root=tmp_path / "2-a-class", rehearsal=True)
    assert (tmp_path / "2-a-class" / "cifar-100-python" / "SYNTHETIC.txt").is_file()


MEASURED = {
    "step_seconds": 2.0,
    "later_step_seconds": 1.0,
    "step_images": 4,
    "load_seconds": 0.01,
    "test_image_seconds": 0.1,
    "closing_seconds": 7.0,
    "activation_bytes_per_image": 100.0,
    "fixed_bytes": 1000,
}


def test_the_projection_is_the_real_lengths_times_what_was_measured() -> None:
    stream = find_stream("split-cifar100-10")
    config = Config(epochs=20, batch_size=128, images=Images("slca"))
    tests = sum(1000 * (t + 1) for t in range(10))
    # the first experience at the rate of its own second step, the others at theirs
    trained = 20 * (5_000 * 0.5 + 45_000 * 0.25)
    seconds = trained + 20 * 50_000 * 0.01 + tests * 0.11 + 7.0
    assert project(MEASURED, config, stream) == (pytest.approx(seconds), pytest.approx(1000 + 100 * 128))
    aligned = replace(config, alignment=Alignment(), micro_batch=16)
    assert project(MEASURED, aligned, stream) == (
        pytest.approx(seconds + 50_000 * 0.11),
        pytest.approx(1000 + 100 * 16),
    )
    held = replace(config, images=Images("olor", hold_out=True), epochs=1)
    assert project(MEASURED, held, find_stream("cifar100-1"))[0] == pytest.approx(45_000 * 0.51 + 10_000 * 0.11 + 7.0)
    # one experience, which is tested once
    assert project(MEASURED, replace(config, joint=True), stream)[0] == pytest.approx(
        20 * 50_000 * 0.51 + 10_000 * 0.11 + 7.0
    )


def test_the_projection_of_modules_that_are_frozen_at_first() -> None:
    """The first step of a later experience trains no module:
    so do 30 of its 50 epochs, the others cost what the first experience's do.
    """
    config, stream = find_cell("aepg/table-2/lora-ce/split-cub200-10")[0].config, find_stream("split-cifar100-10")
    expected = 5_000 * 50 * 0.5 + 45_000 * (30 * 0.25 + 20 * 0.5)
    assert project(MEASURED | {"load_seconds": 0.0, "test_image_seconds": 0.0}, config, stream)[0] == pytest.approx(
        expected + 7.0
    )


def test_workers_load_while_the_run_computes() -> None:
    config, stream = Config(epochs=20, images=Images("slca")), find_stream("cifar100-1")
    alone, two, many = (
        project(MEASURED | {"load_seconds": 4.0}, config, stream, workers)[0] for workers in (0, 2, 1000)
    )
    assert alone == pytest.approx(20 * 50_000 * 4.5 + 10_000 * 4.1 + 7.0)
    assert two == pytest.approx(20 * 50_000 * 2.0 + 10_000 * 2.0 + 7.0)
    assert many == pytest.approx(20 * 50_000 * 0.5 + 10_000 * 0.1 + 7.0)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_the_memory_of_a_batch_is_that_of_a_batch(autocast: torch.dtype | None) -> None:
    """What two images keep, times 64, is what 128 keep:
    but for what does not grow, such as the copies of weights in lower precision.
    """
    model = ContinualModel(timm.create_model("test_vit", img_size=32, num_classes=0), autocast=autocast)
    model.heads.add_head(range(3))
    found = {}
    for n in (2, 64):
        stopwatch = Stopwatch()
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
    Stopwatch()._measure_activations(model, torch.rand(2, 3, 32, 32))
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
        (["slca/main/l2p/split-cub200-10"], "cannot be run"),
    ):
        result = CliRunner().invoke(main, ["rehearse", *names])
        assert result.exit_code != 0
        assert complaint in result.output
